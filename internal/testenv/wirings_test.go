package testenv_test

import (
	"context"
	"crypto/sha256"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/backendtest"
	"github.com/threefoldtech/quantumd/engine/zdb"
	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs"
)

var wirings = []struct {
	name string
	make func(testing.TB) testenv.Wiring
}{
	{"InProcess", testenv.InProcess},
	{"Processes", testenv.Processes},
	{"Containers", testenv.Containers},
	{"RealZdb", testenv.RealZdb},
}

// One story, whatever runs the backends: write, sync, drop the cache, lose a
// backend, read; lose the machine, restore, read; get the backend back, write,
// lose another, read.
func TestWirings(t *testing.T) {
	for _, w := range wirings {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			wiring := w.make(t)
			story(t, wiring, testenv.New(t, testenv.Options{Provisioner: wiring}))
		})
	}
}

func story(t *testing.T, w testenv.Wiring, env *testenv.Env) {
	files := map[string][]byte{"small": []byte("hello"), "dir/large": random(1, 3<<20), "dir/sub/other": random(2, 300_000)}
	read := func(f *testenv.Frontend) {
		t.Helper()
		for name, data := range files {
			assert.Equal(t, data, f.Read(t, name), name)
		}
	}
	evict := func(f *testenv.Frontend) {
		t.Helper()
		report, err := f.Evict(t.Context(), 0)
		require.NoError(t, err)
		require.Positive(t, report.Bytes, "what is read next must come from the backends")
	}
	first := env.Frontend(t)
	for name, data := range files {
		first.Write(t, name, data)
	}
	first.MustSync(t)
	evict(first)
	w.Kill(t, "data0")
	read(first)
	require.NoError(t, first.Stop())

	dir := t.TempDir()
	report, err := env.Open(t, dir).Restore(t.Context(), qsfs.RestoreOptions{})
	require.NoError(t, err)
	assert.EqualValues(t, 2, report.Epoch)
	second := env.FrontendIn(t, dir)
	read(second)

	w.Start(t, "data0")
	files["after"] = random(3, 1<<20)
	second.Write(t, "after", files["after"])
	second.MustSync(t)
	evict(second)
	w.Kill(t, "data1")
	read(second)
	w.Start(t, "data1")
	require.NoError(t, second.Stop())
}

func random(seed byte, n int) []byte {
	out := make([]byte, n)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte{seed})).Read(out) // never fails
	return out
}

// The provisioner of containers and of real zdbs keeps the contract too.
func TestRealZdbConformance(t *testing.T) {
	testenv.RealZdb(t) // skips where there is none
	backendtest.Run(t, func(t *testing.T) backendtest.Harness {
		w := testenv.RealZdb(t)
		return backendtest.Harness{
			Open:  func(*testing.T) backend.Provisioner { return w },
			Specs: qsfs.DefaultSpecs(1, 2), First: backend.Create, Owns: true,
			Dial: zdb.NewDialer(zdb.Options{PoolSize: 1, Timeout: 10 * time.Second}),
			Kill: func(t *testing.T, b backend.Backend) { w.Kill(t, b.ID) },
			Limit: func(t *testing.T, b backend.Backend) {
				results, err := w.Provision(t.Context(), []backend.Spec{{ID: b.ID, Role: b.Role, Size: 1 << 20}})
				require.NoError(t, err)
				require.NoError(t, results[0].Err)
			},
		}
	})
}

// A killed backend is really gone, and comes back with what it held.
func TestKillAndStart(t *testing.T) {
	for _, w := range wirings {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			wiring := w.make(t)
			results, err := wiring.Provision(t.Context(), qsfs.DefaultSpecs(0, 1))
			require.NoError(t, err)
			require.NoError(t, results[0].Err)
			b := results[0].Backend
			c, err := zdb.Dial(t.Context(), b, zdb.Options{})
			require.NoError(t, err)
			defer c.Close() //nolint:errcheck // only asked
			key, err := c.Set(t.Context(), nil, []byte("value"))
			require.NoError(t, err)
			for range 2 {
				wiring.Kill(t, b.ID)
				require.Equal(t, backend.Down, wiring.Health(t.Context(), b).State)
				wiring.Start(t, b.ID)
				require.Equal(t, backend.Up, wiring.Health(t.Context(), b).State)
				list, err := wiring.List(t.Context())
				require.NoError(t, err)
				require.Equal(t, []backend.Backend{b}, list)
				require.Eventually(t, func() bool { // the connection is made anew
					got, err := c.Get(context.WithoutCancel(t.Context()), key)
					return err == nil && string(got) == "value"
				}, 5*time.Second, 10*time.Millisecond)
			}
		})
	}
}
