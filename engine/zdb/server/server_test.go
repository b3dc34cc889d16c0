package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/hooks"
)

func testOptions(t testing.TB) Options {
	dir := t.TempDir()
	return Options{DataDir: filepath.Join(dir, "data"), IndexDir: filepath.Join(dir, "index"), DataSize: MinDataSize}
}

func openTest(t testing.TB, o Options) *Server {
	t.Helper()
	s, err := Open(context.Background(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func createTest(t testing.TB, s *Server, name string, m Mode) *Namespace {
	t.Helper()
	n, err := s.CreateNamespace(context.Background(), name, NamespaceOptions{Mode: m})
	require.NoError(t, err)
	return n
}

// recorder remembers events and answers them.
type recorder struct {
	mu     sync.Mutex
	events []hooks.Event
	answer func(ctx context.Context, e hooks.Event) error
}

func (r *recorder) HandleHook(ctx context.Context, e hooks.Event) error {
	r.mu.Lock()
	r.events = append(r.events, e)
	answer := r.answer
	r.mu.Unlock()
	if answer != nil {
		return answer(ctx, e)
	}
	return nil
}

func (r *recorder) kinds() []hooks.Kind {
	r.mu.Lock()
	defer r.mu.Unlock()
	var k []hooks.Kind
	for _, e := range r.events {
		k = append(k, e.Kind)
	}
	return k
}

func (r *recorder) find(k hooks.Kind) []hooks.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.events), func(e hooks.Event) bool { return e.Kind != k })
}

func TestLock(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	s := openTest(t, o)
	_, err := Open(t.Context(), o)
	require.ErrorIs(t, err, ErrLocked)
	var l *LockedError
	require.ErrorAs(t, err, &l)
	require.Equal(t, o.IndexDir, l.Dir)
	require.Contains(t, l.Hint(), o.IndexDir)
	require.ErrorIs(t, Reindex(t.Context(), o.IndexDir, o.DataDir, DefaultNamespace, User), ErrLocked)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	openTest(t, o)
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Options){
		"no folder":       func(o *Options) { o.DataDir = "" },
		"same folder":     func(o *Options) { o.DataDir = o.IndexDir },
		"too small":       func(o *Options) { o.DataSize = MinDataSize - 1 },
		"too large":       func(o *Options) { o.DataSize = MaxDataSize },
		"protect nothing": func(o *Options) { o.Protect = true },
		"mode":            func(o *Options) { o.Mode = 7 },
	} {
		t.Run(name, func(t *testing.T) {
			o := testOptions(t)
			change(&o)
			_, err := Open(t.Context(), o)
			require.ErrorIs(t, err, ErrOptions)
		})
	}
}

