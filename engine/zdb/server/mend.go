package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/threefoldtech/quantumd/engine/zdb/segment"
)

// Index files have no checksums. What protects them is that each live slot names an
// entry of a data file which says the same of itself: key, length and checksum.

// BadSlots compares a copy of a sequential index file with the data files that are
// here, and gives the numbers of slots, within the file, that do not fit: they are
// no entries, have another's key, or name an entry of a data file that says
// something else. Slots of data files that are not here are not compared, and
// of deleted ones, whose marks nothing tells of, only the form.
func (n *Namespace) BadSlots(ctx context.Context, id uint32, copied string) ([]uint32, error) {
	n.mu.RLock()
	if n.deleted || uint64(id) >= uint64(len(n.index.files)) || n.index.mode != Sequential {
		n.mu.RUnlock()
		return nil, nil
	}
	first, files := n.index.files[id].first, uint32(len(n.index.files))
	n.mu.RUnlock()
	f, err := os.Open(copied)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	v := &slotVerifier{ns: n, first: uint64(first), files: files}
	defer v.release()
	buf := make([]byte, segment.SeqSlotSize*4096)
	var bad []uint32
	for slot := uint32(0); ; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		k, err := f.ReadAt(buf, segment.SlotOffset(slot))
		for at := 0; at+segment.SeqSlotSize <= k; at += segment.SeqSlotSize {
			if !v.fits(slot, buf[at:at+segment.SeqSlotSize]) {
				bad = append(bad, slot)
			}
			slot++
		}
		if errors.Is(err, io.EOF) {
			return bad, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// slotVerifier keeps the data file of the last slot open.
type slotVerifier struct {
	ns     *Namespace
	first  uint64 // id of slot 0
	files  uint32
	handle *fileHandle
	gone   map[uint32]bool // data files that are not here
	head   [segment.DataEntrySize + segment.SeqKeySize]byte
}

func (v *slotVerifier) release() {
	if v.handle != nil {
		v.ns.data.release(v.handle)
		v.handle = nil
	}
}

func (v *slotVerifier) open(id uint32) *fileHandle {
	if v.handle != nil && v.handle.id == id {
		return v.handle
	}
	v.release()
	if v.gone[id] {
		return nil
	}
	h, err := v.ns.data.acquire(id)
	if err != nil {
		if v.gone == nil {
			v.gone = map[uint32]bool{}
		}
		v.gone[id] = true
		return nil
	}
	v.handle = h
	return h
}

func (v *slotVerifier) fits(slot uint32, raw []byte) bool {
	e, err := segment.DecodeIndexEntry(raw)
	if err != nil || e.DataFile >= v.files {
		return false
	}
	if e.Deleted() {
		return true // it may be what an update left, with the key of that
	}
	if !bytes.Equal(e.Key, segment.SeqKey(v.first+uint64(slot))) {
		return false
	}
	h := v.open(e.DataFile)
	if h == nil {
		return true // not here: nothing to compare with
	}
	if _, err := h.ReadAt(v.head[:], int64(e.Offset)); err != nil {
		return false
	}
	d, err := segment.DecodeDataEntry(v.head[:])
	return err == nil && bytes.Equal(d.Key, e.Key) && d.Length == e.Length && d.CRC == e.CRC && !d.Deleted()
}

// ErrChanged says that an index file changed in place since it was last copied, so
// that a stored copy cannot replace it.
var ErrChanged = errors.New("zdb: index file has changes that no copy has")

// MendIndex writes what differs in a closed index file from a good copy over it, in
// place, and gives the number of slots that were written. Without slots the file is
// made equal to the copy, which must be of what it was when its changes were last
// taken off the list (else [ErrChanged]); with slots only these are written, each
// only while it does not fit its data entry and the copy's does.
func (n *Namespace) MendIndex(ctx context.Context, id uint32, good string, slots []uint32) (int, error) {
	n.ckptMu.Lock() // no changes in place reach the file
	defer n.ckptMu.Unlock()
	n.mu.RLock()
	if n.deleted || uint64(id) >= uint64(len(n.index.files)) || n.index.mode != Sequential {
		n.mu.RUnlock()
		return 0, ErrClosed
	}
	x := n.index
	file, last := x.files[id], id == x.lastID()
	_, dirty := x.dirty[id]
	files := uint32(len(x.files))
	n.mu.RUnlock()
	if slots == nil && (dirty || last && n.hasActive()) {
		return 0, ErrChanged
	}
	h, err := x.cache.acquire(id)
	if err != nil {
		return 0, err
	}
	defer x.cache.release(h)
	src, err := os.Open(good)
	if err != nil {
		return 0, err
	}
	defer src.Close()
	if st, err := src.Stat(); err != nil {
		return 0, err
	} else if slots == nil && st.Size() != int64(file.length) {
		return 0, fmt.Errorf("%w: the copy has %d bytes, the file %d", ErrChanged, st.Size(), file.length)
	}
	v := &slotVerifier{ns: n, first: uint64(file.first), files: files}
	defer v.release()
	written, err := mendSlots(ctx, h.File, src, file.count, slots, v)
	if slots == nil && err == nil {
		err = mendHeader(h.File, src)
	}
	return written, errors.Join(err, h.Sync())
}

func (n *Namespace) hasActive() bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.active != nil
}

func mendHeader(dst, src *os.File) error {
	var head [segment.IndexHeaderSize]byte
	if _, err := src.ReadAt(head[:], 0); err != nil {
		return err
	}
	_, err := dst.WriteAt(head[:], 0)
	return err
}

func mendSlots(ctx context.Context, dst, src *os.File, count uint32, slots []uint32, v *slotVerifier) (written int, err error) {
	each := func(slot uint32) error {
		var have, want [segment.SeqSlotSize]byte
		at := segment.SlotOffset(slot)
		if _, err := src.ReadAt(want[:], at); err != nil {
			return err
		}
		if _, err := dst.ReadAt(have[:], at); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if have == want || slots != nil && (v.fits(slot, have[:]) || !v.fits(slot, want[:])) {
			return nil
		}
		written++
		_, err := dst.WriteAt(want[:], at)
		return err
	}
	if slots == nil {
		for slot := range count {
			if slot%4096 == 0 && ctx.Err() != nil {
				return written, ctx.Err()
			}
			if err := each(slot); err != nil {
				return written, err
			}
		}
		return written, nil
	}
	for _, slot := range slots {
		if err := each(slot); err != nil && !errors.Is(err, io.EOF) { // the copy is shorter: it never had that slot
			return written, err
		}
	}
	return written, nil
}

// MendCopy is MendIndex with slots for a copy of an index file that a cut made.
func (n *Namespace) MendCopy(ctx context.Context, id uint32, copied, good string, slots []uint32) (int, error) {
	n.mu.RLock()
	if n.deleted || uint64(id) >= uint64(len(n.index.files)) {
		n.mu.RUnlock()
		return 0, ErrClosed
	}
	v := &slotVerifier{ns: n, first: uint64(n.index.files[id].first), files: uint32(len(n.index.files))}
	n.mu.RUnlock()
	defer v.release()
	src, err := os.Open(good)
	if err != nil {
		return 0, err
	}
	defer src.Close()
	dst, err := os.OpenFile(copied, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	written, err := mendSlots(ctx, dst, src, 0, slots, v)
	return written, errors.Join(err, dst.Close())
}
