package sdkprocess

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// maxFrame is more than a listing of all nodes of the grid needs.
const maxFrame = 32 << 20

// message is one frame's content. To the child: Open, or Call with Args, or Cancel.
// From it: Result, Error, or both.
type message struct {
	ID     uint64          `json:"id"`
	Open   *opening        `json:"open,omitempty"`
	Call   string          `json:"call,omitempty"`
	Args   json.RawMessage `json:"args,omitempty"`
	Cancel bool            `json:"cancel,omitempty"` // of the call with this ID
	Result json.RawMessage `json:"result,omitempty"`
	Error  *wireError      `json:"error,omitempty"`
}

// writeFrame writes the length as four bytes, most significant first, and JSON.
func writeFrame(w io.Writer, m message) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(text) > maxFrame {
		return fmt.Errorf("a frame of %d bytes is longer than %d", len(text), maxFrame)
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(text)), uint32(len(text))) //nolint:gosec // checked
	_, err = w.Write(append(frame, text...))
	return err
}

// readFrame reads one frame; io.EOF is an end between frames. It takes no more
// memory than was sent.
func readFrame(r io.Reader) (message, error) {
	var head [4]byte
	var m message
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return m, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > maxFrame {
		return m, fmt.Errorf("a frame says that it has %d bytes", n)
	}
	var text bytes.Buffer
	if _, err := io.CopyN(&text, r, int64(n)); err != nil {
		if err == io.EOF { //nolint:errorlint // io.CopyN gives it as it is
			err = io.ErrUnexpectedEOF
		}
		return m, err
	}
	if err := json.Unmarshal(text.Bytes(), &m); err != nil {
		// The text of the error may have some of the content, and that a secret.
		return m, fmt.Errorf("a frame of %d bytes is no message", n)
	}
	return m, nil
}
