package qsfs

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"time"

	"golang.org/x/crypto/blake2b"

	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/internal/durable"
	"github.com/threefoldtech/quantumd/qsfs/manifest"
	"github.com/threefoldtech/quantumd/store"
)

// A closed data file never changes but by growing. Where the local one differs
// within the length that was stored, the disk has changed it: that is local
// damage. The good copy is fetched, the damaged file set aside, and never does
// what is here replace the object on the backends.

// damagedFiles is how many files that were set aside are kept for a look at them.
const damagedFiles = 16

// scrubRead is how fast local files are read by a deep scrub, in bytes per second.
const scrubRead = 64 << 20

// errNotDamaged says that a local file is what was stored, so that fetching it
// again would mend nothing.
var errNotDamaged = errors.New("the file is as it was stored: what is wrong is older than its object, or in the index")

// refOf gives the object of a data file that is stored; false where there is none.
func (s *System) refOf(ctx context.Context, p *space, id uint32) (manifest.Ref, bool) {
	if ref, ok := p.stored(store.KindData, id); ok {
		return ref, true
	}
	row, err := s.store.File(ctx, p.dataPath(id))
	if err != nil || row.State == store.FilePending || row.ObjectPath == "" {
		return manifest.Ref{}, false
	}
	return manifest.Ref{Object: row.ObjectPath, Length: row.Length, Checksum: row.Checksum}, true
}

// mendPath is what the zdb asks for when a read finds a closed data file damaged.
func (s *System) mendPath(ctx context.Context, path string, cause error) error {
	p, id, err := s.dataFile(path)
	if err != nil || p == nil {
		return err
	}
	if err := s.reconcile(ctx); err != nil {
		return err
	}
	ref, ok := s.refOf(ctx, p, id)
	if !ok && s.hinted(ctx, p, id) {
		ref, ok = s.refOf(ctx, p, id)
	}
	if !ok {
		s.happened(ctx, eventDamage, p.dataPath(id), "damaged before it was stored, there is no good copy: %v", cause)
		return fmt.Errorf("%s: there is no good copy on the backends", p.dataPath(id))
	}
	mended, err := s.mend(ctx, p, id, ref)
	switch {
	case err != nil:
		s.log.Error("a damaged data file cannot be mended yet", "path", p.dataPath(id), "err", err)
		return err
	case !mended && s.mendedSince(p.dataPath(id), time.Minute):
		return nil // somebody else did, between the read and this
	case !mended:
		s.happened(ctx, eventDamage, p.dataPath(id), "%v: %v", errNotDamaged, cause)
		return errNotDamaged
	}
	return nil
}

// mend puts the good copy in place of a closed data file that differs from its
// object; false: it does not differ. What the file has behind the stored length
// is kept. The damaged file is set aside once the good copy is here.
func (s *System) mend(ctx context.Context, p *space, id uint32, ref manifest.Ref) (bool, error) {
	s.mendLock.Lock()
	defer s.mendLock.Unlock()
	local := p.ns.DataPath(id)
	good, length, err := goodPrefix(ctx, local, ref, 0)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil // the next read fetches it
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err == nil && good {
		return false, nil
	}
	fetched := filepath.Join(filepath.Dir(local), "."+filepath.Base(local)+".good")
	defer os.Remove(fetched) //nolint:errcheck // it has another name, or is of no use
	if err := s.retrieve(ctx, ref, fetched); err != nil {
		return false, err
	}
	if length > ref.Length {
		if err := appendTail(ctx, fetched, local, ref.Length); err != nil {
			return false, fmt.Errorf("%s: what it has behind the stored part cannot be read: %w", p.dataPath(id), err)
		}
	}
	aside, err := s.setAside(p, id, local)
	if err != nil {
		return false, err
	}
	if err := os.Rename(fetched, local); err != nil {
		return false, err // the next read fetches it
	}
	if err := durable.SyncDir(filepath.Dir(local)); err != nil {
		return false, err
	}
	p.ns.ForgetData(id)
	if err := p.lookAt(id, server.Pairs{}); err != nil {
		return true, err
	}
	if s.mended == nil {
		s.mended = map[string]time.Time{}
	}
	s.mended[p.dataPath(id)] = time.Now()
	s.log.Error("a local data file was damaged; the good copy was fetched", "path", p.dataPath(id), "set_aside", aside)
	s.happened(ctx, eventDamage, p.dataPath(id), "the local file differed from what was stored: the good copy was fetched, the damaged one is %s", aside)
	return true, nil
}

// mendedSince says whether a file was mended within d.
func (s *System) mendedSince(path string, d time.Duration) bool {
	s.mendLock.Lock()
	defer s.mendLock.Unlock()
	at, ok := s.mended[path]
	return ok && time.Since(at) < d
}

