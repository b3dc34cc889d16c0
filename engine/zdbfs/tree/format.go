package tree

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sort"
	"strings"
)

// The limits of the format.
const (
	blockSize = 128 << 10
	slotCount = 128
	headSize  = 44
	dirSize   = headSize + 8*slotCount
	maxRecord = 8 << 20
	maxName   = 255
	maxTarget = 4095
	// maxSize is the largest size of a file. The block list ends a little
	// before: it has to fit in one record.
	maxSize   = 1<<38 - 1
	maxBlocks = (maxRecord - headSize - 8) / 4
	// bucketFull is where a bucket refuses names: the rest up to maxRecord is
	// the margin for whoever else writes it.
	bucketFull  = 7 << 20
	entryBytes  = 11 // of an entry beside its name
	bucketHead  = 16
	freeSlot    = 0x4242424242424242
	maxInode    = 1<<32 - 1
	formatVer   = 1
	headerSize  = 24
	magicMeta   = "ZDBFSM"
	magicData   = "ZDBFSD"
	defaultSize = 10 << 30
)

// The file types of st_mode.
const (
	typeMask  = 0o170000
	typeFifo  = 0o010000
	typeChr   = 0o020000
	typeDir   = 0o040000
	typeBlk   = 0o060000
	typeReg   = 0o100000
	typeLnk   = 0o120000
	typeSock  = 0o140000
	permMask  = 0o7777
	setUID    = 0o4000
	setGID    = 0o2000
	groupExec = 0o010
)

// errFormat says that a record is not what the format wants.
var errFormat = errors.New("malformed record")

var le = binary.LittleEndian

// encodeHeader makes the record with key 0 of a namespace.
func encodeHeader(magic string, size int64) []byte {
	b := make([]byte, headerSize)
	copy(b, magic)
	le.PutUint16(b[6:], formatVer)
	le.PutUint64(b[16:], uint64(size))
	return b
}

// checkHeader accepts the record with key 0 of a namespace.
func checkHeader(b []byte, magic string) error {
	if len(b) < headerSize || string(b[:6]) != magic {
		return fmt.Errorf("header: %w: no %s", errFormat, magic)
	}
	if v := le.Uint16(b[6:]); v != formatVer {
		return fmt.Errorf("header: %w: version %d", errFormat, v)
	}
	return nil
}

// rawInode is an inode record as it is stored.
type rawInode struct {
	mode, dev           uint32
	uid, gid            uint16
	size                uint64
	links               uint32
	atime, mtime, ctime uint32
	blocks              []uint32
	target              string
	buckets             *[slotCount]uint64 // 0: none
}

// decodeInode reads an inode record.
func decodeInode(b []byte) (rawInode, error) {
	var r rawInode
	if len(b) < headSize {
		return r, fmt.Errorf("inode: %w: %d bytes", errFormat, len(b))
	}
	r.mode, r.dev = le.Uint32(b), le.Uint32(b[12:])
	r.uid, r.gid = le.Uint16(b[16:]), le.Uint16(b[18:])
	r.size, r.links = le.Uint64(b[20:]), le.Uint32(b[28:])
	r.atime, r.mtime, r.ctime = le.Uint32(b[32:]), le.Uint32(b[36:]), le.Uint32(b[40:])
	tail := b[headSize:]
	switch r.mode & typeMask {
	case typeDir:
		if len(tail) < 8*slotCount {
			return r, fmt.Errorf("inode: %w: folder of %d bytes", errFormat, len(b))
		}
		r.buckets = new([slotCount]uint64)
		for i := range r.buckets {
			if k := le.Uint64(tail[8*i:]); k != freeSlot {
				r.buckets[i] = k
			}
		}
	case typeLnk:
		end := strings.IndexByte(string(tail[:min(len(tail), maxTarget+1)]), 0)
		if end <= 0 {
			return r, fmt.Errorf("inode: %w: symbolic link without a target", errFormat)
		}
		r.target = string(tail[:end])
	case typeReg, typeFifo, typeChr, typeBlk, typeSock:
		if r.size > 1<<62 {
			return r, fmt.Errorf("inode: %w: size %d", errFormat, r.size)
		}
		if len(tail) < 8 {
			return r, fmt.Errorf("inode: %w: no block list", errFormat)
		}
		n := le.Uint64(tail)
		if n > uint64(len(tail)-8)/4 {
			return r, fmt.Errorf("inode: %w: %d blocks in %d bytes", errFormat, n, len(b))
		}
		r.blocks = make([]uint32, n)
		for i := range r.blocks {
			r.blocks[i] = le.Uint32(tail[8+4*i:])
		}
	default:
		return r, fmt.Errorf("inode: %w: type %o", errFormat, r.mode&typeMask)
	}
	return r, nil
}

