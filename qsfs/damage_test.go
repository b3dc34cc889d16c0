package qsfs_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/store"
)

// localData names a data file of the frontend.
func localData(f *testenv.Frontend, row store.File) string {
	return filepath.Join(f.Layout().Root, row.Path)
}

func setAside(t *testing.T, f *testenv.Frontend) []os.DirEntry {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(f.Layout().Root, "damaged"))
	if !os.IsNotExist(err) {
		require.NoError(t, err)
	}
	return entries
}

// A read that meets a payload with a wrong checksum gets the right bytes: the good
// copy is fetched, the damaged file set aside.
func TestReadMendsALocalFile(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	f := env.Frontend(t)
	files := writeSome(t, f, "a", "b", "c")
	f.MustSync(t)
	require.NoError(t, f.Stop()) // nothing of them stays in memory
	again := env.FrontendIn(t, f.Dir)
	damaged := 0
	for _, row := range rowsOf(t, again, store.KindData) {
		st, err := os.Stat(localData(again, row))
		require.NoError(t, err)
		for at := int64(100); at < st.Size(); at += 50_000 {
			flip(t, localData(again, row), at)
		}
		damaged++
	}
	require.Greater(t, damaged, 1)
	sameFiles(t, again, files)
	assert.NotEmpty(t, setAside(t, again))
	r := scrub(t, again, client.ScrubRequest{Deep: true}) // mends what no read met
	assert.Empty(t, r.Damage)
	assert.Len(t, setAside(t, again), damaged)
	for _, row := range rowsOf(t, again, store.KindData) {
		events, err := again.Events(t.Context(), row.Path, 10)
		require.NoError(t, err)
		require.NotEmpty(t, events.Events)
		assert.Equal(t, "damage", events.Events[0].Kind)
		assert.Contains(t, events.Events[0].Message, "the good copy was fetched")
	}
	again.MustSync(t)
	assert.Empty(t, scrub(t, again, client.ScrubRequest{Deep: true}).Damage)
	sameFiles(t, again, files)
}

// While the backends are away a damaged file stays where it is: nothing is thrown
// away before the good copy is here.
func TestDamageWaitsForTheBackends(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	f := env.Frontend(t)
	files := writeSome(t, f, "a", "b")
	f.MustSync(t)
	require.NoError(t, f.Stop())
	list, err := env.Provisioner.List(t.Context())
	require.NoError(t, err)
	for _, b := range list {
		env.Faults.Down(b.Address)
	}
	row := func() store.File {
		db, err := store.Open(t.Context(), f.Layout().Database, store.Options{})
		require.NoError(t, err)
		defer db.Close()
		for r, err := range db.Files(t.Context(), store.FileFilter{Kind: store.KindData, Namespace: "zdbfs-data"}) {
			require.NoError(t, err)
			return r
		}
		return store.File{}
	}()
	file := filepath.Join(f.Layout().Root, row.Path)
	require.NoError(t, os.Truncate(file, row.Length/2))
	again := env.FrontendIn(t, f.Dir)
	_, readErr := testenv.ReadFile(t.Context(), again.Tree(), "a")
	_, readErr2 := testenv.ReadFile(t.Context(), again.Tree(), "b")
	require.True(t, readErr != nil || readErr2 != nil, "half of their data file is gone")
	st, err := os.Stat(file)
	require.NoError(t, err)
	assert.Equal(t, row.Length/2, st.Size())
	assert.Empty(t, setAside(t, again))
	for _, b := range list {
		env.Faults.Up(b.Address)
	}
	require.Eventually(t, func() bool {
		st, err := os.Stat(file)
		return err == nil && st.Size() == row.Length
	}, 45*time.Second, 100*time.Millisecond, "it is mended when they answer")
	sameFiles(t, again, files)
	assert.Len(t, setAside(t, again), 1)
}

// A data file whose upload was not noted before a crash, and whose local copy the
// disk then changed, is not stored over the good object.
func TestUploadAgainAfterDamage(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	f := env.Frontend(t)
	files := writeSome(t, f, "a", "b")
	f.MustSync(t)
	require.NoError(t, f.Stop())
	db, err := store.Open(t.Context(), f.Layout().Database, store.Options{})
	require.NoError(t, err)
	for row, err := range db.Files(t.Context(), store.FileFilter{Kind: store.KindData}) {
		require.NoError(t, err)
		flip(t, filepath.Join(f.Layout().Root, row.Path), row.Length/2)
		require.NoError(t, db.SetFileState(t.Context(), row.Path, row.Version, store.FileDamaged, nil)) // it is not done
		row.State, row.Checksum = store.FilePending, ""
		require.NoError(t, db.UpsertFiles(t.Context(), row))
	}
	require.NoError(t, db.Close())
	again := env.FrontendIn(t, f.Dir)
	again.Write(t, "c", []byte("something new, so that there is a cut"))
	again.MustSync(t)
	sameFiles(t, again, files)
	require.NoError(t, again.Stop())
	sameAfterRestore(t, env, files)
}

// sameAfterRestore restores on another machine and compares.
func sameAfterRestore(t *testing.T, env *testenv.Env, files map[string][]byte) {
	t.Helper()
	restored := env.Open(t, t.TempDir())
	_, err := restored.Restore(t.Context(), qsfs.RestoreOptions{})
	require.NoError(t, err)
	last := env.FrontendIn(t, dirOf(restored))
	sameFiles(t, last, files)
	require.NoError(t, last.Stop())
}