// TestHooks follows the events of a life: order, arguments, dirty list.
func TestHooks(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	r := &recorder{}
	o.Hooks, o.Instance = r, "tcp://127.0.0.1:1"
	s, err := Open(t.Context(), o)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), l) }()
	require.Eventually(t, func() bool { return slices.Contains(r.kinds(), hooks.Ready) }, 5*time.Second, time.Millisecond)
	n, _ := s.Namespace(DefaultNamespace)
	ctx := t.Context()
	set := func(key, value string) {
		_, err := n.Set(ctx, []byte(key), []byte(value))
		require.NoError(t, err)
	}
	set("a", "1")
	set("a", "2")
	refuse := errors.New("not now")
	r.answer = func(_ context.Context, e hooks.Event) error {
		if e.Kind != hooks.JumpIndex {
			return nil
		}
		// While the switch waits, readers go on, and files can be copied.
		v, err := n.Get(ctx, []byte("a"))
		if err != nil || string(v) != "2" {
			return fmt.Errorf("read in the hook: %q, %w", v, err)
		}
		if f, err := n.Files(); err != nil || f.HasOpen {
			return fmt.Errorf("files in the hook: %v, %w", f, err)
		}
		if err := n.CopyIndex(ctx, 0, filepath.Join(o.DataDir, "copy")); err != nil {
			return err
		}
		return refuse
	}
	jumped, err := n.Jump(ctx)
	require.NoError(t, err)
	require.True(t, jumped)
	jumped, err = n.Jump(ctx)
	require.NoError(t, err)
	require.False(t, jumped, "nothing to close")
	ix, dx := filepath.Join(o.IndexDir, DefaultNamespace), filepath.Join(o.DataDir, DefaultNamespace)
	require.Equal(t, []hooks.Event{{
		Kind: hooks.JumpIndex, Instance: o.Instance, Index: ix + "/i0", NextIndex: ix + "/i1", Dirty: []uint32{0},
	}}, r.find(hooks.JumpIndex))
	require.NoFileExists(t, ix+"/i1")
	require.NoFileExists(t, dx+"/d1")
	require.Equal(t, []uint32{0}, n.DirtyIndexes(), "the hook failed: handed over again")
	require.Eventually(t, func() bool { return len(r.find(hooks.JumpData)) == 1 }, 5*time.Second, time.Millisecond)
	require.Equal(t, hooks.Event{Kind: hooks.JumpData, Instance: o.Instance, Data: dx + "/d0", NextData: dx + "/d1"}, r.find(hooks.JumpData)[0])

	r.mu.Lock()
	r.answer = nil
	r.mu.Unlock()
	set("a", "3")
	require.FileExists(t, ix+"/i1")
	set("big", strings.Repeat("x", MinDataSize)) // this one switches
	require.Equal(t, []uint32{0}, r.find(hooks.JumpIndex)[1].Dirty)
	require.Empty(t, n.DirtyIndexes())
	require.FileExists(t, dx+"/d2")

	createTest(t, s, "other", Sequential)
	require.NoError(t, s.DeleteNamespace(ctx, "other"))
	require.NoError(t, n.Reload(ctx))
	require.NoError(t, s.Close())
	require.NoError(t, <-done)
	kinds := r.kinds()
	require.Equal(t, []hooks.Kind{hooks.NamespacesInit, hooks.Ready}, kinds[:2])
	for _, k := range []hooks.Kind{hooks.NamespaceCreated, hooks.NamespaceUpdated, hooks.NamespaceDeleted, hooks.NamespaceReloaded} {
		require.Contains(t, kinds, k)
	}
	require.Equal(t, hooks.NamespaceClosing, kinds[len(kinds)-1])
	require.Contains(t, kinds, hooks.Close)
}

func TestReadyRefused(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	refuse := errors.New("no")
	o.Hooks = hooks.HandlerFunc(func(_ context.Context, e hooks.Event) error {
		if e.Kind == hooks.Ready {
			return refuse
		}
		return nil
	})
	s := openTest(t, o)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.ErrorIs(t, s.Serve(t.Context(), l), refuse)
}

// TestMissingData: one hook for many readers; each gives up on its own; others
// are not held up.
func TestMissingData(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	release := make(chan struct{})
	var calls atomic.Int32
	away := filepath.Join(t.TempDir(), "d0")
	o.Hooks = hooks.HandlerFunc(func(_ context.Context, e hooks.Event) error {
		if e.Kind != hooks.MissingData {
			return nil
		}
		calls.Add(1)
		<-release
		return os.Rename(away, e.Data)
	})
	s := openTest(t, o)
	n, _ := s.Namespace(DefaultNamespace)
	ctx := t.Context()
	_, err := n.Set(ctx, []byte("old"), []byte("value"))
	require.NoError(t, err)
	_, err = n.Jump(ctx)
	require.NoError(t, err)
	_, err = n.Set(ctx, []byte("new"), []byte("value"))
	require.NoError(t, err)
	_, err = n.Get(ctx, []byte("old")) // keeps the file open
	require.NoError(t, err)
	require.NoError(t, os.Rename(n.DataPath(0), away))
	n.ForgetData(0) // a rename leaves the open file a name

	results := make(chan error, 10)
	for range 10 {
		go func() {
			v, err := n.Get(ctx, []byte("old"))
			if err == nil && string(v) != "value" {
				err = fmt.Errorf("read %q", v)
			}
			results <- err
		}()
	}
	require.Eventually(t, func() bool { return calls.Load() == 1 }, 5*time.Second, time.Millisecond)
	impatient, cancel := context.WithCancel(ctx)
	cancel()
	_, err = n.Get(impatient, []byte("old"))
	require.ErrorIs(t, err, context.Canceled)
	_, err = n.Get(ctx, []byte("new"))
	require.NoError(t, err, "readers of other files do not wait")
	_, err = n.Set(ctx, []byte("old2"), []byte("value"))
	require.NoError(t, err, "nor do writers")
	close(release)
	for range 10 {
		require.NoError(t, <-results)
	}
	require.EqualValues(t, 1, calls.Load())

	// It does not come back: ErrMissing, and everything but its payload is known.
	require.NoError(t, os.Remove(n.DataPath(0)))
	_, err = n.Get(ctx, []byte("old"))
	require.ErrorIs(t, err, ErrMissing)
	st, err := n.Stat(ctx, []byte("old"))
	require.NoError(t, err)
	require.EqualValues(t, 5, st.Length)
	_, err = n.Set(ctx, []byte("old"), []byte("value"))
	require.NoError(t, err, "what cannot be compared is written again")
	v, err := n.Get(ctx, []byte("old"))
	require.NoError(t, err)
	require.Equal(t, "value", string(v))
}

