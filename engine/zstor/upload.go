package zstor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor/record"
)

// recentFailure is how long a backend that gave no answer is passed over when a
// placement is possible without it.
const recentFailure = 30 * time.Second

// upload sends the shards of one object to backends that it chooses.
type upload struct {
	o   *op
	set *shardSet

	mu     sync.Mutex
	placed map[int]backend.Backend // by shard
	bad    map[connKey]bool        // failed during this upload
	sums   map[int]record.Checksum
	lost   []written // on backends that failed or were given up
	done   []written
}

// written are pieces that a backend took.
type written struct {
	b    backend.Backend
	keys [][]byte
}

// errReplace: the shards that stay leave no valid place for one whose backend
// failed; a new placement may still be possible.
var errReplace = errors.New("no valid place for a shard beside the others")

func newUpload(o *op, set *shardSet) *upload {
	return &upload{o: o, set: set, placed: map[int]backend.Backend{}, bad: map[connKey]bool{}, sums: map[int]record.Checksum{}}
}

// all sends every shard. Backends that fail are left out, and their shards go
// elsewhere as long as the redundancy can be met.
func (u *upload) all(ctx context.Context) ([]Shard, error) {
	var faults []error
	for {
		chosen, err := backend.Place(u.candidates(), u.o.cfg.redundancy(), nil)
		if err != nil {
			return nil, errors.Join(append([]error{err}, faults...)...)
		}
		want := map[int]backend.Backend{}
		for i, b := range chosen {
			want[i] = b
		}
		shards, err := u.send(ctx, want, true)
		if err == nil || !errors.Is(err, errReplace) {
			return shards, err
		}
		faults = append(faults, err)
		u.deleteWritten(ctx)
	}
}

// placeable says whether there is a placement on backends that are asked: else
// nothing is read, compressed or sent in vain.
func (o *op) placeable(ctx context.Context) error {
	o.conns.settle(ctx, o.cfg.Data)
	var asked []backend.Backend
	for _, b := range o.cfg.Data {
		if !o.conns.isOpen(b) {
			asked = append(asked, b)
		}
	}
	if len(asked) == len(o.cfg.Data) {
		return nil
	}
	if err := backend.Feasible(asked, o.cfg.redundancy()); err != nil {
		return fmt.Errorf("%d of %d data backends do not answer, and the others are too few: %w",
			len(o.cfg.Data)-len(asked), len(o.cfg.Data), errors.Join(err, o.conns.refusals(o.cfg.Data)))
	}
	return nil
}

// candidates are the data backends that did not fail, without those that failed a
// moment ago if it is possible without them.
func (u *upload) candidates() []backend.Backend {
	u.mu.Lock()
	defer u.mu.Unlock()
	var well, all []backend.Backend
	for _, b := range u.o.cfg.Data {
		if u.bad[keyOf(b)] {
			continue
		}
		all = append(all, b)
		if !u.o.conns.failedWithin(b, recentFailure) {
			well = append(well, b)
		}
	}
	if len(well) < len(all) && backend.Feasible(well, u.o.cfg.redundancy()) == nil {
		return well
	}
	return all
}

// send brings each wanted shard to its backend, or to another one when that fails.
// With strict the whole must meet the redundancy of the config.
func (u *upload) send(ctx context.Context, want map[int]backend.Backend, strict bool) ([]Shard, error) {
	u.mu.Lock()
	for i, b := range want {
		u.placed[i] = b
	}
	u.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slots := make(chan struct{}, maxSenders)
	var mu sync.Mutex
	var shards []Shard
	var sending sync.WaitGroup
	for i := range want {
		sending.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			s, err := u.sendSomewhere(ctx, i, strict)
			if err != nil {
				cancel(err) // the first one counts
				return
			}
			mu.Lock()
			defer mu.Unlock()
			shards = append(shards, s)
		})
	}
	sending.Wait()
	if len(shards) < len(want) {
		return nil, context.Cause(ctx)
	}
	sortShards(shards)
	return shards, nil
}