// goodPrefix says whether a file begins with what was stored, and how long it is.
// rate limits the reading, in bytes per second; zero: not at all.
func goodPrefix(ctx context.Context, path string, ref manifest.Ref, rate int64) (bool, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, 0, err
	}
	defer f.Close() //nolint:errcheck // read only
	st, err := f.Stat()
	if err != nil {
		return false, 0, err
	}
	if st.Size() < ref.Length {
		return false, st.Size(), nil
	}
	h, err := blake2b.New(16, nil)
	if err != nil {
		return false, st.Size(), err
	}
	var r io.Reader = contextReader{ctx, io.LimitReader(f, ref.Length)}
	if rate > 0 {
		r = slowReader{ctx, r, rate}
	}
	_, err = io.CopyBuffer(h, r, make([]byte, 256<<10))
	return hex.EncodeToString(h.Sum(nil)) == ref.Checksum, st.Size(), err
}

// slowReader reads at most so many bytes per second.
type slowReader struct {
	ctx context.Context
	io.Reader
	rate int64
}

func (r slowReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n > 0 && !wait(r.ctx, time.Duration(n)*time.Second/time.Duration(r.rate)) {
		return n, r.ctx.Err()
	}
	return n, err
}

// appendTail appends what src has from offset on.
func appendTail(ctx context.Context, dst, src string, offset int64) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // read only
	if _, err := in.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, contextReader{ctx, in})
	return errors.Join(err, out.Sync(), out.Close())
}

// setAside moves a damaged file out of the zdb's way, and forgets the oldest of
// those that were.
func (s *System) setAside(p *space, id uint32, file string) (string, error) {
	dir := s.layout.damaged()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", &PathError{Path: dir, Err: err}
	}
	aside := s.asideName(fmt.Sprintf("%s-d%d", p.name, id))
	if err := os.Rename(file, aside); err != nil {
		return "", err
	}
	if err := durable.SyncDir(dir); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return aside, err
	}
	age := func(e os.DirEntry) string { return e.Name()[max(0, len(e.Name())-22):] }
	sort.Slice(entries, func(i, j int) bool { return age(entries[i]) < age(entries[j]) })
	for len(entries) > damagedFiles {
		if err := os.Remove(filepath.Join(dir, entries[0].Name())); err != nil {
			return aside, err
		}
		entries = entries[1:]
	}
	return aside, nil
}

func (s *System) asideName(of string) string {
	return filepath.Join(s.layout.damaged(), of+"-"+time.Now().UTC().Format("20060102T150405.000000"))
}

// localFile is a local data file that is not what was stored.
type localFile struct {
	space *space
	id    uint32
	ref   manifest.Ref
	grown bool
}

