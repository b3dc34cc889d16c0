package server

import (
	"errors"
	"fmt"
	"math"
	"os"
	"sort"

	"github.com/threefoldtech/quantumd/engine/zdb/segment"
)

// index is the index of a namespace: its files, and what must be in memory of
// them. Everything is guarded by Namespace.mu.
//
// Between checkpoints the bytes of index files below the lengths of the last
// checkpoint do not change: changes in place wait in patches, appended entries
// in tail. So after a crash the files are what the checkpoint says, plus
// something behind it that is cut off, and replaying the data file gives
// exactly the state that was lost.
type index struct {
	mode  Mode
	files []indexFile // by id
	cache *fileCache
	slots uint64 // entries of all files

	keys map[string]userKey // user mode: live keys

	inserts   uint64 // what NSINFO calls next_internal_id
	live      uint64 // keys
	liveBytes uint64 // of their payloads
	liveIndex uint64 // of their entries in the reference's memory

	lastFile, lastOffset uint32 // where the newest entry lies; 0, 0: none

	patches map[place]patch     // changes in place that are not in the files yet
	tail    []byte              // end of the last file that is not in it yet
	tailOff int64               // where tail begins
	unsync  map[uint32]struct{} // files with bytes that were not fsynced
	dirty   map[uint32]struct{} // files changed in place since the last reset
}

// indexFile is small: there may be half a million.
type indexFile struct {
	length uint32
	first  uint32 // number of entries in all files before
	count  uint32
	gen    uint32
}

// place is where an entry lies in the index.
type place struct{ file, offset uint32 }

// patch replaces bytes of an entry.
type patch struct {
	at, n uint8
	b     [segment.SeqSlotSize]byte
}

type userKey struct {
	at                             place
	data, length, crc, timestamp32 uint32
}

// entry is what the index knows of a live key.
type entry struct {
	at        place
	dataFile  uint32
	offset    uint32
	length    uint32
	crc       uint32
	timestamp uint32
	klen      uint8
}

// tailLimit is how many appended bytes wait in memory.
const tailLimit = 64 << 10

func newIndex(dir string, mode Mode) *index {
	return &index{
		mode: mode, cache: newIndexCache(dir),
		keys:    map[string]userKey{},
		patches: map[place]patch{}, unsync: map[uint32]struct{}{}, dirty: map[uint32]struct{}{},
	}
}

func (x *index) last() *indexFile { return &x.files[len(x.files)-1] }

func (x *index) lastID() uint32 { return uint32(len(x.files) - 1) }

