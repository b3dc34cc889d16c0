package qsfs

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/blake2b"

	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/internal/boottime"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/store"
)

// checkpointer makes one checkpoint after the other: cut, upload, manifest,
// head. One goroutine runs it, so that there is never more than one open cut,
// and copies of index files take no more than one set's room.
type checkpointer struct {
	sys      *System
	log      *slog.Logger
	requests chan chan<- syncResult

	nextSeq      atomic.Uint64 // of the next cut
	committedCut atomic.Uint64 // the tree's number of the newest committed cut
	committedSeq atomic.Uint64
	committedAt  atomic.Int64 // boot time, ns; zero: none in this run
	degraded     atomic.Bool  // the newest checkpoint has metadata on three backends only

	progress *signal // told after each stored file
	dirty    dirtyClock

	unreconciled atomic.Bool // what is stored is not known yet
	reconciling  sync.Mutex

	base    *manifest // the newest manifest without a base of its own
	baseRef fileRef
}

type syncResult struct {
	report client.SyncReport
	err    error
}

// staged is one file of a cut that has to be stored.
type staged struct {
	item store.Item
	file store.File
}

// cutState is what a cut found, taken while nothing changed.
type cutState struct {
	cut     uint64 // the tree's number
	seq     uint64
	staged  []staged
	slots   map[string]uint64
	indexes map[string]map[uint32]uint64 // generation of each index file that was copied
}

func (c *checkpointer) run(ctx context.Context) {
	timer := time.NewTimer(c.sys.cfg.RotateTime().Std())
	defer timer.Stop()
	for {
		var waiting []chan<- syncResult
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case r := <-c.requests:
			waiting = append(waiting, r)
		}
		waiting = append(waiting, c.pendingRequests()...)
		report, err := c.checkpoint(ctx)
		if err != nil && ctx.Err() == nil {
			c.log.Warn("checkpoint failed", "err", err)
		}
		for _, w := range waiting {
			w <- syncResult{report, err}
		}
		timer.Reset(c.sys.cfg.RotateTime().Std())
	}
}

// pendingRequests takes the requests that came before the cut: it serves them
// all.
func (c *checkpointer) pendingRequests() []chan<- syncResult {
	var all []chan<- syncResult
	for {
		select {
		case r := <-c.requests:
			all = append(all, r)
		default:
			return all
		}
	}
}

// sync asks for a checkpoint and waits for it.
func (c *checkpointer) sync(ctx context.Context) (client.SyncReport, error) {
	answer := make(chan syncResult, 1) // room: the answer is never waited for
	select {
	case c.requests <- answer:
	case <-ctx.Done():
		return client.SyncReport{}, ctx.Err()
	}
	select {
	case r := <-answer:
		return r.report, r.err
	case <-ctx.Done():
		return client.SyncReport{}, ctx.Err()
	}
}

// checkpoint brings everything written so far to the backends.
func (c *checkpointer) checkpoint(ctx context.Context) (client.SyncReport, error) {
	began := boottime.Now()
	report := client.SyncReport{Schema: client.SchemaVersion, Epoch: c.sys.fence.id.Epoch, Checkpoint: c.committedSeq.Load()}
	if err := c.sys.fence.isFenced(); err != nil {
		return report, err
	}
	if err := c.sys.reconcile(ctx); err != nil {
		return report, err
	}
	cut, err := c.cut(ctx)
	if err != nil {
		return report, fmt.Errorf("cut: %w", err)
	}
	if cut == nil {
		report.Degraded = c.degraded.Load()
		return report, nil // nothing is new
	}
	defer c.unstage(cut)
	if err := c.await(ctx, cut); err != nil {
		return report, err
	}
	if err := c.commit(ctx, cut); err != nil {
		return report, err
	}
	for _, s := range cut.staged {
		report.Files++
		report.Bytes += s.item.Size
	}
	report.Checkpoint = cut.seq
	report.Degraded = c.degraded.Load()
	report.Seconds = (boottime.Now() - began).Seconds()
	c.log.Info("checkpoint committed", "seq", cut.seq, "files", report.Files, "bytes", report.Bytes, "took", boottime.Now()-began)
	return report, nil
}

// cut takes a consistent cut of both namespaces, and records what has to be
// stored for it. Nil: everything is stored already.
func (c *checkpointer) cut(ctx context.Context) (*cutState, error) {
	cut := &cutState{seq: c.nextSeq.Load(), slots: map[string]uint64{}, indexes: map[string]map[uint32]uint64{}}
	var files []staged
	n, err := c.sys.tree.Cut(ctx, func(ctx context.Context) error {
		for _, p := range c.sys.spaces {
			found, err := c.cutSpace(ctx, p, cut)
			if err != nil {
				return fmt.Errorf("namespace %s: %w", p.name, err)
			}
			files = append(files, found...)
		}
		// What is closed from here on belongs to the next cut.
		c.nextSeq.Add(1)
		c.dirty.cut()
		return nil
	})
	cut.cut, cut.staged = n, files
	if err != nil {
		c.unstage(cut)
		return nil, err
	}
	if len(files) == 0 {
		c.committedCut.Store(n)
		c.dirty.committed()
		return nil, nil
	}
	if err := c.begin(ctx, cut); err != nil {
		c.unstage(cut)
		return nil, err
	}
	return cut, nil
}

