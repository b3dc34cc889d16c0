package grid

import "math"

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

// recordSize is the most that one metadata record takes, in bytes, with its
// entry's header: some 60 bytes per shard and what is said once. The test of qsfs
// measures real ones.
func recordSize(shards int) int64 { return 256 + 96*int64(shards) }

// versions is how many records of a file may be there at a time: that of its data
// file, that of its index file, and superseded ones of the same.
const versions = 4

// MetaSize is the size of one metadata backend, in bytes and whole GiB, for total
// bytes in data files of fileSize bytes. Each of the four holds half of each
// record; it is counted whole, for a zdb in user mode keeps what was replaced.
func MetaSize(total, fileSize int64, shards int) int64 {
	if fileSize < 1 {
		return GiB
	}
	files := float64(total)/float64(fileSize) + 1
	return wholeGiB(files * versions * float64(recordSize(shards)) * (1 + headroom))
}

func wholeGiB(bytes float64) int64 {
	n := math.Ceil(bytes / GiB)
	if n > math.MaxInt64/GiB {
		return 0
	}
	return max(1, int64(n)) * GiB
}
