package qsfs_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
)

// At most one frontend writes: a restore with force fences the one that runs.
// It stops uploading and says so; what it still writes locally changes nothing
// of what the other one sees.
func TestRestoreFencesTheOldFrontend(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	old := env.Frontend(t)
	old.Write(t, "before", []byte("committed"))
	old.MustSync(t)

	second := env.Open(t, t.TempDir())
	_, err := second.Restore(t.Context(), qsfs.RestoreOptions{})
	var held *qsfs.HeldError
	require.ErrorAs(t, err, &held, "the old one was alive a moment ago")
	assert.Contains(t, held.Hint(), "--force")

	_, err = second.Restore(t.Context(), qsfs.RestoreOptions{Force: true})
	require.NoError(t, err)
	f := env.FrontendIn(t, dirOf(second))
	assert.Equal(t, []byte("committed"), f.Read(t, "before"))

	require.Eventually(t, func() bool {
		st, err := old.Status(t.Context())
		return err == nil && st.State == client.StateFenced
	}, 20*time.Second, 50*time.Millisecond)
	_, err = old.Sync(t.Context())
	require.ErrorIs(t, err, qsfs.ErrFenced)
	err = testenv.WriteFile(t.Context(), old.Tree(), "after", []byte("x"))
	require.Error(t, err, "a fenced frontend is read-only")
	assert.Equal(t, []byte("committed"), old.Read(t, "before"), "what it has can be read")

	f.Write(t, "new", []byte("from the second"))
	f.MustSync(t)
	require.ErrorIs(t, old.Stop(), qsfs.ErrFenced)
	assert.Equal(t, []byte("from the second"), f.Read(t, "new"))
}

// An empty frontend must not begin a second tree beside one that is on the
// backends.
func TestEmptyFrontendIsRefused(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	first := env.Frontend(t)
	first.Write(t, "a", []byte("a"))
	first.MustSync(t)
	require.NoError(t, first.Stop())
	var needs *qsfs.NeedsRestoreError
	require.ErrorAs(t, env.Open(t, t.TempDir()).Run(t.Context()), &needs)
	assert.Contains(t, needs.Hint(), "quantumd restore")
}

// SQLite is a to-do list: without it the truth comes from the backends, and
// dropped files are found again.
func TestLostDatabaseIsRebuilt(t *testing.T) {
	t.Parallel()
	for _, damage := range []string{"lost", "corrupt"} {
		t.Run(damage, func(t *testing.T) {
			t.Parallel()
			env := testenv.New(t, testenv.Options{})
			f := env.Frontend(t)
			data := random(3, 3<<20)
			f.Write(t, "a", data)
			f.MustSync(t)
			_, err := f.Evict(t.Context(), 0)
			require.NoError(t, err)
			require.NoError(t, f.Stop())

			db := f.Layout().Database
			for _, name := range []string{db, db + "-wal", db + "-shm"} {
				if damage == "lost" {
					require.NoError(t, os.RemoveAll(name))
				} else if st, err := os.Stat(name); err == nil && st.Size() > 0 {
					require.NoError(t, os.WriteFile(name, random(4, int(st.Size())), 0o600))
				}
			}
			again := env.FrontendIn(t, f.Dir)
			assert.Equal(t, data, again.Read(t, "a"))
			again.Write(t, "b", []byte("b"))
			again.MustSync(t)
			require.NoError(t, again.Stop())

			restored := env.Open(t, t.TempDir())
			_, err = restored.Restore(t.Context(), qsfs.RestoreOptions{})
			require.NoError(t, err)
			last := env.FrontendIn(t, dirOf(restored))
			assert.Equal(t, data, last.Read(t, "a"), "the manifest still names the dropped files")
			assert.Equal(t, []byte("b"), last.Read(t, "b"))
		})
	}
}

// A frontend whose backends are away at its start serves what it has, takes
// writes, and uploads as soon as they are back.
func TestStartWithoutBackends(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	f := env.Frontend(t)
	f.Write(t, "a", []byte("a"))
	f.MustSync(t)
	require.NoError(t, f.Stop())

	list, err := env.Provisioner.List(t.Context())
	require.NoError(t, err)
	for _, b := range list {
		env.Faults.Down(b.Address)
	}
	again := env.FrontendIn(t, f.Dir)
	assert.Equal(t, []byte("a"), again.Read(t, "a"))
	again.Write(t, "b", []byte("b"))
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = again.Sync(short)
	require.Error(t, err)
	for _, b := range list {
		env.Faults.Up(b.Address)
	}
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := again.Sync(ctx)
		return err == nil
	}, 30*time.Second, 100*time.Millisecond)
}

// With one metadata backend away a store is degraded: it is safe against one
// more loss, and never a reason to drop the local file.
func TestDegradedIsNotEvicted(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	f := env.Frontend(t)
	env.Faults.Down(addressOf(t, env, "meta3"))
	f.Write(t, "a", random(5, 1<<20))
	report, err := f.Sync(t.Context())
	require.NoError(t, err)
	assert.True(t, report.Degraded)
	evicted, err := f.Evict(t.Context(), 0)
	require.NoError(t, err)
	assert.Zero(t, evicted.Files, "nothing with metadata on three backends is dropped")
	assert.Positive(t, evicted.Kept)

	env.Faults.Up(addressOf(t, env, "meta3"))
	require.Eventually(t, func() bool {
		evicted, err := f.Evict(t.Context(), 0)
		return err == nil && evicted.Files > 0
	}, 30*time.Second, 200*time.Millisecond, "the metadata is completed when the fourth answers")
	assert.Equal(t, random(5, 1<<20), f.Read(t, "a"))
}

// Two processes on one folder would undo what the other does: the second is
// refused.
func TestTwoProcessesOneFolder(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	f := env.Frontend(t)
	var inUse *qsfs.InUseError
	require.ErrorAs(t, env.Open(t, f.Dir).Run(t.Context()), &inUse)
	assert.Contains(t, inUse.Hint(), "already runs")
	f.Write(t, "a", []byte("still works"))
	assert.Equal(t, []byte("still works"), f.Read(t, "a"))
}

// What is written after the last cut is neither lost by a restart nor by a
// restore that follows it.
func TestUncommittedSurvivesARestart(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	f := env.Frontend(t, qsfs.WithDrainTime(-1)) // ends without a last sync
	f.Write(t, "dir/a", random(6, 2<<20))
	require.NoError(t, f.Stop())
	unsynced, err := qsfs.Unsynced(t.Context(), f.Layout())
	require.NoError(t, err)
	assert.Positive(t, unsynced.Bytes)
	again := env.FrontendIn(t, f.Dir)
	assert.Equal(t, random(6, 2<<20), again.Read(t, "dir/a"))
	again.MustSync(t)
	require.NoError(t, again.Stop())
	unsynced, err = qsfs.Unsynced(t.Context(), f.Layout())
	require.NoError(t, err)
	assert.Zero(t, unsynced.Bytes)
	left, err := os.ReadDir(filepath.Join(f.Layout().State, "staging"))
	require.NoError(t, err)
	assert.Empty(t, left, "copies of index files are removed")
}
