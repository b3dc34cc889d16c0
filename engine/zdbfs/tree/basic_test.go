package tree_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
	"github.com/threefoldtech/quantumd/engine/zdbfs/treetest"
)

// disk is a pair of namespaces.
type disk struct{ meta, data *treetest.Memory }

func newDisk() *disk { return &disk{treetest.New(), treetest.New()} }

func (d *disk) open(t testing.TB, change ...func(*tree.Options)) *tree.Tree {
	t.Helper()
	o := tree.Options{Meta: d.meta, Data: d.data, Interval: time.Hour,
		Logger: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	for _, c := range change {
		c(&o)
	}
	tr, err := tree.Open(context.Background(), o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = tr.Close(context.Background()) })
	return tr
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Logf("%s", bytes.TrimSpace(p))
	}
	return len(p), nil
}

var _ io.Writer = testWriter{}

func noFindings(t testing.TB, tr *tree.Tree) {
	t.Helper()
	found, err := tr.Check(context.Background())
	require.NoError(t, err)
	for _, f := range found {
		t.Error(f)
	}
}

func noDamage(t testing.TB, tr *tree.Tree) {
	t.Helper()
	found, err := tr.Check(context.Background())
	require.NoError(t, err)
	for _, f := range found {
		if f.Damage {
			t.Error(f)
		}
	}
}

func create(t testing.TB, tr *tree.Tree, parent uint64, name string, content []byte) uint64 {
	t.Helper()
	a, err := tr.Mknod(t.Context(), parent, name, tree.NewNode{Mode: 0o644})
	require.NoError(t, err)
	n, err := tr.WriteAt(t.Context(), a.Ino, content, 0)
	require.NoError(t, err)
	require.Equal(t, len(content), n)
	return a.Ino
}

func content(t testing.TB, tr *tree.Tree, ino uint64) []byte {
	t.Helper()
	a, err := tr.Getattr(context.Background(), ino)
	require.NoError(t, err)
	p := make([]byte, a.Size+10)
	n, err := tr.ReadAt(context.Background(), ino, p, 0)
	require.NoError(t, err)
	require.EqualValues(t, a.Size, n)
	return p[:n]
}

func pattern(n int, seed byte) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i>>8) ^ byte(i)*7 ^ seed
	}
	return p
}

func TestFreshTree(t *testing.T) {
	t.Parallel()
	d := newDisk()
	tr := d.open(t, func(o *tree.Options) { o.UID, o.GID = 5, 6 })
	a, err := tr.Getattr(t.Context(), tree.Root)
	require.NoError(t, err)
	require.EqualValues(t, syscall.S_IFDIR|0o755, a.Mode)
	require.EqualValues(t, 2, a.Nlink)
	require.EqualValues(t, 5, a.UID)
	header, err := d.meta.Get(t.Context(), 0)
	require.NoError(t, err)
	require.Equal(t, "ZDBFSM\x01\x00", string(header[:8]))
	require.Len(t, header, 24)
	noFindings(t, tr)
}

func TestFilesSurviveReopen(t *testing.T) {
	t.Parallel()
	d := newDisk()
	tr := d.open(t)
	ctx := t.Context()
	sub, err := tr.Mkdir(ctx, tree.Root, "sub", tree.NewNode{Mode: 0o755})
	require.NoError(t, err)
	want := map[string][]byte{}
	for _, size := range []int{0, 1, 511, 512, 513, 131071, 131072, 131073, 1 << 20} {
		name := time.Duration(size).String()
		want[name] = pattern(size, byte(size))
		create(t, tr, sub.Ino, name, want[name])
	}
	_, err = tr.Symlink(ctx, tree.Root, "link", "sub/1ns", tree.NewNode{})
	require.NoError(t, err)
	require.NoError(t, tr.Close(ctx))
	require.NoError(t, tr.Close(ctx))

	tr = d.open(t)
	for name, want := range want {
		a, err := tr.Lookup(ctx, sub.Ino, name)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, content(t, tr, a.Ino)), name)
	}
	link, err := tr.Lookup(ctx, tree.Root, "link")
	require.NoError(t, err)
	require.EqualValues(t, 7, link.Size)
	target, err := tr.Readlink(ctx, link.Ino)
	require.NoError(t, err)
	require.Equal(t, "sub/1ns", target)
	root, err := tr.Getattr(ctx, tree.Root)
	require.NoError(t, err)
	require.EqualValues(t, 3, root.Nlink)
	noFindings(t, tr)
}

func TestDeletionLeavesNothing(t *testing.T) {
	t.Parallel()
	d := newDisk()
	tr := d.open(t)
	ctx := t.Context()
	dir, err := tr.Mkdir(ctx, tree.Root, "d", tree.NewNode{Mode: 0o755})
	require.NoError(t, err)
	ino := create(t, tr, dir.Ino, "f", pattern(300000, 1))
	require.ErrorIs(t, tr.Rmdir(ctx, tree.Root, "d"), syscall.ENOTEMPTY)
	require.ErrorIs(t, tr.Unlink(ctx, tree.Root, "d"), syscall.EISDIR)
	require.ErrorIs(t, tr.Rmdir(ctx, dir.Ino, "f"), syscall.ENOTDIR)
	require.NoError(t, tr.Sync(ctx))
	require.NoError(t, tr.Open(ctx, ino))
	require.NoError(t, tr.Unlink(ctx, dir.Ino, "f"))
	require.NoError(t, tr.Rmdir(ctx, tree.Root, "d"))
	require.NoError(t, tr.Sync(ctx))
	require.True(t, bytes.Equal(pattern(300000, 1), content(t, tr, ino)), "open and without a name")
	_, err = tr.Link(ctx, ino, tree.Root, "again")
	require.ErrorIs(t, err, syscall.ENOENT)
	tr.Release(ino)
	require.NoError(t, tr.Sync(ctx))
	require.NoError(t, tr.Sync(ctx))
	_, err = tr.Getattr(ctx, ino)
	require.ErrorIs(t, err, syscall.ENOENT)
	noFindings(t, tr)
	n, _, _ := d.data.Stats()
	require.EqualValues(t, 1, n, "the header alone")
}
