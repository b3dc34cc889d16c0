package server

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb/segment"
)

// shadow remembers what a machine has on disk after a power failure: contents
// as of the last sync of each file, names as of the last sync of each folder.
type shadow struct {
	synced map[uint64][]byte            // by inode
	names  map[string]map[string]uint64 // by folder
	now    time.Duration
	probe  func() // called before each sync
	graves string // links that keep inodes from being used again
}

func newShadow(t *testing.T) *shadow {
	return &shadow{graves: t.TempDir(), synced: map[uint64][]byte{}, names: map[string]map[string]uint64{}}
}

func inode(fi os.FileInfo) uint64 { return fi.Sys().(*syscall.Stat_t).Ino }

func (s *shadow) disk() disk {
	d := systemDisk()
	keep := func(f *os.File) error {
		s.probing()
		fi, err := f.Stat()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(f.Name())
		s.synced[inode(fi)] = b
		if l := filepath.Join(s.graves, fmt.Sprint(inode(fi))); err == nil {
			if err = os.Link(f.Name(), l); errors.Is(err, os.ErrExist) {
				err = nil
			}
		}
		return err
	}
	d.datasync, d.sync = keep, keep
	d.syncDir = func(dir string) error {
		s.probing()
		list, err := os.ReadDir(dir)
		s.names[dir] = map[string]uint64{}
		for _, e := range list {
			if fi, err := e.Info(); err == nil {
				s.names[dir][e.Name()] = inode(fi)
			}
		}
		return err
	}
	d.now = func() time.Duration { return s.now }
	return d
}

func (s *shadow) probing() {
	if s.probe != nil {
		s.probe()
	}
}

// lose writes to dst what of src survives a power failure. Without a random
// source that is only what was synced; with one, each sector, length and name
// may be the newer one as well.
func (s *shadow) lose(t *testing.T, src, dst string, r *rand.Rand) {
	require.NoError(t, os.MkdirAll(dst, 0o700))
	current := map[string]uint64{}
	list, err := os.ReadDir(src)
	require.NoError(t, err)
	content := map[uint64][]byte{}
	for _, e := range list {
		if e.IsDir() {
			s.lose(t, filepath.Join(src, e.Name()), filepath.Join(dst, e.Name()), r)
			continue
		}
		fi, err := e.Info()
		require.NoError(t, err)
		current[e.Name()] = inode(fi)
		content[inode(fi)], err = os.ReadFile(filepath.Join(src, e.Name()))
		require.NoError(t, err)
	}
	names := maps.Clone(s.names[src])
	if names == nil {
		names = map[string]uint64{}
	}
	if r != nil {
		for name, ino := range current {
			if r.IntN(2) == 0 {
				names[name] = ino
			}
		}
		for name := range names {
			if _, there := current[name]; !there && r.IntN(2) == 0 {
				delete(names, name)
			}
		}
	}
	for name, ino := range names {
		old, now := s.synced[ino], content[ino]
		if now == nil { // removed, but the removal was not synced
			now = old
		}
		if fi, err := os.Lstat(filepath.Join(src, name)); err == nil && fi.IsDir() {
			continue
		}
		require.NoError(t, os.WriteFile(filepath.Join(dst, name), torn(old, now, r), 0o600))
	}
}

// adopt takes what is there after a reboot as durable.
func (s *shadow) adopt(t *testing.T, dir string) {
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	s.names[dir] = map[string]uint64{}
	for _, e := range list {
		fi, err := e.Info()
		require.NoError(t, err)
		s.names[dir][e.Name()] = inode(fi)
		path := filepath.Join(dir, e.Name())
		if e.IsDir() {
			s.adopt(t, path)
			continue
		}
		s.synced[inode(fi)], err = os.ReadFile(path)
		require.NoError(t, err)
	}
}

