package qsfs

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/internal/durable"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/qsfs/epoch"
	"github.com/threefoldtech/quantumd/qsfs/manifest"
	"github.com/threefoldtech/quantumd/store"
)

// RestoreOptions tunes a restore.
type RestoreOptions struct {
	// Force takes over from a frontend that was alive a moment ago. It is fenced:
	// from its next look at the epochs on it is read-only.
	Force bool
	// DryRun finds out what would be restored, and changes nothing.
	DryRun bool
}

// RestoreReport says what was brought here.
type RestoreReport struct {
	Schema     int    `json:"schema"`
	Epoch      uint64 `json:"epoch"`       // taken by this frontend
	FromEpoch  uint64 `json:"from_epoch"`  // of the frontend that wrote it
	Checkpoint uint64 `json:"checkpoint"`  // its newest one
	Created    string `json:"created"`     // when that was made
	IndexFiles int    `json:"index_files"` // fetched
	IndexBytes int64  `json:"index_bytes"`
	DataFiles  int    `json:"data_files"` // fetched when they are read
	DataBytes  int64  `json:"data_bytes"`
}

// ErrNothingToRestore says that nothing was ever committed to the backends.
var ErrNothingToRestore = errors.New("nothing was ever brought to these backends: there is nothing to restore")

// NotEmptyError says that a restore would mix with what is here.
type NotEmptyError struct{ Path string }

func (e *NotEmptyError) Error() string {
	return fmt.Sprintf("%s already holds a frontend", e.Path)
}

// Hint names the remedy.
func (e *NotEmptyError) Hint() string {
	return "start it with `quantumd up`, or name another folder with --dir, or move that folder away"
}

// Restore brings the newest committed checkpoint to this machine: it takes a
// new epoch, which fences the frontend that wrote it, and fetches index files.
// Data files come when they are read. An interrupted restore leaves nothing
// that a next one would trip over. Run starts the system afterwards.
func (s *System) Restore(ctx context.Context, o RestoreOptions) (*RestoreReport, error) {
	if !s.running.CompareAndSwap(false, true) {
		return nil, ErrRunning
	}
	defer s.running.Store(false)
	var stops stopStack
	report, err := s.restore(ctx, o, &stops)
	return report, errors.Join(err, stops.run())
}

func (s *System) restore(ctx context.Context, o RestoreOptions, stops *stopStack) (*RestoreReport, error) {
	if _, err := os.Lstat(s.layout.identity()); err == nil {
		return nil, &NotEmptyError{Path: s.layout.Root}
	}
	if !o.DryRun {
		if err := s.startFolders(ctx, stops); err != nil {
			return nil, err
		}
		if err := s.mustBeEmpty(); err != nil {
			return nil, &NotEmptyError{Path: s.layout.Root}
		}
	}
	if err := s.startEngine(ctx, stops); err != nil {
		return nil, err
	}
	s.objects = s.engine // the daemon of an external zstor does not run yet
	s.epochs = s.newEpochs(s.engine)
	last, err := s.epochs.Highest(ctx, 1)
	if err != nil {
		return nil, err
	}
	if last == nil {
		return nil, ErrNothingToRestore
	}
	if o.DryRun {
		h, err := s.epochs.NewestHead(ctx, last.Epoch)
		if err != nil {
			return nil, err
		}
		return s.describe(ctx, h)
	}
	id, err := s.epochs.Take(ctx, s.opts.lease, o.Force, s.tellOfLease)
	if err != nil {
		return nil, err
	}
	// Only now: what the other frontend committed until its lease ended counts.
	h, err := s.epochs.NewestHead(ctx, id.Epoch-1)
	if err != nil {
		return nil, err
	}
	if h == nil {
		return nil, ErrNothingToRestore
	}
	return s.bring(ctx, id, h)
}

// describe tells what a head holds.
func (s *System) describe(ctx context.Context, h *epoch.Head) (*RestoreReport, error) {
	if h == nil {
		return nil, ErrNothingToRestore
	}
	m, err := loadManifest(ctx, s.engine, s.layout.Root, h.Manifest)
	if err != nil {
		return nil, fmt.Errorf("checkpoint %d: %w", h.Seq, err)
	}
	return reportOn(h, m), nil
}

func reportOn(h *epoch.Head, m *manifest.Manifest) *RestoreReport {
	r := &RestoreReport{Schema: client.SchemaVersion, FromEpoch: h.Epoch, Checkpoint: h.Seq, Created: h.Created.Format("2006-01-02 15:04:05 MST")}
	for _, ns := range m.Namespaces {
		r.IndexFiles += ns.Index.Count()
		r.IndexBytes += ns.Index.Bytes()
		r.DataFiles += ns.Data.Count()
		r.DataBytes += ns.Data.Bytes()
	}
	return r
}

