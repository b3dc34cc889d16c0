package qsfs

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/store"
)

// uploadLease is how long a claimed item stays a worker's without a word.
const uploadLease = 2 * time.Minute

// uploader brings what is in the queue to the backends: upload_workers of them
// run at a time.
type uploader struct {
	sys  *System
	log  *slog.Logger
	name string
}

// run uploads until idle ends; ctx, its parent, ends what it is at as well.
func (u *uploader) run(ctx, idle context.Context) {
	queue := u.sys.store.Queue()
	failed := 0 // tries in a row that no backend was there for
	for {
		if failed > 0 && !u.pause(idle, failed) {
			return
		}
		if err := queue.Wait(idle); err != nil {
			return // the context, or the queue is closed
		}
		lease, ok, err := queue.Claim(ctx, u.name, uploadLease)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			u.log.Error("cannot claim an upload", "err", err)
			if !wait(ctx, time.Second) {
				return
			}
			continue
		}
		if !ok {
			continue
		}
		if err := u.upload(ctx, lease); backendsAway(err) {
			failed++
		} else {
			failed = 0
		}
	}
}

// maxUploadPause bounds how long a worker does nothing while the backends are
// away, where nothing tells that they are back.
const maxUploadPause = 10 * time.Second

// pause waits before the next try, longer each time, until the backends are
// back: a worker that claimed the next item at once would have every one of a
// million files fail, again and again. False: ctx ended.
func (u *uploader) pause(ctx context.Context, failed int) bool {
	d := min(100*time.Millisecond<<min(failed-1, 10), maxUploadPause)
	timer := time.NewTimer(d/2 + rand.N(d/2))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-u.sys.health.back.next():
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// errNoLease says that nothing may be written now.
var errNoLease = errors.New("no lease of the epoch")

// backendsAway says whether an upload failed for a reason that the next file
// would fail for as well.
func backendsAway(err error) bool {
	var silent *zstor.UnavailableError
	return errors.As(err, &silent) || errors.Is(err, errNoLease)
}

// upload stores one item, records what became of it, and gives why it failed.
func (u *uploader) upload(ctx context.Context, lease store.Lease) error {
	queue := u.sys.store.Queue()
	keeping, stop := context.WithCancel(ctx)
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		u.keepLease(keeping, lease)
	}()
	began := time.Now()
	err := u.store(ctx, lease.Item)
	if ctx.Err() == nil {
		u.sys.meters.uploaded(string(lease.Item.Kind), lease.Item.Size, time.Since(began), err)
	}
	stop()
	<-kept
	after := context.WithoutCancel(ctx) // what happened is recorded, also at the end
	cause := err
	switch {
	case err == nil:
	case ctx.Err() != nil:
		err = queue.Release(after, lease)
	case errors.Is(err, os.ErrNotExist):
		err = u.vanished(after, lease, err)
	default:
		u.log.Warn("upload failed; it is tried again", "path", lease.Item.Path, "tries", lease.Tries+1, "err", err)
		err = queue.Fail(after, lease, err)
	}
	if err != nil && !errors.Is(err, store.ErrLeaseLost) {
		u.log.Error("cannot record an upload", "path", lease.Item.Path, "err", err)
	}
	u.sys.check.progress.tell()
	return cause
}

// keepLease extends the lease until the upload ended.
func (u *uploader) keepLease(ctx context.Context, lease store.Lease) {
	for wait(ctx, uploadLease/3) {
		next, err := u.sys.store.Queue().Extend(ctx, lease, uploadLease)
		if err != nil {
			return // the upload goes on; a second one of the same file does no harm
		}
		lease = next
	}
}

// store uploads one file, has the backends confirm it, and marks it stored.
func (u *uploader) store(ctx context.Context, item store.Item) error {
	if _, release, err := u.sys.fence.Hold(ctx); err != nil {
		return fmt.Errorf("%w: %w", errNoLease, err)
	} else {
		release()
	}
	path := item.Path + "@" + item.Version
	if done, err := u.storedBefore(ctx, item, path); err != nil || done {
		return err
	}
	obj, err := u.sys.objects.StoreFile(ctx, u.sys.objectPath(path), item.Source)
	if err != nil {
		return err
	}
	if obj.Size >= 0 && obj.Size != item.Size {
		return fmt.Errorf("%s has %d bytes, %d were there when it was closed", item.Source, obj.Size, item.Size)
	}
	if obj, err = u.sys.confirm(ctx, obj); err != nil {
		return err
	}
	return u.stored(ctx, obj, item, path)
}

