//go:build !linux

package local

import (
	"os"
	"syscall"
)

func detached() *syscall.SysProcAttr { return nil }

func terminate(p *os.Process) error { return p.Signal(os.Interrupt) }
