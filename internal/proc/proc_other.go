//go:build !linux

// Package proc tells a process from a later one that got the same id; only
// on Linux it really can.
package proc

import (
	"os"
	"strconv"
	"syscall"
	"time"
)

// Started is the id itself where the process runs: when it began is not known
// here.
func Started(pid int) string {
	p, err := os.FindProcess(pid)
	if pid < 1 || err != nil || p.Signal(syscall.Signal(0)) != nil {
		return ""
	}
	return strconv.Itoa(pid)
}

// Is says whether pid runs.
func Is(pid int, started string) bool {
	return pid > 1 && started != "" && Started(pid) == started
}

// Began is not known here.
func Began(int) time.Time { return time.Time{} }