// No sequence of local damage, restarts, lost databases, scrubs and uploads changes
// what a read or a restore gives.
func TestLocalDamageNeverSpreads(t *testing.T) {
	t.Parallel()
	seeds := []uint64{1, 2, 115}
	if os.Getenv("QUANTUMD_LONG") != "" {
		for s := range uint64(40) {
			seeds = append(seeds, 100+s)
		}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 7))
			env := testenv.New(t, testenv.Options{})
			f := env.Frontend(t)
			files := map[string][]byte{}
			var story []string
			needed := false // the database knows of an object that no checkpoint names, and whose file is damaged
			did := func(format string, args ...any) { story = append(story, fmt.Sprintf(format, args...)) }
			defer func() {
				if t.Failed() {
					t.Log(story)
				}
			}()
			for range 25 {
				switch rnd.IntN(9) {
				case 0, 1, 2:
					name := fmt.Sprintf("f%d", rnd.IntN(6))
					files[name] = random(rnd.Uint64(), 1+rnd.IntN(500_000))
					f.Write(t, name, files[name])
					did("write %s", name)
				case 3:
					f.MustSync(t)
					needed = false
					did("sync")
				case 4, 5:
					what, committed := damageSome(t, f, rnd)
					needed = needed || !committed
					did("damage %s", what)
				case 6:
					require.NoError(t, f.Stop())
					if rnd.IntN(2) == 0 && !needed {
						for _, name := range []string{"", "-wal", "-shm"} {
							_ = os.Remove(f.Layout().Database + name)
						}
						did("lose the database")
					}
					needed = false // a clean stop is a sync
					f = env.FrontendIn(t, f.Dir)
					did("restart")
				case 7:
					_, err := f.Evict(t.Context(), 0)
					require.NoError(t, err)
					did("evict")
				case 8:
					r := scrub(t, f, client.ScrubRequest{Deep: rnd.IntN(2) == 0, Repair: rnd.IntN(2) == 0})
					require.Empty(t, r.Damage, "%v", story)
					did("scrub")
				}
				if rnd.IntN(3) == 0 {
					sameFiles(t, f, files)
				}
			}
			sameFiles(t, f, files)
			f.MustSync(t)
			require.NoError(t, f.Stop())
			sameAfterRestore(t, env, files)
		})
	}
}

// damageSome has the disk change a stored data file that is here, and tells whether
// a checkpoint names that.
func damageSome(t *testing.T, f *testenv.Frontend, rnd *rand.Rand) (what string, committed bool) {
	st, err := f.Status(t.Context())
	require.NoError(t, err)
	newest := int64(st.Checkpoint.Seq)
	rows := rowsOf(t, f, store.KindData)
	rnd.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
	for _, row := range rows {
		file := localData(f, row)
		st, err := os.Stat(file)
		if row.State != store.FileStored || row.Checkpoint == 0 || err != nil || st.Size() < 100 {
			continue
		}
		committed := row.Checkpoint <= newest
		switch rnd.IntN(4) {
		case 0:
			require.NoError(t, os.Truncate(file, rnd.Int64N(st.Size())))
			return "by truncation " + row.Path, committed
		case 1:
			flip(t, file, rnd.Int64N(st.Size()))
			return "of a bit " + row.Path, committed
		case 2:
			for range 20 {
				flip(t, file, rnd.Int64N(st.Size()))
			}
			return "of bits " + row.Path, committed
		default:
			require.NoError(t, os.WriteFile(file, nil, 0o600))
			return "by emptying " + row.Path, committed
		}
	}
	return "nothing", true
}

// rotIndex flips a bit of what a live entry of an index file says of its data entry.
func rotIndex(t *testing.T, file string, nr int) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	for slot := uint32(0); segment.SlotOffset(slot) < int64(len(text)); slot++ {
		at := segment.SlotOffset(slot)
		e, err := segment.DecodeIndexEntry(text[at : at+segment.SeqSlotSize])
		require.NoError(t, err)
		if e.Deleted() {
			continue
		}
		if nr--; nr < 0 {
			flip(t, file, at+2) // of its offset
			return
		}
	}
	t.Fatal("too few live entries")
}

// An index file that the disk changed is put right from what was stored, and never
// stored over it: when a deep scrub looks at one that did not change, and before a
// cut that stores one that did.
func TestIndexDamageIsPutRight(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	f := env.Frontend(t)
	files := writeSome(t, f, "a", "b", "c")
	f.MustSync(t)
	index := rowsOf(t, f, store.KindIndex)
	var data, meta store.File
	for _, row := range index {
		if row.Namespace == "zdbfs-data" && data.Path == "" {
			data = row
		} else if row.Namespace == "zdbfs-meta" && meta.Path == "" {
			meta = row
		}
	}
	before, err := os.ReadFile(localData(f, data))
	require.NoError(t, err)
	rotIndex(t, localData(f, data), 2)
	r := scrub(t, f, client.ScrubRequest{Deep: true})
	assert.Empty(t, r.Damage)
	after, err := os.ReadFile(localData(f, data))
	require.NoError(t, err)
	assert.Equal(t, before, after)
	require.Len(t, setAside(t, f), 1)
	events, err := f.Events(t.Context(), data.Path, 10)
	require.NoError(t, err)
	require.NotEmpty(t, events.Events)
	assert.Contains(t, events.Events[0].Message, "1 entries of the local file differed")

	// In one that changes: a's inode is damaged, b's is written.
	rotIndex(t, localData(f, meta), 3)
	files["b"] = random(9, 10_000)
	f.Write(t, "b", files["b"])
	f.MustSync(t)
	events, err = f.Events(t.Context(), meta.Path, 10)
	require.NoError(t, err)
	require.NotEmpty(t, events.Events)
	assert.Contains(t, events.Events[0].Message, "1 entries were damaged here")
	sameFiles(t, f, files)
	require.NoError(t, f.Stop())
	again := env.FrontendIn(t, f.Dir)
	sameFiles(t, again, files)
	require.NoError(t, again.Stop())
	sameAfterRestore(t, env, files)
}
