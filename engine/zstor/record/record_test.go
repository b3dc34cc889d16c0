package record

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/engine/zstor/seal"
)

func sample() *Record {
	ns, pw := "100-data", "secret"
	return &Record{K: 2, P: 1, Checksum: Checksum{1}, Key: seal.Key{0x2b, 0x90}, Shards: []Shard{
		{Index: 1, Checksum: Checksum{2}, Keys: [][]byte{{1, 0, 0, 0, 0, 0, 0, 0}, {2, 0, 0, 0, 0, 0, 0, 0}},
			Address: netip.MustParseAddrPort("127.0.0.1:19572"), Namespace: &ns},
		{Index: 0, Checksum: Checksum{3}, Keys: [][]byte{{9, 0, 0, 0}, {8, 0, 0, 0}},
			Address: netip.MustParseAddrPort("[::1]:19573"), Namespace: &ns, Password: &pw},
		{Index: 2, Checksum: Checksum{4}, Keys: [][]byte{{5, 0, 0, 0, 0, 0, 0, 0}, {6, 0, 0, 0, 0, 0, 0, 0}},
			Address: netip.MustParseAddrPort("192.0.2.1:1")},
	}}
}

// decodeIndependently reads the format from its description, with nothing of the
// package, and gives offsets of the fields that a table of the format names.
func decodeIndependently(t *testing.T, b []byte) (fields []any) {
	t.Helper()
	u64 := func() uint64 { v := binary.LittleEndian.Uint64(b); b = b[8:]; return v }
	u32 := func() uint32 { v := binary.LittleEndian.Uint32(b); b = b[4:]; return v }
	raw := func(n uint64) string { v := string(b[:n]); b = b[n:]; return v }
	option := func() any {
		if raw(1) == "\x00" {
			return nil
		}
		return raw(u64())
	}
	fields = append(fields, u64(), u64(), raw(16), u32(), raw(u64()), u32())
	n := u64()
	fields = append(fields, n)
	for range n {
		fields = append(fields, u64(), raw(16))
		keys := u64()
		for range keys {
			if u32() == 0 {
				fields = append(fields, u32())
			} else {
				fields = append(fields, u64())
			}
		}
		if u32() == 0 {
			fields = append(fields, raw(4))
		} else {
			fields = append(fields, raw(16))
		}
		fields = append(fields, binary.LittleEndian.Uint16(b))
		b = b[2:]
		fields = append(fields, option(), option())
	}
	require.Empty(t, b)
	return fields
}

func TestRecordIsWhatTheFormatSays(t *testing.T) {
	t.Parallel()
	b, err := sample().Encode()
	require.NoError(t, err)
	sum := func(x byte) string { return string(append([]byte{x}, make([]byte, 15)...)) }
	require.Equal(t, []any{
		uint64(2), uint64(1), sum(1), uint32(0), seal.Key{0x2b, 0x90}.Hex(), uint32(0), uint64(3),
		uint64(1), sum(2), uint64(1), uint64(2), "\x7f\x00\x00\x01", uint16(19572), "100-data", nil,
		uint64(0), sum(3), uint32(9), uint32(8), string(append(make([]byte, 15), 1)), uint16(19573), "100-data", "secret",
		uint64(2), sum(4), uint64(5), uint64(6), "\xc0\x00\x02\x01", uint16(1), nil, nil,
	}, decodeIndependently(t, b))
}

func TestRecordRoundTrip(t *testing.T) {
	t.Parallel()
	r := sample()
	b, err := r.Encode()
	require.NoError(t, err)
	got, err := Parse(append(bytes.Clone(b), 1, 2, 3))
	require.NoError(t, err, "what stands behind is ignored")
	require.Equal(t, r, got)
	for i := range b {
		_, err := Parse(b[:i])
		require.ErrorIs(t, err, ErrMalformed, "cut at %d", i)
	}
}

func TestExtension(t *testing.T) {
	t.Parallel()
	r := sample()
	r.Extension = &Extension{Generation: 42, Size: 1 << 40, ShardLen: 3 << 20, CRCs: [][]uint32{{1, 2}, {3, 4}, {5, 6}}}
	b, err := r.Append(0)
	require.NoError(t, err)
	require.Zero(t, len(b)%512)
	got, err := Parse(b)
	require.NoError(t, err)
	require.Equal(t, r, got)
	plain, err := r.Encode()
	require.NoError(t, err)
	require.True(t, bytes.HasPrefix(b, plain), "the real zstor finds its record first")
	long, err := r.Append(len(b) + 77)
	require.NoError(t, err)
	require.Len(t, long, len(b)+77)

	r.Extension = &Extension{Generation: 1, Unsized: true}
	b, err = r.Append(0)
	require.NoError(t, err)
	got, err = Parse(b)
	require.NoError(t, err)
	require.Equal(t, r, got)

	// A damaged or foreign extension is no reason to refuse the record.
	for i := len(plain); i < len(plain)+40; i++ {
		bad := bytes.Clone(b)
		bad[i] ^= 0x40
		got, err := Parse(bad)
		require.NoError(t, err)
		require.Nil(t, got.Extension, "byte %d", i-len(plain))
	}
}

