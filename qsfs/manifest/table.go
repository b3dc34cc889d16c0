package manifest

import (
	"encoding/hex"
	"fmt"
	"iter"
	"math"
	"strconv"
	"strings"
)

// Ref names an object and what must come out of it.
type Ref struct {
	Object   string `json:"object"` // path below the zdb root, with epoch and generation
	Length   int64  `json:"length"`
	Checksum string `json:"checksum"` // BLAKE2b-128, hex
}

// Check gives an ErrFormat for a reference that leads out of the root, or that
// nothing could be compared with. One that is not set is fine.
func (r Ref) Check() error {
	if r.Object == "" && r.Length == 0 {
		return nil // not set
	}
	if r.Length < 0 || strings.HasPrefix(r.Object, "/") || strings.Contains(r.Object, "..") || len(r.Checksum) != 2*len(compactRef{}.sum) {
		return fmt.Errorf("%w: file %q", ErrFormat, r.Object)
	}
	return nil
}

// compactRef is a Ref whose path follows from its place in a table. With
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
	refOdd    // any path: in Table.odd
)

func (r compactRef) there() bool { return r.epoch != 0 || r.generation != refAbsent }

const chunkRefs = 64

type refChunk struct {
	refs  [chunkRefs]compactRef
	count int
}

// Table holds the references of one kind of file of a namespace, by file id.
// NewNamespace gives empty ones. It is not safe for concurrent use; a snapshot is
// independent of the table that it was taken from.
//
// A reference takes 28 bytes: the object's path is derived from the file's name,
// epoch and generation, and the checksum is binary. References lie in chunks that
// snapshots share: a snapshot costs a pointer per chunk, and two that come from
// one another are compared by those.
type Table struct {
	prefix string // of the object paths: `data/zdbfs-data/d`
	chunks []*refChunk
	shared []bool // chunks that a snapshot holds too: copied before a change
	count  int
	bytes  int64 // of the files
	odd    map[uint32]Ref
}

func (t *Table) compact(id uint32) compactRef {
	if c := int(id / chunkRefs); c < len(t.chunks) && t.chunks[c] != nil {
		return t.chunks[c].refs[id%chunkRefs]
	}
	return compactRef{}
}

// Count is the number of references.
func (t *Table) Count() int { return t.count }

// Bytes is the length of all files together.
func (t *Table) Bytes() int64 { return t.bytes }

// Has says whether there is a reference for a file.
func (t *Table) Has(id uint32) bool { return t.compact(id).there() }

// Get gives the reference of a file; false for none.
func (t *Table) Get(id uint32) (Ref, bool) {
	r := t.compact(id)
	if !r.there() {
		return Ref{}, false
	}
	return t.expand(id, r), true
}

// Length gives the length of a file without making its path; false for none.
func (t *Table) Length(id uint32) (int64, bool) {
	r := t.compact(id)
	if r.epoch == 0 && r.generation == refOdd {
		return t.odd[id].Length, true
	}
	return int64(r.length), r.there()
}

func (t *Table) expand(id uint32, r compactRef) Ref {
	if r.epoch == 0 && r.generation == refOdd {
		return t.odd[id]
	}
	return Ref{Object: t.object(id, r), Length: int64(r.length), Checksum: hex.EncodeToString(r.sum[:])}
}

func (t *Table) object(id uint32, r compactRef) string {
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

// Set puts a reference in its place. It refuses what Check does, and a
// reference that is not set.
func (t *Table) Set(id uint32, ref Ref) error {
	if ref.Object == "" {
		return fmt.Errorf("%w: file %d without an object", ErrFormat, id)
	}
	if err := ref.Check(); err != nil {
		return err
	}
	var r compactRef
	if n, err := hex.Decode(r.sum[:], []byte(ref.Checksum)); err != nil || n != len(r.sum) {
		return fmt.Errorf("%w: checksum of %q", ErrFormat, ref.Object)
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

func (t *Table) setOdd(id uint32, ref Ref) {
	if t.odd == nil {
		t.odd = map[uint32]Ref{}
	}
	t.odd[id] = ref
}

// derive fills in epoch and generation where they give the path.
func (t *Table) derive(id uint32, ref Ref, r *compactRef) bool {
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
func (t *Table) put(id uint32, r compactRef) {
	chunk := t.own(id)
	old := &chunk.refs[id%chunkRefs]
	if old.there() {
		length, _ := t.Length(id)
		t.bytes -= length
	} else {
		t.count++
		chunk.count++
	}
	*old = r
}

// Remove takes a reference out, if it is there.
func (t *Table) Remove(id uint32) {
	if !t.Has(id) {
		return
	}
	length, _ := t.Length(id)
	chunk := t.own(id)
	chunk.refs[id%chunkRefs] = compactRef{}
	chunk.count--
	t.count--
	t.bytes -= length
	delete(t.odd, id)
}

// own gives the chunk of an id, which nothing else holds.
func (t *Table) own(id uint32) *refChunk {
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

// Snapshot gives a table that does not change with this one.
func (t *Table) Snapshot() *Table {
	s := *t
	s.chunks = append([]*refChunk(nil), t.chunks...)
	s.shared = make([]bool, len(t.chunks))
	for i := range t.shared {
		t.shared[i], s.shared[i] = true, true
	}
	if t.odd != nil {
		s.odd = make(map[uint32]Ref, len(t.odd))
		for id, r := range t.odd {
			s.odd[id] = r
		}
	}
	return &s
}

// All goes through the references by ascending id. The table must not change
// meanwhile.
func (t *Table) All() iter.Seq2[uint32, Ref] {
	return func(yield func(uint32, Ref) bool) {
		for id, r := range t.compacts() {
			if !yield(id, t.expand(id, r)) {
				return
			}
		}
	}
}

// IDs goes through the ids that have a reference, in ascending order.
func (t *Table) IDs() iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		for id := range t.compacts() {
			if !yield(id) {
				return
			}
		}
	}
}

func (t *Table) compacts() iter.Seq2[uint32, compactRef] {
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

// Lacking goes through the ids below n that have no reference, in a time that
// hardly grows with those that have one.
func (t *Table) Lacking(n uint32) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		for first := uint32(0); first < n; first += chunkRefs {
			c := int(first / chunkRefs)
			if c < len(t.chunks) && t.chunks[c] != nil && t.chunks[c].count == chunkRefs {
				continue
			}
			for id := first; id < min(first+chunkRefs, n); id++ {
				if !t.Has(id) && !yield(id) {
					return
				}
			}
		}
	}
}

// Over lays this table over another one.
func (t *Table) Over(base *Table) *Table {
	out := base.Snapshot()
	for id, r := range t.compacts() {
		out.copyFrom(t, id, r)
	}
	return out
}

// copyFrom takes a reference over from a table of the same prefix.
func (t *Table) copyFrom(from *Table, id uint32, r compactRef) {
	t.put(id, r)
	length, _ := from.Length(id)
	t.bytes += length
	if r.epoch == 0 && r.generation == refOdd {
		t.setOdd(id, from.odd[id])
	} else {
		delete(t.odd, id)
	}
}

// Since gives the references that base does not have, or has otherwise.
func (t *Table) Since(base *Table) *Table {
	out := &Table{prefix: t.prefix}
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
