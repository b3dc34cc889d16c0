package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestClaimOrder(t *testing.T) {
	t.Parallel()
	s := openTemp(t, Options{})
	require.NoError(t, s.Queue().Enqueue(t.Context(),
		Item{Path: "manifest", Version: "1", Kind: KindManifest, Checkpoint: 1},
		Item{Path: "i1", Version: "1", Kind: KindIndex, Checkpoint: 1},
		Item{Path: "d-late", Version: "1", Kind: KindData, Checkpoint: 2},
		Item{Path: "d1", Version: "1", Kind: KindData, Checkpoint: 1},
		Item{Path: "d2", Version: "1", Kind: KindData, Checkpoint: 1},
		Item{Path: "d-urgent", Version: "1", Kind: KindData, Checkpoint: 1, Priority: 5},
		Item{Path: "descriptor", Version: "1", Kind: KindDescriptor, Checkpoint: 1},
	))
	var got []string
	for range 7 {
		got = append(got, claim(t, s.Queue()).Item.Path)
	}
	require.Equal(t, []string{"descriptor", "d-urgent", "d1", "d2", "i1", "manifest", "d-late"}, got)
	claimNone(t, s.Queue())
}

func TestEnqueueIsIdempotent(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := openTemp(t, Options{})
	q := s.Queue()
	require.NoError(t, q.Enqueue(ctx, item("d0", "1"), item("d0", "1"), item("d0", "1")))
	require.NoError(t, q.Done(ctx, claim(t, q), Result{}))
	require.NoError(t, q.Enqueue(ctx, item("d0", "1")))
	claimNone(t, q)
	require.NoError(t, q.Enqueue(ctx, item("d0", "2")), "another version is another item")
	require.Equal(t, "2", claim(t, q).Item.Version)

	had, err := q.Forget(ctx, "d0", "1")
	require.NoError(t, err)
	require.True(t, had)
	require.NoError(t, q.Enqueue(ctx, item("d0", "1")))
	require.Len(t, entries(t, q, Filter{}), 2)
	checkSums(t, s)
}

func TestEnqueueIsAllOrNothing(t *testing.T) {
	t.Parallel()
	s := openTemp(t, Options{})
	for _, bad := range []Item{
		{Version: "1", Kind: KindData}, {Path: "p", Kind: KindData}, {Path: "p", Version: "1"},
		{Path: "p", Version: "1", Kind: "else"}, {Path: "p", Version: "1", Kind: KindData, Size: -1},
	} {
		require.ErrorIs(t, s.Queue().Enqueue(t.Context(), item("d0", "1"), bad), errItem)
	}
	require.Empty(t, entries(t, s.Queue(), Filter{}))
}

func TestPathsHoldAnyByte(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := openTemp(t, Options{})
	for _, path := range []string{"it's \"quoted\"; --", "?0 {queue}", "\xff\xfe", "a\x00b", "a", "línea\n", strings.Repeat("x", 5000)} {
		require.NoError(t, s.BeginCheckpoint(ctx, Checkpoint{Seq: 1}, []Item{item(path, path)}, []File{{Path: path, Version: path, Kind: KindData, State: FilePending}}))
		l := claim(t, s.Queue())
		require.Equal(t, path, l.Item.Path)
		require.Equal(t, path, l.Item.Version)
		require.NoError(t, s.MarkStored(ctx, path, path, Stored{ObjectPath: path, Checksum: "sum", State: FileStored}))
		f, err := s.File(ctx, path)
		require.NoError(t, err)
		require.Equal(t, path, f.ObjectPath)
	}
	n := 0
	for f, err := range s.Files(ctx, FileFilter{}) {
		require.NoError(t, err)
		require.Equal(t, FileStored, f.State)
		n++
	}
	require.Equal(t, 7, n)
}

