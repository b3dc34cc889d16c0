package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/uptrace/bun"
)

// FileState is what is known about a file's copy on the backends.
type FileState string

// The states of a file.
const (
	FilePending  FileState = "pending"  // this version is not stored yet
	FileStored   FileState = "stored"   // stored, with metadata on all four backends
	FileDegraded FileState = "degraded" // stored, with metadata on three: not safe
	FileDamaged  FileState = "damaged"  // the stored object is incomplete or wrong
)

// File is a tracked file of the frontend.
type File struct {
	Path       string // its identity; any bytes
	Namespace  string
	Kind       Kind
	FileID     int64 // the number in d5 or i5; zero for a descriptor
	Version    string
	Length     int64  // bytes
	Checksum   string // of the contents
	ObjectPath string // where it is stored
	Epoch      int64
	Generation int64
	Checkpoint int64 // the cut that last needed it
	State      FileState
	Stamp      string // what the caller compares to see that a file is unchanged without reading it
	StoredAt   time.Time
	VerifiedAt time.Time
	Tries      int
	LastError  string
}

const fileColumns = `path, namespace, kind, file_id, version, length, checksum, object_path, epoch, generation,
	checkpoint, state, stamp, stored_at, verified_at, tries, last_error`

const fileWidth = 17

// UpsertFiles writes rows, all or none, over what was known of the same paths.
func (s *Store) UpsertFiles(ctx context.Context, files ...File) error {
	if len(files) == 0 {
		return nil
	}
	err := s.update(ctx, func(tx bun.Tx) error { return s.upsertFilesTx(ctx, tx, files) })
	return note(err, "upsert %d files", len(files))
}

// TrackFiles writes rows as UpsertFiles does, but a row of the same version,
// unless it is damaged, stays, with the lower checkpoint of the two: whoever sees a
// file a second time must not make it unstored.
func (s *Store) TrackFiles(ctx context.Context, files ...File) error {
	if len(files) == 0 {
		return nil
	}
	err := s.update(ctx, func(tx bun.Tx) error { return s.trackFilesTx(ctx, tx, files) })
	return note(err, "track %d files", len(files))
}

func (s *Store) trackFilesTx(ctx context.Context, tx bun.Tx, files []File) error {
	keep := `CASE WHEN {files}.version = excluded.version AND {files}.state <> 'damaged' THEN `
	var set []string
	for _, c := range strings.Split(fileColumns, ",") {
		c = strings.TrimSpace(c)
		old := "{files}." + c
		if c == "checkpoint" {
			old = "min({files}.checkpoint, excluded.checkpoint)"
		}
		set = append(set, c+" = "+keep+old+" ELSE excluded."+c+" END")
	}
	head := s.q(`INSERT INTO {files} (` + fileColumns + `) SELECT v.* FROM (VALUES `)
	// WHERE true is needed: without it SQLite reads ON as a join's condition.
	tail := s.q(`) AS v WHERE true ON CONFLICT (path) DO UPDATE SET ` + strings.Join(set, ", "))
	return insertRows(ctx, tx.Tx, head, tail, len(files), fileWidth, func(i int, to []any) []any { return append(to, files[i].values()...) })
}

func (f *File) values() []any {
	return []any{f.Path, f.Namespace, string(f.Kind), f.FileID, f.Version, f.Length, f.Checksum, f.ObjectPath,
		f.Epoch, f.Generation, f.Checkpoint, string(f.State), f.Stamp, millis(f.StoredAt), millis(f.VerifiedAt),
		f.Tries, clip(f.LastError, maxErrorText)}
}

func (s *Store) upsertFilesTx(ctx context.Context, tx bun.Tx, files []File) error {
	var set []string
	for _, c := range strings.Split(fileColumns, ",") {
		c = strings.TrimSpace(c)
		set = append(set, c+" = excluded."+c)
	}
	// Not REPLACE: no trigger would see the row that goes.
	head := s.q(`INSERT INTO {files} (` + fileColumns + `) VALUES `)
	tail := ` ON CONFLICT (path) DO UPDATE SET ` + strings.Join(set, ", ")
	return insertRows(ctx, tx.Tx, head, tail, len(files), fileWidth, func(i int, to []any) []any {
		return append(to, files[i].values()...)
	})
}

// File gives what is known of a path, or [ErrNotFound].
func (s *Store) File(ctx context.Context, path string) (File, error) {
	rows, err := s.db.DB.QueryContext(ctx, s.q(`SELECT `+fileColumns+` FROM {files} WHERE path = ?`), path)
	if err != nil {
		return File{}, note(err, "file %q", path)
	}
	defer rows.Close()
	if !rows.Next() {
		return File{}, note(errors.Join(rows.Err(), ErrNotFound), "file %q", path)
	}
	f, err := scanFile(rows)
	return f, note(err, "file %q", path)
}

