package treetest

import (
	"bytes"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
)

// Conformance runs what a tree relies on over the records that open makes. Each
// call of open gives an empty namespace.
func Conformance(t *testing.T, open func(t *testing.T) tree.Records) {
	t.Run("first keys", func(t *testing.T) {
		r, ctx := open(t), t.Context()
		for want := range uint64(3) {
			id, err := r.Insert(ctx, []byte{byte(want)})
			require.NoError(t, err)
			require.Equal(t, want, id, "the tree needs 0 for the header and 1 for the root folder")
		}
	})
	t.Run("values", func(t *testing.T) {
		r, ctx := open(t), t.Context()
		for _, size := range []int{0, 1, 52, 1068, 128 << 10, 8 << 20} {
			want := bytes.Repeat([]byte{7}, size)
			given := bytes.Clone(want)
			id, err := r.Insert(ctx, given)
			require.NoError(t, err, "%d bytes", size)
			clear(given) // it is the caller's again
			got, err := r.Get(ctx, id)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got), "%d bytes", size)
		}
	})
	t.Run("update keeps the key", func(t *testing.T) {
		r, ctx := open(t), t.Context()
		id, err := r.Insert(ctx, []byte("old"))
		require.NoError(t, err)
		before, err := r.Get(ctx, id)
		require.NoError(t, err)
		require.NoError(t, r.Update(ctx, id, []byte("newer")))
		require.NoError(t, r.Update(ctx, id, []byte("newer")), "an equal value is success")
		got, err := r.Get(ctx, id)
		require.NoError(t, err)
		require.Equal(t, "newer", string(got))
		require.Equal(t, "old", string(before), "a value that was given stays")
		next, err := r.Insert(ctx, []byte("x"))
		require.NoError(t, err)
		require.Greater(t, next, id)
	})
	t.Run("deleted and unknown keys", func(t *testing.T) {
		r, ctx := open(t), t.Context()
		id, err := r.Insert(ctx, []byte("x"))
		require.NoError(t, err)
		require.NoError(t, r.Delete(ctx, id))
		for _, id := range []uint64{id, id + 1000, 1<<32 + 5} {
			_, err = r.Get(ctx, id)
			require.ErrorIs(t, err, backend.ErrNotFound)
			require.ErrorIs(t, r.Delete(ctx, id), backend.ErrNotFound)
			require.ErrorIs(t, r.Update(ctx, id, []byte("y")), backend.ErrNotFound)
		}
		next, err := r.Insert(ctx, []byte("z"))
		require.NoError(t, err)
		require.Greater(t, next, id, "a deleted key is not used again")
	})
	t.Run("stats", func(t *testing.T) {
		r, ctx := open(t), t.Context()
		entries, used, _ := r.Stats()
		require.Zero(t, entries)
		require.Zero(t, used)
		id, err := r.Insert(ctx, make([]byte, 100))
		require.NoError(t, err)
		_, err = r.Insert(ctx, make([]byte, 10))
		require.NoError(t, err)
		require.NoError(t, r.Update(ctx, id, make([]byte, 50)))
		entries, used, _ = r.Stats()
		require.EqualValues(t, 2, entries)
		require.EqualValues(t, 60, used)
		require.NoError(t, r.Delete(ctx, id))
		entries, used, _ = r.Stats()
		require.EqualValues(t, 1, entries)
		require.EqualValues(t, 10, used)
		require.NoError(t, r.Sync(ctx))
	})
	t.Run("concurrent use", func(t *testing.T) {
		r, ctx := open(t), t.Context()
		var mu sync.Mutex
		seen := map[uint64]bool{}
		var all sync.WaitGroup
		for w := range 8 {
			all.Go(func() {
				for i := range 100 {
					want := []byte{byte(w), byte(i)}
					id, err := r.Insert(ctx, want)
					if err == nil {
						err = r.Update(ctx, id, append(want, 1))
					}
					var got []byte
					if err == nil {
						got, err = r.Get(ctx, id)
					}
					if err != nil || !bytes.Equal(got, append(want, 1)) {
						t.Errorf("record %d: %v %v", id, got, err)
						return
					}
					mu.Lock()
					if seen[id] {
						t.Errorf("record %d was given twice", id)
					}
					seen[id] = true
					mu.Unlock()
				}
			})
		}
		all.Go(func() {
			for range 20 {
				if err := r.Sync(ctx); err != nil {
					t.Error(err)
				}
			}
		})
		all.Wait()
	})
}