// torn mixes two states of a file sector by sector.
func torn(old, now []byte, r *rand.Rand) []byte {
	if r == nil || bytes.Equal(old, now) {
		return old
	}
	n := len(now)
	if r.IntN(3) == 0 {
		n = len(old)
	} else if len(now) > len(old) && r.IntN(2) == 0 {
		n = len(old) + r.IntN(len(now)-len(old)+1)
	}
	b := make([]byte, n)
	fresh := r.IntN(4) // none, all, or some of the newer sectors
	for off := 0; off < n; off += 512 {
		end := min(off+512, n)
		from := old
		if fresh == 1 || fresh > 1 && r.IntN(fresh) > 0 {
			from = now
		}
		if off < len(from) {
			copy(b[off:end], from[off:])
		}
	}
	return b
}

// world drives a namespace and a model of it.
type world struct {
	t      *testing.T
	r      *rand.Rand
	o      Options
	shadow *shadow
	s      *Server
	n      *Namespace
	mode   Mode

	probes []probe // what would have survived in the middle of an operation

	states  []state // after each operation since the last durable one
	durable int     // index in states that must survive
}

// state is the contents of a namespace.
type state struct {
	values map[string]string
	next   uint64 // sequential mode
}

// probe is a crash inside an operation.
type probe struct {
	o       Options
	kind    string
	durable int
}

// arm takes probes at some of the syncs to come.
func (w *world) arm() {
	w.shadow.probe = func() {
		if w.r.IntN(25) != 0 {
			return
		}
		p := probe{o: w.o, kind: []string{"kill", "power", "torn", "torn"}[w.r.IntN(4)], durable: w.durable}
		w.survive(p.kind, &p.o)
		w.probes = append(w.probes, p)
	}
}

// survive copies what a crash of some kind leaves.
func (w *world) survive(kind string, o *Options) {
	dir := w.t.TempDir()
	o.DataDir, o.IndexDir = filepath.Join(dir, "data"), filepath.Join(dir, "index")
	if kind == "kill" {
		require.NoError(w.t, os.CopyFS(o.DataDir, os.DirFS(w.o.DataDir)))
		require.NoError(w.t, os.CopyFS(o.IndexDir, os.DirFS(w.o.IndexDir)))
		return
	}
	r := w.r
	if kind == "power" {
		r = nil
	}
	w.shadow.lose(w.t, w.o.DataDir, o.DataDir, r)
	w.shadow.lose(w.t, w.o.IndexDir, o.IndexDir, r)
}

// checkProbes opens what would have survived in the middle of the last
// operation.
func (w *world) checkProbes() {
	w.t.Helper()
	for _, p := range w.probes {
		s, err := Open(w.t.Context(), p.o)
		require.NoError(w.t, err, "in the middle, "+p.kind)
		n, _ := s.Namespace(DefaultNamespace)
		w.find(readState(w.t, n), p.durable, "in the middle, "+p.kind)
		require.NoError(w.t, s.Close())
	}
	w.probes = nil
}

// find gives which operation's contents these are.
func (w *world) find(got state, durable int, what string) int {
	w.t.Helper()
	for i := len(w.states) - 1; i >= durable; i-- {
		if got.next == w.states[i].next && maps.Equal(got.values, w.states[i].values) {
			return i
		}
	}
	require.Failf(w.t, "not a prefix", "after %s: %d keys, next %d; wanted one of %d states from %d on",
		what, len(got.values), got.next, len(w.states), durable)
	return 0
}

func (w *world) last() state { return w.states[len(w.states)-1] }

func (w *world) open() {
	s, err := open(context.Background(), w.o, w.shadow.disk())
	require.NoError(w.t, err)
	w.s = s
	w.n, _ = s.Namespace(DefaultNamespace)
}

func (w *world) record(next state) { w.states = append(w.states, next) }

func (w *world) key() []byte {
	if w.mode == User {
		return fmt.Appendf(nil, "key-%d", w.r.IntN(20))
	}
	if w.r.IntN(3) == 0 || w.last().next == 0 {
		return nil
	}
	return segment.SeqKey(w.r.Uint64N(w.last().next))
}

