package qsfs_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/store"
)

// raw reaches a backend past the system and its faults.
func raw(t *testing.T, b backend.Backend) backend.Conn {
	t.Helper()
	c, err := zdb.NewDialer(zdb.Options{PoolSize: 1}).Dial(t.Context(), b)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func backendOf(t *testing.T, env *testenv.Env, id string) backend.Backend {
	t.Helper()
	list, err := env.Provisioner.List(t.Context())
	require.NoError(t, err)
	for _, b := range list {
		if b.ID == id {
			return b
		}
	}
	t.Fatalf("no backend %s", id)
	return backend.Backend{}
}

// objectOf looks a row's object up.
func objectOf(t *testing.T, f *testenv.Frontend, rel string) zstor.Object {
	t.Helper()
	obj, err := qsfs.Engine(f.System).Lookup(t.Context(), qsfs.ObjectPath(f.System, rel))
	require.NoError(t, err)
	return obj
}

// rowsOf gives the rows of one kind.
func rowsOf(t *testing.T, f *testenv.Frontend, kind store.Kind) []store.File {
	t.Helper()
	all, err := qsfs.Rows(t.Context(), f.System)
	require.NoError(t, err)
	var out []store.File
	for _, r := range all {
		if r.Kind == kind {
			out = append(out, r)
		}
	}
	return out
}

// dropShards deletes n shards of an object from their backends.
func dropShards(t *testing.T, obj zstor.Object, n int) (bytes int64) {
	t.Helper()
	for _, s := range obj.Shards[:n] {
		c := raw(t, s.Backend)
		for _, k := range s.Keys {
			require.NoError(t, c.Delete(t.Context(), k))
		}
		bytes += s.Length
	}
	return bytes
}

// flip changes a byte of a file.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	require.NoError(t, err)
	b[0] ^= 0x40
	_, err = f.WriteAt(b, at)
	require.NoError(t, err)
}

// rotShard flips a byte of a shard on its backend's disk.
func rotShard(t *testing.T, env *testenv.Env, s zstor.Shard) {
	t.Helper()
	payload, err := raw(t, s.Backend).Get(t.Context(), s.Keys[0])
	require.NoError(t, err)
	needle := payload[len(payload)/2 : min(len(payload), len(payload)/2+64)]
	dir := env.Provisioner.Health(t.Context(), s.Backend).Dir
	require.NotEmpty(t, dir)
	found := false
	require.NoError(t, filepath.Walk(dir, func(path string, st os.FileInfo, err error) error {
		if err != nil || st.IsDir() || found || !strings.HasPrefix(st.Name(), "d") {
			return err
		}
		text, err := os.ReadFile(path)
		if at := strings.Index(string(text), string(needle)); err == nil && at >= 0 {
			flip(t, path, int64(at))
			found = true
		}
		return err
	}))
	require.True(t, found, "the shard is on the backend's disk")
}

func scrub(t *testing.T, f *testenv.Frontend, r client.ScrubRequest) *client.ScrubReport {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	report, err := f.Scrub(ctx, r)
	require.NoError(t, err)
	return report
}

func check(t *testing.T, f *testenv.Frontend, paths ...string) *client.CheckReport {
	t.Helper()
	report, err := f.Check(t.Context(), client.CheckRequest{Paths: paths})
	require.NoError(t, err)
	return report
}

