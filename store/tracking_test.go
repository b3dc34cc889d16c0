package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestFiles(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := openTemp(t, Options{})
	_, err := s.File(ctx, "unknown")
	require.ErrorIs(t, err, ErrNotFound)
	at := time.UnixMilli(1_700_000_000_123)
	want := File{
		Path: "data/zdbfs-data/d7", Namespace: "zdbfs-data", Kind: KindData, FileID: 7, Version: "v", Length: 1 << 40, Checksum: "c",
		ObjectPath: "o", Epoch: 2, Generation: 3, Checkpoint: 4, State: FileDegraded, Stamp: "s", StoredAt: at, VerifiedAt: at, Tries: 5, LastError: "e",
	}
	require.NoError(t, s.UpsertFiles(ctx, want))
	got, err := s.File(ctx, want.Path)
	require.NoError(t, err)
	require.Equal(t, want, got)

	var many []File
	for i := range 3200 {
		f := File{Path: fmt.Sprintf("p%05d", i), Namespace: "zdbfs-meta", Kind: KindIndex, FileID: int64(i), State: FilePending, Version: "1"}
		if i%2 == 0 {
			f.State = FileStored
		}
		many = append(many, f)
	}
	require.NoError(t, s.UpsertFiles(ctx, many...))
	count := func(f FileFilter) (n int) {
		last := ""
		for f, err := range s.Files(ctx, f) {
			require.NoError(t, err)
			require.Greater(t, f.Path, last)
			last = f.Path
			n++
		}
		return n
	}
	require.Equal(t, 3201, count(FileFilter{}))
	require.Equal(t, 1600, count(FileFilter{State: FileStored}))
	require.Equal(t, 1, count(FileFilter{Namespace: "zdbfs-data"}))
	require.Equal(t, 1500, count(FileFilter{Kind: KindIndex, Limit: 1500}))

	require.NoError(t, s.SetFileState(ctx, "p00001", "1", FileDamaged, errors.New("shard 2 lost")))
	require.ErrorIs(t, s.SetFileState(ctx, "p00001", "0", FileStored, nil), ErrNotFound, "another version")
	require.NoError(t, s.MarkVerified(ctx, "p00001", "1"))
	got, err = s.File(ctx, "p00001")
	require.NoError(t, err)
	require.Equal(t, FileDamaged, got.State)
	require.Equal(t, "shard 2 lost", got.LastError)
	require.False(t, got.VerifiedAt.IsZero())

	require.NoError(t, s.RemoveFiles(ctx, "p00001", "unknown"))
	require.Equal(t, 3200, count(FileFilter{}))
}

// The upload of an old version ends after the file has changed: the file is
// not stored.
func TestMarkStoredOfAnOldVersion(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := openTemp(t, Options{})
	require.NoError(t, s.BeginCheckpoint(ctx, Checkpoint{Seq: 1}, []Item{item("i0", "1")}, []File{{Path: "i0", Version: "1", Kind: KindIndex, State: FilePending}}))
	require.NoError(t, s.BeginCheckpoint(ctx, Checkpoint{Seq: 2}, []Item{item("i0", "2")}, []File{{Path: "i0", Version: "2", Kind: KindIndex, State: FilePending}}))
	require.NoError(t, s.MarkStored(ctx, "i0", "1", Stored{ObjectPath: "o1", Checksum: "c1", State: FileStored}))
	f, err := s.File(ctx, "i0")
	require.NoError(t, err)
	require.Equal(t, FilePending, f.State)
	require.NoError(t, s.CommitCheckpoint(ctx, 1), "whose version is stored")
	var pending *PendingError
	require.ErrorAs(t, s.CommitCheckpoint(ctx, 2), &pending)
	require.Equal(t, 1, pending.Pending)
	require.NoError(t, s.MarkStored(ctx, "i0", "2", Stored{ObjectPath: "o2", Checksum: "c2", State: FileStored}))
	require.NoError(t, s.MarkStored(ctx, "i0", "2", Stored{ObjectPath: "o2", Checksum: "c2", State: FileStored}), "twice is once")
	require.NoError(t, s.CommitCheckpoint(ctx, 2))
	checkSums(t, s)
}

