package zstor

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// anonymous gives the anonymous memory of the process in MiB.
func anonymous() float64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "RssAnon:" {
			kib, _ := strconv.ParseFloat(f[1], 64) // a figure for a person
			return kib / 1024
		}
	}
	return 0
}

// peakOf watches anonymous memory until stop is called.
func peakOf() (stop func() float64) {
	var peak atomic.Int64
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				peak.Store(max(peak.Load(), int64(anonymous()*1024)))
			}
		}
	})
	return func() float64 {
		close(done)
		watching.Wait()
		return float64(peak.Load()) / 1024
	}
}

func benchObject(b *testing.B, spill bool) (*rig, string) {
	r := newRig(b, 3, 5, 5, func(_ *Config, o *Options) {
		if spill {
			o.SpillAbove = 1 << 20
		} else {
			o.SpillAbove = 256 << 20
		}
	})
	for i := range 5 {
		r.d(i).Wrap(11)
	}
	file := filepath.Join(b.TempDir(), "f")
	require.NoError(b, os.WriteFile(file, randomBytes(1, 64<<20), 0o600))
	return r, file
}

func benchmarkStore(b *testing.B, spill bool) {
	r, file := benchObject(b, spill)
	_, err := r.StoreFile(b.Context(), "/f", file) // what the servers hold is not ours
	require.NoError(b, err)
	b.SetBytes(64 << 20)
	debug.FreeOSMemory()
	before := anonymous()
	stop := peakOf()
	for b.Loop() {
		_, err := r.StoreFile(b.Context(), "/f", file)
		require.NoError(b, err)
	}
	b.ReportMetric(stop()-before, "MiB-peak")
}

func BenchmarkStore64MiB(b *testing.B)        { benchmarkStore(b, false) }
func BenchmarkStore64MiBSpilled(b *testing.B) { benchmarkStore(b, true) }

func benchmarkRetrieve(b *testing.B, spill bool) {
	r, file := benchObject(b, spill)
	_, err := r.StoreFile(b.Context(), "/f", file)
	require.NoError(b, err)
	dst := filepath.Join(b.TempDir(), "g")
	b.SetBytes(64 << 20)
	debug.FreeOSMemory()
	before := anonymous()
	stop := peakOf()
	for b.Loop() {
		_, err := r.RetrieveFile(b.Context(), "/f", dst)
		require.NoError(b, err)
	}
	b.ReportMetric(stop()-before, "MiB-peak")
}

func BenchmarkRetrieve64MiB(b *testing.B)        { benchmarkRetrieve(b, false) }
func BenchmarkRetrieve64MiBSpilled(b *testing.B) { benchmarkRetrieve(b, true) }

func BenchmarkStoreSmall(b *testing.B) {
	r := newRig(b, 3, 5, 5)
	content := randomBytes(1, 4096)
	for b.Loop() {
		_, err := r.Store(b.Context(), "/f", source(content))
		require.NoError(b, err)
	}
}
