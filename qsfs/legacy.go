package qsfs

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/hooks"
	"github.com/threefoldtech/quantumd/qsfs/manifest"
	"github.com/threefoldtech/quantumd/store"
)

// Earlier programs noted what they had uploaded in a text list, or in a SQLite
// table. Both are found and imported once, by themselves: copied before anything
// is done to them, and read as hints. A hint counts for nothing until the
// backends hold an object under the file's plain path with the checksum that it
// names; then the object gets a name of this frontend's, and need not be
// uploaded again.

// legacyList is what the scripts called their list.
const legacyList = "uploaded_data_files"

// legacyPlaces is where such a file may be.
func (s *System) legacyPlaces() []string {
	places := []string{s.layout.adoptionList(), s.layout.Database, filepath.Join(filepath.Dir(s.layout.Database), legacyList), filepath.Join(s.layout.Root, "uploaded_files.db")}
	if s.layout.Legacy != "" {
		places = append(places, s.layout.Legacy)
	}
	if s.cfg.DatabasePath != "" { // the layout may have another one
		places = append(places, s.cfg.DatabasePath, filepath.Join(filepath.Dir(s.cfg.DatabasePath), legacyList))
	}
	return places
}

func (s *System) legacyCopies() string {
	return filepath.Join(filepath.Dir(s.layout.Database), "legacy")
}

// clearLegacyPlace makes room for the database where an earlier program had its
// own file.
func (s *System) clearLegacyPlace(ctx context.Context) error {
	f, err := store.RecogniseLegacy(ctx, s.layout.Database)
	if err != nil {
		return &PathError{Path: s.layout.Database, Err: err}
	}
	if f == nil || f.Ours {
		return nil
	}
	copied, err := store.CopyLegacy(*f, s.legacyCopies())
	if err != nil {
		return &PathError{Path: s.layout.Database, Err: err}
	}
	s.log.Info("a list of an earlier program is moved out of the database's place", "copy", copied.Copy)
	return copied.RemoveOrigin()
}

// importLegacy reads what was not read yet. A file that cannot be read is told,
// and no reason not to start: hints only save work.
func (s *System) importLegacy(ctx context.Context) error {
	seen := map[string]bool{}
	for _, place := range s.legacyPlaces() {
		if seen[place] {
			continue
		}
		seen[place] = true
		if err := s.copyLegacy(ctx, place); err != nil {
			s.legacyFailed(ctx, place, err)
		}
	}
	copies, err := store.LegacyCopies(ctx, s.legacyCopies())
	if err != nil {
		s.legacyFailed(ctx, s.legacyCopies(), err)
	}
	for name, f := range copies {
		if err := s.importOnce(ctx, "legacy/copy/"+name, f); err != nil {
			s.legacyFailed(ctx, f.Origin, err)
		}
	}
	return ctx.Err()
}

func (s *System) legacyFailed(ctx context.Context, path string, err error) {
	s.log.Warn("what an earlier program noted cannot be imported", "path", path, "err", err)
	s.happened(ctx, eventLegacy, path, "it cannot be imported: %v", err)
}

// copyLegacy copies a file that was not copied as it is now.
func (s *System) copyLegacy(ctx context.Context, place string) error {
	st, err := os.Stat(place)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	key, stamp := "legacy/origin/"+place, fmt.Sprintf("%d %d", st.Size(), st.ModTime().UnixNano())
	if old, err := s.store.GetState(ctx, key); err == nil && string(old) == stamp {
		return nil
	} else if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	f, err := store.RecogniseLegacy(ctx, place)
	if err != nil || f == nil {
		return err
	}
	if f.Ours { // an earlier version of this program opened it: the table is beside ours, and is only read
		f.Copy = place
		return s.importOnce(ctx, "legacy/table/"+place, *f)
	}
	if _, err := store.CopyLegacy(*f, s.legacyCopies()); err != nil {
		return err
	}
	return s.store.SetState(ctx, key, []byte(stamp))
}

