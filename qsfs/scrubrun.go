package qsfs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/internal/boottime"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/store"
)

// scrubRun is one run of a scrub, from where it was on.
type scrubRun struct {
	b      *scrubber
	sys    *System
	kind   scrubKind
	st     *scrubState // guarded by b.mu
	pace   *pacer
	began  time.Duration // boot time
	before float64       // seconds that earlier runs took
	saved  time.Duration
	told   int // events about single objects; guarded by b.mu
}

func (r *scrubRun) run(ctx context.Context) error {
	if err := r.sys.reconcile(ctx); err != nil {
		return err
	}
	var sample map[string]bool
	total := r.sys.objectCount()
	if n := r.st.Request.Sample; n > 0 {
		var err error
		if sample, err = r.sys.sample(ctx, n, r.st.Seed); err != nil {
			return err
		}
		total = int64(len(sample))
	}
	r.b.mu.Lock()
	r.st.Report.Total = max(total, r.st.Report.Objects)
	r.b.mu.Unlock()
	if !r.st.Heads {
		if err := r.heads(ctx); err != nil {
			return err
		}
	}
	seq := chosen(r.sys.targets(ctx, r.st.Cursor), sample)
	if err := ordered(ctx, seq, scrubWorkers, r.look, r.done); err != nil {
		return err
	}
	return r.finish(ctx)
}