// A scrub finds what backends lost and what their disks changed, a repair makes
// just that anew, and the second names of objects follow.
func TestScrubRepairsOnlyWhatIsDamaged(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{Data: 5, Shards: 5, MinShards: 3})
	f := env.Frontend(t)
	files := writeSome(t, f, "a", "b", "c", "d")
	f.MustSync(t)
	clean := check(t, f)
	require.Empty(t, clean.Damage)
	require.Zero(t, clean.ExitCode())
	require.Equal(t, clean.Files, clean.OK)
	whole := scrub(t, f, client.ScrubRequest{})
	require.Empty(t, whole.Damage)
	require.Equal(t, whole.Objects, whole.Good)
	require.Equal(t, clean.Files, whole.Objects)

	rows := rowsOf(t, f, store.KindData)
	require.Greater(t, len(rows), 2)
	lossy, rotten, halfMeta := objectOf(t, f, rows[0].ObjectPath), objectOf(t, f, rows[1].ObjectPath), objectOf(t, f, rows[2].ObjectPath)
	want := dropShards(t, lossy, 2)
	rotShard(t, env, rotten.Shards[1])
	want += rotten.Shards[1].Length
	require.NoError(t, raw(t, backendOf(t, env, "meta2")).Delete(t.Context(), []byte(halfMeta.Key)))
	require.NoError(t, raw(t, backendOf(t, env, "meta1")).Delete(t.Context(), []byte(qsfs.HeadKey(f.System))))

	// Records alone: the one of three, and the head.
	r := check(t, f)
	assert.Equal(t, 3, r.ExitCode())
	assert.EqualValues(t, 1, r.Degraded)
	require.Len(t, r.Damage, 2)
	assert.Contains(t, r.Damage[0].What, "head of epoch 1 is on 3 of 4 metadata backends")
	assert.Contains(t, r.Damage[1].What, "its record on meta2 is missing")

	sent := qsfs.Engine(f.System).Stats().Sent
	found := scrub(t, f, client.ScrubRequest{})
	assert.Equal(t, 3, found.ExitCode())
	assert.EqualValues(t, 4, found.Damaged)
	assert.Zero(t, found.Repaired+found.Lost)
	assert.Equal(t, sent, qsfs.Engine(f.System).Stats().Sent, "looking writes nothing")
	st, err := f.Status(t.Context())
	require.NoError(t, err)
	require.NotNil(t, st.Scrub)
	assert.Contains(t, strings.Join(st.Notes, "\n"), "4 damaged objects that are not repaired")

	mended := scrub(t, f, client.ScrubRequest{Repair: true})
	assert.EqualValues(t, 4, mended.Damaged)
	assert.EqualValues(t, 4, mended.Repaired)
	assert.EqualValues(t, want, qsfs.Engine(f.System).Stats().Sent-sent, "good shards are not written again")
	kept := objectOf(t, f, rows[0].ObjectPath)
	for i, s := range kept.Shards {
		if i >= 2 {
			assert.Equal(t, lossy.Shards[i].Keys, s.Keys)
		}
	}
	for _, row := range rows {
		assert.Equal(t, objectOf(t, f, row.ObjectPath).Shards, objectOf(t, f, row.Path).Shards, "the plain path names the shards that there are")
	}
	again := scrub(t, f, client.ScrubRequest{Deep: true})
	assert.Empty(t, again.Damage)
	assert.Equal(t, again.Objects, again.Good)
	assert.Positive(t, again.Bytes)
	assert.Empty(t, check(t, f).Damage)
	events, err := f.Events(t.Context(), rows[0].Path, 10)
	require.NoError(t, err)
	require.NotEmpty(t, events.Events)
	assert.Contains(t, events.Events[0].Message, "repaired: shard 0 on ")
	sameFiles(t, f, files)
}

// What the backends lost for good is stored again from here where it is here, and
// told as lost where it is not.
func TestScrubOfLostObjects(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	f := env.Frontend(t)
	files := writeSome(t, f, "a", "b")
	f.MustSync(t)
	data, index := rowsOf(t, f, store.KindData), rowsOf(t, f, store.KindIndex)
	manifest, err := qsfs.ManifestPath(t.Context(), f.System)
	require.NoError(t, err)
	for _, rel := range []string{data[0].ObjectPath, index[0].ObjectPath, manifest} {
		dropShards(t, objectOf(t, f, rel), 2) // of 3, of which 2 are needed
	}
	r := scrub(t, f, client.ScrubRequest{Repair: true})
	assert.EqualValues(t, 3, r.Damaged, "%+v", r.Damage)
	assert.EqualValues(t, 3, r.Repaired, "%+v", r.Damage)
	assert.Zero(t, r.Lost)
	again := scrub(t, f, client.ScrubRequest{Deep: true})
	assert.Empty(t, again.Damage)
	newer, err := qsfs.ManifestPath(t.Context(), f.System)
	require.NoError(t, err)
	assert.NotEqual(t, manifest, newer, "a damaged manifest is replaced by the next checkpoint's")

	evicted, err := f.Evict(t.Context(), 0)
	require.NoError(t, err)
	require.Positive(t, evicted.Files)
	var gone store.File
	for _, row := range data {
		if _, err := os.Stat(filepath.Join(f.Layout().Root, row.Path)); os.IsNotExist(err) {
			gone = row
		}
	}
	require.NotEmpty(t, gone.Path)
	dropShards(t, objectOf(t, f, gone.ObjectPath), 2)
	lost := scrub(t, f, client.ScrubRequest{Repair: true})
	assert.Equal(t, 4, lost.ExitCode())
	assert.EqualValues(t, 1, lost.Lost)
	require.Len(t, lost.Damage, 1)
	assert.Equal(t, gone.Path, lost.Damage[0].Path)
	assert.True(t, lost.Damage[0].Lost)
	st, err := f.Status(t.Context())
	require.NoError(t, err)
	assert.Contains(t, strings.Join(st.Notes, "\n"), "1 objects lost")
	why, err := f.Why(t.Context(), gone.Path)
	require.NoError(t, err)
	assert.Equal(t, "lost", why.Files[0].State)
	require.NotEmpty(t, why.Events)
	_ = files
}

