package qsfs

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/backend"
)

// healthEvery is how often each backend is looked at.
const healthEvery = 10 * time.Second

// healthWatch looks at every backend again and again, and renews the lease.
type healthWatch struct {
	sys *System
	log *slog.Logger

	mu     sync.Mutex
	order  []backend.Backend
	health map[string]backend.Health // by id
	leased bool                      // the last renewal succeeded
	looked bool                      // a first look is done
}

// run looks until ctx ends.
func (w *healthWatch) run(ctx context.Context) {
	for {
		w.look(ctx)
		if !wait(ctx, min(healthEvery, w.sys.fence.id.Lease/3)) {
			return
		}
	}
}

func (w *healthWatch) look(ctx context.Context) {
	back := w.lease(ctx)
	up := w.backends(ctx)
	if w.allMetaUp() {
		if err := w.sys.complete(ctx); err != nil && ctx.Err() == nil {
			w.log.Warn("degraded files could not be completed", "err", err)
		}
	}
	if up || back {
		// What failed because of them is tried now, not at the end of its pause.
		if _, err := w.sys.store.Queue().RetryNow(ctx); err != nil && ctx.Err() == nil {
			w.log.Warn("waiting uploads could not be woken", "err", err)
		}
	}
}

// lease renews the lease and leaves a sign of life; true when it is back after
// it was lost.
func (w *healthWatch) lease(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, w.sys.fence.id.Lease/2)
	defer cancel()
	err := w.sys.fence.renew(ctx)
	if err == nil {
		err = w.sys.fence.sign(ctx)
	}
	if errors.Is(err, errReleased) {
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
	list, err := w.sys.opts.provisioner.List(ctx)
	if err != nil {
		w.log.Warn("cannot list the backends", "err", err)
		return false
	}
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
	for i, b := range list {
		old, known := w.health[b.ID]
		now := found[i]
		now.Since = time.Now()
		if now.State == backend.Up || now.State == backend.Full {
			w.sys.engine.Reachable(b)
		}
		if known && old.State == now.State {
			now.Since = old.Since
		} else if known || now.State != backend.Up {
			w.log.Info("backend", "backend", b.ID, "address", b.Address, "state", now.State, "err", now.Err)
			up = up || now.State == backend.Up
		}
		w.health[b.ID] = now
	}
	return up
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
	return &healthWatch{sys: s, log: s.log.With("component", "health"), health: map[string]backend.Health{}}
}
