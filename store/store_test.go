package store

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func openTemp(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open(context.Background(), filepath.Join(t.TempDir(), "q.db"), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func item(path, version string) Item {
	return Item{Path: path, Version: version, Kind: KindData, Source: "/src/" + path, Size: 10}
}

func TestCheckpointRoundTrip(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := openTemp(t, Options{})
	items := []Item{{Path: "data/d0", Version: "1", Kind: KindData, Size: 5}, {Path: "index/i0", Version: "1", Kind: KindIndex, Size: 7}}
	files := []File{{Path: "data/d0", Version: "1", Kind: KindData, State: FilePending}, {Path: "index/i0", Version: "1", Kind: KindIndex, State: FilePending}}
	require.NoError(t, s.BeginCheckpoint(ctx, Checkpoint{Seq: 1, Epoch: 3}, items, files))
	for i := range 2 {
		require.NoError(t, s.Queue().Wait(ctx))
		l, ok, err := s.Queue().Claim(ctx, "w", time.Minute)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, items[i].Path, l.Item.Path)
		var pending *PendingError
		require.ErrorAs(t, s.CommitCheckpoint(ctx, 1), &pending)
		require.NoError(t, s.MarkStored(ctx, l.Item.Path, l.Item.Version, Stored{ObjectPath: "o", Checksum: "sum", State: FileStored}))
	}
	require.NoError(t, s.CommitCheckpoint(ctx, 1))
	require.ErrorIs(t, s.CommitCheckpoint(ctx, 1), ErrCommitted)
	require.ErrorIs(t, s.CommitCheckpoint(ctx, 2), ErrNotFound)
	c, err := s.LatestCommitted(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 3, c.Epoch)
	f, err := s.File(ctx, "index/i0")
	require.NoError(t, err)
	require.Equal(t, FileStored, f.State)
	st, err := s.Queue().Stats(ctx)
	require.NoError(t, err)
	require.Equal(t, Stats{Stored: 2}, st)
}
