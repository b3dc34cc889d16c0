package zstor

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor/record"
)

// VerifyRecord asks all four metadata backends how well the record of path is kept,
// and no data backend: shards in the report are NotAsked, or Stray where the config
// does not list their backend. Errors are those of Lookup.
func (e *Engine) VerifyRecord(ctx context.Context, path string) (rep Report, err error) {
	ctx, o, err := e.begin(ctx, "lookup", path, "")
	if err != nil {
		return rep, err
	}
	defer o.finish(&err)
	st, g, err := o.readNewest(ctx)
	if err != nil {
		return rep, err
	}
	rep = Report{Object: o.objectAt(g, st), Meta: o.metaReports(g, st)}
	for _, s := range rep.Object.Shards {
		r := ShardReport{Index: s.Index, Backend: s.Backend, State: NotAsked, listed: o.listed(s.Backend)}
		if !r.listed {
			r.State = Stray
		}
		rep.Shards = append(rep.Shards, r)
	}
	return rep, nil
}

// Audit reads every shard of path's object and compares it with the checksum in its
// record, trusting no backend's word; then it decodes the object and compares the
// content with its checksum. It takes a few pieces of memory for the shards, and
// for decoding what a Retrieve takes. Damage is in the report; the error is that of
// Verify, or matches ErrDamaged where good shards give something else than what
// was stored.
func (e *Engine) Audit(ctx context.Context, path string) (rep Report, err error) {
	rep, err = e.auditShards(ctx, path)
	if err != nil || !rep.Readable() {
		return rep, err
	}
	_, err = e.retrieve(ctx, path, &rep.Object, io.Discard)
	return rep, err
}

func (e *Engine) auditShards(ctx context.Context, path string) (rep Report, err error) {
	ctx, o, err := e.begin(ctx, "verify", path, "")
	if err != nil {
		return rep, err
	}
	defer o.finish(&err)
	st, g, err := o.readNewest(ctx)
	if err != nil {
		return rep, err
	}
	rep = Report{Object: o.objectAt(g, st), Meta: o.metaReports(g, st), Shards: make([]ShardReport, len(g.rec.Shards))}
	o.event.Bytes = rep.Object.Size
	slots := make(chan struct{}, auditReaders)
	var reading sync.WaitGroup
	for i, s := range rep.Object.Shards {
		reading.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			rep.Shards[i] = o.auditShard(ctx, s)
		})
	}
	reading.Wait()
	return rep, ctx.Err()
}

// auditReaders bounds the shards of one object that are read at a time, each a piece
// at a time.
const auditReaders = 4

func (o *op) auditShard(ctx context.Context, s Shard) ShardReport {
	b := o.current(s.Backend)
	rep := ShardReport{Index: s.Index, Backend: b, State: Good, listed: o.listed(b)}
	if !rep.listed {
		rep.State = Stray
	}
	if rep.Err = o.readShard(ctx, b, s); rep.Err != nil {
		rep.State = stateOf(rep.Err)
	}
	return rep
}

// readShard reads a shard piece by piece and compares its checksum.
func (o *op) readShard(ctx context.Context, b backend.Backend, s Shard) error {
	if len(s.Keys) == 0 {
		return fmt.Errorf("%w: the record names no pieces", backend.ErrNotFound)
	}
	h := newShardHash()
	for i, key := range s.Keys {
		var piece []byte
		err := o.conns.use(ctx, b, func(ctx context.Context, c backend.Conn) (err error) {
			piece, err = c.Get(ctx, key)
			return err
		})
		o.stats.fetched.Add(uint64(len(piece)))
		if err != nil {
			return err
		}
		if len(s.CRCs) == len(s.Keys) && record.CRC(piece) != s.CRCs[i] {
			return fmt.Errorf("%w: %s: CRC of piece %d differs", ErrDamaged, b, i)
		}
		h.write(piece)
	}
	if h.sum() != s.Checksum {
		return fmt.Errorf("%w: %s: checksum differs", ErrDamaged, b)
	}
	return nil
}
