//go:build !linux

package demo

import "syscall"

func ownSession() *syscall.SysProcAttr { return nil }