// Eight workers fail, lose leases and stop; every item is done exactly once.
func TestWorkersDoEachItemOnce(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := openTemp(t, Options{RetryMin: time.Millisecond, RetryInterval: 5 * time.Millisecond})
	q := s.Queue()
	const paths, versions = 30, 3
	var done [paths * versions]atomic.Int32
	var left atomic.Int32
	left.Store(paths * versions)
	var working sync.Map // path → worker: never two versions of a path at a time
	stop, cancel := context.WithCancel(ctx)
	defer cancel()
	var workers sync.WaitGroup
	worker := func(name string, rnd *rand.Rand) error {
		for {
			if err := q.Wait(stop); err != nil {
				if errors.Is(err, context.Canceled) {
					return nil
				}
				return err
			}
			l, ok, err := q.Claim(ctx, name, time.Minute)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			if other, taken := working.LoadOrStore(l.Item.Path, name); taken {
				return fmt.Errorf("%s is worked on by %s and %s", l.Item.Path, other, name)
			}
			var id int
			if _, err := fmt.Sscan(l.Item.Source, &id); err != nil {
				return err
			}
			working.Delete(l.Item.Path) // before the lease is given back
			switch rnd.IntN(5) {
			case 0:
				err = q.Fail(ctx, l, errors.New("backend down"))
			case 1:
				err = q.Release(ctx, l)
			default:
				if l, err = q.Extend(ctx, l, time.Minute); err != nil {
					return err
				}
				if err = q.Done(ctx, l, Result{}); err == nil {
					done[id].Add(1)
					if left.Add(-1) == 0 {
						cancel()
					}
				}
			}
			if err != nil {
				return err
			}
		}
	}
	errs := make(chan error, 8)
	for i := range 8 {
		workers.Go(func() { errs <- worker(fmt.Sprint("w", i), rand.New(rand.NewPCG(uint64(i), 0))) })
	}
	for v := range versions {
		var batch []Item
		for p := range paths {
			batch = append(batch, Item{Path: fmt.Sprint("p", p), Version: fmt.Sprint(v), Kind: KindData, Source: fmt.Sprint(v*paths + p)})
		}
		require.NoError(t, q.Enqueue(ctx, batch...))
	}
	for range 8 {
		require.NoError(t, <-errs)
	}
	workers.Wait()
	for i := range done {
		require.EqualValues(t, 1, done[i].Load(), "item %d", i)
	}
	checkSums(t, s)
}

func TestLeaseEndsAndIsLost(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := newFakeClock()
	s := openFake(t, tempDB(t), Options{}, c)
	q := s.Queue()
	require.NoError(t, q.Enqueue(ctx, item("d0", "1")))
	first := claim(t, q)
	c.pass(30 * time.Second)
	first, err := q.Extend(ctx, first, time.Minute)
	require.NoError(t, err)
	c.jump(24 * time.Hour) // no reason to lose a lease
	c.pass(59 * time.Second)
	claimNone(t, q)
	c.jump(-48 * time.Hour) // nor to keep it
	c.pass(time.Second)
	second := claim(t, q)
	require.Equal(t, first.Item, second.Item)
	require.Zero(t, second.Tries)
	d, err := q.nextAt(ctx)
	require.NoError(t, err)
	require.Positive(t, d, "Wait waits: the lease that ended is forgotten")

	_, err = q.Extend(ctx, first, time.Minute)
	require.ErrorIs(t, err, ErrLeaseLost)
	require.ErrorIs(t, q.Fail(ctx, first, nil), ErrLeaseLost)
	require.ErrorIs(t, q.Release(ctx, first), ErrLeaseLost)
	require.ErrorIs(t, q.Done(ctx, first, Result{}), ErrLeaseLost)
	require.NoError(t, q.Done(ctx, second, Result{}))
	require.ErrorIs(t, q.Done(ctx, second, Result{}), ErrLeaseLost)
	claimNone(t, q)
}

// A file that failed while the clock was a year ahead was not tried again for
// a year.
func TestClockSetBackDoesNotStall(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := newFakeClock()
	s := openFake(t, tempDB(t), Options{RetryMin: time.Second, RetryInterval: time.Minute}, c)
	q := s.Queue()
	require.NoError(t, q.Enqueue(ctx, item("d0", "1")))
	c.jump(365 * 24 * time.Hour)
	require.NoError(t, q.Fail(ctx, claim(t, q), errors.New("no")))
	c.jump(-365 * 24 * time.Hour)
	d, err := q.nextAt(ctx) // what Wait asks
	require.NoError(t, err)
	require.LessOrEqual(t, d, time.Minute)
	claimNone(t, q)
	c.pass(time.Minute)
	claim(t, q)
}

// A lease of another process ends by wall time; with the clock set back, at
// most its own length later.
func TestForeignLeaseEnds(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := newFakeClock()
	s := openFake(t, tempDB(t), Options{}, c)
	other := newQueue(s.base, 0, 0) // as another process has it
	require.NoError(t, s.Queue().Enqueue(ctx, item("d0", "1")))
	claim(t, other)
	claimNone(t, s.Queue())
	c.jump(-time.Hour)
	claimNone(t, s.Queue())
	c.pass(time.Minute)
	claim(t, s.Queue())
}

