package store

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func objectsOn(t *testing.T, s *Store, backend string) []string {
	t.Helper()
	var out []string
	for after := int64(0); ; {
		page, err := s.ObjectsOn(t.Context(), backend, after, 3)
		require.NoError(t, err)
		for _, p := range page {
			require.Contains(t, p.Backends, backend)
			require.Greater(t, p.ID, after)
			after = p.ID
			out = append(out, p.Object)
		}
		if len(page) < 3 {
			return out
		}
	}
}

func TestPlacements(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := openTemp(t, Options{})
	for i := range 10 {
		require.NoError(t, s.SetPlacements(ctx, fmt.Sprint("o", i), []string{"b0", fmt.Sprint("b", 1+i%3), "b9"}))
	}
	require.Len(t, objectsOn(t, s, "b0"), 10)
	require.Equal(t, []string{"o0", "o3", "o6", "o9"}, objectsOn(t, s, "b1"))
	require.Empty(t, objectsOn(t, s, "nobody"))
	counts, err := s.ObjectCounts(ctx)
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"b0": 10, "b1": 4, "b2": 3, "b3": 3, "b9": 10}, counts)

	// A shard moves: the object keeps its id and its order.
	before, err := s.PlacementOf(ctx, "o3")
	require.NoError(t, err)
	require.NoError(t, s.SetPlacements(ctx, "o3", []string{"b0", "b4", "b9"}))
	after, err := s.PlacementOf(ctx, "o3")
	require.NoError(t, err)
	require.Equal(t, Placement{before.ID, "o3", []string{"b0", "b4", "b9"}}, after)
	require.Equal(t, []string{"o0", "o6", "o9"}, objectsOn(t, s, "b1"))
	require.Equal(t, []string{"o3"}, objectsOn(t, s, "b4"))
	require.NoError(t, s.ForgetObjects(ctx, "o3", "unknown"))
	_, err = s.PlacementOf(ctx, "o3")
	require.ErrorIs(t, err, ErrNotFound)
	counts, err = s.ObjectCounts(ctx)
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"b0": 9, "b1": 3, "b2": 3, "b3": 3, "b4": 0, "b9": 9}, counts)
	require.Error(t, s.SetPlacements(ctx, "o1", []string{"b0", ""}))
	require.Len(t, objectsOn(t, s, "b0"), 9, "nothing of a refused change stays")
}

// What counts as stored, its placements and the end of the queue's item are one
// transaction: where the last of them fails, nothing of it is there.
func TestMarkStoredIsOneStep(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := openTemp(t, Options{})
	track := func(version string, seq int64) {
		f := File{Path: "i0", Version: version, Kind: KindIndex, State: FilePending, ObjectPath: "i0@" + version}
		require.NoError(t, s.BeginCheckpoint(ctx, Checkpoint{Seq: seq}, []Item{item("i0", version)}, []File{f}))
	}
	file := func() File {
		f, err := s.File(ctx, "i0")
		require.NoError(t, err)
		return f
	}
	track("1", 1)
	broken := Stored{ObjectPath: "i0@1", Checksum: "c", State: FileDegraded, Backends: []string{"b0", ""}}
	require.Error(t, s.MarkStored(ctx, "i0", "1", broken))
	require.Equal(t, FilePending, file().State)
	require.Len(t, entries(t, s.Queue(), Filter{}), 1)
	require.Error(t, s.MarkStored(ctx, "i0", "1", Stored{ObjectPath: "i0@1", State: FilePending}), "that is not stored")

	require.NoError(t, s.MarkStored(ctx, "i0", "1", Stored{ObjectPath: "i0@1", Checksum: "c", State: FileDegraded, Backends: []string{"b0", "b1"}, Note: context.Canceled}))
	require.Equal(t, FileDegraded, file().State)
	require.True(t, file().VerifiedAt.IsZero())
	require.Equal(t, context.Canceled.Error(), file().LastError)
	require.NoError(t, s.MarkStored(ctx, "i0", "1", Stored{ObjectPath: "i0@1", Checksum: "c", State: FileStored, Verified: true}))
	require.Equal(t, FileStored, file().State)
	require.False(t, file().VerifiedAt.IsZero())
	require.Equal(t, []string{"i0@1"}, objectsOn(t, s, "b1"), "they stay where nothing else is said")
	require.NoError(t, s.CommitCheckpoint(ctx, 1))

	// The next version's object takes over at its commit: until then a restore
	// would read the old one.
	track("2", 2)
	require.True(t, file().VerifiedAt.IsZero())
	unplaced := func() []File {
		list, err := s.Unplaced(ctx, "", 10)
		require.NoError(t, err)
		return list
	}
	require.NoError(t, s.MarkStored(ctx, "i0", "2", Stored{ObjectPath: "i0@2", Checksum: "c", State: FileStored, Verified: true}))
	require.Len(t, unplaced(), 1)
	require.NoError(t, s.SetPlacements(ctx, "i0@2", []string{"b1", "b2"}))
	require.Empty(t, unplaced())
	require.Equal(t, []string{"i0@1", "i0@2"}, objectsOn(t, s, "b1"))
	require.NoError(t, s.CommitCheckpoint(ctx, 2))
	require.Equal(t, []string{"i0@2"}, objectsOn(t, s, "b1"))
	require.Empty(t, objectsOn(t, s, "b0"))
	checkSums(t, s)
}

