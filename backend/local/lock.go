package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

const lockFile = ".lock"

// exists says whether there is a folder: without one there are no backends.
func (p *Provisioner) exists() bool {
	_, err := os.Stat(p.dir)
	return !errors.Is(err, fs.ErrNotExist)
}

// lock makes the folder, and waits until no other Provisioner changes it.
func (p *Provisioner) lock(ctx context.Context) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return nil, err
	}
	l := flock.New(filepath.Join(p.dir, lockFile), flock.SetPermissions(0o600))
	if _, err := l.TryLockContext(ctx, 20*time.Millisecond); err != nil {
		return nil, fmt.Errorf("lock the local backends in %s: %w", p.dir, err)
	}
	return func() { _ = l.Close() }, nil // closing the file is what unlocks
}