func (w *world) value() []byte {
	sizes := []int{0, 1, 10, 100, 500, 1000, 5000, 100_000}
	b := make([]byte, w.r.IntN(sizes[w.r.IntN(len(sizes))]+1))
	for i := range b {
		b[i] = byte(w.r.Uint32())
	}
	return b
}

func (w *world) set() {
	key, value := w.key(), w.value()
	now := w.last()
	id, err := w.n.Set(w.t.Context(), key, value)
	old, exists := now.values[string(key)]
	if w.mode == Sequential && len(key) > 0 && !exists {
		require.ErrorIs(w.t, err, backend.ErrNotFound)
		return
	}
	require.NoError(w.t, err)
	if exists && old == string(value) {
		return
	}
	next := state{maps.Clone(now.values), now.next}
	if w.mode == Sequential {
		next.next++
		if len(key) == 0 {
			require.Equal(w.t, segment.SeqKey(now.next), id)
			key = id
		}
	}
	next.values[string(key)] = string(value)
	w.record(next)
}

func (w *world) remove() {
	key := w.key()
	err := w.n.Delete(w.t.Context(), key)
	if _, exists := w.last().values[string(key)]; !exists {
		require.ErrorIs(w.t, err, backend.ErrNotFound)
		return
	}
	require.NoError(w.t, err)
	next := state{maps.Clone(w.last().values), w.last().next}
	delete(next.values, string(key))
	w.record(next)
}

func (w *world) synced() { w.durable = len(w.states) - 1 }

func (w *world) step() {
	switch k := w.r.IntN(100); {
	case k < 65:
		w.set()
	case k < 80:
		w.remove()
	case k < 90:
		require.NoError(w.t, w.n.Sync(w.t.Context()))
		w.synced()
	case k < 93:
		require.NoError(w.t, w.n.Checkpoint(w.t.Context()))
		w.synced()
	case k < 95:
		_, err := w.n.Jump(w.t.Context())
		require.NoError(w.t, err)
	case k < 96:
		dst := filepath.Join(w.t.TempDir(), "i0")
		require.NoError(w.t, w.n.CopyIndex(w.t.Context(), 0, dst))
	case k < 97:
		require.NoError(w.t, w.s.Close())
		w.synced()
		w.open()
	default:
		w.check(w.n, w.last())
	}
}

func readState(t *testing.T, n *Namespace) state {
	t.Helper()
	s := state{values: map[string]string{}}
	if n.Mode() == Sequential {
		s.next = n.Info().NextID
	}
	var used int64
	for _, k := range scanKeys(t, n) {
		key, err := hex.DecodeString(k)
		require.NoError(t, err)
		v, err := n.Get(t.Context(), key)
		require.NoError(t, err)
		s.values[string(key)] = string(v)
		used += int64(len(v))
	}
	require.EqualValues(t, len(s.values), n.Info().Entries)
	require.Equal(t, used, n.Info().Used)
	return s
}

func (w *world) check(n *Namespace, want state) {
	w.t.Helper()
	require.Equal(w.t, want, readState(w.t, n))
}

// crash goes on with what survives. The contents must be those after some
// operation, and not before the last durable one.
func (w *world) crash(kind string) {
	w.t.Helper()
	w.t.Log("crash", kind)
	o := w.o
	w.survive(kind, &o)
	if kind == "kill" {
		w.synced()
	}
	old := w.s
	w.o, w.shadow = o, newShadow(w.t)
	w.shadow.adopt(w.t, o.DataDir)
	w.shadow.adopt(w.t, o.IndexDir)
	w.open()
	require.NoError(w.t, old.Close())
	i := w.find(readState(w.t, w.n), w.durable, kind)
	w.states, w.durable = []state{w.states[i]}, 0
	w.probes = nil // of the old server's Close
	w.arm()
}

// reindexed compares the index with what the data files alone give.
func (w *world) reindexed() {
	w.t.Helper()
	require.NoError(w.t, w.s.Close())
	w.synced()
	before := readIndex(w.t, w.o)
	require.NoError(w.t, Reindex(w.t.Context(), w.o.IndexDir, w.o.DataDir, DefaultNamespace, w.mode))
	require.Equal(w.t, before, readIndex(w.t, w.o))
	w.shadow = newShadow(w.t) // Reindex does not use it
	w.shadow.adopt(w.t, w.o.DataDir)
	w.shadow.adopt(w.t, w.o.IndexDir)
	w.probes = nil
	w.open()
	w.arm()
	w.check(w.n, w.last())
}

