package qsfs_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/store"
)

// What no committed checkpoint names counts as being here only.
func TestUnsynced(t *testing.T) {
	t.Parallel()
	l := qsfs.LayoutBelow(t.TempDir())
	found, err := qsfs.Unsynced(t.Context(), l)
	require.NoError(t, err)
	require.Zero(t, found.Files, "nothing is here")

	folder := filepath.Join(l.DataDir(), "zdbfs-data")
	require.NoError(t, os.MkdirAll(folder, 0o700))
	require.NoError(t, os.MkdirAll(filepath.Dir(l.Database), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "d0"), make([]byte, 100), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "d1.tmp"), make([]byte, 50), 0o600))
	found, err = qsfs.Unsynced(t.Context(), l)
	require.NoError(t, err)
	require.Equal(t, 1, found.Files, "there is no database")
	require.EqualValues(t, 100, found.Bytes)

	db, err := store.Open(t.Context(), l.Database, store.Options{})
	require.NoError(t, err)
	require.NoError(t, db.BeginCheckpoint(t.Context(), store.Checkpoint{Seq: 3, Epoch: 1}, nil, nil))
	require.NoError(t, db.CommitCheckpoint(t.Context(), 3))
	good := store.File{Path: "data/zdbfs-data/d0", Namespace: "zdbfs-data", Kind: store.KindData, Version: "1",
		Length: 100, Checksum: "c", Checkpoint: 3, State: store.FileStored}
	for _, c := range []struct {
		name   string
		change func(*store.File)
		files  int
	}{
		{"stored and named", func(*store.File) {}, 0},
		{"named by three copies", func(f *store.File) { f.State = store.FileDegraded }, 0},
		{"not stored", func(f *store.File) { f.State = store.FilePending }, 1},
		{"damaged there", func(f *store.File) { f.State = store.FileDamaged }, 1},
		{"stored, not named", func(f *store.File) { f.Checkpoint = 0 }, 1},
		{"named by a checkpoint that is not committed", func(f *store.File) { f.Checkpoint = 4 }, 1},
		{"longer since", func(f *store.File) { f.Length = 99 }, 1},
	} {
		row := good
		c.change(&row)
		require.NoError(t, db.UpsertFiles(t.Context(), row), c.name)
		found, err := qsfs.Unsynced(t.Context(), l)
		require.NoError(t, err, c.name)
		require.Equal(t, c.files, found.Files, c.name)
	}
	require.NoError(t, db.Close())
}

// A frontend is set aside whole, each under a name of its own.
func TestSetAside(t *testing.T) {
	t.Parallel()
	l := qsfs.LayoutBelow(t.TempDir())
	to, err := qsfs.SetAside(l)
	require.NoError(t, err)
	require.Empty(t, to, "there is none")
	for _, want := range []string{l.Root + ".destroyed", l.Root + ".destroyed-2"} {
		require.NoError(t, os.MkdirAll(l.DataDir(), 0o700))
		require.NoError(t, os.MkdirAll(filepath.Dir(l.Database), 0o700))
		for _, f := range []string{filepath.Join(l.Root, "quantumd.json"), l.Database, l.Database + "-wal"} {
			require.NoError(t, os.WriteFile(f, []byte("x"), 0o600))
		}
		to, err = qsfs.SetAside(l)
		require.NoError(t, err)
		require.Equal(t, want, to)
		require.NoDirExists(t, l.Root)
		require.NoFileExists(t, l.Database)
		for _, f := range []string{"quantumd.json", "quantumd.db", "quantumd.db-wal"} {
			require.FileExists(t, filepath.Join(to, f))
		}
	}
}

// A pair that a zdb opened and never wrote holds nothing that could be lost.
func TestUnsyncedEmptyPair(t *testing.T) {
	t.Parallel()
	l := qsfs.LayoutBelow(t.TempDir())
	folder := filepath.Join(l.DataDir(), "zdbfs-data")
	require.NoError(t, os.MkdirAll(folder, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "d0"), make([]byte, segment.DataHeaderSize), 0o600))
	found, err := qsfs.Unsynced(t.Context(), l)
	require.NoError(t, err)
	require.Zero(t, found.Files)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "d0"), make([]byte, segment.DataHeaderSize+1), 0o600))
	found, err = qsfs.Unsynced(t.Context(), l)
	require.NoError(t, err)
	require.Equal(t, 1, found.Files)
}
