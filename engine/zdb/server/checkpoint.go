package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/threefoldtech/quantumd/engine/zdb/segment"
)

// patchLimit is how many changes in place wait in memory before a checkpoint
// is made in the background.
const patchLimit = 16 << 10

type checkpointOptions struct {
	closed   bool // the open pair is being closed
	clean    bool // nothing will be written any more
	flushing bool // the namespace is about to be emptied
}

// Checkpoint makes everything durable, the index included, so that the next
// Open has nothing to replay.
func (n *Namespace) Checkpoint(ctx context.Context) error {
	return n.checkpoint(ctx, checkpointOptions{})
}

// checkpoint syncs data, then index files, puts the checkpoint in place (the
// commit), and then applies the changes in place that it carries. A crash
// before the rename leaves the old checkpoint, whose files have not changed
// below its lengths; one after it applies the carried changes again.
func (n *Namespace) checkpoint(ctx context.Context, o checkpointOptions) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.ckptMu.Lock()
	defer n.ckptMu.Unlock()

	n.mu.Lock()
	err := n.index.flush()
	if err != nil {
		n.mu.Unlock()
		return fmt.Errorf("zdb: write index of %s: %w", n.name, err)
	}
	x := n.index
	c := n.stateLocked(o)
	mark := checkpointMark{n.writeSeq, n.dataOff, n.srv.disk.now(), len(x.dirty)}
	unsync := slices.Sorted(maps.Keys(x.unsync))
	clear(x.unsync)
	n.mu.Unlock()

	err = n.saveState(x, c, unsync)
	if err == nil {
		err = n.applyPatches(x, c.patches)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil {
		for _, id := range unsync {
			x.unsync[id] = struct{}{}
		}
		return fmt.Errorf("zdb: checkpoint of %s: %w", n.name, err)
	}
	n.saved = mark
	return nil
}

func (n *Namespace) stateLocked(o checkpointOptions) *checkpointFile {
	x := n.index
	c := &checkpointFile{
		clean: o.clean, closed: o.closed || n.active == nil, flushing: o.flushing, counted: true, mode: x.mode,
		dataOff: n.dataOff, lastData: n.lastData,
		slots: x.slots, live: x.live, liveBytes: x.liveBytes, liveIndex: x.liveIndex,
		last:    place{x.lastFile, x.lastOffset},
		lengths: make([]int64, len(x.files)),
		dirty:   slices.Sorted(maps.Keys(x.dirty)),
	}
	for i := range x.files {
		c.lengths[i] = int64(x.files[i].length)
	}
	c.patches = make([]placedPatch, 0, len(x.patches))
	for p, b := range x.patches {
		c.patches = append(c.patches, placedPatch{p, b})
	}
	sortPatches(c.patches)
	return c
}

// saveState makes durable what c says, and then c itself.
func (n *Namespace) saveState(x *index, c *checkpointFile, unsync []uint32) error {
	if err := n.syncData(); err != nil {
		return err
	}
	for _, id := range unsync {
		h, err := x.cache.acquire(id)
		if err != nil {
			return err
		}
		err = n.srv.disk.sync(h.File)
		x.cache.release(h)
		if err != nil {
			// As with data: what the kernel dropped will not be written later.
			n.fail(fmt.Errorf("fsync %s: %w", h.Name(), err))
			return err
		}
	}
	if len(unsync) > 0 {
		if err := n.srv.disk.syncDir(n.indexDir); err != nil {
			return err
		}
	}
	return n.srv.disk.replaceFile(filepath.Join(n.indexDir, CheckpointName), c.encode())
}

// applyPatches writes changes in place into the files. They are synced by the
// next checkpoint; until then this one can apply them again.
func (n *Namespace) applyPatches(x *index, patches []placedPatch) error {
	if err := x.writePatches(patches); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range patches {
		if x.patches[p.place] == p.patch {
			delete(x.patches, p.place)
		}
		x.unsync[p.file] = struct{}{}
	}
	return nil
}

// Pairs tells how many files the namespace has and which one grows, in a time
// that does not grow with them.
func (n *Namespace) Pairs() (Pairs, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.deleted {
		return Pairs{}, ErrClosed
	}
	p := Pairs{Mode: n.index.mode, Slots: n.index.slots, Count: uint32(len(n.index.files)), HasOpen: n.active != nil}
	if p.HasOpen {
		p.Open, p.OpenLength = n.active.id, n.dataOff
	}
	return p, nil
}

// DataFile tells of one data file, asking the disk; of one that never was, that
// it is not there.
func (n *Namespace) DataFile(id uint32) (DataFile, error) {
	n.mu.RLock()
	deleted, open, length := n.deleted, n.active != nil && n.active.id == id, n.dataOff
	n.mu.RUnlock()
	switch {
	case deleted:
		return DataFile{}, ErrClosed
	case open:
		return DataFile{ID: id, Length: length, Present: true}, nil
	}
	size, there, err := fileSize(n.DataPath(id))
	return DataFile{ID: id, Length: size, Present: there}, err
}

