package zstor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor/record"
	"github.com/threefoldtech/quantumd/engine/zstor/seal"
)

const (
	metaFull    = backend.MetaBackends     // holders of a full write
	metaCommit  = backend.MetaBackends - 1 // holders that commit a write
	cleanupTime = 15 * time.Second         // for taking back what a failed write left
)

// uncommittedError: a record reached fewer than three metadata backends.
// maybeHolders may hold it all the same, so that what it names must stay when
// these are enough to read it.
type uncommittedError struct {
	maybeHolders int
	err          error
}

func (e *uncommittedError) Error() string { return e.err.Error() }
func (e *uncommittedError) Unwrap() error { return e.err }

// newGeneration seals obj as the successor of what st holds.
func (o *op) newGeneration(obj *Object, st *metaState) (*generation, error) {
	obj.Generation = uint64(time.Now().UnixNano())
	want := 0
	for _, a := range st.answers {
		if a.kind == present && want == 0 {
			want = record.SealedLenFor(len(a.raw)) - seal.Overhead
		}
		if a.gen != nil {
			obj.Generation = max(obj.Generation, a.gen.number()+1)
		}
	}
	rec := obj.record()
	plain, err := rec.Append(want)
	if err != nil {
		return nil, err
	}
	o.stats.sealed.Add(1)
	values, err := record.Split(o.cfg.Key.Seal(plain, nil))
	if err != nil {
		return nil, err
	}
	g := &generation{rec: rec}
	for i, v := range values {
		g.values[i] = v.Encode()
	}
	return g, nil
}

// writeGeneration brings g to all metadata backends that answer, at least three.
// st is what they held; it is kept up to date. It gives the number of holders. An
// error is an *uncommittedError, and what was there before was put back as far as
// the backends allowed.
func (o *op) writeGeneration(ctx context.Context, g *generation, st *metaState) (int, error) {
	w := &metaWrite{op: o, g: g, st: st, before: *st}
	for {
		s := w.slots()
		if n := s.writableCount(); n < metaCommit {
			err := &UnavailableError{What: "metadata", Answered: n, Needed: metaCommit, Err: errors.Join(append(w.faults, st.errs())...)}
			return 0, &uncommittedError{w.rollBack(ctx), err}
		}
		steps := s.plan()
		if len(steps) == 0 {
			return g.count(), nil
		}
		if w.run(ctx, s, steps); ctx.Err() != nil {
			return 0, &uncommittedError{w.rollBack(ctx), ctx.Err()}
		}
	}
}

// metaWrite is one write of a generation, under way.
type metaWrite struct {
	*op
	g      *generation
	st     *metaState // what backends hold now, as far as is known
	before metaState
	faults []error

	touched   [backend.MetaBackends]bool // took a write, or may have
	uncertain [backend.MetaBackends]bool // a write was not answered: it may even happen later
}

// slots is what backends hold now. One that failed meanwhile, or was silent from
// the start, counts as holding what it held before: that is what it comes back with.
func (w *metaWrite) slots() slots {
	s, before := w.st.slotsFor(w.g), w.before.slotsFor(w.g)
	for i := range s {
		if !s[i].writable {
			s[i] = before[i]
			s[i].writable = false
		}
	}
	return s
}

func (s slots) writableCount() int {
	n := 0
	for _, b := range s {
		if b.writable {
			n++
		}
	}
	return n
}

// blank: nothing of any write is there, so that the order does not matter.
func (s slots) blank() bool {
	for _, b := range s {
		if b.write != noValue && b.write != newWrite {
			return false
		}
	}
	return true
}

// run writes in order until one fails; all at once where no old value is. A
// backend that failed is silent from then on.
func (w *metaWrite) run(ctx context.Context, s slots, steps []step) {
	if s.blank() {
		errs := make([]error, len(steps))
		var writing sync.WaitGroup
		for i, t := range steps {
			writing.Go(func() { errs[i] = w.setMeta(ctx, t.backend, w.g.values[t.index]) })
		}
		writing.Wait()
		for i, t := range steps {
			w.note(ctx, t, errs[i])
		}
		return
	}
	for _, t := range steps {
		err := w.setMeta(ctx, t.backend, w.g.values[t.index])
		if w.note(ctx, t, err); err != nil {
			return // the order was planned with this backend: plan anew
		}
	}
}

func (w *metaWrite) note(ctx context.Context, t step, err error) {
	a := &w.st.answers[t.backend]
	if err == nil {
		raw := w.g.values[t.index]
		*a = metaAnswer{kind: present, raw: raw, value: record.Value{Index: t.index, Shard: raw[1 : len(raw)-16]}, gen: w.g}
		w.g.holders |= 1 << t.backend
		w.touched[t.backend] = true
		return
	}
	w.faults = append(w.faults, err)
	w.g.holders &^= 1 << t.backend
	*a = metaAnswer{kind: silent, err: err}
	var unreachable *backend.UnreachableError
	if errors.As(err, &unreachable) || ctx.Err() != nil {
		w.touched[t.backend], w.uncertain[t.backend] = true, true
	}
}

func (o *op) setMeta(ctx context.Context, i int, value []byte) error {
	b := o.cfg.Meta[i]
	err := o.conns.use(ctx, b, func(ctx context.Context, c backend.Conn) error {
		_, err := c.Set(ctx, []byte(o.event.Key), value)
		return err
	})
	if err != nil {
		return fmt.Errorf("write metadata to %s: %w", b, err)
	}
	return nil
}

// rollBack puts back what touched backends held before, and tells how many may
// still hold the new generation, or come to hold it. It goes on when ctx has ended,
// for a limited time.
func (w *metaWrite) rollBack(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	left := 0
	for i, old := range w.before.answers {
		if old.gen == w.g {
			left++ // it held it before
			continue
		}
		if !w.touched[i] {
			continue
		}
		err := w.putBack(ctx, i, old)
		if err != nil {
			w.log.Warn("a metadata write that failed could not be taken back", "backend", w.cfg.Meta[i].ID, "key", w.event.Key, "err", err)
		}
		if err != nil || w.uncertain[i] {
			left++
		}
	}
	return left
}

func (w *metaWrite) putBack(ctx context.Context, i int, old metaAnswer) error {
	if old.kind != absent {
		return w.setMeta(ctx, i, old.raw)
	}
	err := w.conns.use(ctx, w.cfg.Meta[i], func(ctx context.Context, c backend.Conn) error {
		return c.Delete(ctx, []byte(w.event.Key))
	})
	if errors.Is(err, backend.ErrNotFound) {
		return nil
	}
	return err
}

// commit writes obj as the new record of its key and notes in obj how well it is kept.
func (o *op) commit(ctx context.Context, obj *Object, st *metaState) error {
	g, err := o.newGeneration(obj, st)
	if err != nil {
		return err
	}
	return o.bring(ctx, obj, g, st)
}

// bring writes g, and notes in obj how well it is kept.
func (o *op) bring(ctx context.Context, obj *Object, g *generation, st *metaState) error {
	holders, err := o.writeGeneration(ctx, g, st)
	if err != nil {
		return err
	}
	obj.Key, obj.Path = o.event.Key, o.event.Path
	obj.MetaHolders, obj.Degraded = holders, holders < metaFull
	if obj.Degraded {
		level, err := slog.LevelWarn, st.errs()
		if errors.Is(err, ErrBreakerOpen) {
			level = slog.LevelDebug // that it does not answer was told when its breaker opened
		}
		o.log.Log(ctx, level, "record is on three of four metadata backends", "key", obj.Key, "err", err)
	}
	return nil
}
