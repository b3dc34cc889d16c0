package qsfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/qsfs/manifest"
	"github.com/threefoldtech/quantumd/store"
)

// Index files change in place and have no checksums. One that did not change since
// it was stored must be what was stored; in one that did, each entry must fit what
// its data file says. What does not is put right before anything is stored.

// verifyCopies looks at the copies of index files that a cut made, and puts right
// what the disk changed in them. What nothing better is known of is told, and
// stored as it is: one damaged entry must not keep everything else from the
// backends.
func (c *checkpointer) verifyCopies(ctx context.Context, cut *cutState) error {
	for _, s := range cut.staged {
		ns, ok := s.space.ns.(embeddedSpace)
		if !ok || s.kind != store.KindIndex {
			continue
		}
		copied := c.source(s, cut.seq)
		bad, err := ns.BadSlots(ctx, s.id, copied)
		if err != nil {
			return err
		}
		if len(bad) == 0 {
			continue
		}
		left, err := c.sys.mendCopy(ctx, s, ns, copied, bad)
		if err != nil {
			return fmt.Errorf("%s: %d entries are damaged, and cannot be put right now: %w", s.path(), len(bad), err)
		}
		if len(left) > 0 {
			c.log.Error("entries of an index file fit no data file, and no better ones are known", "path", s.path(), "entries", len(left))
			c.sys.happened(ctx, eventDamage, s.path(), "%d entries do not fit their data files, and no better ones are known: the first is number %d", len(left), left[0])
		}
	}
	return nil
}

// mendCopy puts entries of a copied index file right, and those of the file itself:
// from the stored one, or where a data file is what was damaged by mending that.
func (s *System) mendCopy(ctx context.Context, f staged, ns embeddedSpace, copied string, bad []uint32) (left []uint32, err error) {
	if err := s.mendBehind(ctx, f.space, copied, bad); err != nil {
		return nil, err
	}
	if bad, err = ns.BadSlots(ctx, f.id, copied); err != nil || len(bad) == 0 {
		return nil, err
	}
	ref, ok := f.space.stored(store.KindIndex, f.id)
	if !ok {
		return bad, nil
	}
	good := copied + ".good"
	defer os.Remove(good) //nolint:errcheck // staging is cleared at each start
	if err := s.retrieve(ctx, ref, good); err != nil {
		return nil, err
	}
	n, err := ns.MendCopy(ctx, f.id, copied, good, bad)
	if err != nil {
		return nil, err
	}
	if _, err := ns.MendIndex(ctx, f.id, good, bad); err != nil {
		return nil, err
	}
	if n > 0 {
		s.log.Error("an index file was damaged; entries were taken from the stored one", "path", f.path(), "entries", n)
		s.happened(ctx, eventDamage, f.path(), "%d entries were damaged here, and were taken from what was stored", n)
	}
	return ns.BadSlots(ctx, f.id, copied)
}

// mendBehind mends the stored data files that some entries of an index name: it may
// be these that are damaged.
func (s *System) mendBehind(ctx context.Context, p *space, index string, slots []uint32) error {
	f, err := os.Open(index)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	seen := map[uint32]bool{}
	raw := make([]byte, segment.SeqSlotSize)
	for _, slot := range slots {
		if _, err := f.ReadAt(raw, segment.SlotOffset(slot)); err != nil {
			return err
		}
		e, err := segment.DecodeIndexEntry(raw)
		if err != nil || seen[e.DataFile] {
			continue
		}
		seen[e.DataFile] = true
		ref, ok := p.stored(store.KindData, e.DataFile)
		if !ok || s.isOpen(p.dataPath(e.DataFile)) {
			continue
		}
		if _, err := s.mend(ctx, p, e.DataFile, ref); err != nil {
			return err
		}
	}
	return nil
}

// scrubIndex compares an index file that did not change since it was stored with
// its object, and puts right what differs.
func (s *System) scrubIndex(ctx context.Context, p *space, row store.File) {
	ns, ok := p.ns.(embeddedSpace)
	id := uint32(row.FileID)
	if !ok || s.isOpen(row.Path) {
		return
	}
	ref := manifest.Ref{Object: row.ObjectPath, Length: row.Length, Checksum: row.Checksum}
	same, length, err := goodPrefix(ctx, ns.IndexPath(id), ref, scrubRead)
	if err != nil || same && length == ref.Length {
		return // one that is gone is a matter of the start
	}
	n, aside, err := s.mendIndex(ctx, ns, row, ref)
	switch {
	case errors.Is(err, server.ErrChanged), ctx.Err() != nil:
		return // it changed since; its cut looks at it
	case err != nil:
		s.happened(ctx, eventDamage, row.Path, "the local index file differs from what was stored, and cannot be put right now: %v", err)
	case n > 0:
		s.log.Error("a local index file was damaged, and was put right", "path", row.Path, "entries", n, "set_aside", aside)
		s.happened(ctx, eventDamage, row.Path, "%d entries of the local file differed from what was stored, and were put right; a copy of the damaged file is %s", n, aside)
	}
}

func (s *System) mendIndex(ctx context.Context, ns embeddedSpace, row store.File, ref manifest.Ref) (int, string, error) {
	s.mendLock.Lock()
	defer s.mendLock.Unlock()
	good := filepath.Join(s.layout.State, fmt.Sprintf("mend-%s-i%d", row.Namespace, row.FileID))
	defer os.Remove(good) //nolint:errcheck // the next one replaces it
	if err := s.retrieve(ctx, ref, good); err != nil {
		return 0, "", err
	}
	aside, err := s.copyAside(row, ns.IndexPath(uint32(row.FileID)))
	if err != nil {
		return 0, "", err
	}
	n, err := ns.MendIndex(ctx, uint32(row.FileID), good, nil)
	if err != nil || n == 0 {
		err = errors.Join(err, os.Remove(aside))
	}
	return n, aside, err
}

// copyAside keeps a copy of a damaged index file.
func (s *System) copyAside(row store.File, file string) (string, error) {
	if err := os.MkdirAll(s.layout.damaged(), 0o700); err != nil {
		return "", err
	}
	in, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer in.Close() //nolint:errcheck // read only
	aside := s.asideName(fmt.Sprintf("%s-i%d", row.Namespace, row.FileID))
	out, err := os.OpenFile(aside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(out, in)
	return aside, errors.Join(err, out.Sync(), out.Close())
}
