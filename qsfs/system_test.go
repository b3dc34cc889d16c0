package qsfs_test

import (
	"crypto/sha256"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs"
)

// random gives reproducible bytes that do not compress.
func random(seed uint64, n int) []byte {
	src := rand.NewChaCha8(sha256.Sum256([]byte{byte(seed), byte(seed >> 8)}))
	out := make([]byte, n)
	_, _ = src.Read(out) // never fails
	return out
}

// The main job: write, sync, lose the cache and a backend, read; lose the
// machine, restore, read.
func TestMainJob(t *testing.T) {
	env := testenv.New(t, testenv.Options{})
	first := env.Frontend(t)
	files := map[string][]byte{"a": []byte("hello"), "dir/b": random(1, 3<<20), "dir/sub/c": random(2, 300_000)}
	for name, data := range files {
		first.Write(t, name, data)
	}
	first.MustSync(t)

	st, err := first.Status(t.Context())
	require.NoError(t, err)
	assert.Zero(t, st.LossWindow.Bytes)
	assert.Zero(t, st.Queue.Pending+st.Queue.Failed)
	assert.EqualValues(t, 1, st.Epoch)

	evicted, err := first.Evict(t.Context(), 0)
	require.NoError(t, err)
	assert.Positive(t, evicted.Bytes)
	env.Faults.Down(addressOf(t, env, "data0"))
	for name, data := range files {
		assert.Equal(t, data, first.Read(t, name), name)
	}
	env.Faults.Up(addressOf(t, env, "data0"))
	require.NoError(t, first.Stop())

	second := env.Open(t, t.TempDir())
	report, err := second.Restore(t.Context(), qsfs.RestoreOptions{})
	require.NoError(t, err)
	assert.EqualValues(t, 2, report.Epoch)
	f := env.FrontendIn(t, dirOf(second))
	for name, data := range files {
		assert.Equal(t, data, f.Read(t, name), name)
	}
	f.Write(t, "after", []byte("restore"))
	f.MustSync(t)
}

func dirOf(s *qsfs.System) string { return s.Layout().Root[:len(s.Layout().Root)-len("/frontend")] }

func addressOf(t *testing.T, env *testenv.Env, id string) netip.AddrPort {
	t.Helper()
	list, err := env.Provisioner.List(t.Context())
	require.NoError(t, err)
	for _, b := range list {
		if b.ID == id {
			return b.Address
		}
	}
	t.Fatalf("no backend %s", id)
	return netip.AddrPort{}
}

var _ = backend.Up
