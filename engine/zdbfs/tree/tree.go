package tree

import (
	"context"
	"log/slog"
	"time"
)

// Records is what the tree needs from a namespace in sequential mode. All
// calls are safe for concurrent use. Values are at most 8 MiB.
type Records interface {
	// Get returns the value of id, which the caller may keep but not change,
	// or an error matching backend.ErrNotFound. It may take long: a data file
	// may have to be fetched first.
	Get(ctx context.Context, id uint64) ([]byte, error)
	// Insert stores value under a new id, higher than every id before. Ids have
	// gaps; the id of a deleted record is not used again. value belongs to the
	// caller again when the call returns. backend.ErrFull: no space.
	Insert(ctx context.Context, value []byte) (uint64, error)
	// Update replaces the value of an id that exists; backend.ErrNotFound where
	// it does not.
	Update(ctx context.Context, id uint64, value []byte) error
	// Delete removes id; backend.ErrNotFound where there is none.
	Delete(ctx context.Context, id uint64) error
	// Sync returns when everything that returned before the call is durable.
	Sync(ctx context.Context) error
	// Stats gives the number of live records, the bytes of their values, and
	// the most bytes that may be stored; limit zero: no limit.
	Stats() (entries int64, bytes int64, limit int64)
}

// Root is the inode number of the root folder.
const Root uint64 = 1

// Options describes a tree. Meta and Data are required.
type Options struct {
	Meta Records // the namespace zdbfs-meta
	Data Records // the namespace zdbfs-data

	Size        int64         // bytes that Statfs reports; zero: 10 GiB
	MemoryLimit int64         // bytes of file blocks and, apart, half as much of inodes and folders in memory; zero: 64 MiB
	Interval    time.Duration // longest time from a change to its commit; zero: 5 s
	UID, GID    uint32        // owner of a new root folder

	// CleanStart says that everything in the records at Open is in a committed
	// checkpoint already; see SafeState.
	CleanStart bool
	// Committed gives the highest committed cut of this run, 0 for none. Nil: none ever.
	Committed func() uint64

	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil discards
}

// Attr is what stat shows of an inode.
type Attr struct {
	Ino    uint64
	Mode   uint32 // type and permission bits, as st_mode
	Nlink  uint32
	UID    uint32
	GID    uint32
	Rdev   uint32 // of devices, as Linux encodes it in 32 bits
	Size   int64
	Blocks int64 // units of 512 bytes
	Atime  time.Time
	Mtime  time.Time
	Ctime  time.Time
}

// SetAttr names what Setattr changes; nil fields stay.
type SetAttr struct {
	Mode         *uint32 // permission bits
	UID, GID     *uint32
	Size         *int64
	Atime, Mtime *time.Time
	// KillPriv takes the set-user-id bit, and the set-group-id bit of what the
	// group may execute, from what is no folder, as a write or a change of owner does.
	KillPriv bool
}

// NewNode describes an inode that is made. The group and the set-group-id bit
// of a set-group-id folder are inherited.
type NewNode struct {
	Mode uint32 // permission bits; for Mknod with the type
	UID  uint32
	GID  uint32
	Rdev uint32 // of devices
}

// Entry is one name in a folder.
type Entry struct {
	Name string
	Ino  uint64
	Next uint64 // cookie that continues behind this entry
}

// Statfs is what statfs shows.
type Statfs struct {
	BlockSize  uint32 // bytes, the best size of a request
	FragSize   uint32 // bytes, the unit of Blocks and Free
	Blocks     uint64
	Free       uint64
	Files      uint64
	FilesFree  uint64
	NameLength uint32
}

// The flags of Rename, with the values of renameat2(2).
const (
	RenameNoReplace uint32 = 1
	RenameExchange  uint32 = 2
)

// What SafeState answers.
const (
	Local   = "local"   // changed after the last cut
	Pending = "pending" // in a cut that is not committed yet
	Safe    = "safe"    // in a committed cut
)