// A file that is seen a second time stays stored; one that was found damaged
// is uploaded again, though its version was done before.
func TestTrackFiles(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := openTemp(t, Options{})
	seen := File{Path: "d0", Version: "1", Kind: KindData, State: FilePending}
	again := func(seq int64) File {
		require.NoError(t, s.BeginCheckpoint(ctx, Checkpoint{Seq: seq}, []Item{item("d0", seen.Version)}, []File{seen}))
		f, err := s.File(ctx, "d0")
		require.NoError(t, err)
		return f
	}
	require.Equal(t, FilePending, again(5).State)
	require.NoError(t, s.MarkStored(ctx, "d0", "1", Stored{ObjectPath: "o", Checksum: "c", State: FileStored}))
	f := again(6)
	require.Equal(t, FileStored, f.State)
	require.Equal(t, "o", f.ObjectPath)
	require.EqualValues(t, 5, f.Checkpoint)
	claimNone(t, s.Queue())

	require.NoError(t, s.SetFileState(ctx, "d0", "1", FileDegraded, nil))
	require.Equal(t, FileDegraded, again(7).State, "it is completed, not uploaded")
	claimNone(t, s.Queue())

	require.NoError(t, s.SetFileState(ctx, "d0", "1", FileDamaged, errors.New("lost")))
	f = again(8)
	require.Equal(t, FilePending, f.State)
	require.EqualValues(t, 8, f.Checkpoint)
	require.Equal(t, "d0", claim(t, s.Queue()).Item.Path)
	require.NoError(t, s.MarkStored(ctx, "d0", "1", Stored{ObjectPath: "o", Checksum: "c", State: FileStored}))
	require.Equal(t, FileStored, again(9).State)

	seen.Version = "2"
	require.Equal(t, FilePending, again(10).State, "another version is another file")
	require.NoError(t, s.TrackFiles(ctx, File{Path: "d1", Version: "1", Kind: KindData, State: FilePending}))
	checkSums(t, s)
}

func TestCheckpoints(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := openTemp(t, Options{})
	_, err := s.LatestCommitted(ctx)
	require.ErrorIs(t, err, ErrNotFound)
	for seq := int64(1); seq <= 3; seq++ {
		require.NoError(t, s.BeginCheckpoint(ctx, Checkpoint{Seq: seq, Epoch: 9}, []Item{item(fmt.Sprint("p", seq), "1")}, nil))
	}
	open, err := s.OpenCheckpoints(ctx)
	require.NoError(t, err)
	require.Len(t, open, 3)
	require.EqualValues(t, 1, open[0].Seq)
	require.False(t, open[0].Created.IsZero())

	// A cut waits for what earlier cuts wait for: it names it too.
	require.NoError(t, s.MarkStored(ctx, "p2", "1", Stored{ObjectPath: "o", Checksum: "c", State: FileStored}))
	var pending *PendingError
	require.ErrorAs(t, s.CommitCheckpoint(ctx, 2), &pending)
	require.NoError(t, s.MarkStored(ctx, "p1", "1", Stored{ObjectPath: "o", Checksum: "c", State: FileStored}))
	require.NoError(t, s.SetManifest(ctx, 2, "manifest@9.2"))
	require.NoError(t, s.CommitCheckpoint(ctx, 2))
	require.ErrorIs(t, s.CommitCheckpoint(ctx, 1), ErrCommitted, "replaced by 2")
	require.ErrorIs(t, s.SetManifest(ctx, 2, "x"), ErrCommitted)
	require.ErrorIs(t, s.BeginCheckpoint(ctx, Checkpoint{Seq: 2, Epoch: 9}, []Item{item("late", "1")}, nil), ErrCommitted)
	require.Empty(t, entries(t, s.Queue(), Filter{Path: "late"}), "one transaction")

	c, err := s.LatestCommitted(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 2, c.Seq)
	require.Equal(t, "manifest@9.2", c.Manifest)
	require.False(t, c.Committed.IsZero())
	c, err = s.LatestCheckpoint(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 3, c.Seq)
	open, err = s.OpenCheckpoints(ctx)
	require.NoError(t, err)
	require.Len(t, open, 1)
}

