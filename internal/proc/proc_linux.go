// Package proc tells a process from a later one that got the same id.
package proc

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Started gives the start time of a process: clock ticks since boot, field 22
// of /proc/PID/stat. It is empty for one that has ended. A leader that is a
// zombie has ended only when its last thread has: until then that thread may
// hold ports and locks.
func Started(pid int) string {
	if pid < 1 {
		return ""
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	end := bytes.LastIndexByte(stat, ')') // the name before it may hold anything
	if end < 0 {
		return ""
	}
	fields := bytes.Fields(stat[end+1:]) // from field 3, the state
	if len(fields) < 20 {
		return ""
	}
	if state := fields[0][0]; state == 'Z' || state == 'X' {
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil || len(threads) <= 1 {
			return ""
		}
	}
	return string(fields[19])
}

// Is says whether pid is the very process that began at started.
func Is(pid int, started string) bool {
	return pid > 1 && started != "" && Started(pid) == started
}

// ticks is how many of the clock ticks of /proc are in a second, on every
// architecture that Go runs on.
const ticks = 100

// Began is when a process began; zero for one that has ended.
func Began(pid int) time.Time {
	n, err := strconv.ParseInt(Started(pid), 10, 64)
	var up unix.Timespec
	if err != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &up) != nil {
		return time.Time{}
	}
	return time.Now().Add(time.Duration(n)*(time.Second/ticks) - time.Duration(up.Nano())).Round(0)
}
