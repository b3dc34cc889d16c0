package server

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/hooks"
)

// filled is a namespace with n entries, some updated and some deleted.
func filled(t testing.TB, o Options, n int) *Namespace {
	t.Helper()
	dir := t.TempDir()
	o.DataDir, o.IndexDir, o.Mode = filepath.Join(dir, "data"), filepath.Join(dir, "index"), Sequential
	s, err := Open(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	ns, err := s.CreateNamespace(t.Context(), "n", NamespaceOptions{Mode: Sequential})
	require.NoError(t, err)
	for i := range n {
		k, err := ns.Set(t.Context(), nil, bytes.Repeat([]byte{byte(i), 1}, 50))
		require.NoError(t, err)
		switch i % 7 {
		case 3:
			_, err = ns.Set(t.Context(), k, bytes.Repeat([]byte{byte(i), 2}, 60))
		case 5:
			err = ns.Delete(t.Context(), k)
		}
		require.NoError(t, err)
	}
	_, err = ns.Jump(t.Context())
	require.NoError(t, err)
	return ns
}

// Every bit of a live entry that says where its payload is and what it is is
// compared with the data file; and what is put right is put right exactly.
func TestBadSlots(t *testing.T) {
	t.Parallel()
	ns := filled(t, Options{DataSize: MinDataSize}, 60)
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	require.NoError(t, ns.CopyIndex(t.Context(), 0, good))
	bad, err := ns.BadSlots(t.Context(), 0, good)
	require.NoError(t, err)
	require.Empty(t, bad)
	text, err := os.ReadFile(good)
	require.NoError(t, err)
	slot := uint32(0) // the first entry: never changed
	found := 0
	for at := range segment.SeqSlotSize {
		field := at >= 1 && at < 9 || at == 0 || at >= 14 && at < 18 || at >= 22 && at < 26 || at >= 34
		if !field { // previous, flags, time, parent: nothing else says what they should be
			continue
		}
		for bit := range 8 {
			rotten := bytes.Clone(text)
			rotten[segment.SlotOffset(slot)+int64(at)] ^= 1 << bit
			copied := filepath.Join(dir, "copy")
			require.NoError(t, os.WriteFile(copied, rotten, 0o600))
			bad, err := ns.BadSlots(t.Context(), 0, copied)
			require.NoError(t, err)
			require.Equal(t, []uint32{slot}, bad, "byte %d, bit %d", at, bit)
			n, err := ns.MendCopy(t.Context(), 0, copied, good, bad)
			require.NoError(t, err)
			require.Equal(t, 1, n)
			mended, err := os.ReadFile(copied)
			require.NoError(t, err)
			require.Equal(t, text, mended)
			found++
		}
	}
	require.Greater(t, found, 100)
}

func TestMendIndex(t *testing.T) {
	t.Parallel()
	ns := filled(t, Options{DataSize: MinDataSize}, 60)
	require.NoError(t, ns.Checkpoint(t.Context()))
	good := filepath.Join(t.TempDir(), "good")
	require.NoError(t, ns.CopyIndex(t.Context(), 0, good))
	text, err := os.ReadFile(good)
	require.NoError(t, err)
	rot := func() {
		f, err := os.OpenFile(ns.IndexPath(0), os.O_RDWR, 0)
		require.NoError(t, err)
		_, err = f.WriteAt([]byte{0xff, 0xff}, segment.SlotOffset(1)+1)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	rot()
	_, err = ns.MendIndex(t.Context(), 0, good, nil)
	require.ErrorIs(t, err, ErrChanged, "its updates are not stored yet")
	ns.ResetDirty(ns.DirtyIndexes())
	n, err := ns.MendIndex(t.Context(), 0, good, nil)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	now, err := os.ReadFile(ns.IndexPath(0))
	require.NoError(t, err)
	assert.Equal(t, text, now)
	got, err := ns.Get(t.Context(), segment.SeqKey(1))
	require.NoError(t, err)
	assert.Equal(t, bytes.Repeat([]byte{1, 1}, 50), got)

	// Entry by entry, also in a file that changes.
	rot()
	require.NoError(t, ns.Delete(t.Context(), segment.SeqKey(2)))
	n, err = ns.MendIndex(t.Context(), 0, good, []uint32{0, 1, 2})
	require.NoError(t, err)
	assert.Equal(t, 1, n, "entries that fit stay as they are")
	_, err = ns.Get(t.Context(), segment.SeqKey(1))
	require.NoError(t, err)
	_, err = ns.Get(t.Context(), segment.SeqKey(2))
	require.Error(t, err, "what was deleted meanwhile stays deleted")
}

// A payload that does not match its checksum has the file mended once, however many
// read it, and is read again.
func TestMendOnRead(t *testing.T) {
	t.Parallel()
	var ns *Namespace
	var pristine []byte
	asked := make(chan string, 100)
	ns = filled(t, Options{DataSize: MinDataSize, Hooks: hooks.HandlerFunc(func(context.Context, hooks.Event) error { return nil }),
		Mend: func(_ context.Context, path string, cause error) error {
			asked <- path
			if err := os.WriteFile(path+".good", pristine, 0o600); err != nil {
				return err
			}
			if err := os.Rename(path+".good", path); err != nil {
				return err
			}
			ns.ForgetData(0)
			return nil
		}}, 60)
	var err error
	pristine, err = os.ReadFile(ns.DataPath(0))
	require.NoError(t, err)
	rotten := bytes.Clone(pristine)
	for i := 40; i < len(rotten); i += 10 {
		rotten[i] ^= 1
	}
	require.NoError(t, os.WriteFile(ns.DataPath(0), rotten, 0o600))
	got, err := ns.Get(t.Context(), segment.SeqKey(0))
	require.NoError(t, err)
	assert.Equal(t, bytes.Repeat([]byte{0, 1}, 50), got)
	require.Equal(t, ns.DataPath(0), <-asked)

	// What cannot be mended stays an error.
	pristine = rotten
	require.NoError(t, os.WriteFile(ns.DataPath(0), rotten, 0o600))
	_, err = ns.Get(t.Context(), segment.SeqKey(0))
	require.ErrorIs(t, err, ErrDamaged)
	assert.Len(t, asked, 1, "tried once")
}

func BenchmarkBadSlots(b *testing.B) {
	ns := filled(b, Options{DataSize: 64 << 20}, 200_000)
	good := filepath.Join(b.TempDir(), "good")
	require.NoError(b, ns.CopyIndex(b.Context(), 0, good))
	for b.Loop() {
		bad, err := ns.BadSlots(b.Context(), 0, good)
		require.NoError(b, err)
		require.Empty(b, bad)
	}
}