func TestDropData(t *testing.T) {
	t.Parallel()
	s := openTest(t, testOptions(t))
	n := createTest(t, s, "ns", Sequential)
	ctx := t.Context()
	payload := bytes.Repeat([]byte("x"), 300_000)
	id, err := n.Set(ctx, nil, payload)
	require.NoError(t, err)
	_, err = n.DropData(0)
	require.ErrorIs(t, err, ErrInUse, "open for writing")
	_, err = n.Jump(ctx)
	require.NoError(t, err)
	h, err := n.openData(ctx, 0)
	require.NoError(t, err)
	_, err = n.DropData(0)
	require.ErrorIs(t, err, ErrInUse, "being read")
	n.data.release(h)
	freed, err := n.DropData(0)
	require.NoError(t, err)
	require.GreaterOrEqual(t, freed, int64(len(payload)))
	_, err = n.DropData(0)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = n.Get(ctx, id)
	require.ErrorIs(t, err, ErrMissing)
	f, err := n.Files()
	require.NoError(t, err)
	require.Equal(t, []DataFile{{ID: 0}}, f.Data)
	require.False(t, f.HasOpen)
}

// TestClosedStaysClosed: a pair that was closed is not appended to by the next
// life, whether its data is there or not.
func TestClosedStaysClosed(t *testing.T) {
	t.Parallel()
	for _, present := range []bool{true, false} {
		o := testOptions(t)
		o.Mode = Sequential
		s := openTest(t, o)
		n, _ := s.Namespace(DefaultNamespace)
		_, err := n.Set(t.Context(), nil, []byte("one"))
		require.NoError(t, err)
		_, err = n.Jump(t.Context())
		require.NoError(t, err)
		require.NoError(t, s.Close())
		before, err := os.ReadFile(n.DataPath(0))
		require.NoError(t, err)
		if !present {
			require.NoError(t, os.Remove(n.DataPath(0)))
		}
		s = openTest(t, o)
		n, _ = s.Namespace(DefaultNamespace)
		id, err := n.Set(t.Context(), nil, []byte("two"))
		require.NoError(t, err)
		require.Equal(t, segment.SeqKey(1), id)
		v, err := n.Get(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, "two", string(v))
		require.FileExists(t, n.DataPath(1))
		if present {
			after, err := os.ReadFile(n.DataPath(0))
			require.NoError(t, err)
			require.Equal(t, before, after)
		} else {
			require.NoFileExists(t, n.DataPath(0))
		}
	}
}

