package qsfs

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/store"
)

// A backend that is lost is replaced by a saga of recorded steps:
//
//	grace      it does not work; it may come back
//	provision  another one is made, or a spare is taken
//	reload     the next generation of the set is written and used
//	rebuild    what it held is made anew on the others (rebuild.go)
//	verify     every object is asked for
//	retire     it is given back
//
// Each step can be repeated. A crash resumes at the recorded one; a lost
// database finds in the generation's record which backends are leaving. Nothing
// is replaced while most backends do not answer: then the network of this
// machine is down. A backend is given back only when no object names it.

// replacer runs the sagas. One goroutine (run) leads them through their steps,
// a second one rebuilds, so that a backend that is lost meanwhile is not waited
// for.
type replacer struct {
	sys  *System
	log  *slog.Logger
	wake chan struct{}

	revived map[string]time.Time // when each lost backend was last tried to be started; run's own

	mu         sync.Mutex
	asked      map[string]bool // ids to replace because a person asked
	rebuilding bool
	fails      map[int64]int // failures in a row, by saga
}

func newReplacer(s *System) *replacer {
	return &replacer{sys: s, log: s.log.With("component", "replace"), wake: make(chan struct{}, 1), revived: map[string]time.Time{}, asked: map[string]bool{}, fails: map[int64]int{}}
}

// tell has the sagas looked at now.
func (r *replacer) tell() {
	select {
	case r.wake <- struct{}{}:
	default: // it is told already
	}
}

// run leads sagas until ctx ends, and waits for the rebuild.
func (r *replacer) run(ctx context.Context) {
	var rebuilding sync.WaitGroup
	defer rebuilding.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		if r.sys.fence.Fenced() != nil {
			continue
		}
		open, err := r.lead(ctx)
		if err != nil && ctx.Err() == nil {
			r.log.Error("replacements cannot be looked at", "err", err)
			continue
		}
		if due := r.dueForRebuild(open); len(due) > 0 && r.beginRebuild() {
			rebuilding.Go(func() {
				defer r.endRebuild()
				r.rebuildAll(ctx, due)
			})
		}
	}
}

func (r *replacer) beginRebuild() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rebuilding {
		return false
	}
	r.rebuilding = true
	return true
}

func (r *replacer) endRebuild() {
	r.mu.Lock()
	r.rebuilding = false
	r.mu.Unlock()
	r.tell()
}

func (r *replacer) dueForRebuild(open []store.Replacement) []store.Replacement {
	return slices.DeleteFunc(open, func(p store.Replacement) bool {
		return !slices.Contains([]string{client.ReplaceRebuild, client.ReplaceVerify, client.ReplaceRetire}, p.Step) || time.Now().Before(p.NextTry)
	})
}

// lead does everything but rebuild, verify and retire, and gives the sagas that
// are open.
func (r *replacer) lead(ctx context.Context) ([]store.Replacement, error) {
	open, err := r.sys.store.Replacements(ctx, true, 0)
	if err != nil {
		return nil, err
	}
	if open, err = r.begin(ctx, open); err != nil {
		return nil, err
	}
	for i := range open {
		for {
			before := open[i].Step
			if err := r.step(ctx, &open[i]); err != nil {
				return nil, err
			}
			if open[i].Step == before {
				break
			}
		}
	}
	return open, nil
}

// begin opens sagas: of backends that are lost now, of those that a person
// named, and of those that the set's record says are leaving.
func (r *replacer) begin(ctx context.Context, open []store.Replacement) ([]store.Replacement, error) {
	g := r.sys.current()
	losses, network, _ := r.sys.health.lostNow()
	known := map[string]bool{}
	for _, p := range open {
		known[p.Backend] = true
	}
	add := func(b backend.Backend, step, reason string) error {
		known[b.ID] = true
		p := store.Replacement{Backend: b.ID, Role: string(b.Role), Step: step, Reason: reason, Started: time.Now(), Changed: time.Now()}
		var err error
		if p.ID, err = r.sys.store.SaveReplacement(ctx, p); err == nil {
			open = append(open, p)
			r.sys.happened(ctx, eventReplace, b.ID, "%s", beginning(p))
		}
		return err
	}
	for _, b := range g.Left() {
		if !known[b.ID] {
			if err := add(b, client.ReplaceRebuild, "it left the set of backends, and objects may name it"); err != nil {
				return open, err
			}
		}
	}
	for _, b := range g.List() {
		l, lost := losses[b.ID]
		if known[b.ID] || !r.isAsked(b.ID) && (!lost || !network) {
			continue
		}
		if l.reason == "" {
			l.reason = "asked for by hand"
		}
		if err := add(b, client.ReplaceGrace, l.reason); err != nil {
			return open, err
		}
	}
	return open, nil
}

func beginning(p store.Replacement) string {
	if p.Step == client.ReplaceGrace {
		return "does not work: " + p.Reason
	}
	return p.Reason
}

func (r *replacer) isAsked(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked[id]
}

// step does one step; what fails is recorded and tried again.
func (r *replacer) step(ctx context.Context, p *store.Replacement) error {
	if time.Now().Before(p.NextTry) && !r.isAsked(p.Backend) {
		return nil
	}
	var err error
	switch p.Step {
	case client.ReplaceGrace:
		return r.grace(ctx, p)
	case client.ReplaceProvision:
		err = r.provision(ctx, p)
	case client.ReplaceReload:
		err = r.reload(ctx, p)
	}
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	return r.failed(ctx, p, err)
}

