package qsfs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/hooks"
	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs"
)

// eventFaults loses events between zdb and the table, and gives them again
// later, in any order.
type eventFaults struct {
	mu   sync.Mutex
	rnd  *rand.Rand
	seen []hooks.Event
	lost int
}

func (f *eventFaults) wrap(next hooks.HookHandler) hooks.HookHandler {
	return hooks.HandlerFunc(func(ctx context.Context, e hooks.Event) error {
		if e.Kind == hooks.MissingData || e.Kind == hooks.Ready { // a read has to be answered
			return next.HandleHook(ctx, e)
		}
		f.mu.Lock()
		drop := f.rnd.IntN(2) == 0
		if drop {
			f.lost++
		}
		f.mu.Unlock()
		if drop {
			return nil
		}
		return next.HandleHook(ctx, e)
	})
}

func (f *eventFaults) HandleHook(_ context.Context, e hooks.Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = append(f.seen, e)
	return nil
}

// some gives an event: one that was seen, or one that never was.
func (f *eventFaults) some(rnd *rand.Rand, root string) hooks.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.seen) > 0 && rnd.IntN(3) > 0 {
		return f.seen[rnd.IntN(len(f.seen))]
	}
	ns := []string{"zdbfs-data", "zdbfs-meta", "zdbfs-temp", "default", "../../etc"}[rnd.IntN(5)]
	file := func(sub, letter string) string {
		return fmt.Sprintf("%s/%s/%s/%s%d", root, sub, ns, letter, rnd.IntN(30))
	}
	kinds := []hooks.Kind{hooks.NamespacesInit, hooks.Ready, hooks.NamespaceCreated, hooks.NamespaceUpdated, hooks.NamespaceDeleted,
		hooks.NamespaceReloaded, hooks.JumpIndex, hooks.JumpData, hooks.Close, hooks.NamespaceClosing, hooks.Crash}
	e := hooks.Event{Kind: kinds[rnd.IntN(len(kinds))], Instance: "tcp://[::1]:9900"}
	switch e.Kind {
	case hooks.NamespaceCreated, hooks.NamespaceUpdated, hooks.NamespaceDeleted, hooks.NamespaceReloaded:
		e.Namespace = ns
	case hooks.JumpIndex:
		e.Index, e.NextIndex, e.Dirty = file("index", "i"), file("index", "i"), []uint32{rnd.Uint32N(40)}
	case hooks.JumpData:
		e.Data, e.NextData = file("data", "d"), file("data", "d")
	case hooks.NamespaceClosing:
		e.Namespace, e.Index, e.Data = ns, file("index", "i"), file("data", "d")
	}
	return e
}

// Events that come twice, late, in any order, of files that are not there, or
// not at all change nothing but how soon a file is uploaded: the files here, the
// files of a restore and the queue are as they would be without.
func TestEventsMayComeTwiceLateOrNever(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(42, uint64(time.Now().UnixNano())))
	env := testenv.New(t, testenv.Options{})
	faults := &eventFaults{rnd: rand.New(rand.NewPCG(1, rnd.Uint64()))}
	dir := t.TempDir()
	options := []qsfs.Option{qsfs.WithHooks(faults), qsfs.WithEventFaults(faults.wrap)}
	f := env.FrontendIn(t, dir, options...)
	model := map[string][]byte{}
	spool := &hooks.Spool{Dir: f.Layout().HookSpool()}
	for round := range 12 {
		name := fmt.Sprintf("dir%d/file%d", rnd.IntN(3), rnd.IntN(6))
		model[name] = random(rnd.Uint64(), rnd.IntN(3<<20))
		f.Write(t, name, model[name])
		client := &hooks.Client{Socket: f.Layout().HookSocket()}
		for range 15 {
			e := faults.some(rnd, f.Layout().Root)
			if rnd.IntN(2) == 0 {
				_, err := spool.Put(e)
				require.NoError(t, err)
				continue
			}
			var refused *hooks.RemoteError
			if err := client.HandleHook(t.Context(), e); err != nil {
				require.ErrorAs(t, err, &refused, "%+v", e)
			}
		}
		switch rnd.IntN(4) {
		case 0:
			f.MustSync(t)
			_, err := f.Evict(t.Context(), 0)
			require.NoError(t, err)
		case 1:
			f.MustSync(t)
		}
		if round == 6 {
			require.NoError(t, f.Stop())
			f = env.FrontendIn(t, dir, options...)
		}
	}
	require.Eventually(t, func() bool { st, err := spool.Stats(); return err == nil && st.Events == 0 }, 20*time.Second, 10*time.Millisecond)
	f.MustSync(t)
	for name, data := range model {
		require.True(t, bytes.Equal(data, f.Read(t, name)), name)
	}
	st, err := f.Status(t.Context())
	require.NoError(t, err)
	assert.Zero(t, st.Queue.Pending+st.Queue.Failed)
	assert.Zero(t, st.LossWindow.Bytes)
	require.NoError(t, f.Stop())
	unsynced, err := qsfs.Unsynced(t.Context(), f.Layout())
	require.NoError(t, err)
	assert.Zero(t, unsynced.Files)
	assert.Positive(t, faults.lost)

	restored := env.Open(t, t.TempDir())
	_, err = restored.Restore(t.Context(), qsfs.RestoreOptions{})
	require.NoError(t, err)
	g := env.FrontendIn(t, dirOf(restored))
	for name, data := range model {
		require.True(t, bytes.Equal(data, g.Read(t, name)), name)
	}
}

