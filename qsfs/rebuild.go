package qsfs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/epoch"
	"github.com/threefoldtech/quantumd/qsfs/generation"
	"github.com/threefoldtech/quantumd/store"
)

// rebuildAll does what is left of sagas whose backend is out of the set: one
// pass over all objects serves all of them.
func (r *replacer) rebuildAll(ctx context.Context, due []store.Replacement) {
	fail := func(err error, rows []store.Replacement) {
		if ctx.Err() != nil {
			return
		}
		for i := range rows {
			if err := r.failed(ctx, &rows[i], err); err != nil {
				r.log.Error("a failed step could not be recorded", "err", err)
			}
		}
	}
	var passing, leaving []store.Replacement
	for _, p := range due {
		if p.Step == client.ReplaceRebuild {
			passing = append(passing, p)
		} else {
			leaving = append(leaving, p)
		}
	}
	if len(passing) > 0 {
		pass := &rebuildPass{r: r, s: r.sys, rows: passing}
		if err := pass.run(ctx); err != nil {
			fail(err, pass.rows)
			return
		}
		for i := range pass.rows {
			if err := r.moved(ctx, &pass.rows[i], client.ReplaceVerify, "%d objects are rebuilt, %d bytes of shards; they are verified", pass.rows[i].Rebuilt, pass.rows[i].Bytes); err != nil {
				fail(err, pass.rows[i:i+1])
				return
			}
		}
		leaving = append(leaving, pass.rows...)
	}
	for i := range leaving {
		if err := r.finish(ctx, &leaving[i]); err != nil {
			fail(err, leaving[i:i+1])
		}
	}
}

// finish verifies and retires.
func (r *replacer) finish(ctx context.Context, p *store.Replacement) error {
	g := r.sys.current()
	if _, in := g.Find(p.Backend); in {
		return r.moved(ctx, p, client.ReplaceDone, "is in the set: nothing is given back")
	}
	i := slices.IndexFunc(g.Leaving, func(m generation.Member) bool { return m.ID == p.Backend })
	if i >= 0 && p.Step == client.ReplaceVerify {
		left, err := r.sys.stillNeeded(ctx, g.Leaving[i].WithPassword())
		if err != nil {
			return err
		}
		if left > 0 { // the next pass comes after a pause
			p.Step = client.ReplaceRebuild
			return fmt.Errorf("%d objects are not whole without it: they are rebuilt again", left)
		}
		if err := r.moved(ctx, p, client.ReplaceRetire, "is needed by no object"); err != nil {
			return err
		}
	}
	// Out of the record first: what is given back must not be looked for there. A
	// crash in between comes here again.
	_, err := r.sys.changeSet(ctx, func(g *generation.Set) *generation.Set {
		if !slices.ContainsFunc(g.Leaving, func(m generation.Member) bool { return m.ID == p.Backend }) {
			return nil
		}
		return g.Without(p.Backend)
	})
	if err != nil {
		return err
	}
	if err := r.sys.opts.provisioner.Retire(ctx, p.Backend); err != nil {
		r.log.Warn("a backend that is not needed any more could not be given back", "backend", p.Backend, "err", err)
		r.sys.happened(ctx, eventReplace, p.Backend, "is not needed any more, but could not be given back: %v", err)
	}
	return r.moved(ctx, p, client.ReplaceDone, "is replaced by %s, and given back", p.Successor)
}

// rebuildPass makes every object whole on the set in use, those first that have
// lost most.
type rebuildPass struct {
	r    *replacer
	s    *System
	rows []store.Replacement

	gone map[string]int // address and namespace to row
	meta bool           // a metadata backend is among them: every record is touched

	mu     sync.Mutex
	saved  time.Time
	failed int
	first  error
}

// objectRef names an object: by path below the zdb root, with the plain path of
// its file where it has one, or only by key.
type objectRef struct {
	Path  string `json:"path,omitempty"`
	Plain string `json:"plain,omitempty"`
	Key   string `json:"key,omitempty"`
	Rows  []int  `json:"rows"` // of the pass that it concerns
}

