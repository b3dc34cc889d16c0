package server

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb/segment"
)

// A scan lists as many entries as it can in scanTime, at least one and at most
// scanMax.
const (
	scanTime   = 2 * time.Millisecond
	scanMax    = 4096
	cursorSize = 17
)

// cursor names an entry of the index to a client.
type cursor struct {
	klen   uint8
	at     place
	length uint32
	crc    uint32
}

func (c cursor) append(b []byte) []byte {
	b = append(b, c.klen)
	b = binary.LittleEndian.AppendUint32(b, c.at.file)
	b = binary.LittleEndian.AppendUint32(b, c.length)
	b = binary.LittleEndian.AppendUint32(b, c.at.offset)
	return binary.LittleEndian.AppendUint32(b, c.crc)
}

func parseCursor(b []byte) (cursor, bool) {
	if len(b) != cursorSize {
		return cursor{}, false
	}
	return cursor{
		klen:   b[0],
		at:     place{binary.LittleEndian.Uint32(b[1:]), binary.LittleEndian.Uint32(b[9:])},
		length: binary.LittleEndian.Uint32(b[5:]),
		crc:    binary.LittleEndian.Uint32(b[13:]),
	}, true
}

// Scan lists live entries behind cursor in the order of the index (user mode:
// of each key's last write; sequential: of ids), from the start when it is
// nil, and gives the cursor for the next call. io.EOF ends the listing.
func (n *Namespace) Scan(ctx context.Context, cursor []byte) ([]backend.Entry, []byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	list, next, err := n.scan(cursor, cursor != nil, false)
	if errors.Is(err, errNoMoreData) {
		err = io.EOF
	}
	return list, next, err
}

func (n *Namespace) scan(from []byte, resume, backwards bool) ([]backend.Entry, []byte, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if err := n.usableLocked(); err != nil {
		return nil, nil, err
	}
	s := scanner{x: n.index, end: time.Now().Add(scanTime)}
	start := place{0, segment.IndexHeaderSize}
	if backwards {
		start = place{n.index.lastFile, n.index.lastOffset}
	}
	if resume {
		var err error
		if start, err = s.behind(from, backwards); err != nil {
			return nil, nil, err
		}
	}
	var err error
	if backwards {
		err = s.backward(start)
	} else {
		err = s.forward(start)
	}
	if err != nil {
		return nil, nil, err
	}
	if len(s.list) == 0 {
		return nil, nil, errNoMoreData
	}
	return s.list, s.last.append(nil), nil
}

type scanner struct {
	x    *index
	end  time.Time
	list []backend.Entry
	last cursor
	buf  [segment.IndexEntrySize + segment.MaxKey]byte
}

// nowhere is behind the last, or before the first, entry.
var nowhere = place{}

// behind gives the place next to the entry that a cursor names.
func (s *scanner) behind(b []byte, backwards bool) (place, error) {
	c, ok := parseCursor(b)
	if !ok {
		return place{}, errCursor
	}
	e, err := s.x.read(c.at, s.buf[:])
	if err != nil || e.Length != c.length || e.CRC != c.crc || uint8(len(e.Key)) != c.klen {
		return place{}, errCursor
	}
	if backwards {
		return s.before(c.at, e.Previous), nil
	}
	return place{c.at.file, c.at.offset + uint32(e.Size())}, nil
}

// before finds the entry that the one at p calls its previous: an offset that
// is not lower lies in the nearest older file that has entries.
func (s *scanner) before(p place, previous uint32) place {
	if previous < p.offset && previous >= segment.IndexHeaderSize && p.offset > segment.IndexHeaderSize {
		return place{p.file, previous}
	}
	for file := int64(p.file) - 1; file >= 0; file-- {
		if s.x.files[file].count > 0 {
			return place{uint32(file), previous}
		}
	}
	return nowhere
}

func (s *scanner) forward(p place) error {
	for int(p.file) < len(s.x.files) && !s.full() {
		if p.offset >= s.x.files[p.file].length {
			p = place{p.file + 1, segment.IndexHeaderSize}
			continue
		}
		e, err := s.x.read(p, s.buf[:])
		if err != nil {
			return err
		}
		s.take(p, &e)
		p.offset += uint32(e.Size())
	}
	return nil
}

func (s *scanner) backward(p place) error {
	for p != nowhere && !s.full() {
		e, err := s.x.read(p, s.buf[:])
		if err != nil {
			return err
		}
		s.take(p, &e)
		p = s.before(p, e.Previous)
	}
	return nil
}

func (s *scanner) full() bool {
	n := len(s.list)
	return n >= scanMax || n > 0 && n%64 == 0 && time.Now().After(s.end)
}

func (s *scanner) take(p place, e *segment.IndexEntry) {
	if e.Deleted() {
		return
	}
	s.list = append(s.list, backend.Entry{
		Key: append([]byte(nil), e.Key...), Length: e.Length, Timestamp: e.Timestamp,
	})
	s.last = cursor{uint8(len(e.Key)), p, e.Length, e.CRC}
}

// keyCursor gives the cursor of a live key.
func (n *Namespace) keyCursor(key []byte) ([]byte, error) {
	e, err := n.lookup(key)
	if err != nil {
		return nil, err
	}
	return cursor{e.klen, e.at, e.length, e.crc}.append(nil), nil
}

// version is one version of a key, and where the one before it lies.
type version struct {
	parent    place
	timestamp uint32
	payload   []byte
}

var (
	errNoHistory    = &refusal{"No more history", nil}
	errHistoryQuery = &refusal{"Invalid arguments (index query)", nil}
	errHistoryKey   = &refusal{"Invalid arguments (invalid key)", nil}
)

// history gives the current version of key, or the one at a place that an
// answer named.
func (n *Namespace) history(ctx context.Context, key []byte, at *place) (version, error) {
	e, d, err := n.historyEntry(key, at)
	if err != nil {
		return version{}, err
	}
	p, err := n.payload(ctx, d, nil)
	return version{place{e.ParentFile, e.ParentOffset}, e.Timestamp, p}, err
}

func (n *Namespace) historyEntry(key []byte, at *place) (segment.IndexEntry, entry, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if err := n.usableLocked(); err != nil {
		return segment.IndexEntry{}, entry{}, err
	}
	if at == nil {
		k, err := n.index.lookup(key)
		if err != nil {
			return segment.IndexEntry{}, entry{}, err
		}
		at = &k.at
	} else if *at == nowhere {
		return segment.IndexEntry{}, entry{}, errNoHistory
	}
	var buf [segment.IndexEntrySize + segment.MaxKey]byte
	e, err := n.index.read(*at, buf[:])
	if err != nil {
		return e, entry{}, errHistoryQuery
	}
	if string(e.Key) != string(key) {
		return e, entry{}, errHistoryKey
	}
	return e, entryOf(e, *at, n.index.mode), nil
}
