package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/hooks"
)

// preallocateStep is how far ahead of its end a data file reserves blocks.
const preallocateStep = 16 << 20

// Set stores value under key and returns the key. In sequential mode an empty
// key inserts and returns the new 8-byte id, any other must be a live id. A
// value equal to the stored one is success and writes nothing. The value may
// be lost in a power failure until Sync returned.
func (n *Namespace) Set(ctx context.Context, key, value []byte) ([]byte, error) {
	key, _, err := n.set(ctx, key, value, uint32(time.Now().Unix()))
	return key, err
}

// Delete removes key; backend.ErrNotFound where there is none.
func (n *Namespace) Delete(ctx context.Context, key []byte) error {
	return n.remove(ctx, key, uint32(time.Now().Unix()))
}

// set says whether anything was written beside what Set gives.
func (n *Namespace) set(ctx context.Context, key, value []byte, timestamp uint32) ([]byte, bool, error) {
	if len(key) > segment.MaxKey {
		return nil, false, errKeyTooLarge
	}
	if len(value) > segment.MaxPayload {
		return nil, false, errTooLarge
	}
	w := written{key: key, length: uint32(len(value)), crc: segment.Checksum(value), timestamp: timestamp}
	for {
		same, at, err := n.unchanged(ctx, w, value)
		if err != nil {
			return nil, false, err
		}
		if err := n.lockWrite(ctx); err != nil {
			return nil, false, err
		}
		again, err := n.admit(&w, same, at)
		if again {
			n.wmu.Unlock()
			continue
		}
		if err == nil && same {
			n.wmu.Unlock()
			return w.key, false, nil
		}
		if err == nil {
			err = n.makeRoom(ctx, len(value))
		}
		if err == nil {
			err = n.appendSet(&w, value)
		}
		n.wmu.Unlock()
		if err != nil {
			return nil, false, err
		}
		return w.key, true, n.afterWrite(ctx)
	}
}

// unchanged reads the stored payload when its length and checksum are those of
// the new one. This may bring a data file back, so no lock is held; admit sees
// whether the answer still holds.
func (n *Namespace) unchanged(ctx context.Context, w written, value []byte) (bool, entry, error) {
	if len(w.key) == 0 {
		return false, entry{}, nil
	}
	n.mu.RLock()
	err := n.writableLocked()
	var old entry
	found := false
	if err == nil && !n.desc.Worm {
		var lerr error
		old, lerr = n.index.lookup(w.key)
		found = lerr == nil
	}
	n.mu.RUnlock()
	if err != nil || !found || old.length != w.length || old.crc != w.crc {
		return false, old, err
	}
	stored, err := n.payload(ctx, old, nil)
	if err != nil {
		return false, old, ctx.Err() // what cannot be read is written again
	}
	return bytes.Equal(stored, value), old, nil
}

// admit checks whether the SET may happen; again means that the entry that
// was compared has been replaced meanwhile.
func (n *Namespace) admit(w *written, same bool, at entry) (again bool, err error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if err := n.writableLocked(); err != nil {
		return false, err
	}
	x := n.index
	if len(w.key) == 0 {
		if x.mode == User {
			return false, errKeyNeeded
		}
		w.key = segment.SeqKey(x.slots)
		return false, n.roomLocked(w, 0)
	}
	old, err := x.lookup(w.key)
	exists := err == nil
	switch {
	case exists && n.desc.Worm:
		return false, errWorm
	case exists && old.length == w.length && old.crc == w.crc && old != at:
		return true, nil
	case same:
		return !exists || old != at, nil
	case !exists && !errors.Is(err, errNotFound):
		return false, err
	}
	if err := n.roomLocked(w, old.length); err != nil {
		return false, err
	}
	if !exists && x.mode == Sequential {
		return false, errUpdateOnly
	}
	return false, nil
}