func TestBackoffGrowsToTheInterval(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := newFakeClock()
	s := openFake(t, tempDB(t), Options{RetryMin: time.Second, RetryInterval: 10 * time.Second}, c)
	q := s.Queue()
	require.NoError(t, q.Enqueue(ctx, item("d0", "1")))
	require.NoError(t, s.UpsertFiles(ctx, File{Path: "d0", Version: "1", Kind: KindData, State: FilePending}))
	for i, full := range []time.Duration{1, 2, 4, 8, 10, 10, 10} {
		full *= time.Second
		l := claim(t, q)
		require.Equal(t, i, l.Tries)
		require.NoError(t, q.Fail(ctx, l, fmt.Errorf("try %d %s", i, strings.Repeat("x", 5000))))
		c.pass(full/2 - 2*time.Millisecond)
		claimNone(t, q)
		st, err := q.Stats(ctx)
		require.NoError(t, err)
		require.Equal(t, 1, st.Failed)
		c.pass(full/2 + 4*time.Millisecond)
	}
	f, err := s.File(ctx, "d0")
	require.NoError(t, err)
	require.Equal(t, 7, f.Tries)
	require.Len(t, f.LastError, maxErrorText)
	e := entries(t, q, Filter{})
	require.True(t, strings.HasPrefix(e[0].LastError, "try 6"))
}

// A part of each delay is random: many that failed together do not come back
// together. None is dropped, however many there are.
func TestManyFailuresComeBackSpread(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := newFakeClock()
	s := openFake(t, tempDB(t), Options{RetryMin: time.Minute, RetryInterval: 10 * time.Minute}, c)
	q := s.Queue()
	const n = 2*rowsPerStatement + 500
	items := make([]Item, n)
	for i := range items {
		items[i] = item(fmt.Sprintf("d%05d", i), "1")
	}
	require.NoError(t, q.Enqueue(ctx, items...))
	for range 100 {
		require.NoError(t, q.Fail(ctx, claim(t, q), errors.New("away")))
	}
	next := map[time.Duration]int{}
	for _, e := range entries(t, q, Filter{State: ItemFailed}) {
		next[e.NextTry.Sub(c.wall).Truncate(5*time.Second)]++
	}
	require.GreaterOrEqual(t, len(next), 5, "in how many of the six spans of 5 s they come back: %v", next)

	_, err := s.db.DB.Exec(s.q(`UPDATE {queue} SET ready = 0, tries = 1, next_at = ? + id`), c.wall.UnixMilli())
	require.NoError(t, err)
	c.pass(time.Hour)
	seen := map[string]bool{}
	for range n {
		l := claim(t, q)
		seen[l.Item.Path] = true
		require.NoError(t, s.MarkStored(ctx, l.Item.Path, "1", Stored{ObjectPath: "o", Checksum: "c", State: FileStored}))
	}
	require.Len(t, seen, n)
	claimNone(t, q)

	for i := range items {
		items[i].Version = "2"
	}
	require.NoError(t, q.Enqueue(ctx, items...))
	_, err = s.db.DB.Exec(s.q(`UPDATE {queue} SET ready = 0, tries = 1, next_at = ?`), c.wall.Add(time.Minute).UnixMilli())
	require.NoError(t, err)
	claimNone(t, q)
	retried, err := q.RetryNow(ctx)
	require.NoError(t, err)
	require.Equal(t, n, retried)
	claim(t, q)
}

func TestRetryNow(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := openTemp(t, Options{})
	q := s.Queue()
	require.NoError(t, q.Enqueue(ctx, item("a", "1"), item("b", "1"), item("c", "1")))
	for range 3 {
		require.NoError(t, q.Fail(ctx, claim(t, q), errors.New("no")))
	}
	claimNone(t, q)
	n, err := q.RetryNow(ctx, "b", "unknown")
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, "b", claim(t, q).Item.Path)
	n, err = q.RetryNow(ctx)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	claim(t, q)
	claim(t, q)
}

