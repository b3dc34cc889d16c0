package qsfs_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs/client"
)

func hasNote(t *testing.T, f *testenv.Frontend, part, state string) {
	t.Helper()
	var last *client.Status
	ok := assert.Eventually(t, func() bool {
		st, err := f.Status(t.Context())
		require.NoError(t, err)
		last = st
		return st.State == state && strings.Contains(strings.Join(st.Notes, "\n"), part)
	}, 30*time.Second, 50*time.Millisecond)
	if !ok {
		t.Fatalf("no note %q in state %s: %s, %q", part, state, last.State, last.Notes)
	}
}

func allBackends(t *testing.T, env *testenv.Env, set func(string)) {
	t.Helper()
	list, err := env.Provisioner.List(t.Context())
	require.NoError(t, err)
	for _, b := range list {
		set(b.ID)
	}
}

// What the system itself knows is told as well: uploads that pause, files that
// cannot be stored, checkpoints that fail; all of it is gone once it is well.
func TestNotesOfAWayThatIsCut(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	f := env.Frontend(t)
	f.MustSync(t)
	env.Faults.Down(addressOf(t, env, "data0"), addressOf(t, env, "data1"))
	f.Write(t, "a", random(1, 3<<20))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _, _ = f.Sync(ctx) }() // its end is seen below
	hasNote(t, f, "files could not be stored yet; they are tried again", client.StateDegraded)
	env.Faults.Up(addressOf(t, env, "data0"), addressOf(t, env, "data1"))
	require.NoError(t, f.RetryNow(t.Context()))

	allBackends(t, env, func(id string) { env.Faults.Down(addressOf(t, env, id)) })
	hasNote(t, f, "uploads pause: fewer than 3 metadata backends answer", client.StateDegraded)
	allBackends(t, env, func(id string) { env.Faults.Up(addressOf(t, env, id)) })
	require.NoError(t, f.RetryNow(t.Context()))
	f.MustSync(t)
	require.Eventually(t, func() bool {
		st, err := f.Status(t.Context())
		return err == nil && st.State == client.StateOK && !strings.Contains(strings.Join(st.Notes, "\n"), "pause")
	}, 30*time.Second, 50*time.Millisecond)
}

// A database that was damaged, and backends that cannot yet tell what they hold.
func TestNotesOfALostDatabase(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	f := env.Frontend(t)
	f.Write(t, "a", []byte("a"))
	f.MustSync(t)
	require.NoError(t, f.Stop())
	db := f.Layout().Database
	for _, name := range []string{db, db + "-wal", db + "-shm"} {
		if st, err := os.Stat(name); err == nil && st.Size() > 0 {
			require.NoError(t, os.WriteFile(name, random(4, int(st.Size())), 0o600))
		}
	}
	allBackends(t, env, func(id string) { env.Faults.Down(addressOf(t, env, id)) })
	f = env.FrontendIn(t, f.Dir)
	hasNote(t, f, "the database was damaged and was filled again", client.StateDegraded)
	hasNote(t, f, "what is on the backends is not known yet", client.StateDegraded)
	_, err := f.Sync(t.Context())
	require.Error(t, err)
	hasNote(t, f, "the last 1 checkpoints failed, a restore would give an older state: ", client.StateDegraded)
	allBackends(t, env, func(id string) { env.Faults.Up(addressOf(t, env, id)) })
	require.Eventually(t, func() bool { _, err := f.Sync(t.Context()); return err == nil }, 30*time.Second, 100*time.Millisecond)
	st, err := f.Status(t.Context())
	require.NoError(t, err)
	assert.NotContains(t, strings.Join(st.Notes, "\n"), "not known yet")
	assert.NotContains(t, strings.Join(st.Notes, "\n"), "checkpoints failed")
}