// roomLocked checks the namespace's limit as the reference does: the length
// that is replaced counts as free once more.
func (n *Namespace) roomLocked(w *written, old uint32) error {
	if n.desc.MaxSize != 0 && n.index.liveBytes+uint64(w.length) > n.desc.MaxSize+uint64(old) {
		return errFull
	}
	return nil
}

// remove appends a tombstone for key and takes it out of the index.
func (n *Namespace) remove(ctx context.Context, key []byte, timestamp uint32) error {
	if err := n.lockWrite(ctx); err != nil {
		return err
	}
	err := n.removeLocked(ctx, key, timestamp)
	n.wmu.Unlock()
	if err != nil {
		return err
	}
	return n.afterWrite(ctx)
}

func (n *Namespace) removeLocked(ctx context.Context, key []byte, timestamp uint32) error {
	n.mu.RLock()
	err := n.writableLocked()
	if err == nil {
		_, err = n.index.lookup(key)
	}
	if err == nil && n.desc.Worm {
		err = errWormDelete
	}
	n.mu.RUnlock()
	if err != nil {
		return err
	}
	if err := n.ensureOpen(ctx); err != nil {
		return err
	}
	e := segment.DataEntry{Key: key, Previous: n.lastData, Flags: segment.FlagDeleted, Timestamp: timestamp}
	return n.append(&e, nil, func(uint32, uint32) error { return n.index.remove(key) })
}

func (n *Namespace) appendSet(w *written, value []byte) error {
	e := segment.DataEntry{
		Key: w.key, Length: w.length, Previous: n.lastData, CRC: w.crc, Timestamp: w.timestamp,
	}
	return n.append(&e, value, func(file, offset uint32) error {
		w.dataFile, w.offset = file, offset
		return n.index.put(*w)
	})
}

var headPool = sync.Pool{New: func() any { b := make([]byte, 0, segment.DataEntrySize+segment.MaxKey); return &b }}

// append writes one entry at the end of the open data file and has index
// learn of it. When either fails, the file is what it was before. wmu is held.
func (n *Namespace) append(e *segment.DataEntry, value []byte, index func(file, offset uint32) error) error {
	off := n.dataOff
	end := off + e.Size()
	if end > n.reserved {
		preallocate(n.active.File, n.reserved, min(preallocateStep, max(n.srv.o.DataSize-n.reserved, e.Size())))
		n.reserved = max(n.reserved+preallocateStep, end)
	}
	head := headPool.Get().(*[]byte)
	*head = e.Append((*head)[:0])
	err := n.srv.disk.write(n.active.File, *head, value, off)
	headPool.Put(head)
	if err != nil {
		n.srv.stats.dataWriteFailed.Add(1)
		return n.undo(off, &writeError{textCannotWriteData, err})
	}
	n.srv.stats.dataWritten.Add(e.Size())
	n.mu.Lock()
	err = index(n.active.id, uint32(off))
	if err == nil {
		n.dataOff, n.lastData = end, uint32(off)
		n.writeSeq++
		n.appended = n.appended || !e.Deleted()
	}
	n.mu.Unlock()
	if err != nil {
		n.srv.stats.indexWriteFailed.Add(1)
		return n.undo(off, &writeError{textCannotWriteIndex, err})
	}
	return nil
}

// undo cuts a half-written entry off. Where even that fails, nothing more is
// written to the file: the next Open cuts it.
func (n *Namespace) undo(off int64, cause error) error {
	err := n.active.Truncate(off)
	n.reserved = off // cutting gave the reserved blocks back
	if err != nil {
		n.fail(fmt.Errorf("cut a half-written entry off %s: %w", n.active.Name(), err))
		return errors.Join(cause, err)
	}
	return cause
}

// fail stops all writes until the next Open.
func (n *Namespace) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.broken == nil {
		n.broken = fmt.Errorf("zdb: namespace %s takes no writes until it is opened again: %w", n.name, err)
		n.srv.log.Error("namespace takes no more writes", "namespace", n.name, "err", err)
	}
}

