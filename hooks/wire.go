package hooks

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// The wire of events over a unix socket: one request and one answer per
// connection, integers little-endian.
//
//	request  00 'Q' 'H' '1' | u32 bytes behind this | u32 arguments | per argument: u32 length, bytes
//	answer   00 'Q' 'A' '1' | u32 bytes behind this | u8 status, 0 = success | text
//
// A request that begins with any other byte is the line of the reference
// implementation: event and arguments separated by blanks, ended by a newline
// or the end of input. It is answered by one line, `SUCCESS: …` or `ERROR: …`.
const (
	requestMagic = "\x00QH1"
	answerMagic  = "\x00QA1"

	maxRequest   = 16 << 20 // bytes; a million dirty ids are 8 MiB
	maxArguments = 16
	maxLine      = 1 << 20
	maxAnswer    = 64 << 10
)

// ErrWire says that bytes on the socket are neither of the two wires, or are
// too many.
var ErrWire = errors.New("hooks: malformed message")

func encodeRequest(args []string) ([]byte, error) {
	body, err := encodeArgs(args)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, len(requestMagic)+4+len(body))
	b = append(b, requestMagic...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
	return append(b, body...), nil
}

// encodeArgs is what decodeArgs reads: number of arguments, then length and
// bytes of each.
func encodeArgs(args []string) ([]byte, error) {
	size := 4
	for _, a := range args {
		size += 4 + len(a)
	}
	if size > maxRequest || len(args) > maxArguments {
		return nil, fmt.Errorf("%w: %d bytes in %d arguments, at most %d in %d", ErrWire, size, len(args), maxRequest, maxArguments)
	}
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, size), uint32(len(args)))
	for _, a := range args {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(a)))
		b = append(b, a...)
	}
	return b, nil
}

// readRequest reads either wire; line tells which one, for the answer.
func readRequest(r io.Reader) (args []string, line bool, err error) {
	br := bufio.NewReader(r)
	first, err := br.Peek(1)
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrWire, err)
	}
	if first[0] != requestMagic[0] {
		args, err = readLine(br)
		return args, true, err
	}
	body, err := readBody(br, requestMagic, maxRequest)
	if err != nil {
		return nil, false, err
	}
	args, err = decodeArgs(body)
	return args, false, err
}

// readBody reads magic, length and as many bytes. Memory grows with the bytes
// that arrive, not with the length that is claimed.
func readBody(r io.Reader, magic string, limit uint32) ([]byte, error) {
	head := make([]byte, len(magic)+4)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWire, err)
	}
	if string(head[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w: magic %q", ErrWire, head[:len(magic)])
	}
	n := binary.LittleEndian.Uint32(head[len(magic):])
	if n > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrWire, n, limit)
	}
	var body bytes.Buffer
	if _, err := io.CopyN(&body, r, int64(n)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWire, err)
	}
	return body.Bytes(), nil
}

func decodeArgs(b []byte) ([]string, error) {
	next := func() (uint32, bool) {
		if len(b) < 4 {
			return 0, false
		}
		n := binary.LittleEndian.Uint32(b)
		b = b[4:]
		return n, true
	}
	count, ok := next()
	if !ok || count > maxArguments {
		return nil, fmt.Errorf("%w: %d arguments, at most %d", ErrWire, count, maxArguments)
	}
	args := make([]string, 0, count)
	for range count {
		n, ok := next()
		if !ok || uint64(n) > uint64(len(b)) {
			return nil, fmt.Errorf("%w: an argument is cut off", ErrWire)
		}
		args = append(args, string(b[:n]))
		b = b[n:]
	}
	if len(b) > 0 {
		return nil, fmt.Errorf("%w: %d bytes behind the last argument", ErrWire, len(b))
	}
	return args, nil
}

// readLine reads the reference's line. Its blanks between arguments and inside
// the dirty list are the same, so the list is put together again.
func readLine(br *bufio.Reader) ([]string, error) {
	text, err := bufio.NewReader(io.LimitReader(br, maxLine+1)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %w", ErrWire, err)
	}
	if len(text) > maxLine {
		return nil, fmt.Errorf("%w: a line of more than %d bytes", ErrWire, maxLine)
	}
	words := strings.Fields(text)
	if len(words) == 0 {
		return nil, fmt.Errorf("%w: an empty line", ErrWire)
	}
	if len(words) == 1 { // `ready` without an instance
		words = append(words, "")
	}
	fixed := map[Kind]int{JumpIndex: 4, NamespaceClosing: 5}[Kind(words[0])] // words before the dirty list
	if fixed > 0 && len(words) >= fixed {
		return append(slices.Clone(words[:fixed]), strings.Join(words[fixed:], " ")), nil
	}
	return words, nil
}

func encodeAnswer(problem error) []byte {
	text, status := "", byte(0)
	if problem != nil {
		text, status = problem.Error(), 1
	}
	text = text[:min(len(text), maxAnswer-1)]
	b := []byte(answerMagic)
	b = binary.LittleEndian.AppendUint32(b, uint32(1+len(text)))
	return append(append(b, status), text...)
}

func encodeAnswerLine(event string, problem error) []byte {
	if problem == nil {
		return fmt.Appendf(nil, "SUCCESS: %s completed\n", oneLine(event))
	}
	return fmt.Appendf(nil, "ERROR: %s\n", oneLine(problem.Error()))
}

func oneLine(s string) string {
	s = s[:min(len(s), maxAnswer-16)]
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, s)
}

// readAnswer gives what the listener's handler returned: nil, or a
// [*RemoteError]. A second error says that there was no answer.
func readAnswer(r io.Reader) (answer, err error) {
	body, err := readBody(r, answerMagic, maxAnswer)
	if err != nil {
		return nil, err
	}
	if len(body) == 0 {
		return nil, fmt.Errorf("%w: an empty answer", ErrWire)
	}
	if body[0] == 0 {
		return nil, nil
	}
	return &RemoteError{Text: strings.ToValidUTF8(string(body[1:]), "?")}, nil
}

// RemoteError is an error of the handler at the other end.
type RemoteError struct{ Text string }

func (e *RemoteError) Error() string { return "the daemon answered: " + e.Text }