func (p *rebuildPass) run(ctx context.Context) error {
	p.gone = map[string]int{}
	for _, m := range p.s.current().Leaving {
		i := slices.IndexFunc(p.rows, func(r store.Replacement) bool { return r.Backend == m.ID })
		p.gone[place(m.Backend)] = i
		p.meta = p.meta || m.Role == backend.Meta
	}
	for i := range p.rows {
		p.rows[i].Objects, p.rows[i].Rebuilt, p.rows[i].Bytes = 0, 0, 0
	}
	// First what files and checkpoints name, then whatever else there is.
	for _, each := range []func(context.Context, func(objectRef) error) error{p.s.namedObjects, p.s.listedObjects} {
		if err := p.phase(ctx, each); err != nil {
			return err
		}
	}
	p.save(ctx, true)
	if p.failed > 0 {
		return fmt.Errorf("%d objects could not be rebuilt; the first: %w", p.failed, p.first)
	}
	return ctx.Err()
}

func place(b backend.Backend) string { return b.Address.String() + " " + b.Namespace }

// phase looks at the record of each object, sorts those that lost something by
// how much, and rebuilds them. The lists are on disk: their length is not bounded.
func (p *rebuildPass) phase(ctx context.Context, each func(context.Context, func(objectRef) error) error) error {
	lists := &rankedLists{dir: p.s.layout.State}
	defer lists.close()
	work := newWorkers(ctx, p.s.cfg.UploadWorkers*4)
	err := each(ctx, func(o objectRef) error {
		return work.do(func(ctx context.Context) error { return p.rank(ctx, o, lists) })
	})
	if err = errors.Join(err, work.wait()); err != nil {
		return err
	}
	work = newWorkers(ctx, p.s.cfg.UploadWorkers)
	err = lists.read(func(o objectRef) error {
		return work.do(func(ctx context.Context) error { return p.rebuild(ctx, o) })
	})
	return errors.Join(err, work.wait())
}

// rank puts an object that has lost something on the list of its loss.
func (p *rebuildPass) rank(ctx context.Context, o objectRef, lists *rankedLists) error {
	obj, err := p.s.lookup(ctx, o)
	if errors.Is(err, zstor.ErrNotFound) && o.Plain != "" {
		return nil // a file that was replaced meanwhile
	}
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	lost := 0
	for _, sh := range obj.Shards {
		if i, ok := p.gone[place(sh.Backend)]; ok {
			lost++
			if i >= 0 && !slices.Contains(o.Rows, i) {
				o.Rows = append(o.Rows, i)
			}
		}
	}
	if lost == 0 && !p.meta && err == nil && !p.aliasLost(ctx, o) {
		return nil
	}
	if err != nil {
		lost = maxRank // nobody can tell: first
	}
	p.count(o, func(r *store.Replacement) { r.Objects++ })
	return lists.add(lost, o)
}

// aliasLost says whether the plain path of a file still names a backend that
// left.
func (p *rebuildPass) aliasLost(ctx context.Context, o objectRef) bool {
	if o.Plain == "" {
		return false
	}
	alias, err := p.s.engine.Lookup(ctx, p.s.objectPath(o.Plain))
	return err == nil && slices.ContainsFunc(alias.Shards, func(sh zstor.Shard) bool {
		_, ok := p.gone[place(sh.Backend)]
		return ok
	})
}

func (s *System) lookup(ctx context.Context, o objectRef) (zstor.Object, error) {
	if o.Key != "" {
		return s.engine.LookupKey(ctx, o.Key)
	}
	return s.engine.Lookup(ctx, s.objectPath(o.Path))
}

