package qsfs

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/hooks"
)

// table records what reaches it.
type table struct {
	mu     sync.Mutex
	events []hooks.Event
	err    error
	block  chan struct{}
}

func (h *table) HandleHook(ctx context.Context, e hooks.Event) error {
	h.mu.Lock()
	h.events = append(h.events, e)
	err, block := h.err, h.block
	h.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

func (h *table) kinds() (out []hooks.Kind) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		out = append(out, e.Kind)
	}
	return out
}

func (h *table) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
}

func newGate(t *testing.T, h hooks.HookHandler) *eventGate {
	return newEventGate(h, slog.New(slog.DiscardHandler), filepath.Join(t.TempDir(), "spool"), filepath.Join(t.TempDir(), "other"))
}

func spooled(t *testing.T, g *eventGate) int {
	t.Helper()
	st, err := g.spools[0].Stats()
	require.NoError(t, err)
	return st.Events
}

func reading(t *testing.T, g *eventGate) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); g.read(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
}

// Before the system serves nothing is lost and zdb waits for nothing but a read.
func TestGateBeforeTheSystemServes(t *testing.T) {
	t.Parallel()
	h := &table{}
	g := newGate(t, h)
	order := []hooks.Kind{hooks.JumpIndex, hooks.JumpData, hooks.NamespaceUpdated, hooks.Close, hooks.NamespaceClosing, hooks.Crash}
	for _, k := range order {
		require.NoError(t, g.HandleHook(t.Context(), hooks.Event{Kind: k}))
	}
	require.Equal(t, len(order), spooled(t, g), "durable before it is answered")
	read := make(chan error, 1)
	go func() { read <- g.HandleHook(context.Background(), hooks.Event{Kind: hooks.MissingData}) }()
	require.Empty(t, h.kinds())
	g.open()
	require.NoError(t, <-read)
	reading(t, g)
	require.Eventually(t, func() bool { return len(h.kinds()) == len(order)+1 }, 5*time.Second, time.Millisecond)
	require.Equal(t, order, h.kinds()[1:], "in the order of their arrival")
	require.Eventually(t, func() bool { return spooled(t, g) == 0 }, 5*time.Second, time.Millisecond)
}

// A system that could not start holds nobody up.
func TestGateThatNeverOpens(t *testing.T) {
	t.Parallel()
	g := newGate(t, &table{})
	read := make(chan error, 1)
	go func() { read <- g.HandleHook(context.Background(), hooks.Event{Kind: hooks.MissingData}) }()
	g.end()
	require.ErrorIs(t, <-read, hooks.ErrUnavailable)
	require.ErrorIs(t, g.HandleHook(t.Context(), hooks.Event{Kind: hooks.Ready}), hooks.ErrUnavailable, "the policy decides")
	require.NoError(t, g.HandleHook(t.Context(), hooks.Event{Kind: hooks.JumpIndex, Dirty: []uint32{4}}))
	require.Equal(t, 1, spooled(t, g))
	g.open()
	require.NoError(t, g.HandleHook(t.Context(), hooks.Event{Kind: hooks.JumpData}), "it stays shut")
	require.Equal(t, 2, spooled(t, g))
}

// What is on its way when the system ends is ended, and kept.
func TestGateEndsWhatRuns(t *testing.T) {
	t.Parallel()
	h := &table{block: make(chan struct{})}
	g := newGate(t, h)
	g.open()
	answers := map[hooks.Kind]chan error{hooks.JumpIndex: make(chan error, 1), hooks.MissingData: make(chan error, 1)}
	for k, answer := range answers {
		go func() { answer <- g.HandleHook(context.Background(), hooks.Event{Kind: k}) }()
	}
	require.Eventually(t, func() bool { return len(h.kinds()) == 2 }, 5*time.Second, time.Millisecond)
	g.end()
	require.NoError(t, <-answers[hooks.JumpIndex])
	require.Equal(t, 1, spooled(t, g))
	require.ErrorIs(t, <-answers[hooks.MissingData], hooks.ErrUnavailable)
}

// An event that fails is tried again until it succeeds; one that cannot be
// understood is told and put away.
func TestGateTriesAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &table{err: errors.New("database is locked")}
		g := newGate(t, h)
		var refused []error
		g.refused = func(_ hooks.Spooled, err error) { refused = append(refused, err) }
		g.open()
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() { defer close(ended); g.read(ctx) }()
		require.NoError(t, g.HandleHook(t.Context(), hooks.Event{Kind: hooks.JumpData}), "nobody waits for it")
		require.Error(t, g.HandleHook(t.Context(), hooks.Event{Kind: hooks.JumpIndex}), "zdb keeps its list")
		require.Equal(t, 1, spooled(t, g))
		began := time.Now()
		time.Sleep(time.Hour)
		tries := len(h.kinds())
		require.Greater(t, tries, 8)
		require.Less(t, tries, 25, "with growing pauses")
		h.fail(nil)
		for spooled(t, g) > 0 {
			time.Sleep(time.Second)
		}
		require.Less(t, time.Since(began), 80*time.Minute)
		h.fail(hooks.ErrEvent)
		require.ErrorIs(t, g.HandleHook(t.Context(), hooks.Event{Kind: hooks.JumpData}), hooks.ErrEvent)
		_, err := g.spools[0].Put(hooks.Event{Kind: hooks.JumpData})
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.Zero(t, spooled(t, g))
		require.Len(t, refused, 1)
		cancel()
		<-ended
	})
}

// What hook programs put into either folder is found, and the reader does not
// spin.
func TestGateFindsWhatProgramsSpooled(t *testing.T) {
	t.Parallel()
	h := &table{}
	g := newGate(t, h)
	var bad []string
	g.bad = func(f string) { bad = append(bad, f) }
	g.open()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); g.read(ctx) }()
	for i, s := range g.spools {
		name, err := s.Put(hooks.Event{Kind: hooks.JumpData, Data: "torn"})
		require.NoError(t, err)
		_ = os.Truncate(filepath.Join(s.Dir, name), 10) // it may be handled already
		_, err = s.Put(hooks.Event{Kind: hooks.Crash})
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			n := 0
			for _, k := range h.kinds() {
				if k == hooks.Crash {
					n++
				}
			}
			return n == i+1
		}, 20*time.Second, 10*time.Millisecond)
	}
	cancel()
	<-ended
	require.LessOrEqual(t, len(bad), 2)
	require.False(t, slices.Contains(h.kinds(), hooks.MissingData))
}
