package store

import (
	"fmt"
	"testing"
	"time"
)

func many(n int) ([]Item, []File) {
	items, files := make([]Item, n), make([]File, n)
	for i := range items {
		items[i] = item(fmt.Sprintf("/opt/zdb/data/zdbfs-data/d%d", i), "67108864:0123456789abcdef0123456789abcdef")
		files[i] = File{Path: items[i].Path, Namespace: "zdbfs-data", Kind: KindData, FileID: int64(i), Version: items[i].Version, Length: 1 << 26, State: FilePending}
	}
	return items, files
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkBegin100k records 100,000 new files with their queue items.
func BenchmarkBegin100k(b *testing.B) {
	items, files := many(100_000)
	for b.Loop() {
		s := openTemp(b, Options{})
		must(b, s.BeginCheckpoint(b.Context(), Checkpoint{Seq: 1}, items, files))
	}
}

// BenchmarkReconcile100k goes through 100,000 known files and enqueues them
// all again, with nothing to do.
func BenchmarkReconcile100k(b *testing.B) {
	items, files := many(100_000)
	s := openTemp(b, Options{})
	must(b, s.BeginCheckpoint(b.Context(), Checkpoint{Seq: 1}, items, files))
	for b.Loop() {
		n := 0
		for _, err := range s.Files(b.Context(), FileFilter{}) {
			must(b, err)
			n++
		}
		if n != len(files) {
			b.Fatal(n)
		}
		must(b, s.Queue().Enqueue(b.Context(), items...))
	}
}

// BenchmarkClaimDone is the queue's share of one upload, with 100,000 waiting.
func BenchmarkClaimDone(b *testing.B) {
	s := openTemp(b, Options{})
	items, _ := many(100_000)
	must(b, s.Queue().Enqueue(b.Context(), items...))
	for b.Loop() {
		l, ok, err := s.Queue().Claim(b.Context(), "w", time.Minute)
		must(b, err)
		if !ok {
			b.Fatal("nothing to claim")
		}
		must(b, s.MarkStored(b.Context(), l.Item.Path, l.Item.Version, Stored{ObjectPath: "o", Checksum: "c", State: FileStored}))
	}
}

// BenchmarkStats is what a status asks, with 100,000 items that failed.
func BenchmarkStats(b *testing.B) {
	s := openTemp(b, Options{})
	items, _ := many(100_000)
	must(b, s.Queue().Enqueue(b.Context(), items...))
	_, err := s.db.DB.Exec(s.q(`UPDATE {queue} SET tries = 3, ready = 0, next_at = ?`), s.now()+int64(time.Hour/time.Millisecond))
	must(b, err)
	for b.Loop() {
		_, err := s.Queue().Stats(b.Context())
		must(b, err)
	}
}

// BenchmarkOpen100k is a start with 100,000 files, integrity check included.
func BenchmarkOpen100k(b *testing.B) {
	items, files := many(100_000)
	path := tempDB(b)
	s, err := Open(b.Context(), path, Options{})
	must(b, err)
	must(b, s.BeginCheckpoint(b.Context(), Checkpoint{Seq: 1}, items, files))
	must(b, s.Close())
	for b.Loop() {
		s, err := Open(b.Context(), path, Options{})
		must(b, err)
		must(b, s.Close())
	}
}

// BenchmarkEnqueue puts new items into a queue of 100,000, a thousand at a time.
func BenchmarkEnqueue(b *testing.B) {
	s := openTemp(b, Options{})
	items, _ := many(100_000)
	must(b, s.Queue().Enqueue(b.Context(), items...))
	n := 0
	for b.Loop() {
		for i := range items[:1000] {
			items[i].Version = fmt.Sprint(n)
			n++
		}
		must(b, s.Queue().Enqueue(b.Context(), items[:1000]...))
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "items/s")
}
