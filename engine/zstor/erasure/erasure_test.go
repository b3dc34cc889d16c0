package erasure

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/reedsolomon"
	"github.com/stretchr/testify/require"
)

func randomBytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed)}).Read(b)
	return b
}

func TestShapes(t *testing.T) {
	t.Parallel()
	for _, bad := range [][2]int{{0, 1}, {1, 1}, {3, 2}, {-1, 4}, {2, 257}} {
		_, err := New(bad[0], bad[1])
		require.Error(t, err, "%v", bad)
	}
	for _, good := range [][2]int{{1, 2}, {2, 3}, {20, 30}, {255, 256}} {
		c, err := New(good[0], good[1])
		require.NoError(t, err)
		again, err := New(good[0], good[1])
		require.NoError(t, err)
		require.Same(t, c, again)
	}
}

// Every choice of k shards restores every length around a multiple of k, and each
// parity shard computed alone is that of the library's encoder without options.
func TestEveryChoiceOfShards(t *testing.T) {
	t.Parallel()
	for _, shape := range [][2]int{{1, 2}, {1, 3}, {2, 3}, {2, 4}, {3, 5}, {5, 8}} {
		k, n := shape[0], shape[1]
		c, err := New(k, n)
		require.NoError(t, err)
		plainRS, err := reedsolomon.New(k, n-k)
		require.NoError(t, err)
		for size := range 3*k + 2 {
			value := randomBytes(uint64(size), size)
			shards, err := c.Split(value)
			require.NoError(t, err)
			ok, err := plainRS.Verify(shards)
			require.NoError(t, err)
			require.True(t, ok)
			require.Len(t, shards[0], c.ShardLen(size))
			for p := k; p < n; p++ {
				out := make([]byte, len(shards[p]))
				require.NoError(t, c.Parity(p, shards[:k], out))
				require.Equal(t, shards[p], out)
			}
			for mask := range 1 << n {
				have, count := make([][]byte, n), 0
				for i := range n {
					if mask&(1<<i) != 0 {
						have[i] = shards[i]
						count++
					}
				}
				got, err := c.Join(have)
				if count < k {
					require.ErrorIs(t, err, ErrTooFew)
					continue
				}
				require.NoError(t, err)
				require.True(t, bytes.Equal(value, got))
				out := make([][]byte, k)
				for i := range out {
					out[i] = make([]byte, len(shards[i]))
				}
				require.NoError(t, c.Restore(have, out))
				for i := range out {
					if have[i] == nil {
						require.Equal(t, shards[i], out[i])
					}
				}
			}
		}
	}
}

func TestParityOfBadArguments(t *testing.T) {
	t.Parallel()
	c, err := New(2, 4)
	require.NoError(t, err)
	data := [][]byte{{1}, {2}}
	require.Error(t, c.Parity(1, data, make([]byte, 1)))
	require.Error(t, c.Parity(4, data, make([]byte, 1)))
	require.Error(t, c.Parity(2, data[:1], make([]byte, 1)))
	require.Error(t, c.Parity(2, data, make([]byte, 2)))
}

func TestPadding(t *testing.T) {
	t.Parallel()
	c, err := New(3, 5)
	require.NoError(t, err)
	for size, want := range map[int]int{0: 3, 1: 2, 2: 1, 3: 3, 4: 2} {
		padded := c.Pad(make([]byte, 16), size)
		require.Equal(t, byte(want), padded[len(padded)-1])
		require.Equal(t, size+want, len(padded))
	}
	for _, bad := range [][]byte{nil, {1}, {0, 0, 0}, {0, 0, 4}, {1, 1, 2}, {9, 9, 9}} {
		_, err := c.Unpad(bad)
		require.ErrorIs(t, err, ErrPadding, "%v", bad)
	}
}

func FuzzUnpad(f *testing.F) {
	f.Add([]byte{1, 2, 3, 3, 3, 3}, 3)
	f.Fuzz(func(t *testing.T, b []byte, k int) {
		if k < 1 || k > 255 {
			return
		}
		c, err := New(k, k+1)
		require.NoError(t, err)
		plain, err := c.Unpad(b)
		if err != nil {
			require.ErrorIs(t, err, ErrPadding)
			return
		}
		buf := append(bytes.Clone(plain), make([]byte, k)...)
		require.Equal(t, b, c.Pad(buf, len(plain)))
	})
}