func readIndex(t *testing.T, o Options) map[string]string {
	t.Helper()
	m := map[string]string{}
	files, err := filepath.Glob(filepath.Join(o.IndexDir, DefaultNamespace, "i*"))
	require.NoError(t, err)
	for _, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		m[filepath.Base(f)] = hex.EncodeToString(b)
	}
	return m
}

var crashSeeds = flag.Int("crash.seeds", 4, "runs of TestCrash per mode")

// TestCrash: whatever survives of a run, Open gives exactly the contents after
// some operation, none that was synced is missing, and the index is the one
// that the data files give.
func TestCrash(t *testing.T) {
	steps, seeds := 200, *crashSeeds
	if testing.Short() {
		seeds = 2
	}
	for _, mode := range []Mode{User, Sequential} {
		for seed := range uint64(seeds) {
			t.Run(fmt.Sprintf("%v/%d", mode, seed), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				w := &world{
					t: t, r: rand.New(rand.NewPCG(seed, uint64(mode))), shadow: newShadow(t), mode: mode,
					o: Options{
						DataDir: filepath.Join(dir, "data"), IndexDir: filepath.Join(dir, "index"),
						DataSize: MinDataSize, Mode: mode, SyncEvery: -1,
						Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
					},
					states: []state{{values: map[string]string{}}},
				}
				w.open()
				w.arm()
				for i := range steps {
					w.step()
					w.checkProbes()
					if w.r.IntN(12) == 0 {
						w.crash([]string{"kill", "power", "torn", "torn"}[w.r.IntN(4)])
					}
					if i%60 == 59 {
						w.reindexed()
					}
				}
				w.check(w.n, w.last())
				require.NoError(t, w.s.Close())
			})
		}
	}
}

// fill makes a namespace with a few entries of each kind, syncs it, and
// leaves it without Close; it gives the offsets behind each data entry and
// the contents at each.
func fill(t *testing.T, mode Mode) (Options, []int64, []state) {
	t.Helper()
	dir := t.TempDir()
	o := Options{DataDir: filepath.Join(dir, "data"), IndexDir: filepath.Join(dir, "index"), Mode: mode, SyncEvery: -1}
	s, err := Open(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	n, _ := s.Namespace(DefaultNamespace)
	now := state{values: map[string]string{}}
	ends, states := []int64{n.dataOff}, []state{now}
	do := func(key, value string, remove bool) {
		next := state{maps.Clone(now.values), now.next}
		if remove {
			require.NoError(t, n.Delete(t.Context(), []byte(key)))
			delete(next.values, key)
		} else {
			id, err := n.Set(t.Context(), []byte(key), []byte(value))
			require.NoError(t, err)
			next.values[string(id)] = value
			if mode == Sequential {
				next.next++
			}
		}
		now = next
		ends, states = append(ends, n.dataOff), append(states, now)
	}
	a, b, c := "alpha", "b", "gamma"
	if mode == Sequential {
		a, b, c = "", "", ""
	}
	do(a, "first", false)
	do(b, "", false)
	do(c, "third value", false)
	if mode == Sequential {
		a, b, c = string(segment.SeqKey(0)), string(segment.SeqKey(1)), string(segment.SeqKey(2))
	}
	do(a, "changed", false)
	do(b, "", true)
	do(a, "changed again", false)
	do(c, "x", false)
	require.NoError(t, n.Sync(t.Context()))
	// This also brings the index file beyond the checkpoint.
	require.NoError(t, n.CopyIndex(t.Context(), 0, filepath.Join(dir, "copy")))
	return o, ends, states
}

func copyOptions(t *testing.T, o Options) Options {
	t.Helper()
	dir := t.TempDir()
	c := o
	c.DataDir, c.IndexDir = filepath.Join(dir, "data"), filepath.Join(dir, "index")
	require.NoError(t, os.CopyFS(c.DataDir, os.DirFS(o.DataDir)))
	require.NoError(t, os.CopyFS(c.IndexDir, os.DirFS(o.IndexDir)))
	return c
}

// TestCutAtEveryByte: of a log that ends anywhere, exactly the whole entries
// are there.
func TestCutAtEveryByte(t *testing.T) {
	for _, mode := range []Mode{User, Sequential} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			o, ends, states := fill(t, mode)
			for cut := ends[0]; cut <= ends[len(ends)-1]; cut++ {
				c := copyOptions(t, o)
				require.NoError(t, os.Truncate(filepath.Join(c.DataDir, DefaultNamespace, "d0"), cut))
				whole := 0
				for i, end := range ends {
					if end <= cut {
						whole = i
					}
				}
				requireState(t, c, states[whole], fmt.Sprintf("cut at %d", cut))
				// The index had more than what is left of the log.
				before := readIndex(t, c)
				require.NoError(t, Reindex(t.Context(), c.IndexDir, c.DataDir, DefaultNamespace, mode))
				require.Equal(t, before, readIndex(t, c), "cut at %d", cut)
			}
		})
	}
}

