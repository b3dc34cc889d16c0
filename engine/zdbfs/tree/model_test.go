package tree_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
	"github.com/threefoldtech/quantumd/engine/zdbfs/treetest"
)

// node is an inode of the model.
type node struct {
	ino     uint64
	kind    uint32
	links   int
	content []byte
	target  string
	names   map[string]*node // of a folder
}

// promise is what was fsynced: the content, under one of the paths.
type promise struct {
	paths   []string
	content []byte
}

// world runs the same operations on a tree and on a model.
type world struct {
	t       testing.TB
	r       *rand.Rand
	d       *disk
	tr      *tree.Tree
	root    *node
	options func(*tree.Options)

	mu       sync.Mutex
	promises map[uint64]*promise
}

func newWorld(t testing.TB, seed uint64, options func(*tree.Options)) *world {
	w := &world{t: t, r: rand.New(rand.NewPCG(seed, 7)), d: newDisk(), options: options, promises: map[uint64]*promise{}}
	w.tr = w.d.open(t, options)
	w.root = &node{ino: tree.Root, kind: syscall.S_IFDIR, links: 2, names: map[string]*node{}}
	return w
}

var names = []string{"a", "b", "c", "ab", "ba", "ü", strings.Repeat("n", 255)}

func (w *world) name() string { return names[w.r.IntN(len(names))] }

// folders lists the folders of the model with their paths.
func (w *world) folders() (nodes []*node, paths []string) {
	var walk func(n *node, p string)
	walk = func(n *node, p string) {
		nodes, paths = append(nodes, n), append(paths, p)
		for _, name := range slices.Sorted(maps.Keys(n.names)) {
			if c := n.names[name]; c.kind == syscall.S_IFDIR {
				walk(c, path.Join(p, name))
			}
		}
	}
	walk(w.root, "/")
	return nodes, paths
}

func (w *world) folder() (*node, string) {
	nodes, paths := w.folders()
	i := w.r.IntN(len(nodes))
	return nodes[i], paths[i]
}

func below(n, top *node) bool {
	if n == top {
		return true
	}
	for _, c := range top.names {
		if c.kind == syscall.S_IFDIR && below(n, c) {
			return true
		}
	}
	return false
}

// forget takes back the promise of what an operation is about to change.
func (w *world) forget(n *node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n != nil {
		delete(w.promises, n.ino)
	}
}

// moved adds the new paths of what a rename may have moved.
func (w *world) moved(from, to string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.promises {
		for _, at := range p.paths {
			if at == from || strings.HasPrefix(at, from+"/") {
				p.paths = append(p.paths, to+strings.TrimPrefix(at, from))
			}
		}
		if len(p.paths) > 16 {
			p.paths = nil // anywhere; not looked for any more
		}
	}
}

func (w *world) size() int64 {
	switch w.r.IntN(4) {
	case 0:
		return w.r.Int64N(2000)
	case 1:
		return (128 << 10) - 2 + w.r.Int64N(5)
	case 2:
		return 2*(128<<10) - 2 + w.r.Int64N(5)
	}
	return w.r.Int64N(500000)
}

func (n *node) resize(size int64) {
	if size <= int64(len(n.content)) {
		n.content = n.content[:size:size]
		return
	}
	n.content = append(n.content, make([]byte, size-int64(len(n.content)))...)
}

