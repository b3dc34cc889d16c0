package zstor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor/record"
)

// metaState is what the four metadata backends say of one key.
type metaState struct {
	answers [backend.MetaBackends]metaAnswer
	gens    []*generation // decoded, the newest first
}

type metaAnswer struct {
	kind  answerKind
	raw   []byte       // present
	value record.Value // present and undamaged
	err   error        // silent or refused
	gen   *generation  // that value belongs to
}

type answerKind int

const (
	silent  answerKind = iota // no answer, or not yet
	absent                    // answered that the key is not there
	damaged                   // a value that is none
	present
)

// generation is one write of a record.
type generation struct {
	rec     *record.Record
	values  [record.Values][]byte // by index, as stored
	holders uint8                 // bit per backend in config order
}

func (g *generation) number() uint64 {
	if g.rec.Extension == nil {
		return 0
	}
	return g.rec.Extension.Generation
}

func (g *generation) count() int { return bits.OnesCount8(g.holders) }

// readMeta asks all metadata backends for key. A quick read returns when three
// hold one generation, or two do and nothing more came for a while; any other
// waits for all, but for one that is silent only so long.
func (o *op) readMeta(ctx context.Context, key string, quick bool) (*metaState, error) {
	type reply struct {
		i int
		a metaAnswer
	}
	running := len(o.cfg.Meta)
	replies := make(chan reply, running) // room for all: sending never blocks
	var asking sync.WaitGroup
	defer asking.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil) // runs before Wait: the late ones give up
	for i, b := range o.cfg.Meta {
		asking.Go(func() { replies <- reply{i, o.askMeta(ctx, b, key)} })
	}

	st := &metaState{}
	for i := range st.answers {
		st.answers[i].err = errors.New("no answer yet")
	}
	patience := o.opts.HedgeAfter
	if !quick {
		patience *= 4
	}
	var late <-chan time.Time
	for got := 0; got < running; {
		select {
		case r := <-replies:
			got++
			st.answers[r.i] = r.a
			if r.a.kind == present {
				st.decode(o.cfg)
			}
			if quick && st.settled() {
				return st, nil
			}
			if late == nil && st.usable(quick) {
				timer := time.NewTimer(patience)
				defer timer.Stop()
				late = timer.C
			}
		case <-late:
			if !quick {
				cancel(errLate) // so long is no answer
			}
			return st, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return st, nil
}

func (o *op) askMeta(ctx context.Context, b backend.Backend, key string) metaAnswer {
	var a metaAnswer
	err := o.conns.use(ctx, b, func(ctx context.Context, c backend.Conn) error {
		var err error
		a.raw, err = c.Get(ctx, []byte(key))
		return err
	})
	switch {
	case errors.Is(err, backend.ErrNotFound):
		return metaAnswer{kind: absent}
	case err != nil:
		return metaAnswer{err: fmt.Errorf("%s: %w", b, err)}
	}
	if a.value, err = record.ParseValue(a.raw); err != nil {
		return metaAnswer{kind: damaged, raw: a.raw, err: fmt.Errorf("%s: %w", b, err)}
	}
	a.kind = present
	return a
}

// decode tries the pairs of values whose generation is not known yet.
func (st *metaState) decode(cfg Config) {
	for _, g := range st.gens {
		st.claim(g)
	}
	for i := range st.answers {
		for j := range i {
			a, b := &st.answers[j], &st.answers[i]
			if a.kind != present || b.kind != present || a.gen != nil && b.gen != nil {
				continue
			}
			if g := openPair(cfg, a.value, b.value); g != nil {
				st.add(g)
			}
		}
	}
}

func openPair(cfg Config, a, b record.Value) *generation {
	sealed, err := record.Join(a, b)
	if err != nil {
		return nil
	}
	plain, err := cfg.Key.Open(sealed, nil)
	if err != nil {
		return nil // of two generations, or another key's
	}
	rec, err := record.Parse(plain)
	if err != nil {
		return nil
	}
	g := &generation{rec: rec}
	values, err := record.Split(sealed)
	if err != nil {
		return nil
	}
	for i, v := range values {
		g.values[i] = v.Encode()
	}
	return g
}

// add puts g in order: by generation number; records without one, which the real
// zstor wrote, are older than any with.
func (st *metaState) add(g *generation) {
	st.claim(g)
	st.gens = append(st.gens, g)
	slices.SortStableFunc(st.gens, func(a, b *generation) int {
		switch x, y := a.number(), b.number(); {
		case x != y && x > y:
			return -1
		case x != y:
			return 1
		}
		return b.count() - a.count()
	})
}

// claim marks the answers that belong to g.
func (st *metaState) claim(g *generation) {
	for i := range st.answers {
		a := &st.answers[i]
		if a.kind == present && a.gen == nil && bytes.Equal(a.raw, g.values[a.value.Index]) {
			a.gen = g
			g.holders |= 1 << i
		}
	}
}

func (st *metaState) tally(k answerKind) int {
	n := 0
	for _, a := range st.answers {
		if a.kind == k {
			n++
		}
	}
	return n
}

// settled: nothing that the others could say changes the result of a look-up.
func (st *metaState) settled() bool {
	return st.tally(absent) >= 3 || len(st.gens) > 0 && st.gens[0].count() >= 3
}

// usable: enough for a result. A committed write is on three backends, so where
// two hold an older one, no newer one was committed.
func (st *metaState) usable(quick bool) bool {
	if quick {
		return len(st.gens) > 0
	}
	return st.tally(silent) <= 1
}

// newest gives the newest generation, ErrNotFound, ErrDamaged or *UnavailableError.
func (st *metaState) newest() (*generation, error) {
	if len(st.gens) > 0 {
		return st.gens[0], nil
	}
	if st.tally(absent) >= 3 {
		return nil, ErrNotFound
	}
	quiet, values := st.tally(silent), st.tally(present)+st.tally(damaged)
	if quiet == 0 || values >= 3 {
		return nil, fmt.Errorf("%w: %d metadata values of which no two open: another key, or of different writes: %w",
			ErrDamaged, values, st.errs())
	}
	return nil, &UnavailableError{What: "metadata", Answered: len(st.answers) - quiet, Needed: 3, Err: st.errs()}
}

func (st *metaState) errs() error {
	var errs []error
	for _, a := range st.answers {
		errs = append(errs, a.err)
	}
	return errors.Join(errs...)
}

func (o *op) objectAt(g *generation, st *metaState) Object {
	obj := objectOf(o.event.Path, o.event.Key, g.rec)
	for i := range obj.Shards {
		obj.Shards[i].Backend = o.current(obj.Shards[i].Backend)
	}
	obj.MetaHolders = g.count()
	for _, a := range st.answers {
		if a.kind != silent && a.gen != g {
			obj.Degraded = true
		}
	}
	return obj
}

// Lookup reads the record of path. The error is ErrNotFound only when at least
// three metadata backends answered that they have none, *UnavailableError when
// too few answered, and matches ErrDamaged when what they hold does not open.
func (e *Engine) Lookup(ctx context.Context, path string) (Object, error) {
	return e.lookup(ctx, path, "", true)
}

// LookupKey is Lookup by a key, as List gives it.
func (e *Engine) LookupKey(ctx context.Context, key string) (Object, error) {
	return e.lookup(ctx, "", key, true)
}

func (e *Engine) lookup(ctx context.Context, path, key string, quick bool) (obj Object, err error) {
	ctx, o, err := e.begin(ctx, "lookup", path, key)
	if err != nil {
		return obj, err
	}
	defer o.finish(&err)
	st, err := o.readMeta(ctx, o.event.Key, quick)
	if err != nil {
		return obj, err
	}
	g, err := st.newest()
	if err != nil {
		return obj, err
	}
	return o.objectAt(g, st), nil
}

// Check gives the checksum of the content stored for path, from its record. It
// asks no data backend.
func (e *Engine) Check(ctx context.Context, path string) (sum record.Checksum, found bool, err error) {
	obj, err := e.Lookup(ctx, path)
	if errors.Is(err, ErrNotFound) {
		return sum, false, nil
	}
	return obj.Checksum, err == nil, err
}
