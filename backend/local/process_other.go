//go:build !linux

package local

import (
	"os"
	"strconv"
	"syscall"
)

func detached() *syscall.SysProcAttr { return nil }

func terminate(p *os.Process) error { return p.Signal(os.Interrupt) }

// startTime cannot be told apart here: the pid alone decides.
func startTime(pid int) (string, error) {
	p, err := os.FindProcess(pid)
	if err != nil {
		return "", err
	}
	if err := p.Signal(syscall.Signal(0)); err != nil {
		return "", err
	}
	return strconv.Itoa(pid), nil
}
