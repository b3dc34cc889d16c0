package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/qsfs/durability"
)

// The plan says the sizes that a deploy rents.
func TestPlanHasTheSizesOfDeploy(t *testing.T) {
	t.Parallel()
	for k := 1; k < 40; k++ {
		for _, total := range []int64{1, 1 << 30, 1<<40 - 1, 1 << 40, 1<<40 + 1, 7 << 43} {
			for n := k; n < k+8; n++ {
				require.Equal(t, grid.DataSize(total, k), durability.BackendSize(total, k, n, n, grid.GiB), "%d bytes in %d of %d", total, k, n)
			}
		}
	}
}