// TestInstallClosed: index files and descriptor of a restore, no data.
func TestInstallClosed(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	s := openTest(t, o)
	n := createTest(t, s, "ns", Sequential)
	ctx := t.Context()
	for i := range 5 {
		_, err := n.Set(ctx, nil, fmt.Appendf(nil, "%d", i))
		require.NoError(t, err)
		if i == 2 {
			_, err = n.Jump(ctx)
			require.NoError(t, err)
		}
	}
	_, err := n.Set(ctx, segment.SeqKey(0), []byte("changed"))
	require.NoError(t, err)
	to := testOptions(t)
	dir := filepath.Join(to.IndexDir, "ns")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	for id := range uint32(2) {
		require.NoError(t, n.CopyIndex(ctx, id, filepath.Join(dir, segment.IndexName(id))))
	}
	b, err := os.ReadFile(n.DescriptorPath())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, segment.DescriptorName), b, 0o600))
	require.NoError(t, InstallClosed(to.IndexDir, to.DataDir, "ns"))
	source := n
	to.Hooks = hooks.HandlerFunc(func(_ context.Context, e hooks.Event) error {
		if e.Kind != hooks.MissingData {
			return nil
		}
		b, err := os.ReadFile(filepath.Join(source.dataDir, filepath.Base(e.Data)))
		if err != nil {
			return err
		}
		return os.WriteFile(e.Data, b, 0o600)
	})
	for life := range 2 {
		s2, err := Open(ctx, to)
		require.NoError(t, err)
		n2, ok := s2.Namespace("ns")
		require.True(t, ok)
		f, err := n2.Files()
		require.NoError(t, err)
		require.Equal(t, life > 0, f.HasOpen)
		v, err := n2.Get(ctx, segment.SeqKey(0))
		require.NoError(t, err)
		require.Equal(t, "changed", string(v))
		id, err := n2.Set(ctx, nil, []byte("next"))
		require.NoError(t, err)
		require.Equal(t, segment.SeqKey(uint64(6+life)), id)
		require.FileExists(t, n2.DataPath(2))
		require.NoError(t, s2.Close())
	}
	require.ErrorIs(t, InstallClosed(to.IndexDir, to.DataDir, "none"), fs.ErrNotExist)
}

func TestFlush(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	s := openTest(t, o)
	n, err := s.CreateNamespace(t.Context(), "tmp", NamespaceOptions{Mode: Sequential, Password: "p"})
	require.NoError(t, err)
	for i := range 10 {
		_, err := n.Set(t.Context(), nil, []byte("x"))
		require.NoError(t, err)
		if i%3 == 0 {
			_, err = n.Jump(t.Context())
			require.NoError(t, err)
		}
	}
	for range 2 {
		require.NoError(t, n.Flush(t.Context()))
		require.Zero(t, n.Info().Entries)
		id, err := n.Set(t.Context(), nil, []byte("again"))
		require.NoError(t, err)
		require.Equal(t, segment.SeqKey(0), id)
		require.NoFileExists(t, n.DataPath(1))
	}
	// A crash after the flush was decided, before its files were gone.
	require.NoError(t, n.checkpoint(t.Context(), checkpointOptions{flushing: true}))
	c := copyOptions(t, o)
	s2 := openTest(t, c)
	n2, _ := s2.Namespace("tmp")
	require.Zero(t, n2.Info().Entries)
	require.Equal(t, Sequential, n2.Mode())
	require.True(t, n2.Info().Password)
}

func TestDeleteIsCompleted(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	s := openTest(t, o)
	createTest(t, s, "ns", User)
	c := copyOptions(t, o)
	require.NoError(t, os.Rename(filepath.Join(c.DataDir, "ns"), filepath.Join(c.DataDir, deletedPrefix+"ns")))
	s2 := openTest(t, c)
	require.Equal(t, []string{DefaultNamespace}, s2.Namespaces())
	require.NoDirExists(t, filepath.Join(c.IndexDir, "ns"))
	require.NoError(t, s.DeleteNamespace(t.Context(), "ns"))
	require.ErrorIs(t, s.DeleteNamespace(t.Context(), "ns"), ErrNoNamespace)
	createTest(t, s, "ns", Sequential)
}

