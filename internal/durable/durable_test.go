package durable

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A secret that replaces a file for all is for its owner.
func TestModeIsNotThatOfTheOlderFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	for _, mode := range []os.FileMode{0o644, 0o600, 0o755} {
		require.NoError(t, WriteFile(path, []byte("x"), mode))
		st, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, st.Mode())
	}
	list, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, list, 1, "nothing else is left")
}
