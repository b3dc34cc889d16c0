package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb/segment"
)

// resume takes up the state of checkpoint c: index files are cut to its
// lengths, its changes in place count, and what the data file has behind its
// offset is replayed. After a clean end there is nothing of the kind.
func (l *loader) resume(ctx context.Context, c *checkpointFile) error {
	lengths := c.lengths
	if len(l.files.index) < len(lengths) {
		lengths, c.closed, c.dataOff = lengths[:len(lengths)-1], true, 0 // how long the one before is, is not known
	}
	if err := l.openIndex(lengths, true); err != nil {
		return err
	}
	if l.index.mode != c.mode {
		return fmt.Errorf("%w: mode of index and checkpoint differ", ErrDamaged)
	}
	for id, length := range lengths {
		if err := l.take(uint32(id), length); err != nil {
			return err
		}
	}
	x := l.index
	for _, id := range c.dirty {
		if uint64(id) < uint64(len(x.files)) {
			x.dirty[id] = struct{}{}
		}
	}
	for _, p := range c.patches {
		x.patches[p.place] = p.patch
	}
	x.lastFile, x.lastOffset = c.last.file, c.last.offset
	if x.mode == Sequential && c.counted {
		x.live, x.liveBytes, x.liveIndex = c.live, c.liveBytes, c.liveIndex
	} else if err := l.scanAll(ctx, nil); err != nil {
		return err
	}
	if x.slots != c.slots && c.counted {
		return fmt.Errorf("%w: index has %d entries, its checkpoint %d", ErrDamaged, x.slots, c.slots)
	}
	l.dataOff, l.lastData = c.dataOff, c.lastData
	return l.resumeData(ctx, c)
}

func (l *loader) resumeData(ctx context.Context, c *checkpointFile) error {
	x := l.index
	if !c.closed {
		return l.openLog(ctx, x.lastID(), c.dataOff)
	}
	next := uint32(len(x.files))
	size, there, err := l.files.dataSize(next)
	if err != nil {
		return err
	}
	if len(l.files.index) > len(x.files) { // made after the checkpoint: made again by the replay
		if err := os.Remove(l.n.IndexPath(next)); err != nil {
			return err
		}
	}
	if !there {
		return nil
	}
	if size <= segment.DataHeaderSize {
		return os.Remove(l.n.DataPath(next))
	}
	if err := x.create(); err != nil {
		return err
	}
	return l.openLog(ctx, next, segment.DataHeaderSize)
}

// take cuts an index file to length and counts it in.
func (l *loader) take(id uint32, length int64) error {
	if l.files.index[id] > length {
		if err := os.Truncate(l.n.IndexPath(id), length); err != nil {
			return err
		}
		l.index.unsync[id] = struct{}{}
	}
	if length > math.MaxUint32 || l.index.slots > math.MaxUint32 {
		return fmt.Errorf("%w: %s is longer than the format allows", ErrDamaged, l.n.IndexPath(id))
	}
	count := uint32(0)
	if l.index.mode == Sequential {
		count = uint32((length - segment.IndexHeaderSize) / segment.SeqSlotSize)
	} // user mode counts when it scans
	l.index.adopt(length, count)
	return nil
}

// openLog opens data file id for appending, replays what it has from off on,
// and cuts it behind its last good entry.
func (l *loader) openLog(ctx context.Context, id uint32, off int64) error {
	f, err := os.OpenFile(l.n.DataPath(id), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	l.active = f
	end, err := l.replay(ctx, f, id, off)
	if err != nil {
		return err
	}
	size, _, err := fileSize(f.Name())
	if err != nil {
		return err
	}
	if size > end {
		l.n.srv.log.Warn("cut the end of the log off", "namespace", l.n.name, "segment", id, "bytes", size-end)
	}
	if size != end || l.replayed {
		if err := f.Truncate(end); err != nil {
			return err
		}
		l.replayed = true
	}
	if off == segment.DataHeaderSize { // a crash may have lost the header
		if _, err := f.WriteAt(segment.AppendDataHeader(nil, id), 0); err != nil {
			return err
		}
	}
	l.dataOff = end
	return nil
}

// replay puts entries of a data file from off on into the index and gives
// where the good ones end.
func (l *loader) replay(ctx context.Context, f *os.File, id uint32, off int64) (int64, error) {
	w := segment.NewWalker(io.NewSectionReader(f, off, 1<<62), off)
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		at := w.Offset()
		e, err := w.Next()
		if err == io.EOF || errors.Is(err, segment.ErrFormat) {
			return at, nil
		}
		if err != nil {
			return 0, err
		}
		if !l.chains(e, at) {
			return at, nil
		}
		err = applyEntry(l.index, &e, id, uint32(at))
		if l.lenient && e.Deleted() && errors.Is(err, errNotFound) {
			err = nil // the index knew of the deletion already
		}
		if errors.Is(err, ErrDamaged) || errors.Is(err, backend.ErrNotFound) {
			return at, nil // not a successor of what came before
		}
		if err != nil {
			return 0, err
		}
		l.lastData, l.replayed = uint32(at), true
	}
}

