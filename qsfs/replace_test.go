package qsfs_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/static"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/store"
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

// steps gives the newest saga of each backend.
func sagas(t *testing.T, f *testenv.Frontend) map[string]client.Replacement {
	t.Helper()
	st, err := f.Status(t.Context())
	require.NoError(t, err)
	out := map[string]client.Replacement{}
	for _, p := range st.Replacements {
		if _, ok := out[p.Backend]; !ok {
			out[p.Backend] = p
		}
	}
	return out
}

func TestReplaceNothingThatComesBack(t *testing.T) {
	t.Parallel()
	env, w := replaceEnv(t)
	env.Config.Replace.After = config.Duration(time.Hour)
	f := env.Frontend(t)
	files := writeSome(t, f, "a")
	f.MustSync(t)
	w.Kill(t, "data3")
	require.Eventually(t, func() bool { return sagas(t, f)["data3"].Step == client.ReplaceGrace }, 20*time.Second, 20*time.Millisecond)
	w.Start(t, "data3")
	require.Eventually(t, func() bool { return sagas(t, f)["data3"].Step == client.ReplaceCancelled }, 20*time.Second, 20*time.Millisecond)
	st, err := f.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, st.Generation)
	sameFiles(t, f, files)
}

// Most backends do not answer: then it is the network of this machine, and
// nothing is replaced, however long it lasts.
func TestReplaceNothingWithoutNetwork(t *testing.T) {
	t.Parallel()
	env, w := replaceEnv(t)
	f := env.Frontend(t)
	files := writeSome(t, f, "a")
	f.MustSync(t)
	away := []string{"data0", "data1", "data2", "meta0", "meta1"}
	for _, id := range away {
		w.Kill(t, id)
	}
	noted := func() bool {
		st, err := f.Status(t.Context())
		require.NoError(t, err)
		for _, n := range st.Notes {
			if strings.Contains(n, "network of this machine") {
				return true
			}
		}
		return false
	}
	require.Eventually(t, noted, 20*time.Second, 20*time.Millisecond)
	// Three times replace.after passes, as the looks at the backends count it.
	began := time.Now()
	require.Eventually(t, func() bool { return time.Since(began) > 4*time.Second }, 20*time.Second, 50*time.Millisecond)
	for id, p := range sagas(t, f) {
		require.Contains(t, []string{client.ReplaceGrace, client.ReplaceCancelled}, p.Step, id)
	}
	for _, id := range away {
		w.Start(t, id)
	}
	require.Eventually(t, func() bool { return !noted() }, 20*time.Second, 20*time.Millisecond)
	st, err := f.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, st.Generation)
	sameFiles(t, f, files)
}

// The successor dies while it is being filled: it is replaced as well.
func TestReplaceTheSuccessorToo(t *testing.T) {
	t.Parallel()
	env, w := replaceEnv(t)
	f := env.Frontend(t)
	files := writeSome(t, f, "a", "b", "c", "d", "e", "f")
	f.MustSync(t)
	w.Kill(t, "data1")
	require.Eventually(t, func() bool {
		s := sagas(t, f)["data1"].Step
		return s == client.ReplaceRebuild || s == client.ReplaceVerify || s == client.ReplaceDone
	},
		30*time.Second, time.Millisecond)
	w.Kill(t, "data5")
	done := replaced(t, f, "data1", "data5")
	require.Equal(t, "data6", done["data5"].Successor)
	// Two more than the first two may be away now.
	w.Kill(t, "data0")
	w.Kill(t, "data2")
	_, err := f.Evict(t.Context(), 0)
	require.NoError(t, err)
	sameFiles(t, f, files)
}

// Two of four metadata backends are lost at once: nothing can be stored, and no
// lease renewed, until they are replaced.
func TestReplaceTwoMetadataBackends(t *testing.T) {
	t.Parallel()
	env, w := replaceEnv(t)
	dir := t.TempDir()
	f := env.FrontendIn(t, dir)
	files := writeSome(t, f, "a", "b")
	f.MustSync(t)
	w.Kill(t, "meta0")
	w.Kill(t, "meta3")
	replaced(t, f, "meta0", "meta3")
	w.Kill(t, "meta1") // the two new ones and one old one hold everything
	for name, data := range writeSome(t, f, "c") {
		files[name] = data
	}
	f.MustSync(t)
	sameFiles(t, f, files)
	// And then none of the first four is left: claim, head and set are on the others.
	w.Kill(t, "meta2")
	replaced(t, f, "meta1", "meta2")
	for name, data := range writeSome(t, f, "d") {
		files[name] = data
	}
	f.MustSync(t)
	require.NoError(t, f.Stop())
	g := env.FrontendIn(t, dir)
	_, err := g.Evict(t.Context(), 0)
	require.NoError(t, err)
	sameFiles(t, g, files)
	require.NoError(t, g.Stop())
}

