package demo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
)

// target is a file system that files are written to and read from: a mount, or
// the tree itself. It is safe for concurrent use.
type target interface {
	mkdir(ctx context.Context, dir string) error // with parents
	write(ctx context.Context, name string, r io.Reader) error
	read(ctx context.Context, name string, w io.Writer) error
}

// mounted is a target below a folder.
type mounted string

func (m mounted) mkdir(_ context.Context, dir string) error {
	return os.MkdirAll(filepath.Join(string(m), dir), 0o755)
}

func (m mounted) write(_ context.Context, name string, r io.Reader) error {
	f, err := os.OpenFile(filepath.Join(string(m), name), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{r}, make([]byte, blockSize))
	return errors.Join(err, f.Close())
}

func (m mounted) read(_ context.Context, name string, w io.Writer) error {
	f, err := os.Open(filepath.Join(string(m), name))
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{f}, make([]byte, blockSize))
	return err
}

// blockSize is how much is written or read at a time.
const blockSize = 1 << 20

// inTree is a target without a mount.
type inTree struct {
	tree *tree.Tree

	mu   sync.Mutex
	dirs map[string]uint64 // inode numbers of folders that were made
}

func newInTree(t *tree.Tree) *inTree {
	return &inTree{tree: t, dirs: map[string]uint64{".": tree.Root}}
}

func (t *inTree) mkdir(ctx context.Context, dir string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, err := t.mkdirLocked(ctx, path.Clean(dir))
	return err
}

func (t *inTree) mkdirLocked(ctx context.Context, dir string) (uint64, error) {
	if ino, ok := t.dirs[dir]; ok {
		return ino, nil
	}
	parent, err := t.mkdirLocked(ctx, path.Dir(dir))
	if err != nil {
		return 0, err
	}
	a, err := t.tree.Mkdir(ctx, parent, path.Base(dir), tree.NewNode{Mode: 0o755})
	if errors.Is(err, syscall.EEXIST) {
		a, err = t.tree.Lookup(ctx, parent, path.Base(dir))
	}
	if err != nil {
		return 0, err
	}
	t.dirs[dir] = a.Ino
	return a.Ino, nil
}

func (t *inTree) write(ctx context.Context, name string, r io.Reader) error {
	t.mu.Lock()
	parent, err := t.mkdirLocked(ctx, path.Dir(path.Clean(name)))
	t.mu.Unlock()
	if err != nil {
		return err
	}
	a, err := t.tree.Create(ctx, parent, path.Base(name), tree.NewNode{Mode: 0o644})
	if err != nil {
		return err
	}
	defer t.tree.Release(a.Ino)
	buf := make([]byte, blockSize)
	for off := int64(0); ; {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if _, err := t.tree.WriteAt(ctx, a.Ino, buf[:n], off); err != nil {
				return err
			}
			off += int64(n)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (t *inTree) read(ctx context.Context, name string, w io.Writer) error {
	var a tree.Attr
	ino := tree.Root
	for _, part := range strings.Split(path.Clean(name), "/") {
		var err error
		if a, err = t.tree.Lookup(ctx, ino, part); err != nil {
			return err
		}
		ino = a.Ino
	}
	buf := make([]byte, blockSize)
	for off := int64(0); off < a.Size; {
		n, err := t.tree.ReadAt(ctx, ino, buf, off)
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

// all runs f for each of n things, a few at a time, until one fails.
func all(ctx context.Context, workers, n int, f func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var working sync.WaitGroup
	for range workers {
		working.Go(func() {
			for i := range next {
				if err := f(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := 0; i < n && ctx.Err() == nil; i++ {
		next <- i
	}
	close(next)
	working.Wait()
	return context.Cause(ctx)
}

// equal says whether what a target holds hashes to sum.
func equal(ctx context.Context, t target, s sum) (bool, error) {
	h := newHash()
	err := t.read(ctx, s.Path, h)
	return bytes.Equal(h.Sum(nil), s.SHA256), err
}