func scanFile(rows *sql.Rows) (File, error) {
	var f File
	var stored, verified int64
	err := rows.Scan(&f.Path, &f.Namespace, &f.Kind, &f.FileID, &f.Version, &f.Length, &f.Checksum, &f.ObjectPath,
		&f.Epoch, &f.Generation, &f.Checkpoint, &f.State, &f.Stamp, &stored, &verified, &f.Tries, &f.LastError)
	f.StoredAt, f.VerifiedAt = stamp(stored), stamp(verified)
	return f, err
}

// FileFilter chooses files. Its zero value chooses all.
type FileFilter struct {
	Namespace string
	Kind      Kind
	State     FileState
	After     string // only paths behind this one
	Limit     int    // zero: none
}

// Files goes through the files in order of their paths. They are read page by
// page, so the caller may change them meanwhile.
func (s *Store) Files(ctx context.Context, f FileFilter) iter.Seq2[File, error] {
	where := `path > ?`
	args := []any{f.After}
	for _, c := range []struct{ column, value string }{{"namespace", f.Namespace}, {"kind", string(f.Kind)}, {"state", string(f.State)}} {
		if c.value != "" {
			where += " AND " + c.column + " = ?"
			args = append(args, c.value)
		}
	}
	query := s.q(`SELECT ` + fileColumns + ` FROM {files} WHERE ` + where + ` ORDER BY path LIMIT ?`)
	next := func(last File, limit int) (*sql.Rows, error) {
		if last.Path != "" {
			args[0] = last.Path
		}
		return s.db.DB.QueryContext(ctx, query, append(args[:len(args):len(args)], limit)...)
	}
	return paged(f.Limit, next, scanFile)
}

// StoredFile is what of a stored file a start needs.
type StoredFile struct {
	Namespace  string
	Kind       Kind
	FileID     uint32
	Length     int64
	Checksum   string
	ObjectPath string
	Checkpoint int64
	State      FileState
}

// EachStored calls fn for each file that is stored, degraded, or damaged there: what
// is left of its object may be all there is. In no order. It
// is one read of the table, for a start: the database's log grows meanwhile.
func (s *Store) EachStored(ctx context.Context, fn func(StoredFile) error) error {
	rows, err := s.db.DB.QueryContext(ctx, s.q(`SELECT namespace, kind, file_id, length, checksum, object_path, checkpoint, state
		FROM {files} NOT INDEXED WHERE state IN ('stored', 'degraded', 'damaged') AND checksum <> ''`))
	if err != nil {
		return note(err, "stored files")
	}
	defer rows.Close()
	var f StoredFile
	for rows.Next() {
		if err := rows.Scan(&f.Namespace, &f.Kind, &f.FileID, &f.Length, &f.Checksum, &f.ObjectPath, &f.Checkpoint, &f.State); err != nil {
			return note(err, "stored files")
		}
		if err := fn(f); err != nil {
			return err
		}
	}
	return note(rows.Err(), "stored files")
}

// Unsettled gives number and bytes of the data files that no committed
// checkpoint names, or whose objects are damaged, in a time that does not grow
// with the former.
func (s *Store) Unsettled(ctx context.Context) (files, bytes int64, err error) {
	err = s.db.DB.QueryRowContext(ctx, s.q(`WITH c AS (SELECT coalesce(max(seq), 0) AS last FROM {checkpoints} WHERE state = 'committed')
		SELECT coalesce(sum(n), 0), coalesce(sum(b), 0) FROM (
			SELECT files AS n, bytes AS b FROM {unsettled}, c WHERE checkpoint = 0 OR checkpoint > last
			UNION ALL SELECT 1, length FROM {files}, c WHERE state = 'damaged' AND kind = 'data' AND checkpoint BETWEEN 1 AND last)`)).
		Scan(&files, &bytes)
	return files, bytes, note(err, "unsettled files")
}

// DataFiles gives how many data files of a namespace are known, and the highest
// id that one has.
func (s *Store) DataFiles(ctx context.Context, namespace string) (count, highest int64, err error) {
	err = s.db.DB.QueryRowContext(ctx, s.q(`SELECT coalesce((SELECT n FROM {datafiles} WHERE namespace = ?), 0),
		coalesce((SELECT max(file_id) FROM {files} WHERE namespace = ? AND kind = 'data'), -1)`), namespace, namespace).
		Scan(&count, &highest)
	return count, highest, note(err, "data files of %s", namespace)
}

