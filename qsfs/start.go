package qsfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/qsfs/epoch"
	"github.com/threefoldtech/quantumd/qsfs/manifest"
	"github.com/threefoldtech/quantumd/store"
)

// startEpoch finds out whether this frontend may write: it has a claim of its
// own, or it is the first one ever and takes one.
func (s *System) startEpoch(ctx context.Context, _ *stopStack) error {
	s.epochs = s.newEpochs(s.engine)
	if err := s.refuseForeign(ctx); err != nil {
		return err
	}
	id, err := epoch.LoadIdentity(s.layout.identity())
	if errors.Is(err, fs.ErrNotExist) {
		id, err = s.firstEpoch(ctx)
	}
	if err != nil {
		return err
	}
	if id.Lease == 0 {
		id.Lease = epoch.DefaultLease
	}
	s.fence = epoch.NewFence(s.epochs, *id)
	// Without an answer uploads pause; what is here can be read and written. With
	// another key nothing here could ever be stored.
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	if err := s.fence.Renew(ctx); errors.Is(err, ErrWrongKey) {
		return err
	} else if err != nil {
		s.log.Warn("uploads pause", "err", err)
	}
	return nil
}

// refuseForeign asks whether the backends hold what was sealed with another
// key. Without an answer nothing can be said.
func (s *System) refuseForeign(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	a, err := s.epochs.Get(ctx, s.generationKey())
	if err == nil && a.Broken > 0 && len(a.Values) == 0 {
		err = errForeign()
	}
	return err
}

// startPatience is how long a start looks for backends that may be away.
const startPatience = 5 * time.Second

// firstEpoch takes an epoch for a frontend that is empty and has none.
func (s *System) firstEpoch(ctx context.Context) (*epoch.Identity, error) {
	notEmpty := s.mustBeEmpty()
	if notEmpty != nil && !s.hasLegacy(ctx) {
		return nil, notEmpty
	}
	last, err := s.epochs.Highest(ctx, 1)
	if err != nil {
		return nil, fmt.Errorf("the first start needs the backends: %w", err)
	}
	if last != nil && notEmpty != nil { // it is not the first who takes over these files
		return nil, notEmpty
	}
	if last != nil {
		h, err := s.epochs.NewestHead(ctx, last.Epoch)
		if err != nil {
			return nil, err
		}
		if h != nil {
			return nil, &NeedsRestoreError{Epoch: h.Epoch}
		}
	}
	id, err := s.epochs.Take(ctx, s.opts.lease, false, s.tellOfLease)
	if err != nil {
		return nil, err
	}
	return id, id.Save(s.layout.identity())
}

// ErrNoIdentity says that there are local files, but not the frontend's claim.
var ErrNoIdentity = errors.New("there are files of a frontend here, but its identity is missing")

func (s *System) mustBeEmpty() error {
	entries, err := os.ReadDir(s.layout.IndexDir())
	if err != nil {
		return &PathError{Path: s.layout.IndexDir(), Err: err}
	}
	for _, e := range entries {
		if e.Name() == metaSpace || e.Name() == dataSpace {
			return &PathError{Path: s.layout.Root, Err: ErrNoIdentity}
		}
	}
	return nil
}

// startSpaces loads what of each namespace is stored. Cuts that were not
// committed are given up: their copies are gone, the next cut makes new ones.
func (s *System) startSpaces(ctx context.Context, _ *stopStack) error {
	s.fetching.sys = s
	s.spaces = []*space{newSpace(metaSpace), newSpace(dataSpace)}
	s.check = &checkpointer{sys: s, log: s.log.With("component", "checkpoint"), requests: make(chan chan<- syncResult), soon: make(chan struct{}, 1), progress: newSignal()}
	s.health = newHealthWatch(s)
	s.scrubs = newScrubber(s)
	if err := s.scrubs.load(ctx); err != nil {
		return err
	}
	s.replacing = newReplacer(s)
	if err := s.clearStaging(); err != nil {
		return err
	}
	if err := s.forgetCopies(ctx); err != nil {
		return err
	}
	if err := s.checkpointNumbers(ctx); err != nil {
		return err
	}
	if err := s.loadStored(ctx); err != nil {
		return err
	}
	if err := s.reconcile(ctx); err != nil {
		s.log.Warn("what is stored already is not known yet; uploads wait for that", "err", err)
	}
	return nil
}