func (s *System) importOnce(ctx context.Context, key string, f store.LegacyFile) error {
	_, err := s.store.GetState(ctx, key)
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	report, err := s.store.ImportLegacy(ctx, f)
	if err != nil {
		return err
	}
	text, err := json.Marshal(report)
	if err != nil {
		return err
	}
	if err := s.store.SetState(ctx, key, text); err != nil {
		return err
	}
	s.log.Info("hints of an earlier program imported", "path", f.Origin, "entries", report.Entries, "skipped", report.Skipped)
	s.happened(ctx, eventLegacy, f.Origin, "%d entries imported as hints, %d malformed ones skipped%s; each is verified against the backends before it counts",
		report.Entries, report.Skipped, inBrackets(report.Why))
	return nil
}

func inBrackets(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return " (" + strings.Join(list, "; ") + ")"
}

// hasLegacy says whether an earlier program left something: then files without
// an identity are a deployment to be taken over, if nobody has done so.
func (s *System) hasLegacy(ctx context.Context) bool {
	if s.adopting() != nil {
		return true
	}
	counts, err := s.store.LegacyCounts(ctx)
	return err == nil && len(counts) > 0
}

const (
	legacyWorkers = 8 // hints that are verified at a time
	legacyPage    = 256
	legacyAgain   = 30 * time.Second // after backends did not answer; doubles up to retry_interval
)

// verifyLegacy looks at each hint until all are verified or false.
func (s *System) verifyLegacy(ctx context.Context) {
	var verified, untrue atomic.Int64
	for pause := legacyAgain; ; pause = min(2*pause, max(s.cfg.RetryInterval.Std(), legacyAgain)) {
		open, err := s.verifyHints(ctx, &verified, &untrue)
		if err == nil && open == 0 {
			break
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("hints of an earlier program cannot be verified yet", "left", open, "err", err)
		}
		if !wait(ctx, pause) {
			return
		}
	}
	if verified.Load()+untrue.Load() > 0 {
		s.happened(ctx, eventLegacy, "hints", "%d files of an earlier program are on the backends and need no upload; %d hints were of no use",
			verified.Load(), untrue.Load())
	}
}

// verifyHints goes through the hints once. It gives how many are left, and why.
func (s *System) verifyHints(ctx context.Context, verified, untrue *atomic.Int64) (open int64, last error) {
	first, err := s.store.LegacyHints(ctx, store.LegacyHint, "", 1)
	if err != nil || len(first) == 0 {
		return 0, err
	}
	if err := s.reconcile(ctx); err != nil {
		return 1, err
	}
	roots := s.legacyRoots()
	var left atomic.Int64
	var problem atomic.Pointer[error]
	for after := ""; ; {
		page, err := s.store.LegacyHints(ctx, store.LegacyHint, after, legacyPage)
		if err != nil || len(page) == 0 {
			if p := problem.Load(); err == nil && p != nil {
				err = *p
			}
			return left.Load(), err
		}
		after = page[len(page)-1].Path
		var group errgroup.Group
		group.SetLimit(legacyWorkers)
		for _, h := range page {
			group.Go(func() error {
				state, err := s.settleHint(ctx, h, roots)
				switch {
				case err != nil:
					left.Add(1)
					problem.Store(&err)
				case state == store.LegacyVerified:
					verified.Add(1)
				default:
					untrue.Add(1)
				}
				return nil
			})
		}
		_ = group.Wait() // each has told
		if ctx.Err() != nil {
			return left.Load(), ctx.Err()
		}
	}
}

// errHint says why a hint is of no use.
var errHint = errors.New("no use")

// settleHint verifies one hint and records what became of it. An error: nothing
// can be said now.
func (s *System) settleHint(ctx context.Context, h store.Legacy, roots []string) (store.LegacyState, error) {
	err := s.verifyHint(ctx, h, roots)
	if err != nil && !errors.Is(err, errHint) && !errors.Is(err, zstor.ErrNotFound) {
		return store.LegacyHint, err
	}
	state := store.LegacyVerified
	if err != nil {
		state = store.LegacyFalse
		s.log.Debug("a hint of an earlier program is of no use", "path", h.Path, "err", err)
	}
	return state, s.store.SetLegacy(ctx, h.Path, h.Checksum, state, err)
}