// chains says whether e names the entry before it. The first one of a file
// names one in the file before, which is not known of files that are not ours,
// or none.
func (l *loader) chains(e segment.DataEntry, at int64) bool {
	return e.Previous == l.lastData || at == segment.DataHeaderSize && (e.Previous == 0 || l.lenient)
}

// applyEntry does to the index what the command behind a data entry did.
func applyEntry(x *index, e *segment.DataEntry, file, offset uint32) error {
	if e.Deleted() {
		return x.remove(e.Key)
	}
	return x.put(written{
		key: e.Key, dataFile: file, offset: offset, length: e.Length, crc: e.CRC, timestamp: e.Timestamp,
	})
}

// adopt takes in files without a checkpoint of ours that fits them: those of a
// real zdb, or ours whose checkpoint was lost. The index is believed; entries
// behind the last one that it names are replayed. The highest pair is not
// appended to when its data file is missing, shorter than the index says, or
// damaged at its end: old offsets would then answer with new bytes.
func (l *loader) adopt(ctx context.Context) error {
	if err := l.openIndex(l.files.index, false); err != nil {
		return err
	}
	for id, length := range l.files.index {
		if l.index.mode == Sequential {
			length -= (length - segment.IndexHeaderSize) % segment.SeqSlotSize
			if last := id == len(l.files.index)-1; !last && length != l.files.index[id] {
				return fmt.Errorf("%w: %s ends inside an entry", ErrDamaged, l.n.IndexPath(uint32(id)))
			}
		}
		if err := l.take(uint32(id), length); err != nil {
			return err
		}
	}
	tail := newest{file: l.index.lastID(), end: segment.DataHeaderSize}
	if err := l.scanAll(ctx, &tail); err != nil {
		return err
	}
	l.lenient = true
	if l.doubtful {
		for id := range l.index.files {
			l.index.dirty[uint32(id)] = struct{}{}
		}
	}
	size, there, err := l.files.dataSize(tail.file)
	if err != nil {
		return err
	}
	if !there || size < tail.end {
		if !there && l.index.slots == 0 && len(l.files.index) == 1 {
			return l.freshData()
		}
		l.n.srv.log.Warn("data file is missing or short, going on in the next one",
			"namespace", l.n.name, "segment", tail.file, "bytes", size, "want", tail.end)
		return nil
	}
	l.lastData = tail.entry
	if l.dropped {
		return nil // an empty pair followed: this one was finished
	}
	ok, err := l.verifyNewest(tail)
	if err != nil {
		return err
	}
	if !ok {
		l.n.srv.log.Warn("last entry is damaged, going on in the next file", "namespace", l.n.name, "segment", tail.file)
		return nil
	}
	return l.openLog(ctx, tail.file, tail.end)
}

func (l *loader) freshData() error {
	f, err := createData(l.data, 0)
	l.active, l.dataOff = f, segment.DataHeaderSize
	return err
}

// newest is the entry of a data file behind which the index names none.
type newest struct {
	file  uint32
	entry uint32
	end   int64
}

func (t *newest) see(e *segment.IndexEntry, dataFile uint32) {
	if end := int64(e.Offset) + segment.DataEntrySize + int64(len(e.Key)) + int64(e.Length); dataFile == t.file && end > t.end {
		t.entry, t.end = e.Offset, end
	}
}