// afterWrite waits for the disk when every write has to.
func (n *Namespace) afterWrite(ctx context.Context) error {
	if n.srv.o.SyncWrites {
		return n.Sync(ctx)
	}
	return nil
}

// makeRoom switches to the next pair when the open one would grow beyond its
// limit. A pair without entries is never left behind, so a value larger than
// the limit goes into the open pair when that is empty. wmu is held.
func (n *Namespace) makeRoom(ctx context.Context, length int) error {
	if n.active != nil && !n.pairEmptyLocked() && n.dataOff+int64(length) > n.srv.o.DataSize {
		if _, err := n.closePair(ctx); err != nil {
			return err
		}
	}
	return n.ensureOpen(ctx)
}

// ensureOpen makes the next pair when the highest one is closed. wmu is held.
func (n *Namespace) ensureOpen(ctx context.Context) error {
	if n.active != nil {
		return nil
	}
	id := uint32(len(n.index.files))
	f, err := createData(n.data, id)
	if err == nil {
		err = n.srv.disk.syncDir(n.dataDir)
	}
	if err != nil {
		if f != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
		return &writeError{textCannotWriteData, err}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.index.create(); err != nil {
		return &writeError{textCannotWriteIndex, errors.Join(err, f.Close(), os.Remove(f.Name()))}
	}
	n.setActiveLocked(n.data.add(id, f, true), segment.DataHeaderSize)
	return nil
}

func (n *Namespace) setActiveLocked(h *fileHandle, off int64) {
	n.active, n.dataOff, n.reserved = h, off, off
	n.appended, n.switched = false, n.srv.disk.now()
}

func createData(c *fileCache, id uint32) (*os.File, error) {
	f, err := os.OpenFile(c.path(id), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err := f.WriteAt(segment.AppendDataHeader(nil, id), 0); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return f, nil
}

// Jump closes the open pair if it has entries, and says whether it did. The
// next pair is made by the next write, so that no empty pair is ever on disk:
// a real zdb that starts on one loses sight of what is written to it.
func (n *Namespace) Jump(ctx context.Context) (bool, error) {
	if err := n.lockWrite(ctx); err != nil {
		return false, err
	}
	defer n.wmu.Unlock()
	return n.closePair(ctx)
}

// closePair makes the open pair durable, cuts it to its length, closes it and
// tells the hooks. wmu is held, and let go of meanwhile.
func (n *Namespace) closePair(ctx context.Context) (bool, error) {
	if n.active == nil || n.pairEmptyLocked() {
		return false, nil
	}
	n.mu.RLock()
	err := n.broken
	n.mu.RUnlock()
	if err != nil {
		return false, err
	}
	err = n.exclusive(func() error {
		if err := n.active.Truncate(n.dataOff); err != nil {
			return fmt.Errorf("zdb: cut %s to its length: %w", n.active.Name(), err)
		}
		if err := n.checkpoint(ctx, checkpointOptions{closed: true}); err != nil {
			return err
		}
		h := n.active
		n.mu.Lock()
		id := h.id
		n.active, n.appended = nil, false
		n.mu.Unlock()
		n.data.unpin(h)
		n.data.release(h)
		n.tellSwitch(id)
		return nil
	})
	if err != nil {
		n.reserved = n.dataOff
	}
	return err == nil, err
}

// tellSwitch raises jump-index, waits for it, and then jump-data.
func (n *Namespace) tellSwitch(id uint32) {
	if n.srv.o.Hooks == nil {
		return
	}
	dirty := n.DirtyIndexes()
	err := n.srv.hook(n.srv.ctx, hooks.Event{
		Kind: hooks.JumpIndex, Index: n.IndexPath(id), NextIndex: n.IndexPath(id + 1), Dirty: dirty,
	})
	if err == nil && !n.srv.o.KeepDirty {
		n.ResetDirty(dirty)
	}
	n.srv.hookLater(hooks.Event{Kind: hooks.JumpData, Data: n.DataPath(id), NextData: n.DataPath(id + 1)})
}