func requireState(t *testing.T, o Options, want state, what string) {
	t.Helper()
	s, err := Open(t.Context(), o)
	require.NoError(t, err, what)
	n, _ := s.Namespace(DefaultNamespace)
	require.Equal(t, want, readState(t, n), what)
	require.NoError(t, s.Close())
}

// TestFlipEveryByte: a flipped byte of a payload, or of what leads to it, ends
// the log before its entry. Timestamps, and keys in user mode, are covered by
// nothing in the format; there Open must only not fail.
func TestFlipEveryByte(t *testing.T) {
	for _, mode := range []Mode{User, Sequential} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			o, ends, states := fill(t, mode)
			entry := 0
			for off := ends[0]; off < ends[len(ends)-1]; off++ {
				if off >= ends[entry+1] {
					entry++
				}
				c := copyOptions(t, o)
				path := filepath.Join(c.DataDir, DefaultNamespace, "d0")
				b, err := os.ReadFile(path)
				require.NoError(t, err)
				klen := int64(b[ends[entry]])
				b[off] ^= 0x55
				require.NoError(t, os.WriteFile(path, b, 0o600))
				at := off - ends[entry]
				emptyUser := mode == User && klen+segment.DataEntrySize == ends[entry+1]-ends[entry]
				if at == 0 && emptyUser || at >= 13 && at < segment.DataEntrySize+klen {
					s, err := Open(t.Context(), c)
					require.NoError(t, err)
					require.NoError(t, s.Close())
					continue
				}
				requireState(t, c, states[entry], fmt.Sprintf("flip at %d", off))
			}
		})
	}
}

// TestSyncSyncs: a Sync that does not reach the disk loses data, and an fsync
// that fails is not forgotten.
func TestSyncSyncs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := Options{DataDir: filepath.Join(dir, "data"), IndexDir: filepath.Join(dir, "index"), SyncEvery: -1}
	sh := newShadow(t)
	d := sh.disk()
	calls, fail := 0, error(nil)
	real := d.datasync
	d.datasync = func(f *os.File) error {
		calls++
		if fail != nil {
			return fail
		}
		return real(f)
	}
	s, err := open(t.Context(), o, d)
	require.NoError(t, err)
	n, _ := s.Namespace(DefaultNamespace)
	before := calls
	_, err = n.Set(t.Context(), []byte("k"), []byte("v"))
	require.NoError(t, err)
	require.Equal(t, before, calls)
	require.NoError(t, n.Sync(t.Context()))
	require.Equal(t, before+1, calls)
	require.NoError(t, n.Sync(t.Context())) // nothing new
	require.Equal(t, before+1, calls)

	lost := Options{DataDir: filepath.Join(dir, "d2"), IndexDir: filepath.Join(dir, "i2")}
	sh.lose(t, o.DataDir, lost.DataDir, nil)
	sh.lose(t, o.IndexDir, lost.IndexDir, nil)
	requireState(t, lost, state{values: map[string]string{"k": "v"}}, "after a power failure")

	fail = errors.New("disk is gone")
	_, err = n.Set(t.Context(), []byte("k"), []byte("w"))
	require.NoError(t, err)
	require.ErrorIs(t, n.Sync(t.Context()), fail)
	fail = nil
	require.Error(t, n.Sync(t.Context()), "a later success says nothing about the lost pages")
	_, err = n.Set(t.Context(), []byte("k2"), []byte("w"))
	require.Error(t, err)
	require.Error(t, s.Close())
}