// By hand: a backend that works is emptied and given back; the dry run changes
// nothing; an unknown one is refused with the names of those there are.
func TestReplaceByHand(t *testing.T) {
	t.Parallel()
	env, _ := replaceEnv(t)
	env.Config.Replace.Enabled = "false"
	f := env.Frontend(t)
	files := writeSome(t, f, "a", "b")
	f.MustSync(t)
	plan, err := f.Replace(t.Context(), client.ReplaceRequest{Backends: []string{"data2"}, DryRun: true})
	require.NoError(t, err)
	require.Len(t, plan.Replacements, 1)
	require.Equal(t, "data5", plan.Replacements[0].Successor)
	st, err := f.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, st.Generation)
	require.Empty(t, st.Replacements)

	_, err = f.Replace(t.Context(), client.ReplaceRequest{Backends: []string{"data9"}})
	var unknown *qsfs.NoBackendError
	require.ErrorAs(t, err, &unknown)
	require.Contains(t, unknown.Hint(), "data2")

	report, err := f.Replace(t.Context(), client.ReplaceRequest{Backends: []string{"data2", "meta1"}})
	require.NoError(t, err)
	require.Len(t, report.Replacements, 2)
	list, err := env.Provisioner.List(t.Context())
	require.NoError(t, err)
	for _, b := range list {
		require.NotContains(t, []string{"data2", "meta1"}, b.ID, "it is given back")
	}
	_, err = f.Evict(t.Context(), 0)
	require.NoError(t, err)
	sameFiles(t, f, files)
}

// A crash at any step resumes there. The database may be lost with it: the set's
// record tells which backends are leaving.
func TestReplaceResumes(t *testing.T) {
	t.Parallel()
	for _, step := range []string{client.ReplaceProvision, client.ReplaceReload, client.ReplaceRebuild, client.ReplaceVerify, client.ReplaceRetire} {
		for _, lost := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, database lost: %v", step, lost), func(t *testing.T) {
				t.Parallel()
				env, w := replaceEnv(t)
				dir := t.TempDir()
				reached := make(chan struct{})
				var once sync.Once
				f := env.FrontendIn(t, dir, qsfs.WithDrainTime(-1), qsfs.BeforeStep(func(_, s string) error {
					if s != step {
						return nil
					}
					once.Do(func() { close(reached) })
					return errors.New("it goes no further")
				}))
				files := writeSome(t, f, "a", "b")
				f.MustSync(t)
				w.Kill(t, "data1")
				<-reached
				require.NoError(t, f.Stop())
				if lost {
					require.NoError(t, os.Remove(filepath.Join(dir, "state", "quantumd.db")))
				}
				g := env.FrontendIn(t, dir)
				replaced(t, g, "data1")
				w.Kill(t, "data0")
				_, err := g.Evict(t.Context(), 0)
				require.NoError(t, err)
				sameFiles(t, g, files)
			})
		}
	}
}

// Listed backends are replaced by listed spares, and by nothing else.
func TestReplaceBySpares(t *testing.T) {
	t.Parallel()
	w := testenv.InProcess(t)
	env := testenv.New(t, testenv.Options{Data: 6, Shards: 5, MinShards: 3, Provisioner: w})
	env.Config.Replace.After = config.Duration(time.Second)
	env.Config.Backends[len(env.Config.Backends)-1].Spare = true // data5
	list, err := env.Config.BackendList()
	require.NoError(t, err)
	env.Provisioner = static.New(list, nil)
	deploy(t, env)
	dir := t.TempDir()
	f := env.FrontendIn(t, dir)
	files := writeSome(t, f, "a", "b")
	f.MustSync(t)
	before, err := f.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, before.Generation)

	w.Kill(t, "data2")
	done := replaced(t, f, "data2")
	require.Equal(t, "data5", done["data2"].Successor)
	w.Kill(t, "data4")
	require.Eventually(t, func() bool { return strings.Contains(sagas(t, f)["data4"].Error, "no spare data backend") }, 30*time.Second, 50*time.Millisecond)
	_, err = f.Evict(t.Context(), 0)
	require.NoError(t, err)
	sameFiles(t, f, files)
	require.NoError(t, f.Stop())

	// What was replaced comes back, and the configuration lists it: it stays out.
	w.Start(t, "data2")
	g := env.FrontendIn(t, dir)
	st, err := g.Status(t.Context())
	require.NoError(t, err)
	for _, b := range st.Backends {
		require.NotEqual(t, "data2", b.ID)
	}
	w.Start(t, "data4")
	deploy(t, env)
	sameFiles(t, g, files)
}

