package backend

import "context"

// Conn is a client of one namespace. It is safe for concurrent use, pools and
// pipelines as it likes, and reconnects after a fault.
//
// Every call ends with its context. Errors match [ErrNotFound], [ErrFull],
// [ErrLocked], [ErrAccess] or [ErrMode] where the server said so, and
// [*UnreachableError] where no answer came; then a Set may or may not have
// happened. No call is repeated behind the caller's back once its bytes may
// have reached the server: in sequential mode a repeated Set stores twice.
type Conn interface {
	// Get returns the payload of key, or ErrNotFound.
	Get(ctx context.Context, key []byte) ([]byte, error)
	// Set stores value and returns its key: key itself in user mode, or, with an
	// empty key in sequential mode, the new 8-byte little-endian id. A value
	// equal to the stored one is success. value is at most 8 MiB.
	Set(ctx context.Context, key, value []byte) ([]byte, error)
	// Delete removes key; ErrNotFound where there is none.
	Delete(ctx context.Context, key []byte) error
	// Stat gives the length and checksum of key's payload from the server's
	// index (KEYCUR), without reading the payload.
	Stat(ctx context.Context, key []byte) (EntryStat, error)
	// Check has the server read the payload and compare its checksum (CHECK).
	// False with a nil error means damage; ErrNotFound an unknown key.
	Check(ctx context.Context, key []byte) (bool, error)
	// Scan lists entries behind cursor, from the start when it is nil, and gives
	// the cursor for the next call. io.EOF ends the listing.
	Scan(ctx context.Context, cursor []byte) ([]Entry, []byte, error)
	// Info describes the namespace (NSINFO).
	Info(ctx context.Context) (NamespaceInfo, error)
	Close() error
}

// EntryStat describes a stored payload.
type EntryStat struct {
	Length uint32
	CRC    uint32 // CRC-32C from 0 without final inversion, as zdb computes it
}

// Entry is one line of a listing.
type Entry struct {
	Key       []byte
	Length    uint32
	Timestamp uint32 // seconds since 1970
}

// NamespaceInfo is what NSINFO tells of a namespace.
type NamespaceInfo struct {
	Name       string
	Entries    int64
	Public     bool
	Password   bool
	Sequential bool
	Locked     bool // or frozen
	Worm       bool
	Used       int64 // bytes of live payloads
	Limit      int64 // bytes, zero: none
	IndexUsed  int64 // bytes
	Free       int64 // bytes on the data disk
	NextID     uint64
}

// Dialer opens a Conn to a backend. Dialing may be lazy: an unreachable
// backend may only show at the first call.
type Dialer interface {
	Dial(ctx context.Context, b Backend) (Conn, error)
}

// DialerFunc is a function that is a Dialer.
type DialerFunc func(ctx context.Context, b Backend) (Conn, error)

// Dial calls f.
func (f DialerFunc) Dial(ctx context.Context, b Backend) (Conn, error) { return f(ctx, b) }
