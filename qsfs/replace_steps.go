package qsfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/engine/zstor/remote"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/epoch"
	"github.com/threefoldtech/quantumd/qsfs/generation"
	"github.com/threefoldtech/quantumd/store"
)

// NoSpareError says that there is nothing to take a lost backend's place.
type NoSpareError struct{ Role backend.Role }

func (e *NoSpareError) Error() string {
	return fmt.Sprintf("there is no spare %s backend that is up and empty", e.Role)
}

// Hint names the remedy.
func (e *NoSpareError) Hint() string {
	return fmt.Sprintf("list another zdb under backends in the configuration, with `role: %s` and `spare: true`, then run `quantumd deploy` and restart", e.Role)
}

// successor chooses what takes the place of a backend: one that is there and in
// no use, else a new one where the provisioner makes them.
func (s *System) successor(ctx context.Context, lost backend.Backend, taken map[string]bool) (backend.Spec, error) {
	list, err := s.opts.provisioner.List(ctx)
	if err != nil && len(list) == 0 {
		return backend.Spec{}, err
	}
	_, listed := s.opts.provisioner.(specLister)
	g := s.current()
	for _, b := range list {
		if b.Role != lost.Role || taken[b.ID] || g.Knows(b) || listed && !b.Spare {
			continue
		}
		if h := s.opts.provisioner.Health(ctx, b); !listed || h.State == backend.Up && h.Entries == 0 {
			return specOf(b), nil
		}
	}
	if listed {
		return backend.Spec{}, &NoSpareError{Role: lost.Role}
	}
	return backend.Spec{ID: s.freeID(lost.Role, list, taken), Role: lost.Role, Group: lost.Group}, nil
}

func specOf(b backend.Backend) backend.Spec {
	return backend.Spec{ID: b.ID, Role: b.Role, Namespace: b.Namespace, Password: b.Password, Group: b.Group}
}

// freeID is the next of data0, data1… or meta0, meta1… that no backend has, or
// had.
func (s *System) freeID(role backend.Role, list []backend.Backend, taken map[string]bool) string {
	g := s.current()
	next := 0
	see := func(id string) {
		if n, err := strconv.Atoi(strings.TrimPrefix(id, string(role))); err == nil && strings.HasPrefix(id, string(role)) {
			next = max(next, n+1)
		}
	}
	for _, b := range slices.Concat(list, g.List(), g.Left(), g.Retired) {
		see(b.ID)
	}
	for id := range taken {
		see(id)
	}
	return fmt.Sprintf("%s%d", role, next)
}

// takenBy are the successors that open sagas have chosen.
func (r *replacer) takenBy(ctx context.Context, but int64) (map[string]bool, error) {
	open, err := r.sys.store.Replacements(ctx, true, 0)
	taken := map[string]bool{}
	for _, p := range open {
		if p.ID != but && p.Successor != "" {
			taken[p.Successor] = true
		}
	}
	return taken, err
}

// provision makes the successor, or sees that the spare works. Its id is
// recorded first: a crash neither forgets nor doubles it.
func (r *replacer) provision(ctx context.Context, p *store.Replacement) error {
	s := r.sys
	lost, ok := s.current().Find(p.Backend)
	if !ok {
		return r.moved(ctx, p, client.ReplaceCancelled, "is not in the set any more")
	}
	if l, _, looked := s.health.lostNow(); looked && !r.isAsked(p.Backend) {
		if _, still := l[p.Backend]; !still {
			return r.moved(ctx, p, client.ReplaceCancelled, "works again; nothing was replaced")
		}
	}
	spec, err := r.chosen(ctx, p, lost)
	if err != nil {
		return err
	}
	results, err := s.opts.provisioner.Provision(ctx, []backend.Spec{spec})
	if err == nil && len(results) == 1 {
		err = results[0].Err
	}
	if err == nil {
		if h := s.opts.provisioner.Health(ctx, results[0].Backend); h.State != backend.Up {
			err = fmt.Errorf("%s is %s: %w", spec.ID, h.State, h.Err)
		}
	}
	if err != nil {
		if _, listed := s.opts.provisioner.(specLister); listed {
			p.Successor = "" // another spare may do
		}
		return err
	}
	return r.moved(ctx, p, client.ReplaceReload, "%s takes its place", spec.ID)
}

