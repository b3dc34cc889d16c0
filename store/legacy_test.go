package store

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const legacySchema = `CREATE TABLE uploaded_files (id INTEGER PRIMARY KEY AUTOINCREMENT, file_path TEXT NOT NULL UNIQUE, hash TEXT NOT NULL,
	file_size INTEGER, uploaded_at DATETIME DEFAULT CURRENT_TIMESTAMP, updated_at DATETIME DEFAULT CURRENT_TIMESTAMP);
	CREATE INDEX idx_file_path ON uploaded_files(file_path); CREATE INDEX idx_hash ON uploaded_files(hash);`

func execAll(t *testing.T, path string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	for _, s := range statements {
		_, err := db.Exec(s)
		require.NoError(t, err, s)
	}
	require.NoError(t, db.Close())
}

func hash(n int) string { return fmt.Sprintf("%032x", n) }

func legacyOf(t *testing.T, s *Store, state LegacyState) map[string]string {
	t.Helper()
	list, err := s.LegacyHints(t.Context(), state, "", 1000)
	require.NoError(t, err)
	got := map[string]string{}
	for _, h := range list {
		got[h.Path] = h.Checksum
	}
	return got
}

// importFrom is what a start does with one file.
func importFrom(t *testing.T, s *Store, path string) LegacyReport {
	t.Helper()
	f, err := RecogniseLegacy(t.Context(), path)
	require.NoError(t, err)
	require.NotNil(t, f)
	copied, err := CopyLegacy(*f, filepath.Join(filepath.Dir(path), "legacy"))
	require.NoError(t, err)
	r, err := s.ImportLegacy(t.Context(), copied)
	require.NoError(t, err)
	return r
}

func openForLegacy(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "db"), Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func TestImportList(t *testing.T) {
	t.Parallel()
	s := openForLegacy(t)
	path := filepath.Join(t.TempDir(), "uploaded_data_files")
	text := "/data/data/zdbfs-data/d1 " + hash(1) + "\n" +
		"/data/data/zdbfs-data/d10 " + hash(10) + "\r\n" +
		"\n" +
		"/data/with blank/zdbfs-data/d2 " + strings.ToUpper(hash(0xabc)) + "\n" +
		"data/relative/d3 " + hash(3) + "\n" +
		"/data/../etc/d4 " + hash(4) + "\n" +
		"/data/nohash\n" +
		"/data/short abcdef\n" +
		"/data/bytes\xff\xfe/d6 " + hash(6) + "\n" +
		"/" + strings.Repeat("x", maxLegacyLine+10) + " " + hash(7) + "\n" +
		"/data/data/zdbfs-data/d1 " + hash(100) + "\n" + // twice: the later one counts
		"/data/data/zdbfs-data/d5 " + hash(5) // cut off at its end
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	r := importFrom(t, s, path)
	require.EqualValues(t, 6, r.Entries)
	require.EqualValues(t, 5, r.Skipped)
	require.Len(t, r.Why, 5)
	require.Contains(t, strings.Join(r.Why, "\n"), "line 5")
	want := map[string]string{
		"/data/data/zdbfs-data/d1": hash(100), "/data/data/zdbfs-data/d10": hash(10), "/data/with blank/zdbfs-data/d2": hash(0xabc),
		"/data/bytes\xff\xfe/d6": hash(6), "/data/data/zdbfs-data/d5": hash(5),
	}
	require.Equal(t, want, legacyOf(t, s, LegacyHint))
	left, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, text, string(left), "the original stays as it is")

	// What was verified stays so when the import is repeated, unless the list says something else now.
	require.NoError(t, s.SetLegacy(t.Context(), "/data/data/zdbfs-data/d1", hash(100), LegacyVerified, nil))
	require.NoError(t, s.SetLegacy(t.Context(), "/data/data/zdbfs-data/d10", hash(10), LegacyVerified, nil))
	require.NoError(t, s.SetLegacy(t.Context(), "/data/data/zdbfs-data/d5", hash(99), LegacyVerified, nil))
	require.NoError(t, os.WriteFile(path, []byte("/data/data/zdbfs-data/d1 "+hash(100)+"\n/data/data/zdbfs-data/d10 "+hash(11)+"\n"), 0o644))
	importFrom(t, s, path)
	require.Equal(t, map[string]string{"/data/data/zdbfs-data/d1": hash(100)}, legacyOf(t, s, LegacyVerified))
	require.Equal(t, hash(11), legacyOf(t, s, LegacyHint)["/data/data/zdbfs-data/d10"])
	counts, err := s.LegacyCounts(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[LegacyState]int64{LegacyHint: 4, LegacyVerified: 1}, counts)
	_, err = s.LegacyFor(t.Context(), "/data/data/zdbfs-data/d")
	require.ErrorIs(t, err, ErrNotFound, "a path is no prefix of another")
}