// A backend that does not answer is no damage, and nothing is said of what cannot
// be known.
func TestUnknownIsNotDamage(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	f := env.Frontend(t)
	writeSome(t, f, "a", "b")
	f.MustSync(t)
	sent := qsfs.Engine(f.System).Stats().Sent
	env.Faults.Down(addressOf(t, env, "data1"))
	r := scrub(t, f, client.ScrubRequest{Repair: true})
	assert.Zero(t, r.Damaged+r.Lost+r.Repaired)
	assert.Equal(t, r.Objects, r.Unknown)
	assert.Equal(t, 3, r.ExitCode())
	assert.Contains(t, r.Damage[0].What, "on data1 is unreachable")
	assert.Equal(t, sent, qsfs.Engine(f.System).Stats().Sent, "what may come back is not made anew by a scrub")

	for _, id := range []string{"meta0", "meta1", "meta2", "meta3"} {
		env.Faults.Down(addressOf(t, env, id))
	}
	_, err := f.Check(t.Context(), client.CheckRequest{})
	var quorum *qsfs.QuorumError
	require.ErrorAs(t, err, &quorum)
	_, err = f.Scrub(t.Context(), client.ScrubRequest{})
	require.ErrorContains(t, err, "it goes on when that is over")
}

// A scrub goes on where it was when the system ended, and the automatic one runs
// and repairs without being asked.
func TestScrubGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	var mu sync.Mutex
	var seen []int64
	reached := make(chan struct{})
	watch := qsfs.WithObserver(func(p qsfs.Progress) {
		if p.Op != "scrub" {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if seen = append(seen, p.Done); p.Done == 4 {
			close(reached)
		}
	})
	f := env.Frontend(t, watch)
	writeSome(t, f, "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l")
	f.MustSync(t)
	ended := make(chan error, 1)
	go func() {
		_, err := f.Scrub(context.WithoutCancel(t.Context()), client.ScrubRequest{Deep: true})
		ended <- err
	}()
	<-reached
	require.NoError(t, f.Stop())
	mu.Lock()
	before := seen[len(seen)-1]
	seen = nil
	reached = make(chan struct{}) // a second 4 would be a scrub that began anew
	mu.Unlock()

	again := env.FrontendIn(t, f.Dir, watch)
	var report *client.ScrubReport
	require.Eventually(t, func() bool {
		st, err := again.Status(t.Context())
		require.NoError(t, err)
		report = st.Scrub
		return report != nil && !report.Running
	}, 30*time.Second, 50*time.Millisecond)
	assert.Equal(t, report.Objects, report.Good)
	assert.True(t, report.Deep)
	mu.Lock()
	defer mu.Unlock()
	require.NotEmpty(t, seen)
	assert.Greater(t, seen[0], before, "it goes on behind what was done")
}

