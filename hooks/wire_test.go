package hooks

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRequestRoundTrip(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		e := randomEvent(rnd)
		b, err := encodeRequest(e.Args())
		require.NoError(t, err)
		args, line, err := readRequest(bytes.NewReader(b))
		require.NoError(t, err)
		require.False(t, line)
		require.Equal(t, e.Args(), args)
		for _, cut := range []int{0, 3, 5, 11, len(b) - 1} { // cut off anywhere is an error
			_, _, err := readRequest(bytes.NewReader(b[:min(cut, len(b)-1)]))
			require.ErrorIs(t, err, ErrWire)
		}
	}
	// The reference's line ended at about 10,000 ids.
	ids := make([]uint32, 1_000_000)
	for i := range ids {
		ids[i] = uint32(i)
	}
	e := Event{Kind: JumpIndex, Instance: "i", Index: "i0", NextIndex: "i1", Dirty: ids}
	b, err := encodeRequest(e.Args())
	require.NoError(t, err)
	args, _, err := readRequest(bytes.NewReader(b))
	require.NoError(t, err)
	got, err := Parse(args)
	require.NoError(t, err)
	require.Equal(t, e, got)

	_, err = encodeRequest([]string{"ready", strings.Repeat("x", maxRequest)})
	require.ErrorIs(t, err, ErrWire)
}

func TestReadLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"ready tcp://x\n":                           {"ready", "tcp://x"},
		"ready\n":                                   {"ready", ""},
		"close tcp://x":                             {"close", "tcp://x"},
		"jump-index tcp://x i0 i1 1 2 3\n":          {"jump-index", "tcp://x", "i0", "i1", "1 2 3"},
		"jump-index tcp://x i0 i1 \n":               {"jump-index", "tcp://x", "i0", "i1", ""},
		"jump-index tcp://x\n":                      {"jump-index", "tcp://x"},
		"namespace-closing tcp://x ns i d 5 6\r\n":  {"namespace-closing", "tcp://x", "ns", "i", "d", "5 6"},
		"  missing-data   tcp://x  data/d0 \nready": {"missing-data", "tcp://x", "data/d0"},
	} {
		args, line, err := readRequest(strings.NewReader(text))
		require.NoError(t, err, "%q", text)
		require.True(t, line)
		require.Equal(t, want, args, "%q", text)
	}
	for _, text := range []string{"", "\n", "   \n", strings.Repeat("x", maxLine+1)} {
		_, _, err := readRequest(strings.NewReader(text))
		require.ErrorIs(t, err, ErrWire, "%.20q", text)
	}
}

func TestReadRequestRefuses(t *testing.T) {
	t.Parallel()
	message := func(words ...uint32) []byte {
		b := []byte(requestMagic)
		for _, w := range words {
			b = binary.LittleEndian.AppendUint32(b, w)
		}
		return b
	}
	for name, b := range map[string][]byte{
		"magic":              []byte("\x00XXX\x04\x00\x00\x00\x00\x00\x00\x00"),
		"too long":           message(maxRequest+1, 0),
		"no count":           message(2),
		"too many":           message(4, maxArguments+1),
		"argument too long":  message(8, 1, 0xffffffff),
		"argument cut off":   message(8, 2, 0),
		"bytes behind":       message(8, 0, 0),
		"less than it says":  message(100, 1, 50),
		"a lie about length": message(maxRequest, 1, 50),
	} {
		_, _, err := readRequest(bytes.NewReader(b))
		require.ErrorIs(t, err, ErrWire, name)
	}
}

// A length that is only claimed must not be allocated.
func TestClaimedLengthCostsNothing(t *testing.T) {
	b := binary.LittleEndian.AppendUint32([]byte(requestMagic), maxRequest)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 20 {
		_, _, err := readRequest(bytes.NewReader(b))
		require.ErrorIs(t, err, ErrWire)
	}
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(maxRequest))
}

func TestAnswerRoundTrip(t *testing.T) {
	t.Parallel()
	answer, err := readAnswer(bytes.NewReader(encodeAnswer(nil)))
	require.NoError(t, err)
	require.NoError(t, answer)
	answer, err = readAnswer(bytes.NewReader(encodeAnswer(errors.New("no\nway"))))
	require.NoError(t, err)
	var remote *RemoteError
	require.ErrorAs(t, answer, &remote)
	require.Equal(t, "no\nway", remote.Text)
	answer, err = readAnswer(bytes.NewReader(encodeAnswer(errors.New(strings.Repeat("x", 1<<20)))))
	require.NoError(t, err)
	require.Error(t, answer)
	_, err = readAnswer(strings.NewReader(answerMagic + "\x00\x00\x00\x00"))
	require.ErrorIs(t, err, ErrWire)
	_, err = readAnswer(strings.NewReader(""))
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, "ERROR: no way\n", string(encodeAnswerLine("ready", errors.New("no\nway"))))
	require.Equal(t, "SUCCESS: ready completed\n", string(encodeAnswerLine("ready", nil)))
}

func FuzzRequest(f *testing.F) {
	for _, args := range goldenArgs(f) {
		b, err := encodeRequest(args)
		require.NoError(f, err)
		f.Add(b)
		f.Add([]byte(strings.Join(args, " ") + "\n"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		args, line, err := readRequest(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, ErrWire) {
				t.Fatal(err)
			}
			return
		}
		_, _ = Parse(args) // any answer but a panic
		if line {
			return
		}
		again, err := encodeRequest(args)
		if err != nil || !bytes.HasPrefix(b, again) {
			t.Fatalf("%q became %q: %v", b, again, err)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add(encodeAnswer(nil))
	f.Add(encodeAnswer(errors.New("text")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := readAnswer(bytes.NewReader(b)); err != nil && !errors.Is(err, ErrWire) {
			t.Fatal(err)
		}
	})
}
