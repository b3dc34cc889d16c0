package qsfs

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
	"github.com/threefoldtech/quantumd/internal/boottime"
)

// pulse is the sign of life of a loop that comes round within a time that does
// not depend on anybody else.
type pulse struct{ at atomic.Int64 }

func (p *pulse) beat() { p.at.Store(int64(boottime.Now())) }

// quiet is how long ago the last beat was; zero before the first.
func (p *pulse) quiet() time.Duration {
	at := p.at.Load()
	if at == 0 {
		return 0
	}
	return boottime.Now() - time.Duration(at)
}

// longestRound bounds one round of the look at the backends, all its timeouts
// together.
const longestRound = 5 * time.Minute

// HangError names the parts of a system that did not answer.
type HangError struct{ Parts []string }

func (e *HangError) Error() string {
	return fmt.Sprintf("no answer from: %s", strings.Join(e.Parts, ", "))
}

// Alive asks every part of the running system that has to answer whatever the
// backends do: the tree, the zdb with its disk, the database, the loop that
// looks at the backends. It gives a [*HangError] when one does not before ctx
// ends. Part of a service's watchdog: backends that are away, a full disk and
// every other state that status tells of do not make a system dead.
func (s *System) Alive(ctx context.Context) error {
	if err := s.serving(); err != nil {
		return err
	}
	probes := s.probes()
	var mu sync.Mutex
	waiting := map[string]bool{}
	var asked sync.WaitGroup
	for name, probe := range probes {
		mu.Lock()
		waiting[name] = true
		mu.Unlock()
		if !s.probing.begin(name) {
			continue // the one before still hangs
		}
		asked.Go(func() {
			defer s.probing.end(name)
			probe(ctx)
			mu.Lock()
			defer mu.Unlock()
			delete(waiting, name)
		})
	}
	done := make(chan struct{})
	go func() { // ends with the probes; one that hangs for ever is what this is about
		asked.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
	mu.Lock()
	defer mu.Unlock()
	hang := &HangError{}
	for name := range probes {
		if waiting[name] {
			hang.Parts = append(hang.Parts, name)
		}
	}
	if quiet := s.healthPulse.quiet(); quiet > longestRound {
		hang.Parts = append(hang.Parts, fmt.Sprintf("the look at the backends (for %s)", quiet.Round(time.Second)))
	}
	if len(hang.Parts) > 0 {
		return hang
	}
	return nil
}

// probes are what has to come back; what it comes back with is told elsewhere.
func (s *System) probes() map[string]func(context.Context) {
	out := map[string]func(context.Context){
		"state": func(context.Context) { s.stateNow() },
		"database": func(context.Context) {
			// Without the context: a database that can be interrupted, and nothing else, hangs too.
			_, _ = s.store.Queue().Stats(context.Background())
		},
	}
	for _, p := range s.spaces {
		out["namespace "+p.name] = func(context.Context) { _, _ = p.ns.Pairs() }
		if s.server == nil {
			continue // the real zdb's
		}
		if ns, ok := s.server.Namespace(p.name); ok {
			out["sync of "+p.name] = func(context.Context) { _ = ns.Sync(context.Background()) }
		}
	}
	if s.tree != nil {
		out["tree"] = func(context.Context) { _, _ = s.tree.Getattr(context.Background(), tree.Root) }
	}
	if s.opts.probe != nil {
		out["test"] = s.opts.probe
	}
	return out
}

// running is which probes have not come back.
type running struct {
	mu    sync.Mutex
	names map[string]bool
}

func (r *running) begin(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.names[name] {
		return false
	}
	if r.names == nil {
		r.names = map[string]bool{}
	}
	r.names[name] = true
	return true
}

func (r *running) end(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.names, name)
}