func TestCreateNamespace(t *testing.T) {
	t.Parallel()
	s := openTest(t, testOptions(t))
	n := createTest(t, s, "ns", Sequential)
	require.Same(t, n, createTest(t, s, "ns", Sequential))
	require.Same(t, n, createTest(t, s, "ns", 0))
	_, err := s.CreateNamespace(t.Context(), "ns", NamespaceOptions{Mode: User})
	require.ErrorIs(t, err, backend.ErrMode)
	for _, name := range []string{"", ".", "..", "a/b", "a\x00b", strings.Repeat("x", 129)} {
		_, err := s.CreateNamespace(t.Context(), name, NamespaceOptions{})
		require.ErrorIs(t, err, ErrOptions, name)
	}
}

// TestRotateByTime uses a clock of its own.
func TestRotateByTime(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	o.Rotate = 40 * time.Millisecond
	d := systemDisk()
	var now atomic.Int64
	d.now = func() time.Duration { return time.Duration(now.Load()) }
	s, err := open(t.Context(), o, d)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	n, _ := s.Namespace(DefaultNamespace)
	_, err = n.Set(t.Context(), []byte("k"), []byte("v"))
	require.NoError(t, err)
	n.tick(false)
	f, err := n.Files()
	require.NoError(t, err)
	require.True(t, f.HasOpen)
	now.Add(int64(time.Second))
	require.Eventually(t, func() bool {
		f, err := n.Files()
		return err == nil && !f.HasOpen
	}, 5*time.Second, 5*time.Millisecond)
	require.NoFileExists(t, n.DataPath(1))
}

// TestCopyIndexWhileWriting: a copy is the index at one moment.
func TestCopyIndexWhileWriting(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	s := openTest(t, o)
	n := createTest(t, s, "ns", Sequential)
	ctx := t.Context()
	const keys = 50
	for range keys {
		_, err := n.Set(ctx, nil, []byte("0"))
		require.NoError(t, err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for round := 1; ; round++ { // every key gets the same number of rounds, in order
			for id := range uint64(keys) {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := n.Set(ctx, segment.SeqKey(id), fmt.Append(nil, round)); err != nil {
					t.Error(err)
					return
				}
				if id%7 == 0 {
					if err := n.Checkpoint(ctx); err != nil {
						t.Error(err)
						return
					}
				}
			}
		}
	})
	dir := t.TempDir()
	for i := range 20 {
		dst := filepath.Join(dir, fmt.Sprint(i))
		require.NoError(t, n.CopyIndex(ctx, 0, dst))
		b, err := os.ReadFile(dst)
		require.NoError(t, err)
		var previous uint32 = 1<<32 - 1
		for id := range uint32(keys) { // later keys were never written after earlier ones of the next round
			e, err := segment.DecodeIndexEntry(b[segment.SlotOffset(id) : segment.SlotOffset(id)+segment.SeqSlotSize])
			require.NoError(t, err)
			require.False(t, e.Deleted())
			if id > 0 && e.Offset > previous {
				continue
			}
			previous = e.Offset
		}
		slots := (int64(len(b)) - segment.IndexHeaderSize) / segment.SeqSlotSize
		newest := uint32(0)
		for slot := range uint32(slots) {
			e, err := segment.DecodeIndexEntry(b[segment.SlotOffset(slot) : segment.SlotOffset(slot)+segment.SeqSlotSize])
			require.NoError(t, err)
			newest = max(newest, e.Offset)
		}
		// Updates seen in slots are as many as copies at the end.
		require.Equal(t, int(slots), updatesBefore(t, n, newest), "slots and updates of one moment")
	}
	close(stop)
	wg.Wait()
	require.Error(t, n.CopyIndex(ctx, 0, filepath.Join(dir, "0")), "exists")
	require.Error(t, n.CopyIndex(ctx, 9, filepath.Join(dir, "9")))
}