// begin records the cut in one transaction.
func (c *checkpointer) begin(ctx context.Context, cut *cutState) error {
	items := make([]store.Item, len(cut.staged))
	rows := make([]store.File, len(cut.staged))
	for i, s := range cut.staged {
		items[i], rows[i] = s.item, s.file
	}
	return c.sys.store.BeginCheckpoint(ctx, store.Checkpoint{Seq: int64(cut.seq), Epoch: int64(c.sys.fence.id.Epoch)}, items, rows)
}

// cutSpace closes the active pair of a namespace and lists what is not stored.
func (c *checkpointer) cutSpace(ctx context.Context, p *space, cut *cutState) ([]staged, error) {
	if _, err := p.ns.Jump(ctx); err != nil {
		return nil, err
	}
	files, err := p.ns.Files()
	if err != nil {
		return nil, err
	}
	cut.slots[p.name] = files.Slots
	cut.indexes[p.name] = map[uint32]uint64{}
	var out []staged
	for _, d := range files.Data {
		if _, ok := p.stored(store.KindData, d.ID); ok {
			continue
		}
		if !d.Present {
			c.log.Error("a data file is neither here nor on the backends: its content is lost", "path", p.dataPath(d.ID))
			continue
		}
		out = append(out, c.stagedData(p, d, cut.seq))
	}
	dirty := map[uint32]bool{}
	for _, id := range p.ns.DirtyIndexes() {
		dirty[id] = true
	}
	for _, i := range files.Index {
		if _, ok := p.stored(store.KindIndex, i.ID); ok && !dirty[i.ID] {
			continue
		}
		s, err := c.stageIndex(ctx, p, i, cut.seq)
		if err != nil {
			return nil, err
		}
		cut.indexes[p.name][i.ID] = i.Generation
		out = append(out, s)
	}
	descriptor, changed, err := c.stageDescriptor(p, cut.seq)
	if changed {
		out = append(out, descriptor)
	}
	return out, err
}

// version tells the contents of a file apart, and objects of one epoch from
// those of another. The generation of a data file is its length, for it only
// grows; that of everything else is the number of the cut.
func version(epoch uint64, generation int64) string { return fmt.Sprintf("%d.%d", epoch, generation) }

func (c *checkpointer) stagedData(p *space, d server.DataFile, seq uint64) staged {
	return c.stage(p, store.KindData, d.ID, p.dataPath(d.ID), p.ns.DataPath(d.ID), d.Length, d.Length, seq)
}

// stage describes one file to be stored: path below the root, source on disk,
// generation, length.
func (c *checkpointer) stage(p *space, kind store.Kind, id uint32, path, source string, generation, length int64, seq uint64) staged {
	epoch := c.sys.fence.id.Epoch
	v := version(epoch, generation)
	return staged{
		item: store.Item{Path: path, Version: v, Kind: kind, Source: source, Checkpoint: int64(seq), Size: length},
		file: store.File{Path: path, Namespace: p.name, Kind: kind, FileID: int64(id), Version: v, Length: length,
			ObjectPath: path + "@" + v, Epoch: int64(epoch), Generation: generation, Checkpoint: int64(seq), State: store.FilePending},
	}
}

// stageIndex copies an index file: the original changes in place afterwards.
func (c *checkpointer) stageIndex(ctx context.Context, p *space, i server.IndexFile, seq uint64) (staged, error) {
	dst := filepath.Join(c.sys.layout.staging(), fmt.Sprintf("%d-%s-i%d", seq, p.name, i.ID))
	if err := p.ns.CopyIndex(ctx, i.ID, dst); err != nil {
		return staged{}, err
	}
	return c.stage(p, store.KindIndex, i.ID, p.indexPath(i.ID), dst, int64(seq), i.Length, seq), nil
}

// stageDescriptor copies the namespace's descriptor if it is not stored as it
// is now.
func (c *checkpointer) stageDescriptor(p *space, seq uint64) (staged, bool, error) {
	text, err := os.ReadFile(p.ns.DescriptorPath())
	if err != nil {
		return staged{}, false, err
	}
	if ref, ok := p.stored(store.KindDescriptor, 0); ok && ref.Checksum == checksum(text) {
		return staged{}, false, nil
	}
	dst := filepath.Join(c.sys.layout.staging(), fmt.Sprintf("%d-%s-namespace", seq, p.name))
	if err := os.WriteFile(dst, text, 0o600); err != nil {
		return staged{}, false, err
	}
	return c.stage(p, store.KindDescriptor, 0, p.descriptorPath(), dst, int64(seq), int64(len(text)), seq), true, nil
}

// unstage removes the copies of a cut that is done or given up.
func (c *checkpointer) unstage(cut *cutState) {
	for _, s := range cut.staged {
		if s.item.Kind == store.KindData {
			continue // the original, not a copy
		}
		if err := os.Remove(s.item.Source); err != nil && !errors.Is(err, os.ErrNotExist) {
			c.log.Warn("staged copy stays", "path", s.item.Source, "err", err)
		}
	}
}

// checksum is zstor's whole-file checksum: BLAKE2b-128, in hex.
func checksum(data []byte) string {
	h, err := blake2b.New(16, nil)
	if err != nil {
		panic(err) // 16 is a valid size
	}
	h.Write(data)
	return hex.EncodeToString(h.Sum(nil))
}
