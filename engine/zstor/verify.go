package zstor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor/record"
)

// PartState is what is known of one shard or one metadata value.
type PartState string

const (
	Good        PartState = "good"
	Missing     PartState = "missing" // the backend says that it has it not
	Damaged     PartState = "damaged" // or not what was sent
	Unreachable PartState = "unreachable"
	Refused     PartState = "refused" // by access rights, mode or a lock
	Stray       PartState = "stray"   // good, on a backend that is not in the config
	NotAsked    PartState = "not asked"
)

// Report tells how well an object is kept.
type Report struct {
	Object Object
	Shards []ShardReport
	Meta   []MetaReport // in config order

	Rebuilt     []int // shards made anew, by Rebuild
	MetaWritten bool  // by Rebuild: the record is now on Object.MetaHolders backends
}

// ShardReport is the state of one shard.
type ShardReport struct {
	Index   int
	Backend backend.Backend
	State   PartState
	Err     error

	listed bool // the config names the backend
}

// MetaReport is the state of the record on one metadata backend.
type MetaReport struct {
	Backend backend.Backend
	State   PartState
	Err     error
}

// GoodShards counts shards that can be read.
func (r Report) GoodShards() int {
	n := 0
	for _, s := range r.Shards {
		if s.State == Good || s.State == Stray {
			n++
		}
	}
	return n
}

// Readable says whether enough shards are good.
func (r Report) Readable() bool { return r.GoodShards() >= r.Object.K && r.Object.K > 0 }

// Healthy says whether all shards are good and all four metadata backends have
// the record: nothing is left to repair, and the local copy is not needed.
func (r Report) Healthy() bool {
	for _, m := range r.Meta {
		if m.State != Good {
			return false
		}
	}
	for _, s := range r.Shards {
		if s.State != Good {
			return false
		}
	}
	return len(r.Meta) == metaFull && r.Object.N > 0 && len(r.Shards) == r.Object.N
}

// VerifyOptions tunes Verify.
type VerifyOptions struct {
	// Deep has backends read each payload and compare it with its checksum, also
	// where comparing length and checksum of their index with what was sent would do.
	Deep bool
}

// Verify asks every backend whether it still has its part of path's object.
// Pieces whose length and checksum are recorded are compared with the backend's
// index; others, and all with Deep, are read and checked by the backend. An error
// means that no report could be made; damage is in the report.
func (e *Engine) Verify(ctx context.Context, path string, opts VerifyOptions) (Report, error) {
	return e.verify(ctx, path, "", nil, opts)
}

// VerifyKey is Verify by key.
func (e *Engine) VerifyKey(ctx context.Context, key string, opts VerifyOptions) (Report, error) {
	return e.verify(ctx, "", key, nil, opts)
}

// VerifyObject verifies that backends hold exactly obj, as a store returned it:
// another generation of the record counts as damage.
func (e *Engine) VerifyObject(ctx context.Context, obj Object, opts VerifyOptions) (Report, error) {
	return e.verify(ctx, obj.Path, obj.Key, &obj, opts)
}

func (e *Engine) verify(ctx context.Context, path, key string, want *Object, opts VerifyOptions) (rep Report, err error) {
	ctx, o, err := e.begin(ctx, "verify", path, key)
	if err != nil {
		return rep, err
	}
	defer o.finish(&err)
	st, g, err := o.readNewest(ctx)
	if err != nil {
		return rep, err
	}
	obj := o.objectAt(g, st)
	if want != nil && (want.Generation != obj.Generation || want.Checksum != obj.Checksum) {
		return rep, fmt.Errorf("%w: the record is of generation %d, not %d", ErrDamaged, obj.Generation, want.Generation)
	}
	o.event.Bytes = obj.Size
	return o.report(ctx, obj, g, st, opts), ctx.Err()
}

// readNewest asks all four metadata backends, and chooses the newest generation of
// the record that can be read.
func (o *op) readNewest(ctx context.Context) (*metaState, *generation, error) {
	st, err := o.readMeta(ctx, o.event.Key, false)
	if err != nil {
		return nil, nil, err
	}
	g, err := st.newest()
	return st, g, err
}

func (o *op) report(ctx context.Context, obj Object, g *generation, st *metaState, opts VerifyOptions) Report {
	rep := Report{Object: obj, Meta: o.metaReports(g, st), Shards: make([]ShardReport, len(obj.Shards))}
	slots := make(chan struct{}, maxSenders)
	var asking sync.WaitGroup
	for i, s := range obj.Shards {
		asking.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			rep.Shards[i] = o.verifyShard(ctx, s, opts)
		})
	}
	asking.Wait()
	return rep
}

func (o *op) metaReports(g *generation, st *metaState) []MetaReport {
	var out []MetaReport
	for i, a := range st.answers {
		m := MetaReport{Backend: o.cfg.Meta[i], Err: a.err}
		switch {
		case a.gen == g:
			m.State = Good
		case a.kind == silent:
			m.State = stateOf(a.err)
		case a.kind == absent:
			m.State = Missing
		default:
			m.State = Damaged
			if m.Err == nil {
				m.Err = errors.New("value of another write, or that opens with another key")
			}
		}
		out = append(out, m)
	}
	return out
}

