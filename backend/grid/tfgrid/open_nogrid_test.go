//go:build nogrid

package tfgrid

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend/grid"
)

func TestNotThere(t *testing.T) {
	t.Parallel()
	_, err := Open(t.Context(), Options{})
	var known *grid.Error
	require.ErrorAs(t, err, &known)
	require.Contains(t, known.Error(), "nogrid")
	require.Contains(t, known.Hint(), "make build")
}