// step does one random operation; the model says what has to come of it.
func (w *world) step() string {
	ctx := context.Background()
	dir, dirPath := w.folder()
	name := w.name()
	at := path.Join(dirPath, name)
	old := dir.names[name]
	expect := func(what string, got, want error) {
		w.t.Helper()
		if want == nil {
			require.NoError(w.t, got, what)
		} else {
			require.ErrorIs(w.t, got, want, what)
		}
	}
	isReg := old != nil && old.kind == syscall.S_IFREG
	switch op := w.r.IntN(24); {
	case op < 4:
		a, err := w.tr.Mknod(ctx, dir.ino, name, tree.NewNode{Mode: 0o644})
		if old != nil {
			expect("mknod "+at, err, syscall.EEXIST)
			return "mknod"
		}
		expect("mknod "+at, err, nil)
		dir.names[name] = &node{ino: a.Ino, kind: syscall.S_IFREG, links: 1}
	case op < 6:
		a, err := w.tr.Mkdir(ctx, dir.ino, name, tree.NewNode{Mode: 0o755})
		if old != nil {
			expect("mkdir "+at, err, syscall.EEXIST)
			return "mkdir"
		}
		expect("mkdir "+at, err, nil)
		dir.names[name] = &node{ino: a.Ino, kind: syscall.S_IFDIR, links: 2, names: map[string]*node{}}
		dir.links++
	case op == 6:
		a, err := w.tr.Symlink(ctx, dir.ino, name, "to/"+name, tree.NewNode{})
		if old != nil {
			expect("symlink "+at, err, syscall.EEXIST)
			return "symlink"
		}
		expect("symlink "+at, err, nil)
		dir.names[name] = &node{ino: a.Ino, kind: syscall.S_IFLNK, links: 1, target: "to/" + name}
	case op < 12 && isReg:
		p := pattern(int(w.size()), byte(w.r.Uint32()))
		off := w.size()
		w.forget(old)
		n, err := w.tr.WriteAt(ctx, old.ino, p, off)
		expect("write "+at, err, nil)
		require.Equal(w.t, len(p), n)
		if len(p) > 0 {
			old.resize(max(int64(len(old.content)), off+int64(len(p))))
			old.content = bytes.Clone(old.content)
			copy(old.content[off:], p)
		}
	case op < 14 && isReg:
		size := w.size()
		w.forget(old)
		_, err := w.tr.Setattr(ctx, old.ino, tree.SetAttr{Size: &size})
		expect("truncate "+at, err, nil)
		old.resize(size)
	case op == 14:
		w.forget(old)
		err := w.tr.Unlink(ctx, dir.ino, name)
		switch {
		case old == nil:
			expect("unlink "+at, err, syscall.ENOENT)
		case old.kind == syscall.S_IFDIR:
			expect("unlink "+at, err, syscall.EISDIR)
		default:
			expect("unlink "+at, err, nil)
			old.links--
			delete(dir.names, name)
		}
	case op == 15:
		err := w.tr.Rmdir(ctx, dir.ino, name)
		switch {
		case old == nil:
			expect("rmdir "+at, err, syscall.ENOENT)
		case old.kind != syscall.S_IFDIR:
			expect("rmdir "+at, err, syscall.ENOTDIR)
		case len(old.names) > 0:
			expect("rmdir "+at, err, syscall.ENOTEMPTY)
		default:
			expect("rmdir "+at, err, nil)
			delete(dir.names, name)
			dir.links--
		}
	case op == 16 && old != nil && old.kind != syscall.S_IFDIR:
		to, toPath := w.folder()
		newName := w.name()
		_, err := w.tr.Link(ctx, old.ino, to.ino, newName)
		if to.names[newName] != nil {
			expect("link", err, syscall.EEXIST)
			return "link"
		}
		expect("link "+path.Join(toPath, newName), err, nil)
		to.names[newName] = old
		old.links++
	case op < 20 && old != nil:
		w.rename(dir, old, name, at)
	case op == 20 && isReg:
		require.NoError(w.t, w.tr.Fsync(ctx, old.ino))
		w.mu.Lock()
		w.promises[old.ino] = &promise{[]string{at}, old.content}
		w.mu.Unlock()
	case op == 21 && w.r.IntN(4) == 0:
		require.NoError(w.t, w.tr.Sync(ctx))
		w.promiseAll()
	case op == 22 && isReg:
		off := w.size()
		p := make([]byte, w.size())
		n, err := w.tr.ReadAt(ctx, old.ino, p, off)
		expect("read "+at, err, nil)
		want := old.content[min(off, int64(len(old.content))):]
		want = want[:min(len(want), len(p))]
		require.True(w.t, bytes.Equal(want, p[:n]), "read %s at %d, %d bytes", at, off, len(p))
	}
	return at
}

