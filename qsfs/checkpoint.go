package qsfs

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/blake2b"

	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/internal/boottime"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/manifest"
	"github.com/threefoldtech/quantumd/store"
)

// checkpointer makes one checkpoint after the other: cut, upload, manifest,
// head. One goroutine runs it, so that there is never more than one open cut,
// and copies of index files take no more than one set's room.
type checkpointer struct {
	sys      *System
	log      *slog.Logger
	requests chan chan<- syncResult
	soon     chan struct{} // one that nobody waits for

	nextSeq      atomic.Uint64 // of the next cut
	committedCut atomic.Uint64 // the tree's number of the newest committed cut
	committedSeq atomic.Uint64
	committedAt  atomic.Int64 // boot time, ns; zero: none in this run
	degraded     atomic.Bool  // the newest checkpoint has metadata on three backends only

	progress *signal // told after each stored file
	dirty    dirtyClock

	unreconciled atomic.Bool // what is stored is not known yet
	reconciling  sync.Mutex

	partial atomic.Bool // a manifest is on three metadata backends only
	rewrite atomic.Bool // the newest manifest is damaged: the next checkpoint is made although nothing is new, with a whole one

	base    *manifest.Manifest // the newest manifest without a base of its own; never changed
	baseRef manifest.Ref
}

type syncResult struct {
	report client.SyncReport
	err    error
}

// staged is one file of a cut that has to be stored.
type staged struct {
	space      *space
	kind       store.Kind
	id         uint32
	generation int64
	length     int64
	copied     bool // what is read is a copy that the cut made
}

// cutState is what a cut found, taken while nothing changed.
type cutState struct {
	cut    uint64 // the tree's number
	seq    uint64
	staged []staged
	spaces map[string]*cutFiles
}

