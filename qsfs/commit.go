package qsfs

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/internal/boottime"
	"github.com/threefoldtech/quantumd/qsfs/epoch"
	"github.com/threefoldtech/quantumd/qsfs/manifest"
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
		var later <-chan time.Time
		if left > countOften { // to count a million after each would take longer than to store them
			told, later = nil, time.After(time.Second)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d files of checkpoint %d are not on the backends yet: %w", left, cut.seq, context.Cause(ctx))
		case <-c.sys.fence.Lost():
			return c.sys.fence.Fenced()
		case <-told:
		case <-later:
		}
	}
}

// countOften is up to how many files are counted after each one that is stored.
const countOften = 1000

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
		p.ns.Committed(cut.spaces[p.name])
		p.setCommitted(whole.Namespaces[p.name].Data)
	}
	// Older manifests are waste from here on: nothing has to keep them whole.
	if err := c.sys.store.ForgetObjectsBelow(ctx, manifestObject+"@", ref.Object, c.baseRef.Object); err != nil {
		c.log.Warn("placements of old manifests stay", "err", err)
	}
	c.degraded.Store(degraded || c.partial.Load())
	c.committedSeq.Store(cut.seq)
	c.committedCut.Store(cut.cut)
	c.committedAt.Store(int64(boottime.Now()))
	c.dirty.committed()
	c.rewrite.Store(false)
	return nil
}

func (c *checkpointer) writeHead(ctx context.Context, m *manifest.Manifest, ref manifest.Ref) error {
	holding, release, err := c.sys.fence.Hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	c.sys.recordLock.Lock()
	defer c.sys.recordLock.Unlock()
	id := c.sys.fence.Identity()
	return c.sys.epochs.Write(holding, c.sys.epochs.HeadKey(id.Epoch, id.UUID),
		epoch.Head{Schema: epoch.Schema, Epoch: id.Epoch, UUID: id.UUID, Seq: m.Seq, Created: m.Created, Manifest: ref}, false)
}

// whole puts together what the cut names, with what its uploads have become.
func (c *checkpointer) whole(ctx context.Context, cut *cutState) (*manifest.Manifest, bool, error) {
	for _, s := range cut.staged {
		path, want := s.path(), version(c.sys.fence.Identity().Epoch, s.generation)
		row, err := c.sys.store.File(ctx, path)
		if err != nil {
			return nil, false, err
		}
		if row.Version != want || row.State == store.FilePending || row.Checksum == "" {
			return nil, false, fmt.Errorf("%s of version %s is %s: want it stored", path, want, row.State)
		}
		if err := s.space.setStored(s.kind, s.id, manifest.Ref{Object: row.ObjectPath, Length: row.Length, Checksum: row.Checksum}); err != nil {
			return nil, false, err
		}
	}
	m := &manifest.Manifest{Schema: manifest.Schema, Epoch: c.sys.fence.Identity().Epoch, Seq: cut.seq, Created: time.Now().UTC(), Namespaces: map[string]*manifest.Namespace{}}
	for _, p := range c.sys.spaces {
		p.mu.Lock()
		ns := p.whole.Snapshot()
		p.mu.Unlock()
		ns.Slots = cut.spaces[p.name].Slots
		m.Namespaces[p.name] = ns
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
func (c *checkpointer) storeManifest(ctx context.Context, whole *manifest.Manifest) (manifest.Ref, error) {
	if c.base != nil && !c.rewrite.Load() {
		delta := whole.Since(c.base, c.baseRef)
		if delta.Files()*maxDelta < whole.Files() {
			return c.storeEncoded(ctx, delta)
		}
	}
	ref, err := c.storeEncoded(ctx, whole)
	if err == nil {
		c.base, c.baseRef = whole, ref
	}
	return ref, err
}

// manifestObject is the path of manifests, without epoch and number.
const manifestObject = "qsfs/manifest"

// storeEncoded writes a manifest to a file first, and stores that: one of
// millions of files is never in memory as a text.
func (c *checkpointer) storeEncoded(ctx context.Context, m *manifest.Manifest) (ref manifest.Ref, err error) {
	f, err := os.CreateTemp(c.sys.layout.staging(), "manifest-")
	if err != nil {
		return manifest.Ref{}, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	if err := m.Encode(f); err != nil {
		return manifest.Ref{}, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return manifest.Ref{}, err
	}
	path := manifestObject + "@" + version(m.Epoch, int64(m.Seq))
	obj, err := c.sys.engine.Store(ctx, c.sys.objectPath(path), zstor.Source{Reader: f, Size: size})
	if err != nil {
		return manifest.Ref{}, err
	}
	if obj, err = c.sys.confirm(ctx, obj); err != nil {
		return manifest.Ref{}, err
	}
	if obj.Degraded {
		c.partial.Store(true)
	}
	if ids := shardBackends(obj); ids != nil {
		if err := c.sys.store.SetPlacements(ctx, path, ids); err != nil {
			return manifest.Ref{}, err
		}
	}
	return manifest.Ref{Object: path, Length: size, Checksum: hex.EncodeToString(obj.Checksum[:])}, nil
}
