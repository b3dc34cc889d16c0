package qsfs

import (
	"encoding/hex"
	"fmt"
	"iter"
	"math"
	"strconv"
	"strings"
)

// A frontend of 64 TB has a million files. What is stored of each is known in
// memory all the time, so a reference takes 28 bytes: the object's path is
// derived from the file's name, epoch and generation, and the checksum is
// binary. References lie in chunks that snapshots share: a snapshot costs a
// pointer per chunk, and two that come from one another are compared by those.

// fileRef names an object and what must come out of it.
type fileRef struct {
	Object   string `json:"object"` // path below the zdb root, with epoch and generation
	Length   int64  `json:"length"`
	Checksum string `json:"checksum"` // BLAKE2b-128, hex
}

func (r fileRef) check() error {
	if r.Object == "" && r.Length == 0 {
		return nil // not set
	}
	if r.Length < 0 || strings.HasPrefix(r.Object, "/") || strings.Contains(r.Object, "..") || len(r.Checksum) != 2*len(compactRef{}.sum) {
		return fmt.Errorf("%w: file %q", errManifest, r.Object)
	}
	return nil
}

// compactRef is a fileRef whose path follows from its place in a table. With
// the epoch 0 the generation tells what it is instead.
type compactRef struct {
	sum        [16]byte
	length     uint32
	epoch      uint32
	generation uint32
}

// What a compactRef with the epoch 0 is.
const (
	refAbsent = iota
	refPlain  // the path without epoch and generation
	refOdd    // any path: in refTable.odd
)

func (r compactRef) there() bool { return r.epoch != 0 || r.generation != refAbsent }

const chunkRefs = 64

type refChunk struct {
	refs  [chunkRefs]compactRef
	count int
}

// refTable holds the references of one kind of file of a namespace, by file id.
// The zero value with a prefix is an empty table. It is not safe for concurrent
// use; a snapshot is independent of the table that it was taken from.
type refTable struct {
	prefix string // of the object paths: `data/zdbfs-data/d`
	chunks []*refChunk
	shared []bool // chunks that a snapshot holds too: copied before a change
	count  int
	bytes  int64 // of the files
	odd    map[uint32]fileRef
}

func (t *refTable) compact(id uint32) compactRef {
	if c := int(id / chunkRefs); c < len(t.chunks) && t.chunks[c] != nil {
		return t.chunks[c].refs[id%chunkRefs]
	}
	return compactRef{}
}

func (t *refTable) has(id uint32) bool { return t.compact(id).there() }

func (t *refTable) get(id uint32) (fileRef, bool) {
	r := t.compact(id)
	if !r.there() {
		return fileRef{}, false
	}
	return t.expand(id, r), true
}

// length gives the length of a file without making its path.
func (t *refTable) length(id uint32) (int64, bool) {
	r := t.compact(id)
	if r.epoch == 0 && r.generation == refOdd {
		return t.odd[id].Length, true
	}
	return int64(r.length), r.there()
}

func (t *refTable) expand(id uint32, r compactRef) fileRef {
	if r.epoch == 0 && r.generation == refOdd {
		return t.odd[id]
	}
	return fileRef{Object: t.object(id, r), Length: int64(r.length), Checksum: hex.EncodeToString(r.sum[:])}
}

func (t *refTable) object(id uint32, r compactRef) string {
	b := make([]byte, 0, len(t.prefix)+24)
	b = append(b, t.prefix...)
	b = strconv.AppendUint(b, uint64(id), 10)
	if r.epoch != 0 {
		b = append(b, '@')
		b = strconv.AppendUint(b, uint64(r.epoch), 10)
		b = append(b, '.')
		b = strconv.AppendUint(b, uint64(r.generation), 10)
	}
	return string(b)
}

// set puts a reference in its place.
func (t *refTable) set(id uint32, ref fileRef) error {
	if ref.Object == "" {
		return fmt.Errorf("%w: file %d without an object", errManifest, id)
	}
	if err := ref.check(); err != nil {
		return err
	}
	var r compactRef
	if n, err := hex.Decode(r.sum[:], []byte(ref.Checksum)); err != nil || n != len(r.sum) {
		return fmt.Errorf("%w: checksum of %q", errManifest, ref.Object)
	}
	derived := t.derive(id, ref, &r)
	if !derived {
		r.length, r.epoch, r.generation = 0, 0, refOdd
	}
	t.put(id, r)
	t.bytes += ref.Length
	if derived {
		delete(t.odd, id)
	} else {
		t.setOdd(id, ref)
	}
	return nil
}

func (t *refTable) setOdd(id uint32, ref fileRef) {
	if t.odd == nil {
		t.odd = map[uint32]fileRef{}
	}
	t.odd[id] = ref
}