// While the daemon is down events wait in the spool: they are handled when it
// is back, also behind one that is damaged, and people are told of that one.
func TestSpooledEventsAreHandledAtTheStart(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	faults := &eventFaults{rnd: rand.New(rand.NewPCG(1, 1))}
	f := env.Frontend(t, qsfs.WithDrainTime(-1))
	f.Write(t, "a", random(1, 3<<20))
	require.NoError(t, f.Stop())

	socket := f.Layout().HookSocket()
	settings, err := hooks.ReadSettings(socket)
	require.NoError(t, err)
	require.Equal(t, f.Layout().HookSpool(), settings.Spool, "the daemon has told the hook program")
	require.Equal(t, hooks.ReadyServe, settings.Ready)
	spool := &hooks.Spool{Dir: settings.Spool}
	relay := &hooks.Relay{Daemon: &hooks.Client{Socket: socket}, Spool: spool, Ready: settings.Ready}
	code, reason := relay.Call(t.Context(), []string{"jump-data", "i", filepath.Join(f.Layout().DataDir(), "zdbfs-data", "d0"), "d1"})
	require.Zero(t, code, reason)
	require.NoError(t, os.WriteFile(filepath.Join(spool.Dir, "0000000000000000-00000005-1-1.event"), []byte("trash"), 0o600))
	code, reason = relay.Call(t.Context(), []string{"jump-data", "i", "/elsewhere/data/zdbfs-data/d0", "d1"})
	require.Zero(t, code, reason)
	code, reason = relay.Call(t.Context(), []string{"crash", "tcp://x\nsecond line"})
	require.Zero(t, code, reason)

	again := env.FrontendIn(t, f.Dir, qsfs.WithHooks(faults))
	require.Eventually(t, func() bool { st, err := spool.Stats(); return err == nil && st.Events == 0 }, 10*time.Second, 10*time.Millisecond)
	for _, want := range []string{"set aside", "crashed", "is not below"} {
		require.Eventually(t, func() bool {
			list, err := again.Events(t.Context(), "", 100)
			if err != nil {
				return false
			}
			for _, e := range list.Events {
				if strings.Contains(e.Message, want) {
					return true
				}
			}
			return false
		}, 10*time.Second, 10*time.Millisecond, want)
	}
	require.NoFileExists(t, f.Layout().HookSpool()+"/0000000000000000-00000005-1-1.event")
	again.MustSync(t)
	assert.Equal(t, random(1, 3<<20), again.Read(t, "a"))
}

// A start that takes its time loses no event and answers zdb.
func TestEventsDuringTheStart(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	f := env.Frontend(t)
	f.Write(t, "a", random(1, 2<<20))
	f.MustSync(t)
	_, err := f.Evict(t.Context(), 0)
	require.NoError(t, err)
	require.NoError(t, f.Stop())
	list, err := env.Provisioner.List(t.Context())
	require.NoError(t, err)
	for _, b := range list {
		env.Faults.Down(b.Address)
	}
	sys := env.Open(t, f.Dir)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- sys.Run(ctx) }()
	client := &hooks.Client{Socket: sys.Layout().HookSocket()}
	require.Eventually(t, func() bool {
		err := client.HandleHook(t.Context(), hooks.Event{Kind: hooks.Ready, Instance: "i"})
		return !errors.Is(err, hooks.ErrUnavailable)
	}, 10*time.Second, time.Millisecond)
	require.NoError(t, client.HandleHook(t.Context(), hooks.Event{Kind: hooks.Crash, Instance: "tcp://x"}))
	for _, b := range list {
		env.Faults.Up(b.Address)
	}
	// What begins the tree was dropped: the start waited for the backends.
	select {
	case <-sys.Ready():
	case err := <-ended:
		t.Fatalf("the system ended at its start: %v", err)
	}
	require.Eventually(t, func() bool {
		list, err := sys.Events(t.Context(), "tcp://x", 10)
		return err == nil && len(list.Events) == 1
	}, 10*time.Second, 10*time.Millisecond)
	cancel()
	require.NoError(t, <-ended)
}
