package qsfs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/testenv"
)

// TestRealZstorReadsWhatWeStored takes the real zstor, with the config that we
// write for it, to the plain paths of a system's files: data and index files
// come out as they are here.
func TestRealZstorReadsWhatWeStored(t *testing.T) {
	program := os.Getenv("ZSTOR_BIN")
	if program == "" {
		t.Skip("ZSTOR_BIN names no real zstor")
	}
	env := testenv.New(t, testenv.Options{})
	f := env.Frontend(t)
	f.Write(t, "a", random(9, 3<<20))
	f.MustSync(t)
	cfg := filepath.Join(t.TempDir(), "zstor.toml")
	require.NoError(t, f.WriteZstorConfig(t.Context(), cfg))
	require.NoError(t, f.Stop())
	for _, rel := range []string{"data/zdbfs-data/d0", "data/zdbfs-meta/d0", "index/zdbfs-data/i0", "index/zdbfs-meta/i0", "index/zdbfs-meta/zdb-namespace"} {
		path := filepath.Join(f.Layout().Root, rel)
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.Remove(path))
		cmd := exec.Command(program, "--log_file", filepath.Join(t.TempDir(), "log"), "-c", cfg, "retrieve", "-f", path)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", rel, out)
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		assert.Equal(t, want, got, rel)
	}
}