// heads looks at what leads to the files: records and manifests.
func (r *scrubRun) heads(ctx context.Context) error {
	repair := r.st.Request.Repair
	records, err := r.sys.checkRecords(ctx, repair)
	if err != nil {
		return err
	}
	manifests, err := r.sys.manifests(ctx)
	var unreadable *manifestError
	if err != nil && !errors.As(err, &unreadable) {
		return err
	}
	var found []scrubbed
	for _, t := range manifests {
		found = append(found, r.look(ctx, t))
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	r.b.mu.Lock()
	r.st.Heads = true
	for _, d := range records {
		r.st.Report.Damaged++
		if d.Repaired {
			r.st.Report.Repaired++
		}
	}
	r.st.Report.Damage = addDamage(r.st.Report.Damage, records...)
	r.b.mu.Unlock()
	for _, f := range found {
		if err := r.done(f); err != nil {
			return err
		}
	}
	return nil
}

// scrubbed is what was found of one object.
type scrubbed struct {
	target
	skipped bool // not on the backends yet
	unknown bool
	bytes   int64 // of user data that was read
	traffic int64 // that backends read or sent
	rewrite bool  // only a new checkpoint mends it
	wrong   error // the object is whole, and not the one that is wanted
	damage  *client.Damage
}

// look verifies one object, and repairs it where that is asked for.
func (r *scrubRun) look(ctx context.Context, t target) scrubbed {
	out := scrubbed{target: t}
	if t.pending {
		out.skipped = true
		return out
	}
	r.yield(ctx)
	if ctx.Err() != nil {
		return out
	}
	s := r.sys
	path := s.objectPath(t.ref.Object)
	var report zstor.Report
	var err error
	if r.st.Request.Deep {
		report, err = s.engine.Audit(ctx, path)
		out.bytes = t.ref.Length
	} else {
		report, err = s.engine.Verify(ctx, path, zstor.VerifyOptions{Deep: true})
	}
	out.traffic = traffic(report)
	if err == nil && checksumOf(report.Object.Checksum) != t.ref.Checksum {
		err = fmt.Errorf("%w: its object holds something else than the checkpoint names", zstor.ErrDamaged)
		out.wrong = err
	}
	if err == nil && !report.Readable() {
		err = fewShards(report)
	}
	if isUnknown(err) {
		out.unknown = true
		out.damage = &client.Damage{Path: t.path, What: "not known: too few backends answer", Error: err.Error()}
		return out
	}
	if err != nil {
		out.damage = s.lostOr(ctx, t, err).damage
	} else if d := damageOf(t, report); d.What != "" {
		out.damage, out.unknown = d, onlySilent(report)
	}
	if r.st.Request.Deep && t.row != nil {
		s.scrubLocal(ctx, *t.row, out.damage == nil)
	}
	switch {
	case out.damage != nil && r.st.Request.Repair && !out.unknown:
		r.repair(ctx, &out, report)
	case out.damage == nil && r.st.Request.Repair && t.row != nil:
		s.refreshAlias(ctx, report, t.row.Path)
	}
	return out
}

// onlySilent says whether nothing is wrong but that some backends do not answer,
// or refuse.
func onlySilent(report zstor.Report) bool {
	silent := func(st zstor.PartState) bool {
		return st == zstor.Good || st == zstor.Unreachable || st == zstor.Refused
	}
	for _, shard := range report.Shards {
		if !silent(shard.State) {
			return false
		}
	}
	for _, m := range report.Meta {
		if !silent(m.State) {
			return false
		}
	}
	return true
}

// fewShards says why an object cannot be read.
func fewShards(report zstor.Report) error {
	e := &zstor.TooFewShardsError{Have: report.GoodShards(), Need: report.Object.K}
	var errs []error
	for _, shard := range report.Shards {
		if shard.State == zstor.Unreachable || shard.State == zstor.Refused {
			e.Unreachable++
		}
		errs = append(errs, shard.Err)
	}
	e.Err = errors.Join(errs...)
	return e
}

// traffic is what a look at an object made backends read.
func traffic(report zstor.Report) int64 {
	var n int64
	for _, shard := range report.Object.Shards {
		n += max(0, shard.Length)
	}
	return n
}

// repair makes anew what is missing, and notes in out what became of it.
func (r *scrubRun) repair(ctx context.Context, out *scrubbed, report zstor.Report) {
	var bad []int
	for _, shard := range report.Shards {
		if shard.State == zstor.Damaged || shard.State == zstor.Missing {
			bad = append(bad, shard.Index)
		}
		if shard.State == zstor.Damaged {
			r.sys.health.suspect(shard.Backend.ID)
		}
	}
	if out.wrong != nil {
		r.replaceWrong(ctx, out)
		return
	}
	after, err := r.sys.repairObject(ctx, out.ref.Object, out.plain(), zstor.RebuildOptions{Deep: true, LeaveUnreachable: true, Bad: bad})
	if err == nil {
		d := damageOf(out.target, after)
		if d.What == "" || onlySilent(after) {
			r.repaired(ctx, out)
			return
		} else if len(after.Rebuilt) > 0 || after.MetaWritten {
			out.damage.What = joinWords(out.damage.What, "repaired in part, what is left: "+d.What)
		}
		return
	}
	if ctx.Err() != nil {
		return
	}
	out.damage.Error = err.Error()
	if isLost(err) && r.sys.storedAnew(out.target) {
		// The next checkpoint stores what is here, and names that.
		out.rewrite = true
		out.damage.Lost = false
		return
	}
	r.sys.log.Error("an object cannot be repaired", "path", out.path, "err", err)
}

// repaired notes that an object is whole again.
func (r *scrubRun) repaired(ctx context.Context, out *scrubbed) {
	out.damage.Repaired, out.damage.Lost = true, false
	if r.tellable() {
		r.sys.happened(ctx, eventScrub, out.path, "repaired: %s", out.damage.What)
	}
}

// maxTold bounds the events of one run about single objects: the summary counts all.
const maxTold = 200

func (r *scrubRun) tellable() bool {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	r.told++
	return r.told <= maxTold
}

// replaceWrong stores the local file over an object that is another one.
func (r *scrubRun) replaceWrong(ctx context.Context, out *scrubbed) {
	if out.row != nil {
		if _, err := r.sys.storeAgain(ctx, *out.row, out.wrong); err == nil {
			r.repaired(ctx, out)
			return
		}
	}
	if r.sys.storedAnew(out.target) {
		out.rewrite, out.damage.Lost = true, false
	}
}

// storedAnew has the next checkpoint store a file whose object is lost, where the
// local file leads there: manifests are made anew, index files and descriptors
// copied again.
func (s *System) storedAnew(t target) bool {
	if t.row == nil {
		_, err := s.store.File(context.Background(), t.path)
		return errors.Is(err, store.ErrNotFound) // a manifest
	}
	p := s.check.space(t.row.Namespace)
	if p == nil || t.row.Kind == store.KindData {
		return false
	}
	p.forget(t.row.Kind, uint32(t.row.FileID))
	return true
}

// yield lets uploads go first, and keeps to the pace.
func (r *scrubRun) yield(ctx context.Context) {
	deadline := boottime.Now() + scrubYield
	for boottime.Now() < deadline {
		q, err := r.sys.store.Queue().Stats(ctx)
		if err != nil || q.Uploading == 0 || !wait(ctx, 100*time.Millisecond) {
			break
		}
	}
	r.b.mu.Lock()
	pause := r.pace.next - boottime.Now()
	r.b.mu.Unlock()
	if pause > 0 {
		wait(ctx, pause)
	}
}

// done counts one object.
func (r *scrubRun) done(f scrubbed) error {
	r.b.mu.Lock()
	rep := &r.st.Report
	if f.row != nil {
		r.st.Cursor = f.path
	}
	if f.rewrite {
		r.st.Rewrite = append(r.st.Rewrite, f.path)
	}
	if !f.skipped {
		r.pace.took(f.traffic)
		rep.Objects++
		rep.Total = max(rep.Total, rep.Objects)
		rep.Bytes += f.bytes
		rep.Seconds = r.before + (boottime.Now() - r.began).Seconds()
	}
	switch {
	case f.skipped:
	case f.unknown:
		rep.Unknown++
	case f.damage == nil:
		rep.Good++
	case f.damage.Lost:
		rep.Lost++
	default:
		rep.Damaged++
		if f.damage.Repaired {
			rep.Repaired++
		}
	}
	if f.damage != nil {
		rep.Damage = addDamage(rep.Damage, *f.damage)
	}
	progress := Progress{Op: "scrub", Step: "verifying", Subject: f.path, Done: rep.Objects, Total: rep.Total, Unit: "objects"}
	save := boottime.Now()-r.saved > scrubSave
	r.b.mu.Unlock()
	if f.damage != nil && (f.damage.Lost || !f.damage.Repaired && !f.unknown) && r.tellable() {
		r.sys.happened(context.Background(), eventDamage, f.path, "%s", joinWords(f.damage.What, f.damage.Error))
	}
	r.sys.opts.observer(progress)
	if save {
		r.b.save(context.Background(), r.kind)
		r.saved = boottime.Now()
	}
	return nil
}

// finish makes the checkpoint that mends what cannot be mended in place.
func (r *scrubRun) finish(ctx context.Context) error {
	r.b.mu.Lock()
	paths := map[string]bool{}
	for _, p := range r.st.Rewrite {
		paths[p] = true
	}
	r.b.mu.Unlock()
	if len(paths) == 0 {
		return nil
	}
	r.sys.check.rewrite.Store(true)
	if _, err := r.sys.check.sync(ctx); err != nil {
		return fmt.Errorf("a new checkpoint in place of what is lost: %w", err)
	}
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	r.st.Rewrite = nil
	for i, d := range r.st.Report.Damage {
		if paths[d.Path] && !d.Repaired {
			r.st.Report.Damage[i].Repaired = true
			r.st.Report.Damage[i].What = joinWords(d.What, "stored anew with the next checkpoint")
			r.st.Report.Repaired++
		}
	}
	return nil
}
