package store

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/threefoldtech/quantumd/internal/durable"
)

// LegacyKind says in which form an earlier program kept what it had uploaded.
type LegacyKind string

// The forms.
const (
	LegacyText   LegacyKind = "text"   // lines `<absolute path> <32 hex digits>`
	LegacySQLite LegacyKind = "sqlite" // table uploaded_files
)

// LegacyFile is such a file, and the copy of it that is read.
type LegacyFile struct {
	Origin string
	Copy   string // empty: not copied yet
	Kind   LegacyKind
	Sum    string // SHA-256 of the copy
	Ours   bool   // our own tables are in it as well
}

const (
	maxLegacyLine = 64 << 10 // bytes of a line; a path has 4096
	legacyPeek    = 256 << 10
	sqliteMagic   = "SQLite format 3\x00"
)

var legacyHash = regexp.MustCompile(`^[0-9a-fA-F]{32}$`)

// RecogniseLegacy looks at a file. It gives nil for one that is not there, or
// is something else.
func RecogniseLegacy(ctx context.Context, path string) (*LegacyFile, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !st.Mode().IsRegular() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	head, err := io.ReadAll(io.LimitReader(f, legacyPeek))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(head, []byte(sqliteMagic)) {
		if looksLikeList(head) {
			return &LegacyFile{Origin: path, Kind: LegacyText}, nil
		}
		return nil, nil
	}
	db, err := openLegacy(path)
	if err != nil {
		return nil, err
	}
	theirs, ours, err := legacyTables(ctx, db)
	if err != nil { // it has a journal to be played back, perhaps: not in its place
		theirs, ours, err = legacyTablesOfCopy(ctx, path)
	}
	if err != nil || !theirs {
		return nil, nil // damaged, or of somebody else: opening it tells
	}
	return &LegacyFile{Origin: path, Kind: LegacySQLite, Ours: ours}, nil
}

// looksLikeList says whether one line near the beginning is an entry.
func looksLikeList(head []byte) bool {
	for line := range bytes.Lines(head) {
		if _, _, err := parseLegacyLine(string(line)); err == nil {
			return true
		}
	}
	return false
}

// parseLegacyLine: the path may contain blanks, the hash is what follows the
// last.
func parseLegacyLine(line string) (path, checksum string, err error) {
	line = strings.TrimRight(line, "\r\n")
	at := strings.LastIndexByte(line, ' ')
	if at < 0 {
		return "", "", errLegacyEntry
	}
	return checkLegacy(line[:at], line[at+1:])
}

func checkLegacy(path, checksum string) (string, string, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || len(path) > 4096 || strings.ContainsRune(path, 0) || !legacyHash.MatchString(checksum) {
		return "", "", errLegacyEntry
	}
	return path, strings.ToLower(checksum), nil
}

// openLegacy opens a SQLite file without changing it.
func openLegacy(path string) (*sql.DB, error) {
	q := url.Values{"mode": {"ro"}, "_pragma": {"busy_timeout(5000)", "query_only(1)"}}
	return sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String())
}