func (w *world) rename(dir, old *node, name, at string) {
	to, toPath := w.folder()
	newName := w.name()
	target := to.names[newName]
	flags := uint32(w.r.IntN(3))
	newAt := path.Join(toPath, newName)
	replaced := target != nil && target != old && flags == 0
	if replaced {
		w.forget(target)
	}
	w.moved(at, newAt)
	if flags == tree.RenameExchange {
		w.moved(newAt, at)
	}
	err := w.tr.Rename(context.Background(), dir.ino, name, to.ino, newName, flags)
	isDir := func(n *node) bool { return n.kind == syscall.S_IFDIR }
	var want error
	switch {
	case flags == tree.RenameExchange && target == nil:
		want = syscall.ENOENT
	case flags == tree.RenameNoReplace && target != nil:
		want = syscall.EEXIST
	case isDir(old) && below(to, old) && dir != to:
		want = syscall.EINVAL
	case target != nil && isDir(target) && below(dir, target) && dir != to:
		want = syscall.ENOTEMPTY
		if flags == tree.RenameExchange {
			want = syscall.EINVAL
		}
	case target == old:
	case replaced && isDir(old) && !isDir(target):
		want = syscall.ENOTDIR
	case replaced && !isDir(old) && isDir(target):
		want = syscall.EISDIR
	case replaced && isDir(target) && len(target.names) > 0:
		want = syscall.ENOTEMPTY
	}
	if want != nil {
		require.ErrorIs(w.t, err, want, "rename %s %s %d", at, newAt, flags)
		return
	}
	require.NoError(w.t, err, "rename %s %s %d", at, newAt, flags)
	if target == old {
		return
	}
	delete(dir.names, name)
	if isDir(old) {
		dir.links--
		to.links++
	}
	if target != nil {
		if isDir(target) {
			to.links--
		}
		if flags == tree.RenameExchange {
			dir.names[name] = target
			if isDir(target) {
				dir.links++
			}
		} else {
			target.links--
		}
	}
	to.names[newName] = old
}

// promiseAll notes that everything was synced.
func (w *world) promiseAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.promises = map[uint64]*promise{}
	nodes, paths := w.folders()
	for i, n := range nodes {
		for name, c := range n.names {
			if c.kind == syscall.S_IFREG {
				w.promises[c.ino] = &promise{[]string{path.Join(paths[i], name)}, c.content}
			}
		}
	}
}

// compare walks the tree and the model.
func (w *world) compare() {
	w.t.Helper()
	got := read(w.t, w.tr)
	require.Equal(w.t, "", diff(w.root, got, "/"))
}

// read builds a model of what is in a tree.
func read(t testing.TB, tr *tree.Tree) *node {
	ctx := context.Background()
	seen := map[uint64]*node{}
	var walk func(ino uint64) *node
	walk = func(ino uint64) *node {
		if n := seen[ino]; n != nil {
			return n
		}
		a, err := tr.Getattr(ctx, ino)
		require.NoError(t, err)
		n := &node{ino: ino, kind: a.Mode & syscall.S_IFMT, links: int(a.Nlink)}
		seen[ino] = n
		switch n.kind {
		case syscall.S_IFDIR:
			n.names = map[string]*node{}
			entries, err := tr.ReadDir(ctx, ino)
			require.NoError(t, err)
			for _, e := range entries {
				require.NotContains(t, n.names, e.Name)
				n.names[e.Name] = walk(e.Ino)
			}
		case syscall.S_IFLNK:
			n.target, err = tr.Readlink(ctx, ino)
			require.NoError(t, err)
		default:
			n.content = content(t, tr, ino)
		}
		return n
	}
	return walk(tree.Root)
}

