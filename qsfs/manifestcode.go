package qsfs

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// A manifest is written and read as a stream:
//
//	"QDMANIF\n" length:uvarint header:JSON, then for each namespace as the header
//	lists them its index files and then its data files, by ascending id:
//
//	  (step<<2 | flags):uvarint   step: from the id before, plus one; the first from 0
//	  length:uvarint              of the file
//	  epoch:uvarint               not with flagSame: that of the file before
//	  generation:uvarint          not with epoch 0: the object has the plain path.
//	                              0: that is the length, else one more than it is
//	  checksum: 16 bytes
//
// With flagOdd, behind the length, stands the path of the object instead of epoch
// and generation: its length:uvarint, and it. What the stream must be is told by
// the checksum of its object.
const (
	manifestMagic = "QDMANIF\n"
	flagSame      = 1
	flagOdd       = 2

	maxManifestHeader = 1 << 20 // bytes
	maxObjectPath     = 4096
	maxFileID         = 1 << 26 // 4 EB at 64 MiB: bounds what a table of few entries takes
)

type manifestHeader struct {
	Schema     int               `json:"schema"`
	Epoch      uint64            `json:"epoch"`
	Seq        uint64            `json:"seq"`
	Created    time.Time         `json:"created"`
	Base       *fileRef          `json:"base,omitempty"`
	Namespaces []namespaceHeader `json:"namespaces"`
}

type namespaceHeader struct {
	Name       string  `json:"name"`
	Slots      uint64  `json:"slots"`
	Descriptor fileRef `json:"descriptor"`
	Index      int     `json:"index"` // files
	Data       int     `json:"data"`
}

// encode writes the manifest to w.
func (m *manifest) encode(w io.Writer) error {
	h := manifestHeader{Schema: manifestSchema, Epoch: m.Epoch, Seq: m.Seq, Created: m.Created, Base: m.Base, Namespaces: []namespaceHeader{}}
	for _, name := range m.names() {
		ns := m.Namespaces[name]
		h.Namespaces = append(h.Namespaces, namespaceHeader{name, ns.Slots, ns.Descriptor, ns.Index.count, ns.Data.count})
	}
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(w, 64<<10)
	start := binary.AppendUvarint([]byte(manifestMagic), uint64(len(text)))
	if _, err := out.Write(append(start, text...)); err != nil {
		return err
	}
	for _, name := range m.names() {
		for _, t := range []*refTable{m.Namespaces[name].Index, m.Namespaces[name].Data} {
			if err := t.encode(out); err != nil {
				return err
			}
		}
	}
	return out.Flush()
}

func (t *refTable) encode(w io.Writer) error {
	var buf []byte
	next, epoch := uint64(0), uint32(0)
	for id, r := range t.compacts() {
		step := uint64(id) - next
		next = uint64(id) + 1
		odd := r.epoch == 0 && r.generation == refOdd
		switch {
		case odd:
			ref := t.odd[id]
			buf = binary.AppendUvarint(buf[:0], step<<2|flagOdd)
			buf = binary.AppendUvarint(buf, uint64(ref.Length))
			buf = binary.AppendUvarint(buf, uint64(len(ref.Object)))
			buf = append(buf, ref.Object...)
		case r.epoch == epoch && epoch != 0:
			buf = binary.AppendUvarint(buf[:0], step<<2|flagSame)
			buf = binary.AppendUvarint(buf, uint64(r.length))
			buf = r.appendGeneration(buf)
		default:
			buf = binary.AppendUvarint(buf[:0], step<<2)
			buf = binary.AppendUvarint(buf, uint64(r.length))
			buf = binary.AppendUvarint(buf, uint64(r.epoch))
			if epoch = r.epoch; epoch != 0 {
				buf = r.appendGeneration(buf)
			}
		}
		if _, err := w.Write(append(buf, r.sum[:]...)); err != nil {
			return err
		}
	}
	return nil
}

func (r compactRef) appendGeneration(buf []byte) []byte {
	if r.generation == r.length {
		return append(buf, 0)
	}
	return binary.AppendUvarint(buf, uint64(r.generation)+1)
}

// decodeManifest reads a manifest to its end, and checks what a restore relies
// on: names stay below the root, lengths are not negative.
func decodeManifest(from io.Reader) (*manifest, error) {
	r := &manifestReader{Reader: bufio.NewReaderSize(from, 64<<10)}
	m, err := r.manifest()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%w: it ends early", errManifest)
	}
	return m, err
}

type manifestReader struct{ *bufio.Reader }

