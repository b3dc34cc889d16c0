package zstor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor/erasure"
	"github.com/threefoldtech/quantumd/engine/zstor/record"
)

func sortShards(s []Shard) { slices.SortFunc(s, func(a, b Shard) int { return a.Index - b.Index }) }

// current gives the backend that a recorded one is now: it may have moved, and
// the config's password is newer than the record's.
func (o *op) current(b backend.Backend) backend.Backend {
	if to, ok := o.cfg.Aliases[b.Address]; ok {
		b.Address = to
	}
	for _, c := range o.cfg.Data {
		if c.Address == b.Address && c.Namespace == b.Namespace {
			return c
		}
	}
	return b
}

// fetched holds the padded sealed object in memory.
type fetched struct {
	set *shardSet
	buf *buffer
	all []byte // the data shards, one behind the other
}

func (f *fetched) free() { f.buf.free() }

// proof says how a shard is verified when it is fetched.
type proof bool

const (
	// byChecksum computes BLAKE2b of every shard: which shard is wrong is known.
	byChecksum proof = true
	// byTag leaves it to the tag of the sealed object, which no wrong shard passes,
	// and saves half of the hashing; recorded CRCs of pieces are still compared.
	byTag proof = false
)

// fetch gets any k shards, verified as p says, and computes the data shards that
// are not among them. Shards in skip are not asked for.
func (o *op) fetch(ctx context.Context, obj *Object, skip map[int]bool, p proof) (*fetched, error) {
	code, err := erasure.New(obj.K, obj.N)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	lengths, err := o.shardLengths(ctx, obj, skip)
	if err != nil {
		return nil, err
	}
	for _, l := range lengths {
		var f *fetched
		if f, err = o.fetchLength(ctx, obj, code, l, skip, p); err == nil {
			return f, nil
		}
	}
	return nil, err
}

func (o *op) fetchLength(ctx context.Context, obj *Object, code *erasure.Code, shardLen int64, skip map[int]bool, p proof) (*fetched, error) {
	buf, err := o.mem.reserve(ctx, shardLen*int64(obj.K), o.windows(obj.K, shardLen))
	if err != nil {
		return nil, err
	}
	f := &fetched{buf: buf, all: buf.b}
	f.set = newShardSet(code, f.all)
	c := &collector{o: o, proof: p, obj: obj, code: code, len: shardLen, data: f.set.data, have: make([][]byte, obj.N)}
	if err := c.run(ctx, skip); err != nil {
		buf.free()
		return nil, err
	}
	return f, nil
}

