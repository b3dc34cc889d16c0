//go:build linux

package main

import (
	"net"
	"syscall"
	"unsafe"
)

func ioctl(fd uintptr, request uintptr, value *uint64) error {
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(value)))
	if errno != 0 {
		return errno
	}
	return nil
}

func dialUnix(path string) (net.Conn, error) { return net.Dial("unix", path) }
