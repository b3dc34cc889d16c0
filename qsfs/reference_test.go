package qsfs_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/hooks"
	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// What earlier programs got wrong, and which test shows that this one does not:
// here, or where the part is.
var referenceDefects = []struct{ defect, dir, test string }{
	{"hooks only note what they should do; uploads wait for the next cycle", "qsfs", "TestReferenceDefects"},
	{"jump-index is acknowledged before its dirty list is durable", "hooks", "TestRelay"},
	{"... also by a hook that is killed while it waits", "hooks", "TestJumpIndexIsSpooledWhileItWaits"},
	{"... and after kill -9", "hooks", "TestSpoolSurvivesKill"},
	{"a damaged local file replaces its good object", "qsfs", "TestLocalDamageNeverSpreads"},
	{"a scan fetches back what was dropped", "qsfs", "TestReferenceDefects"},
	{"more than 100 pending files are a deadlock; one process per file", "qsfs", "TestReferenceThousandsPending"},
	{"... and a status that takes for ever", "qsfs", "TestManyPendingWithoutBackends"},
	{"the open files are forgotten at a clean stop", "qsfs", "TestReferenceDefects"},
	{"... of a zdb beside the daemon", "qsfs", "TestExternalStoppedZdb"},
	{"a store that failed counts as done", "qsfs", "TestReferenceDefects"},
	{"zdb_data_size is also the size of the cache, and its text is passed on unread", "qsfs", "TestReferenceDefects"},
	{"the promised migration of the text list is not there", "qsfs", "TestLegacyListIsTakenOver"},
	{"... nor that of the SQLite table", "qsfs", "TestLegacyTableIsTakenOver"},
	{"the hook client ends with 0 when nobody listens, whatever the event", "cmd/quantumd-hook", "TestDaemonDown"},
	{"an event without a daemon is lost", "qsfs", "TestSpooledEventsAreHandledAtTheStart"},
	{"paths with blanks break, long dirty lists are cut, arguments with - are flags", "qsfs", "TestReferenceDefects"},
	{"no timeout on either side of the hook socket", "hooks", "TestSilentClientsAreDropped"},
	{"a stale socket keeps a daemon from starting", "hooks", "TestStaleSocketIsReplaced"},
	{"anybody may talk to the hook socket", "hooks", "TestOtherUsersAreNotHeard"},
	{"hooks of a service manager's group are killed with zdb", "cmd/quantumd-hook", "TestAskedToEndWhileItWaits"},
	{"namespaces other than the two of the file system are stored, or deleted ones forgotten", "qsfs", "TestEventsMayComeTwiceLateOrNever"},
	{"an evicted highest file changes which files are closed", "qsfs", "TestReferenceDefects"},
	{"index files are copied while they change", "qsfs", "TestExternalCutIsOfOneMoment"},
	{"data and index disagree between jump-index and jump-data", "qsfs", "TestExternalCutTakesWhatWasClosedJustBefore"},
	{"no backoff, no order, no memory of failures", "store", "TestBackoffGrowsToTheInterval"},
	{"... nor of what was pending when it was killed", "store", "TestKill"},
	{"SIGTERM is not handled: uploads under way die", "qsfs", "TestKillNine"},
	{"a daemon that starts while the backends are away never works", "qsfs", "TestStartWithoutBackends"},
	{"... also when what begins the file system was dropped", "qsfs", "TestEventsDuringTheStart"},
	{"d1 counts as uploaded once d10 is", "store", "TestImportList"},
	{"rows for index files may be false", "qsfs", "TestLegacyTableIsTakenOver"},
	{"index copies are stored under the name of the copy", "qsfs", "TestRealZstorReadsWhatWeStored"},
	{"copies of index files are left behind", "qsfs", "TestUncommittedSurvivesARestart"},
	{"last_retry_run_time is that of the scrape", "qsfs", "TestRetryRunTimeIsThatOfTheRound"},
	{"no pending counts, ages, failures, hook latencies in the metrics", "qsfs", "TestMetricsTellOfFailures"},
	{"backends that are gone stay in the metrics", "qsfs", "TestMetricsTellOfLostBackends"},
	{"a port that is taken ends the daemon", "cmd/quantumd", "TestScripts"},
	{"unknown keys are passed over in silence", "qsfs", "TestReferenceDefects"},
	{"retry_interval: 600 is 600 ns", "qsfs", "TestReferenceDefects"},
	{"local files that somebody deleted are read errors", "qsfs", "TestReferenceDefects"},
	{"a full or dead backend blocks everything", "qsfs", "TestReferenceDefects"},
	{"check ends with 0 whatever it found", "cmd/quantumd", "TestScripts"},
	{"a lost file has an empty status", "qsfs", "TestWhy"},
	{"the text list or the database is the truth", "qsfs", "TestLostDatabaseIsRebuilt"},
	{"backend passwords on standard output", "cmd/quantumd", "TestSecretsStaySecret"},
	{"the temporary namespace is stored", "qsfs", "TestReferenceDefects"},
}

