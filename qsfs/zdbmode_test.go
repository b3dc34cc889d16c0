package qsfs_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// An older zdb ran without a mode: its default namespace is in user mode, and is
// no reason not to start. An external zdb gets no mode then, for it would refuse.
func TestDefaultNamespaceInUserMode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := qsfs.LayoutBelow(dir)
	z, err := server.Open(t.Context(), server.Options{DataDir: l.DataDir(), IndexDir: l.IndexDir(), Instance: "older"})
	require.NoError(t, err)
	require.NoError(t, z.Close())

	env := testenv.New(t, testenv.Options{})
	f := env.FrontendIn(t, dir)
	f.Write(t, "a", random(3, 2<<20))
	f.MustSync(t)
	require.NoError(t, f.Stop())
	again := env.FrontendIn(t, dir)
	require.Equal(t, random(3, 2<<20), again.Read(t, "a"))
	require.NoError(t, again.Stop())

	mode := func(dir string) bool {
		cfg := env.Config.Clone()
		cfg.Engine.Zdb = config.External
		sys, err := qsfs.Open(t.Context(), cfg, qsfs.Below(dir), qsfs.WithProvisioner(env.Provisioner))
		require.NoError(t, err)
		for _, w := range sys.ExternalServices(qsfs.Programs{Zdb: "/zdb", Hook: "/hook"})[0].Exec {
			if w == "--mode" {
				return true
			}
		}
		return false
	}
	require.False(t, mode(dir))
	require.True(t, mode(t.TempDir()))
}
