// Package resp is the part of the RESP2 protocol that zdb speaks: requests
// that are arrays of bulk strings, and replies without a code word in errors.
//
// A server reads with [Reader.Read] and builds replies with the Append
// functions; a client builds requests with [AppendCommand] and reads replies
// with [ReplyReader.Read]. Everything that comes from the other side is
// bounded: number and size of arguments, sizes, counts and depth of replies.
// There are no inline commands, no RESP3, and no null arguments.
package resp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
)

// Limits of the protocol.
const (
	MaxArgs    = 1024
	MaxBulk    = 8 << 20
	MaxRequest = MaxBulk + 1<<20 // bytes of all arguments together
	maxLine    = 8192
)

// ProtocolError is a request that cannot be understood. The server answers
// Text and closes the connection.
type ProtocolError struct{ Text string }

func (e *ProtocolError) Error() string { return "resp: " + e.Text }

var (
	errNotArray = &ProtocolError{"Malformed request, array expected"}
	errNoArgs   = &ProtocolError{"Missing arguments"}
	errManyArgs = &ProtocolError{"Too many arguments"}
	errNotBulk  = &ProtocolError{"Malformed query string"}
	errTooBig   = &ProtocolError{"Payload too big"}

	// ErrLineTooLong ends a connection without an answer.
	ErrLineTooLong = errors.New("resp: line too long")
)

// Reader reads requests. It is not safe for concurrent use.
type Reader struct {
	br   *bufio.Reader
	buf  []byte
	ends []int
	args [][]byte
}

// NewReader reads requests from r.
func NewReader(r io.Reader) *Reader {
	return &Reader{br: bufio.NewReaderSize(r, 64<<10)}
}

// Buffered says how many bytes of further requests have arrived already.
func (r *Reader) Buffered() int { return r.br.Buffered() }

// keep is how large a buffer may stay with a connection between requests;
// larger ones are shared.
const keep = 256 << 10

var large = sync.Pool{New: func() any { return new([]byte) }}

// Read reads one request. The arguments are valid until the next call. Memory
// grows with the bytes that arrived, not with the lengths that were announced.
func (r *Reader) Read() ([][]byte, error) {
	if cap(r.buf) > keep {
		b := r.buf[:0]
		large.Put(&b)
		r.buf = nil
	}
	r.buf, r.ends, r.args = r.buf[:0], r.ends[:0], r.args[:0]
	n, err := r.header('*', errNotArray)
	switch {
	case err != nil:
		return nil, err
	case n == 0:
		return nil, errNoArgs
	case n < 0:
		return nil, errNotArray
	case n > MaxArgs:
		return nil, errManyArgs
	}
	for range n {
		if err := r.bulk(); err != nil {
			return nil, unexpected(err)
		}
	}
	from := 0
	for _, end := range r.ends {
		r.args = append(r.args, r.buf[from:end:end])
		from = end
	}
	return r.args, nil
}

// header reads a line of a type byte and a number. LF alone ends a line too.
func (r *Reader) header(kind byte, malformed error) (int, error) {
	first, err := r.br.ReadByte()
	if err != nil {
		return 0, err
	}
	if first != kind {
		return 0, malformed
	}
	line, err := readLine(r.br)
	if err != nil {
		return 0, unexpected(err)
	}
	n, ok := parseInt(line)
	if !ok {
		return 0, malformed
	}
	return n, nil
}

func (r *Reader) bulk() error {
	n, err := r.header('$', errNotBulk)
	switch {
	case err != nil:
		return err
	case n < 0:
		return errNotBulk
	case n > MaxBulk || len(r.buf)+n > MaxRequest:
		return errTooBig
	}
	if r.buf, err = appendFull(r.br, r.buf, n); err != nil {
		return err
	}
	r.ends = append(r.ends, len(r.buf))
	return crlf(r.br, errNotBulk)
}

// appendFull appends n bytes of r to buf, growing it as they arrive.
func appendFull(r io.Reader, buf []byte, n int) ([]byte, error) {
	const first = 256 << 10
	for step := first; n > 0; step *= 2 {
		k := min(n, step)
		have := len(buf)
		if cap(buf)-have < k {
			buf = enlarge(buf, have+k, max(have+k, min(2*cap(buf), have+n)))
		}
		buf = buf[:have+k]
		if _, err := io.ReadFull(r, buf[have:]); err != nil {
			return buf[:have], err
		}
		n -= k
	}
	return buf, nil
}

// enlarge gives a copy of buf with at least need bytes of capacity, want if it
// must be made.
func enlarge(buf []byte, need, want int) []byte {
	if need > keep {
		if b := *large.Get().(*[]byte); cap(b) >= need {
			return append(b[:0], buf...)
		}
	}
	b := make([]byte, len(buf), want)
	copy(b, buf)
	return b
}

func crlf(r *bufio.Reader, malformed error) error {
	for _, want := range []byte("\r\n") {
		b, err := r.ReadByte()
		if err != nil {
			return err
		}
		if b != want {
			return malformed
		}
	}
	return nil
}

// readLine reads to the next LF and drops the line's end.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) || len(line) > maxLine {
		return nil, ErrLineTooLong
	}
	if err != nil {
		return nil, err
	}
	line = line[:len(line)-1]
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line, nil
}