// stored notes an object that its backends have confirmed.
func (u *uploader) stored(ctx context.Context, obj zstor.Object, item store.Item, path string) error {
	if err := u.sys.store.MarkStored(ctx, item.Path, item.Version, storedAs(obj, path)); err != nil {
		return err
	}
	u.alias(ctx, obj, item)
	return nil
}

// storedAs is what the store remembers of an object that its backends have
// confirmed.
func storedAs(obj zstor.Object, path string) store.Stored {
	st := store.Stored{ObjectPath: path, Checksum: hex.EncodeToString(obj.Checksum[:]), State: store.FileStored, Verified: true, Backends: shardBackends(obj)}
	if obj.Degraded {
		st.State, st.Verified, st.Note = store.FileDegraded, false, errDegraded
	}
	return st
}

// shardBackends lists the ids of the backends that hold an object's shards, in
// the order of the shards; nil where one of them is not known by an id.
func shardBackends(obj zstor.Object) []string {
	ids := make([]string, len(obj.Shards))
	for i, sh := range obj.Shards {
		if ids[i] = sh.Backend.ID; ids[i] == "" {
			return nil
		}
	}
	return ids
}

var errDegraded = errors.New("its metadata is on three of four backends")

// alias names the newest version by its plain path too, where the real zstor
// and the reference's restore look for it. Ours never reads it: a failure is
// only noted.
func (u *uploader) alias(ctx context.Context, obj zstor.Object, item store.Item) {
	if _, err := u.sys.engine.Alias(ctx, obj, u.sys.objectPath(item.Path)); err != nil && ctx.Err() == nil {
		u.log.Debug("the plain path is not up to date", "path", item.Path, "err", err)
	}
}

// vanished is for an item whose source is gone: a copy of an index of an
// earlier cut. A data file that is gone before it was stored is lost data.
func (u *uploader) vanished(ctx context.Context, lease store.Lease, cause error) error {
	if lease.Item.Kind == store.KindData && !u.sys.layout.isCopy(lease.Item.Source) {
		u.log.Error("a data file is gone before it was stored: its content is lost", "path", lease.Item.Path)
		return u.sys.store.Queue().Fail(ctx, lease, cause)
	}
	_, err := u.sys.store.Queue().Forget(ctx, lease.Item.Path, lease.Item.Version)
	return err
}

// closedData enqueues a data file that was closed because it is full: it is
// uploaded before the next cut needs it.
func (c *checkpointer) closedData(ctx context.Context, p *space, d server.DataFile) error {
	if ref, ok := p.stored(store.KindData, d.ID); ok && ref.Length >= d.Length {
		return nil
	}
	item, row := c.describe(stagedData(p, d), c.nextSeq.Load())
	if err := c.sys.store.TrackFiles(ctx, row); err != nil {
		return err
	}
	return c.sys.store.Queue().Enqueue(ctx, item)
}

// objectPath is the path that the engine hashes: below the zdb root.
func (s *System) objectPath(rel string) string { return filepath.Join(s.layout.Root, rel) }

// confirm asks every backend whether it holds what was sent to it, and gives the
// object as the metadata backends have it: who stored it may know less of that.
func (s *System) confirm(ctx context.Context, obj zstor.Object) (zstor.Object, error) {
	report, err := s.engine.VerifyObject(ctx, obj, zstor.VerifyOptions{})
	if err != nil {
		return obj, err
	}
	if good := report.GoodShards(); good != obj.N {
		return obj, fmt.Errorf("verify %s: %d of %d shards are as they were sent", obj.Path, good, obj.N)
	}
	obj.MetaHolders = 0
	for _, m := range report.Meta {
		if m.State == zstor.Good {
			obj.MetaHolders++
		}
	}
	obj.Degraded = obj.MetaHolders < backend.MetaBackends
	return obj, nil
}

// wait pauses; false when the context ended first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