// stateOf reads the state from an error of a backend.
func stateOf(err error) PartState {
	switch {
	case err == nil:
		return Good
	case errors.Is(err, backend.ErrNotFound):
		return Missing
	case errors.Is(err, ErrDamaged):
		return Damaged
	case errors.Is(err, backend.ErrAccess), errors.Is(err, backend.ErrMode), errors.Is(err, backend.ErrLocked), errors.Is(err, backend.ErrFull):
		return Refused
	}
	return Unreachable
}

func (o *op) verifyShard(ctx context.Context, s Shard, opts VerifyOptions) ShardReport {
	b := o.current(s.Backend)
	rep := ShardReport{Index: s.Index, Backend: b, listed: o.listed(b)}
	if len(s.Keys) == 0 {
		rep.State, rep.Err = Missing, errors.New("the record names no pieces")
		return rep
	}
	for i := range s.Keys {
		if rep.Err = o.verifyPiece(ctx, b, s, i, opts); rep.Err != nil {
			rep.State = stateOf(rep.Err)
			return rep
		}
	}
	rep.State = Good
	if !rep.listed {
		rep.State = Stray
	}
	return rep
}

func (o *op) verifyPiece(ctx context.Context, b backend.Backend, s Shard, i int, opts VerifyOptions) error {
	known := len(s.CRCs) == len(s.Keys) && s.Length > 0
	if known {
		st, err := o.statPiece(ctx, b, s.Keys[i])
		if err != nil {
			return err
		}
		if int64(st.Length) != s.pieceLen(i) || st.CRC != s.CRCs[i] {
			return fmt.Errorf("%w: piece %d on %s is %d bytes with CRC %08x, %d with %08x were sent",
				ErrDamaged, i, b, st.Length, st.CRC, s.pieceLen(i), s.CRCs[i])
		}
		if !opts.Deep {
			return nil
		}
	}
	good := false
	err := o.conns.use(ctx, b, func(ctx context.Context, c backend.Conn) error {
		var err error
		good, err = c.Check(ctx, s.Keys[i])
		return err
	})
	if err == nil && !good {
		err = fmt.Errorf("%w: %s says that piece %d does not match its checksum", ErrDamaged, b, i)
	}
	return err
}

func (o *op) listed(b backend.Backend) bool {
	for _, c := range o.cfg.Data {
		if c.Address == b.Address && c.Namespace == b.Namespace {
			return true
		}
	}
	return false
}

// RebuildOptions tunes Rebuild.
type RebuildOptions struct {
	// Deep checks payloads as Verify does, so that damage on disk is found too.
	Deep bool
	// Evacuate also moves shards that are good, but on backends that are not in the
	// config.
	Evacuate bool
	// LeaveUnreachable keeps shards on backends of the config that do not answer, or
	// refuse, where they are: for a repair that does not know whether they come back.
	LeaveUnreachable bool
	// Bad are indexes of shards that the caller read and found wrong, whatever their
	// backends say.
	Bad []int
}

// Rebuild makes missing and damaged shards of path's object anew, and those on
// backends that do not answer, with the numbers of its record, on backends of the
// config that hold none; and it completes the record to all four metadata
// backends. Nothing is written where nothing is wrong. What is replaced is not
// deleted: another record may name it.
func (e *Engine) Rebuild(ctx context.Context, path string, opts RebuildOptions) (Report, error) {
	return e.rebuild(ctx, path, "", opts)
}

// RebuildKey is Rebuild by key.
func (e *Engine) RebuildKey(ctx context.Context, key string, opts RebuildOptions) (Report, error) {
	return e.rebuild(ctx, "", key, opts)
}

func (e *Engine) rebuild(ctx context.Context, path, key string, opts RebuildOptions) (rep Report, err error) {
	ctx, o, err := e.begin(ctx, "rebuild", path, key)
	if err != nil {
		return rep, err
	}
	defer o.finish(&err)
	unlock, err := o.locks.lock(ctx, o.event.Key)
	if err != nil {
		return rep, err
	}
	defer unlock()
	st, err := o.readMeta(ctx, o.event.Key, false)
	if err != nil {
		return rep, err
	}
	g, err := st.newest()
	if err == nil {
		err = st.writable()
	}
	if err != nil {
		return rep, err
	}
	rep = o.report(ctx, o.objectAt(g, st), g, st, VerifyOptions{Deep: opts.Deep})
	if err := ctx.Err(); err != nil {
		return rep, err
	}
	rep.condemn(opts.Bad)
	o.event.Bytes = rep.Object.Size
	err = o.repair(ctx, &rep, g, st, opts)
	return rep, err
}

// condemn marks shards damaged that somebody read and found wrong.
func (r *Report) condemn(bad []int) {
	for i, s := range r.Shards {
		if slices.Contains(bad, s.Index) && (s.State == Good || s.State == Stray) {
			r.Shards[i].State = Damaged
			r.Shards[i].Err = fmt.Errorf("%w: read and found wrong", ErrDamaged)
		}
	}
}

