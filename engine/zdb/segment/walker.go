package segment

import (
	"bufio"
	"fmt"
	"io"
)

// Walker reads the entries of a data file in order, verifying lengths and
// payload checksums. The end of the file at the end of an entry is io.EOF; an
// entry that is cut, senseless or damaged is an error matching [ErrFormat],
// and [Walker.Offset] is then where it begins: the end of what can be trusted.
type Walker struct {
	r      *bufio.Reader
	off    int64
	head   [DataEntrySize + MaxKey]byte
	buf    []byte
	verify bool
}

// NewWalker reads entries from r, whose next byte lies at offset off of the
// data file. Payloads are verified.
func NewWalker(r io.Reader, off int64) *Walker {
	return &Walker{r: bufio.NewReaderSize(r, 256<<10), off: off, verify: true}
}

// Offset is where the next entry begins.
func (w *Walker) Offset() int64 { return w.off }

// Next reads one entry. Its key is valid until the next call.
func (w *Walker) Next() (DataEntry, error) {
	head := w.head[:DataEntrySize]
	if _, err := io.ReadFull(w.r, head); err != nil {
		if err == io.ErrUnexpectedEOF {
			return DataEntry{}, fmt.Errorf("%w data entry at %d: cut in its head", ErrFormat, w.off)
		}
		return DataEntry{}, err
	}
	head = w.head[:DataEntrySize+int(head[0])]
	if _, err := io.ReadFull(w.r, head[DataEntrySize:]); err != nil {
		return DataEntry{}, cut(err, w.off, "key")
	}
	e, err := DecodeDataEntry(head)
	if err != nil {
		return DataEntry{}, fmt.Errorf("at %d: %w", w.off, err)
	}
	sum, err := w.payload(int(e.Length))
	if err != nil {
		return DataEntry{}, cut(err, w.off, "payload")
	}
	if w.verify && sum != e.CRC {
		return DataEntry{}, fmt.Errorf("%w data entry at %d: checksum %08x, want %08x", ErrFormat, w.off, sum, e.CRC)
	}
	w.off += e.Size()
	return e, nil
}

// payload reads n bytes in pieces, so that a hostile length costs no memory.
func (w *Walker) payload(n int) (uint32, error) {
	if w.buf == nil {
		w.buf = make([]byte, 64<<10)
	}
	sum := ^uint32(0)
	for n > 0 {
		p := w.buf[:min(n, len(w.buf))]
		if _, err := io.ReadFull(w.r, p); err != nil {
			return 0, err
		}
		sum = update(sum, p)
		n -= len(p)
	}
	return ^sum, nil
}

func cut(err error, off int64, where string) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w data entry at %d: cut in its %s", ErrFormat, off, where)
	}
	return err
}
