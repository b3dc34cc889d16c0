package tree_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
	"github.com/threefoldtech/quantumd/engine/zdbfs/treetest"
)

func quiet(o *tree.Options) { o.Logger = slog.New(slog.NewTextHandler(io.Discard, nil)) }

var errBroken = errors.New("broken")

func failing(call string) func(context.Context, treetest.Op) error {
	return func(_ context.Context, op treetest.Op) error {
		if op.Call == call {
			return errBroken
		}
		return nil
	}
}

// TestUnreadableRecords: what can not be read is EIO; it is never absent, and
// comes back.
func TestUnreadableRecords(t *testing.T) {
	t.Parallel()
	d := newDisk()
	tr := d.open(t)
	ctx := t.Context()
	dir, err := tr.Mkdir(ctx, tree.Root, "dir", tree.NewNode{Mode: 0o755})
	require.NoError(t, err)
	for i := range 50 {
		create(t, tr, dir.Ino, fmt.Sprint("file", i), []byte("x"))
	}
	require.NoError(t, tr.Close(ctx))
	tr = d.open(t, quiet)
	d.meta.SetFail(failing("get"))
	_, err = tr.Lookup(ctx, tree.Root, "dir")
	require.ErrorIs(t, err, syscall.EIO)
	require.ErrorIs(t, err, errBroken)
	_, err = tr.ReadDir(ctx, tree.Root)
	require.ErrorIs(t, err, syscall.EIO)
	_, err = tr.Mknod(ctx, tree.Root, "new", tree.NewNode{})
	require.ErrorIs(t, err, syscall.EIO)
	require.ErrorIs(t, tr.Rmdir(ctx, tree.Root, "dir"), syscall.EIO)
	d.meta.SetFail(nil)
	entries, err := tr.ReadDir(ctx, dir.Ino)
	require.NoError(t, err)
	require.Len(t, entries, 50)
	d.data.SetFail(failing("get"))
	a, err := tr.Lookup(ctx, dir.Ino, "file7")
	require.NoError(t, err)
	_, err = tr.ReadAt(ctx, a.Ino, make([]byte, 1), 0)
	require.ErrorIs(t, err, syscall.EIO)
	_, err = tr.WriteAt(ctx, a.Ino, []byte("y"), 1)
	require.ErrorIs(t, err, syscall.EIO)
	_, err = tr.WriteAt(ctx, a.Ino, []byte("xy"), 0)
	require.NoError(t, err, "a block that is written from its start to its end need not be read")
	d.data.SetFail(nil)
	require.Equal(t, "xy", string(content(t, tr, a.Ino)))
}

// TestMissingRecords: a bucket or an inode that a name leads to is a fault when
// it is not there.
func TestMissingRecords(t *testing.T) {
	t.Parallel()
	d := newDisk()
	tr := d.open(t)
	ctx := t.Context()
	ino := create(t, tr, tree.Root, "file", []byte("x"))
	sub, err := tr.Mkdir(ctx, tree.Root, "sub", tree.NewNode{Mode: 0o755})
	require.NoError(t, err)
	create(t, tr, sub.Ino, "a", nil)
	require.NoError(t, tr.Close(ctx))

	inode, err := d.meta.Get(ctx, sub.Ino)
	require.NoError(t, err)
	slot := 44 + 8*('a'%128)
	require.NoError(t, d.meta.Delete(ctx, uint64(inode[slot])|uint64(inode[slot+1])<<8))
	require.NoError(t, d.meta.Delete(ctx, ino))
	tr = d.open(t, quiet)
	_, err = tr.ReadDir(ctx, sub.Ino)
	require.ErrorIs(t, err, syscall.EIO)
	require.ErrorIs(t, tr.Rmdir(ctx, tree.Root, "sub"), syscall.EIO)
	_, err = tr.Lookup(ctx, tree.Root, "file")
	require.ErrorIs(t, err, syscall.EIO)
	require.NotErrorIs(t, err, syscall.ENOENT)
	found, err := tr.Check(ctx)
	require.NoError(t, err)
	damage := 0
	for _, f := range found {
		if f.Damage {
			damage++
		}
	}
	require.Equal(t, 3, damage, "the inode, the bucket, and the size without it: %v", found)
}

