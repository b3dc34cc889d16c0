package qsfs

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/threefoldtech/quantumd/internal/boottime"
	"github.com/threefoldtech/quantumd/store"
)

// await returns when every file of the cut is stored.
func (c *checkpointer) await(ctx context.Context, cut *cutState) error {
	total := len(cut.staged)
	for {
		told := c.progress.next()
		left, err := c.sys.store.Queue().PendingFor(ctx, int64(cut.seq))
		if err != nil {
			return err
		}
		c.sys.opts.observer(Progress{Op: "sync", Step: "storing files", Done: int64(max(0, total-left)), Total: int64(total), Unit: "files"})
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d files of checkpoint %d are not on the backends yet: %w", left, cut.seq, context.Cause(ctx))
		case <-c.sys.fence.lost:
			return c.sys.fence.isFenced()
		case <-told:
		}
	}
}

// commit writes the manifest, then the head: from then on a restore gives this
// cut.
func (c *checkpointer) commit(ctx context.Context, cut *cutState) error {
	whole, degraded, err := c.whole(ctx, cut)
	if err != nil {
		return err
	}
	ref, err := c.storeManifest(ctx, whole)
	if err != nil {
		return fmt.Errorf("manifest of checkpoint %d: %w", cut.seq, err)
	}
	if err := c.sys.store.SetManifest(ctx, int64(cut.seq), ref.Object); err != nil {
		return err
	}
	if err := c.writeHead(ctx, whole, ref); err != nil {
		return fmt.Errorf("head of checkpoint %d: %w", cut.seq, err)
	}
	if err := c.sys.store.CommitCheckpoint(ctx, int64(cut.seq)); err != nil {
		return err
	}
	for _, p := range c.sys.spaces {
		p.ns.ResetCopied(cut.indexes[p.name])
	}
	c.degraded.Store(degraded)
	c.committedSeq.Store(cut.seq)
	c.committedCut.Store(cut.cut)
	c.committedAt.Store(int64(boottime.Now()))
	c.dirty.committed()
	return nil
}

func (c *checkpointer) writeHead(ctx context.Context, m *manifest, ref fileRef) error {
	holding, release, err := c.sys.fence.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	c.sys.recordLock.Lock()
	defer c.sys.recordLock.Unlock()
	id := c.sys.fence.id
	return c.sys.epochs.write(holding, c.sys.epochs.headKey(id.Epoch, id.UUID),
		head{Schema: recordSchema, Epoch: id.Epoch, UUID: id.UUID, Seq: m.Seq, Created: m.Created, Manifest: ref}, false)
}

// whole puts together what the cut names, with what its uploads have become.
func (c *checkpointer) whole(ctx context.Context, cut *cutState) (*manifest, bool, error) {
	for _, s := range cut.staged {
		row, err := c.sys.store.File(ctx, s.item.Path)
		if err != nil {
			return nil, false, err
		}
		if row.Version != s.item.Version || row.State == store.FilePending || row.Checksum == "" {
			return nil, false, fmt.Errorf("%s of version %s is %s: want it stored", s.item.Path, s.item.Version, row.State)
		}
		c.space(row.Namespace).setStored(row.Kind, uint32(row.FileID), fileRef{Object: row.ObjectPath, Length: row.Length, Checksum: row.Checksum})
	}
	m := &manifest{Schema: manifestSchema, Epoch: c.sys.fence.id.Epoch, Seq: cut.seq, Created: time.Now().UTC(), Namespaces: map[string]*manifestNamespace{}}
	for _, p := range c.sys.spaces {
		p.mu.Lock()
		m.Namespaces[p.name] = &manifestNamespace{Slots: cut.slots[p.name], Descriptor: p.whole.Descriptor,
			Index: mergeRefs(p.whole.Index, nil), Data: mergeRefs(p.whole.Data, nil)}
		p.mu.Unlock()
	}
	degraded, err := c.anyDegraded(ctx)
	return m, degraded, err
}

// anyDegraded says whether a stored file has its metadata on three backends
// only.
func (c *checkpointer) anyDegraded(ctx context.Context) (bool, error) {
	for _, err := range c.sys.store.Files(ctx, store.FileFilter{State: store.FileDegraded, Limit: 1}) {
		return true, err
	}
	return false, nil
}

func (c *checkpointer) space(name string) *space {
	for _, p := range c.sys.spaces {
		if p.name == name {
			return p
		}
	}
	return nil
}

// maxDelta is how large a delta may be, as a part of its base, before a new
// base is written.
const maxDelta = 2

// storeManifest stores a manifest, as a delta where that is much smaller.
func (c *checkpointer) storeManifest(ctx context.Context, whole *manifest) (fileRef, error) {
	if c.base != nil {
		delta := whole.since(c.base, c.baseRef)
		if delta.files()*maxDelta < whole.files() {
			return c.storeText(ctx, delta)
		}
	}
	ref, err := c.storeText(ctx, whole)
	if err == nil {
		c.base, c.baseRef = whole, ref
	}
	return ref, err
}

func (c *checkpointer) storeText(ctx context.Context, m *manifest) (fileRef, error) {
	text, err := m.encode()
	if err != nil {
		return fileRef{}, err
	}
	path := fmt.Sprintf("qsfs/manifest@%s", version(m.Epoch, int64(m.Seq)))
	obj, err := c.sys.storeBytes(ctx, path, text)
	if err != nil {
		return fileRef{}, err
	}
	if ids := shardBackends(obj); ids != nil {
		if err := c.sys.store.SetPlacements(ctx, path, ids); err != nil {
			return fileRef{}, err
		}
	}
	return fileRef{Object: path, Length: int64(len(text)), Checksum: hex.EncodeToString(obj.Checksum[:])}, nil
}
