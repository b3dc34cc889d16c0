//go:build !linux

package mount

import (
	"context"
	"fmt"
	"runtime"

	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
)

// Mounted is a tree that the kernel shows.
type Mounted struct {
	Path string
}

var errOS = fmt.Errorf("%w: mounting is for Linux, this is %s", ErrUnsupported, runtime.GOOS)

// Mount always fails here.
func Mount(context.Context, *tree.Tree, Options) (*Mounted, error) { return nil, errOS }

// Unmount always fails here.
func (m *Mounted) Unmount(context.Context) error { return errOS }

// Wait returns at once.
func (m *Mounted) Wait() {}

// Done is closed.
func (m *Mounted) Done() <-chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}

// Probe always fails here.
func Probe(context.Context) error { return errOS }

// CleanDead always fails here.
func CleanDead(string) error { return errOS }

// CheckMountpoint fails: there is nothing to mount with.
func CheckMountpoint(string) error { return errOS }

// Protect always fails here.
func Protect(string) (bool, error) { return false, errOS }

// Unprotect always fails here.
func Unprotect(string) error { return errOS }
