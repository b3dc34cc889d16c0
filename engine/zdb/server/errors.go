package server

import (
	"errors"
	"fmt"

	"github.com/threefoldtech/quantumd/backend"
)

// Errors to decide on. A key that is not there is [backend.ErrNotFound], a
// full namespace or disk [backend.ErrFull], a locked, frozen, read-only or
// worm one [backend.ErrLocked], a namespace in the other mode
// [backend.ErrMode].
var (
	// ErrLocked says that another server uses a folder; see [LockedError].
	ErrLocked = errors.New("zdb: folder is in use")
	// ErrClosed answers every call after Close, and calls on a namespace that
	// was deleted.
	ErrClosed = errors.New("zdb: closed")
	// ErrDamaged says that files on disk are not what they should be, or that a
	// payload does not match its checksum.
	ErrDamaged = errors.New("zdb: damaged")
	// ErrMissing says that a data file is not on this machine and could not be
	// brought back.
	ErrMissing = errors.New("zdb: data file is missing")
	// ErrInUse says that a file cannot be dropped: it is open for writing or
	// being read.
	ErrInUse = errors.New("zdb: data file is in use")
	// ErrNoNamespace says that there is no namespace of that name.
	ErrNoNamespace = errors.New("zdb: no such namespace")
)

// LockedError names the folder that another server holds. It matches [ErrLocked].
type LockedError struct{ Dir string }

func (e *LockedError) Error() string { return fmt.Sprintf("%v: %s", ErrLocked, e.Dir) }

// Is makes errors.Is(err, ErrLocked) true.
func (e *LockedError) Is(target error) bool { return target == ErrLocked }

// Hint names the remedy.
func (e *LockedError) Hint() string {
	return fmt.Sprintf("another zdb uses %s: stop it, or choose another folder", e.Dir)
}

// refusal is an error that has an exact text in zdb's protocol.
type refusal struct {
	text string // as a client sees it
	is   error  // what it matches
}

func (e *refusal) Error() string { return "zdb: " + e.text }

func (e *refusal) Unwrap() error { return e.is }

var (
	errNotFound    = &refusal{"Key not found", backend.ErrNotFound}
	errKeyTooLarge = &refusal{"Key too large", nil}
	errKeyNeeded   = &refusal{"Invalid argument, key needed", nil}
	errUpdateOnly  = &refusal{"Invalid key, only update authorized", backend.ErrNotFound}
	errFull        = &refusal{"No space left on this namespace", backend.ErrFull}
	errFrozen      = &refusal{"Namespace is temporarily frozen (read-write disabled)", backend.ErrLocked}
	errLockedNS    = &refusal{"Namespace is temporarily locked (read-only)", backend.ErrLocked}
	errWorm        = &refusal{"Namespace is protected by worm mode", backend.ErrLocked}
	errWormDelete  = &refusal{"Cannot delete a key when namespace is in worm mode", backend.ErrLocked}
	errTooLarge    = &refusal{"Payload too big", nil}
	errNoIDs       = &refusal{"Cannot write index right now", backend.ErrFull}
	errNoMoreData  = &refusal{"No more data", nil}
	errCursor      = &refusal{"Invalid key format", nil}
	errNameTaken   = &refusal{"This namespace is not available", nil}
	errName        = &refusal{"This name is not allowed", nil}
)

const (
	textCannotWriteData  = "Cannot write data right now"
	textCannotWriteIndex = "Cannot write index right now"
)

// writeError tells why a write failed; a full disk matches backend.ErrFull.
type writeError struct {
	text string
	err  error
}

func (e *writeError) Error() string { return "zdb: " + e.text + ": " + e.err.Error() }

func (e *writeError) Unwrap() error { return e.err }

func (e *writeError) Is(target error) bool {
	return target == backend.ErrFull && isNoSpace(e.err)
}
