package grid

import (
	"errors"
	"math"
)

// ErrNoSize says that nothing tells how much is to be rented.
var ErrNoSize = errors.New("grid: neither total_storage_size nor data_size is set: nothing says how much to rent")

// GiB is the unit in which the grid rents.
const GiB = 1 << 30

// Room for what a zdb keeps beside the payloads that are asked for: headers of its
// entries (18 bytes and the key, a few per MiB), data files that are open, and
// objects that were superseded and not yet collected.
const headroom = 0.05

// DataSize is the size of one data backend, in bytes and whole GiB, for total
// bytes of files with a dispersal that needs minShards shards: each of them holds
// total/minShards.
func DataSize(total int64, minShards int) int64 {
	if minShards < 1 {
		return 0
	}
	return wholeGiB(float64(total) / float64(minShards) * (1 + headroom))
}

// A metadata backend holds a half of each record. In it are, per shard, two
// checksums, an IPv6 address, a namespace's name and a password of 64 bytes; per
// piece of a shard, its key and its checksum; and what is said once. Records are
// padded; each has a key and zdb's header beside it. The test of qsfs/ongrid
// measures real ones.
const (
	recordOnce  = 256
	recordShard = 200
	recordPiece = 16
	recordPad   = 512
	recordEntry = 192
	pieceSize   = 2 << 20
)

// recordSize is the most that a metadata backend needs for the record of a file.
func recordSize(minShards, shards int, fileSize int64) float64 {
	pieces := fileSize/int64(minShards)/pieceSize + 1
	return float64(recordOnce+int64(shards)*(recordShard+recordPiece*pieces)+recordPad)/2 + recordEntry
}

// versions is how many records of a file may be there at a time: that of its data
// file, that of its index file, and a superseded one of each, for a zdb in user mode
// keeps what was replaced.
const versions = 4

// MetaSize is the size of one metadata backend, in bytes and whole GiB, for total
// bytes in data files of fileSize bytes, each dispersed over so many shards.
func MetaSize(total, fileSize int64, minShards, shards int) int64 {
	if fileSize < 1 || minShards < 1 {
		return GiB
	}
	files := float64(total)/float64(fileSize) + 1
	return wholeGiB(files * versions * recordSize(minShards, shards, fileSize) * (1 + headroom))
}

func wholeGiB(bytes float64) int64 {
	n := math.Ceil(bytes / GiB)
	if n > math.MaxInt64/GiB {
		return 0
	}
	return max(1, int64(n)) * GiB
}