// IndexFile tells of one index file; false when there is none of this id.
func (n *Namespace) IndexFile(id uint32) (IndexFile, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.deleted || uint64(id) >= uint64(len(n.index.files)) {
		return IndexFile{}, false
	}
	f := &n.index.files[id]
	return IndexFile{ID: id, Length: int64(f.length), Generation: uint64(f.gen)}, true
}

// LastRead says when a data file was last read since Open; zero: not since then.
func (n *Namespace) LastRead(id uint32) time.Time {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.data.lastUse(id)
}

// Files tells which files the namespace has, in a time that grows with them:
// what is asked often is told by Pairs, DataFile and IndexFile.
func (n *Namespace) Files() (FilesInfo, error) {
	names, err := os.ReadDir(n.dataDir)
	if err != nil {
		return FilesInfo{}, err
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.deleted {
		return FilesInfo{}, ErrClosed
	}
	x := n.index
	info := FilesInfo{Mode: x.mode, Slots: x.slots, HasOpen: n.active != nil}
	info.Data = make([]DataFile, len(x.files))
	info.Index = make([]IndexFile, len(x.files))
	for i, f := range x.files {
		info.Data[i].ID = uint32(i)
		info.Index[i] = IndexFile{ID: uint32(i), Length: int64(f.length), Generation: uint64(f.gen)}
	}
	for _, e := range names {
		id, ok := segment.ParseName('d', e.Name())
		if !ok || uint64(id) >= uint64(len(x.files)) {
			continue
		}
		if fi, err := e.Info(); err == nil && fi.Mode().IsRegular() {
			info.Data[id].Present, info.Data[id].Length = true, fi.Size()
		}
	}
	if n.active != nil {
		info.Open = n.active.id
		info.Data[info.Open] = DataFile{ID: info.Open, Length: n.dataOff, Present: true}
	}
	return info, nil
}

// DirtyIndexes gives the ids of index files that were changed in place since
// they were last reset, in ascending order. The list survives restarts.
func (n *Namespace) DirtyIndexes() []uint32 {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return slices.Sorted(maps.Keys(n.index.dirty))
}

// ResetDirty takes ids off the list. After a crash the list may be longer
// than it was, never shorter.
func (n *Namespace) ResetDirty(ids []uint32) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, id := range ids {
		delete(n.index.dirty, id)
	}
}

// ResetCopied takes ids off the list whose generation, as [IndexFile] told it
// when the file was copied, is still the same: what changed since stays.
func (n *Namespace) ResetCopied(copied map[uint32]uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, gen := range copied {
		if uint64(id) < uint64(len(n.index.files)) && uint64(n.index.files[id].gen) == gen {
			delete(n.index.dirty, id)
		}
	}
}

// CopyIndex puts a copy of an index file, as it is at one moment during the
// call, under the name dst, which must not exist. Writes and reads go on
// meanwhile. The copy shares blocks where the file system can.
func (n *Namespace) CopyIndex(ctx context.Context, id uint32, dst string) error {
	n.ckptMu.Lock() // no changes in place reach the file
	defer n.ckptMu.Unlock()
	n.mu.Lock()
	if n.deleted {
		n.mu.Unlock()
		return ErrClosed
	}
	if uint64(id) >= uint64(len(n.index.files)) {
		n.mu.Unlock()
		return fmt.Errorf("zdb: namespace %s has no index file %d", n.name, id)
	}
	x := n.index
	err := x.flush()
	length := int64(x.files[id].length)
	var patches []placedPatch
	for p, b := range x.patches {
		if p.file == id {
			patches = append(patches, placedPatch{p, b})
		}
	}
	n.mu.Unlock()
	if err != nil {
		return err
	}
	src, err := x.cache.acquire(id)
	if err != nil {
		return err
	}
	defer x.cache.release(src)
	f, err := os.OpenFile(dst, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = copyPatched(ctx, f, src.File, length, patches)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(dst))
	}
	return nil
}

func copyPatched(ctx context.Context, dst, src *os.File, length int64, patches []placedPatch) error {
	if reflink(dst, src) {
		if err := dst.Truncate(length); err != nil {
			return err
		}
	} else if _, err := io.Copy(dst, ctxReader{ctx, io.NewSectionReader(src, 0, length)}); err != nil {
		return err
	}
	for _, p := range patches {
		if _, err := dst.WriteAt(p.b[:p.n], int64(p.offset)+int64(p.at)); err != nil {
			return err
		}
	}
	return nil
}

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// DropData removes a closed data file that nobody reads and gives the bytes
// that its blocks took. It fails with ErrInUse for the open pair or while a
// read holds the file open, and with fs.ErrNotExist when it is gone already.
// The next read of the file raises missing-data.
func (n *Namespace) DropData(id uint32) (int64, error) {
	n.mu.RLock()
	cache, deleted := n.data, n.deleted
	open := n.active != nil && n.active.id == id
	n.mu.RUnlock()
	switch {
	case deleted:
		return 0, ErrClosed
	case open:
		return 0, ErrInUse
	}
	return cache.remove(id) // ids are never opened for writing again
}

// ForgetData makes the next read open the data file by name again: for a file
// that was replaced.
func (n *Namespace) ForgetData(id uint32) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.active == nil || n.active.id != id {
		n.data.forget(id)
	}
}
