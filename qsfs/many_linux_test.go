package qsfs_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend/local"
	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
)

// manyFrontend is a stopped frontend with very many tracked files.
func manyFrontend(t testing.TB, env *testenv.Env, m testenv.Many) string {
	t.Helper()
	dir := t.TempDir()
	if base := os.Getenv("QUANTUMD_SEED_DIR"); base != "" {
		dir = base
	}
	f := env.FrontendIn(t, dir)
	f.Write(t, "a", []byte("hello"))
	f.MustSync(t)
	require.NoError(t, f.Stop())
	began := time.Now()
	require.NoError(t, testenv.Seed(t.Context(), qsfs.LayoutBelow(dir), m))
	t.Logf("seeded in %v", time.Since(began))
	return dir
}

// rssAnon is the anonymous memory of a process in bytes.
func rssAnon(pid int) int64 {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), "RssAnon:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			if err != nil {
				return 0
			}
			return kib << 10
		}
	}
	return 0
}

// watchMemory gives the peak of a process's anonymous memory, until stopped.
func watchMemory(pid int) (stop func() int64) {
	ctx, cancel := context.WithCancel(context.Background())
	var peak int64
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			peak = max(peak, rssAnon(pid))
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return func() int64 { cancel(); watching.Wait(); return peak }
}

type manyFigures struct {
	start, sync time.Duration
	status      []time.Duration // sorted
	cpu         time.Duration   // of the whole process
	peak        int64           // of anonymous memory
}

// startMany runs a system of many files in a process of its own, and measures.
func startMany(t testing.TB, env *testenv.Env, dir string) manyFigures {
	t.Helper()
	var m manyFigures
	began := time.Now()
	p := startProcess(t, saveConfig(t, env), dir, "-")
	defer p.kill(t)
	m.start = time.Since(began)
	stop := watchMemory(p.cmd.Process.Pid)
	for range 10 {
		began = time.Now()
		_, err := p.client.Status(t.Context())
		require.NoError(t, err)
		m.status = append(m.status, time.Since(began))
	}
	slices.Sort(m.status)
	began = time.Now()
	_, err := p.client.Sync(t.Context())
	require.NoError(t, err)
	m.sync = time.Since(began)
	m.peak = max(stop(), p.peak)
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, p.cmd.Wait(), "%s", p.stderr)
	m.cpu = p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	if os.Getenv("QSFS_TEST_LOG") != "" {
		t.Log(p.stderr)
	}
	return m
}

// manyPairs is how many pairs the tests use: 10,000 make 20,000 tracked files;
// in the long run a million.
func manyPairs() int {
	if n, err := strconv.Atoi(os.Getenv("QUANTUMD_SEED_PAIRS")); err == nil {
		return n
	}
	if os.Getenv("QUANTUMD_LONG") != "" {
		return 500_000
	}
	return 10_000
}

// A start with nothing changed: of a million tracked files in under 20 s and
// 150 MiB, and a status in under 100 ms.
func TestManyFiles(t *testing.T) {
	env := testenv.New(t, testenv.Options{})
	pairs := manyPairs()
	dir := manyFrontend(t, env, testenv.Many{Pairs: pairs, Local: pairs, Whole: true})
	m := startMany(t, env, dir)
	t.Logf("%d tracked files: start %v, status %v, sync with nothing new %v, CPU %v, peak anonymous memory %d MiB",
		2*pairs, m.start, m.status[len(m.status)/2], m.sync, m.cpu, m.peak>>20)
	// Where others use the machine as well, what it took is the CPU's time.
	require.Less(t, min(m.start, m.cpu), 20*time.Second)
	require.Less(t, m.status[len(m.status)/2], 100*time.Millisecond)
	require.Less(t, m.peak, int64(150<<20))
}

