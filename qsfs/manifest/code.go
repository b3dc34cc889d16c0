package manifest

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
	magic    = "QDMANIF\n"
	flagSame = 1
	flagOdd  = 2

	maxHeader     = 1 << 20 // bytes
	maxObjectPath = 4096
	maxFileID     = 1 << 26 // 4 EB at 64 MiB: bounds what a table of few entries takes
)

type header struct {
	Schema     int               `json:"schema"`
	Epoch      uint64            `json:"epoch"`
	Seq        uint64            `json:"seq"`
	Created    time.Time         `json:"created"`
	Base       *Ref              `json:"base,omitempty"`
	Namespaces []namespaceHeader `json:"namespaces"`
}

type namespaceHeader struct {
	Name       string `json:"name"`
	Slots      uint64 `json:"slots"`
	Descriptor Ref    `json:"descriptor"`
	Index      int    `json:"index"` // files
	Data       int    `json:"data"`
}

// Encode writes the manifest to w, in small pieces. Schema is written as the
// constant, whatever the field says.
func (m *Manifest) Encode(w io.Writer) error {
	h := header{Schema: Schema, Epoch: m.Epoch, Seq: m.Seq, Created: m.Created, Base: m.Base, Namespaces: []namespaceHeader{}}
	for _, name := range m.Names() {
		ns := m.Namespaces[name]
		h.Namespaces = append(h.Namespaces, namespaceHeader{name, ns.Slots, ns.Descriptor, ns.Index.count, ns.Data.count})
	}
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(w, 64<<10)
	start := binary.AppendUvarint([]byte(magic), uint64(len(text)))
	if _, err := out.Write(append(start, text...)); err != nil {
		return err
	}
	for _, name := range m.Names() {
		for _, t := range []*Table{m.Namespaces[name].Index, m.Namespaces[name].Data} {
			if err := t.encode(out); err != nil {
				return err
			}
		}
	}
	return out.Flush()
}

func (t *Table) encode(w io.Writer) error {
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

// Decode reads a manifest to its end, and checks what a restore relies
// on: names stay below the root, lengths are not negative. What cannot be read is
// an ErrFormat; errors of from pass through. The stream is hostile until its
// checksum was compared: every length and id in it is bounded.
func Decode(from io.Reader) (*Manifest, error) {
	r := &reader{Reader: bufio.NewReaderSize(from, 64<<10)}
	m, err := r.manifest()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%w: it ends early", ErrFormat)
	}
	return m, err
}

type reader struct{ *bufio.Reader }

func (r *reader) manifest() (*Manifest, error) {
	h, err := r.header()
	if err != nil {
		return nil, err
	}
	m := &Manifest{Schema: h.Schema, Epoch: h.Epoch, Seq: h.Seq, Created: h.Created, Base: h.Base, Namespaces: map[string]*Namespace{}}
	if m.Base != nil {
		if err := m.Base.Check(); err != nil {
			return nil, err
		}
	}
	for _, n := range h.Namespaces {
		if err := errors.Join(checkName(n.Name), n.Descriptor.Check()); err != nil {
			return nil, err
		}
		if m.Namespaces[n.Name] != nil || n.Index < 0 || n.Data < 0 {
			return nil, fmt.Errorf("%w: namespace %q", ErrFormat, n.Name)
		}
		ns := NewNamespace(n.Name)
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
		return nil, fmt.Errorf("%w: it goes on behind its end (%w)", ErrFormat, err)
	}
	return m, nil
}

func (r *reader) header() (*header, error) {
	start := make([]byte, len(magic))
	if _, err := io.ReadFull(r, start); err != nil {
		return nil, err
	}
	if string(start) != magic {
		return nil, ErrFormat
	}
	text, err := r.bytes(maxHeader)
	if err != nil {
		return nil, err
	}
	h := new(header)
	if err := json.Unmarshal(text, h); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if h.Schema > Schema {
		return nil, fmt.Errorf("%w: schema %d, this version knows %d: use a newer quantumd", ErrFormat, h.Schema, Schema)
	}
	if h.Schema != Schema {
		return nil, ErrFormat
	}
	return h, nil
}

func (r *reader) table(t *Table, count int) error {
	next, epoch := uint64(0), uint64(0)
	for range count {
		v, err := binary.ReadUvarint(r)
		if err != nil {
			return err
		}
		id := next + v>>2
		if v>>2 > maxFileID || id > maxFileID || v&3 == 3 {
			return fmt.Errorf("%w: file %d", ErrFormat, id)
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

func (r *reader) derived(t *Table, id uint32, same bool, epoch uint64) (uint64, error) {
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
		return 0, fmt.Errorf("%w: file %d has no epoch", ErrFormat, id)
	}
	if _, err := io.ReadFull(r, c.sum[:]); err != nil {
		return 0, err
	}
	t.put(id, c)
	t.bytes += int64(length)
	return epoch, nil
}

func (r *reader) odd(t *Table, id uint32) error {
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
	return t.Set(id, Ref{Object: string(path), Length: int64(length), Checksum: hex.EncodeToString(sum[:])})
}

func (r *reader) number(limit uint64) (uint64, error) {
	v, err := binary.ReadUvarint(r)
	if err == nil && v > limit {
		err = fmt.Errorf("%w: number %d", ErrFormat, v)
	}
	return v, err
}

// bytes reads a length and so many bytes.
func (r *reader) bytes(limit uint64) ([]byte, error) {
	n, err := r.number(limit)
	if err != nil {
		return nil, err
	}
	b := make([]byte, n)
	_, err = io.ReadFull(r, b)
	return b, err
}