func (u *upload) sendSomewhere(ctx context.Context, shard int, strict bool) (Shard, error) {
	var faults []error
	for {
		u.mu.Lock()
		b := u.placed[shard]
		u.mu.Unlock()
		s, err := u.sendTo(ctx, shard, b)
		if err == nil || ctx.Err() != nil {
			return s, err
		}
		u.o.log.Warn("shard goes elsewhere", "shard", shard, "backend", b.ID, "err", err)
		faults = append(faults, fmt.Errorf("shard %d to %s: %w", shard, b, err))
		if err := u.replace(shard, b, strict); err != nil {
			return Shard{}, errors.Join(append([]error{err}, faults...)...)
		}
		u.o.stats.replaced.Add(1)
	}
}

// replace chooses another backend for a shard whose backend failed.
func (u *upload) replace(shard int, failed backend.Backend, strict bool) error {
	u.mu.Lock()
	u.bad[keyOf(failed)] = true
	delete(u.placed, shard)
	u.mu.Unlock()
	candidates := u.candidates()
	u.mu.Lock()
	defer u.mu.Unlock()
	var held []backend.Backend
	for _, b := range u.placed {
		held = append(held, b)
	}
	chosen, _ := backend.Extend(held, candidates, 1, u.o.cfg.redundancy(), nil)
	if len(chosen) == 0 || strict && !u.o.meets(held, chosen[0], shard) {
		return errReplace
	}
	u.placed[shard] = chosen[0]
	return nil
}

// meets says whether the backends held and one more survive what the config asks
// for. While several shards lost their place held is short, and each is only
// judged by what it adds: the last one is judged by the whole.
func (o *op) meets(held []backend.Backend, more backend.Backend, _ int) bool {
	all := append(append([]backend.Backend(nil), held...), more)
	return len(all) < o.cfg.ExpectedShards || o.cfg.redundancy().Meets(all)
}

// sendTo writes all pieces of a shard to b.
func (u *upload) sendTo(ctx context.Context, shard int, b backend.Backend) (Shard, error) {
	s := Shard{Index: shard, Backend: b, Length: u.set.len}
	h := newShardHash()
	buf, done := pieceBuffer(u.set.len)
	for i := range pieces(u.set.len) {
		piece, err := u.set.piece(shard, i, buf)
		if err != nil {
			return s, err
		}
		var hashing sync.WaitGroup
		hashing.Go(func() { h.write(piece) })
		s.CRCs = append(s.CRCs, record.CRC(piece))
		key, err := u.o.setPiece(ctx, b, piece)
		hashing.Wait()
		if err != nil {
			u.note(&u.lost, b, s.Keys)
			return s, err
		}
		s.Keys = append(s.Keys, key)
	}
	done()
	s.Checksum = h.sum()
	u.note(&u.done, b, s.Keys)
	return s, nil
}

func (u *upload) note(list *[]written, b backend.Backend, keys [][]byte) {
	if len(keys) == 0 {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	*list = append(*list, written{b, keys})
}

// deleteWritten takes back everything that was written, as far as backends answer.
func (u *upload) deleteWritten(ctx context.Context) {
	u.mu.Lock()
	u.lost, u.done = append(u.lost, u.done...), nil
	u.mu.Unlock()
	u.deleteAbandoned(ctx)
}

// deleteAbandoned takes back what was written to backends that then failed.
func (u *upload) deleteAbandoned(ctx context.Context) {
	u.mu.Lock()
	lost := u.lost
	u.lost = nil
	u.mu.Unlock()
	if len(lost) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	var deleting sync.WaitGroup
	for _, w := range lost {
		deleting.Go(func() {
			if err := u.o.deletePieces(ctx, w.b, w.keys); err != nil {
				u.o.log.Warn("pieces of a failed store stay on a backend", "backend", w.b.ID, "pieces", len(w.keys), "err", err)
			}
		})
	}
	deleting.Wait()
}

// deletePieces deletes keys of b; those that are gone already are no error.
func (o *op) deletePieces(ctx context.Context, b backend.Backend, keys [][]byte) error {
	for _, k := range keys {
		err := o.conns.use(ctx, b, func(ctx context.Context, c backend.Conn) error { return c.Delete(ctx, k) })
		if err != nil && !errors.Is(err, backend.ErrNotFound) {
			return err
		}
	}
	return nil
}
