package mount_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/engine/zdbfs/mount"
	"github.com/threefoldtech/quantumd/engine/zdbfs/treetest"
)

// Nobody writes into a protected folder, where that can be had, and it is mounted
// on as before; in any case it is as it was in the end.
func TestProtect(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func() error { return os.WriteFile(filepath.Join(dir, "stray"), nil, 0o600) }
	done, err := mount.Protect(dir)
	require.NoError(t, err)
	t.Cleanup(func() { _ = mount.Unprotect(dir) })
	if done {
		require.Error(t, write())
		require.Error(t, os.Remove(dir))
		again, err := mount.Protect(dir)
		require.NoError(t, err)
		require.False(t, again, "it was so before")
	}
	s := startIn(t, dir, treetest.New(), treetest.New())
	require.NoError(t, write())
	require.NoError(t, mount.Unprotect(dir), "what is mounted is left alone")
	require.FileExists(t, s.path("stray"))
	s.stop(t)
	require.NoFileExists(t, s.path("stray"))
	if done {
		require.Error(t, write())
	}
	require.NoError(t, mount.Unprotect(dir))
	require.NoError(t, write())
	_, err = mount.Protect(dir)
	require.ErrorIs(t, err, mount.ErrNotEmpty)
	require.NoError(t, mount.Unprotect(filepath.Join(dir, "nowhere")))
}