// updatesBefore counts the entries of d0 up to the one at offset.
func updatesBefore(t *testing.T, n *Namespace, offset uint32) int {
	f, err := os.Open(n.DataPath(0))
	require.NoError(t, err)
	defer f.Close()
	w := segment.NewWalker(io.NewSectionReader(f, segment.DataHeaderSize, 1<<40), segment.DataHeaderSize)
	for k := 1; ; k++ {
		at := w.Offset()
		_, err := w.Next()
		require.NoError(t, err)
		if at == int64(offset) {
			return k
		}
	}
}

// TestGroupCommit: callers who come while a sync runs share the next one.
func TestGroupCommit(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	o.SyncEvery = -1
	d := systemDisk()
	var calls atomic.Int32
	hold := make(chan struct{})
	d.datasync = func(*os.File) error {
		calls.Add(1)
		<-hold
		return nil
	}
	close(hold)
	s, err := open(t.Context(), o, d)
	require.NoError(t, err)
	n, _ := s.Namespace(DefaultNamespace)
	before := calls.Load()
	hold = make(chan struct{})
	results := make(chan error, 32)
	for i := range 32 {
		_, err := n.Set(t.Context(), fmt.Appendf(nil, "k%d", i), []byte("v"))
		require.NoError(t, err)
		go func() { results <- n.Sync(t.Context()) }()
		if i == 0 { // under way: it does not cover what is written from here on
			require.Eventually(t, func() bool {
				n.syncer.mu.Lock()
				defer n.syncer.mu.Unlock()
				return n.syncer.ended != nil
			}, 5*time.Second, time.Millisecond)
		}
	}
	require.Eventually(t, func() bool {
		n.syncer.mu.Lock()
		defer n.syncer.mu.Unlock()
		return n.syncer.ended != nil && n.syncer.next != nil
	}, 5*time.Second, time.Millisecond)
	_, err = n.Get(t.Context(), []byte("k1"))
	require.NoError(t, err, "readers do not wait for an fsync")
	_, err = n.Set(t.Context(), []byte("k1"), []byte("w"))
	require.NoError(t, err, "nor do writers")
	close(hold)
	for range 32 {
		require.NoError(t, <-results)
	}
	require.LessOrEqual(t, calls.Load()-before, int32(8))
	require.NoError(t, s.Close())
}

