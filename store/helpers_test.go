package store

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fakeClock is set by tests: wall time and process time go their own ways.
type fakeClock struct {
	wall time.Time
	mono time.Duration
}

func newFakeClock() *fakeClock { return &fakeClock{wall: time.UnixMilli(1_700_000_000_000)} }

func (c *fakeClock) clock() clock {
	return clock{wall: func() time.Time { return c.wall }, mono: func() time.Duration { return c.mono }}
}

// pass lets time go by on both.
func (c *fakeClock) pass(d time.Duration) { c.wall = c.wall.Add(d); c.mono += d }

// jump sets the wall clock.
func (c *fakeClock) jump(d time.Duration) { c.wall = c.wall.Add(d) }

func openFake(t testing.TB, path string, o Options, c *fakeClock) *Store {
	t.Helper()
	s, err := open(context.Background(), path, o, c.clock())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func tempDB(t testing.TB) string { return filepath.Join(t.TempDir(), "q.db") }

// checkSums compares the kept sums with counting, and sees that nothing is in
// the queue that is done.
func checkSums(t testing.TB, s *Store) {
	t.Helper()
	var items, bytes, tried, done, both int64
	err := s.db.DB.QueryRow(s.q(`SELECT count(*), coalesce(sum(size), 0), coalesce(sum(tries > 0), 0), (SELECT count(*) FROM {done}),
		(SELECT count(*) FROM {queue} AS q JOIN {done} AS d ON d.path = q.path AND d.version = q.version) FROM {queue}`)).
		Scan(&items, &bytes, &tried, &done, &both)
	require.NoError(t, err)
	require.Zero(t, both, "items that are done and in the queue")
	st, err := s.Queue().Stats(context.Background())
	require.NoError(t, err)
	require.EqualValues(t, items, st.Pending+st.Uploading+st.Failed)
	require.EqualValues(t, bytes, st.BytesPending)
	require.EqualValues(t, done, st.Stored)
	var n int64
	require.NoError(t, s.db.DB.QueryRow(s.q(`SELECT n FROM {sums} WHERE name = 'tried'`)).Scan(&n))
	require.Equal(t, tried, n)
	var files, unsettled int64
	require.NoError(t, s.db.DB.QueryRow(s.q(`SELECT count(*), coalesce(sum(length), 0) FROM {files} WHERE kind = 'data' AND (checkpoint = 0 OR state = 'damaged'
		OR checkpoint > (SELECT coalesce(max(seq), 0) FROM {checkpoints} WHERE state = 'committed'))`)).Scan(&files, &unsettled))
	gotFiles, gotBytes, err := s.Unsettled(context.Background())
	require.NoError(t, err)
	require.Equal(t, []int64{files, unsettled}, []int64{gotFiles, gotBytes})
}

func claim(t testing.TB, q *RetryQueue) Lease {
	t.Helper()
	l, ok, err := q.Claim(context.Background(), "w", time.Minute)
	require.NoError(t, err)
	require.True(t, ok, "something is claimable")
	return l
}

func claimNone(t testing.TB, q *RetryQueue) {
	t.Helper()
	l, ok, err := q.Claim(context.Background(), "w", time.Minute)
	require.NoError(t, err)
	require.False(t, ok, "claimed %+v", l)
}

func entries(t testing.TB, q *RetryQueue, f Filter) []Entry {
	t.Helper()
	var out []Entry
	for e, err := range q.List(context.Background(), f) {
		require.NoError(t, err)
		out = append(out, e)
	}
	return out
}
