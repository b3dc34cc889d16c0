package tree

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// An extension record keeps what an inode record has no room for: 32-bit ids,
// nanoseconds, times outside 1970–2106, extended attributes, and the device
// number of a device that needs such a record. Its key is in the inode's dev
// field, which zdbfs keeps and does not show. It repeats the fields that it
// extends, so that a change by zdbfs is seen: then the inode's field counts.
const (
	extMagic   = "QDEX"
	extVersion = 1
	extFixed   = 16 + 20 + 12 + 36 + 4
	bigID      = 65534 // in the inode of an id over 65535
)

// The limits of extended attributes.
const (
	maxXattrName  = 255
	maxXattrValue = 64 << 10
	maxXattrs     = 1 << 20
)

// stamp is a time as an inode keeps it.
type stamp struct {
	sec  int64
	nsec uint32
}

func stampOf(t time.Time) stamp { return stamp{t.Unix(), uint32(t.Nanosecond())} }
func (s stamp) time() time.Time { return time.Unix(s.sec, int64(s.nsec)) }
func (s stamp) base() uint32    { return uint32(max(0, min(s.sec, math.MaxUint32))) }
func (s stamp) fits() bool      { return s.nsec == 0 && s.sec == int64(s.base()) }
func stampFrom(v uint32) stamp  { return stamp{sec: int64(v)} }
func appendStamp(b []byte, s stamp) []byte {
	return le.AppendUint32(le.AppendUint64(b, uint64(s.sec)), s.nsec)
}

func readStamp(b []byte) stamp {
	return stamp{int64(le.Uint64(b)), min(le.Uint32(b[8:]), 999999999)}
}

func baseID(id uint32) uint16 {
	if id > math.MaxUint16 {
		return bigID
	}
	return uint16(id)
}

// extension is a decoded extension record.
type extension struct {
	owner               uint64
	base                rawInode // mode, ids and times only
	uid, gid, rdev      uint32
	atime, mtime, ctime stamp
	xattrs              map[string][]byte
}

func (e *extension) encode() []byte {
	b := make([]byte, 0, extFixed)
	b = append(b, extMagic...)
	b = le.AppendUint16(b, extVersion)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint64(b, e.owner)
	b = le.AppendUint32(b, e.base.mode)
	b = le.AppendUint16(b, e.base.uid)
	b = le.AppendUint16(b, e.base.gid)
	b = le.AppendUint32(b, e.base.atime)
	b = le.AppendUint32(b, e.base.mtime)
	b = le.AppendUint32(b, e.base.ctime)
	b = le.AppendUint32(b, e.uid)
	b = le.AppendUint32(b, e.gid)
	b = le.AppendUint32(b, e.rdev)
	b = appendStamp(b, e.atime)
	b = appendStamp(b, e.mtime)
	b = appendStamp(b, e.ctime)
	b = le.AppendUint32(b, uint32(len(e.xattrs)))
	for _, name := range slices.Sorted(maps.Keys(e.xattrs)) {
		b = le.AppendUint16(b, uint16(len(name)))
		b = le.AppendUint32(b, uint32(len(e.xattrs[name])))
		b = append(b, name...)
		b = append(b, e.xattrs[name]...)
	}
	return b
}

// isExtension tells an extension record of owner from any other record.
func isExtension(b []byte, owner uint64) bool {
	return len(b) >= extFixed && string(b[:4]) == extMagic && le.Uint64(b[8:]) == owner
}

// decodeExtension reads what isExtension accepted.
func decodeExtension(b []byte) (*extension, error) {
	if len(b) < extFixed || string(b[:4]) != extMagic {
		return nil, fmt.Errorf("extension: %w", errFormat)
	}
	if v := le.Uint16(b[4:]); v != extVersion {
		return nil, fmt.Errorf("extension: %w: version %d", errFormat, v)
	}
	e := &extension{owner: le.Uint64(b[8:])}
	e.base = rawInode{
		mode: le.Uint32(b[16:]), uid: le.Uint16(b[20:]), gid: le.Uint16(b[22:]),
		atime: le.Uint32(b[24:]), mtime: le.Uint32(b[28:]), ctime: le.Uint32(b[32:]),
	}
	e.uid, e.gid, e.rdev = le.Uint32(b[36:]), le.Uint32(b[40:]), le.Uint32(b[44:])
	e.atime, e.mtime, e.ctime = readStamp(b[48:]), readStamp(b[60:]), readStamp(b[72:])
	n, rest := int(le.Uint32(b[84:])), b[extFixed:]
	if n > len(rest)/6 {
		return nil, fmt.Errorf("extension: %w: %d attributes", errFormat, n)
	}
	if n > 0 {
		e.xattrs = make(map[string][]byte, n)
	}
	for range n {
		if len(rest) < 6 {
			return nil, fmt.Errorf("extension: %w: cut", errFormat)
		}
		nl, vl := int(le.Uint16(rest)), int(le.Uint32(rest[2:]))
		rest = rest[6:]
		if nl > len(rest) || vl > len(rest)-nl {
			return nil, fmt.Errorf("extension: %w: cut", errFormat)
		}
		e.xattrs[string(rest[:nl])] = slices.Clone(rest[nl : nl+vl])
		rest = rest[nl+vl:]
	}
	return e, nil
}