// derive fills in epoch and generation where they give the path.
func (t *refTable) derive(id uint32, ref fileRef, r *compactRef) bool {
	if ref.Length > math.MaxUint32 {
		return false
	}
	r.length = uint32(ref.Length)
	name, v, versioned := strings.Cut(ref.Object, "@")
	number, ok := strings.CutPrefix(name, t.prefix)
	if n, err := strconv.ParseUint(number, 10, 32); !ok || err != nil || uint32(n) != id {
		return false
	}
	r.generation = refPlain
	if versioned {
		e, g, _ := strings.Cut(v, ".")
		epoch, err1 := strconv.ParseUint(e, 10, 32)
		generation, err2 := strconv.ParseUint(g, 10, 32)
		if err1 != nil || err2 != nil || epoch == 0 {
			return false
		}
		r.epoch, r.generation = uint32(epoch), uint32(generation)
	}
	return t.object(id, *r) == ref.Object // no leading zeros, nothing behind
}

// put replaces a compact reference; the caller adds its length to bytes.
func (t *refTable) put(id uint32, r compactRef) {
	chunk := t.own(id)
	old := &chunk.refs[id%chunkRefs]
	if old.there() {
		length, _ := t.length(id)
		t.bytes -= length
	} else {
		t.count++
		chunk.count++
	}
	*old = r
}

// remove takes a reference out.
func (t *refTable) remove(id uint32) {
	if !t.has(id) {
		return
	}
	length, _ := t.length(id)
	chunk := t.own(id)
	chunk.refs[id%chunkRefs] = compactRef{}
	chunk.count--
	t.count--
	t.bytes -= length
	delete(t.odd, id)
}

// own gives the chunk of an id, which nothing else holds.
func (t *refTable) own(id uint32) *refChunk {
	c := int(id / chunkRefs)
	if c >= len(t.chunks) {
		more := c + 1 - len(t.chunks)
		t.chunks = append(t.chunks, make([]*refChunk, more)...)
		t.shared = append(t.shared, make([]bool, more)...)
	}
	switch {
	case t.chunks[c] == nil:
		t.chunks[c] = new(refChunk)
	case t.shared[c]:
		own := *t.chunks[c]
		t.chunks[c] = &own
	}
	t.shared[c] = false
	return t.chunks[c]
}

// snapshot gives a table that does not change with this one.
func (t *refTable) snapshot() *refTable {
	s := *t
	s.chunks = append([]*refChunk(nil), t.chunks...)
	s.shared = make([]bool, len(t.chunks))
	for i := range t.shared {
		t.shared[i], s.shared[i] = true, true
	}
	if t.odd != nil {
		s.odd = make(map[uint32]fileRef, len(t.odd))
		for id, r := range t.odd {
			s.odd[id] = r
		}
	}
	return &s
}

// all goes through the references by ascending id. The table must not change
// meanwhile.
func (t *refTable) all() iter.Seq2[uint32, fileRef] {
	return func(yield func(uint32, fileRef) bool) {
		for id, r := range t.compacts() {
			if !yield(id, t.expand(id, r)) {
				return
			}
		}
	}
}

func (t *refTable) compacts() iter.Seq2[uint32, compactRef] {
	return func(yield func(uint32, compactRef) bool) {
		for c, chunk := range t.chunks {
			if chunk == nil {
				continue
			}
			for i, r := range chunk.refs {
				if r.there() && !yield(uint32(c*chunkRefs+i), r) {
					return
				}
			}
		}
	}
}

// lacking goes through the ids below n that have no reference, in a time that
// hardly grows with those that have one.
func (t *refTable) lacking(n uint32) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		for first := uint32(0); first < n; first += chunkRefs {
			c := int(first / chunkRefs)
			if c < len(t.chunks) && t.chunks[c] != nil && t.chunks[c].count == chunkRefs {
				continue
			}
			for id := first; id < min(first+chunkRefs, n); id++ {
				if !t.has(id) && !yield(id) {
					return
				}
			}
		}
	}
}

// over lays this table over another one.
func (t *refTable) over(base *refTable) *refTable {
	out := base.snapshot()
	for id, r := range t.compacts() {
		out.copyFrom(t, id, r)
	}
	return out
}

// copyFrom takes a reference over from a table of the same prefix.
func (t *refTable) copyFrom(from *refTable, id uint32, r compactRef) {
	t.put(id, r)
	length, _ := from.length(id)
	t.bytes += length
	if r.epoch == 0 && r.generation == refOdd {
		t.setOdd(id, from.odd[id])
	} else {
		delete(t.odd, id)
	}
}

// since gives the references that base does not have, or has otherwise.
func (t *refTable) since(base *refTable) *refTable {
	out := &refTable{prefix: t.prefix}
	for c, chunk := range t.chunks {
		if chunk == nil || c < len(base.chunks) && base.chunks[c] == chunk {
			continue // shared: nothing changed there
		}
		for i, r := range chunk.refs {
			id := uint32(c*chunkRefs + i)
			if !r.there() {
				continue
			}
			if old := base.compact(id); old != r || t.odd[id] != base.odd[id] {
				out.copyFrom(t, id, r)
			}
		}
	}
	return out
}