// devOffset and slotOffset are where keys are patched into an encoded inode.
const devOffset = 12

func slotOffset(slot int) int { return headSize + 8*slot }

// encode makes the record that decodeInode reads.
func (r *rawInode) encode() []byte {
	n := headSize
	switch {
	case r.buckets != nil:
		n = dirSize
	case r.mode&typeMask == typeLnk:
		n += len(r.target) + 1
	default:
		n += 8 + 4*len(r.blocks)
	}
	b := make([]byte, n)
	le.PutUint32(b, r.mode)
	le.PutUint32(b[devOffset:], r.dev)
	le.PutUint16(b[16:], r.uid)
	le.PutUint16(b[18:], r.gid)
	le.PutUint64(b[20:], r.size)
	le.PutUint32(b[28:], r.links)
	le.PutUint32(b[32:], r.atime)
	le.PutUint32(b[36:], r.mtime)
	le.PutUint32(b[40:], r.ctime)
	tail := b[headSize:]
	switch {
	case r.buckets != nil:
		for i, k := range r.buckets {
			if k == 0 {
				k = freeSlot
			}
			le.PutUint64(tail[8*i:], k)
		}
	case r.mode&typeMask == typeLnk:
		copy(tail, r.target)
	default:
		le.PutUint64(tail, uint64(len(r.blocks)))
		for i, id := range r.blocks {
			le.PutUint32(tail[8+4*i:], id)
		}
	}
	return b
}

// dirent is one entry of a bucket.
type dirent struct {
	name string
	ino  uint64
}

func isDot(name string) bool { return name == "." || name == ".." }

// slotOf gives the bucket of a name.
func slotOf(name string) int {
	var sum int
	for i := range len(name) {
		sum += int(name[i])
	}
	return sum % slotCount
}

// decodeBucket reads the entries of a bucket, in order. A placeholder that a
// crash of zdbfs left is an empty bucket.
func decodeBucket(b []byte) (entries []dirent, sorted bool, err error) {
	if len(b) == 1 {
		return nil, true, nil
	}
	if len(b) < bucketHead {
		return nil, false, fmt.Errorf("bucket: %w: %d bytes", errFormat, len(b))
	}
	n := int(le.Uint32(b[8:]))
	rest := b[bucketHead:]
	if n > len(rest)/entryBytes {
		return nil, false, fmt.Errorf("bucket: %w: %d entries in %d bytes", errFormat, n, len(b))
	}
	entries = make([]dirent, n)
	for i := range entries {
		if len(rest) < entryBytes {
			return nil, false, fmt.Errorf("bucket: %w: cut in entry %d of %d", errFormat, i, n)
		}
		l := int(le.Uint16(rest))
		if len(rest) < entryBytes+l {
			return nil, false, fmt.Errorf("bucket: %w: cut in entry %d of %d", errFormat, i, n)
		}
		entries[i] = dirent{name: string(rest[10 : 10+l]), ino: le.Uint64(rest[2:])}
		rest = rest[entryBytes+l:]
	}
	byName := func(i, j int) bool { return entries[i].name < entries[j].name }
	sorted = sort.SliceIsSorted(entries, byName)
	if !sorted {
		sort.SliceStable(entries, byName)
	}
	return entries, sorted, nil
}

// encodeBucket makes the record of bucket key.
func encodeBucket(key uint64, entries []dirent) []byte {
	n := bucketHead
	for i := range entries {
		n += entryBytes + len(entries[i].name)
	}
	b := make([]byte, bucketHead, n)
	le.PutUint64(b, key)
	le.PutUint32(b[8:], uint32(len(entries)))
	for i := range entries {
		b = le.AppendUint16(b, uint16(len(entries[i].name)))
		b = le.AppendUint64(b, entries[i].ino)
		b = append(b, entries[i].name...)
		b = append(b, 0)
	}
	return b
}
