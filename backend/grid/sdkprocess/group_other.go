//go:build !unix

package sdkprocess

import "syscall"

func ownGroup() *syscall.SysProcAttr { return nil }
