package qsfs_test

import (
	"context"
	"crypto/rand"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// replaceEnv is a set of 3+2 whose lost backends are replaced at once.
func replaceEnv(t *testing.T) (*testenv.Env, testenv.Wiring) {
	w := testenv.InProcess(t)
	env := testenv.New(t, testenv.Options{Data: 5, Shards: 5, MinShards: 3, Provisioner: w})
	env.Config.Replace.After = config.Duration(time.Second)
	env.Config.Replace.MaxPerDay = 10
	deploy(t, env)
	return env, w
}

// deploy records the first generation of the set.
func deploy(t *testing.T, env *testenv.Env) {
	sys := env.Open(t, t.TempDir())
	plan, err := sys.PlanDeploy(t.Context())
	require.NoError(t, err)
	_, err = sys.Deploy(t.Context(), plan)
	require.NoError(t, err)
}

// replaced waits until the sagas of these backends ended, and gives them.
func replaced(t *testing.T, f *testenv.Frontend, ids ...string) map[string]client.Replacement {
	t.Helper()
	out := map[string]client.Replacement{}
	require.Eventually(t, func() bool {
		st, err := f.Status(t.Context())
		require.NoError(t, err)
		for _, p := range st.Replacements {
			if p.Step == client.ReplaceDone {
				out[p.Backend] = p
			}
		}
		for _, id := range ids {
			if _, ok := out[id]; !ok {
				return false
			}
		}
		return true
	}, 60*time.Second, 50*time.Millisecond, "replacements of %v: %v", ids, out)
	return out
}

func writeSome(t *testing.T, f *testenv.Frontend, names ...string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for _, name := range names {
		data := make([]byte, 700_000)
		_, _ = rand.Read(data)
		files[name] = data
		f.Write(t, name, data)
	}
	return files
}

func sameFiles(t *testing.T, f *testenv.Frontend, files map[string][]byte) {
	t.Helper()
	for name, data := range files {
		require.Equal(t, data, f.Read(t, name), name)
	}
}

// A data backend and a metadata backend are lost at once, and replaced without a
// command; then two more; then the original configuration restores.
func TestReplaceLostBackends(t *testing.T) {
	t.Parallel()
	env, w := replaceEnv(t)
	f := env.Frontend(t)
	files := writeSome(t, f, "a", "b/c", "d")
	f.MustSync(t)
	w.Kill(t, "data1")
	w.Kill(t, "meta2")
	done := replaced(t, f, "data1", "meta2")
	require.Equal(t, "data5", done["data1"].Successor)
	require.Equal(t, "meta4", done["meta2"].Successor)
	require.Positive(t, done["data1"].Objects)
	require.Equal(t, done["data1"].Objects, done["data1"].Rebuilt)

	for name, data := range writeSome(t, f, "e") {
		files[name] = data
	}
	f.MustSync(t)
	// With the two others of the first set that are allowed to be away, and two
	// metadata backends, everything is still there: the rebuild was real.
	w.Kill(t, "data0")
	w.Kill(t, "meta0")
	done = replaced(t, f, "data0", "meta0")
	require.Equal(t, "data6", done["data0"].Successor)
	st, err := f.Status(t.Context())
	require.NoError(t, err)
	require.GreaterOrEqual(t, st.Generation, 5)
	require.NoError(t, f.Stop())

	// A new machine knows the first set only.
	g := env.Open(t, t.TempDir())
	_, err = g.Restore(t.Context(), qsfs.RestoreOptions{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	select {
	case <-g.Ready():
	case err := <-ended:
		require.NoError(t, err)
	}
	for name, data := range files {
		got, err := testenv.ReadFile(t.Context(), g.Tree(), name)
		require.NoError(t, err)
		require.Equal(t, data, got, name)
	}
	cancel()
	require.NoError(t, <-ended)
}
