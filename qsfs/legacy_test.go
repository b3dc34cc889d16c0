package qsfs_test

import (
	"bytes"
	"database/sql"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/blake2b"

	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/store"
)

// oldDeployment is what an earlier program leaves: the files of its zdb, without
// an identity, objects under their plain paths, and no claim on the backends.
type oldDeployment struct {
	env    *testenv.Env
	dir    string
	layout qsfs.Layout
	data   []byte            // of file `a`
	sums   map[string]string // of closed data files, by absolute path
	open   string            // the highest data file
}

func newOldDeployment(t *testing.T) *oldDeployment {
	t.Helper()
	o := &oldDeployment{dir: t.TempDir(), data: random(7, 6<<20), sums: map[string]string{}}
	f := testenv.New(t, testenv.Options{}).FrontendIn(t, o.dir)
	f.Write(t, "a", o.data)
	f.MustSync(t)
	require.NoError(t, f.Stop())
	o.layout = f.Layout()
	require.NoError(t, os.Remove(filepath.Join(o.layout.Root, "quantumd.json")))
	require.NoError(t, os.RemoveAll(o.layout.State))

	o.env = testenv.New(t, testenv.Options{}) // other backends, never claimed
	engine, err := qsfs.OpenPlainEngine(t.Context(), o.env.Open(t, t.TempDir()))
	require.NoError(t, err)
	defer engine.Close()
	highest := -1
	for id := 0; ; id++ {
		path := filepath.Join(o.layout.DataDir(), "zdbfs-data", fmt.Sprintf("d%d", id))
		b, err := os.ReadFile(path)
		if err != nil {
			break
		}
		sum, err := blake2b.New(16, nil)
		require.NoError(t, err)
		sum.Write(b)
		o.sums[path] = hex.EncodeToString(sum.Sum(nil))
		_, err = engine.StoreFile(t.Context(), path, path)
		require.NoError(t, err)
		highest = id
	}
	require.Greater(t, highest, 4)
	o.open = filepath.Join(o.layout.DataDir(), "zdbfs-data", fmt.Sprintf("d%d", highest))
	return o
}

func (o *oldDeployment) file(id int) string {
	return filepath.Join(o.layout.DataDir(), "zdbfs-data", fmt.Sprintf("d%d", id))
}

func (o *oldDeployment) list(change func(path string) string) string {
	var b strings.Builder
	for path := range o.sums {
		fmt.Fprintf(&b, "%s %s\n", path, change(path))
	}
	return b.String()
}

// settled waits until no hint is open, and gives the counts.
func settled(t *testing.T, f *testenv.Frontend) map[store.LegacyState]int64 {
	t.Helper()
	var counts map[store.LegacyState]int64
	require.Eventually(t, func() bool {
		var err error
		counts, err = qsfs.Store(f.System).LegacyCounts(t.Context())
		return err == nil && counts[store.LegacyHint] == 0
	}, 30*time.Second, 10*time.Millisecond)
	return counts
}

// A list of the scripts, in each place where it may be, is found and imported by
// itself: files that the backends hold are not uploaded again and can be fetched,
// false entries count for nothing.
func TestLegacyListIsTakenOver(t *testing.T) {
	t.Parallel()
	for _, place := range []string{"beside", "at", "data"} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			o := newOldDeployment(t)
			false1 := o.file(2)
			text := o.list(func(path string) string {
				if path == false1 {
					return strings.Repeat("0", 32) // the object has another checksum
				}
				return o.sums[path]
			}) + o.file(999) + " " + o.sums[o.file(1)] + "\nnonsense\n/etc/passwd " + o.sums[o.file(1)] + "\n"
			at := map[string]string{"beside": filepath.Join(filepath.Dir(o.layout.Database), "uploaded_data_files"), "at": o.layout.Database,
				"data": filepath.Join(o.dir, "data", "uploaded_data_files")}[place]
			o.layout.Legacy = filepath.Join(o.dir, "data", "uploaded_data_files")
			require.NoError(t, os.MkdirAll(filepath.Dir(at), 0o700))
			require.NoError(t, os.WriteFile(at, []byte(text), 0o644))
			require.NoError(t, os.Remove(o.file(0)), "zstor had dropped it")

			f := o.env.FrontendIn(t, o.dir, qsfs.WithLayout(o.layout))
			assert.Equal(t, o.data, f.Read(t, "a"), "what was dropped is fetched, also before all is verified")
			counts := settled(t, f)
			require.EqualValues(t, len(o.sums)-1, counts[store.LegacyVerified])
			require.EqualValues(t, 3, counts[store.LegacyFalse], "a wrong checksum, a file that is not there, a foreign path")
			report, err := f.Sync(t.Context())
			require.NoError(t, err)
			rows, err := qsfs.Rows(t.Context(), f.System)
			require.NoError(t, err)
			for _, r := range rows {
				require.Contains(t, r.ObjectPath, "@", "nothing relies on a plain path")
			}
			require.Less(t, report.Bytes, int64(5<<20), "only what the hints did not cover was uploaded")
			list, err := f.Events(t.Context(), at, 10)
			require.NoError(t, err)
			require.Len(t, list.Events, 1)
			require.Contains(t, list.Events[0].Message, "1 malformed")
			copies, err := store.LegacyCopies(t.Context(), filepath.Join(filepath.Dir(o.layout.Database), "legacy"))
			require.NoError(t, err)
			require.Len(t, copies, 1)
			for _, c := range copies {
				b, err := os.ReadFile(c.Copy)
				require.NoError(t, err)
				require.Equal(t, text, string(b))
			}
			require.NoError(t, f.Stop())

			again := o.env.FrontendIn(t, o.dir, qsfs.WithLayout(o.layout)) // once
			list, err = again.Events(t.Context(), at, 10)
			require.NoError(t, err)
			require.Len(t, list.Events, 1)
			_, err = again.Evict(t.Context(), 0)
			require.NoError(t, err)
			assert.Equal(t, o.data, again.Read(t, "a"))
			require.NoError(t, again.Stop())
		})
	}
}

