package record

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math"

	"github.com/threefoldtech/quantumd/engine/zstor/internal/bincode"
)

// Extension is what quantumd writes behind a record, where the real zstor reads
// nothing. A rewrite by the real zstor drops it.
//
//	"qsfs-ext" 8 bytes, version u8 = 1, generation u64, size u64 (all ones: not
//	known), shard length u64 (0: not known),
//	count u64 = all pieces of all shards or 0, CRC-32C u32 per piece in the order of
//	the record, CRC-32C u32 over everything before it; then zeros as padding
type Extension struct {
	// Generation orders the writes of one object: the larger one is the newer.
	Generation uint64
	Size       int64 // bytes of the object
	Unsized    bool  // Size is not known
	ShardLen   int64 // bytes of each shard
	// CRCs has a checksum per piece (CRC-32C from 0 without final inversion, as
	// KEYCUR answers), shard after shard in the order of the record; or nothing.
	CRCs [][]uint32
}

const (
	extMagic   = "qsfs-ext"
	extVersion = 1
	// padUnit is what records are padded to, so that a rewrite mostly has the
	// length of what it replaces: the real reader fails on shards of two lengths.
	padUnit = 512
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CRC computes the checksum of a payload as zdb does: CRC-32C started from zero
// and without the final inversion.
func CRC(b []byte) uint32 { return ^crc32.Update(0xffffffff, castagnoli, b) }

// Append gives the record, its extension if it has one, and zeros up to a
// multiple of 512 bytes or, when that is at least as long, to want bytes.
func (r *Record) Append(want int) ([]byte, error) {
	b, err := r.Encode()
	if err != nil {
		return nil, err
	}
	if r.Extension != nil {
		b = r.Extension.encode(b)
	}
	size := (len(b) + padUnit - 1) / padUnit * padUnit
	if want >= len(b) {
		size = want
	}
	return append(b, make([]byte, size-len(b))...), nil
}

func (e *Extension) encode(b []byte) []byte {
	w := &bincode.Writer{}
	w.Raw([]byte(extMagic))
	w.U8(extVersion)
	w.U64(e.Generation)
	if e.Unsized {
		w.U64(math.MaxUint64)
	} else {
		w.U64(uint64(e.Size))
	}
	w.U64(uint64(e.ShardLen))
	var all []uint32
	for _, c := range e.CRCs {
		all = append(all, c...)
	}
	w.U64(uint64(len(all)))
	for _, c := range all {
		w.U32(c)
	}
	w.U32(CRC(w.Buf))
	return append(b, w.Buf...)
}

// parseExtension gives nil for anything that is not an extension of this version
// that fits the record: it is an addition, and never a reason to refuse one.
func parseExtension(b []byte, r *Record) *Extension {
	if !bytes.HasPrefix(b, []byte(extMagic)) {
		return nil
	}
	rd := bincode.NewReader(b)
	rd.Raw(len(extMagic))
	if rd.U8() != extVersion {
		return nil
	}
	e := &Extension{Generation: rd.U64()}
	size, length := rd.U64(), rd.U64()
	if e.Unsized = size == math.MaxUint64; e.Unsized {
		size = 0
	}
	e.Size, e.ShardLen = int64(size), int64(length)
	n := rd.Count(4)
	raw := rd.Raw(4 * n)
	end := rd.Offset()
	if sum := rd.U32(); rd.Err() != nil || sum != CRC(b[:end]) || e.Size < 0 || e.ShardLen < 0 {
		return nil
	}
	pieces := 0
	for _, s := range r.Shards {
		pieces += len(s.Keys)
	}
	if n == 0 || n != pieces {
		return e
	}
	for _, s := range r.Shards {
		crcs := make([]uint32, len(s.Keys))
		for i := range crcs {
			crcs[i] = binary.LittleEndian.Uint32(raw[4*i:])
		}
		raw = raw[4*len(crcs):]
		e.CRCs = append(e.CRCs, crcs)
	}
	return e
}