// bring fetches what a frontend needs before its zdb starts. The identity is
// written last: without it nothing here counts.
func (s *System) bring(ctx context.Context, id *epoch.Identity, h *epoch.Head) (*RestoreReport, error) {
	m, err := loadManifest(ctx, s.engine, s.layout.Root, h.Manifest)
	if err != nil {
		return nil, fmt.Errorf("checkpoint %d: %w", h.Seq, err)
	}
	report := reportOn(h, m)
	report.Epoch = id.Epoch
	if err := s.fetchIndexes(ctx, m, report); err != nil {
		return nil, err
	}
	for name := range m.Namespaces {
		if s.cfg.Engine.Zdb == config.External {
			if err := s.bringOpen(ctx, name, m.Namespaces[name]); err != nil {
				return nil, fmt.Errorf("namespace %s: %w", name, err)
			}
			continue
		}
		if err := server.InstallClosed(s.layout.IndexDir(), s.layout.DataDir(), name); err != nil {
			return nil, fmt.Errorf("namespace %s: %w", name, err)
		}
	}
	db, err := store.Open(ctx, s.layout.Database, store.Options{Logger: s.log})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(s.adopt(ctx, db, m), db.Close()); err != nil {
		return nil, err
	}
	id.ParentEpoch, id.ParentUUID = h.Epoch, h.UUID
	return report, id.Save(s.layout.identity())
}

// bringOpen fetches the data file that a real zdb will go on with: the highest
// one. Where that is missing it would make it anew, empty.
func (s *System) bringOpen(ctx context.Context, name string, ns *manifest.Namespace) error {
	last, any := uint32(0), false
	for id := range ns.Index.IDs() {
		last, any = id, true
	}
	if !any {
		return nil
	}
	ref, ok := ns.Data.Get(last)
	if !ok {
		return fmt.Errorf("data file %d: %w", last, ErrLost)
	}
	dst := filepath.Join(s.layout.DataDir(), name, fmt.Sprintf("d%d", last))
	if err := s.retrieve(ctx, ref, dst); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Join(s.layout.IndexDir(), name))
}

// restoreFetches is how many index files are fetched at a time.
const restoreFetches = 4

func (s *System) fetchIndexes(ctx context.Context, m *manifest.Manifest, report *RestoreReport) error {
	for name := range m.Namespaces {
		for _, d := range []string{filepath.Join(s.layout.IndexDir(), name), filepath.Join(s.layout.DataDir(), name)} {
			if err := os.MkdirAll(d, 0o700); err != nil {
				return &PathError{Path: d, Err: err}
			}
		}
	}
	jobs := func(yield func(manifest.Ref, string) bool) {
		for name, ns := range m.Namespaces {
			dir := filepath.Join(s.layout.IndexDir(), name)
			if !yield(ns.Descriptor, filepath.Join(dir, "zdb-namespace")) {
				return
			}
			for nr, ref := range ns.Index.All() {
				if !yield(ref, filepath.Join(dir, fmt.Sprintf("i%d", nr))) {
					return
				}
			}
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var fetching sync.WaitGroup
	var mu sync.Mutex
	room := make(chan struct{}, restoreFetches)
	var done int64
	for ref, dst := range jobs {
		room <- struct{}{}
		fetching.Go(func() {
			defer func() { <-room }()
			if ctx.Err() != nil {
				return
			}
			if err := s.retrieve(ctx, ref, dst); err != nil {
				cancel(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			done += ref.Length
			s.opts.observer(Progress{Op: "restore", Step: "fetching index files", Done: done, Total: report.IndexBytes, Unit: "bytes"})
		})
	}
	fetching.Wait()
	return context.Cause(ctx)
}

// maxManifest bounds a manifest, in bytes: some fifty million files.
const maxManifest = 1 << 30

// loadManifest fetches a manifest, with its base, and checks both against what
// names them.
func loadManifest(ctx context.Context, e *zstor.Engine, root string, ref manifest.Ref) (*manifest.Manifest, error) {
	m, err := loadOneManifest(ctx, e, root, ref)
	if err != nil || m.Base == nil {
		return m, err
	}
	base, err := loadOneManifest(ctx, e, root, *m.Base)
	if err != nil {
		return nil, fmt.Errorf("base: %w", err)
	}
	if base.Base != nil {
		return nil, fmt.Errorf("%w: its base has a base", manifest.ErrFormat)
	}
	return m.Over(base), nil
}

// manifestBase names the base of a manifest; nil where it has none.
func manifestBase(ctx context.Context, e *zstor.Engine, root string, ref manifest.Ref) (*manifest.Ref, error) {
	m, err := loadOneManifest(ctx, e, root, ref)
	if err != nil {
		return nil, err
	}
	return m.Base, nil
}

func loadOneManifest(ctx context.Context, e *zstor.Engine, root string, ref manifest.Ref) (*manifest.Manifest, error) {
	if ref.Length > maxManifest {
		return nil, fmt.Errorf("%w: %d bytes", manifest.ErrFormat, ref.Length)
	}
	obj, err := e.Lookup(ctx, filepath.Join(root, ref.Object))
	if err != nil {
		return nil, err
	}
	if hex.EncodeToString(obj.Checksum[:]) != ref.Checksum {
		return nil, fmt.Errorf("%s is not the object that the head names: %w", ref.Object, zstor.ErrDamaged)
	}
	// It is decoded while it comes; that it is what was stored is known at its end.
	out, in := io.Pipe()
	retrieved := make(chan error, 1)
	go func() {
		err := e.RetrieveObject(ctx, obj, in)
		retrieved <- err
		in.CloseWithError(err) // nil: io.EOF
	}()
	m, err := manifest.Decode(out)
	out.CloseWithError(err)
	if rerr := <-retrieved; rerr != nil && (err == nil || !errors.Is(rerr, err)) {
		return nil, rerr
	}
	return m, err
}