// Each line of the table names a test that is there.
func TestReferenceTable(t *testing.T) {
	t.Parallel()
	for _, d := range referenceDefects {
		files, err := filepath.Glob(filepath.Join("..", d.dir, "*_test.go"))
		require.NoError(t, err)
		found := false
		for _, f := range files {
			text, err := os.ReadFile(f)
			require.NoError(t, err)
			found = found || regexp.MustCompile(`(?m)^func `+d.test+`\(t `).Match(text)
		}
		assert.True(t, found, "%s: no test %s in %s", d.defect, d.test, d.dir)
	}
}

func closedFiles(t *testing.T, l qsfs.Layout) (present []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(l.DataDir(), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			present = append(present, path)
		}
		return err
	}))
	return present
}

func TestReferenceDefects(t *testing.T) {
	t.Parallel()
	t.Run("a closed data file is uploaded at once, without a cycle", func(t *testing.T) {
		t.Parallel()
		env := testenv.New(t, testenv.Options{})
		f := env.Frontend(t)
		f.Write(t, "a", random(1, 4<<20)) // fills some files of 1 MiB; the next cut is ten minutes away
		require.Eventually(t, func() bool {
			rows, err := qsfs.Rows(t.Context(), f.System)
			stored := 0
			for _, r := range rows {
				if r.State == "stored" {
					stored++
				}
			}
			return err == nil && stored >= 3
		}, 20*time.Second, 20*time.Millisecond)
	})
	t.Run("a scan fetches nothing back", func(t *testing.T) {
		t.Parallel()
		env := testenv.New(t, testenv.Options{})
		f := env.Frontend(t)
		f.Write(t, "a", random(1, 6<<20))
		f.MustSync(t)
		_, err := f.Evict(t.Context(), 0)
		require.NoError(t, err)
		require.NoError(t, f.Stop())
		before := len(closedFiles(t, f.Layout()))
		f = env.FrontendIn(t, f.Dir)
		for range 3 {
			f.MustSync(t)
			_, err := f.Check(t.Context(), client.CheckRequest{})
			require.NoError(t, err)
			c := &hooks.Client{Socket: f.Layout().HookSocket()}
			require.NoError(t, c.HandleHook(t.Context(), hooks.Event{Kind: hooks.JumpData, Data: filepath.Join(f.Layout().DataDir(), "zdbfs-data", "d1")}))
		}
		st, err := f.Status(t.Context())
		require.NoError(t, err)
		// The start reads what begins the tree, and no more than that.
		assert.LessOrEqual(t, st.Transfer.FetchedFileBytes, int64(2<<20))
		assert.LessOrEqual(t, len(closedFiles(t, f.Layout())), before+2)
	})
	t.Run("the open files are stored at a clean stop", func(t *testing.T) {
		t.Parallel()
		env := testenv.New(t, testenv.Options{})
		f := env.Frontend(t)
		f.Write(t, "small", []byte("in the open file"))
		require.NoError(t, f.Stop()) // no sync
		restored := env.Open(t, t.TempDir())
		_, err := restored.Restore(t.Context(), qsfs.RestoreOptions{})
		require.NoError(t, err)
		assert.Equal(t, []byte("in the open file"), env.FrontendIn(t, dirOf(restored)).Read(t, "small"))
	})
	t.Run("a store that failed is not done, and says why", func(t *testing.T) {
		t.Parallel()
		env := testenv.New(t, testenv.Options{})
		f := env.Frontend(t, qsfs.WithDrainTime(-1))
		for _, id := range []string{"data0", "data1"} {
			env.Faults.Down(addressOf(t, env, id))
		}
		f.Write(t, "a", random(1, 3<<20))
		short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := f.Sync(short)
		require.Error(t, err)
		st, err := f.Status(t.Context())
		require.NoError(t, err)
		assert.Positive(t, st.Queue.Pending+st.Queue.Failed+st.Queue.Uploading)
		assert.Positive(t, st.LossWindow.Bytes)
		_, err = f.Evict(t.Context(), 0)
		require.NoError(t, err)
		assert.Equal(t, random(1, 3<<20), f.Read(t, "a"), "nothing of it was dropped")
		require.Eventually(t, func() bool {
			rows, err := qsfs.Rows(t.Context(), f.System)
			for _, r := range rows {
				failed, err := qsfs.Store(f.System).Queue().Failures(t.Context(), r.Path)
				if err == nil && len(failed) > 0 && failed[0].Error != "" {
					return true
				}
			}
			return err != nil
		}, 20*time.Second, 50*time.Millisecond, "the first failure is there with its reason")
	})
	t.Run("texts of the configuration mean what they say", func(t *testing.T) {
		t.Parallel()
		for text, want := range map[string]config.Size{"64M": 64 << 20, "64m": 64 << 20, "64MB": 64 << 20, "512K": 512 << 10, "512k": 512 << 10} {
			c, err := config.Parse("f.yaml", []byte("zdb_data_size: "+text+"\n"))
			require.NoError(t, err, text)
			assert.Equal(t, want, c.ZdbDataSize, text)
			assert.EqualValues(t, 10<<30, c.CacheSize, "the cache has a size of its own")
		}
		for _, bad := range []string{"retry_interval: 600\n", "retry_intervall: 10m\n", "zdb_data_size: 1.5X\n", "exclude_nodes: [a]\n"} {
			c, err := config.Parse("f.yaml", []byte(bad))
			if err == nil {
				err = c.Validate()
			}
			require.Error(t, err, bad)
			require.NotEmpty(t, config.Errors(err), bad)
		}
	})
	t.Run("an event carries any byte and any number of dirty ids", func(t *testing.T) {
		t.Parallel()
		env := testenv.New(t, testenv.Options{})
		seen := make(chan hooks.Event, 1)
		f := env.Frontend(t, qsfs.WithHooks(hooks.HandlerFunc(func(_ context.Context, e hooks.Event) error {
			if e.Kind == hooks.JumpIndex && e.Instance == "-x --help" {
				seen <- e
			}
			return nil
		})))
		dirty := make([]uint32, 50_000)
		for i := range dirty {
			dirty[i] = uint32(i)
		}
		e := hooks.Event{Kind: hooks.JumpIndex, Instance: "-x --help", Index: f.Layout().IndexDir() + "/a b\n\xff/i1", NextIndex: "--i2", Dirty: dirty}
		require.NoError(t, (&hooks.Client{Socket: f.Layout().HookSocket()}).HandleHook(t.Context(), e))
		assert.Equal(t, e, <-seen)
	})
	t.Run("files that somebody deleted, the highest closed one too, are fetched", func(t *testing.T) {
		t.Parallel()
		env := testenv.New(t, testenv.Options{})
		f := env.Frontend(t)
		f.Write(t, "a", random(1, 5<<20))
		f.MustSync(t)
		require.NoError(t, f.Stop())
		for _, path := range closedFiles(t, f.Layout()) {
			if filepath.Base(filepath.Dir(path)) == "zdbfs-data" {
				require.NoError(t, os.Remove(path))
			}
		}
		f = env.FrontendIn(t, f.Dir)
		assert.Equal(t, random(1, 5<<20), f.Read(t, "a"))
		f.Write(t, "b", random(2, 3<<20))
		f.MustSync(t)
		require.NoError(t, f.Stop())
		restored := env.Open(t, t.TempDir())
		_, err := restored.Restore(t.Context(), qsfs.RestoreOptions{})
		require.NoError(t, err)
		last := env.FrontendIn(t, dirOf(restored))
		assert.Equal(t, random(1, 5<<20), last.Read(t, "a"))
		assert.Equal(t, random(2, 3<<20), last.Read(t, "b"))
	})
	t.Run("a dead backend of each role blocks no reads, no writes and no status", func(t *testing.T) {
		t.Parallel()
		env := testenv.New(t, testenv.Options{Data: 4})
		f := env.Frontend(t)
		f.Write(t, "a", random(1, 2<<20))
		f.MustSync(t)
		_, err := f.Evict(t.Context(), 0)
		require.NoError(t, err)
		for _, id := range []string{"data0", "meta0"} {
			env.Faults.Down(addressOf(t, env, id))
		}
		began := time.Now()
		assert.Equal(t, random(1, 2<<20), f.Read(t, "a"))
		f.Write(t, "b", random(2, 2<<20))
		_, err = f.Status(t.Context())
		require.NoError(t, err)
		f.MustSync(t)
		assert.Less(t, time.Since(began), 20*time.Second)
	})
	t.Run("namespaces that are not the file system's are never stored", func(t *testing.T) {
		t.Parallel()
		env := testenv.New(t, testenv.Options{})
		f := env.Frontend(t)
		for _, ns := range []string{"zdbfs-temp", "default", "other"} {
			folder := filepath.Join(f.Layout().DataDir(), ns)
			require.NoError(t, os.MkdirAll(folder, 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(folder, "d0"), random(1, 1000), 0o600))
			c := &hooks.Client{Socket: f.Layout().HookSocket()}
			require.NoError(t, c.HandleHook(t.Context(), hooks.Event{Kind: hooks.JumpData, Data: filepath.Join(folder, "d0"), NextData: "d1"}))
		}
		f.Write(t, "a", []byte("a"))
		f.MustSync(t)
		rows, err := qsfs.Rows(t.Context(), f.System)
		require.NoError(t, err)
		for _, r := range rows {
			assert.Contains(t, []string{"zdbfs-data", "zdbfs-meta"}, r.Namespace, fmt.Sprint(r.Path))
		}
	})
}