func (c *checkpointer) run(ctx context.Context) {
	timer := time.NewTimer(c.sys.settings().RotateTime().Std())
	defer timer.Stop()
	for {
		var waiting []chan<- syncResult
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-c.soon:
			// zdb ends: its lock is free once its hooks have ended.
			if !wait(ctx, time.Second) {
				return
			}
		case r := <-c.requests:
			waiting = append(waiting, r)
		}
		waiting = append(waiting, c.pendingRequests()...)
		report, err := c.checkpoint(ctx)
		if ctx.Err() == nil {
			c.sys.meters.checkpointed(err)
		}
		if err != nil && ctx.Err() == nil {
			c.log.Warn("checkpoint failed", "err", err)
		}
		for _, w := range waiting {
			w <- syncResult{report, err}
		}
		timer.Reset(c.sys.settings().RotateTime().Std())
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

// soonIf asks for a checkpoint that nobody waits for.
func (c *checkpointer) soonIf() {
	select {
	case c.soon <- struct{}{}:
	default: // one is asked for already
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
	report := client.SyncReport{Schema: client.SchemaVersion, Epoch: c.sys.fence.Identity().Epoch, Checkpoint: c.committedSeq.Load()}
	if err := c.sys.fence.Fenced(); err != nil {
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
		report.Bytes += s.length
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
	cut := &cutState{seq: c.nextSeq.Load(), spaces: map[string]*cutFiles{}}
	var files []staged
	n, err := c.sys.cutTree(ctx, func(ctx context.Context) error {
		for _, p := range c.sys.spaces {
			found, err := c.cutSpace(ctx, p, cut)
			files = append(files, found...)
			if err != nil {
				return fmt.Errorf("namespace %s: %w", p.name, err)
			}
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
	err = c.verifyData(ctx, cut)
	if err == nil {
		err = c.verifyCopies(ctx, cut)
	}
	if err != nil {
		c.unstage(cut)
		return nil, err
	}
	if len(files) == 0 && !c.rewrite.Load() {
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

// begin records the cut: its number, and then its files, some at a time, so that
// uploads and events find room in between. A crash half-way leaves an open
// checkpoint, whose number is not given again; the next cut finds what it lacks.
func (c *checkpointer) begin(ctx context.Context, cut *cutState) error {
	checkpoint := store.Checkpoint{Seq: int64(cut.seq), Epoch: int64(c.sys.fence.Identity().Epoch)}
	if len(cut.staged) == 0 { // made for the sake of its manifest
		return c.sys.store.BeginCheckpoint(ctx, checkpoint, nil, nil)
	}
	items := make([]store.Item, 0, min(batchRows, len(cut.staged)))
	rows := make([]store.File, 0, cap(items))
	for batch := range slices.Chunk(cut.staged, batchRows) {
		items, rows = items[:0], rows[:0]
		for _, s := range batch {
			item, row := c.describe(s, cut.seq)
			items, rows = append(items, item), append(rows, row)
		}
		if err := c.sys.store.BeginCheckpoint(ctx, checkpoint, items, rows); err != nil {
			return err
		}
	}
	return nil
}

// cutSpace closes the active pair of a namespace and lists what is not stored.
// It gives what it copied also with an error.
func (c *checkpointer) cutSpace(ctx context.Context, p *space, cut *cutState) ([]staged, error) {
	if err := c.sys.grownDamaged(); err != nil {
		return nil, err
	}
	mend := func(ctx context.Context, id uint32, ref manifest.Ref) error {
		_, err := c.sys.mend(ctx, p, id, ref)
		return err
	}
	files, err := p.ns.Cut(ctx, cutRequest{copies: c.copies(p, cut.seq), stored: p.stored, lacking: p.lacking, mend: mend})
	if files == nil {
		return nil, err
	}
	cut.spaces[p.name] = files
	var out []staged
	for _, id := range files.Missing {
		if ref, ok := c.storedSince(ctx, p, id); ok { // a checkpoint names it for the first time
			out = append(out, staged{space: p, kind: store.KindData, id: id, generation: ref.Length, length: ref.Length})
			continue
		}
		c.log.Error("a data file is neither here nor on the backends: its content is lost", "path", p.dataPath(id))
	}
	for _, d := range files.Data {
		if !d.Copied {
			p.local.set(d.ID, d.Length, time.Now())
		}
		out = append(out, staged{space: p, kind: store.KindData, id: d.ID, generation: d.Length, length: d.Length, copied: d.Copied})
	}
	for _, i := range files.Index {
		out = append(out, staged{space: p, kind: store.KindIndex, id: i.ID, generation: int64(cut.seq), length: i.Length, copied: true})
	}
	if err != nil {
		return out, err
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

func stagedData(p *space, d server.DataFile) staged {
	return staged{space: p, kind: store.KindData, id: d.ID, generation: d.Length, length: d.Length}
}

// describe tells the store of a file of a cut.
func (c *checkpointer) describe(s staged, seq uint64) (store.Item, store.File) {
	epoch := c.sys.fence.Identity().Epoch
	v := version(epoch, s.generation)
	path := s.path()
	return store.Item{Path: path, Version: v, Kind: s.kind, Source: c.source(s, seq), Checkpoint: int64(seq), Size: s.length},
		store.File{Path: path, Namespace: s.space.name, Kind: s.kind, FileID: int64(s.id), Version: v, Length: s.length,
			ObjectPath: path + "@" + v, Epoch: int64(epoch), Generation: s.generation, Checkpoint: int64(seq), State: store.FilePending}
}

// path is the file's name below the root.
func (s staged) path() string {
	switch s.kind {
	case store.KindData:
		return s.space.dataPath(s.id)
	case store.KindIndex:
		return s.space.indexPath(s.id)
	}
	return s.space.descriptorPath()
}

// source is the file to be read: itself, or the copy that the cut made.
func (c *checkpointer) source(s staged, seq uint64) string {
	if !s.copied {
		return s.space.ns.DataPath(s.id)
	}
	return c.copies(s.space, seq) + "-" + filepath.Base(s.path())
}

// copies is how the names of a cut's copies begin.
func (c *checkpointer) copies(p *space, seq uint64) string {
	return filepath.Join(c.sys.layout.staging(), fmt.Sprintf("%d-%s", seq, p.name))
}

// stageDescriptor copies the namespace's descriptor if it is not stored as it
// is now.
func (c *checkpointer) stageDescriptor(p *space, seq uint64) (staged, bool, error) {
	text, err := os.ReadFile(p.ns.DescriptorPath())
	if err != nil {
		return staged{}, false, err
	}
	ref, ok := p.stored(store.KindDescriptor, 0)
	if ok && ref.Checksum == checksum(text) {
		return staged{}, false, nil
	}
	if d, err := segment.DecodeDescriptor(text); err != nil || d.Name != p.name {
		if ok { // what is stored stays: damage never replaces it
			c.sys.happened(context.Background(), eventDamage, p.descriptorPath(), "the descriptor is damaged here; the stored one stays: %v", err)
			return staged{}, false, nil
		}
		return staged{}, false, fmt.Errorf("%s is damaged: %w", p.descriptorPath(), err)
	}
	s := staged{space: p, kind: store.KindDescriptor, generation: int64(seq), length: int64(len(text)), copied: true}
	if err := os.WriteFile(c.source(s, seq), text, 0o600); err != nil {
		return staged{}, false, err
	}
	return s, true, nil
}

// unstage removes the copies of a cut that is done or given up.
func (c *checkpointer) unstage(cut *cutState) {
	for _, s := range cut.staged {
		if !s.copied {
			continue // the original
		}
		if err := os.Remove(c.source(s, cut.seq)); err != nil && !errors.Is(err, os.ErrNotExist) {
			c.log.Warn("staged copy stays", "path", c.source(s, cut.seq), "err", err)
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