func TestGenerations(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := openTemp(t, Options{})
	_, err := s.LatestGeneration(ctx)
	require.ErrorIs(t, err, ErrNotFound)
	require.Error(t, s.SaveGeneration(ctx, Generation{Number: 1, Backends: json.RawMessage(`{`)}))
	one, two := json.RawMessage(`[{"id":"a"}]`), json.RawMessage(`[{"id":"b"}]`)
	require.NoError(t, s.SaveGeneration(ctx, Generation{Number: 1, Reason: "deploy", Backends: one}))
	require.NoError(t, s.SaveGeneration(ctx, Generation{Number: 2, Reason: "replace a", Backends: two}))
	require.NoError(t, s.SaveGeneration(ctx, Generation{Number: 2, Backends: two}), "again")
	require.ErrorIs(t, s.SaveGeneration(ctx, Generation{Number: 2, Backends: one}), ErrStale)
	require.NoError(t, s.SaveGeneration(ctx, Generation{Number: 1, Backends: one}), "what is known changes nothing")
	require.ErrorIs(t, s.SaveGeneration(ctx, Generation{Number: 1, Backends: two}), ErrStale)
	g, err := s.LatestGeneration(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 2, g.Number)
	require.Equal(t, "replace a", g.Reason)
	require.Equal(t, two, g.Backends)
	all, err := s.Generations(ctx)
	require.NoError(t, err)
	require.Len(t, all, 2)

	since := time.UnixMilli(1_700_000_000_000)
	a := BackendState{ID: "a", Role: "meta", State: "up", Since: since, Generation: 1, Info: json.RawMessage(`{"x":1}`)}
	b := BackendState{ID: "b", Role: "data", State: "down", Generation: 2, Info: json.RawMessage(`null`)}
	require.NoError(t, s.UpsertBackends(ctx, b, BackendState{ID: "a", State: "down"}))
	require.NoError(t, s.UpsertBackends(ctx, a))
	got, err := s.Backends(ctx)
	require.NoError(t, err)
	require.Equal(t, []BackendState{a, b}, got)
}

func TestEventsAreBounded(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := openTemp(t, Options{MaxEvents: 10})
	for i := range 25 {
		require.NoError(t, s.AddEvent(ctx, Event{Kind: "backend", Subject: fmt.Sprint("b", i%2), Message: fmt.Sprintf("it's\xff %d", i)}))
	}
	all, err := s.Events(ctx, "", 0)
	require.NoError(t, err)
	require.Len(t, all, 10)
	require.Equal(t, "it's? 24", all[0].Message)
	some, err := s.Events(ctx, "b1", 3)
	require.NoError(t, err)
	require.Len(t, some, 3)
	require.Equal(t, "it's? 23", some[0].Message)
}

func TestState(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := openTemp(t, Options{})
	_, err := s.GetState(ctx, "k")
	require.ErrorIs(t, err, ErrNotFound)
	for _, v := range [][]byte{{0, 255, '\''}, {}, []byte("x")} {
		require.NoError(t, s.SetState(ctx, "a/k", v))
		got, err := s.GetState(ctx, "a/k")
		require.NoError(t, err)
		require.Equal(t, string(v), string(got))
	}
	require.NoError(t, s.SetState(ctx, "a/l", []byte("y")))
	require.NoError(t, s.SetState(ctx, "b", []byte("z")))
	got, err := s.States(ctx, "a/")
	require.NoError(t, err)
	require.Equal(t, map[string][]byte{"a/k": []byte("x"), "a/l": []byte("y")}, got)
	require.NoError(t, s.SetState(ctx, "b", nil))
	_, err = s.GetState(ctx, "b")
	require.ErrorIs(t, err, ErrNotFound)
}

func TestDataFilesAreCounted(t *testing.T) {
	t.Parallel()
	s := openTemp(t, Options{})
	ctx := t.Context()
	file := func(ns string, id int64, kind Kind) File {
		return File{Path: fmt.Sprintf("%s/%s%d", ns, kind, id), Namespace: ns, Kind: kind, FileID: id, Version: "1", Length: 10, State: FilePending}
	}
	rows := []File{file("a", 0, KindData), file("a", 7, KindData), file("a", 9, KindIndex), file("b", 1, KindData)}
	require.NoError(t, s.UpsertFiles(ctx, rows...))
	require.NoError(t, s.UpsertFiles(ctx, rows...)) // the same again
	n, highest, err := s.DataFiles(ctx, "a")
	require.NoError(t, err)
	require.Equal(t, []int64{2, 7}, []int64{n, highest})
	require.NoError(t, s.RemoveFiles(ctx, "a/data7", "a/index9", "a/unknown"))
	n, highest, err = s.DataFiles(ctx, "a")
	require.NoError(t, err)
	require.Equal(t, []int64{1, 0}, []int64{n, highest})
	n, highest, err = s.DataFiles(ctx, "none")
	require.NoError(t, err)
	require.Equal(t, []int64{0, -1}, []int64{n, highest})
}
