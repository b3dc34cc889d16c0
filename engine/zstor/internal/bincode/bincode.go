// Package bincode reads and writes the wire form that zstor uses for its
// metadata records and its socket: bincode 1 with default options. Integers are
// little endian at fixed width, lengths are u64, enum variants u32, an option is
// one byte 0 or 1 followed by the value, byte arrays stand alone.
package bincode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"
)

// ErrMalformed says that the bytes are not what zstor writes.
var ErrMalformed = errors.New("malformed bincode")

// Writer appends values to Buf.
type Writer struct{ Buf []byte }

// U8 appends one byte.
func (w *Writer) U8(v uint8) { w.Buf = append(w.Buf, v) }

// U16 appends a u16.
func (w *Writer) U16(v uint16) { w.Buf = binary.LittleEndian.AppendUint16(w.Buf, v) }

// U32 appends a u32, also the number of an enum variant.
func (w *Writer) U32(v uint32) { w.Buf = binary.LittleEndian.AppendUint32(w.Buf, v) }

// U64 appends a u64, also a length.
func (w *Writer) U64(v uint64) { w.Buf = binary.LittleEndian.AppendUint64(w.Buf, v) }

// Bool appends 0 or 1.
func (w *Writer) Bool(v bool) {
	if v {
		w.U8(1)
	} else {
		w.U8(0)
	}
}

// Raw appends bytes without a length.
func (w *Writer) Raw(b []byte) { w.Buf = append(w.Buf, b...) }

// String appends a length and text.
func (w *Writer) String(s string) {
	w.U64(uint64(len(s)))
	w.Buf = append(w.Buf, s...)
}

// OptString appends an optional text; nil is absent.
func (w *Writer) OptString(s *string) {
	w.Bool(s != nil)
	if s != nil {
		w.String(*s)
	}
}

// Reader takes values from the front of a buffer. After the first fault every
// further call gives zero values and Err tells the fault.
type Reader struct {
	buf []byte
	off int
	err error
}

// NewReader reads from b, which is not copied.
func NewReader(b []byte) *Reader { return &Reader{buf: b} }

// Err is the first fault, matching ErrMalformed.
func (r *Reader) Err() error { return r.err }

// Offset is the number of bytes taken so far.
func (r *Reader) Offset() int { return r.off }

// Rest is what has not been read yet.
func (r *Reader) Rest() []byte { return r.buf[r.off:] }

// Fail records a fault found by the caller.
func (r *Reader) Fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s at byte %d", ErrMalformed, fmt.Sprintf(format, args...), r.off)
	}
}

// Raw takes n bytes; the result shares the buffer.
func (r *Reader) Raw(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > len(r.buf)-r.off {
		r.Fail("%d bytes wanted, %d left", n, len(r.buf)-r.off)
		return nil
	}
	b := r.buf[r.off : r.off+n]
	r.off += n
	return b
}

// U8 takes one byte.
func (r *Reader) U8() uint8 {
	if b := r.Raw(1); b != nil {
		return b[0]
	}
	return 0
}

// U16 takes a u16.
func (r *Reader) U16() uint16 {
	if b := r.Raw(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

// U32 takes a u32.
func (r *Reader) U32() uint32 {
	if b := r.Raw(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// U64 takes a u64.
func (r *Reader) U64() uint64 {
	if b := r.Raw(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// Count takes the number of elements that follow, each at least min bytes, so
// that a hostile count cannot ask for more memory than the input has bytes.
func (r *Reader) Count(min int) int {
	n := r.U64()
	if r.err != nil {
		return 0
	}
	if left := len(r.buf) - r.off; n > uint64(left/min) {
		r.Fail("%d elements announced, %d bytes left", n, left)
		return 0
	}
	return int(n)
}

// Bool takes 0 or 1; anything else is a fault.
func (r *Reader) Bool() bool {
	switch v := r.U8(); v {
	case 0:
		return false
	case 1:
		return r.err == nil
	default:
		r.Fail("bool %d", v)
		return false
	}
}

// String takes a length and UTF-8 text.
func (r *Reader) String() string {
	b := r.Raw(r.Count(1))
	if !utf8.Valid(b) {
		r.Fail("text is not UTF-8")
		return ""
	}
	return string(b)
}

// OptString takes an optional text; nil is absent.
func (r *Reader) OptString() *string {
	if !r.Bool() {
		return nil
	}
	s := r.String()
	if r.err != nil {
		return nil
	}
	return &s
}
