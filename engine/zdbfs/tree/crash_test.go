package tree_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
	"github.com/threefoldtech/quantumd/engine/zdbfs/treetest"
)

// everyCrash runs a scenario over a prepared tree, and lets check see what a
// crash at each call of the records leaves, with nothing, half and all of what
// was not synced kept in either namespace.
func everyCrash(t *testing.T, prepare, scenario func(tr *tree.Tree), check func(tr *tree.Tree)) {
	t.Helper()
	d := newDisk()
	tr := d.open(t)
	prepare(tr)
	require.NoError(t, tr.Close(context.Background()))
	start := &disk{d.meta.Crash(0), d.data.Crash(0)}
	var states []*disk
	run := &disk{start.meta.Crash(0), start.data.Crash(0)}
	var mu sync.Mutex
	snap := func(_ context.Context, op treetest.Op) error {
		if op.Call == "get" {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		for keep := range 9 {
			turn := keep
			m, d := treetest.CrashBoth(run.meta, run.data, func(n int) int {
				third := turn % 3
				turn /= 3
				return n * third / 2
			})
			states = append(states, &disk{m, d})
		}
		return nil
	}
	tr = run.open(t)
	run.meta.SetFail(snap)
	run.data.SetFail(snap)
	scenario(tr)
	require.NoError(t, tr.Close(context.Background()))
	require.Greater(t, len(states), 9)
	for _, s := range states {
		tr := s.open(t)
		noDamage(t, tr)
		check(tr)
		require.NoError(t, tr.Close(context.Background()))
		if t.Failed() {
			return
		}
	}
}

func lookup(t testing.TB, tr *tree.Tree, name string) (tree.Attr, bool) {
	t.Helper()
	a, err := tr.Lookup(context.Background(), tree.Root, name)
	if err != nil {
		require.ErrorIs(t, err, syscall.ENOENT)
		return a, false
	}
	return a, true
}

func TestCrashInReplace(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	one, two := pattern(200000, 1), pattern(300000, 2)
	everyCrash(t,
		func(tr *tree.Tree) { create(t, tr, tree.Root, "file", one) },
		func(tr *tree.Tree) {
			ino := create(t, tr, tree.Root, "tmp", two)
			require.NoError(t, tr.Fsync(ctx, ino))
			require.NoError(t, tr.Rename(ctx, tree.Root, "tmp", tree.Root, "file", 0))
			require.NoError(t, tr.Fsync(ctx, tree.Root))
			require.NoError(t, tr.Sync(ctx))
		},
		func(tr *tree.Tree) {
			a, ok := lookup(t, tr, "file")
			require.True(t, ok)
			got := content(t, tr, a.Ino)
			_, tmp := lookup(t, tr, "tmp")
			require.True(t, bytes.Equal(got, one) || bytes.Equal(got, two) && !tmp, "%d bytes", len(got))
		})
}

func TestCrashInMoveBetweenFolders(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	var a, b tree.Attr
	everyCrash(t,
		func(tr *tree.Tree) {
			var err error
			a, err = tr.Mkdir(ctx, tree.Root, "a", tree.NewNode{Mode: 0o755})
			require.NoError(t, err)
			b, err = tr.Mkdir(ctx, tree.Root, "b", tree.NewNode{Mode: 0o755})
			require.NoError(t, err)
			create(t, tr, a.Ino, "x", []byte("x"))
			create(t, tr, b.Ino, "y", []byte("y"))
		},
		func(tr *tree.Tree) {
			require.NoError(t, tr.Rename(ctx, a.Ino, "x", b.Ino, "y", tree.RenameExchange))
			require.NoError(t, tr.Sync(ctx))
			require.NoError(t, tr.Rename(ctx, a.Ino, "x", b.Ino, "z", 0))
			require.NoError(t, tr.Sync(ctx))
		},
		func(tr *tree.Tree) {
			list := ""
			for _, dir := range []tree.Attr{a, b} {
				for _, name := range []string{"x", "y", "z"} {
					if c, err := tr.Lookup(ctx, dir.Ino, name); err == nil {
						list += fmt.Sprintf("%s=%s ", name, content(t, tr, c.Ino))
					}
				}
				list += "| "
			}
			require.Contains(t, []string{"x=x | y=y | ", "x=y | y=x | ", "| y=x z=y | "}, list)
		})
}

func TestCrashInTruncate(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	old := pattern(200000, 1)
	small := int64(1000)
	everyCrash(t,
		func(tr *tree.Tree) { create(t, tr, tree.Root, "f", old) },
		func(tr *tree.Tree) {
			a, _ := lookup(t, tr, "f")
			_, err := tr.Setattr(ctx, a.Ino, tree.SetAttr{Size: &small})
			require.NoError(t, err)
			require.NoError(t, tr.Sync(ctx))
			require.NoError(t, tr.Sync(ctx))
		},
		func(tr *tree.Tree) {
			a, ok := lookup(t, tr, "f")
			require.True(t, ok)
			got := content(t, tr, a.Ino)
			require.True(t, bytes.Equal(got, old) || bytes.Equal(got, old[:small]), "%d bytes, neither the old nor the new file", len(got))
		})
}

// TestCrashBehindAppend: the block is stored with the appended bytes and the
// inode is not; the bytes must not come back when the file grows.
func TestCrashBehindAppend(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	old := pattern(1000, 1)
	everyCrash(t,
		func(tr *tree.Tree) { create(t, tr, tree.Root, "f", old) },
		func(tr *tree.Tree) {
			a, _ := lookup(t, tr, "f")
			_, err := tr.WriteAt(ctx, a.Ino, pattern(1000, 2), 1000)
			require.NoError(t, err)
			require.NoError(t, tr.Sync(ctx))
		},
		func(tr *tree.Tree) {
			a, _ := lookup(t, tr, "f")
			want := content(t, tr, a.Ino)
			require.True(t, bytes.HasPrefix(want, old))
			size := int64(200000)
			_, err := tr.Setattr(ctx, a.Ino, tree.SetAttr{Size: &size})
			require.NoError(t, err)
			want = append(want, make([]byte, int(size)-len(want))...)
			require.True(t, bytes.Equal(want, content(t, tr, a.Ino)))
		})
}

func TestCrashLeavesNoOrphans(t *testing.T) {
	t.Parallel()
	d := newDisk()
	tr := d.open(t)
	ctx := t.Context()
	ino := create(t, tr, tree.Root, "f", pattern(300000, 1))
	require.NoError(t, tr.Sync(ctx))
	require.NoError(t, tr.Open(ctx, ino))
	require.NoError(t, tr.Unlink(ctx, tree.Root, "f"))
	require.NoError(t, tr.Sync(ctx))
	after := &disk{d.meta.Crash(0), d.data.Crash(0)}
	n, _, _ := after.data.Stats()
	require.Greater(t, n, int64(1), "it is open still")
	tr = after.open(t)
	noFindings(t, tr)
	n, _, _ = after.data.Stats()
	require.EqualValues(t, 1, n)
}

// TestNewTreeCrash: a tree that was being made can be opened.
func TestNewTreeCrash(t *testing.T) {
	t.Parallel()
	d := newDisk()
	var states []*disk
	snap := func(context.Context, treetest.Op) error {
		for keep := range 9 {
			turn := keep
			m, dd := treetest.CrashBoth(d.meta, d.data, func(n int) int {
				third := turn % 3
				turn /= 3
				return n * third / 2
			})
			states = append(states, &disk{m, dd})
		}
		return nil
	}
	d.meta.SetFail(snap)
	d.data.SetFail(snap)
	d.open(t)
	for _, s := range states {
		noDamage(t, s.open(t))
	}
}

// TestCrashWithLongJournal: what is too long for one record is whole as well.
func TestCrashWithLongJournal(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	d := newDisk()
	tr := d.open(t)
	ino := create(t, tr, tree.Root, "first", []byte("x"))
	long := strings.Repeat("n", 240)
	for i := range 300 { // so that there are buckets to change
		_, err := tr.Link(ctx, ino, tree.Root, fmt.Sprintf("%s!%d", long, 1000+i*37%8000))
		require.NoError(t, err)
	}
	require.NoError(t, tr.Sync(ctx))
	const more = 8000
	for i := range more {
		_, err := tr.Link(ctx, ino, tree.Root, fmt.Sprintf("!%s%d", long, 1000+i)) // the same buckets
		require.NoError(t, err)
	}
	var states []*disk
	calls, largest := 0, 0
	d.meta.SetFail(func(_ context.Context, op treetest.Op) error {
		largest = max(largest, op.Size)
		if calls++; calls%5 == 0 {
			m, dd := treetest.CrashBoth(d.meta, d.data, func(n int) int { return n })
			states = append(states, &disk{m, dd})
		}
		return nil
	})
	require.NoError(t, tr.Sync(ctx))
	require.Greater(t, largest, 1<<20, "the journal did not need a record beside its own")
	require.Greater(t, len(states), 5)
	d.meta.SetFail(nil)
	require.NoError(t, tr.Sync(ctx))
	noFindings(t, tr)
	seen := map[uint32]int{}
	for _, s := range states {
		tr := s.open(t)
		noDamage(t, tr)
		a, err := tr.Getattr(ctx, ino)
		require.NoError(t, err)
		seen[a.Nlink]++
		require.NoError(t, tr.Close(ctx))
	}
	require.Len(t, seen, 2, "%v", seen)
	require.Positive(t, seen[301])
	require.Positive(t, seen[301+more])
}