// startLocal compares local data files with what is stored, by length: shorter
// ones are damaged; longer ones, which a zdb went on with, are stored again as
// far as they grew, when their older part is what was stored.
func (s *System) startLocal(ctx context.Context, _ *stopStack) error {
	for _, p := range s.spaces {
		pairs, err := p.ns.Pairs()
		if err != nil {
			return err
		}
		if ns, ok := p.ns.(embeddedSpace); ok && pairs.HasOpen {
			if _, ok := p.stored(store.KindData, pairs.Open); ok { // it is not gone on with: objects are of closed files
				if _, err := ns.Jump(ctx); err != nil {
					return err
				}
				if err := p.lookAt(pairs.Open, server.Pairs{}); err != nil {
					return err
				}
			}
		}
		for _, d := range p.otherLengths() {
			ref, ok := p.stored(store.KindData, d.ID)
			if !ok {
				continue
			}
			f := localFile{p, d.ID, ref, d.Length > ref.Length}
			if d.Length < ref.Length {
				s.toMend = append(s.toMend, f)
				continue
			}
			good, _, err := goodPrefix(ctx, p.ns.DataPath(d.ID), ref, 0)
			if err == nil && good {
				p.forget(store.KindData, d.ID)
				continue
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			s.toMend = append(s.toMend, f)
			s.grownBad.Add(1)
		}
	}
	return nil
}

// mendFound mends what the start found, as soon as the backends answer. Until
// then what is left of such a file can be read, and a read of the rest asks for
// the same.
func (s *System) mendFound(ctx context.Context) {
	left := s.toMend
	for len(left) > 0 {
		var failed []localFile
		var errs []error
		for _, f := range left {
			if err := s.mendOne(ctx, f); err != nil {
				failed = append(failed, f)
				errs = append(errs, fmt.Errorf("%s: %w", f.space.dataPath(f.id), err))
			}
		}
		if left = failed; len(left) == 0 {
			return
		}
		if ctx.Err() == nil {
			s.log.Warn("damaged local files cannot be mended yet", "files", len(left), "err", errors.Join(errs...))
		}
		if !wait(ctx, jittered(mendEvery)) {
			return
		}
	}
}

// mendEvery is how long it is between two tries.
const mendEvery = 15 * time.Second

func (s *System) mendOne(ctx context.Context, f localFile) error {
	if _, err := s.mend(ctx, f.space, f.id, f.ref); err != nil {
		return err
	}
	d, err := f.space.ns.DataFile(f.id)
	if err != nil {
		return err
	}
	if d.Present && d.Length > f.ref.Length {
		f.space.forget(store.KindData, f.id) // what it grew by is stored
	}
	if f.grown {
		s.grownBad.Add(-1)
	}
	return nil
}

// grownDamaged says whether a file that grew is damaged in its older part. Until
// that is mended there is no checkpoint: it would name either the damage, or
// entries that no object holds.
func (s *System) grownDamaged() error {
	if n := s.grownBad.Load(); n > 0 {
		return fmt.Errorf("%d data files grew, and differ in their older part from what was stored: the good copies are fetched first", n)
	}
	return nil
}

// storedSince gives the object of a data file that was stored when it was closed,
// and that no checkpoint names yet.
func (c *checkpointer) storedSince(ctx context.Context, p *space, id uint32) (manifest.Ref, bool) {
	row, err := c.sys.store.File(ctx, p.dataPath(id))
	if err != nil || row.State == store.FilePending || row.Checksum == "" || row.Version != version(c.sys.fence.Identity().Epoch, row.Length) {
		return manifest.Ref{}, false
	}
	return manifest.Ref{Object: row.ObjectPath, Length: row.Length, Checksum: row.Checksum}, true
}

// verifyData compares data files that a checkpoint is to name for the first time
// with what was stored of them when they were closed: one that is shorter now is
// damaged, and named as it was stored.
func (c *checkpointer) verifyData(ctx context.Context, cut *cutState) error {
	for i := range cut.staged {
		s := &cut.staged[i]
		if s.kind != store.KindData || s.copied {
			continue
		}
		ref, ok := c.storedSince(ctx, s.space, s.id)
		if !ok || ref.Length == s.length {
			continue
		}
		grown := s.length > ref.Length
		_, err := c.sys.mend(ctx, s.space, s.id, ref)
		switch {
		case err != nil && grown:
			return fmt.Errorf("%s grew, and its older part cannot be compared with what was stored: %w", s.path(), err)
		case err != nil:
			c.log.Error("a damaged data file cannot be mended yet", "path", s.path(), "err", err)
		}
		if !grown {
			s.generation, s.length = ref.Length, ref.Length
		}
	}
	return nil
}

// storedBefore looks whether a data file that is to be stored is on the backends
// already, as after a crash between its upload and the note of it. A local file
// that differs from what was stored then is mended, never stored over it.
func (u *uploader) storedBefore(ctx context.Context, item store.Item, path string) (bool, error) {
	s := u.sys
	if item.Kind != store.KindData || s.layout.isCopy(item.Source) {
		return false, nil
	}
	if p, id, err := s.dataFile(item.Source); err == nil && p != nil {
		s.hinted(ctx, p, id) // an earlier program's upload gets this name
	}
	obj, err := s.engine.Lookup(ctx, s.objectPath(path))
	if err != nil {
		return false, nil // the upload itself tells what is wrong
	}
	ref := manifest.Ref{Object: path, Length: item.Size, Checksum: hex.EncodeToString(obj.Checksum[:])}
	good, length, err := goodPrefix(ctx, item.Source, ref, 0)
	if err != nil || obj.Size >= 0 && obj.Size != item.Size || length > item.Size {
		return false, err
	}
	report, err := s.engine.VerifyObject(ctx, obj, zstor.VerifyOptions{})
	if err != nil {
		return false, err
	}
	if !good {
		if !report.Readable() {
			return false, fmt.Errorf("%s differs from what was stored under %s, which cannot be read now: nothing is stored over it", item.Source, path)
		}
		p, id, err := s.dataFile(item.Source)
		if err != nil || p == nil {
			return false, errors.Join(err, fmt.Errorf("%s differs from what was stored under %s", item.Source, path))
		}
		if _, err := s.mend(ctx, p, id, ref); err != nil {
			return false, err
		}
	}
	if !report.Healthy() {
		return false, nil // it is stored again, the same content
	}
	obj.Degraded = false // all four have its record
	return true, u.stored(ctx, obj, item, path)
}

// scrubLocal reads the local copy of a data file, and mends it where it differs
// and its object is good.
func (s *System) scrubLocal(ctx context.Context, row store.File, objectGood bool) {
	p := s.check.space(row.Namespace)
	if p == nil || row.State == store.FilePending {
		return
	}
	if row.Kind == store.KindIndex && objectGood {
		s.scrubIndex(ctx, p, row)
	}
	if row.Kind != store.KindData {
		return
	}
	id := uint32(row.FileID)
	files, err := p.ns.Pairs()
	if err != nil || files.HasOpen && files.Open == id {
		return
	}
	ref := manifest.Ref{Object: row.ObjectPath, Length: row.Length, Checksum: row.Checksum}
	good, _, err := goodPrefix(ctx, p.ns.DataPath(id), ref, scrubRead)
	if errors.Is(err, os.ErrNotExist) || ctx.Err() != nil || err == nil && good {
		return
	}
	if !objectGood {
		s.happened(ctx, eventDamage, row.Path, "the local file differs from what was stored, and its object is damaged too")
		return
	}
	if _, err := s.mend(ctx, p, id, ref); err != nil && ctx.Err() == nil {
		s.happened(ctx, eventDamage, row.Path, "the local file differs from what was stored, and the good copy cannot be fetched now: %v", err)
	}
}