// create makes the next index file and appends to it from now on. The file
// before must have been flushed.
func (x *index) create() error {
	if len(x.tail) > 0 {
		return errors.New("zdb: index switched before it was flushed")
	}
	id := uint32(len(x.files))
	f, err := os.OpenFile(x.cache.path(id), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(segment.AppendIndexHeader(nil, id, x.mode), 0); err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	x.cache.release(x.cache.add(id, f, false))
	x.adopt(segment.IndexHeaderSize, 0)
	x.unsync[id] = struct{}{}
	return nil
}

// adopt counts in the next file, which has length bytes and count entries.
func (x *index) adopt(length int64, count uint32) {
	x.files = append(x.files, indexFile{length: uint32(length), first: uint32(x.slots), count: count})
	x.slots += uint64(count)
	x.tailOff, x.tail = length, x.tail[:0]
}

// flush writes the waiting entries into the last file.
func (x *index) flush() error {
	if len(x.tail) == 0 {
		return nil
	}
	id := x.lastID()
	h, err := x.cache.acquire(id)
	if err != nil {
		return err
	}
	defer x.cache.release(h)
	if _, err := h.WriteAt(x.tail, x.tailOff); err != nil {
		return err
	}
	x.unsync[id] = struct{}{}
	x.tailOff += int64(len(x.tail))
	x.tail = x.tail[:0]
	return nil
}

// append adds an entry to the last file and gives its place. It fails before
// anything changed.
func (x *index) append(e *segment.IndexEntry) (place, error) {
	f := x.last()
	if x.slots >= math.MaxUint32 || int64(f.length)+segment.IndexEntrySize+segment.MaxKey > math.MaxUint32 {
		return place{}, errNoIDs
	}
	if len(x.tail) >= tailLimit {
		if err := x.flush(); err != nil {
			return place{}, err
		}
	}
	at := place{x.lastID(), f.length}
	e.Previous = x.lastOffset
	x.tail = e.Append(x.tail)
	f.length += uint32(e.Size())
	f.count++
	f.gen++
	x.slots++
	x.lastFile, x.lastOffset = at.file, at.offset
	return at, nil
}

// patchFlags changes the flags of the entry at p.
func (x *index) patchFlags(p place, flags uint8) {
	c, ok := x.patches[p]
	if ok && c.n > 1 {
		c.b[segment.FlagsOffset] = flags
	} else {
		c = patch{at: segment.FlagsOffset, n: 1}
		c.b[0] = flags
	}
	x.change(p, c)
}

// patchSlot replaces the whole entry at p, in sequential mode.
func (x *index) patchSlot(p place, e *segment.IndexEntry) {
	c := patch{n: segment.SeqSlotSize}
	copy(c.b[:], e.Append(nil))
	x.change(p, c)
}

func (x *index) change(p place, c patch) {
	x.patches[p] = c
	x.dirty[p.file] = struct{}{}
	x.files[p.file].gen++
}

func (c patch) apply(entry []byte) {
	if int(c.at)+int(c.n) <= len(entry) {
		copy(entry[c.at:], c.b[:c.n])
	}
}

// read gives the entry at p as it is now. Its key aliases buf, which must hold
// segment.IndexEntrySize+segment.MaxKey bytes.
func (x *index) read(p place, buf []byte) (segment.IndexEntry, error) {
	if uint64(p.file) >= uint64(len(x.files)) || p.offset < segment.IndexHeaderSize {
		return segment.IndexEntry{}, fmt.Errorf("%w: no index entry at i%d, %d", ErrDamaged, p.file, p.offset)
	}
	b, err := x.bytes(p, buf)
	if err != nil {
		return segment.IndexEntry{}, err
	}
	if c, ok := x.patches[p]; ok {
		c.apply(b)
	}
	return segment.DecodeIndexEntry(b)
}

func (x *index) bytes(p place, buf []byte) ([]byte, error) {
	f, off := &x.files[p.file], int64(p.offset)
	size := int64(segment.IndexEntrySize + segment.MaxKey)
	if x.mode == Sequential {
		size = segment.SeqSlotSize
	}
	n := min(int64(f.length)-off, size)
	if n < segment.IndexEntrySize {
		return nil, fmt.Errorf("%w: no index entry at i%d, %d", ErrDamaged, p.file, p.offset)
	}
	if p.file == x.lastID() && off >= x.tailOff {
		return buf[:copy(buf[:n], x.tail[off-x.tailOff:])], nil
	}
	if p.file == x.lastID() { // an entry never lies half in the tail
		n = min(n, x.tailOff-off)
	}
	h, err := x.cache.acquire(p.file)
	if err != nil {
		return nil, err
	}
	defer x.cache.release(h)
	if _, err := h.ReadAt(buf[:n], off); err != nil {
		return nil, err
	}
	return buf[:n], nil
}

// slotPlace finds the slot of an id: the last file whose first slot is not
// behind it.
func (x *index) slotPlace(id uint64) (place, bool) {
	if id >= x.slots {
		return place{}, false
	}
	n := sort.Search(len(x.files), func(i int) bool { return uint64(x.files[i].first) > id }) - 1
	return place{uint32(n), uint32(segment.SlotOffset(uint32(id - uint64(x.files[n].first))))}, true
}

// lookup finds a live key; errNotFound when there is none.
func (x *index) lookup(key []byte) (entry, error) {
	if x.mode == User {
		k, ok := x.keys[string(key)]
		if !ok {
			return entry{}, errNotFound
		}
		return entry{
			at: k.at, dataFile: k.at.file, offset: k.data, length: k.length, crc: k.crc,
			timestamp: k.timestamp32, klen: uint8(len(key)),
		}, nil
	}
	e, p, err := x.slot(key)
	if err != nil {
		return entry{}, err
	}
	return entryOf(e, p, Sequential), nil
}

// slot reads the live slot of a sequential key.
func (x *index) slot(key []byte) (segment.IndexEntry, place, error) {
	id, ok := segment.ParseSeqKey(key)
	if !ok {
		return segment.IndexEntry{}, place{}, errNotFound
	}
	p, ok := x.slotPlace(id)
	if !ok {
		return segment.IndexEntry{}, place{}, errNotFound
	}
	e, err := x.read(p, make([]byte, segment.SeqSlotSize))
	if err != nil {
		return segment.IndexEntry{}, place{}, err
	}
	if e.Deleted() || string(e.Key) != string(key) {
		return segment.IndexEntry{}, place{}, errNotFound
	}
	return e, p, nil
}

func entryOf(e segment.IndexEntry, p place, m Mode) entry {
	r := entry{
		at: p, dataFile: e.DataFile, offset: e.Offset, length: e.Length, crc: e.CRC,
		timestamp: e.Timestamp, klen: uint8(len(e.Key)),
	}
	if m == User {
		r.dataFile = p.file
	}
	return r
}

// written is an entry of a data file that the index must learn of.
type written struct {
	key       []byte
	dataFile  uint32
	offset    uint32
	length    uint32
	crc       uint32
	timestamp uint32
}

// indexOverhead is what the reference counts per live key beside its bytes.
const indexOverhead = 64

func (x *index) count(klen, length int) {
	x.live++
	x.liveBytes += uint64(length)
	x.liveIndex += uint64(indexOverhead + klen)
}

func (x *index) uncount(klen, length int) {
	x.live--
	x.liveBytes -= uint64(length)
	x.liveIndex -= uint64(indexOverhead + klen)
}

// put records a SET. In sequential mode the key is an id below slots, which
// must be live, or slots itself.
func (x *index) put(w written) error {
	if x.mode == User {
		return x.putUser(w)
	}
	id, ok := segment.ParseSeqKey(w.key)
	switch {
	case !ok || id > x.slots:
		return fmt.Errorf("%w: key %x does not follow %d slots", ErrDamaged, w.key, x.slots)
	case id == x.slots:
		return x.insertSeq(w)
	}
	return x.updateSeq(w)
}

func (x *index) insertSeq(w written) error {
	e := w.indexEntry()
	e.DataFile = w.dataFile
	if _, err := x.append(&e); err != nil {
		return err
	}
	x.inserts++
	x.count(len(w.key), int(w.length))
	return nil
}

func (x *index) updateSeq(w written) error {
	old, p, err := x.slot(w.key)
	if err != nil {
		return err
	}
	copied := old
	copied.Flags |= segment.FlagDeleted
	at, err := x.append(&copied)
	if err != nil {
		return err
	}
	e := w.indexEntry()
	e.DataFile, e.Previous = w.dataFile, old.Previous
	e.ParentFile, e.ParentOffset = at.file, at.offset
	x.patchSlot(p, &e)
	x.inserts++
	x.uncount(len(w.key), int(old.Length))
	x.count(len(w.key), int(w.length))
	return nil
}

func (x *index) putUser(w written) error {
	e := w.indexEntry()
	old, exists := x.keys[string(w.key)]
	if exists {
		e.DataFile, e.ParentFile, e.ParentOffset = w.dataFile, old.at.file, old.at.offset
	}
	at, err := x.append(&e)
	if err != nil {
		return err
	}
	if exists {
		x.patchFlags(old.at, segment.FlagDeleted)
		x.uncount(len(w.key), int(old.length))
	} else {
		x.inserts++
	}
	x.keys[string(w.key)] = userKey{at, w.offset, w.length, w.crc, w.timestamp}
	x.count(len(w.key), int(w.length))
	return nil
}

// remove records a DEL of a live key.
func (x *index) remove(key []byte) error {
	e, err := x.lookup(key)
	if err != nil {
		return err
	}
	x.patchFlags(e.at, segment.FlagDeleted)
	delete(x.keys, string(key))
	x.uncount(len(key), int(e.length))
	return nil
}

func (w written) indexEntry() segment.IndexEntry {
	return segment.IndexEntry{
		Key: w.key, Offset: w.offset, Length: w.length, Timestamp: w.timestamp, CRC: w.crc,
	}
}

// writePatches writes changes in place, sorted, into the files.
func (x *index) writePatches(patches []placedPatch) error {
	for i := 0; i < len(patches); {
		file := patches[i].file
		h, err := x.cache.acquire(file)
		if err != nil {
			return err
		}
		for ; i < len(patches) && patches[i].file == file && err == nil; i++ {
			p := &patches[i]
			_, err = h.WriteAt(p.b[:p.n], int64(p.offset)+int64(p.at))
		}
		x.cache.release(h)
		if err != nil {
			return err
		}
	}
	return nil
}