// TestFailedCommit: whatever call of a commit fails, nothing is lost, and the
// next one makes it durable.
func TestFailedCommit(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for at := 0; ; at++ {
		w := newWorld(t, 5, quiet)
		for range 150 {
			w.step()
		}
		var mu sync.Mutex
		left, hit := at, false
		fail := func(_ context.Context, op treetest.Op) error {
			mu.Lock()
			defer mu.Unlock()
			if op.Call == "get" || hit {
				return nil
			}
			if left--; left < 0 {
				hit = true
				return errBroken
			}
			return nil
		}
		w.d.meta.SetFail(fail)
		w.d.data.SetFail(fail)
		err := w.tr.Sync(ctx)
		mu.Lock()
		done := !hit
		mu.Unlock()
		if err != nil {
			require.ErrorIs(t, err, syscall.EIO)
		}
		w.compare()
		require.NoError(t, w.tr.Sync(ctx))
		w.d = &disk{w.d.meta.Crash(0), w.d.data.Crash(0)}
		w.tr = w.d.open(t, quiet)
		w.compare()
		noDamage(t, w.tr)
		if done {
			return
		}
		at += at / 8
	}
}

func TestNoSpace(t *testing.T) {
	t.Parallel()
	d := newDisk()
	d.data.Limit = 1 << 20
	tr := d.open(t, quiet)
	ctx := t.Context()
	a, err := tr.Mknod(ctx, tree.Root, "f", tree.NewNode{Mode: 0o644})
	require.NoError(t, err)
	var n int
	for n < 20 && err == nil {
		_, err = tr.WriteAt(ctx, a.Ino, pattern(128<<10, byte(n)), int64(n)*(128<<10))
		n++
	}
	require.ErrorIs(t, err, syscall.ENOSPC, "it is told by the write")
	require.NoError(t, tr.Fsync(ctx, a.Ino), "what was accepted fits")
	for i := range n - 1 {
		got := make([]byte, 128<<10)
		_, err := tr.ReadAt(ctx, a.Ino, got, int64(i)*(128<<10))
		require.NoError(t, err)
		require.True(t, bytes.Equal(pattern(128<<10, byte(i)), got))
	}
	_, err = tr.WriteAt(ctx, a.Ino, pattern(128<<10, 99), 0)
	require.NoError(t, err, "an overwrite fits")
	require.NoError(t, tr.Fsync(ctx, a.Ino))
	require.NoError(t, tr.Unlink(ctx, tree.Root, "f"))
	require.NoError(t, tr.Sync(ctx))
	create(t, tr, tree.Root, "g", pattern(200000, 1))
	require.NoError(t, tr.Sync(ctx))

	// A server that is fuller than its figures say.
	full := func(_ context.Context, op treetest.Op) error {
		if op.Call == "insert" {
			return backend.ErrFull
		}
		return nil
	}
	h := create(t, tr, tree.Root, "h", []byte("x"))
	d.data.SetFail(full)
	require.ErrorIs(t, tr.Fsync(ctx, h), syscall.ENOSPC)
	require.ErrorIs(t, tr.Fsync(ctx, h), syscall.ENOSPC, "as long as it is so")
	require.NoError(t, tr.Fsync(ctx, tree.Root), "others are not concerned")
	_, err = tr.WriteAt(ctx, h, []byte("y"), 0)
	require.ErrorIs(t, err, syscall.ENOSPC)
	d.data.SetFail(nil)
	require.NoError(t, tr.Fsync(ctx, h))
	d.meta.SetFail(full)
	_, err = tr.Mknod(ctx, tree.Root, "i", tree.NewNode{})
	require.ErrorIs(t, err, syscall.ENOSPC)
	d.meta.SetFail(nil)
	noDamage(t, tr)
}

