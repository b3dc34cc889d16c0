package server

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/threefoldtech/quantumd/engine/zdb/segment"
)

// CheckpointName is the file of ours in a namespace's index folder, beside
// what a real zdb writes there; a real zdb does not look at it.
const CheckpointName = "quantumd-checkpoint"

// checkpointFile is the state of a namespace at some moment, as its file says
// it: what was written to data files before dataOff is in the index files;
// what comes behind is replayed.
//
//	"QDCKPT1\n" flags:1 uvarints… crc32c:4 (of all before it)
type checkpointFile struct {
	clean    bool // the server was closed: nothing comes behind dataOff
	closed   bool // the highest pair is closed
	flushing bool // the namespace was being emptied
	counted  bool // live, liveBytes and liveIndex are known
	mode     Mode

	dataOff  int64
	lastData uint32
	lengths  []int64 // of the index files, by id

	slots, live, liveBytes, liveIndex uint64

	last    place // newest index entry
	dirty   []uint32
	patches []placedPatch // changes in place that may not be in the files yet
}

type placedPatch struct {
	place
	patch
}

const (
	checkpointMagic = "QDCKPT1\n"
	checkpointMax   = 256 << 20 // bytes
)

const (
	ckptClean = 1 << iota
	ckptClosed
	ckptFlushing
	ckptCounted
	ckptSequential
)

var errCheckpoint = fmt.Errorf("%w checkpoint", ErrDamaged)

func (c *checkpointFile) encode() []byte {
	var flags byte
	for bit, set := range map[byte]bool{
		ckptClean: c.clean, ckptClosed: c.closed, ckptFlushing: c.flushing,
		ckptCounted: c.counted, ckptSequential: c.mode == Sequential,
	} {
		if set {
			flags |= bit
		}
	}
	b := append([]byte(checkpointMagic), flags)
	for _, v := range []uint64{
		uint64(c.dataOff), uint64(c.lastData), c.slots, c.live, c.liveBytes, c.liveIndex,
		uint64(c.last.file), uint64(c.last.offset),
	} {
		b = binary.AppendUvarint(b, v)
	}
	b = binary.AppendUvarint(b, uint64(len(c.lengths)))
	for _, l := range c.lengths {
		b = binary.AppendUvarint(b, uint64(l))
	}
	b = binary.AppendUvarint(b, uint64(len(c.dirty)))
	for _, id := range c.dirty {
		b = binary.AppendUvarint(b, uint64(id))
	}
	b = binary.AppendUvarint(b, uint64(len(c.patches)))
	for _, p := range c.patches {
		b = binary.AppendUvarint(b, uint64(p.file))
		b = binary.AppendUvarint(b, uint64(p.offset))
		b = append(b, p.at, p.n)
		b = append(b, p.b[:p.n]...)
	}
	return append(b, checkpointSum(b)...)
}

func checkpointSum(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(nil, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

// reader takes a checkpoint apart; after the first error everything is zero.
type checkpointReader struct {
	b   []byte
	err error
}

func (r *checkpointReader) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	if r.err != nil || n <= 0 || v > limit {
		r.err, r.b = errCheckpoint, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *checkpointReader) bytes(n int) []byte {
	if r.err != nil || n > len(r.b) {
		r.err, r.b = errCheckpoint, nil
		return make([]byte, n)
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

// count reads the length of a list whose elements take at least size bytes.
func (r *checkpointReader) count(size int) int {
	return int(r.uvarint(uint64(len(r.b) / size)))
}

func decodeCheckpoint(b []byte) (*checkpointFile, error) {
	head := len(checkpointMagic)
	if len(b) < head+1+4 || string(b[:head]) != checkpointMagic {
		return nil, errCheckpoint
	}
	body, sum := b[:len(b)-4], b[len(b)-4:]
	if !bytes.Equal(checkpointSum(body), sum) {
		return nil, fmt.Errorf("%w: wrong checksum", errCheckpoint)
	}
	flags := body[head]
	c := &checkpointFile{
		clean: flags&ckptClean != 0, closed: flags&ckptClosed != 0,
		flushing: flags&ckptFlushing != 0, counted: flags&ckptCounted != 0, mode: User,
	}
	if flags&ckptSequential != 0 {
		c.mode = Sequential
	}
	r := &checkpointReader{b: body[head+1:]}
	c.dataOff = int64(r.uvarint(math.MaxUint32 + segment.MaxPayload*2))
	c.lastData = uint32(r.uvarint(math.MaxUint32))
	c.slots = r.uvarint(math.MaxUint32)
	c.live = r.uvarint(math.MaxUint32)
	c.liveBytes = r.uvarint(math.MaxUint64)
	c.liveIndex = r.uvarint(math.MaxUint64)
	c.last = place{uint32(r.uvarint(math.MaxUint32)), uint32(r.uvarint(math.MaxUint32))}
	c.lengths = make([]int64, r.count(1))
	for i := range c.lengths {
		c.lengths[i] = int64(r.uvarint(math.MaxUint32))
	}
	c.dirty = make([]uint32, r.count(1))
	for i := range c.dirty {
		c.dirty[i] = uint32(r.uvarint(math.MaxUint32))
	}
	c.patches = make([]placedPatch, r.count(5))
	for i := range c.patches {
		r.patch(&c.patches[i], len(c.lengths))
	}
	if r.err != nil || len(r.b) > 0 {
		return nil, errCheckpoint
	}
	return c, nil
}

func (r *checkpointReader) patch(p *placedPatch, files int) {
	p.place = place{uint32(r.uvarint(math.MaxUint32)), uint32(r.uvarint(math.MaxUint32))}
	an := r.bytes(2)
	p.at, p.n = an[0], an[1]
	if int(p.at)+int(p.n) > segment.SeqSlotSize || p.n == 0 || uint64(p.file) >= uint64(files) {
		r.err, r.b = errCheckpoint, nil
		return
	}
	copy(p.b[:], r.bytes(int(p.n)))
}

// readCheckpoint gives nil without an error when there is none.
func readCheckpoint(dir string) (*checkpointFile, error) {
	path := filepath.Join(dir, CheckpointName)
	size, there, err := fileSize(path)
	if err != nil || !there {
		return nil, err
	}
	if size > checkpointMax {
		return nil, fmt.Errorf("%w: %s has %d bytes", errCheckpoint, path, size)
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c, err := decodeCheckpoint(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func sortPatches(p []placedPatch) {
	slices.SortFunc(p, func(a, b placedPatch) int {
		if a.file != b.file {
			return int(int64(a.file) - int64(b.file))
		}
		return int(int64(a.offset) - int64(b.offset))
	})
}