func TestReplacementsSurvive(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	clock := newFakeClock()
	path := tempDB(t)
	s, err := open(ctx, path, Options{}, clock.clock())
	require.NoError(t, err)
	first, err := s.SaveReplacement(ctx, Replacement{Backend: "b1", Role: "data", Step: "grace", Reason: "connection refused"})
	require.NoError(t, err)
	second, err := s.SaveReplacement(ctx, Replacement{Backend: "m1", Role: "meta", Step: "grace"})
	require.NoError(t, err)
	require.Greater(t, second, first)
	all, err := s.Replacements(ctx, true, 0)
	require.NoError(t, err)
	require.Len(t, all, 2)
	r := all[1]
	require.Equal(t, clock.wall, r.Started)
	r.Step, r.Objects, r.Rebuilt, r.Bytes, r.Cursor, r.Successor, r.Generation = "rebuild", 10, 3, 1<<40, "object 3", "b7", 2
	r.NextTry, r.Error = clock.wall.Add(1e9), "timeout"
	id, err := s.SaveReplacement(ctx, r)
	require.NoError(t, err)
	require.Equal(t, first, id)
	_, err = s.SaveReplacement(ctx, Replacement{ID: second, Backend: "m1", Role: "meta", Step: "cancelled", Ended: true})
	require.NoError(t, err)
	_, err = s.SaveReplacement(ctx, Replacement{ID: 99})
	require.ErrorIs(t, err, ErrNotFound)
	require.NoError(t, s.Close())

	s = openFake(t, path, Options{}, clock)
	open, err := s.Replacements(ctx, true, 0)
	require.NoError(t, err)
	require.Equal(t, []Replacement{r}, open)
	all, err = s.Replacements(ctx, false, 1)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, second, all[0].ID)
}

func TestTempNamespaceIsRefused(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := openTemp(t, Options{})
	for _, path := range []string{"data/zdbfs-temp/d0", "zdbfs-temp/i0", "/srv/index/zdbfs-temp/zdb-namespace"} {
		require.ErrorIs(t, s.Queue().Enqueue(ctx, item("data/zdbfs-data/d0", "1"), item(path, "1")), ErrTemporary)
		require.ErrorIs(t, s.BeginCheckpoint(ctx, Checkpoint{Seq: 1}, []Item{item(path, "1")}, nil), ErrTemporary)
	}
	copied := item("d0", "1")
	copied.Source = "/zdb/data/zdbfs-temp/d0"
	require.ErrorIs(t, s.Queue().Enqueue(ctx, copied), ErrTemporary)
	require.NoError(t, s.Queue().Enqueue(ctx, item("data/zdbfs-temporary/d0", "1")))
	require.Len(t, entries(t, s.Queue(), Filter{}), 1)
}

func TestFailuresAreKeptAndBounded(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	clock := newFakeClock()
	s := openFake(t, tempDB(t), Options{}, clock)
	require.NoError(t, s.Queue().Enqueue(ctx, item("d0", "1")))
	for i := range failuresPerPath + 5 {
		require.NoError(t, s.Queue().Fail(ctx, claim(t, s.Queue()), fmt.Errorf("failure %d", i)))
		clock.pass(DefaultRetryInterval)
	}
	got, err := s.Queue().Failures(ctx, "d0")
	require.NoError(t, err)
	require.Len(t, got, failuresPerPath)
	require.Equal(t, "failure 14", got[0].Error)
	require.Equal(t, "failure 5", got[9].Error)
	require.True(t, got[0].Time.After(got[9].Time))
	e := entries(t, s.Queue(), Filter{})
	require.Len(t, e, 1, "it is never given up")
	require.Equal(t, 15, e[0].Tries)
	st, err := s.Queue().Stats(ctx)
	require.NoError(t, err)
	require.Equal(t, 15*DefaultRetryInterval, st.OldestAge)
}

// However many new items come, one that waits is claimed before those of later
// checkpoints.
func TestOldItemsDoNotStarve(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := openTemp(t, Options{})
	old := item("old", "1")
	old.Kind, old.Checkpoint = KindIndex, 3
	require.NoError(t, s.Queue().Enqueue(ctx, old))
	for i := range 50 {
		it := item(fmt.Sprint("new", i), "1")
		it.Kind, it.Checkpoint, it.Priority = KindDescriptor, int64(4+i), 1000
		require.NoError(t, s.Queue().Enqueue(ctx, it))
	}
	require.Equal(t, "old", claim(t, s.Queue()).Item.Path)
}