// TestHalfWrittenEntry: an append that fails leaves the file as it was.
func TestHalfWrittenEntry(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := Options{DataDir: filepath.Join(dir, "data"), IndexDir: filepath.Join(dir, "index"), SyncEvery: -1}
	d := systemDisk()
	full := false
	d.write = func(f *os.File, a, b []byte, off int64) error {
		if full {
			_, err := f.WriteAt(append(a, b[:len(b)/2]...), off)
			return errors.Join(err, syscall.ENOSPC)
		}
		return writeParts(f, a, b, off)
	}
	s, err := open(t.Context(), o, d)
	require.NoError(t, err)
	n, _ := s.Namespace(DefaultNamespace)
	set := func(key, value string) error {
		_, err := n.Set(t.Context(), []byte(key), []byte(value))
		return err
	}
	require.NoError(t, set("a", "one"))
	full = true
	require.ErrorIs(t, set("b", "does not fit"), backend.ErrFull)
	require.ErrorIs(t, set("a", "does not fit"), backend.ErrFull)
	fi, err := os.Stat(n.DataPath(0))
	require.NoError(t, err)
	require.Equal(t, n.dataOff, fi.Size())
	full = false
	require.NoError(t, set("c", "three"))
	want := state{values: map[string]string{"a": "one", "c": "three"}}
	require.Equal(t, want, readState(t, n))
	requireState(t, copyOptions(t, o), want, "killed")
	require.NoError(t, s.Close())
	requireState(t, o, want, "closed")
	f, err := os.Open(filepath.Join(o.DataDir, DefaultNamespace, "d0"))
	require.NoError(t, err)
	defer f.Close()
	_, err = f.Seek(segment.DataHeaderSize, io.SeekStart)
	require.NoError(t, err)
	w := segment.NewWalker(f, segment.DataHeaderSize)
	for range 2 {
		_, err = w.Next()
		require.NoError(t, err)
	}
	_, err = w.Next()
	require.ErrorIs(t, err, io.EOF)
}

// TestFailedFirstWrite: a pair that was made for a write that failed does not
// stay behind: a real zdb could not work on it.
func TestFailedFirstWrite(t *testing.T) {
	t.Parallel()
	o := Options{DataDir: filepath.Join(t.TempDir(), "data"), IndexDir: filepath.Join(t.TempDir(), "index"), SyncEvery: -1}
	d := systemDisk()
	full := false
	d.write = func(f *os.File, a, b []byte, off int64) error {
		if full {
			return syscall.ENOSPC
		}
		return writeParts(f, a, b, off)
	}
	s, err := open(t.Context(), o, d)
	require.NoError(t, err)
	n, _ := s.Namespace(DefaultNamespace)
	_, err = n.Set(t.Context(), []byte("a"), []byte("one"))
	require.NoError(t, err)
	_, err = n.Jump(t.Context())
	require.NoError(t, err)
	full = true
	_, err = n.Set(t.Context(), []byte("b"), []byte("two"))
	require.ErrorIs(t, err, backend.ErrFull)
	require.NoError(t, s.Close())
	require.NoFileExists(t, n.DataPath(1))
	require.NoFileExists(t, n.IndexPath(1))
	requireState(t, o, state{values: map[string]string{"a": "one"}}, "closed")
}
