package tree

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func unhex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	require.NoError(t, err)
	return b
}

// The records are those that zdbfs 0.1.11 wrote.
func TestGoldenRecords(t *testing.T) {
	t.Parallel()
	require.Equal(t, unhex(t, "5a44 4246 534d 0100 0000 0000 0000 0000 0000 0080 0200 0000"), encodeHeader(magicMeta, defaultSize))

	file := unhex(t, `a4810000 01000000 00000000 00000000 00000000 64000000 00000000 02000000
		baf6036b baf6036b baf6036b 01000000 00000000 01000000`)
	r, err := decodeInode(file)
	require.NoError(t, err)
	require.EqualValues(t, 0o100644, r.mode)
	require.EqualValues(t, 100, r.size)
	require.EqualValues(t, 2, r.links)
	require.Equal(t, []uint32{1}, r.blocks)
	file[4] = 0 // the flag that is ignored
	require.Equal(t, file, r.encode())

	link := unhex(t, `ffa10000 01000000 00000000 00000000 00000000 0c000000 00000000 01000000
		baf6036b baf6036b baf6036b 74617267 65742f70 617468 00 42`)
	r, err = decodeInode(link)
	require.NoError(t, err)
	require.Equal(t, "target/path", r.target)

	bucket := unhex(t, "23000000 00000000 01000000 209c5ea5 0600 1a00000000000000 737061727365 00")
	entries, sorted, err := decodeBucket(bucket)
	require.NoError(t, err)
	require.True(t, sorted)
	require.Equal(t, []dirent{{"sparse", 26}}, entries)
	clear(bucket[12:16]) // garbage
	require.Equal(t, bucket, encodeBucket(35, entries))

	require.Equal(t, 46, slotOf("."))
	require.Equal(t, 92, slotOf(".."))
	dir := rawInode{mode: typeDir | 0o755, buckets: new([slotCount]uint64)}
	dir.buckets[46] = 2
	b := dir.encode()
	require.Len(t, b, 1068)
	require.Equal(t, bytes.Repeat([]byte{0x42}, 8), b[44:52])
	require.Equal(t, byte(2), b[slotOffset(46)])
}

func TestPlaceholders(t *testing.T) {
	t.Parallel()
	entries, _, err := decodeBucket([]byte("L"))
	require.NoError(t, err)
	require.Empty(t, entries)
	_, err = decodeInode([]byte("X"))
	require.ErrorIs(t, err, errFormat)
}

func FuzzInode(f *testing.F) {
	f.Add((&rawInode{mode: typeReg, blocks: []uint32{1, 0, 3}}).encode())
	f.Add((&rawInode{mode: typeLnk, target: "x"}).encode())
	f.Add((&rawInode{mode: typeDir, buckets: new([slotCount]uint64)}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeInode(b)
		if err != nil {
			require.ErrorIs(t, err, errFormat)
			return
		}
		again, err := decodeInode(r.encode())
		require.NoError(t, err)
		require.Equal(t, r, again)
		n := &inode{ino: 5}
		n.fill(&r)
		n.attr()
	})
}

func FuzzBucket(f *testing.F) {
	f.Add(encodeBucket(7, []dirent{{"a", 1}, {"b", 2}}))
	f.Add([]byte("L"))
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, _, err := decodeBucket(b)
		if err != nil {
			require.ErrorIs(t, err, errFormat)
			return
		}
		again, sorted, err := decodeBucket(encodeBucket(7, entries))
		require.NoError(t, err)
		require.True(t, sorted)
		require.Equal(t, len(entries), len(again))
	})
}

func FuzzExtension(f *testing.F) {
	f.Add((&extension{owner: 5, xattrs: map[string][]byte{"user.a": []byte("b")}}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeExtension(b)
		if err != nil {
			require.ErrorIs(t, err, errFormat)
			return
		}
		again, err := decodeExtension(e.encode())
		require.NoError(t, err)
		require.Equal(t, e, again)
	})
}

func FuzzJournal(f *testing.F) {
	j := journal{orphans: []uint64{1}, frees: []uint32{2}, redo: []redo{{3, []byte("x")}}}
	f.Add(encodeJournal(4, j.payload(), nil))
	f.Add(encodeJournal(4, j.payload(), []uint64{5}))
	f.Fuzz(func(t *testing.T, b []byte) {
		chunk := j.payload()
		got, _, err := decodeJournal(b, func(uint64) ([]byte, error) { return chunk, nil })
		if err != nil {
			require.ErrorIs(t, err, errFormat)
			return
		}
		again, _, err := decodeJournal(encodeJournal(got.rootExt, got.payload(), nil), nil)
		require.NoError(t, err)
		require.Equal(t, len(got.redo), len(again.redo))
		require.Equal(t, got.orphans, again.orphans)
	})
}