// TestDamage follows the table of what a start does about damage.
func TestDamage(t *testing.T) {
	for name, c := range map[string]struct {
		hurt func(t *testing.T, index, data string)
		want error
		keys int
	}{
		"gap": {func(t *testing.T, index, _ string) {
			require.NoError(t, os.Remove(index+"/i0"))
		}, ErrDamaged, 0},
		"no index at all": {func(t *testing.T, index, _ string) {
			require.NoError(t, os.Remove(index+"/i0"))
			require.NoError(t, os.Remove(index+"/i1"))
		}, ErrDamaged, 0},
		"bad magic": {func(t *testing.T, index, _ string) { flip(t, index+"/i0", 1) }, ErrDamaged, 0},
		"wrong id":  {func(t *testing.T, index, _ string) { flip(t, index+"/i1", 24) }, ErrDamaged, 0},
		"short header of an old index": {func(t *testing.T, index, _ string) {
			require.NoError(t, os.Truncate(index+"/i0", 20))
		}, ErrDamaged, 0},
		"empty last index": {func(t *testing.T, index, _ string) {
			require.NoError(t, os.Truncate(index+"/i1", 0))
		}, nil, 4},
		"last index cut": {func(t *testing.T, index, _ string) {
			require.NoError(t, os.Truncate(index+"/i1", 29+50))
		}, nil, 4},
		"active data missing": {func(t *testing.T, _, data string) {
			require.NoError(t, os.Remove(data+"/d1"))
		}, nil, 2},
		"old data missing": {func(t *testing.T, _, data string) {
			require.NoError(t, os.Remove(data+"/d0"))
		}, nil, 2},
		"active data cut in its last entry": {func(t *testing.T, _, data string) {
			fi, err := os.Stat(data + "/d1")
			require.NoError(t, err)
			require.NoError(t, os.Truncate(data+"/d1", fi.Size()-1))
		}, nil, 3},
		"last payload flipped": {func(t *testing.T, _, data string) {
			fi, err := os.Stat(data + "/d1")
			require.NoError(t, err)
			flip(t, data+"/d1", fi.Size()-1)
		}, nil, 3},
		"old payload flipped": {func(t *testing.T, _, data string) { flip(t, data+"/d0", 60) }, nil, 3},
		"no descriptor": {func(t *testing.T, index, _ string) {
			require.NoError(t, os.Remove(index+"/zdb-namespace"))
		}, nil, 4},
		"descriptor of another version": {func(t *testing.T, index, _ string) { flip(t, index+"/zdb-namespace", 0) }, ErrDamaged, 0},
	} {
		for _, ours := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/%v", name, ours), func(t *testing.T) {
				t.Parallel()
				o := testOptions(t)
				o.Mode = Sequential
				s, err := Open(t.Context(), o)
				require.NoError(t, err)
				n, _ := s.Namespace(DefaultNamespace)
				for i := range 4 {
					_, err := n.Set(t.Context(), nil, bytes.Repeat(fmt.Append(nil, i), 20))
					require.NoError(t, err)
					if i == 1 {
						_, err := n.Jump(t.Context())
						require.NoError(t, err)
					}
				}
				require.NoError(t, s.Close())
				if !ours {
					require.NoError(t, os.Remove(filepath.Join(n.indexDir, CheckpointName)))
				}
				c.hurt(t, n.indexDir, n.dataDir)
				s, err = Open(t.Context(), o)
				require.ErrorIs(t, err, c.want)
				if c.want != nil {
					return
				}
				require.NoError(t, err)
				defer s.Close()
				n, _ = s.Namespace(DefaultNamespace)
				good := 0
				for id := range uint64(4) {
					v, err := n.Get(t.Context(), segment.SeqKey(id))
					if err == nil {
						require.Equal(t, bytes.Repeat(fmt.Append(nil, id), 20), v)
						good++
					}
				}
				require.Equal(t, c.keys, good)
				id, err := n.Set(t.Context(), nil, []byte("after"))
				require.NoError(t, err)
				v, err := n.Get(t.Context(), id)
				require.NoError(t, err)
				require.Equal(t, "after", string(v))
			})
		}
	}
}

func flip(t *testing.T, path string, off int64) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], off)
	require.NoError(t, err)
	b[0] ^= 0x55
	_, err = f.WriteAt(b[:], off)
	require.NoError(t, err)
}

// TestCheckpointFile: what is encoded is decoded, and no byte may be wrong.
func TestCheckpointFile(t *testing.T) {
	t.Parallel()
	c := &checkpointFile{
		clean: true, closed: true, counted: true, mode: Sequential, dataOff: 12345, lastData: 99,
		lengths: []int64{71, 29, 113}, slots: 3, live: 2, liveBytes: 1 << 40, liveIndex: 144,
		last: place{2, 71}, dirty: []uint32{0, 2}, patches: []placedPatch{{place{0, 29}, patch{n: 42, b: [42]byte{1, 2, 3}}}},
	}
	b := c.encode()
	got, err := decodeCheckpoint(b)
	require.NoError(t, err)
	require.Equal(t, c, got)
	for i := range b {
		x := bytes.Clone(b)
		x[i] ^= 0x10
		_, err := decodeCheckpoint(x)
		require.ErrorIs(t, err, ErrDamaged)
		_, err = decodeCheckpoint(b[:i])
		require.ErrorIs(t, err, ErrDamaged)
	}
}

func FuzzCheckpoint(f *testing.F) {
	c := &checkpointFile{lengths: []int64{71}, patches: []placedPatch{{place{0, 29}, patch{at: 13, n: 1}}}, dirty: []uint32{0}, mode: User}
	f.Add(c.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 4 { // the checksum would stop everything else
			body := b[:len(b)-4]
			c := checkpointSum(body)
			b = append(bytes.Clone(body), c...)
		}
		c, err := decodeCheckpoint(b)
		if err != nil {
			return
		}
		again, err := decodeCheckpoint(c.encode())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again.encode(), c.encode()) {
			t.Fatal("not the identity")
		}
	})
}

