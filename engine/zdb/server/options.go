package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/hooks"
)

// Mode is how namespaces choose keys; see [segment.Mode].
type Mode = segment.Mode

// The modes. The zero Mode leaves it to each namespace.
const (
	User       = segment.User
	Sequential = segment.Sequential
)

// Sizes of a data file at which the server switches to the next, in bytes.
const (
	DefaultDataSize = 256 << 20
	MinDataSize     = 512 << 10
	MaxDataSize     = 1<<32 - 1 // exclusive
)

// DefaultNamespace is there in every server.
const DefaultNamespace = "default"

// Options configure a [Server]. DataDir and IndexDir are required and must
// differ; everything else has a default.
type Options struct {
	DataDir  string // created with mode 0700 when absent; given to hooks as it is
	IndexDir string
	DataSize int64         // a data file is closed before it would grow beyond; default 256 MiB
	Rotate   time.Duration // a data file with new entries is closed after this long; zero: never

	// Mode forces one mode on all namespaces. Zero: each has its own, new ones
	// begin in user mode.
	Mode Mode

	Hooks hooks.HookHandler // nil: none
	// Mend is asked when a closed data file turns out to be damaged: a payload does
	// not match its checksum, or cannot be read. When it gives no error the file under
	// that path was replaced by a good one, and the read is tried once more. One call
	// per file at a time, however many readers wait. Nil: a damaged payload stays
	// ErrDamaged.
	Mend func(ctx context.Context, dataFile string, cause error) error
	// KeepDirty leaves ids on the list of changed index files when jump-index
	// ended without an error: who copies index files at a time of their own
	// takes them off with [Namespace.ResetCopied].
	KeepDirty bool
	Instance  string // the server's name in events, as `tcp://127.0.0.1:9900`

	AdminPassword backend.Secret // empty: every client is admin
	Protect       bool           // the default namespace is read-only without the admin password
	MaxSize       int64          // limit of the default namespace, bytes of payload; zero: none

	// SyncEvery is how often written data files are fdatasynced in the
	// background: default 1 s, negative never. SyncWrites makes each write wait
	// for its fdatasync.
	SyncEvery  time.Duration
	SyncWrites bool

	MaxConnections int // clients at a time, default 1000; more are turned away

	Logger *slog.Logger // nil: discard
}

// ErrOptions says that Options cannot work.
var ErrOptions = errors.New("zdb: invalid options")

func (o Options) withDefaults() (Options, error) {
	if o.DataSize == 0 {
		o.DataSize = DefaultDataSize
	}
	if o.SyncEvery == 0 {
		o.SyncEvery = time.Second
	}
	if o.MaxConnections == 0 {
		o.MaxConnections = 1000
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Logger = o.Logger.With("component", "zdb")
	switch {
	case o.DataDir == "" || o.IndexDir == "":
		return o, fmt.Errorf("%w: data and index folder are required", ErrOptions)
	case o.DataSize < MinDataSize || o.DataSize >= MaxDataSize:
		return o, fmt.Errorf("%w: data size %d, want %d to %d", ErrOptions, o.DataSize, MinDataSize, MaxDataSize-1)
	case o.Mode > Sequential:
		return o, fmt.Errorf("%w: mode %d", ErrOptions, o.Mode)
	case o.Protect && o.AdminPassword == "":
		return o, fmt.Errorf("%w: protect needs an admin password", ErrOptions)
	case o.MaxSize < 0 || o.Rotate < 0:
		return o, fmt.Errorf("%w: negative size or time", ErrOptions)
	}
	return o, nil
}

// NamespaceOptions describe a namespace to be made.
type NamespaceOptions struct {
	Mode     Mode           // zero: the server's, else user
	Password backend.Secret // at most 63 bytes
	Public   bool           // readable without the password
	MaxSize  int64          // bytes of payload; zero: no limit
}

// FilesInfo is what files a namespace has.
type FilesInfo struct {
	Mode  Mode
	Slots uint64 // entries of all index files; in sequential mode the next id

	// Open is the id of the pair that grows. HasOpen is false when the highest
	// pair is closed: the next one is made by the next write.
	Open    uint32
	HasOpen bool

	Data  []DataFile  // by id
	Index []IndexFile // by id
}

// Pairs is what files a namespace has, in short: one data and one index file
// for each id below Count.
type Pairs struct {
	Mode  Mode
	Slots uint64 // entries of all index files
	Count uint32

	Open       uint32 // as in FilesInfo
	HasOpen    bool
	OpenLength int64 // of the data file that grows
}

// DataFile is one data file. The length of one that is not there is 0.
type DataFile struct {
	ID      uint32
	Length  int64
	Present bool
}

// IndexFile is one index file. Generation counts its changes since Open, in
// place or appended; which files differ from their last copy, also over
// restarts, is what [Namespace.DirtyIndexes] tells.
type IndexFile struct {
	ID         uint32
	Length     int64
	Generation uint64
}
