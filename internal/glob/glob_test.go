package glob

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A pattern with an escaped folder finds what is in that folder, and in no other
// that its name would fit.
func TestEscape(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, name := range []string{`a*`, `a?`, `a[b]`, `a\b`, `ab`, `plain`} {
		require.NoError(t, os.Mkdir(filepath.Join(root, name), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(root, name, "file"), nil, 0o600))
	}
	for _, name := range []string{`a*`, `a?`, `a[b]`, `a\b`, `ab`, `plain`} {
		found, err := filepath.Glob(filepath.Join(Escape(filepath.Join(root, name)), "*"))
		require.NoError(t, err)
		require.Equal(t, []string{filepath.Join(root, name, "file")}, found)
	}
}