// Every data file waits in the queue, and every backend is dead: the start does
// not depend on them, and neither does the status; nor that of a system that
// does not run.
func TestManyPendingWithoutBackends(t *testing.T) {
	p := local.New(filepath.Join(t.TempDir(), "backends"), local.InProcess(nil))
	env := testenv.New(t, testenv.Options{Provisioner: p})
	pairs := manyPairs()
	dir := manyFrontend(t, env, testenv.Many{Pairs: pairs, Local: pairs, Pending: pairs / 2})
	require.NoError(t, p.Close())

	daemon := startProcess(t, saveConfig(t, env), dir, "-")
	defer daemon.kill(t)
	var took []time.Duration
	for range 10 {
		began := time.Now()
		st, err := daemon.client.Status(t.Context())
		took = append(took, time.Since(began))
		require.NoError(t, err)
		require.GreaterOrEqual(t, st.Queue.Pending+st.Queue.Uploading+st.Queue.Failed, int64(pairs/2))
		require.GreaterOrEqual(t, st.LossWindow.Bytes, int64(pairs/2)*smallestFile)
		require.NotEmpty(t, st.Notes)
	}
	require.Never(t, func() bool {
		st, err := daemon.client.Status(t.Context())
		return err != nil || st.Queue.Failed > 100
	}, time.Second, 100*time.Millisecond, "workers pause rather than have every file fail")
	daemon.kill(t)
	var st *client.Status
	var offline []time.Duration
	for range 5 {
		var err error
		began := time.Now()
		st, err = qsfs.OfflineStatus(t.Context(), qsfs.LayoutBelow(dir))
		offline = append(offline, time.Since(began))
		require.NoError(t, err)
	}
	slices.Sort(took)
	slices.Sort(offline)
	exact, err := qsfs.Unsynced(t.Context(), qsfs.LayoutBelow(dir))
	require.NoError(t, err)
	require.Equal(t, exact.Bytes, st.LossWindow.Bytes, "the sums are what the files say")
	t.Logf("%d tracked files, %d pending, no backend: status %v to %v, when stopped %v", 2*pairs, pairs/2, took[0], took[9], offline[2])
	// What looks at each file takes seconds; the rest is how busy the machine is.
	require.Less(t, took[5], 500*time.Millisecond)
	require.Less(t, offline[2], 500*time.Millisecond)
}

// smallestFile is the length of the data files that Seed makes.
const smallestFile = 55

func BenchmarkReconcile(b *testing.B) {
	for _, files := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprintf("files=%d", files), func(b *testing.B) {
			env := testenv.New(b, testenv.Options{})
			dir := manyFrontend(b, env, testenv.Many{Pairs: files / 2, Local: files / 20, Whole: true})
			var m manyFigures
			for b.Loop() {
				m = startMany(b, env, dir)
			}
			b.ReportMetric(m.start.Seconds(), "s-start")
			b.ReportMetric(m.cpu.Seconds(), "s-cpu")
			b.ReportMetric(float64(m.status[len(m.status)/2].Microseconds())/1000, "ms-status")
			b.ReportMetric(float64(m.peak>>20), "MiB-anon")
		})
	}
}

// BenchmarkUpload brings 64 MiB files that do not compress to backends in this
// process, from one of its own: 2+1 shards.
func BenchmarkUpload(b *testing.B) {
	const size, files = 64 << 20, 8
	for _, workers := range []int{1, 2, 4} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				env := testenv.New(b, testenv.Options{})
				env.Config.ZdbDataSize, env.Config.UploadWorkers = size, workers
				dir := manyFrontend(b, env, testenv.Many{Pairs: files + 2, Local: files + 2, Pending: files + 1, Size: size})
				b.StartTimer()
				began := time.Now()
				p := startProcess(b, saveConfig(b, env), dir, "-")
				stop := watchMemory(p.cmd.Process.Pid)
				for {
					st, err := p.client.Status(b.Context())
					require.NoError(b, err)
					if st.Queue.Pending+st.Queue.Uploading+st.Queue.Failed == 0 {
						break
					}
					time.Sleep(5 * time.Millisecond) // what is measured is not ours to wait for otherwise
				}
				took := time.Since(began)
				b.StopTimer()
				b.ReportMetric(files*size/1e6/took.Seconds(), "MB/s")
				b.ReportMetric(float64(max(stop(), p.peak)>>20), "MiB-anon")
				b.ReportMetric(float64(env.Config.MemoryLimit>>20), "MiB-limit")
				p.kill(b)
				b.StartTimer()
			}
		})
	}
}
