package zstor

import (
	"sync"

	"golang.org/x/crypto/blake2b"

	"github.com/threefoldtech/quantumd/engine/zstor/erasure"
	"github.com/threefoldtech/quantumd/engine/zstor/record"
)

// shardSet gives any piece of any shard of an object whose data shards are in
// memory; parity is computed piece by piece.
type shardSet struct {
	code *erasure.Code
	len  int64
	data [][]byte
}

func newShardSet(code *erasure.Code, padded []byte) *shardSet {
	s := &shardSet{code: code, len: int64(len(padded) / code.K())}
	for i := range code.K() {
		s.data = append(s.data, padded[int64(i)*s.len:int64(i+1)*s.len])
	}
	return s
}

// piece writes piece number i of a shard to dst and gives that part of dst.
func (s *shardSet) piece(shard, i int, dst []byte) ([]byte, error) {
	from := int64(i) * PieceSize
	to := min(from+PieceSize, s.len)
	dst = dst[:to-from]
	if shard < s.code.K() {
		copy(dst, s.data[shard][from:to])
		return dst, nil
	}
	stretch := make([][]byte, len(s.data))
	for j, d := range s.data {
		stretch[j] = d[from:to]
	}
	return dst, s.code.Parity(shard, stretch, dst)
}

// piecePool holds buffers for pieces on their way to a backend. One that was part
// of a failed call is not put back: the client may still be reading it.
var piecePool = sync.Pool{New: func() any { b := make([]byte, PieceSize); return &b }}

// pieceBuffer gives a buffer for pieces of a shard of length shardLen.
func pieceBuffer(shardLen int64) (b []byte, done func()) {
	if shardLen < PieceSize/4 {
		return make([]byte, shardLen), func() {}
	}
	p := piecePool.Get().(*[]byte)
	return *p, func() { piecePool.Put(p) }
}

// shardHash computes the checksum of a shard from its pieces.
type shardHash struct {
	h interface {
		Write([]byte) (int, error)
		Sum([]byte) []byte
	}
}

func newShardHash() shardHash {
	h, err := blake2b.New(len(record.Checksum{}), nil)
	if err != nil {
		panic("zstor: blake2b: " + err.Error()) // the size is a constant
	}
	return shardHash{h}
}

func (s shardHash) write(b []byte) { _, _ = s.h.Write(b) } // hash.Hash: never fails

func (s shardHash) sum() record.Checksum { return record.Checksum(s.h.Sum(nil)) }
