package qsfs

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/threefoldtech/quantumd/qsfs/epoch"
)

// PathError says that a folder or file of the system cannot be used.
type PathError struct {
	Path string
	Err  error
}

func (e *PathError) Error() string {
	err := e.Err
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err // it would name the path a second time
	}
	return fmt.Sprintf("cannot use %s: %v", e.Path, err)
}

func (e *PathError) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *PathError) Hint() string {
	switch {
	case errors.Is(e.Err, fs.ErrPermission):
		return "run as root, or name a folder of your own with --dir"
	case errors.Is(e.Err, syscall.ENOSPC):
		return "free some space on that disk"
	case errors.Is(e.Err, syscall.ENOTDIR), errors.Is(e.Err, fs.ErrExist):
		return "remove what is in the way, or name another folder with --dir"
	}
	return "check the folder, or name another one with --dir"
}

// InUseError says that another process uses the system's folders.
type InUseError struct{ Path string }

func (e *InUseError) Error() string { return fmt.Sprintf("%s is in use by another quantumd", e.Path) }

// Hint names the remedy.
func (e *InUseError) Hint() string {
	return "it already runs: see `quantumd status`; `quantumd stop` or Ctrl-C in its terminal ends it"
}

// What package epoch says, for callers that know this package alone.
var (
	// ErrFenced says that another frontend has taken over: this one may read its
	// local files, and nothing else.
	ErrFenced = epoch.ErrFenced
	// ErrWrongKey says that what is on the backends was sealed with another key.
	ErrWrongKey = epoch.ErrWrongKey
)

type (
	// HeldError says that another frontend runs, or ran a moment ago.
	HeldError = epoch.HeldError
	// NeedsRestoreError says that the backends hold the data of another frontend,
	// and this one is empty.
	NeedsRestoreError = epoch.NeedsRestoreError
	// QuorumError says that too few metadata backends answered to be sure.
	QuorumError = epoch.QuorumError
)