func diff(want, got *node, at string) string {
	switch {
	case got == nil:
		return at + " is missing"
	case want == nil:
		return at + " is too much"
	case want.ino != got.ino, want.kind != got.kind, want.target != got.target, want.links != got.links:
		return fmt.Sprintf("%s: want %d %o %d links, got %d %o %d links", at, want.ino, want.kind, want.links, got.ino, got.kind, got.links)
	case !bytes.Equal(want.content, got.content):
		i := 0
		for i < min(len(want.content), len(got.content)) && want.content[i] == got.content[i] {
			i++
		}
		return fmt.Sprintf("%s: want %d bytes, got %d; first difference at %d", at, len(want.content), len(got.content), i)
	}
	for name := range got.names {
		if want.names[name] == nil {
			return path.Join(at, name) + " is too much"
		}
	}
	for name := range want.names {
		if d := diff(want.names[name], got.names[name], path.Join(at, name)); d != "" {
			return d
		}
	}
	return ""
}

func find(n *node, at string) *node {
	for _, name := range strings.Split(strings.Trim(at, "/"), "/") {
		if n == nil || n.names == nil {
			return nil
		}
		n = n.names[name]
	}
	return n
}

// kept says what is missing of the promises.
func kept(promises map[uint64]*promise, root *node) error {
	var errs []error
	for ino, p := range promises {
		if len(p.paths) == 0 {
			continue
		}
		ok := slices.ContainsFunc(p.paths, func(at string) bool {
			n := find(root, at)
			return n != nil && n.ino == ino && bytes.Equal(n.content, p.content)
		})
		if !ok {
			errs = append(errs, fmt.Errorf("inode %d, fsynced with %d bytes, is not at %q", ino, len(p.content), p.paths))
		}
	}
	return errors.Join(errs...)
}

func small(o *tree.Options) { o.MemoryLimit = 1 } // the least there is

func TestRandomOperations(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, seed, func(o *tree.Options) {
				if seed%2 == 0 {
					small(o)
				}
				o.Interval = time.Duration(seed+1) * time.Millisecond
			})
			for i := range 600 {
				w.step()
				if i%200 == 199 {
					w.compare()
					require.NoError(t, w.tr.Close(t.Context()))
					w.tr = w.d.open(t, w.options)
					w.compare()
				}
			}
			require.NoError(t, w.tr.Sync(t.Context()))
			require.NoError(t, w.tr.Sync(t.Context()))
			noFindings(t, w.tr)
		})
	}
}

// TestRandomCrashes kills the tree at a random call of the records, again and
// again, keeping any prefix of what was not synced.
func TestRandomCrashes(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, seed+100, func(o *tree.Options) {
				if seed%2 == 0 {
					small(o)
				}
				if seed%3 == 0 {
					o.Interval = time.Millisecond
				}
			})
			for range 10 {
				w.crash()
			}
		})
	}
}

// crash runs operations until the disks are snapped in the middle of one, and
// goes on with what a new process would find.
func (w *world) crash() {
	var after *disk // guarded by w.mu, as what follows
	var promises map[uint64]*promise
	left := 1 + w.r.IntN(150)
	keep := rand.New(rand.NewPCG(w.r.Uint64(), 1))
	snap := func(_ context.Context, op treetest.Op) error {
		if op.Call == "get" {
			return nil
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if left--; left == 0 {
			meta, data := treetest.CrashBoth(w.d.meta, w.d.data, func(n int) int { return keep.IntN(n + 1) })
			after, promises = &disk{meta, data}, map[uint64]*promise{}
			for ino, p := range w.promises {
				promises[ino] = &promise{slices.Clone(p.paths), p.content}
			}
		}
		return nil
	}
	w.d.meta.SetFail(snap)
	w.d.data.SetFail(snap)
	snapped := func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return after != nil
	}
	for i := 0; !snapped(); i++ {
		w.step()
		if i%40 == 39 {
			require.NoError(w.t, w.tr.Sync(context.Background()))
		}
	}
	require.NoError(w.t, w.tr.Close(context.Background()))
	w.d = after
	w.tr = w.d.open(w.t, w.options)
	noDamage(w.t, w.tr)
	w.root = read(w.t, w.tr)
	require.NoError(w.t, kept(promises, w.root))
	w.promises = map[uint64]*promise{}
}