// moved records a new step.
func (r *replacer) moved(ctx context.Context, p *store.Replacement, step, format string, args ...any) error {
	if r.sys.opts.beforeStep != nil {
		if err := r.sys.opts.beforeStep(p.Backend, step); err != nil {
			return err
		}
	}
	p.Step, p.Ended, p.Changed, p.Error, p.NextTry = step, ended(step), time.Now(), "", time.Time{}
	if _, err := r.sys.store.SaveReplacement(ctx, *p); err != nil {
		return err
	}
	r.mu.Lock()
	delete(r.fails, p.ID)
	if ended(p.Step) {
		delete(r.asked, p.Backend)
	}
	r.mu.Unlock()
	r.log.Info("replacement", "backend", p.Backend, "successor", p.Successor, "step", step)
	r.sys.happened(ctx, eventReplace, p.Backend, format, args...)
	return nil
}

func ended(step string) bool {
	return step == client.ReplaceDone || step == client.ReplaceCancelled || step == client.ReplaceFailed
}

// The pause after a failed step doubles from one to the other.
const (
	stepPause    = 2 * time.Second
	maxStepPause = 5 * time.Minute
)

// failed records why a step could not be done, and when it is tried again.
func (r *replacer) failed(ctx context.Context, p *store.Replacement, cause error) error {
	r.mu.Lock()
	n := r.fails[p.ID]
	r.fails[p.ID]++
	r.mu.Unlock()
	pause := maxStepPause
	if n < 8 {
		pause = min(maxStepPause, stepPause<<n)
	}
	if p.Error != cause.Error() {
		r.log.Warn("a replacement is tried again", "backend", p.Backend, "step", p.Step, "err", cause)
		r.sys.happened(ctx, eventReplace, p.Backend, "%s is tried again: %v", p.Step, cause)
	}
	p.Error, p.NextTry = cause.Error(), time.Now().Add(pause)
	_, err := r.sys.store.SaveReplacement(ctx, *p)
	time.AfterFunc(pause, r.tell)
	return err
}

// grace waits until a lost backend has been lost for long enough.
func (r *replacer) grace(ctx context.Context, p *store.Replacement) error {
	if r.isAsked(p.Backend) {
		return r.moved(ctx, p, client.ReplaceProvision, "is replaced, as was asked for")
	}
	losses, network, looked := r.sys.health.lostNow()
	l, lost := losses[p.Backend]
	_, inSet := r.sys.current().Find(p.Backend)
	switch {
	case !looked || !network:
		return nil // nothing is known
	case !lost || !inSet:
		return r.moved(ctx, p, client.ReplaceCancelled, "works again; nothing was replaced")
	}
	if r.revive(ctx, p) {
		return nil // the next look says whether it works
	}
	if l.lasted < r.sys.settings().Replace.After.Std() {
		return nil
	}
	if why := r.forbidden(ctx, p); why != "" {
		if p.Error == why {
			return nil
		}
		p.Error = why
		_, err := r.sys.store.SaveReplacement(ctx, *p)
		r.sys.happened(ctx, eventReplace, p.Backend, "is not replaced: %s", why)
		return err
	}
	return r.moved(ctx, p, client.ReplaceProvision, "has not worked for %s (%s): it is replaced", l.lasted.Round(time.Second), l.reason)
}

// reviveEvery is the pause between two attempts to start a lost backend again.
const reviveEvery = 30 * time.Second

// revive starts a backend again that merely ended, where the provisioner runs it
// and has its files: nothing then has to be made anew.
func (r *replacer) revive(ctx context.Context, p *store.Replacement) bool {
	s := r.sys
	if _, listed := s.opts.provisioner.(specLister); listed || time.Since(r.revived[p.Backend]) < reviveEvery {
		return false
	}
	r.revived[p.Backend] = time.Now()
	b, _ := s.current().Find(p.Backend)
	spec := []backend.Spec{specOf(b)}
	if steps, err := s.opts.provisioner.Plan(ctx, spec); err != nil || steps[0].Action != backend.Start {
		return false // it runs, or its files are gone
	}
	results, err := s.opts.provisioner.Provision(ctx, spec)
	if err == nil {
		err = results[0].Err
	}
	if err != nil {
		s.happened(ctx, eventReplace, p.Backend, "had ended, and cannot be started again: %v", err)
		return false
	}
	s.happened(ctx, eventReplace, p.Backend, "had ended, and was started again")
	return true
}

// forbidden says why a backend is not replaced without being asked; empty: it
// may be.
func (r *replacer) forbidden(ctx context.Context, p *store.Replacement) string {
	c := r.sys.settings().Replace
	if !r.sys.replaces(ctx) {
		return "replacing by itself is switched off; `quantumd replace " + p.Backend + "` does it"
	}
	all, err := r.sys.store.Replacements(ctx, false, 1000)
	if err != nil {
		return err.Error()
	}
	today := 0
	for _, q := range all {
		if q.ID != p.ID && q.Step != client.ReplaceCancelled && q.Step != client.ReplaceGrace && time.Since(q.Started) < 24*time.Hour {
			today++
		}
	}
	if c.MaxPerDay > 0 && today >= c.MaxPerDay {
		return fmt.Sprintf("%d were replaced within a day, and replace.max_per_day is %d; `quantumd replace %s` does it", today, c.MaxPerDay, p.Backend)
	}
	return ""
}

// replaces says whether lost backends are replaced without being asked: auto
// means where that costs no money, on this machine or by a listed spare.
func (s *System) replaces(ctx context.Context) bool {
	switch s.settings().Replace.Enabled {
	case "true":
		return true
	case "false":
		return false
	}
	if m, ok := s.opts.provisioner.(spender); ok && m.Costs() {
		return false // asked at the deploy, which writes true
	}
	if _, lister := s.opts.provisioner.(specLister); !lister {
		return true
	}
	list, err := s.opts.provisioner.List(ctx)
	return err == nil && slices.ContainsFunc(list, func(b backend.Backend) bool { return b.Spare })
}