// toReplace lists indexes to make anew, and which shards cannot be sources.
func (r *Report) toReplace(opts RebuildOptions) (missing, unusable map[int]bool) {
	missing, unusable = map[int]bool{}, map[int]bool{}
	for i := range r.Object.N {
		missing[i], unusable[i] = true, true
	}
	for _, s := range r.Shards {
		if s.State == Good || s.State == Stray {
			delete(unusable, s.Index)
		}
		if s.State == Good || s.State == Stray && !opts.Evacuate || opts.LeaveUnreachable && s.away() {
			delete(missing, s.Index)
		}
	}
	return missing, unusable
}

// away: nothing is known of the shard, and its backend may come back with it.
func (s ShardReport) away() bool {
	return s.listed && (s.State == Unreachable || s.State == Refused)
}

func (o *op) repair(ctx context.Context, rep *Report, g *generation, st *metaState, opts RebuildOptions) error {
	missing, unusable := rep.toReplace(opts)
	if len(missing) > 0 {
		return o.rebuildShards(ctx, rep, st, missing, unusable)
	}
	if g.count() == metaFull && len(st.slotsFor(g).plan()) == 0 {
		return nil
	}
	if err := o.bring(ctx, &rep.Object, g, st); err != nil {
		return err
	}
	rep.MetaWritten = true
	rep.Meta = o.metaReports(g, st)
	return nil
}

func (o *op) rebuildShards(ctx context.Context, rep *Report, st *metaState, missing, unusable map[int]bool) error {
	f, err := o.fetch(ctx, &rep.Object, unusable, byChecksum)
	if err != nil {
		return err
	}
	defer f.free()
	up := newUpload(o, f.set)
	var keep []Shard
	var keepCRCs = true
	for _, s := range rep.Object.Shards {
		if missing[s.Index] {
			if !unusable[s.Index] || !o.damagedHere(rep, s.Index) {
				up.bad[keyOf(o.current(s.Backend))] = true // gone, or to be left
			}
			continue
		}
		s.Length = f.set.len
		keep = append(keep, s)
		keepCRCs = keepCRCs && len(s.CRCs) == len(s.Keys)
		up.placed[s.Index] = o.current(s.Backend)
	}
	shards, err := up.fill(ctx, missing)
	if err != nil {
		up.deleteWritten(ctx)
		return err
	}
	obj := rep.Object
	obj.Shards = append(keep, shards...)
	sortShards(obj.Shards)
	if err := o.commit(ctx, &obj, st); err != nil {
		var un *uncommittedError
		if !errors.As(err, &un) || un.maybeHolders < record.Needed {
			up.deleteWritten(ctx)
		}
		return err
	}
	up.deleteAbandoned(ctx)
	o.stats.rebuilt.Add(1)
	rep.note(obj, shards)
	rep.MetaWritten = true
	if len(st.gens) > 0 {
		rep.Meta = o.metaReportsAfter(st, obj)
	}
	return nil
}

// damagedHere: the backend answers and only lost or damaged this shard, so that it
// may take it again.
func (o *op) damagedHere(rep *Report, index int) bool {
	for _, s := range rep.Shards {
		if s.Index == index {
			return (s.State == Damaged || s.State == Missing) && o.listed(s.Backend)
		}
	}
	return false
}

// fill sends missing shards to backends that hold none.
func (u *upload) fill(ctx context.Context, missing map[int]bool) ([]Shard, error) {
	var held []backend.Backend
	for _, b := range u.placed {
		held = append(held, b)
	}
	chosen, met := backend.Extend(held, u.candidates(), len(missing), u.o.cfg.redundancy(), nil)
	if len(chosen) < len(missing) {
		return nil, fmt.Errorf("%w: %d shards to place, %d backends that hold none", backend.ErrPlacement, len(missing), len(chosen))
	}
	if !met {
		u.o.log.Warn("rebuilt shards do not meet the redundancy of the config", "key", u.o.event.Key)
	}
	want := map[int]backend.Backend{}
	for i := range missing {
		want[i], chosen = chosen[0], chosen[1:]
	}
	return u.send(ctx, want, false)
}

func (r *Report) note(obj Object, made []Shard) {
	r.Object = obj
	states := map[int]ShardReport{}
	for _, s := range r.Shards {
		states[s.Index] = s
	}
	for _, s := range made {
		r.Rebuilt = append(r.Rebuilt, s.Index)
		states[s.Index] = ShardReport{Index: s.Index, Backend: s.Backend, State: Good}
	}
	r.Shards = nil
	for _, s := range obj.Shards {
		r.Shards = append(r.Shards, states[s.Index])
	}
}

// metaReportsAfter reports on the write that just committed obj.
func (o *op) metaReportsAfter(st *metaState, obj Object) []MetaReport {
	for _, a := range st.answers {
		if a.gen != nil && a.gen.number() == obj.Generation {
			return o.metaReports(a.gen, st)
		}
	}
	return nil
}
