package zstor

import (
	"context"
	"errors"
	"fmt"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor/erasure"
	"github.com/threefoldtech/quantumd/engine/zstor/seal"
)

// StoreOptions tunes one store.
type StoreOptions struct {
	// SkipUnchanged: when the record says that the same content is stored with the
	// shape of the config, and all four metadata backends hold it, nothing is sent.
	// Whether the shards are still there is not asked.
	SkipUnchanged bool
}

// Store stores src under path. It succeeds when all n shards are on data backends
// and the record is on all four metadata backends, or on exactly three: then
// Object.Degraded is set. After an error the object is what it was before, except
// that a record which could not be taken back may name the new content; shards
// that no record names are deleted as far as their backends answer.
func (e *Engine) Store(ctx context.Context, path string, src Source) (Object, error) {
	return e.StoreWith(ctx, path, src, StoreOptions{})
}

// StoreFile is Store of the file named file.
func (e *Engine) StoreFile(ctx context.Context, path, file string) (Object, error) {
	return e.StoreFileWith(ctx, path, file, StoreOptions{})
}

// StoreFileWith is StoreWith of the file named file.
func (e *Engine) StoreFileWith(ctx context.Context, path, file string, opts StoreOptions) (Object, error) {
	src, f, err := openSource(file)
	if err != nil {
		return Object{}, err
	}
	defer f.Close() // read only
	return e.StoreWith(ctx, path, src, opts)
}

// StoreWith is Store with options.
func (e *Engine) StoreWith(ctx context.Context, path string, src Source, opts StoreOptions) (obj Object, err error) {
	ctx, o, err := e.begin(ctx, "store", path, "")
	if err != nil {
		return obj, err
	}
	defer o.finish(&err)
	o.event.Bytes = src.Size
	unlock, err := o.locks.lock(ctx, o.event.Key)
	if err != nil {
		return obj, err
	}
	defer unlock()
	return o.store(ctx, src, opts)
}

// asyncMeta reads the metadata while something else is done.
type asyncMeta struct {
	done chan struct{}
	st   *metaState
	err  error
}

func (o *op) readMetaAsync(ctx context.Context) *asyncMeta {
	a := &asyncMeta{done: make(chan struct{})}
	go func() { // ends with ctx; wait is always called
		defer close(a.done)
		a.st, a.err = o.readMeta(ctx, o.event.Key, false)
	}()
	return a
}

func (a *asyncMeta) wait() (*metaState, error) {
	<-a.done
	return a.st, a.err
}

// writable: fewer than three metadata backends cannot commit, so nothing is sent.
func (st *metaState) writable() error {
	if n := len(st.answers) - st.tally(silent); n < metaCommit {
		return &UnavailableError{What: "metadata", Answered: n, Needed: metaCommit, Err: st.errs()}
	}
	return nil
}

func (o *op) store(ctx context.Context, src Source, opts StoreOptions) (Object, error) {
	code, err := erasure.New(o.cfg.MinimalShards, o.cfg.ExpectedShards)
	if err != nil {
		return Object{}, err
	}
	if src.Size < 0 || compressBound(src.Size) > seal.MaxPlain || src.Size > o.opts.MaxObject {
		return Object{}, fmt.Errorf("%d bytes: an object has at most %d", src.Size, min(o.opts.MaxObject, seal.MaxPlain-seal.MaxPlain>>10))
	}
	if err := o.placeable(ctx); err != nil {
		return Object{}, err
	}
	metaCtx, cancelMeta := context.WithCancel(ctx)
	meta := o.readMetaAsync(metaCtx)
	defer func() { cancelMeta(); <-meta.done }()

	room := compressBound(src.Size) + seal.Overhead + int64(code.K())
	buf, err := o.mem.reserve(ctx, room, o.windows(code.N(), room/int64(code.K())+1))
	if err != nil {
		return Object{}, err
	}
	defer buf.free()
	if buf.spill {
		o.stats.spilled.Add(1)
	}
	packed, sum, err := compress(ctx, src, buf.b[seal.NonceSize:])
	if err != nil {
		return Object{}, err
	}
	st, err := meta.wait()
	if err == nil {
		err = st.writable()
	}
	if err != nil {
		return Object{}, err
	}
	obj := Object{
		Path: o.event.Path, Key: o.event.Key, Checksum: sum, Size: src.Size,
		K: code.K(), N: code.N(), DataKey: seal.NewKey(),
	}
	if old, ok := o.unchanged(st, obj); ok && opts.SkipUnchanged {
		o.stats.skipped.Add(1)
		return old, nil
	}
	sealed := obj.DataKey.SealInPlace(buf.b, packed)
	set := newShardSet(code, code.Pad(buf.b, len(sealed)))
	return o.upload(ctx, obj, set, st)
}

// upload sends all shards and commits the record.
func (o *op) upload(ctx context.Context, obj Object, set *shardSet, st *metaState) (Object, error) {
	up := newUpload(o, set)
	shards, err := up.all(ctx)
	if err != nil {
		up.deleteWritten(ctx)
		return Object{}, err
	}
	obj.Shards = shards
	if err := o.commit(ctx, &obj, st); err != nil {
		var un *uncommittedError
		if errors.As(err, &un) && un.maybeHolders >= 2 {
			o.log.Warn("shards of a failed store stay: its record may still be readable", "key", obj.Key)
		} else {
			up.deleteWritten(ctx)
		}
		return Object{}, err
	}
	up.deleteAbandoned(ctx)
	o.stats.stored.Add(1)
	return obj, nil
}

// unchanged says whether all four metadata backends hold a record of this content
// in this shape.
func (o *op) unchanged(st *metaState, obj Object) (Object, bool) {
	if len(st.gens) == 0 || st.gens[0].count() != metaFull {
		return Object{}, false
	}
	old := o.objectAt(st.gens[0], st)
	old.Unchanged = true
	return old, old.Checksum == obj.Checksum && old.K == obj.K && old.N == obj.N
}

// maxSenders bounds the shards of one object that move at a time, and with them
// the pieces in memory.
const maxSenders = 16

// windows is the memory for the pieces of n shards in flight.
func (o *op) windows(n int, shardLen int64) int64 {
	return int64(min(n, maxSenders)) * min(shardLen, PieceSize)
}

func (o *op) setPiece(ctx context.Context, b backend.Backend, piece []byte) (key []byte, err error) {
	o.stats.sent.Add(uint64(len(piece)))
	err = o.conns.use(ctx, b, func(ctx context.Context, c backend.Conn) error {
		key, err = c.Set(ctx, nil, piece)
		if err == nil && len(key) != 8 && len(key) != 4 {
			return fmt.Errorf("%w: answered a key of %d bytes", backend.ErrMode, len(key))
		}
		return err
	})
	return key, err
}
