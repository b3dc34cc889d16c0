package qsfs_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs"
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
	start, status, sync time.Duration
	peak                int64
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
	for range 5 {
		began = time.Now()
		_, err := p.client.Status(t.Context())
		require.NoError(t, err)
		m.status = max(m.status, time.Since(began))
	}
	began = time.Now()
	_, err := p.client.Sync(t.Context())
	require.NoError(t, err)
	m.sync = time.Since(began)
	m.peak = max(stop(), p.peak)
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, p.cmd.Wait(), "%s", p.stderr)
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
	t.Logf("%d tracked files: start %v, status %v, sync with nothing new %v, peak anonymous memory %d MiB", 2*pairs, m.start, m.status, m.sync, m.peak>>20)
	require.Less(t, m.start, 20*time.Second)
	require.Less(t, m.status, 100*time.Millisecond)
	require.Less(t, m.peak, int64(150<<20))
}