// TestSlowBlock: while one file's block is on its way, every operation on other
// files goes on, commits too, and whoever waits can be interrupted.
func TestSlowBlock(t *testing.T) {
	t.Parallel()
	d := newDisk()
	tr := d.open(t)
	ctx := t.Context()
	slow := create(t, tr, tree.Root, "slow", pattern(300000, 1))
	fast := create(t, tr, tree.Root, "fast", pattern(300000, 2))
	require.NoError(t, tr.Close(ctx))
	tr = d.open(t)
	_, err := tr.Getattr(ctx, slow)
	require.NoError(t, err)
	inode, err := d.meta.Get(ctx, slow)
	require.NoError(t, err)
	block := uint64(inode[52])
	arrived, open := make(chan struct{}, 10), make(chan struct{})
	d.data.SetFail(func(ctx context.Context, op treetest.Op) error {
		if op.Call == "get" && op.ID == block {
			arrived <- struct{}{}
			select {
			case <-open:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	got := make([]byte, 10)
	result := make(chan error, 2)
	impatient, cancel := context.WithCancel(ctx)
	go func() { _, err := tr.ReadAt(impatient, slow, make([]byte, 10), 0); result <- err }()
	<-arrived
	cancel()
	require.ErrorIs(t, <-result, syscall.EINTR)
	go func() { _, err := tr.ReadAt(ctx, slow, got, 0); result <- err }()
	partial := make(chan error, 1)
	go func() { _, err := tr.WriteAt(ctx, slow, []byte("z"), 5); partial <- err }()

	limited, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	require.True(t, bytes.Equal(pattern(300000, 2), content(t, tr, fast)))
	_, err = tr.WriteAt(limited, fast, []byte("more"), 100)
	require.NoError(t, err)
	create(t, tr, tree.Root, "new", []byte("x"))
	require.NoError(t, tr.Rename(limited, tree.Root, "new", tree.Root, "newer", 0))
	_, err = tr.Lookup(limited, tree.Root, "slow")
	require.NoError(t, err)
	_, err = tr.Getattr(limited, slow)
	require.NoError(t, err)
	require.NoError(t, tr.Fsync(limited, fast))
	require.NoError(t, tr.Sync(limited))
	_, err = tr.Cut(limited, func(context.Context) error { return nil })
	require.NoError(t, err)
	close(open)
	require.NoError(t, <-result)
	require.NoError(t, <-partial)
	require.Len(t, arrived, 0, "the block was fetched once for all")
	require.Equal(t, pattern(5, 1), got[:5])
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	d := newDisk()
	const limit = 4 << 20
	tr := d.open(t, func(o *tree.Options) { o.MemoryLimit = limit })
	ctx := t.Context()
	for i := range 40 {
		create(t, tr, tree.Root, fmt.Sprint(i), pattern(500000, byte(i)))
		u := tr.Usage()
		require.LessOrEqual(t, u.DirtyBytes, int64(limit/2+1<<20))
		require.LessOrEqual(t, u.CacheBytes, int64(limit+2<<20))
	}
	require.NoError(t, tr.Sync(ctx))
	for i := range 3000 {
		_, err := tr.Mknod(ctx, tree.Root, fmt.Sprint("empty", i), tree.NewNode{})
		require.NoError(t, err)
	}
	require.NoError(t, tr.Sync(ctx))
	for i := range 40 {
		a, err := tr.Lookup(ctx, tree.Root, fmt.Sprint(i))
		require.NoError(t, err)
		require.True(t, bytes.Equal(pattern(500000, byte(i)), content(t, tr, a.Ino)))
	}
	u := tr.Usage()
	require.Zero(t, u.DirtyInodes)
	require.LessOrEqual(t, u.MetaBytes, int64(limit/2))
	require.LessOrEqual(t, u.CacheBytes, int64(limit))
}

func TestSafeState(t *testing.T) {
	t.Parallel()
	d := newDisk()
	tr := d.open(t)
	old := create(t, tr, tree.Root, "old", []byte("x"))
	require.NoError(t, tr.Close(t.Context()))
	ctx := t.Context()
	var committed uint64
	tr = d.open(t, func(o *tree.Options) { o.Committed = func() uint64 { return committed } })
	a := create(t, tr, tree.Root, "a", []byte("x"))
	require.Equal(t, tree.Local, tr.SafeState(old))
	require.Equal(t, tree.Local, tr.SafeState(a))
	seq, err := tr.Cut(ctx, func(context.Context) error {
		require.Zero(t, d.meta.Unsynced()+d.data.Unsynced(), "everything is durable before the switch")
		return nil
	})
	require.NoError(t, err)
	require.EqualValues(t, 1, seq)
	require.Equal(t, tree.Pending, tr.SafeState(old))
	require.Equal(t, tree.Pending, tr.SafeState(a))
	_, err = tr.WriteAt(ctx, a, []byte("y"), 0)
	require.NoError(t, err)
	require.Equal(t, tree.Local, tr.SafeState(a))
	committed = 1
	require.Equal(t, tree.Safe, tr.SafeState(old))
	require.Equal(t, tree.Local, tr.SafeState(a))
	_, err = tr.Cut(ctx, func(context.Context) error { return errBroken })
	require.ErrorIs(t, err, errBroken)
	require.Equal(t, tree.Local, tr.SafeState(a), "there was no cut")
	seq, err = tr.Cut(ctx, func(context.Context) error { return nil })
	require.NoError(t, err)
	require.EqualValues(t, 2, seq)
	require.Equal(t, tree.Pending, tr.SafeState(a))
	committed = 2
	require.Equal(t, tree.Safe, tr.SafeState(a))
	require.NoError(t, tr.Close(ctx))
	tr = d.open(t, func(o *tree.Options) { o.CleanStart = true })
	require.Equal(t, tree.Safe, tr.SafeState(a))
}

// TestConcurrentUse lets many change one tree; the race detector and the check
// judge.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	d := newDisk()
	tr := d.open(t, small, func(o *tree.Options) { o.Interval = time.Millisecond })
	ctx := context.Background()
	dirs := []uint64{tree.Root}
	for i := range 3 {
		a, err := tr.Mkdir(ctx, tree.Root, fmt.Sprint("dir", i), tree.NewNode{Mode: 0o755})
		require.NoError(t, err)
		dirs = append(dirs, a.Ino)
	}
	var all sync.WaitGroup
	for worker := range 6 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(worker), 3))
			for range 300 {
				dir, name := dirs[r.IntN(len(dirs))], names[r.IntN(len(names))]
				var err error
				switch r.IntN(10) {
				case 0, 1:
					_, err = tr.Mknod(ctx, dir, name, tree.NewNode{Mode: 0o644})
				case 2:
					err = tr.Unlink(ctx, dir, name)
				case 3:
					err = tr.Rename(ctx, dir, name, dirs[r.IntN(len(dirs))], names[r.IntN(len(names))], uint32(r.IntN(3)))
				case 4:
					var a tree.Attr
					if a, err = tr.Mkdir(ctx, dir, name, tree.NewNode{Mode: 0o755}); err == nil {
						_, err = tr.Mknod(ctx, a.Ino, name, tree.NewNode{})
					}
				case 5:
					_, err = tr.ReadDir(ctx, dir)
				default:
					var a tree.Attr
					if a, err = tr.Lookup(ctx, dir, name); err != nil {
						break
					}
					if err = tr.Open(ctx, a.Ino); err != nil {
						break
					}
					switch r.IntN(5) {
					case 0:
						_, err = tr.WriteAt(ctx, a.Ino, pattern(r.IntN(300000), 1), r.Int64N(300000))
					case 1:
						_, err = tr.ReadAt(ctx, a.Ino, make([]byte, 100000), r.Int64N(300000))
					case 2:
						err = tr.Fsync(ctx, a.Ino)
					case 3:
						size := r.Int64N(300000)
						_, err = tr.Setattr(ctx, a.Ino, tree.SetAttr{Size: &size})
					case 4:
						_, err = tr.Link(ctx, a.Ino, dir, names[r.IntN(len(names))])
					}
					tr.Release(a.Ino)
				}
				if errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EINTR) {
					t.Error(err)
				}
			}
		})
	}
	all.Go(func() {
		for range 20 {
			if _, err := tr.Cut(ctx, func(context.Context) error { return nil }); err != nil {
				t.Error(err)
			}
		}
	})
	all.Wait()
	before := read(t, tr)
	require.NoError(t, tr.Close(ctx))
	tr = d.open(t)
	require.Equal(t, "", diff(before, read(t, tr), "/"))
	require.NoError(t, tr.Sync(ctx))
	noFindings(t, tr)
}

func TestConformance(t *testing.T) {
	t.Parallel()
	treetest.Conformance(t, func(*testing.T) tree.Records { return treetest.New() })
}

func TestForeignRecords(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	open := func(d *disk) error {
		_, err := tree.Open(ctx, tree.Options{Meta: d.meta, Data: d.data})
		return err
	}
	d := newDisk()
	_, err := d.meta.Insert(ctx, []byte("something else"))
	require.NoError(t, err)
	require.ErrorIs(t, open(d), tree.ErrForeign)

	d = newDisk()
	_, err = d.data.Insert(ctx, []byte("something else"))
	require.NoError(t, err)
	require.ErrorIs(t, open(d), tree.ErrForeign)

	d = newDisk()
	tr := d.open(t)
	create(t, tr, tree.Root, "f", []byte("x"))
	require.NoError(t, tr.Close(ctx))
	d.data = treetest.New()
	require.ErrorIs(t, open(d), backend.ErrNotFound, "a tree without its data is not made anew")
	entries, _, _ := d.data.Stats()
	require.Zero(t, entries)
}
