package store

import (
	"errors"
	"fmt"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// What a caller decides on.
var (
	// ErrNotFound says that there is no such row.
	ErrNotFound = errors.New("store: not found")
	// ErrLeaseLost says that the item was given to another worker, or is done.
	ErrLeaseLost = errors.New("store: lease lost")
	// ErrCommitted says that the checkpoint was committed before, or replaced by
	// a later one that was.
	ErrCommitted = errors.New("store: checkpoint is committed already")
	// ErrStale says that a newer generation of the set of backends is known.
	ErrStale = errors.New("store: a newer generation is known")
	// ErrLocked says that another process has the database open for writing.
	ErrLocked = errors.New("store: database is in use by another process")
	// ErrClosed says that the store was closed.
	ErrClosed = errors.New("store: closed")
	// ErrTemporary says that a file of zdbfs-temp was to be tracked: that
	// namespace is made anew by whoever needs it, and never stored.
	ErrTemporary = errors.New("store: files of zdbfs-temp are never stored")
	// ErrReadOnly says that the store was opened with Options.ReadOnly.
	ErrReadOnly = errors.New("store: opened read-only")
)

// NewerSchemaError says that the database was written by a newer program. It
// was not touched.
type NewerSchemaError struct {
	Have int // version of the database
	Want int // newest version that this program understands
}

func (e *NewerSchemaError) Error() string {
	return fmt.Sprintf("store: the database has schema version %d, this program understands versions up to %d", e.Have, e.Want)
}

// Hint names the remedy.
func (e *NewerSchemaError) Hint() string {
	return "run the newer quantumd that wrote this database, or move the database away: it is rebuilt from the local files and the backends"
}

// CorruptError says that a database was damaged and was set aside.
type CorruptError struct {
	Path  string // where the damaged file is now
	Cause error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("store: damaged database set aside as %s: %v", e.Path, e.Cause)
}

func (e *CorruptError) Unwrap() error { return e.Cause }

// Hint names the remedy.
func (e *CorruptError) Hint() string {
	return "nothing to do: what it held is found again from the local files and the backends; delete the set-aside file when it is no longer of interest"
}

// PendingError says that a checkpoint cannot be committed yet.
type PendingError struct {
	Seq     int64
	Pending int // items of this and earlier checkpoints that are not stored
}

func (e *PendingError) Error() string {
	return fmt.Sprintf("store: checkpoint %d still waits for %d items", e.Seq, e.Pending)
}

var errDamaged = errors.New("database is damaged")

// IsCorrupt says whether err means that the database itself is damaged:
// closing it and calling [Open] again sets it aside.
func IsCorrupt(err error) bool {
	if errors.Is(err, errDamaged) {
		return true
	}
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code() & 0xff { // the low byte is the primary result code
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return true
	}
	return false
}