// A list of many lines is read in bounded memory and in batches.
func TestImportLongList(t *testing.T) {
	t.Parallel()
	s := openForLegacy(t)
	path := filepath.Join(t.TempDir(), "list")
	var b bytes.Buffer
	const n = 25_000
	for i := range n {
		fmt.Fprintf(&b, "/data/data/zdbfs-data/d%d %s\n", i, hash(i))
	}
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o600))
	require.EqualValues(t, n, importFrom(t, s, path).Entries)
	counts, err := s.LegacyCounts(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, n, counts[LegacyHint])
}

func TestImportTable(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"delete", "wal"} {
		s := openForLegacy(t)
		path := filepath.Join(t.TempDir(), "uploaded_files.db")
		execAll(t, path, "PRAGMA journal_mode="+mode, legacySchema,
			`INSERT INTO uploaded_files (file_path, hash, file_size) VALUES ('/opt/zdb/data/zdbfs-data/d0', '`+hash(1)+`', 0), ('/opt/zdb/index/zdbfs-data/i0', '`+hash(2)+`', 7)`,
			`INSERT INTO uploaded_files (file_path, hash) VALUES ('relative', '`+hash(3)+`'), ('/blob', x'00ff'), ('/number', 5), ('/long', '`+strings.Repeat("a", 100000)+`')`)
		before, err := os.ReadFile(path)
		require.NoError(t, err)
		r := importFrom(t, s, path)
		require.EqualValues(t, 2, r.Entries)
		require.EqualValues(t, 4, r.Skipped)
		require.Equal(t, map[string]string{"/opt/zdb/data/zdbfs-data/d0": hash(1), "/opt/zdb/index/zdbfs-data/i0": hash(2)}, legacyOf(t, s, LegacyHint))
		after, err := os.ReadFile(path)
		require.NoError(t, err)
		require.True(t, bytes.Equal(before, after))
	}
}

// An earlier program that was killed left a journal: what it had not committed
// is undone in the copy, and only there.
func TestImportTableWithHotJournal(t *testing.T) {
	t.Parallel()
	s := openForLegacy(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "uploaded_files.db")
	execAll(t, path, "PRAGMA journal_mode=delete", legacySchema, `INSERT INTO uploaded_files (file_path, hash) VALUES ('/a/data/n/d0', '`+hash(1)+`')`)
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=cache_size(1)&_pragma=cache_spill(1)")
	require.NoError(t, err)
	db.SetMaxOpenConns(1)
	_, err = db.Exec("BEGIN IMMEDIATE")
	require.NoError(t, err)
	for i := range 2000 {
		_, err := db.Exec(`INSERT INTO uploaded_files (file_path, hash) VALUES (?, ?)`, fmt.Sprintf("/a/data/n/d%d", i+1), hash(i))
		require.NoError(t, err)
	}
	torn := filepath.Join(t.TempDir(), "uploaded_files.db")
	for _, part := range []string{"", "-journal"} { // the moment of the kill
		b, err := os.ReadFile(path + part)
		require.NoError(t, err)
		require.NotEmpty(t, b)
		require.NoError(t, os.WriteFile(torn+part, b, 0o600))
	}
	_, err = db.Exec("ROLLBACK")
	require.NoError(t, err)
	require.NoError(t, db.Close())
	require.EqualValues(t, 1, importFrom(t, s, torn).Entries)
	require.FileExists(t, torn+"-journal")
}

