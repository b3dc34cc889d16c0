package resp_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/resp"
)

func command(args ...string) string {
	b := make([][]byte, len(args))
	for i, a := range args {
		b[i] = []byte(a)
	}
	return string(resp.AppendCommand(nil, b...))
}

func TestRead(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", resp.MaxBulk)
	in := command("PING") + "*1\n$4\nPING\r\n" + command("SET", "", big) + command("GET", "\r\n$-1\x00")
	for name, src := range map[string]io.Reader{
		"whole": strings.NewReader(in), "halves": iotest.HalfReader(strings.NewReader(in)),
	} {
		r := resp.NewReader(src)
		for _, want := range [][]string{{"PING"}, {"PING"}, {"SET", "", big}, {"GET", "\r\n$-1\x00"}} {
			args, err := r.Read()
			require.NoError(t, err, name)
			require.Len(t, args, len(want))
			for i := range want {
				require.True(t, want[i] == string(args[i]))
			}
		}
		_, err := r.Read()
		require.Equal(t, io.EOF, err)
	}
}

func TestReadMalformed(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"PING\r\n":                        "Malformed request, array expected",
		"*x\r\n":                          "Malformed request, array expected",
		"*-1\r\n":                         "Malformed request, array expected",
		"*0\r\n":                          "Missing arguments",
		"*1025\r\n":                       "Too many arguments",
		"*1\r\n:4\r\n":                    "Malformed query string",
		"*1\r\n$-2\r\n":                   "Malformed query string",
		"*1\r\n$4\r\nPING--":              "Malformed query string",
		"*1\r\n$8388609\r\n":              "Payload too big",
		"*1\r\n$99999999999999999999\r\n": "Malformed query string",
		"*2\r\n$8388608\r\n" + strings.Repeat("x", 8<<20) + "\r\n$8388608\r\n": "Payload too big",
	} {
		_, err := resp.NewReader(strings.NewReader(in)).Read()
		var p *resp.ProtocolError
		require.ErrorAs(t, err, &p, "%.40q", in)
		require.Equal(t, want, p.Text, "%.40q", in)
	}
	_, err := resp.NewReader(strings.NewReader("*" + strings.Repeat("1", 9000) + "\r\n")).Read()
	require.ErrorIs(t, err, resp.ErrLineTooLong)
	whole := command("SET", "key", "value")
	for n := 1; n < len(whole); n++ {
		_, err := resp.NewReader(strings.NewReader(whole[:n])).Read()
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, n)
	}
}

// TestAnnouncedMemory: a length that is announced and not sent costs little.
func TestAnnouncedMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 100 {
		_, err := resp.NewReader(strings.NewReader("*1\r\n$8388608\r\nx")).Read()
		require.Error(t, err)
	}
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(100<<20))
}

func TestReply(t *testing.T) {
	t.Parallel()
	b := resp.AppendSimple(nil, "OK")
	b = resp.AppendError(b, "No more data")
	b = resp.AppendInt(b, -5)
	b = resp.AppendNil(b)
	b = resp.AppendArray(b, 2)
	b = resp.AppendBulk(b, "text")
	b = resp.AppendArray(b, 0)
	r := resp.NewReplyReader(bytes.NewReader(b))
	for _, want := range []resp.Reply{
		{Kind: resp.Simple, Text: []byte("OK")},
		{Kind: resp.Error, Text: []byte("No more data")},
		{Kind: resp.Int, Int: -5},
		{Kind: resp.Bulk, Nil: true},
		{Kind: resp.Array, Items: []resp.Reply{{Kind: resp.Bulk, Text: []byte("text")}, {Kind: resp.Array, Items: []resp.Reply{}}}},
	} {
		got, err := r.Read()
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := r.Read()
	require.Equal(t, io.EOF, err)
	for _, bad := range []string{"x\r\n", "$-2\r\n", "$99999999\r\n", "*99999\r\n", ":x\r\n", strings.Repeat("*1\r\n", 9), "$1\r\nxyz"} {
		_, err := resp.NewReplyReader(strings.NewReader(bad)).Read()
		require.Error(t, err, bad)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(command("SET", "key", "value") + command("PING")))
	f.Add([]byte("*1\n$4\nPING\r\n"))
	f.Add([]byte("*2\r\n$-1\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := resp.NewReader(bytes.NewReader(b))
		for {
			args, err := r.Read()
			if err != nil {
				return
			}
			if len(args) == 0 || len(args) > resp.MaxArgs {
				t.Fatalf("%d arguments", len(args))
			}
			again, err := resp.NewReader(bytes.NewReader(resp.AppendCommand(nil, args...))).Read()
			if err != nil || len(again) != len(args) {
				t.Fatal("not the identity", err)
			}
			for i := range args {
				if !bytes.Equal(args[i], again[i]) {
					t.Fatal("not the identity")
				}
			}
		}
	})
}

func FuzzReply(f *testing.F) {
	f.Add([]byte("*2\r\n$17\r\n12345678901234567\r\n*1\r\n*3\r\n$1\r\na\r\n:1\r\n:2\r\n"))
	f.Add([]byte("-No more data\r\n$-1\r\n:5\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := resp.NewReplyReader(bytes.NewReader(b))
		for {
			if _, err := r.Read(); err != nil {
				return
			}
		}
	})
}

func BenchmarkRead(b *testing.B) {
	for _, size := range []int{16, 4 << 10, 128 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			in := []byte(command("SET", "12345678", strings.Repeat("x", size)))
			b.SetBytes(int64(len(in)))
			r := resp.NewReader(&loop{in, 0})
			for b.Loop() {
				if _, err := r.Read(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

type loop struct {
	b  []byte
	at int
}

func (l *loop) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, errors.New("empty read")
	}
	n := copy(p, l.b[l.at:])
	l.at = (l.at + n) % len(l.b)
	return n, nil
}
