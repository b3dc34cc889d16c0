package child

import (
	"bytes"
	"fmt"
	"os"
)

// startOf tells a process from a later one with the same id: its start time in
// clock ticks since boot, field 22 of /proc/PID/stat. It is empty for one that
// is gone or is only waiting to be reaped.
func startOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	end := bytes.LastIndexByte(b, ')') // the name before it may hold anything
	if end < 0 {
		return ""
	}
	fields := bytes.Fields(b[end+1:]) // from field 3, the state
	if len(fields) < 20 || fields[0][0] == 'Z' || fields[0][0] == 'X' {
		return ""
	}
	return string(fields[19])
}

func isProcess(pid int, started string) bool {
	return pid > 1 && started != "" && startOf(pid) == started
}