func TestScrubRunsByItself(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{Data: 4})
	env.Config.ScrubInterval = config.Duration(2 * time.Second)
	f := env.Frontend(t)
	writeSome(t, f, "a")
	f.MustSync(t)
	row := rowsOf(t, f, store.KindData)[0]
	dropShards(t, objectOf(t, f, row.ObjectPath), 1)
	require.Eventually(t, func() bool {
		report, err := qsfs.Engine(f.System).Verify(t.Context(), qsfs.ObjectPath(f.System, row.ObjectPath), zstor.VerifyOptions{})
		return err == nil && report.Healthy()
	}, 30*time.Second, 100*time.Millisecond, "an automatic scrub repairs")
	require.Eventually(t, func() bool {
		events, err := f.Events(t.Context(), row.Path, 10)
		return err == nil && len(events.Events) > 0
	}, 30*time.Second, 50*time.Millisecond)
}

// why tells of a path in the mount which files hold it and where their shards are.
func TestWhy(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	f := env.Frontend(t)
	f.Write(t, "dir/a", random(1, 600_000))
	why, err := f.Why(t.Context(), "dir/a")
	require.NoError(t, err)
	assert.Equal(t, "local", why.Safe)
	assert.EqualValues(t, 600_000, why.Bytes)
	require.NotEmpty(t, why.Files)
	assert.Equal(t, "open", why.Files[0].State)
	assert.Contains(t, strings.Join(why.Notes, "\n"), "quantumd sync")

	f.MustSync(t)
	for _, path := range []string{"dir/a", "/dir/a"[1:]} {
		why, err = f.Why(t.Context(), path)
		require.NoError(t, err)
	}
	assert.Equal(t, "safe", why.Safe)
	kinds := map[string]int{}
	for _, file := range why.Files {
		kinds[file.Path[:strings.LastIndexByte(file.Path, '/')]]++
		assert.Equal(t, "stored", file.State, file.Path)
		require.Len(t, file.Shards, 3)
		require.Len(t, file.Meta, 4)
		for _, s := range append(file.Shards, file.Meta...) {
			assert.Equal(t, "good", s.State)
			assert.Regexp(t, `^(data|meta)\d$`, s.Backend)
		}
	}
	assert.Len(t, kinds, 4, "data and index files of both namespaces: %v", kinds)
	assert.Empty(t, why.Notes)

	env.Faults.Down(addressOf(t, env, "data2"))
	why, err = f.Why(t.Context(), why.Files[0].Path)
	require.NoError(t, err)
	require.Len(t, why.Files, 1)
	states := map[string]int{}
	for _, s := range why.Files[0].Shards {
		states[s.State]++
	}
	assert.Equal(t, map[string]int{"good": 2, "unreachable": 1}, states)
	var unknown *qsfs.UnknownPathError
	_, err = f.Why(t.Context(), "dir/nothing")
	require.ErrorAs(t, err, &unknown)
	_, err = f.Why(t.Context(), "/etc/passwd")
	require.ErrorAs(t, err, &unknown)
	_, err = f.Why(t.Context(), "data/zdbfs-data/d999")
	require.ErrorAs(t, err, &unknown)
	env.Faults.Up(addressOf(t, env, "data2"))
	r := check(t, f, "dir/a")
	assert.EqualValues(t, r.Files, r.OK)
	assert.GreaterOrEqual(t, r.Files, int64(4))
}

// What leads to the files is completed too when the fourth metadata backend is
// back: the manifest, its base, the head.
func TestManifestIsCompleted(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	f := env.Frontend(t)
	for _, name := range strings.Split("abcdefghijklmnopqrst", "") { // many: a later manifest is a delta
		writeSome(t, f, name)
	}
	f.MustSync(t)
	env.Faults.Down(addressOf(t, env, "meta3"))
	require.NoError(t, f.Stop())
	f = env.FrontendIn(t, f.Dir) // its first manifest is a whole one
	for i := range 3 {
		f.Write(t, "g", random(uint64(i), 1000))
		f.MustSync(t)
	}
	r := check(t, f)
	assert.Positive(t, r.Degraded)
	env.Faults.Up(addressOf(t, env, "meta3"))
	require.Eventually(t, func() bool {
		r, err := f.Check(t.Context(), client.CheckRequest{})
		return err == nil && len(r.Damage) == 0
	}, 60*time.Second, 200*time.Millisecond)
	st, err := f.Status(t.Context())
	require.NoError(t, err)
	assert.NotContains(t, strings.Join(st.Notes, " "), "three of four")
}