// parseInt reads a whole decimal number of at most 18 digits.
func parseInt(b []byte) (int, bool) {
	neg := len(b) > 0 && b[0] == '-'
	if neg {
		b = b[1:]
	}
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	if neg {
		n = -n
	}
	return n, true
}

// unexpected turns the end of the stream inside a message into an error that
// cannot be taken for its end between two.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// AppendSimple appends a status reply.
func AppendSimple(b []byte, s string) []byte { return append(append(append(b, '+'), s...), "\r\n"...) }

// AppendError appends an error reply; the text stands alone, without a code.
func AppendError(b []byte, s string) []byte { return append(append(append(b, '-'), s...), "\r\n"...) }

// AppendInt appends an integer reply.
func AppendInt(b []byte, n int64) []byte { return head(b, ':', n) }

// AppendNil appends the null bulk string.
func AppendNil(b []byte) []byte { return append(b, "$-1\r\n"...) }

// AppendArray begins an array of n elements.
func AppendArray(b []byte, n int) []byte { return head(b, '*', int64(n)) }

// AppendBulk appends a bulk string.
func AppendBulk[T []byte | string](b []byte, p T) []byte {
	return append(append(head(b, '$', int64(len(p))), p...), "\r\n"...)
}

// AppendBulkHead begins a bulk string of n bytes; the bytes and CRLF follow.
func AppendBulkHead(b []byte, n int) []byte { return head(b, '$', int64(n)) }

func head(b []byte, kind byte, n int64) []byte {
	return append(strconv.AppendInt(append(b, kind), n, 10), "\r\n"...)
}

// AppendCommand appends a request.
func AppendCommand(b []byte, args ...[]byte) []byte {
	b = AppendArray(b, len(args))
	for _, a := range args {
		b = AppendBulk(b, a)
	}
	return b
}

// Kind tells replies apart.
type Kind byte

// The kinds of replies.
const (
	Simple Kind = '+'
	Error  Kind = '-'
	Int    Kind = ':'
	Bulk   Kind = '$'
	Array  Kind = '*'
)

// Reply is one reply. Its memory belongs to the caller.
type Reply struct {
	Kind  Kind
	Nil   bool   // of a Bulk or an Array
	Text  []byte // of a Simple, an Error or a Bulk
	Int   int64
	Items []Reply // of an Array
}

// ErrReply says that the other side sent what is no reply of zdb's.
var ErrReply = errors.New("resp: malformed reply")

// Limits of replies.
const (
	maxDepth = 4
	maxItems = 1 << 16 // of all arrays of a reply
	maxReply = 64 << 20
)

// ReplyReader reads replies. It is not safe for concurrent use.
type ReplyReader struct {
	br *bufio.Reader
}

// NewReplyReader reads replies from r.
func NewReplyReader(r io.Reader) *ReplyReader {
	return &ReplyReader{br: bufio.NewReaderSize(r, 64<<10)}
}

// budget is what a reply may still take.
type budget struct{ items, bytes int }

// Read reads one reply.
func (r *ReplyReader) Read() (Reply, error) {
	return r.read(maxDepth, &budget{maxItems, maxReply})
}

func (r *ReplyReader) read(depth int, left *budget) (Reply, error) {
	kind, err := r.br.ReadByte()
	if err != nil {
		return Reply{}, err
	}
	line, err := readLine(r.br)
	if err != nil {
		return Reply{}, unexpected(err)
	}
	p := Reply{Kind: Kind(kind)}
	switch p.Kind {
	case Simple, Error:
		p.Text = append([]byte(nil), line...)
		return p, nil
	case Int, Bulk, Array:
	default:
		return Reply{}, fmt.Errorf("%w: type %q", ErrReply, kind)
	}
	n, ok := parseInt(line)
	switch {
	case !ok:
		return Reply{}, fmt.Errorf("%w: number %q", ErrReply, line)
	case p.Kind == Int:
		p.Int = int64(n)
		return p, nil
	case n == -1:
		p.Nil = true
		return p, nil
	case n < 0:
		return Reply{}, fmt.Errorf("%w: length %d", ErrReply, n)
	case p.Kind == Bulk:
		return r.bulk(p, n, left)
	}
	return r.array(p, n, depth, left)
}

func (r *ReplyReader) bulk(p Reply, n int, left *budget) (Reply, error) {
	if n > MaxBulk+1024 || n > left.bytes {
		return Reply{}, fmt.Errorf("%w: %d bytes", ErrReply, n)
	}
	left.bytes -= n
	p.Text = make([]byte, n)
	if _, err := io.ReadFull(r.br, p.Text); err != nil {
		return Reply{}, unexpected(err)
	}
	return p, unexpected(crlf(r.br, ErrReply))
}

func (r *ReplyReader) array(p Reply, n, depth int, left *budget) (Reply, error) {
	if depth == 0 || n > left.items {
		return Reply{}, fmt.Errorf("%w: array of %d", ErrReply, n)
	}
	left.items -= n
	p.Items = make([]Reply, 0, min(n, 1024))
	for range n {
		item, err := r.read(depth-1, left)
		if err != nil {
			return Reply{}, unexpected(err)
		}
		p.Items = append(p.Items, item)
	}
	return p, nil
}