func TestRecordRefusesWhatItCannotHold(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Record){
		"zone":         func(r *Record) { r.Shards[0].Address = netip.MustParseAddrPort("[fe80::1%eth0]:1") },
		"no address":   func(r *Record) { r.Shards[0].Address = netip.AddrPort{} },
		"key of 5":     func(r *Record) { r.Shards[0].Keys[0] = make([]byte, 5) },
		"key of bytes": func(r *Record) { r.Shards[0].Keys[0] = nil },
	} {
		r := sample()
		change(r)
		_, err := r.Encode()
		require.Error(t, err, name)
	}
}

func TestParseIsStrict(t *testing.T) {
	t.Parallel()
	good, err := sample().Encode()
	require.NoError(t, err)
	for name, at := range map[string]struct {
		off int
		b   byte
	}{
		"huge k": {4, 1}, "k zero": {0, 0}, "cipher": {32, 1}, "key length": {36, 63}, "key digit": {44, 'x'},
		"compression": {108, 9}, "shard count": {118, 1}, "index over n": {120, 3}, "kind of key": {152, 2},
	} {
		bad := bytes.Clone(good)
		bad[at.off] = at.b
		_, err := Parse(bad)
		require.ErrorIs(t, err, ErrMalformed, name)
		require.NotContains(t, err.Error(), "2b90", name)
	}
}

func TestValues(t *testing.T) {
	t.Parallel()
	for size := 28; size < 60; size++ {
		sealed := bytes.Repeat([]byte{byte(size)}, size)
		values, err := Split(sealed)
		require.NoError(t, err)
		require.Len(t, values[0].Encode(), 17+(size+2-size%2)/2)
		if size%2 == 1 {
			require.Equal(t, size, SealedLenFor(len(values[0].Encode())))
		}
		for i := range values {
			for j := range values {
				v, err := ParseValue(values[i].Encode())
				require.NoError(t, err)
				w, err := ParseValue(values[j].Encode())
				require.NoError(t, err)
				got, err := Join(v, w)
				if i == j {
					require.ErrorIs(t, err, ErrMalformed)
					continue
				}
				require.NoError(t, err)
				require.Equal(t, sealed, got)
			}
		}
	}
	v, err := Split(make([]byte, 40))
	require.NoError(t, err)
	raw := v[0].Encode()
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 0x80
		_, err := ParseValue(bad)
		require.ErrorIs(t, err, ErrMalformed, "byte %d", i)
		if i <= 17 {
			_, err = ParseValue(raw[:i])
			require.ErrorIs(t, err, ErrMalformed)
		}
	}
	_, err = Split(make([]byte, 17<<20))
	require.Error(t, err)
}

func TestSum(t *testing.T) {
	t.Parallel()
	sum := Sum([]byte("Z")) // from the recorded objects
	require.Equal(t, "926214df7f2869c67f4a8a2e52d4b9da", hex.EncodeToString(sum[:]))
}

func FuzzParse(f *testing.F) {
	r := sample()
	b, _ := r.Encode()
	f.Add(b)
	r.Extension = &Extension{Generation: 42, Size: 9, ShardLen: 3, CRCs: [][]uint32{{1, 2}, {3, 4}, {5, 6}}}
	b, _ = r.Append(0)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err != nil {
			require.ErrorIs(t, err, ErrMalformed)
			return
		}
		again, err := r.Append(0)
		require.NoError(t, err)
		r2, err := Parse(again)
		require.NoError(t, err)
		require.Equal(t, r, r2)
	})
}

func FuzzParseValue(f *testing.F) {
	v, _ := Split(make([]byte, 40))
	f.Add(v[0].Encode(), v[1].Encode())
	f.Fuzz(func(t *testing.T, a, b []byte) {
		x, err := ParseValue(a)
		if err != nil {
			require.ErrorIs(t, err, ErrMalformed)
			return
		}
		require.Equal(t, a, x.Encode())
		y, err := ParseValue(b)
		if err != nil {
			return
		}
		if _, err := Join(x, y); err != nil {
			require.ErrorIs(t, err, ErrMalformed)
		}
	})
}