func (r *manifestReader) manifest() (*manifest, error) {
	h, err := r.header()
	if err != nil {
		return nil, err
	}
	m := &manifest{Schema: h.Schema, Epoch: h.Epoch, Seq: h.Seq, Created: h.Created, Base: h.Base, Namespaces: map[string]*manifestNamespace{}}
	if m.Base != nil {
		if err := m.Base.check(); err != nil {
			return nil, err
		}
	}
	for _, n := range h.Namespaces {
		if err := errors.Join(checkName(n.Name), n.Descriptor.check()); err != nil {
			return nil, err
		}
		if m.Namespaces[n.Name] != nil || n.Index < 0 || n.Data < 0 {
			return nil, fmt.Errorf("%w: namespace %q", errManifest, n.Name)
		}
		ns := newManifestNamespace(n.Name)
		ns.Slots, ns.Descriptor = n.Slots, n.Descriptor
		m.Namespaces[n.Name] = ns
		if err := r.table(ns.Index, n.Index); err != nil {
			return nil, err
		}
		if err := r.table(ns.Data, n.Data); err != nil {
			return nil, err
		}
	}
	if _, err := r.ReadByte(); err != io.EOF {
		return nil, fmt.Errorf("%w: it goes on behind its end (%w)", errManifest, err)
	}
	return m, nil
}

func (r *manifestReader) header() (*manifestHeader, error) {
	magic := make([]byte, len(manifestMagic))
	if _, err := io.ReadFull(r, magic); err != nil {
		return nil, err
	}
	if string(magic) != manifestMagic {
		return nil, errManifest
	}
	text, err := r.bytes(maxManifestHeader)
	if err != nil {
		return nil, err
	}
	h := new(manifestHeader)
	if err := json.Unmarshal(text, h); err != nil {
		return nil, fmt.Errorf("%w: %w", errManifest, err)
	}
	if h.Schema > manifestSchema {
		return nil, fmt.Errorf("%w: schema %d, this version knows %d: use a newer quantumd", errManifest, h.Schema, manifestSchema)
	}
	if h.Schema != manifestSchema {
		return nil, errManifest
	}
	return h, nil
}

func (r *manifestReader) table(t *refTable, count int) error {
	next, epoch := uint64(0), uint64(0)
	for range count {
		v, err := binary.ReadUvarint(r)
		if err != nil {
			return err
		}
		id := next + v>>2
		if v>>2 > maxFileID || id > maxFileID || v&3 == 3 {
			return fmt.Errorf("%w: file %d", errManifest, id)
		}
		next = id + 1
		if v&flagOdd != 0 {
			err = r.odd(t, uint32(id))
		} else {
			epoch, err = r.derived(t, uint32(id), v&flagSame != 0, epoch)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *manifestReader) derived(t *refTable, id uint32, same bool, epoch uint64) (uint64, error) {
	var c compactRef
	length, err := r.number(1<<32 - 1)
	if err == nil && !same {
		epoch, err = r.number(1<<32 - 1)
	}
	if err != nil {
		return 0, err
	}
	c.length, c.epoch, c.generation = uint32(length), uint32(epoch), refPlain
	if epoch != 0 {
		g, err := r.number(1 << 32)
		if err != nil {
			return 0, err
		}
		if c.generation = c.length; g != 0 {
			c.generation = uint32(g - 1)
		}
	} else if same {
		return 0, fmt.Errorf("%w: file %d has no epoch", errManifest, id)
	}
	if _, err := io.ReadFull(r, c.sum[:]); err != nil {
		return 0, err
	}
	t.put(id, c)
	t.bytes += int64(length)
	return epoch, nil
}

func (r *manifestReader) odd(t *refTable, id uint32) error {
	length, err := r.number(1 << 50)
	if err != nil {
		return err
	}
	path, err := r.bytes(maxObjectPath)
	if err != nil {
		return err
	}
	var sum [16]byte
	if _, err := io.ReadFull(r, sum[:]); err != nil {
		return err
	}
	return t.set(id, fileRef{Object: string(path), Length: int64(length), Checksum: hex.EncodeToString(sum[:])})
}

func (r *manifestReader) number(limit uint64) (uint64, error) {
	v, err := binary.ReadUvarint(r)
	if err == nil && v > limit {
		err = fmt.Errorf("%w: number %d", errManifest, v)
	}
	return v, err
}

// bytes reads a length and so many bytes.
func (r *manifestReader) bytes(limit uint64) ([]byte, error) {
	n, err := r.number(limit)
	if err != nil {
		return nil, err
	}
	b := make([]byte, n)
	_, err = io.ReadFull(r, b)
	return b, err
}