// chosen gives the spec of the successor, choosing it where that is still to be
// done.
func (r *replacer) chosen(ctx context.Context, p *store.Replacement, lost backend.Backend) (backend.Spec, error) {
	if p.Successor == "" {
		taken, err := r.takenBy(ctx, p.ID)
		if err != nil {
			return backend.Spec{}, err
		}
		spec, err := r.sys.successor(ctx, lost, taken)
		if err != nil {
			return spec, err
		}
		p.Successor = spec.ID
		_, err = r.sys.store.SaveReplacement(ctx, *p)
		return spec, err
	}
	if b, err := r.sys.listed(ctx, p.Successor); err == nil {
		return specOf(b), nil
	}
	return backend.Spec{ID: p.Successor, Role: lost.Role, Group: lost.Group}, nil
}

// listed finds a backend that the provisioner knows.
func (s *System) listed(ctx context.Context, id string) (backend.Backend, error) {
	list, err := s.opts.provisioner.List(ctx)
	for _, b := range list {
		if b.ID == id {
			return b, nil
		}
	}
	return backend.Backend{}, errors.Join(err, &NoBackendError{ID: id})
}

// reload makes the next generation and uses it. It is written to the new set's
// metadata backends first: that is the commit. A crash after it finds it there.
func (r *replacer) reload(ctx context.Context, p *store.Replacement) error {
	s := r.sys
	b, err := s.listed(ctx, p.Successor)
	if err != nil {
		return err
	}
	b.Spare = false
	losses, _, _ := s.health.lostNow()
	relieve := losses[p.Backend].full
	_, here := s.current().Find(p.Backend)
	n, err := s.changeSet(ctx, func(g *generation.Set) *generation.Set {
		lost, ok := g.Find(p.Backend)
		if _, done := g.Find(p.Successor); done || !ok {
			return nil
		}
		if b.Group == "" {
			b.Group = lost.Group
		}
		if relieve {
			return g.Relieved(lost.ID, b)
		}
		return g.Next(fmt.Sprintf("%s replaces %s", b.ID, lost.ID), map[string]backend.Backend{lost.ID: b})
	})
	if err != nil {
		return err
	}
	p.Generation = int64(n.Number)
	_, in := n.Find(p.Successor)
	switch {
	case !in:
		return r.moved(ctx, p, client.ReplaceCancelled, "is not in the set any more")
	case relieve && here:
		return r.moved(ctx, p, client.ReplaceDone, "is full: it keeps what it holds, and %s takes what is new", b.ID)
	}
	return r.moved(ctx, p, client.ReplaceRebuild, "is out of use since generation %d; what it held is made anew", n.Number)
}

// changeSet makes the next generation of the set in use, writes it and has
// everything use it; one change at a time. It gives the set that is in use then.
func (s *System) changeSet(ctx context.Context, change func(*generation.Set) *generation.Set) (*generation.Set, error) {
	s.setLock.Lock()
	defer s.setLock.Unlock()
	n := change(s.current())
	if n == nil {
		return s.current(), nil // it is as it should be
	}
	if err := s.adoptSet(ctx, n); err != nil {
		return n, err
	}
	s.health.again(ctx)
	return n, nil
}