// loadStored takes what is stored from the database. One that holds nothing, or
// only a part of what a manifest named, has to be filled first.
func (s *System) loadStored(ctx context.Context) error {
	known := 0
	later := map[*space][]uint32{} // data files that no committed checkpoint names
	committed := int64(s.check.committedSeq.Load())
	err := s.store.EachStored(ctx, func(f store.StoredFile) error {
		p := s.check.space(f.Namespace)
		if p == nil {
			return nil
		}
		if err := p.setStored(f.Kind, f.FileID, manifest.Ref{Object: f.ObjectPath, Length: f.Length, Checksum: f.Checksum}); err != nil {
			s.log.Error("a stored file is not known well enough, and is stored again", "namespace", f.Namespace, "id", f.FileID, "err", err)
			return nil
		}
		known++
		if f.Kind == store.KindData && (f.Checkpoint == 0 || f.Checkpoint > committed) {
			later[p] = append(later[p], f.FileID)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, p := range s.spaces {
		data := p.whole.Data.Snapshot()
		for _, id := range later[p] {
			data.Remove(id)
		}
		p.setCommitted(data)
	}
	_, err = s.store.GetState(ctx, stateAdopting)
	s.check.unreconciled.Store(known == 0 || err == nil)
	if errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	return err
}

// stateAdopting is set while the database is filled from a manifest: a part of
// it must not be taken for the whole.
const stateAdopting = "adopting"

// forgetCopies takes uploads of staged copies out of the queue, and leaves
// those of data files, which are still there.
func (s *System) forgetCopies(ctx context.Context) error {
	for _, kind := range []store.Kind{store.KindDescriptor, store.KindIndex, store.KindManifest} {
		if err := s.store.Queue().ForgetKind(ctx, kind); err != nil {
			return err
		}
	}
	return nil
}

// checkpointNumbers goes on counting where an earlier life ended.
func (s *System) checkpointNumbers(ctx context.Context) error {
	next := uint64(1)
	latest, err := s.store.LatestCheckpoint(ctx)
	switch {
	case err == nil:
		next = uint64(latest.Seq) + 1
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	committed, err := s.store.LatestCommitted(ctx)
	switch {
	case err == nil:
		s.check.committedSeq.Store(uint64(committed.Seq))
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	s.check.nextSeq.Store(next)
	return nil
}

// reconcile fills an empty database from the newest head of this frontend, or
// of the one that it was restored from: the truth is on the backends. Until
// that has succeeded nothing is committed, for a manifest that did not name the
// files that are only there would lose them.
func (s *System) reconcile(ctx context.Context) error {
	c := s.check
	c.reconciling.Lock()
	defer c.reconciling.Unlock()
	if !c.unreconciled.Load() {
		return nil
	}
	h, err := s.ownHead(ctx)
	if err != nil {
		return fmt.Errorf("reconcile with the backends: %w", err)
	}
	if h != nil {
		m, err := loadManifest(ctx, s.engine, s.layout.Root, h.Manifest)
		if err != nil {
			return fmt.Errorf("reconcile with checkpoint %d: %w", h.Seq, err)
		}
		if err := s.adopt(ctx, s.store, m); err != nil {
			return err
		}
		c.nextSeq.Store(max(c.nextSeq.Load(), h.Seq+1))
		c.committedSeq.Store(h.Seq)
		for name, ns := range m.Namespaces {
			if p := c.space(name); p != nil {
				p.adopt(ns)
			}
		}
	}
	c.unreconciled.Store(false)
	return nil
}

// ownHead is the newest head of this frontend, or of its parent; nil when
// nothing was ever committed.
func (s *System) ownHead(ctx context.Context) (*epoch.Head, error) {
	id := s.fence.Identity()
	h, err := s.epochs.HeadOf(ctx, id.Epoch, id.UUID)
	if err != nil || h != nil || id.ParentEpoch == 0 {
		return h, err
	}
	return s.epochs.HeadOf(ctx, id.ParentEpoch, id.ParentUUID)
}

// adopt records the files of a committed manifest as stored.
func (s *System) adopt(ctx context.Context, db *store.Store, m *manifest.Manifest) error {
	if err := db.SetState(ctx, stateAdopting, []byte{1}); err != nil {
		return err
	}
	rows := make([]store.File, 0, batchRows)
	flush := func() error {
		err := db.UpsertFiles(ctx, rows...)
		rows = rows[:0]
		return err
	}
	for name, ns := range m.Namespaces {
		p := newSpace(name)
		add := func(kind store.Kind, id uint32, path string, ref manifest.Ref) error {
			rows = append(rows, store.File{Path: path, Namespace: name, Kind: kind, FileID: int64(id), Version: versionOf(ref.Object),
				Length: ref.Length, Checksum: ref.Checksum, ObjectPath: ref.Object, Epoch: int64(m.Epoch), Checkpoint: int64(m.Seq), State: store.FileStored})
			if len(rows) < batchRows {
				return nil
			}
			return flush()
		}
		if err := add(store.KindDescriptor, 0, p.descriptorPath(), ns.Descriptor); err != nil {
			return err
		}
		for id, ref := range ns.Index.All() {
			if err := add(store.KindIndex, id, p.indexPath(id), ref); err != nil {
				return err
			}
		}
		for id, ref := range ns.Data.All() {
			if err := add(store.KindData, id, p.dataPath(id), ref); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	if err := db.BeginCheckpoint(ctx, store.Checkpoint{Seq: int64(m.Seq), Epoch: int64(m.Epoch)}, nil, nil); err != nil {
		return err
	}
	if err := db.CommitCheckpoint(ctx, int64(m.Seq)); err != nil && !errors.Is(err, store.ErrCommitted) {
		return err // committed: by an earlier try that ended after this step
	}
	return db.SetState(ctx, stateAdopting, nil)
}

// batchRows is how many rows are written in one transaction, while nobody else
// writes, and are in memory for that.
const batchRows = 2000

// versionOf is what stands behind the @ of an object's path.
func versionOf(object string) string {
	_, v, _ := strings.Cut(object, "@")
	return v
}