// legacyTables says whether the earlier schema and ours are in a database.
func legacyTables(ctx context.Context, db *sql.DB) (theirs, ours bool, err error) {
	defer db.Close()
	// The columns that are read; a view or another table of the name is not it.
	var n, m int
	if err := db.QueryRowContext(ctx, `SELECT count(*) FROM pragma_table_info('uploaded_files') WHERE name IN ('file_path', 'hash')`).Scan(&n); err != nil {
		return false, false, err
	}
	err = db.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?`, DefaultTablePrefix+"schema").Scan(&m)
	return n == 2, m > 0, err
}

func legacyTablesOfCopy(ctx context.Context, path string) (theirs, ours bool, err error) {
	dir, err := os.MkdirTemp("", "quantumd-")
	if err != nil {
		return false, false, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	for _, part := range legacyParts {
		if err := copySynced(path+part, filepath.Join(dir, "db"+part), io.Discard); err != nil && (part == "" || !errors.Is(err, fs.ErrNotExist)) {
			return false, false, err
		}
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: filepath.Join(dir, "db")}).String())
	if err != nil {
		return false, false, err
	}
	return legacyTables(ctx, db)
}

// legacyParts are the files of one SQLite database; what is in a journal belongs
// to it.
var legacyParts = []string{"", "-journal", "-wal"}

// CopyLegacy copies a file, with its journals, into folder dir, durably, before
// anything is done to it. A copy of the same content is taken as it is.
func CopyLegacy(f LegacyFile, dir string) (LegacyFile, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return f, err
	}
	temp, err := os.MkdirTemp(dir, ".copy-")
	if err != nil {
		return f, err
	}
	defer os.RemoveAll(temp) //nolint:errcheck // what is left there is of no use, and does no harm
	base := filepath.Base(f.Origin)
	whole := sha256.New()
	for _, part := range legacyParts {
		if part != "" && f.Kind != LegacySQLite {
			continue
		}
		err := copySynced(f.Origin+part, filepath.Join(temp, base+part), whole)
		if part != "" && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return f, fmt.Errorf("copy %s: %w", f.Origin+part, err)
		}
	}
	if err := os.WriteFile(filepath.Join(temp, legacyOrigin), []byte(f.Origin), 0o600); err != nil {
		return f, err
	}
	f.Sum = hex.EncodeToString(whole.Sum(nil))
	origin := sha256.Sum256([]byte(f.Origin))
	to := filepath.Join(dir, fmt.Sprintf("%x-%s", origin[:4], f.Sum[:16]))
	f.Copy = filepath.Join(to, base)
	if _, err := os.Stat(f.Copy); err == nil {
		return f, nil // copied before
	}
	if err := errors.Join(durable.SyncDir(temp), os.Rename(temp, to), durable.SyncDir(dir), durable.SyncDir(filepath.Dir(dir))); err != nil {
		return f, err
	}
	return f, nil
}

// legacyOrigin is a file beside each copy that says where it was.
const legacyOrigin = "origin"

// LegacyCopies lists what CopyLegacy put into folder dir; the key is the name of
// each copy's folder.
func LegacyCopies(ctx context.Context, dir string) (map[string]LegacyFile, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all := map[string]LegacyFile{}
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		origin, err := os.ReadFile(filepath.Join(dir, e.Name(), legacyOrigin))
		if err != nil {
			return nil, err
		}
		path := filepath.Join(dir, e.Name(), filepath.Base(string(origin)))
		f, err := RecogniseLegacy(ctx, path)
		if err != nil {
			return nil, err
		}
		if f != nil {
			f.Origin, f.Copy = string(origin), path
			all[e.Name()] = *f
		}
	}
	return all, nil
}

func copySynced(from, to string, sum io.Writer) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.MultiWriter(out, sum), in)
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

// RemoveOrigin removes the file from its place, for a database that has to be
// there. It refuses without a copy of the same content.
func (f LegacyFile) RemoveOrigin() error {
	if f.Copy == "" {
		return errors.New("store: it was not copied")
	}
	for _, part := range []string{"-journal", "-wal", "-shm", ""} {
		if err := os.Remove(f.Origin + part); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return durable.SyncDir(filepath.Dir(f.Origin))
}

// read gives each entry of the copy.
func (f LegacyFile) read(ctx context.Context, r *LegacyReport, each func(path, checksum string) error) error {
	if f.Kind == LegacySQLite {
		return f.readSQLite(ctx, r, each)
	}
	in, err := os.Open(f.Copy)
	if err != nil {
		return err
	}
	defer in.Close()
	return readList(ctx, in, r, each)
}

func readList(ctx context.Context, in io.Reader, r *LegacyReport, each func(path, checksum string) error) error {
	lines := bufio.NewReaderSize(in, maxLegacyLine)
	for n := 1; ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		line, err := lines.ReadSlice('\n')
		long := errors.Is(err, bufio.ErrBufferFull)
		for errors.Is(err, bufio.ErrBufferFull) { // passed over without being kept
			_, err = lines.ReadSlice('\n')
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		where := fmt.Sprintf("line %d", n)
		switch path, checksum, bad := parseLegacyLine(string(line)); {
		case long:
			r.skip(where, fmt.Errorf("more than %d bytes", maxLegacyLine))
		case len(bytes.TrimSpace(line)) == 0:
		case bad != nil:
			r.skip(where, bad)
		default:
			if err := each(path, checksum); err != nil {
				return err
			}
		}
		if err != nil {
			return nil // the end
		}
	}
}

// readSQLite reads the copy. A journal in it is played back there.
func (f LegacyFile) readSQLite(ctx context.Context, r *LegacyReport, each func(path, checksum string) error) error {
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: f.Copy}).String())
	if f.Ours {
		db, err = openLegacy(f.Copy) // in use
	}
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	// Values of a wrong type or size are not read into memory at all.
	rows, err := db.QueryContext(ctx, `SELECT rowid,
			CASE WHEN typeof(file_path) = 'text' AND length(file_path) <= 4096 THEN file_path ELSE '' END,
			CASE WHEN typeof(hash) = 'text' AND length(hash) = 32 THEN hash ELSE '' END
		FROM uploaded_files ORDER BY rowid`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		var path, hash string
		if err := rows.Scan(&id, &path, &hash); err != nil {
			return err
		}
		path, hash, bad := checkLegacy(path, hash)
		if bad != nil {
			r.skip(fmt.Sprintf("row %d", id), bad)
			continue
		}
		if err := each(path, hash); err != nil {
			return err
		}
	}
	return rows.Err()
}
