package mount

import (
	"context"
	"syscall"

	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
)

// Mounted is a tree that the kernel shows.
type Mounted struct {
	Path string
}

// Mount shows t at o.Path until Unmount.
func Mount(ctx context.Context, t *tree.Tree, o Options) (*Mounted, error) {
	return nil, syscall.ENOSYS
}

// Unmount takes the tree away from the kernel: it retries while files are
// open, and detaches lazily when ctx ends.
func (m *Mounted) Unmount(ctx context.Context) error { return syscall.ENOSYS }

// Wait returns when the tree is not mounted any more, whoever unmounted it.
func (m *Mounted) Wait() {}

// Probe tells by a trial mount in a temporary folder whether FUSE is usable.
func Probe(ctx context.Context) error { return syscall.ENOSYS }

// CleanDead detaches a dead mount from path ("Transport endpoint is not
// connected"). Anything else there is left alone, without an error.
func CleanDead(path string) error { return syscall.ENOSYS }