func TestMaxConnectionsAndLargeRequests(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	o.MaxConnections = 2
	s := openTest(t, o)
	addr := serve(t, s)
	var conns []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", addr.String())
		require.NoError(t, err)
		defer c.Close()
		conns = append(conns, c)
		_, err = io.WriteString(c, "*1\r\n$4\r\nPING\r\n")
		require.NoError(t, err)
		line, err := bufio.NewReader(c).ReadString('\n')
		if len(conns) <= 2 {
			require.NoError(t, err)
			require.Equal(t, "+PONG\r\n", line)
		} else {
			require.Error(t, err)
		}
	}
	// Two 8 MiB arguments in one request are too much.
	c := conns[0]
	_, err := fmt.Fprintf(c, "*3\r\n$3\r\nSET\r\n$%d\r\n", 8<<20)
	require.NoError(t, err)
	_, err = c.Write(make([]byte, 8<<20))
	require.NoError(t, err)
	_, err = fmt.Fprintf(c, "\r\n$%d\r\n", 8<<20)
	require.NoError(t, err)
	line, err := bufio.NewReader(c).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "-Payload too big\r\n", line)
}

// TestDirtySurvives: which index files differ from their last copy is known
// after a restart and after a crash.
func TestDirtySurvives(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	o.Mode = Sequential
	s := openTest(t, o)
	n, _ := s.Namespace(DefaultNamespace)
	ctx := t.Context()
	for range 3 {
		_, err := n.Set(ctx, nil, []byte("x"))
		require.NoError(t, err)
		_, err = n.Jump(ctx)
		require.NoError(t, err)
	}
	_, err := n.Set(ctx, segment.SeqKey(1), []byte("y"))
	require.NoError(t, err)
	require.NoError(t, n.Checkpoint(ctx))
	require.NoError(t, n.Delete(ctx, segment.SeqKey(0)))
	require.Equal(t, []uint32{0, 1}, n.DirtyIndexes())
	killed := openTest(t, copyOptions(t, o))
	k, _ := killed.Namespace(DefaultNamespace)
	require.Equal(t, []uint32{0, 1}, k.DirtyIndexes())
	n.ResetDirty([]uint32{0})
	require.NoError(t, s.Close())
	s = openTest(t, o)
	n, _ = s.Namespace(DefaultNamespace)
	require.Equal(t, []uint32{1}, n.DirtyIndexes())
}

// TestLostCheckpoint: with the checkpoint gone bad after a kill, the index is
// made anew from the data.
func TestLostCheckpoint(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{User, Sequential} {
		o, _, states := fill(t, mode)
		c := copyOptions(t, o)
		require.NoError(t, os.WriteFile(filepath.Join(c.IndexDir, DefaultNamespace, CheckpointName), []byte("garbage"), 0o600))
		requireState(t, c, states[len(states)-1], mode.String())
	}
}

// TestConcurrent: readers, writers, switches and checkpoints together.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	s := openTest(t, o)
	n := createTest(t, s, "ns", Sequential)
	ctx := t.Context()
	const writers, each = 4, 150
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var background sync.WaitGroup
	background.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			var err error
			switch i % 3 {
			case 0:
				err = n.Checkpoint(ctx)
			case 1:
				_, err = n.Jump(ctx)
			default:
				_, _, err = n.Scan(ctx, nil)
				if err == io.EOF {
					err = nil
				}
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				value := bytes.Repeat(fmt.Appendf(nil, "%d.%d ", w, i), 500)
				id, err := n.Set(ctx, nil, value)
				if err == nil {
					_, err = n.Set(ctx, id, append(value, '!'))
				}
				if err == nil && i%10 == 0 {
					err = n.Sync(ctx)
				}
				v, gerr := n.Get(ctx, id)
				if err != nil || gerr != nil || !bytes.Equal(v, append(value, '!')) {
					t.Errorf("%v %v: wrong payload", err, gerr)
					return
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	background.Wait()
	require.EqualValues(t, writers*each, n.Info().Entries)
	require.Len(t, scanKeys(t, n), writers*each)
}
