package segment_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/engine/zdb/segment"
)

func TestDropEmptyPairs(t *testing.T) {
	t.Parallel()
	const empty, full = segment.IndexHeaderSize, segment.IndexHeaderSize + segment.SeqSlotSize
	const bare, some = segment.DataHeaderSize, segment.DataHeaderSize + 100
	for _, c := range []struct {
		name        string
		index, data map[int]int // sizes
		left        []int       // index files
		dropped     int
	}{
		{"nothing", nil, nil, nil, 0},
		{"only one, empty", map[int]int{0: empty}, map[int]int{0: bare}, []int{0}, 0},
		{"only one, full", map[int]int{0: full}, map[int]int{0: some}, []int{0}, 0},
		{"one behind a full one", map[int]int{0: full, 1: empty}, map[int]int{0: some, 1: bare}, []int{0}, 1},
		{"a header cut short", map[int]int{0: full, 1: 3}, map[int]int{0: some}, []int{0}, 1},
		{"two behind a full one", map[int]int{0: full, 1: empty, 2: empty}, map[int]int{0: some, 1: bare, 2: bare}, []int{0}, 2},
		{"all empty", map[int]int{0: empty, 1: empty}, map[int]int{0: bare, 1: bare}, []int{0}, 1},
		{"the older data file is not here", map[int]int{0: full, 1: empty}, map[int]int{1: bare}, []int{0, 1}, 0},
		{"a gap", map[int]int{0: full, 2: empty}, map[int]int{0: some, 2: bare}, []int{0, 2}, 0},
		{"its index was lost, its data not", map[int]int{0: full, 1: empty}, map[int]int{0: some, 1: some}, []int{0, 1}, 0},
		{"full at the end", map[int]int{0: empty, 1: full}, map[int]int{0: bare, 1: some}, []int{0, 1}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			index, data := filepath.Join(root, "index", "ns"), filepath.Join(root, "data", "ns")
			for dir, sizes := range map[string]map[int]int{index: c.index, data: c.data} {
				require.NoError(t, os.MkdirAll(dir, 0o700))
				for id, n := range sizes {
					require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%c%d", filepath.Base(filepath.Dir(dir))[0], id)), make([]byte, n), 0o600))
				}
			}
			require.NoError(t, os.WriteFile(filepath.Join(index, segment.DescriptorName), []byte("x"), 0o600))
			require.NoError(t, segment.DropAllEmptyPairs(filepath.Join(root, "index"), filepath.Join(root, "data")))
			var left []int
			for id := range 5 {
				if _, err := os.Stat(filepath.Join(index, segment.IndexName(uint32(id)))); err == nil {
					left = append(left, id)
				}
			}
			assert.Equal(t, c.left, left)
			for id, n := range c.data {
				_, err := os.Stat(filepath.Join(data, segment.DataName(uint32(id))))
				if n == some {
					assert.NoError(t, err, "data is never removed")
				}
			}
			again, err := segment.DropEmptyPairs(index, data)
			require.NoError(t, err)
			assert.Zero(t, again)
		})
	}
	dropped, err := segment.DropEmptyPairs(filepath.Join(t.TempDir(), "none"), t.TempDir())
	require.NoError(t, err)
	assert.Zero(t, dropped)
}