// verifyHint has the object that a hint names counted as stored, if it is there.
func (s *System) verifyHint(ctx context.Context, h store.Legacy, roots []string) error {
	p, id, err := s.dataFile(h.Path)
	if errors.Is(err, hooks.ErrEvent) || err == nil && p == nil {
		return fmt.Errorf("%w: not a data file of this frontend; index files are stored anew", errHint)
	}
	if err != nil {
		return err
	}
	if _, ok := p.stored(store.KindData, id); ok {
		return nil
	}
	pairs, err := p.ns.Pairs()
	if err != nil {
		return err
	}
	if id >= pairs.Count || pairs.HasOpen && pairs.Open == id {
		return fmt.Errorf("%w: no index file names it, or it is the open one", errHint)
	}
	obj, err := s.plainObject(ctx, s.engine, h.Path, roots)
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(obj.Checksum[:]); got != h.Checksum {
		return fmt.Errorf("%w: the object on the backends has the checksum %s", errHint, got)
	}
	d, err := p.ns.DataFile(id)
	if err != nil {
		return err
	}
	length, err := s.lengthOf(ctx, obj)
	if err != nil {
		return err
	}
	if d.Present && d.Length > length {
		return fmt.Errorf("%w: the file grew after its upload", errHint)
	}
	return s.nameOwn(ctx, p, id, length, obj)
}

// legacyRoots are what an object of an earlier program may have cut off its path:
// nothing, as the reference, whose configuration has no root, what the
// installation that is taken over did, or what we do.
func (s *System) legacyRoots() []string {
	roots := []string{""}
	if a := s.adopting(); a != nil {
		roots = append(roots, a.ObjectRoot)
	}
	return append(roots, s.layout.Root)
}

// lengthOf gives the length of an object's content. Records of the real zstor do
// not tell it: then the content is read, and its checksum verified with it.
func (s *System) lengthOf(ctx context.Context, obj zstor.Object) (int64, error) {
	if obj.Size >= 0 {
		return obj.Size, nil
	}
	var n counter
	err := s.engine.RetrieveObject(ctx, obj, &n)
	return int64(n), err
}

type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// nameOwn names an object as this frontend does, and counts its file as stored:
// the plain path may be written again by whoever has the old configuration.
func (s *System) nameOwn(ctx context.Context, p *space, id uint32, length int64, obj zstor.Object) error {
	report, err := s.engine.VerifyObject(ctx, obj, zstor.VerifyOptions{})
	if err != nil {
		return err
	}
	if report.GoodShards() < obj.K {
		return fmt.Errorf("%w: %d of %d shards are there, %d are needed", errHint, report.GoodShards(), obj.N, obj.K)
	}
	item, row := s.check.describe(stagedData(p, server.DataFile{ID: id, Length: length, Present: true}), s.check.nextSeq.Load())
	holding, release, err := s.fence.Hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	named, err := s.engine.Alias(holding, obj, s.objectPath(row.ObjectPath))
	if err != nil {
		return err
	}
	to := storedAs(named, row.ObjectPath)
	if report.GoodShards() < obj.N { // completed first, and not dropped before
		to.State, to.Verified = store.FileDegraded, false
		to.Note = fmt.Errorf("%d of %d shards are there", report.GoodShards(), obj.N)
	}
	if err := s.store.TrackFiles(holding, row); err != nil {
		return err
	}
	if err := s.store.MarkStored(holding, item.Path, item.Version, to); err != nil {
		return err
	}
	return p.setStored(store.KindData, id, manifest.Ref{Object: row.ObjectPath, Length: length, Checksum: to.Checksum})
}

// hinted says whether a file that is needed now, and is not known to be stored,
// turns out to be: an earlier program has said so, and the backends have it.
func (s *System) hinted(ctx context.Context, p *space, id uint32) bool {
	h, err := s.store.LegacyFor(ctx, s.objectPath(p.dataPath(id)))
	if err != nil || h.State != store.LegacyHint {
		return false
	}
	state, err := s.settleHint(ctx, h, s.legacyRoots())
	if err != nil {
		s.log.Warn("a hint of an earlier program cannot be verified", "path", h.Path, "err", err)
	}
	return state == store.LegacyVerified
}
