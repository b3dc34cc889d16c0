package demo

import "syscall"

// ownSession keeps a Ctrl-C at the terminal from the children: the demo ends
// them in order. They end with it when it is killed.
func ownSession() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
}
