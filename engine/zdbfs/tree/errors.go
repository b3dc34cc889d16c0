package tree

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/threefoldtech/quantumd/backend"
)

// Errors of Open.
var (
	// ErrForeign says that the records hold something that is no zdbfs.
	ErrForeign = errors.New("tree: the records are not those of a zdbfs")
	// ErrClosed says that the tree was closed.
	ErrClosed = errors.New("tree: closed")
)

// recordError is a fault of the records under an operation, with the errno
// that the application sees.
type recordError struct {
	what  string
	id    uint64
	errno syscall.Errno
	err   error
}

func (e *recordError) Error() string {
	return fmt.Sprintf("tree: %s %d: %v: %v", e.what, e.id, e.errno, e.err)
}

func (e *recordError) Unwrap() []error { return []error{e.errno, e.err} }

// fault wraps an error of the records: no space is ENOSPC, an interrupt EINTR,
// everything else EIO. Never ENOENT: what is named must be there.
func fault(what string, id uint64, err error) error {
	if err == nil {
		return nil
	}
	var re *recordError
	if errors.As(err, &re) {
		return err
	}
	errno := syscall.EIO
	switch {
	case errors.Is(err, backend.ErrFull):
		errno = syscall.ENOSPC
	case errors.Is(err, backend.ErrLocked):
		errno = syscall.EROFS
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		errno = syscall.EINTR
	}
	return &recordError{what, id, errno, err}
}

// interrupted is what an operation answers whose context ended.
func interrupted(ctx context.Context) error {
	return fmt.Errorf("tree: %w: %w", syscall.EINTR, context.Cause(ctx))
}

// Errno gives the errno that err stands for: EIO where it says nothing.
func Errno(err error) syscall.Errno {
	var errno syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &errno):
		return errno
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return syscall.EINTR
	}
	return syscall.EIO
}