// count changes the rows that an object concerns; where it names no shard on a
// backend that left, those of metadata backends.
func (p *rebuildPass) count(o objectRef, change func(*store.Replacement)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.rows {
		if slices.Contains(o.Rows, i) || p.rows[i].Role == string(backend.Meta) {
			change(&p.rows[i])
		}
	}
}

// rebuild makes one object whole. One that cannot be is noted, and the others go
// on.
func (p *rebuildPass) rebuild(ctx context.Context, o objectRef) error {
	began := time.Now()
	opts := zstor.RebuildOptions{Evacuate: true, LeaveUnreachable: true}
	var report zstor.Report
	var err error
	if o.Key != "" {
		if err = p.s.mayWrite(ctx); err == nil {
			report, err = p.s.objects.RebuildKey(ctx, o.Key, opts)
		}
	} else {
		report, err = p.s.repairObject(ctx, o.Path, o.Plain, opts)
	}
	if errors.Is(err, zstor.ErrNotFound) && (o.Plain != "" || o.Key != "") {
		err = nil // it was removed, or replaced, meanwhile
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		err = p.s.independent(report, p.gone)
	}
	moved := writtenBytes(report)
	p.mu.Lock()
	if err != nil {
		p.failed++
		if p.first == nil {
			p.first = err
		}
	}
	p.mu.Unlock()
	if err == nil {
		p.count(o, func(r *store.Replacement) {
			r.Rebuilt++
			r.Bytes += moved
		})
	}
	p.save(ctx, false)
	return p.pace(ctx, moved, time.Since(began))
}

// writtenBytes are the bytes of the shards that a rebuild made.
func writtenBytes(report zstor.Report) int64 {
	var n int64
	for _, sh := range report.Object.Shards {
		if slices.Contains(report.Rebuilt, sh.Index) {
			n += sh.Length
		}
	}
	return n
}

// independent says whether an object, as a rebuild left it, is whole without
// the backends that left.
func (s *System) independent(report zstor.Report, gone map[string]int) error {
	for _, sh := range report.Object.Shards {
		if _, ok := gone[place(sh.Backend)]; ok {
			return fmt.Errorf("shard %d of %s is still only on a backend that left", sh.Index, report.Object.Path)
		}
	}
	if n := report.Object.MetaHolders; report.Object.N > 0 && n < epoch.Quorum {
		return fmt.Errorf("the record of %s is on %d metadata backends", report.Object.Path, n)
	}
	return nil
}

// pace keeps the rebuild below replace.rate: what it writes, and the k times as
// much that it reads for that.
func (p *rebuildPass) pace(ctx context.Context, written int64, took time.Duration) error {
	rate := int64(p.s.settings().Replace.Rate)
	if rate <= 0 || written == 0 {
		return nil
	}
	moved := written * int64(1+p.s.cfg.MinShards) * int64(p.s.cfg.UploadWorkers)
	due := time.Duration(float64(moved) / float64(rate) * float64(time.Second))
	if due > took {
		wait(ctx, due-took)
	}
	return ctx.Err()
}

// save records how far the pass is, at most once in a second.
func (p *rebuildPass) save(ctx context.Context, now bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !now && time.Since(p.saved) < time.Second {
		return
	}
	p.saved = time.Now()
	for _, row := range p.rows {
		if _, err := p.s.store.SaveReplacement(context.WithoutCancel(ctx), row); err != nil {
			p.r.log.Warn("the state of a rebuild could not be recorded", "err", err)
		}
		p.s.opts.observer(Progress{Op: "replace", Subject: row.Backend, Step: "rebuilding objects", Done: row.Rebuilt, Total: row.Objects, Unit: "objects"})
	}
	p.s.changed.tell()
}

