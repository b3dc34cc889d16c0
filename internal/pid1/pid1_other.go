//go:build !linux

// Package pid1 lets a program be process 1 of a container; only on Linux.
package pid1

import "errors"

// Is says whether this is process 1.
func Is() bool { return false }

// Run is there on Linux only.
func Run() (code int, err error) { return 0, errors.ErrUnsupported }
