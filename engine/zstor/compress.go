package zstor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/s2"
	"golang.org/x/crypto/blake2b"

	"github.com/threefoldtech/quantumd/engine/zstor/record"
)

const (
	snappyBlock = 64 << 10
	readBlock   = 512 << 10
	readBlocks  = 4 // in flight between reader, hash and compression
)

// compressBound is the most that size bytes become in the snappy framing format:
// an identifier, and per block a header and a checksum.
func compressBound(size int64) int64 {
	return 10 + size + (size/snappyBlock+size/readBlock+2)*8
}

var snappyWriters = sync.Pool{New: func() any {
	return s2.NewWriter(nil, s2.WriterSnappyCompat(), s2.WriterConcurrency(1), s2.WriterBlockSize(snappyBlock))
}}

// fixedWriter fills a buffer that has room for all.
type fixedWriter struct {
	b []byte
	n int
}

func (w *fixedWriter) Write(p []byte) (int, error) {
	if len(p) > len(w.b)-w.n {
		return 0, io.ErrShortBuffer
	}
	w.n += copy(w.b[w.n:], p)
	return len(p), nil
}

// readBlockBuf is one block of the source on its way.
type readBlockBuf struct {
	data []byte
	used sync.WaitGroup // by hash and compression
}

// compress reads src once: its checksum is computed while it is compressed into
// dst, which has compressBound(src.Size) bytes. An empty source compresses to
// nothing, as in zstor.
func compress(ctx context.Context, src Source, dst []byte) (n int, sum record.Checksum, err error) {
	h, err := blake2b.New(len(sum), nil)
	if err != nil {
		return 0, sum, err
	}
	out := &fixedWriter{b: dst}
	toHash, toPack := make(chan *readBlockBuf, readBlocks), make(chan *readBlockBuf, readBlocks)
	var packErr error
	var workers sync.WaitGroup
	workers.Go(func() {
		for b := range toHash {
			_, _ = h.Write(b.data) // hash.Hash: never fails
			b.used.Done()
		}
	})
	workers.Go(func() { packErr = pack(out, toPack) })
	err = feed(ctx, src, toHash, toPack)
	close(toHash)
	close(toPack)
	workers.Wait()
	if err = errors.Join(err, packErr); err != nil {
		return 0, sum, err
	}
	return out.n, record.Checksum(h.Sum(nil)), nil
}

func pack(out io.Writer, blocks <-chan *readBlockBuf) error {
	w := snappyWriters.Get().(*s2.Writer)
	w.Reset(out)
	var err error
	some := false
	for b := range blocks {
		if err == nil {
			_, err = w.Write(b.data)
			some = true
		}
		b.used.Done()
	}
	if err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	if some {
		if err := w.Close(); err != nil {
			return fmt.Errorf("compress: %w", err)
		}
	}
	w.Reset(nil)
	snappyWriters.Put(w)
	return nil
}

// feed reads the source block by block and hands each to both.
func feed(ctx context.Context, src Source, to ...chan<- *readBlockBuf) error {
	var ring [readBlocks]readBlockBuf
	size := min(src.Size, readBlock)
	for i, off := 0, int64(0); off < src.Size; i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := &ring[i%readBlocks]
		b.used.Wait()
		if b.data == nil {
			b.data = make([]byte, size)
		}
		b.data = b.data[:min(size, src.Size-off)]
		n, err := src.Reader.ReadAt(b.data, off)
		if n < len(b.data) {
			if err == nil || errors.Is(err, io.EOF) {
				err = fmt.Errorf("source has %d bytes, %d were announced: it was changed meanwhile", off+int64(n), src.Size)
			}
			return fmt.Errorf("read source: %w", err)
		}
		off += int64(n)
		b.used.Add(len(to))
		for _, ch := range to {
			ch <- b
		}
	}
	return nil
}

// unpack decompresses packed into w and gives size and checksum of what came out.
// More than limit bytes are an error that matches ErrDamaged.
func unpack(packed io.Reader, w io.Writer, limit int64) (int64, record.Checksum, error) {
	var sum record.Checksum
	h, err := blake2b.New(len(sum), nil)
	if err != nil {
		return 0, sum, err
	}
	tee := newTee(w, h, limit)
	r := s2.NewReader(packed, s2.ReaderMaxBlockSize(snappyBlock), s2.ReaderAllocBlock(snappyBlock))
	_, err = io.Copy(tee, onlyReader{r})
	n, teeErr := tee.close()
	switch {
	case teeErr != nil:
		return n, sum, teeErr
	case err != nil:
		return n, sum, fmt.Errorf("%w: decompress: %w", ErrDamaged, err)
	}
	return n, record.Checksum(h.Sum(nil)), nil
}

// onlyReader hides WriterTo, so that io.Copy asks in blocks of its own.
type onlyReader struct{ io.Reader }

// teeWriter gathers blocks and gives each to a writer and a hash side by side.
type teeWriter struct {
	out    io.Writer
	hash   io.Writer
	limit  int64
	n      int64
	buf    []byte
	busy   sync.WaitGroup
	spare  []byte
	outErr error
}

func newTee(out, hash io.Writer, limit int64) *teeWriter {
	return &teeWriter{out: out, hash: hash, limit: limit}
}

// ReadFrom fills blocks while the one before is written and hashed.
func (t *teeWriter) ReadFrom(r io.Reader) (int64, error) {
	var total int64
	for {
		if t.buf == nil {
			t.buf = make([]byte, readBlock)
		}
		n, err := io.ReadFull(r, t.buf)
		total += int64(n)
		if t.n += int64(n); t.n > t.limit {
			return total, fmt.Errorf("more than %d bytes", t.limit)
		}
		t.busy.Wait()
		if t.outErr != nil {
			return total, nil // close reports it
		}
		t.pass(t.buf[:n])
		t.buf, t.spare = t.spare, t.buf
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF && n > 0 && isEnd(r):
			return total, nil
		case err != nil:
			return total, err
		}
	}
}

// isEnd tells the end of a reader from its own io.ErrUnexpectedEOF, which means a
// cut stream: at the end it says io.EOF when asked again.
func isEnd(r io.Reader) bool {
	n, err := r.Read(make([]byte, 1))
	return n == 0 && err == io.EOF
}

func (t *teeWriter) pass(b []byte) {
	if len(b) == 0 {
		return
	}
	t.busy.Go(func() { _, _ = t.hash.Write(b) }) // hash.Hash: never fails
	t.busy.Go(func() {
		if _, err := t.out.Write(b); err != nil {
			t.outErr = err
		}
	})
}

// Write is there for io.Copy's type only; io.Copy calls ReadFrom.
func (t *teeWriter) Write(p []byte) (int, error) {
	n, err := t.ReadFrom(&fixedReader{p})
	return int(n), err
}

type fixedReader struct{ b []byte }

func (f *fixedReader) Read(p []byte) (int, error) {
	if len(f.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, f.b)
	f.b = f.b[n:]
	return n, nil
}

func (t *teeWriter) close() (int64, error) {
	t.busy.Wait()
	return t.n, t.outErr
}