// The table of the earlier quantumd, at the very place of the database: its rows
// for index files are false, and count for nothing.
func TestLegacyTableIsTakenOver(t *testing.T) {
	t.Parallel()
	o := newOldDeployment(t)
	require.NoError(t, os.MkdirAll(filepath.Dir(o.layout.Database), 0o700))
	db, err := sql.Open("sqlite", o.layout.Database)
	require.NoError(t, err)
	_, err = db.Exec(`CREATE TABLE uploaded_files (id INTEGER PRIMARY KEY AUTOINCREMENT, file_path TEXT NOT NULL UNIQUE, hash TEXT NOT NULL,
		file_size INTEGER, uploaded_at DATETIME DEFAULT CURRENT_TIMESTAMP, updated_at DATETIME DEFAULT CURRENT_TIMESTAMP)`)
	require.NoError(t, err)
	for path, sum := range o.sums {
		_, err := db.Exec(`INSERT OR REPLACE INTO uploaded_files (file_path, hash) VALUES (?, ?)`, path, sum)
		require.NoError(t, err)
	}
	index := filepath.Join(o.layout.IndexDir(), "zdbfs-data", "i0")
	_, err = db.Exec(`INSERT INTO uploaded_files (file_path, hash) VALUES (?, ?)`, index, o.sums[o.file(0)])
	require.NoError(t, err)
	require.NoError(t, db.Close())

	f := o.env.FrontendIn(t, o.dir)
	counts := settled(t, f)
	require.EqualValues(t, len(o.sums), counts[store.LegacyVerified])
	require.EqualValues(t, 1, counts[store.LegacyFalse])
	f.MustSync(t)
	row, err := qsfs.Store(f.System).File(t.Context(), "index/zdbfs-data/i0")
	require.NoError(t, err)
	require.NotEqual(t, o.sums[o.file(0)], row.Checksum, "the index file was stored anew")
	_, err = f.Evict(t.Context(), 0)
	require.NoError(t, err)
	assert.Equal(t, o.data, f.Read(t, "a"))
}

// Files without an identity are taken over only with a list, and only by the
// first who claims the backends.
func TestLegacyFilesOfAnother(t *testing.T) {
	t.Parallel()
	o := newOldDeployment(t)
	require.ErrorIs(t, o.env.Open(t, o.dir).Run(t.Context()), qsfs.ErrNoIdentity, "without a list the files may be anybody's")
	require.NoError(t, o.env.FrontendIn(t, t.TempDir()).Stop())
	list := filepath.Join(filepath.Dir(o.layout.Database), "uploaded_data_files")
	require.NoError(t, os.WriteFile(list, []byte(o.list(func(p string) string { return o.sums[p] })), 0o600))
	require.ErrorIs(t, o.env.Open(t, o.dir).Run(t.Context()), qsfs.ErrNoIdentity, "another frontend has claimed these backends")
}

// Backends that are away say nothing against a hint.
func TestLegacyHintsWaitForTheBackends(t *testing.T) {
	t.Parallel()
	o := newOldDeployment(t)
	list := filepath.Join(filepath.Dir(o.layout.Database), "uploaded_data_files")
	require.NoError(t, os.MkdirAll(filepath.Dir(list), 0o700))
	require.NoError(t, os.WriteFile(list, []byte("/elsewhere/d0 "+strings.Repeat("0", 32)+"\n"), 0o600))
	f := o.env.FrontendIn(t, o.dir, qsfs.WithDrainTime(-1)) // takes the files over, and uploads nothing
	settled(t, f)
	all, err := o.env.Provisioner.List(t.Context())
	require.NoError(t, err)
	for _, b := range all {
		o.env.Faults.Down(b.Address)
	}
	hint := store.Legacy{Path: o.file(2), Checksum: o.sums[o.file(2)]}
	require.NoError(t, qsfs.Store(f.System).AddLegacy(t.Context(), hint))
	require.Error(t, qsfs.SettleHint(t.Context(), f.System, hint))
	h, err := qsfs.Store(f.System).LegacyFor(t.Context(), hint.Path)
	require.NoError(t, err)
	require.Equal(t, store.LegacyHint, h.State, "no answer is no denial")
	require.NoError(t, f.Stop())

	require.NoError(t, os.WriteFile(list, []byte(o.list(func(p string) string { return o.sums[p] })), 0o600))
	require.NoError(t, os.Remove(o.file(1))) // not the one that begins the file system
	f = o.env.FrontendIn(t, o.dir, qsfs.WithDrainTime(-1))
	counts, err := qsfs.Store(f.System).LegacyCounts(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[store.LegacyState]int64{store.LegacyHint: int64(len(o.sums)), store.LegacyFalse: 1}, counts)
	_, err = testenv.ReadFile(t.Context(), f.Tree(), "a")
	require.Error(t, err)
	counts, err = qsfs.Store(f.System).LegacyCounts(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, counts[store.LegacyFalse], "no answer is no denial")
	for _, b := range all {
		o.env.Faults.Up(b.Address)
	}
	require.Eventually(t, func() bool {
		data, err := testenv.ReadFile(t.Context(), f.Tree(), "a")
		return err == nil && bytes.Equal(data, o.data)
	}, 30*time.Second, 100*time.Millisecond)
}