// namedObjects gives what the files and checkpoints of this frontend name.
func (s *System) namedObjects(ctx context.Context, each func(objectRef) error) error {
	for f, err := range s.store.Files(ctx, store.FileFilter{}) {
		if err != nil {
			return err
		}
		if f.ObjectPath == "" || f.State == store.FilePending {
			continue
		}
		if err := each(objectRef{Path: f.ObjectPath, Plain: f.Path}); err != nil {
			return err
		}
	}
	h, err := s.ownHead(ctx)
	if err != nil || h == nil {
		return err
	}
	for _, ref := range s.manifestsOf(ctx, h) {
		if err := each(objectRef{Path: ref}); err != nil {
			return err
		}
	}
	return nil
}

// manifestsOf are the object of a head's manifest and of that one's base.
func (s *System) manifestsOf(ctx context.Context, h *epoch.Head) []string {
	out := []string{h.Manifest.Object}
	if base, err := manifestBase(ctx, s.engine, s.layout.Root, h.Manifest); err != nil {
		s.log.Warn("the base of a manifest is not known", "manifest", h.Manifest.Object, "err", err)
	} else if base != nil {
		out = append(out, base.Object)
	}
	return out
}

// listedObjects gives everything that the metadata backends list.
func (s *System) listedObjects(ctx context.Context, each func(objectRef) error) error {
	bad := 0
	for e, err := range s.engine.List(ctx) {
		if err != nil {
			if bad++; bad > 1 { // a record is on three of four: with two that cannot be listed some may be missed
				return fmt.Errorf("list the objects: %w", err)
			}
			continue
		}
		if err := each(objectRef{Key: e.Key}); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// stillNeeded counts objects that are not whole without a backend that left. Each
// object is asked for, with every shard; one that lacks something is repaired.
// An error says that something could not be repaired yet. What is lost, and names
// nothing on this backend, is no reason to keep it.
func (s *System) stillNeeded(ctx context.Context, b backend.Backend) (int, error) {
	var mu sync.Mutex
	left := 0
	work := newWorkers(ctx, s.cfg.UploadWorkers*4)
	err := s.listedObjects(ctx, func(o objectRef) error {
		return work.do(func(ctx context.Context) error {
			needs, err := s.needs(ctx, o.Key, b)
			if needs {
				mu.Lock()
				left++
				mu.Unlock()
			}
			return err
		})
	})
	return left, errors.Join(err, work.wait())
}

// needs says whether an object is not whole without b.
func (s *System) needs(ctx context.Context, key string, b backend.Backend) (bool, error) {
	report, err := s.engine.VerifyKey(ctx, key, zstor.VerifyOptions{})
	if err == nil && !s.wholeWithout(report, b) {
		if err = s.mayWrite(ctx); err == nil {
			report, err = s.objects.RebuildKey(ctx, key, zstor.RebuildOptions{Evacuate: true, LeaveUnreachable: true})
		}
	}
	named := slices.ContainsFunc(report.Object.Shards, func(sh zstor.Shard) bool { return generation.Same(sh.Backend, b) })
	switch {
	case errors.Is(err, zstor.ErrNotFound):
		return false, nil // removed meanwhile
	case isLost(err) && !named && report.Object.MetaHolders >= epoch.Quorum:
		s.happened(ctx, eventDamage, key, "an object cannot be read any more, and names nothing on %s: %v", b.ID, err)
		return false, nil
	case err != nil:
		return named, err
	}
	return named || report.Object.MetaHolders < epoch.Quorum, nil
}

// wholeWithout says whether nothing of an object is missing but what is on
// backends of the set that are lost too: those have a saga of their own.
func (s *System) wholeWithout(report zstor.Report, b backend.Backend) bool {
	losses, _, _ := s.health.lostNow()
	for _, sh := range report.Shards {
		_, lost := losses[sh.Backend.ID]
		if generation.Same(sh.Backend, b) || sh.State != zstor.Good && !(lost && sh.State == zstor.Unreachable) {
			return false
		}
	}
	good := 0
	for _, m := range report.Meta {
		_, lost := losses[m.Backend.ID]
		switch {
		case m.State == zstor.Good:
			good++
		case !lost:
			return false
		}
	}
	return good >= epoch.Quorum && report.Readable()
}
