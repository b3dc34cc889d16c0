package qsfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/internal/boottime"
	"github.com/threefoldtech/quantumd/qsfs/epoch"
	"github.com/threefoldtech/quantumd/qsfs/generation"
)

// healthEvery is how often each backend is looked at.
const healthEvery = 10 * time.Second

// healthWatch looks at every backend again and again, and renews the lease.
type healthWatch struct {
	sys *System
	log *slog.Logger

	back *signal // told when a backend, or the lease, is back

	mu     sync.Mutex
	order  []backend.Backend
	health map[string]backend.Health // by id
	leased bool                      // the last renewal succeeded
	looked bool                      // a first look is done

	lastLook time.Duration   // boot time
	network  bool            // so many backends answered that this machine's network is up
	losses   map[string]loss // by id, of backends in the set
	suspects map[string]int  // damaged shards found since the backend was last replaced
}

// loss is a backend that cannot be relied on.
type loss struct {
	reason string
	full   bool          // it is only full: what it holds can be read
	lasted time.Duration // as far as it was seen, with the network of this machine up
}

// run looks until ctx ends.
func (w *healthWatch) run(ctx context.Context) {
	for {
		w.sys.healthPulse.beat()
		w.look(ctx)
		if !wait(ctx, min(healthEvery, w.sys.fence.Identity().Lease/3)) {
			return
		}
	}
}

func (w *healthWatch) look(ctx context.Context) {
	back := w.lease(ctx)
	if w.sys.fence.Fenced() != nil {
		w.sys.fencedOnce.Do(func() { w.sys.fenced(ctx) })
	}
	up := w.backends(ctx)
	if w.allMetaUp() {
		if err := w.sys.complete(ctx); err != nil && ctx.Err() == nil {
			w.log.Warn("degraded files could not be completed", "err", err)
		}
	}
	w.sys.replacing.tell()
	w.tellBack(ctx, up || back)
}

// again looks at the backends out of turn: the set has changed, or somebody wants
// to know how it is now.
func (w *healthWatch) again(ctx context.Context) { w.tellBack(ctx, w.backends(ctx)) }

// tellBack wakes what waits for a backend, or the lease, that is back.
func (w *healthWatch) tellBack(ctx context.Context, back bool) {
	if back {
		w.back.tell()
		// What failed because of them is tried now, not at the end of its pause.
		if _, err := w.sys.store.Queue().RetryNow(ctx); err != nil && ctx.Err() == nil {
			w.log.Warn("waiting uploads could not be woken", "err", err)
		}
	}
}

// lease renews the lease and leaves a sign of life; true when it is back after
// it was lost.
func (w *healthWatch) lease(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, w.sys.fence.Identity().Lease/2)
	defer cancel()
	err := w.sys.fence.Renew(ctx)
	if err == nil {
		err = w.sys.fence.Sign(ctx)
	}
	if errors.Is(err, epoch.ErrReleased) {
		return false // the end
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	back := err == nil && !w.leased
	switch {
	case err != nil && w.leased, err != nil && !w.looked:
		w.log.Warn("uploads pause", "err", err)
	case back && w.looked:
		w.log.Info("uploads go on")
	}
	w.leased = err == nil
	if errors.Is(err, ErrFenced) {
		w.sys.setState("fenced")
	}
	return back
}

// backends asks every backend at the same time; true when one is up that was
// not.
func (w *healthWatch) backends(ctx context.Context) bool {
	set := w.sys.current().List()
	list := append(set, w.spares(ctx)...)
	found := make([]backend.Health, len(list))
	var asking sync.WaitGroup
	for i, b := range list {
		asking.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, healthEvery/2)
			defer cancel()
			found[i] = w.sys.opts.provisioner.Health(ctx, b)
		})
	}
	asking.Wait()
	if ctx.Err() != nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.order = list
	w.looked = true
	up := false
	known := map[string]bool{}
	for i, b := range list {
		known[b.ID] = true
		old, seen := w.health[b.ID]
		now := found[i]
		now.Since = time.Now()
		if now.State == backend.Up || now.State == backend.Full {
			w.sys.engine.Reachable(b)
		}
		if seen && old.State == now.State {
			now.Since = old.Since
		} else if seen || now.State != backend.Up {
			w.log.Info("backend", "backend", b.ID, "address", b.Address, "state", now.State, "err", now.Err)
			w.sys.happened(ctx, eventBackend, b.ID, "%s", stateInWords(now))
			up = up || now.State == backend.Up
		}
		if !seen && now.State == backend.Up {
			up = true // what an earlier life, or an earlier set, could not do is tried now
		}
		w.health[b.ID] = now
	}
	for id := range w.health {
		if !known[id] {
			delete(w.health, id)
		}
	}
	w.weigh(set)
	return up
}

