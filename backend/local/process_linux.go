package local

import (
	"os"
	"syscall"
)

// detached gives a child a session of its own: a Ctrl-C at the terminal does
// not reach it.
func detached() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }
