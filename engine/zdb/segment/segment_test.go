package segment_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/engine/zdb/segment"
)

// Files below fixtures were written by 0-db 2.0.7.
const fixtures = "../server/testdata/dirs"

func read(t testing.TB, parts ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{fixtures}, parts...)...))
	require.NoError(t, err)
	return b
}

func TestChecksum(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]uint32{"": 0, "world": 0x74d8f77b, "1": 0xc288cab2} {
		require.Equal(t, want, segment.Checksum([]byte(text)), text)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]int64{
		"d0": 0, "d17": 17, "d4294967295": 1<<32 - 1,
		"d": -1, "d01": -1, "d-1": -1, "d+1": -1, "d4294967296": -1, "i1": -1, "d1x": -1, "": -1,
	} {
		id, ok := segment.ParseName('d', name)
		require.Equal(t, want >= 0, ok, name)
		if ok {
			require.EqualValues(t, want, id)
			require.Equal(t, name, segment.DataName(id))
		}
	}
}

// TestFixtures decodes and encodes again every byte of the recorded files.
func TestFixtures(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"user-small", "seq-small"} {
		for id := range uint32(3) {
			checkData(t, id, read(t, dir, "data/default", segment.DataName(id)))
			checkIndex(t, id, read(t, dir, "index/default", segment.IndexName(id)), dir == "seq-small")
		}
	}
	for name, want := range map[string]segment.Descriptor{
		"alpha": {Name: "alpha", Password: "secret1"},
		"beta":  {Name: "beta", Password: "longer-password-2", Public: true, Worm: true},
		"delta": {Name: "delta", Public: true},
	} {
		b := read(t, "namespaces/index", name, segment.DescriptorName)
		d, err := segment.DecodeDescriptor(b)
		require.NoError(t, err)
		require.Equal(t, want, d)
		require.True(t, bytes.HasPrefix(b, d.Append(nil)))
	}
}

func checkData(t *testing.T, id uint32, b []byte) {
	got, err := segment.DecodeDataHeader(b)
	require.NoError(t, err)
	require.Equal(t, id, got)
	again := segment.AppendDataHeader(nil, id)
	w := segment.NewWalker(bytes.NewReader(b[segment.DataHeaderSize:]), segment.DataHeaderSize)
	for {
		at := w.Offset()
		e, err := w.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		again = e.Append(again)
		again = append(again, b[at+segment.DataEntrySize+int64(len(e.Key)):w.Offset()]...)
	}
	require.Equal(t, hex.EncodeToString(b), hex.EncodeToString(again))
}

func checkIndex(t *testing.T, id uint32, b []byte, seq bool) {
	got, mode, err := segment.DecodeIndexHeader(b)
	require.NoError(t, err)
	require.Equal(t, id, got)
	require.Equal(t, seq, mode == segment.Sequential)
	again := segment.AppendIndexHeader(nil, id, mode)
	for rest := b[len(again):]; len(rest) > 0; {
		e, err := segment.DecodeIndexEntry(rest)
		require.NoError(t, err)
		again = e.Append(again)
		rest = rest[e.Size():]
	}
	require.Equal(t, hex.EncodeToString(b), hex.EncodeToString(again))
}

func TestWalkerStopsAtDamage(t *testing.T) {
	t.Parallel()
	e := segment.DataEntry{Key: []byte("key"), Length: 200_000, Timestamp: 1}
	payload := bytes.Repeat([]byte{7}, 200_000)
	e.CRC = segment.Checksum(payload)
	whole := append(e.Append(nil), payload...)
	two := append(bytes.Clone(whole), whole...)
	for name, c := range map[string]struct {
		b   []byte
		end int64
	}{
		"zeros behind":    {append(bytes.Clone(two), make([]byte, 100)...), int64(len(two))},
		"cut in a head":   {two[:len(whole)+10], int64(len(whole))},
		"cut in a key":    {two[:len(whole)+19], int64(len(whole))},
		"cut in payload":  {two[:len(two)-1], int64(len(whole))},
		"payload flipped": {append(bytes.Clone(two[:len(two)-1]), 8), int64(len(whole))},
	} {
		w := segment.NewWalker(bytes.NewReader(c.b), 1000)
		var err error
		for err == nil {
			_, err = w.Next()
		}
		require.ErrorIs(t, err, segment.ErrFormat, name)
		require.Equal(t, 1000+c.end, w.Offset(), name)
	}
}

func FuzzDataEntry(f *testing.F) {
	f.Add(read(f, "user-small/data/default/d0")[segment.DataHeaderSize:])
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := segment.DecodeDataEntry(b)
		if err != nil {
			require.ErrorIs(t, err, segment.ErrFormat)
			return
		}
		require.True(t, bytes.HasPrefix(b, e.Append(nil)))
	})
}

func FuzzIndexEntry(f *testing.F) {
	f.Add(read(f, "seq-small/index/default/i0")[segment.IndexHeaderSize:])
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := segment.DecodeIndexEntry(b)
		if err != nil {
			require.ErrorIs(t, err, segment.ErrFormat)
			return
		}
		require.True(t, bytes.HasPrefix(b, e.Append(nil)))
	})
}

func FuzzDescriptor(f *testing.F) {
	f.Add(read(f, "namespaces/index/beta", segment.DescriptorName))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := segment.DecodeDescriptor(b)
		if err != nil {
			require.ErrorIs(t, err, segment.ErrFormat)
			return
		}
		again, err := segment.DecodeDescriptor(d.Append(nil))
		require.NoError(t, err)
		require.Equal(t, d, again)
	})
}

func FuzzHeaders(f *testing.F) {
	f.Add(segment.AppendDataHeader(nil, 3))
	f.Add(segment.AppendIndexHeader(nil, 3, segment.Sequential))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, err := segment.DecodeDataHeader(b); err == nil {
			again, err := segment.DecodeDataHeader(segment.AppendDataHeader(nil, id))
			require.NoError(t, err)
			require.Equal(t, id, again)
		}
		if id, m, err := segment.DecodeIndexHeader(b); err == nil {
			again, n, err := segment.DecodeIndexHeader(segment.AppendIndexHeader(nil, id, m))
			require.NoError(t, err)
			require.Equal(t, id, again)
			require.Equal(t, m, n)
		}
	})
}

func FuzzWalker(f *testing.F) {
	f.Add(read(f, "user-small/data/default/d1")[segment.DataHeaderSize:])
	f.Fuzz(func(t *testing.T, b []byte) {
		w := segment.NewWalker(bytes.NewReader(b), 0)
		for {
			before := w.Offset()
			if _, err := w.Next(); err != nil {
				require.Equal(t, before, w.Offset())
				return
			}
			require.LessOrEqual(t, w.Offset(), int64(len(b)))
		}
	})
}

func BenchmarkChecksum128KiB(b *testing.B) {
	p := make([]byte, 128<<10)
	for i := range p {
		p[i] = byte(rand.Uint32())
	}
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		segment.Checksum(p)
	}
}