// shardLengths gives the length of a shard, or what backends claim it to be, the
// likeliest first: the real zstor's records do not tell.
func (o *op) shardLengths(ctx context.Context, obj *Object, skip map[int]bool) ([]int64, error) {
	for _, s := range obj.Shards {
		if s.Length > 0 {
			return []int64{s.Length}, nil
		}
	}
	type claim struct {
		len int64
		err error
	}
	claims := make(chan claim, len(obj.Shards))
	var asking sync.WaitGroup
	defer asking.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	asked := 0
	for _, s := range obj.Shards {
		if len(s.Keys) == 0 || skip[s.Index] {
			continue
		}
		asked++
		asking.Go(func() {
			last := s.Keys[len(s.Keys)-1]
			st, err := o.statPiece(ctx, o.current(s.Backend), last)
			claims <- claim{int64(len(s.Keys)-1)*PieceSize + int64(st.Length), err}
		})
	}
	votes := map[int64]int{}
	var errs []error
	var late <-chan time.Time
	for range asked {
		select {
		case c := <-claims:
			if c.err != nil {
				errs = append(errs, c.err)
				continue
			}
			votes[c.len]++
		case <-late: // one that answers is enough to begin with
			return rankLengths(obj, votes)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if len(votes) == 1 && voted(votes) >= obj.K {
			break
		}
		if late == nil && voted(votes) > 0 {
			late = time.After(o.opts.HedgeAfter)
		}
	}
	if len(votes) == 0 {
		return nil, &TooFewShardsError{Have: 0, Need: obj.K, Unreachable: countUnreachable(errs), Err: errors.Join(errs...)}
	}
	return rankLengths(obj, votes)
}

// rankLengths sorts the lengths that a shard can have by votes.
func rankLengths(obj *Object, votes map[int64]int) ([]int64, error) {
	var lens []int64
	for l := range votes {
		if l > 0 && l <= int64(len(obj.Shards[0].Keys))*PieceSize {
			lens = append(lens, l)
		}
	}
	if len(lens) == 0 {
		return nil, fmt.Errorf("%w: pieces of a length that no shard has", ErrDamaged)
	}
	slices.SortFunc(lens, func(a, b int64) int { return votes[b] - votes[a] })
	return lens, nil
}

func voted(votes map[int64]int) int {
	n := 0
	for _, v := range votes {
		n += v
	}
	return n
}

func countUnreachable(errs []error) int {
	n := 0
	for _, err := range errs {
		var u *backend.UnreachableError
		if errors.As(err, &u) {
			n++
		}
	}
	return n
}

func (o *op) statPiece(ctx context.Context, b backend.Backend, key []byte) (st backend.EntryStat, err error) {
	err = o.conns.use(ctx, b, func(ctx context.Context, c backend.Conn) error {
		st, err = c.Stat(ctx, key)
		return err
	})
	return st, err
}

// collector fetches shards until k are good. It asks for k, and for one more
// whenever one fails or makes no progress.
type collector struct {
	o *op
	proof
	obj  *Object
	code *erasure.Code
	len  int64
	data [][]byte // where data shards go
	have [][]byte // good shards, by index

	mu     sync.Mutex
	parity []*buffer // under mu
}

// fetching is one shard on its way.
type fetching struct {
	shard    Shard
	progress atomic.Int64 // time of the last piece, unix nanoseconds
	helped   bool         // another one was asked because this one stalled
}

type fetchResult struct {
	f    *fetching
	data []byte
	err  error
}

func (c *collector) run(ctx context.Context, skip map[int]bool) error {
	defer func() {
		for _, b := range c.parity {
			b.free()
		}
	}()
	todo := c.order(skip)
	results := make(chan fetchResult, len(todo))
	pieceSlots := make(chan struct{}, maxSenders)
	active := map[*fetching]bool{}
	good := 0
	var errs []error
	var running sync.WaitGroup
	err := func() error {
		defer running.Wait() // after it nobody writes to any buffer
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		start := func() {
			f := &fetching{shard: todo[0]}
			f.progress.Store(time.Now().UnixNano())
			todo = todo[1:]
			active[f] = true
			running.Go(func() {
				data, err := c.fetchShard(ctx, f, pieceSlots)
				results <- fetchResult{f, data, err}
			})
		}
		for len(active) < c.obj.K && len(todo) > 0 {
			start()
		}
		tick := time.NewTicker(max(c.o.opts.HedgeAfter/2, time.Millisecond))
		defer tick.Stop()
		for good < c.obj.K {
			if len(active) == 0 {
				return &TooFewShardsError{Have: good, Need: c.obj.K, Unreachable: countUnreachable(errs), Err: errors.Join(errs...)}
			}
			select {
			case r := <-results:
				delete(active, r.f)
				if r.err == nil {
					c.have[r.f.shard.Index] = r.data
					good++
					continue
				}
				errs = append(errs, fmt.Errorf("shard %d: %w", r.f.shard.Index, r.err))
				c.o.log.Warn("shard cannot be read", "key", c.obj.Key, "shard", r.f.shard.Index, "err", r.err)
				if len(todo) > 0 {
					start()
				}
			case <-tick.C:
				for f := range active {
					stalled := time.Since(time.Unix(0, f.progress.Load())) >= c.o.opts.HedgeAfter
					if stalled && !f.helped && len(todo) > 0 {
						f.helped = true
						c.o.conns.stalled(c.o.current(f.shard.Backend))
						start()
					}
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	}()
	if err != nil {
		return err
	}
	return c.restore()
}

// order lists shards as they are asked: data shards first, those on backends that
// failed a moment ago last. One shard per index.
func (c *collector) order(skip map[int]bool) []Shard {
	var shards []Shard
	seen := map[int]bool{}
	for _, s := range c.obj.Shards {
		if s.Index < 0 || s.Index >= c.obj.N || seen[s.Index] || skip[s.Index] || len(s.Keys) != pieces(c.len) {
			continue
		}
		seen[s.Index] = true
		shards = append(shards, s)
	}
	rank := func(s Shard) int {
		r := s.Index
		if c.o.conns.failedWithin(c.o.current(s.Backend), recentFailure) {
			r += erasure.MaxShards
		}
		return r
	}
	slices.SortStableFunc(shards, func(a, b Shard) int { return rank(a) - rank(b) })
	return shards
}

// fetchShard reads all pieces of a shard and verifies them.
func (c *collector) fetchShard(ctx context.Context, f *fetching, slots chan struct{}) ([]byte, error) {
	s := f.shard
	dst, err := c.place(s.Index)
	if err != nil {
		return nil, err
	}
	s.Length = c.len
	b := c.o.current(s.Backend)
	h := newShardHash()
	for i, key := range s.Keys {
		piece, err := c.getPiece(ctx, b, key, slots)
		if err != nil {
			return nil, err
		}
		f.progress.Store(time.Now().UnixNano())
		if int64(len(piece)) != s.pieceLen(i) {
			return nil, fmt.Errorf("%w: %s: piece %d has %d bytes, not %d", ErrDamaged, b, i, len(piece), s.pieceLen(i))
		}
		if len(s.CRCs) == len(s.Keys) && record.CRC(piece) != s.CRCs[i] {
			return nil, fmt.Errorf("%w: %s: CRC of piece %d differs", ErrDamaged, b, i)
		}
		if c.proof == byChecksum {
			h.write(piece)
		}
		copy(dst[int64(i)*PieceSize:], piece)
	}
	if c.proof == byChecksum && h.sum() != s.Checksum {
		return nil, fmt.Errorf("%w: %s: checksum differs", ErrDamaged, b)
	}
	return dst, nil
}

func (c *collector) getPiece(ctx context.Context, b backend.Backend, key []byte, slots chan struct{}) (piece []byte, err error) {
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	err = c.o.conns.use(ctx, b, func(ctx context.Context, conn backend.Conn) error {
		piece, err = conn.Get(ctx, key)
		return err
	})
	c.o.stats.fetched.Add(uint64(len(piece)))
	return piece, err
}

// place is where a shard goes: a data shard where it belongs, parity beside.
func (c *collector) place(index int) ([]byte, error) {
	if index < c.obj.K {
		return c.data[index], nil
	}
	buf, err := c.o.mem.tryReserve(c.len)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.parity = append(c.parity, buf)
	return buf.b, nil
}

// restore computes the data shards that were not fetched.
func (c *collector) restore() error {
	out := make([][]byte, c.obj.K)
	missing := false
	for i := range out {
		if c.have[i] == nil {
			out[i] = c.data[i]
			missing = true
		}
	}
	if !missing {
		return nil
	}
	return c.code.Restore(c.have, out)
}

// checksumError: what was restored from good shards is not what was stored.
func checksumError(got, want record.Checksum) error {
	return fmt.Errorf("%w: content has checksum %x, its record says %x", ErrDamaged, got, want)
}
