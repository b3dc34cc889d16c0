package qsfs

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/qsfs/manifest"
)

// What is known of local files against a map, with a count going on.
func TestLocalFilesAgainstModel(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(7, 8))
	var l localFiles
	model := map[uint32]int64{}
	check := func() {
		var bytes int64
		got := map[uint32]int64{}
		l.each(func(id uint32, size int64, used uint32) {
			got[id] = size
			require.EqualValues(t, id+1, used)
		})
		require.Equal(t, model, got)
		for _, size := range model {
			bytes += blocks(uint32(size))
		}
		require.Equal(t, bytes, l.total())
		require.Equal(t, len(model), l.count)
	}
	for range 200 {
		l.seen = []uint64{}
		met := map[uint32]bool{}
		for range 50 {
			id := r.Uint32N(300)
			if r.IntN(3) == 0 {
				l.drop(id)
				delete(model, id)
				continue
			}
			model[id], met[id] = 1+r.Int64N(1<<32-1), true
			l.set(id, model[id], time.Unix(int64(id)+1, 0))
		}
		for _, id := range l.unseen() {
			require.False(t, met[id])
			require.Contains(t, model, id)
		}
		check()
	}
	l.set(1<<20, 0, time.Now())
	l.set(1<<20, 1<<32, time.Now())
	check()
}

// Candidates come in order of use, page by page, however many there are.
func TestLeastUsed(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(9, 10))
	p := newSpace(dataSpace)
	s := &System{spaces: []*space{p}}
	p.ns = embeddedSpace{emptyNamespace(t)}
	const n = 3*evictPage + 17
	data := p.whole.Data
	want := map[uint32]bool{}
	for id := range uint32(n) {
		p.local.set(id, 100, time.Unix(r.Int64N(50), 0)) // many of the same time
		if id%10 == 3 {
			continue // not committed
		}
		ref := manifest.Ref{Object: fmt.Sprintf("%s@1.%d", p.dataPath(id), r.Uint32()), Length: 100, Checksum: strings.Repeat("0", 32)}
		if r.IntN(12) == 0 {
			ref.Object = fmt.Sprintf("old/place/%d", id)
		}
		require.NoError(t, data.Set(id, ref))
		want[id] = true
	}
	p.setCommitted(data.Snapshot())
	after := candidate{nr: -1}
	for {
		page, unsafe := s.leastUsed(after)
		require.Equal(t, n-p.committed.Count(), unsafe)
		if len(page) == 0 {
			break
		}
		require.LessOrEqual(t, len(page), evictPage)
		for _, c := range page {
			require.Positive(t, c.compare(after))
			require.True(t, want[c.id], "%d twice, or not safe", c.id)
			delete(want, c.id)
			after = c
		}
	}
	require.Empty(t, want)
}

func emptyNamespace(t *testing.T) *server.Namespace {
	t.Helper()
	s, err := server.Open(t.Context(), server.Options{DataDir: t.TempDir(), IndexDir: t.TempDir(), Mode: server.Sequential})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	n, err := s.CreateNamespace(t.Context(), dataSpace, server.NamespaceOptions{})
	require.NoError(t, err)
	return n
}
