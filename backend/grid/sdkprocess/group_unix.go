//go:build unix

package sdkprocess

import "syscall"

// ownGroup keeps a terminal's Ctrl-C from the child: the parent tells it what to end,
// so that it can give back what it just made.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