func TestWait(t *testing.T) {
	t.Parallel()
	waiting := func(s *Store, ctx context.Context) <-chan error {
		got := make(chan error, 1)
		go func() { got <- s.Queue().Wait(ctx) }()
		return got
	}
	within := func(t *testing.T, c <-chan error) error {
		t.Helper()
		select {
		case err := <-c:
			return err
		case <-time.After(10 * time.Second):
			t.Fatal("Wait did not return")
			return nil
		}
	}
	t.Run("enqueue", func(t *testing.T) {
		t.Parallel()
		s := openTemp(t, Options{})
		got := waiting(s, t.Context())
		require.NoError(t, s.Queue().Enqueue(t.Context(), item("a", "1")))
		require.NoError(t, within(t, got))
	})
	t.Run("retry", func(t *testing.T) {
		t.Parallel()
		s := openTemp(t, Options{RetryMin: 50 * time.Millisecond})
		require.NoError(t, s.Queue().Enqueue(t.Context(), item("a", "1")))
		require.NoError(t, s.Queue().Fail(t.Context(), claim(t, s.Queue()), nil))
		require.NoError(t, within(t, waiting(s, t.Context())))
		claim(t, s.Queue())
	})
	t.Run("lease", func(t *testing.T) {
		t.Parallel()
		s := openTemp(t, Options{})
		require.NoError(t, s.Queue().Enqueue(t.Context(), item("a", "1")))
		_, ok, err := s.Queue().Claim(t.Context(), "w", 50*time.Millisecond)
		require.NoError(t, err)
		require.True(t, ok)
		require.NoError(t, within(t, waiting(s, t.Context())))
		claim(t, s.Queue())
	})
	t.Run("another version is leased", func(t *testing.T) {
		t.Parallel()
		s := openTemp(t, Options{})
		require.NoError(t, s.Queue().Enqueue(t.Context(), item("a", "1"), item("a", "2")))
		l := claim(t, s.Queue())
		claimNone(t, s.Queue())
		got := waiting(s, t.Context())
		require.NoError(t, s.MarkStored(t.Context(), "a", l.Item.Version, Stored{ObjectPath: "", Checksum: "", State: FileStored}))
		require.NoError(t, within(t, got))
		require.Equal(t, "2", claim(t, s.Queue()).Item.Version)
	})
	t.Run("cancel", func(t *testing.T) {
		t.Parallel()
		s := openTemp(t, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		got := waiting(s, ctx)
		cancel()
		require.ErrorIs(t, within(t, got), context.Canceled)
	})
	t.Run("close", func(t *testing.T) {
		t.Parallel()
		s := openTemp(t, Options{})
		got := waiting(s, t.Context())
		require.NoError(t, s.Close())
		require.Error(t, within(t, got))
		require.ErrorIs(t, s.Queue().Wait(t.Context()), ErrClosed)
	})
}

func TestList(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := openTemp(t, Options{})
	q := s.Queue()
	var items []Item
	for i := range 2500 {
		items = append(items, Item{Path: fmt.Sprint("p", i), Version: "1", Kind: KindData, Checkpoint: int64(1 + i/1000)})
	}
	items[2400].Kind = KindIndex
	require.NoError(t, q.Enqueue(ctx, items...))
	failed, leased := claim(t, q), claim(t, q)
	require.NoError(t, q.Fail(ctx, failed, errors.New("no")))
	for name, c := range map[string]struct {
		filter Filter
		want   int
	}{
		"all":        {Filter{}, 2500},
		"limit":      {Filter{Limit: 1001}, 1001},
		"pending":    {Filter{State: ItemPending}, 2498},
		"failed":     {Filter{State: ItemFailed}, 1},
		"uploading":  {Filter{State: ItemUploading}, 1},
		"kind":       {Filter{Kind: KindIndex}, 1},
		"path":       {Filter{Path: leased.Item.Path}, 1},
		"checkpoint": {Filter{Checkpoint: 2}, 2000},
		"none":       {Filter{Path: "unknown"}, 0},
	} {
		require.Len(t, entries(t, q, c.filter), c.want, name)
	}
	n, err := q.PendingFor(ctx, 2)
	require.NoError(t, err)
	require.Equal(t, 2000, n)

	// The queue may be changed on the way.
	seen := 0
	for e, err := range q.List(ctx, Filter{}) {
		require.NoError(t, err)
		if seen++; seen%100 == 0 {
			_, err := q.Forget(ctx, e.Item.Path, e.Item.Version)
			require.NoError(t, err)
		}
	}
	require.Equal(t, 2500, seen)
	checkSums(t, s)
}

// All backends are dead and a million files failed: the order of claims and
// the numbers must not be found by looking at each of them. The plan tells.
func TestQuestionsUseIndexes(t *testing.T) {
	t.Parallel()
	s := openTemp(t, Options{})
	for _, query := range []string{
		`SELECT id FROM {queue} AS c WHERE ready = 1` + notBlocked + ` ORDER BY checkpoint, rank, priority DESC, id LIMIT 1`,
		`SELECT min(next_at) FROM {queue} WHERE ready = 0 AND leased = 0`,
		`SELECT max(next_at) FROM {queue} WHERE ready = 0 AND leased = 0`,
		`UPDATE {queue} SET ready = 1 WHERE id IN (SELECT id FROM {queue} WHERE ready = 0 AND leased = 0 AND next_at <= 1 ORDER BY next_at LIMIT 1000)`,
		`SELECT min(created_at) FROM {queue}`,
		`SELECT count(*) FROM {queue} WHERE leased = 1 AND tries > 0`,
		`SELECT min(lease_until) FROM {queue} WHERE leased = 1 AND session <> 'x'`,
		`SELECT count(*) FROM {queue} WHERE checkpoint <= 1`,
	} {
		rows, err := s.db.DB.Query(`EXPLAIN QUERY PLAN ` + s.q(query))
		require.NoError(t, err)
		for rows.Next() {
			var a, b, c int
			var text string
			require.NoError(t, rows.Scan(&a, &b, &c, &text))
			if strings.HasPrefix(text, "SCAN") {
				require.Contains(t, text, "INDEX", query)
			}
			require.NotContains(t, text, "TEMP B-TREE", query)
		}
		require.NoError(t, rows.Close())
	}
}
