package qsfs_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// TestReplaceUnderLoad stores a lot (2 GB with QUANTUMD_LONG=1), loses a data and
// a metadata backend, and tells how long each step took and how much was moved,
// beside the least that has to be. Then the configuration of the first set
// restores on a new machine.
func TestReplaceUnderLoad(t *testing.T) {
	files, size := 6, 4<<20
	if os.Getenv("QUANTUMD_LONG") != "" {
		files, size = 64, 32<<20
	}
	w := testenv.Processes(t)
	env := testenv.New(t, testenv.Options{Data: 5, Shards: 5, MinShards: 3, Provisioner: w})
	env.Config.ZdbDataSize = 64 << 20
	env.Config.CacheSize = 4 << 30
	env.Config.Replace.After = config.Duration(2 * time.Second)
	deploy(t, env)
	f := env.Frontend(t)
	sums := map[string][32]byte{}
	began := time.Now()
	for i := range files {
		name, data := fmt.Sprintf("f%d", i), make([]byte, size)
		_, _ = rand.Read(data)
		sums[name] = sha256.Sum256(data)
		f.Write(t, name, data)
	}
	f.MustSync(t)
	t.Logf("%d MB stored on 5 and 4 backends in %s", files*size>>20, time.Since(began).Round(time.Millisecond))

	before, err := f.Status(t.Context())
	require.NoError(t, err)
	w.Kill(t, "data1")
	w.Kill(t, "meta2")
	killed := time.Now()
	done := waitSteps(t, f, killed, "data1", "meta2")
	after, err := f.Status(t.Context())
	require.NoError(t, err)
	p := done["data1"]
	require.Equal(t, p.Objects, p.Rebuilt)
	sent, fetched := after.Transfer.SentBytes-before.Transfer.SentBytes, after.Transfer.FetchedBytes-before.Transfer.FetchedBytes
	t.Logf("data1: %d objects, %.1f MB of shards were lost and made anew", p.Objects, mb(p.Bytes))
	t.Logf("moved: %.1f MB read (the least: 3 shards for each lost one, %.1f MB), %.1f MB written (the least: %.1f MB)", mb(fetched), 3*mb(p.Bytes), mb(sent), mb(p.Bytes))
	require.Less(t, float64(fetched), 1.1*3*float64(p.Bytes)+1e6, "no more is read than has to be")
	require.Less(t, float64(sent), 1.1*float64(p.Bytes)+1e6, "only what was lost is written")

	// Every byte, without what is here, and with two more backends away: on a new
	// machine that has only the first configuration.
	require.NoError(t, f.Stop())
	g := env.Open(t, t.TempDir())
	_, err = g.Restore(t.Context(), qsfs.RestoreOptions{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	defer func() {
		cancel()
		require.NoError(t, <-ended)
	}()
	select {
	case <-g.Ready():
	case err := <-ended:
		ended <- err
		require.NoError(t, err)
	}
	w.Kill(t, "data0")
	w.Kill(t, "data2")
	for name, sum := range sums {
		data, err := testenv.ReadFile(t.Context(), g.Tree(), name)
		require.NoError(t, err)
		require.Equal(t, sum, sha256.Sum256(data), name)
	}
}

func mb(n int64) float64 { return float64(n) / 1e6 }

// waitSteps logs when each step of each saga is first seen, until all are done.
func waitSteps(t *testing.T, f *testenv.Frontend, since time.Time, ids ...string) map[string]client.Replacement {
	t.Helper()
	seen := map[string]bool{}
	done := map[string]client.Replacement{}
	require.Eventually(t, func() bool {
		for id, p := range sagas(t, f) {
			if key := id + p.Step; !seen[key] {
				seen[key] = true
				t.Logf("%6.2f s: %s %s", p.Changed.Sub(since).Seconds(), id, p.Step)
			}
			if p.Step == client.ReplaceDone {
				done[id] = p
			}
		}
		for _, id := range ids {
			if _, ok := done[id]; !ok {
				return false
			}
		}
		return true
	}, 5*time.Minute, 10*time.Millisecond)
	return done
}