// RemoveFiles forgets paths; unknown ones are no error.
func (s *Store) RemoveFiles(ctx context.Context, paths ...string) error {
	err := s.update(ctx, func(tx bun.Tx) error {
		for _, p := range paths {
			if _, err := tx.Tx.ExecContext(ctx, s.q(`DELETE FROM {files} WHERE path = ?`), p); err != nil {
				return err
			}
		}
		return nil
	})
	return note(err, "remove %d files", len(paths))
}

// Stored is what became of a version of a file.
type Stored struct {
	ObjectPath string
	Checksum   string    // of the contents
	State      FileState // FileStored or FileDegraded
	Verified   bool      // its backends confirmed it just now
	Backends   []string  // ids, in the order of its shards; nil: not known
	Note       error     // why it is not more than degraded; may be nil
}

// MarkStored records that a version of a path is stored: the item leaves the
// queue and, where the file's row is of this version, the file is stored, or
// degraded, and its placements are known, in one transaction: no crash leaves
// a file that counts for more than it is. A second call changes nothing but
// the times.
func (s *Store) MarkStored(ctx context.Context, path, version string, to Stored) error {
	if to.State != FileStored && to.State != FileDegraded {
		return note(fmt.Errorf("as %q", to.State), "mark %q stored", path)
	}
	err := s.update(ctx, func(tx bun.Tx) error {
		if _, err := tx.Tx.ExecContext(ctx, s.q(`DELETE FROM {queue} WHERE path = ? AND version = ?`), path, version); err != nil {
			return err
		}
		if err := s.markFileTx(ctx, tx.Tx, path, version, to); err != nil {
			return err
		}
		if len(to.Backends) > 0 {
			if err := s.setPlacementsTx(ctx, tx.Tx, to.ObjectPath, to.Backends); err != nil {
				return err
			}
		}
		return s.queue.recordDoneTx(ctx, tx, path, version, Result{ObjectPath: to.ObjectPath, Checksum: to.Checksum})
	})
	if err == nil {
		s.queue.signal() // another version of the path may wait for this one
	}
	return note(err, "mark %q stored", path)
}

func (s *Store) markFileTx(ctx context.Context, tx *sql.Tx, path, version string, to Stored) error {
	now, verified, text := s.now(), int64(0), ""
	if to.Verified {
		verified = now
	}
	if to.Note != nil {
		text = clip(to.Note.Error(), maxErrorText)
	}
	_, err := tx.ExecContext(ctx, s.q(`UPDATE {files} SET state = ?, object_path = ?, checksum = ?, stored_at = ?, verified_at = ?, last_error = ?
		WHERE path = ? AND version = ?`), string(to.State), to.ObjectPath, to.Checksum, now, verified, text, path, version)
	return err
}

// SetFileState changes the state of a file if it still is of this version, or
// gives [ErrNotFound]. The text of cause, which may be nil, is kept. A damaged
// file is no longer done: the same version may be enqueued again.
func (s *Store) SetFileState(ctx context.Context, path, version string, state FileState, cause error) error {
	text := ""
	if cause != nil {
		text = clip(cause.Error(), maxErrorText)
	}
	err := s.update(ctx, func(tx bun.Tx) error {
		err := s.updateFileTx(ctx, tx, path, version, `UPDATE {files} SET state = ?, last_error = ?`, string(state), text)
		if err != nil || state != FileDamaged {
			return err
		}
		_, err = tx.Tx.ExecContext(ctx, s.q(`DELETE FROM {done} WHERE path = ? AND version = ?`), path, version)
		return err
	})
	return note(err, "file %q", path)
}

// MarkVerified records that the object of this version was verified now, or
// gives [ErrNotFound].
func (s *Store) MarkVerified(ctx context.Context, path, version string) error {
	err := s.update(ctx, func(tx bun.Tx) error {
		return s.updateFileTx(ctx, tx, path, version, `UPDATE {files} SET verified_at = ?`, s.now())
	})
	return note(err, "file %q", path)
}

func (s *Store) updateFileTx(ctx context.Context, tx bun.Tx, path, version, set string, args ...any) error {
	r, err := tx.Tx.ExecContext(ctx, s.q(set+` WHERE path = ? AND version = ?`), append(args, path, version)...)
	if err := one(r, err); errors.Is(err, ErrLeaseLost) {
		return ErrNotFound
	} else if err != nil {
		return err
	}
	return nil
}

// note says what was being done; nil stays nil.
func note(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("store: "+format+": %w", append(args, err)...)
}