func TestRecogniseLegacy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	for name, text := range map[string]string{
		"empty": "", "prose": "this is\nno list\n", "magic": sqliteMagic, "zeros": string(make([]byte, 10000)),
		"nearly": "/path " + strings.Repeat("g", 32) + "\n", "broken": sqliteMagic + strings.Repeat("x", 5000),
	} {
		f, err := RecogniseLegacy(t.Context(), write(name, text))
		require.NoError(t, err, name)
		require.Nil(t, f, name)
	}
	for _, path := range []string{filepath.Join(dir, "absent"), dir} {
		f, err := RecogniseLegacy(t.Context(), path)
		require.NoError(t, err)
		require.Nil(t, f)
	}
	other := filepath.Join(dir, "other.db")
	execAll(t, other, `CREATE TABLE something (x)`, `CREATE TABLE uploaded_files (name, size)`)
	f, err := RecogniseLegacy(t.Context(), other)
	require.NoError(t, err)
	require.Nil(t, f)

	ours := filepath.Join(dir, "ours.db")
	s, err := Open(t.Context(), ours, Options{})
	require.NoError(t, err)
	f, err = RecogniseLegacy(t.Context(), ours)
	require.NoError(t, err)
	require.Nil(t, f)
	require.NoError(t, s.Close())

	// An earlier version of this program put its tables into such a file.
	both := filepath.Join(dir, "both.db")
	execAll(t, both, legacySchema, `INSERT INTO uploaded_files (file_path, hash) VALUES ('/a/d0', '`+hash(1)+`')`)
	s, err = Open(t.Context(), both, Options{})
	require.NoError(t, err)
	f, err = RecogniseLegacy(t.Context(), both)
	require.NoError(t, err)
	require.True(t, f.Ours)
	f.Copy = both
	r, err := s.ImportLegacy(t.Context(), *f)
	require.NoError(t, err)
	require.EqualValues(t, 1, r.Entries)
	require.NoError(t, s.Close())
}

func TestCopyLegacyBeforeAnythingElse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	text := "/data/data/zdbfs-data/d1 " + hash(1) + "\n"
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	f, err := RecogniseLegacy(t.Context(), path)
	require.NoError(t, err)
	require.Error(t, f.RemoveOrigin(), "there is no copy")
	require.FileExists(t, path)
	copies := filepath.Join(dir, "legacy")
	first, err := CopyLegacy(*f, copies)
	require.NoError(t, err)
	again, err := CopyLegacy(*f, copies)
	require.NoError(t, err)
	require.Equal(t, first, again, "a start that was interrupted goes on")
	require.NoError(t, first.RemoveOrigin())
	require.NoFileExists(t, path)
	all, err := LegacyCopies(t.Context(), copies)
	require.NoError(t, err)
	require.Len(t, all, 1)
	for _, c := range all {
		require.Equal(t, path, c.Origin)
		b, err := os.ReadFile(c.Copy)
		require.NoError(t, err)
		require.Equal(t, text, string(b))
	}
	entries, err := os.ReadDir(copies)
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing half-made is left")
}

func FuzzLegacyList(f *testing.F) {
	f.Add([]byte("/data/data/zdbfs-data/d1 0123456789abcdef0123456789abcdef\n/x y\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var r LegacyReport
		err := readList(context.Background(), bytes.NewReader(text), &r, func(path, checksum string) error {
			if !filepath.IsAbs(path) || len(checksum) != 32 || strings.ContainsAny(path, "\n\x00") {
				t.Fatalf("%q %q", path, checksum)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
