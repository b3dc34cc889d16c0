package peertest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkBesideReal stores and retrieves a file of 64 MiB, 3+2, over one real
// zdb, with ours and the real program in turns, and reports medians.
func BenchmarkBesideReal(b *testing.B) {
	p := newPeer(b, 3, 5)
	content := make([]byte, 64<<20)
	rand.NewChaCha8([32]byte{1}).Read(content)
	base := p.file("base", content)
	times := map[string][]float64{}
	timed := func(what string, f func()) {
		began := time.Now()
		f()
		times[what] = append(times[what], time.Since(began).Seconds())
	}
	round := 0
	for b.Loop() {
		ours, theirs := filepath.Join(p.dir, fmt.Sprint("ours", round)), filepath.Join(p.dir, fmt.Sprint("real", round))
		round++
		require.NoError(b, os.Link(base, ours))
		require.NoError(b, os.Link(base, theirs))
		timed("ours-store", func() {
			_, err := p.eng.StoreFile(b.Context(), ours, ours)
			require.NoError(b, err)
		})
		timed("real-store", func() { p.zstor("store", "-f", theirs) })
		require.NoError(b, os.Remove(ours))
		require.NoError(b, os.Remove(theirs))
		timed("ours-retrieve", func() {
			_, err := p.eng.RetrieveFile(b.Context(), ours, ours)
			require.NoError(b, err)
		})
		timed("real-retrieve", func() { p.zstor("retrieve", "-f", theirs) })
		for _, f := range []string{ours, theirs} {
			obj, err := p.eng.Lookup(b.Context(), f)
			require.NoError(b, err)
			_, err = p.eng.RemoveShards(b.Context(), obj)
			require.NoError(b, err)
			require.NoError(b, os.Remove(f))
		}
	}
	for what, t := range times {
		slices.Sort(t)
		b.ReportMetric(64/t[len(t)/2], what+"-MiB/s")
	}
}