// A full data backend keeps what it holds and gets nothing new; a full metadata
// backend is replaced.
func TestReplaceFullBackends(t *testing.T) {
	t.Parallel()
	env, w := replaceEnv(t)
	f := env.Frontend(t)
	files := writeSome(t, f, "a", "b")
	f.MustSync(t)
	for _, id := range []string{"data3", "meta1"} {
		_, err := w.Provision(t.Context(), []backend.Spec{{ID: id, Role: backend.Role(id[:4]), Size: 1 << 20}})
		require.NoError(t, err)
	}
	done := replaced(t, f, "data3", "meta1")
	require.Zero(t, done["data3"].Objects, "nothing has to be moved")
	require.Positive(t, done["meta1"].Objects)
	list, err := w.List(t.Context())
	require.NoError(t, err)
	var ids []string
	for _, b := range list {
		ids = append(ids, b.ID)
	}
	require.Contains(t, ids, "data3", "it holds what is needed")
	require.NotContains(t, ids, "meta1")
	for name, data := range writeSome(t, f, "c", "d") {
		files[name] = data
	}
	f.MustSync(t)
	_, err = f.Evict(t.Context(), 0)
	require.NoError(t, err)
	sameFiles(t, f, files)
}

// So many are replaced within a day, and not more: the note says what to do.
func TestReplaceWithinLimits(t *testing.T) {
	t.Parallel()
	env, w := replaceEnv(t)
	env.Config.Replace.MaxPerDay = 1
	f := env.Frontend(t)
	files := writeSome(t, f, "a")
	f.MustSync(t)
	w.Kill(t, "data0")
	replaced(t, f, "data0")
	w.Kill(t, "data1")
	require.Eventually(t, func() bool { return strings.Contains(sagas(t, f)["data1"].Error, "max_per_day") }, 30*time.Second, 50*time.Millisecond)
	require.Equal(t, client.ReplaceGrace, sagas(t, f)["data1"].Step)
	_, err := f.Replace(t.Context(), client.ReplaceRequest{Failed: true})
	require.NoError(t, err)
	require.Equal(t, client.ReplaceDone, sagas(t, f)["data1"].Step)
	sameFiles(t, f, files)
}

// An object that cannot be rebuilt keeps the backend that its record names from
// being given back: it may come back with what the object needs.
func TestReplaceKeepsWhatCannotBeRebuilt(t *testing.T) {
	t.Parallel()
	env, w := replaceEnv(t)
	f := env.Frontend(t)
	writeSome(t, f, "a", "b", "c")
	f.MustSync(t)
	_, err := f.Evict(t.Context(), 0)
	require.NoError(t, err)
	var lost zstor.Object
	for e, err := range qsfs.Engine(f.System).List(t.Context()) {
		require.NoError(t, err)
		obj, err := qsfs.Engine(f.System).LookupKey(t.Context(), e.Key)
		require.NoError(t, err)
		if obj.Size > lost.Size {
			lost = obj
		}
	}
	require.Greater(t, lost.Size, int64(500_000))
	_, err = qsfs.Engine(f.System).RemoveShards(t.Context(), lost)
	require.NoError(t, err)
	w.Kill(t, "data1")
	// With five of five, every record names data1.
	require.Eventually(t, func() bool { return strings.Contains(sagas(t, f)["data1"].Error, "could not be rebuilt") }, 60*time.Second, 50*time.Millisecond)
	require.Equal(t, client.ReplaceRebuild, sagas(t, f)["data1"].Step)
	report, err := f.Check(t.Context(), client.CheckRequest{})
	require.NoError(t, err)
	require.Positive(t, report.Files-report.OK)
}

// A disk that damages what it holds is found by a scrub, and replaced although
// its zdb answers.
func TestReplaceAFailingDisk(t *testing.T) {
	t.Parallel()
	env, _ := replaceEnv(t)
	env.Config.Replace.After = config.Duration(time.Second)
	f := env.Frontend(t)
	files := map[string][]byte{}
	for i := range 12 { // a checkpoint each: enough objects
		for name, data := range writeSome(t, f, fmt.Sprintf("f%d", i)) {
			files[name] = data
		}
		f.MustSync(t)
	}
	rotten := 0
	for _, row := range rowsOf(t, f, store.KindData) {
		for _, sh := range objectOf(t, f, row.ObjectPath).Shards {
			if sh.Backend.ID == "data3" {
				rotShard(t, env, sh)
				rotten++
			}
		}
	}
	require.GreaterOrEqual(t, rotten, 10)
	report := scrub(t, f, client.ScrubRequest{Repair: true})
	require.Zero(t, report.Lost)
	done := replaced(t, f, "data3")
	require.Contains(t, done["data3"].Reason, "damaged")
	_, err := f.Evict(t.Context(), 0)
	require.NoError(t, err)
	sameFiles(t, f, files)
}