// adoptSet writes a new generation and has everything use it.
func (s *System) adoptSet(ctx context.Context, n *generation.Set) error {
	if err := s.mayReload(ctx); err != nil {
		return err
	}
	c, err := s.zstorConfig(n.List())
	if err != nil {
		return err
	}
	e, err := s.engineOver(n)
	if err != nil {
		return err
	}
	err = s.copyRecords(ctx, s.engine, e)
	if err == nil {
		err = s.writeGeneration(ctx, e, n)
	}
	if err = errors.Join(err, e.Close()); err != nil {
		return err
	}
	if err := s.remember(ctx, n); err != nil {
		return err
	}
	var told *remote.DaemonError
	if err := s.objects.Reload(ctx, c); errors.As(err, &told) {
		s.happened(ctx, eventReplace, "", "zstor's daemon was not told of the new set of backends: %v", err)
	} else if err != nil {
		return err
	}
	s.happened(ctx, eventReplace, "", "generation %d of the backends is in use: %s", n.Number, n.Reason)
	// What was written to the old set meanwhile.
	return s.copyRecords(ctx, s.engine, s.engine)
}

// mayReload says whether this frontend may change the set: it holds its lease;
// or only two metadata backends answer, and both know of no other frontend. A
// claim needs three of four, so that one of any two would know it.
func (s *System) mayReload(ctx context.Context) error {
	err := s.mayWrite(ctx)
	var few *QuorumError
	if !errors.As(err, &few) {
		return err
	}
	id := s.fence.Identity()
	a, getErr := s.epochs.Get(ctx, s.epochs.ClaimKey(id.Epoch+1))
	if getErr != nil || len(a.Values) > 0 || a.Broken > 0 || a.Absent < 2 {
		return errors.Join(err, getErr)
	}
	own, getErr := s.epochs.ClaimAt(ctx, id.Epoch)
	if getErr != nil || own == nil || own.UUID != id.UUID {
		return errors.Join(err, getErr)
	}
	return nil
}

// copyRecords brings every whole record that an engine's metadata backends hold
// to all of another's, at least three. Claims never change; of heads and signs of
// life the newest counts. The set's own record is the caller's.
func (s *System) copyRecords(ctx context.Context, from, to *zstor.Engine) error {
	cfg := from.Config()
	lists, err := from.ListRecords(ctx, cfg.RecordKey(""))
	if err != nil {
		return err
	}
	names := map[string]bool{}
	complete := 0
	for _, l := range lists {
		if l.Err == nil {
			complete++
		}
		for _, n := range l.Names {
			names[n] = true
		}
	}
	if complete < 2 { // each record is on three of four
		return &QuorumError{What: "its records", Answered: complete, Err: listErrors(lists)}
	}
	for name := range names {
		if name == s.generationKey() {
			continue
		}
		if err := s.copyRecord(ctx, from, to, name); err != nil {
			return fmt.Errorf("record %s: %w", name, err)
		}
	}
	return nil
}

func listErrors(lists []zstor.Keys) error {
	var errs []error
	for _, l := range lists {
		errs = append(errs, l.Err)
	}
	return errors.Join(errs...)
}

func (s *System) copyRecord(ctx context.Context, from, to *zstor.Engine, key string) error {
	s.recordLock.Lock() // a head that is written meanwhile must not be undone
	defer s.recordLock.Unlock()
	a, err := engineKeeper{from}.Get(ctx, key)
	if err != nil {
		return err
	}
	value := newestRecord(a.Values)
	if value == nil {
		return nil // of another key, or gone
	}
	acks, err := to.PutRecord(ctx, key, value)
	if acks >= epoch.Quorum {
		return nil
	}
	return &QuorumError{What: "a write", Answered: acks, Err: err}
}

// newestRecord chooses among the values of one key: a head by its number, a sign
// of life by its time.
func newestRecord(values [][]byte) []byte {
	var best []byte
	var bestSeq uint64
	var bestTime time.Time
	for _, v := range values {
		var r struct {
			Seq  uint64    `json:"seq"`
			Time time.Time `json:"time"`
		}
		if json.Unmarshal(v, &r) != nil {
			continue
		}
		if best == nil || r.Seq > bestSeq || r.Seq == bestSeq && r.Time.After(bestTime) {
			best, bestSeq, bestTime = v, r.Seq, r.Time
		}
	}
	return best
}
