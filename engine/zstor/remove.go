package zstor

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/threefoldtech/quantumd/backend"
)

// Alias writes a record for path that names the shards of obj. Both records are
// equal; removing one with its shards breaks the other, so use RemoveRecord.
func (e *Engine) Alias(ctx context.Context, obj Object, path string) (alias Object, err error) {
	ctx, o, err := e.begin(ctx, "alias", path, "")
	if err != nil {
		return obj, err
	}
	defer o.finish(&err)
	unlock, err := o.locks.lock(ctx, o.event.Key)
	if err != nil {
		return obj, err
	}
	defer unlock()
	st, err := o.readMeta(ctx, o.event.Key, false)
	if err == nil {
		err = st.writable()
	}
	if err == nil {
		obj.Generation = 0
		err = o.commit(ctx, &obj, st)
	}
	return obj, err
}

// Removal tells what Remove could not delete.
type Removal struct {
	Object Object
	// Left are shards, or parts of them, that stay on backends which did not answer.
	Left []ShardReport
}

// Remove deletes the record of path from the metadata backends, and then the
// shards that it named. Shards are deleted only when so few metadata backends can
// still hold the record that nobody can read it; otherwise it is an error and
// nothing of the data is touched. Shards that could not be deleted are in Removal.
func (e *Engine) Remove(ctx context.Context, path string) (Removal, error) {
	return e.remove(ctx, path, "", true)
}

// RemoveKey is Remove by key.
func (e *Engine) RemoveKey(ctx context.Context, key string) (Removal, error) {
	return e.remove(ctx, "", key, true)
}

// RemoveRecord deletes the record of path and leaves its shards.
func (e *Engine) RemoveRecord(ctx context.Context, path string) error {
	_, err := e.remove(ctx, path, "", false)
	return err
}

// RemoveShards deletes the shards of obj, whatever records name them, and gives
// those that stay because their backends did not answer.
func (e *Engine) RemoveShards(ctx context.Context, obj Object) (left []ShardReport, err error) {
	ctx, o, err := e.begin(ctx, "remove", obj.Path, obj.Key)
	if err != nil {
		return nil, err
	}
	defer o.finish(&err)
	return o.deleteShards(ctx, obj), nil
}

func (e *Engine) remove(ctx context.Context, path, key string, shards bool) (r Removal, err error) {
	ctx, o, err := e.begin(ctx, "remove", path, key)
	if err != nil {
		return r, err
	}
	defer o.finish(&err)
	unlock, err := o.locks.lock(ctx, o.event.Key)
	if err != nil {
		return r, err
	}
	defer unlock()
	if r.Object, err = o.find(ctx, false); err != nil {
		return r, err
	}
	if err := o.deleteRecord(ctx); err != nil {
		return r, err
	}
	if shards {
		r.Left = o.deleteShards(ctx, r.Object)
	}
	return r, nil
}

// deleteRecord deletes the operation's key. With one metadata backend silent it
// succeeds: one value alone never gives a record.
func (o *op) deleteRecord(ctx context.Context) error {
	errs := make([]error, len(o.cfg.Meta))
	var deleting sync.WaitGroup
	for i, b := range o.cfg.Meta {
		deleting.Go(func() {
			err := o.conns.use(ctx, b, func(ctx context.Context, c backend.Conn) error { return c.Delete(ctx, []byte(o.event.Key)) })
			if err != nil && !errors.Is(err, backend.ErrNotFound) {
				errs[i] = fmt.Errorf("%s: %w", b, err)
			}
		})
	}
	deleting.Wait()
	gone := 0
	for _, err := range errs {
		if err == nil {
			gone++
		}
	}
	if gone < metaCommit {
		return &UnavailableError{What: "metadata", Answered: gone, Needed: metaCommit, Err: errors.Join(errs...)}
	}
	return nil
}

func (o *op) deleteShards(ctx context.Context, obj Object) []ShardReport {
	var mu sync.Mutex
	var left []ShardReport
	slots := make(chan struct{}, maxSenders)
	var deleting sync.WaitGroup
	for _, s := range obj.Shards {
		deleting.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			b := o.current(s.Backend)
			if err := o.deletePieces(ctx, b, s.Keys); err != nil {
				mu.Lock()
				defer mu.Unlock()
				left = append(left, ShardReport{Index: s.Index, Backend: b, State: stateOf(err), Err: err})
			}
		})
	}
	deleting.Wait()
	return left
}