func (l *loader) verifyNewest(t newest) (bool, error) {
	if t.end <= segment.DataHeaderSize {
		return true, nil
	}
	f, err := os.Open(l.n.DataPath(t.file))
	if err != nil {
		return false, err
	}
	defer f.Close()
	w := segment.NewWalker(io.NewSectionReader(f, int64(t.entry), t.end-int64(t.entry)), int64(t.entry))
	_, err = w.Next()
	if errors.Is(err, segment.ErrFormat) {
		return false, nil
	}
	return err == nil && w.Offset() == t.end, err
}

// scanAll reads every entry of the index: keys in user mode, the counters, and
// the newest entry of the highest data file. An incomplete end of the last
// file is cut off.
func (l *loader) scanAll(ctx context.Context, tail *newest) error {
	x := l.index
	x.live, x.liveBytes, x.liveIndex = 0, 0, 0
	if x.mode == User {
		x.slots = 0
	}
	for id := range x.files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := l.scanFile(uint32(id), tail); err != nil {
			return err
		}
	}
	return nil
}

func (l *loader) scanFile(id uint32, tail *newest) error {
	x := l.index
	file := &x.files[id]
	f, err := os.Open(l.n.IndexPath(id))
	if err != nil {
		return err
	}
	defer f.Close()
	if x.mode == User {
		file.first, file.count = uint32(x.slots), 0
	}
	r := bufio.NewReaderSize(io.NewSectionReader(f, segment.IndexHeaderSize, int64(file.length)-segment.IndexHeaderSize), int(min(file.length, 256<<10)))
	buf := make([]byte, segment.IndexEntrySize+segment.MaxKey)
	for off := int64(segment.IndexHeaderSize); off < int64(file.length); {
		e, err := nextIndexEntry(r, buf)
		if err == nil && x.mode == Sequential && len(e.Key) != segment.SeqKeySize {
			err = fmt.Errorf("%w: key of %d bytes in sequential mode", segment.ErrFormat, len(e.Key))
		}
		if errors.Is(err, segment.ErrFormat) && id == x.lastID() && tail != nil {
			l.n.srv.log.Warn("cut the end of the index off", "namespace", l.n.name, "segment", id, "err", err)
			file.length, x.tailOff = uint32(off), off
			if x.mode == Sequential {
				file.count = uint32((off - segment.IndexHeaderSize) / segment.SeqSlotSize)
				x.slots = uint64(file.first) + uint64(file.count)
			}
			x.unsync[id] = struct{}{}
			return os.Truncate(f.Name(), off)
		}
		if err != nil {
			return fmt.Errorf("%w: %s at %d: %w", ErrDamaged, f.Name(), off, err)
		}
		p := place{id, uint32(off)}
		size := e.Size()
		if c, ok := x.patches[p]; ok {
			c.apply(buf[:size])
			if e, err = segment.DecodeIndexEntry(buf[:size]); err != nil {
				return fmt.Errorf("%w: %s at %d: %w", ErrDamaged, f.Name(), off, err)
			}
		}
		l.see(&e, p, tail)
		off += size
	}
	return nil
}

// see counts one entry of the index.
func (l *loader) see(e *segment.IndexEntry, p place, tail *newest) {
	x := l.index
	x.lastFile, x.lastOffset = p.file, p.offset
	k := entryOf(*e, p, x.mode)
	if tail != nil {
		tail.see(e, k.dataFile)
	}
	if x.mode == User {
		x.slots++
		x.files[p.file].count++
		if old, ok := x.keys[string(e.Key)]; ok {
			x.uncount(len(e.Key), int(old.length))
			delete(x.keys, string(e.Key))
		}
	}
	if e.Deleted() {
		return
	}
	if x.mode == User {
		x.keys[string(e.Key)] = userKey{p, e.Offset, e.Length, e.CRC, e.Timestamp}
	}
	x.count(len(e.Key), int(e.Length))
}

func nextIndexEntry(r io.Reader, buf []byte) (segment.IndexEntry, error) {
	if _, err := io.ReadFull(r, buf[:segment.IndexEntrySize]); err != nil {
		return segment.IndexEntry{}, short(err)
	}
	n := segment.IndexEntrySize + int(buf[0])
	if _, err := io.ReadFull(r, buf[segment.IndexEntrySize:n]); err != nil {
		return segment.IndexEntry{}, short(err)
	}
	return segment.DecodeIndexEntry(buf[:n])
}

func short(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: ends inside an entry", segment.ErrFormat)
	}
	return err
}