func stateInWords(h backend.Health) string {
	if h.Err != nil {
		return fmt.Sprintf("is %s: %v", h.State, h.Err)
	}
	return fmt.Sprintf("is %s", h.State)
}

// spares are listed backends that are not in the set, nor were.
func (w *healthWatch) spares(ctx context.Context) []backend.Backend {
	list, err := w.sys.opts.provisioner.List(ctx)
	if err != nil && len(list) == 0 {
		w.log.Warn("cannot list the backends", "err", err)
	}
	g := w.sys.current()
	var out []backend.Backend
	for _, b := range list {
		if b.Spare && !g.Knows(b) {
			out = append(out, b)
		}
	}
	return out
}

// What makes a backend one that cannot be relied on.
const (
	// slowAnswer is how long a backend may take to answer a look.
	slowAnswer = 2 * time.Second
	// badShards is how many damaged shards a scrub may find on one backend before
	// its disk is taken for failing.
	badShards = 10
)

// weigh adds up how long each backend of the set has not worked. What was not
// seen does not count, nor what was seen while most backends did not answer: then
// it is this machine's network that is down. The caller holds mu.
func (w *healthWatch) weigh(set []backend.Backend) {
	now := boottime.Now()
	passed := min(now-w.lastLook, 2*healthEvery)
	if w.lastLook == 0 {
		passed = 0
	}
	w.lastLook = now
	answered := 0
	for _, b := range set {
		var silent *backend.UnreachableError
		if h := w.health[b.ID]; h.State != backend.Down || !errors.As(h.Err, &silent) {
			answered++ // also with a refusal
		}
	}
	w.network = 2*answered > len(set)
	losses := map[string]loss{}
	for _, b := range set {
		l, lost := w.lost(b)
		if !lost {
			continue
		}
		if old, seen := w.losses[b.ID]; seen {
			l.lasted = old.lasted
			if w.network {
				l.lasted += passed
			}
		}
		losses[b.ID] = l
	}
	w.losses = losses
	for id := range w.suspects {
		if !slices.ContainsFunc(set, func(b backend.Backend) bool { return b.ID == id }) {
			delete(w.suspects, id)
		}
	}
}

// lost says whether, and why, a backend cannot be relied on.
func (w *healthWatch) lost(b backend.Backend) (loss, bool) {
	h := w.health[b.ID]
	switch {
	case h.State == backend.Down && h.Err != nil:
		return loss{reason: h.Err.Error()}, true
	case h.State == backend.Full && !b.Spare: // a spare in the set is one that was relieved
		return loss{reason: "it is full", full: b.Role == backend.Data}, true
	case h.State == backend.Up && h.Latency > slowAnswer:
		return loss{reason: fmt.Sprintf("it takes %s to answer", h.Latency.Round(time.Millisecond))}, true
	case w.suspects[b.ID] >= badShards:
		return loss{reason: fmt.Sprintf("%d of its shards are damaged", w.suspects[b.ID])}, true
	}
	return loss{}, false
}

// suspect notes that a damaged shard was found on a backend.
func (w *healthWatch) suspect(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.suspects[id]++
}

// look at what is lost: by id, whether this machine's network is up, and whether
// anything is known at all.
func (w *healthWatch) lostNow() (losses map[string]loss, network, looked bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.losses), w.network, w.looked
}

// allMetaUp says whether every metadata backend answered the last look.
func (w *healthWatch) allMetaUp() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range w.order {
		if b.Role == backend.Meta && !b.Spare && w.health[b.ID].State != backend.Up {
			return false
		}
	}
	return len(w.order) > 0
}

// allAnswer says whether every backend that holds a shard of an object worked at
// the last look.
func (w *healthWatch) allAnswer(obj zstor.Object) bool {
	if w == nil {
		return true // nobody looked yet
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range w.order {
		if w.health[b.ID].State == backend.Up {
			continue
		}
		for _, shard := range obj.Shards {
			if generation.Same(shard.Backend, b) {
				return false
			}
		}
	}
	return true
}

// snapshot gives the last look: backends in order, and how they were.
func (w *healthWatch) snapshot() ([]backend.Backend, map[string]backend.Health, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	health := make(map[string]backend.Health, len(w.health))
	for id, h := range w.health {
		health[id] = h
	}
	return w.order, health, w.leased
}

func newHealthWatch(s *System) *healthWatch {
	return &healthWatch{sys: s, log: s.log.With("component", "health"), back: newSignal(), health: map[string]backend.Health{}, losses: map[string]loss{}, suspects: map[string]int{}}
}
