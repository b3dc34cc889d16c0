package server

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What is told of one file is what Files tells of all, whatever happened.
func TestPairsAgreeWithFiles(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	o := Options{DataDir: t.TempDir(), IndexDir: t.TempDir(), Mode: Sequential, DataSize: MinDataSize, SyncEvery: -1}
	s, err := Open(ctx, o)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	n, err := s.CreateNamespace(ctx, "data", NamespaceOptions{})
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(1, 2))
	check := func() {
		files, err := n.Files()
		require.NoError(t, err)
		pairs, err := n.Pairs()
		require.NoError(t, err)
		require.Equal(t, []any{files.Mode, files.Slots, files.HasOpen, len(files.Data)}, []any{pairs.Mode, pairs.Slots, pairs.HasOpen, int(pairs.Count)})
		if files.HasOpen {
			require.Equal(t, files.Open, pairs.Open)
			require.Equal(t, files.Data[files.Open].Length, pairs.OpenLength)
		}
		for id := range pairs.Count {
			d, err := n.DataFile(id)
			require.NoError(t, err)
			require.Equal(t, files.Data[id], d)
			i, ok := n.IndexFile(id)
			require.True(t, ok)
			require.Equal(t, files.Index[id], i)
		}
		_, ok := n.IndexFile(pairs.Count)
		require.False(t, ok)
		d, err := n.DataFile(pairs.Count)
		require.NoError(t, err)
		require.False(t, d.Present)
	}
	for range 40 {
		switch r.IntN(5) {
		case 0:
			_, err = n.Jump(ctx)
		case 1:
			if pairs, perr := n.Pairs(); perr == nil && pairs.Count > 1 {
				if id := r.Uint32N(pairs.Count); !pairs.HasOpen || id != pairs.Open {
					_, _ = n.DropData(id) // it may be gone already
				}
			}
		case 2:
			require.NoError(t, s.Close())
			if s, err = Open(ctx, o); err == nil {
				n, _ = s.Namespace("data")
			}
		default:
			_, err = n.Set(ctx, nil, make([]byte, r.IntN(200_000)))
		}
		require.NoError(t, err)
		check()
	}
}

func TestLastRead(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s, err := Open(ctx, Options{DataDir: t.TempDir(), IndexDir: t.TempDir(), Mode: Sequential})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	n, err := s.CreateNamespace(ctx, "data", NamespaceOptions{})
	require.NoError(t, err)
	var keys [][]byte
	for range 3 {
		k, err := n.Set(ctx, nil, []byte("x"))
		require.NoError(t, err)
		keys = append(keys, k)
		_, err = n.Jump(ctx)
		require.NoError(t, err)
	}
	require.NoError(t, n.Reload(ctx))
	require.Zero(t, n.LastRead(1), "not since then")
	before := time.Now().Add(-2 * time.Second)
	_, err = n.Get(ctx, keys[1])
	require.NoError(t, err)
	require.True(t, n.LastRead(1).After(before))
	require.Zero(t, n.LastRead(0))
	require.Zero(t, n.LastRead(99))
}
