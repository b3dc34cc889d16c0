// Package monitor is the unix socket protocol of zstor's daemon, both ends: the
// real zstor's commands can talk to a [Server], and a [Client] to its daemon.
//
//	srv := monitor.NewServer(handler, monitor.Options{})
//	go srv.Serve(ctx, listener)
//	err := monitor.NewClient("/run/zstor.sock").Store(ctx, monitor.Store{File: "/data/f"})
//
// One request and one response per connection. A frame is a big endian u16 length
// and that many bytes of bincode; trailing bytes inside a frame are ignored.
package monitor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/threefoldtech/quantumd/engine/zstor/internal/bincode"
	"github.com/threefoldtech/quantumd/engine/zstor/record"
)

// MaxFrame is the longest body of a frame, in bytes.
const MaxFrame = 65535

// ErrFrame says that bytes are no frame of the protocol.
var ErrFrame = errors.New("monitor: malformed frame")

// Request is one of Store, Retrieve, Rebuild and Check.
type Request interface{ encode(w *bincode.Writer) error }

// Store asks to store a file, or each regular file directly in a folder.
type Store struct {
	File        string
	KeyPath     string // folder under which the object is known; empty: the file's own
	SaveFailure bool   // transmitted and without effect, as in the real zstor
	Delete      bool   // remove the file after success
	NonBlocking bool   // answer at once
}

// Retrieve asks to bring a file back to where it was stored from.
type Retrieve struct{ File string }

// Rebuild asks to rebuild an object named by exactly one of File and Key.
type Rebuild struct {
	File, Key string
	Metadata  *record.Record // instead of a look-up; nil from the command line
}

// Check asks for the checksum of a stored object.
type Check struct{ Path string }

const (
	variantStore    = 0
	variantRetrieve = 1
	variantRebuild  = 2
	variantCheck    = 3

	variantOK       = 0
	variantError    = 1
	variantChecksum = 2
)

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (r Store) encode(w *bincode.Writer) error {
	w.U32(variantStore)
	w.String(r.File)
	w.OptString(optional(r.KeyPath))
	w.Bool(r.SaveFailure)
	w.Bool(r.Delete)
	w.Bool(!r.NonBlocking)
	return utf8Only(r.File, r.KeyPath)
}

func (r Retrieve) encode(w *bincode.Writer) error {
	w.U32(variantRetrieve)
	w.String(r.File)
	return utf8Only(r.File)
}

func (r Rebuild) encode(w *bincode.Writer) error {
	w.U32(variantRebuild)
	w.OptString(optional(r.File))
	w.OptString(optional(r.Key))
	w.Bool(r.Metadata != nil)
	if r.Metadata != nil {
		b, err := r.Metadata.Encode()
		if err != nil {
			return err
		}
		w.Raw(b)
	}
	return utf8Only(r.File, r.Key)
}

func (r Check) encode(w *bincode.Writer) error {
	w.U32(variantCheck)
	w.String(r.Path)
	return utf8Only(r.Path)
}

func utf8Only(texts ...string) error {
	for _, s := range texts {
		if !utf8.ValidString(s) {
			return fmt.Errorf("%w: %q is not UTF-8", ErrFrame, s)
		}
	}
	return nil
}

// EncodeRequest gives the frame of a request.
func EncodeRequest(r Request) ([]byte, error) {
	w := &bincode.Writer{}
	if err := r.encode(w); err != nil {
		return nil, err
	}
	return frame(w.Buf)
}

func frame(body []byte) ([]byte, error) {
	if len(body) > MaxFrame {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrFrame, len(body), MaxFrame)
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(body))), body...), nil
}

// ParseRequest reads the body of a request frame. Errors match ErrFrame.
func ParseRequest(body []byte) (Request, error) {
	rd := bincode.NewReader(body)
	var req Request
	switch v := rd.U32(); v {
	case variantStore:
		req = Store{File: rd.String(), KeyPath: text(rd.OptString()), SaveFailure: rd.Bool(), Delete: rd.Bool(), NonBlocking: !rd.Bool()}
	case variantRetrieve:
		req = Retrieve{File: rd.String()}
	case variantRebuild:
		r := Rebuild{File: text(rd.OptString()), Key: text(rd.OptString())}
		if rd.Bool() {
			r.Metadata = record.Read(rd)
		}
		req = r
	case variantCheck:
		req = Check{Path: rd.String()}
	default:
		rd.Fail("unknown request %d", v)
	}
	if err := rd.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	return req, nil
}

// Response is the answer to a request.
type Response struct {
	Err      string // what went wrong; empty on success
	Failed   bool
	Checksum *record.Checksum // of a Check that found the object
}

// EncodeResponse gives the frame of a response. A message that is too long is cut.
func EncodeResponse(r Response) []byte {
	w := &bincode.Writer{}
	switch {
	case r.Failed:
		msg := r.Err
		if len(msg) > MaxFrame-16 {
			msg = msg[:MaxFrame-16]
		}
		w.U32(variantError)
		w.String(toUTF8(msg))
	case r.Checksum != nil:
		w.U32(variantChecksum)
		w.Raw(r.Checksum[:])
	default:
		w.U32(variantOK)
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(w.Buf))), w.Buf...)
}

// toUTF8 drops what is not UTF-8, also a rune that was cut.
func toUTF8(s string) string {
	out := make([]byte, 0, len(s))
	for _, r := range s {
		if r != utf8.RuneError {
			out = utf8.AppendRune(out, r)
		}
	}
	return string(out)
}

// ParseResponse reads the body of a response frame. Errors match ErrFrame.
func ParseResponse(body []byte) (Response, error) {
	rd := bincode.NewReader(body)
	var r Response
	switch v := rd.U32(); v {
	case variantOK:
	case variantError:
		r.Failed, r.Err = true, rd.String()
	case variantChecksum:
		var sum record.Checksum
		copy(sum[:], rd.Raw(len(sum)))
		r.Checksum = &sum
	default:
		rd.Fail("unknown response %d", v)
	}
	if err := rd.Err(); err != nil {
		return Response{}, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	return r, nil
}

// ReadFrame reads one frame and gives its body. An empty one is an error.
func ReadFrame(r io.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	n := binary.BigEndian.Uint16(head[:])
	if n == 0 {
		return nil, fmt.Errorf("%w: empty", ErrFrame)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	return body, nil
}
