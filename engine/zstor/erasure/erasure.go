// Package erasure cuts sealed objects into shards as zstor does: PKCS#7 style
// padding to a multiple of k, k data shards that are consecutive pieces of it,
// and Reed-Solomon parity over GF(2^8) with polynomial 0x11D and the systematic
// Vandermonde matrix, which is what reedsolomon.New gives without options.
//
// A [Code] is made once per shape. [Code.Parity] computes one parity shard
// alone, for any stretch of bytes, so that no shard has to be held whole;
// [Code.Restore] fills in data shards from any k shards.
package erasure

import (
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/reedsolomon"
)

// MaxShards is the largest number of shards of one object.
const MaxShards = 256

var (
	// ErrPadding says that a padded value does not end as zstor pads.
	ErrPadding = errors.New("erasure: bad padding")
	// ErrTooFew says that fewer than k shards are there.
	ErrTooFew = errors.New("erasure: too few shards")
)

// Code is a shape k of n. It is safe for concurrent use.
type Code struct {
	k, n int
	all  reedsolomon.Encoder
	rows []reedsolomon.Encoder // one per parity shard
}

var codes sync.Map // [2]int -> *Code

// New gives the code with k data shards of n shards.
func New(k, n int) (*Code, error) {
	if k < 1 || n <= k || n > MaxShards {
		return nil, fmt.Errorf("erasure: %d of %d shards: want 1 <= data shards < shards <= %d", k, n, MaxShards)
	}
	if c, ok := codes.Load([2]int{k, n}); ok {
		return c.(*Code), nil
	}
	c := &Code{k: k, n: n}
	var err error
	if c.all, err = reedsolomon.New(k, n-k); err != nil {
		return nil, fmt.Errorf("erasure: %d of %d shards: %w", k, n, err)
	}
	if err := c.makeRows(); err != nil {
		return nil, fmt.Errorf("erasure: %d of %d shards: %w", k, n, err)
	}
	codes.Store([2]int{k, n}, c)
	return c, nil
}

// makeRows takes the parity rows out of the matrix by encoding unit vectors, and
// makes one encoder per row.
func (c *Code) makeRows() error {
	matrix := make([][]byte, c.n-c.k)
	for r := range matrix {
		matrix[r] = make([]byte, c.k)
	}
	shards := make([][]byte, c.n)
	for i := range shards {
		shards[i] = make([]byte, 1)
	}
	for col := range c.k {
		shards[col][0] = 1
		if err := c.all.Encode(shards); err != nil {
			return err
		}
		shards[col][0] = 0
		for r := range matrix {
			matrix[r][col] = shards[c.k+r][0]
		}
	}
	for _, row := range matrix {
		enc, err := reedsolomon.New(c.k, 1, reedsolomon.WithCustomMatrix([][]byte{row}), reedsolomon.WithMaxGoroutines(1))
		if err != nil {
			return err
		}
		c.rows = append(c.rows, enc)
	}
	return nil
}

// K is the number of data shards, any k shards restore the object.
func (c *Code) K() int { return c.k }

// N is the number of all shards.
func (c *Code) N() int { return c.n }

// ShardLen is the length of each shard of a value of size bytes.
func (c *Code) ShardLen(size int) int { return (size + c.k - size%c.k) / c.k }

// Pad writes the padding behind the first size bytes of buf, which has room for
// k*ShardLen(size) bytes, and returns that many.
func (c *Code) Pad(buf []byte, size int) []byte {
	padded := buf[:c.k*c.ShardLen(size)]
	for i := size; i < len(padded); i++ {
		padded[i] = byte(len(padded) - size)
	}
	return padded
}

// Unpad checks the padding and cuts it off.
func (c *Code) Unpad(padded []byte) ([]byte, error) {
	if len(padded) == 0 || len(padded)%c.k != 0 {
		return nil, fmt.Errorf("%w: %d bytes in %d shards", ErrPadding, len(padded), c.k)
	}
	pad := int(padded[len(padded)-1])
	if pad == 0 || pad > c.k || pad > len(padded) {
		return nil, fmt.Errorf("%w: length %d", ErrPadding, pad)
	}
	for _, b := range padded[len(padded)-pad:] {
		if int(b) != pad {
			return nil, fmt.Errorf("%w: uneven bytes", ErrPadding)
		}
	}
	return padded[:len(padded)-pad], nil
}

// Parity computes a stretch of parity shard index (k <= index < n) from the same
// stretch of all k data shards.
func (c *Code) Parity(index int, data [][]byte, out []byte) error {
	if len(data) != c.k || index < c.k || index >= c.n {
		return fmt.Errorf("erasure: parity %d from %d data shards in a code of %d of %d", index, len(data), c.k, c.n)
	}
	shards := make([][]byte, c.k+1)
	copy(shards, data)
	shards[c.k] = out
	return c.rows[index-c.k].Encode(shards)
}

// Split returns all n shards of a small value; it copies value.
func (c *Code) Split(value []byte) ([][]byte, error) {
	l := c.ShardLen(len(value))
	buf := make([]byte, c.n*l)
	copy(buf, value)
	c.Pad(buf, len(value))
	shards := make([][]byte, c.n)
	for i := range shards {
		shards[i] = buf[i*l : (i+1)*l : (i+1)*l]
	}
	return shards, c.all.Encode(shards)
}

// Join is the reverse of Split, from any k shards; the missing ones are nil.
// shards is not changed.
func (c *Code) Join(shards [][]byte) ([]byte, error) {
	have := make([][]byte, c.n)
	copy(have, shards)
	if err := c.all.ReconstructData(have); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTooFew, err)
	}
	var padded []byte
	for _, s := range have[:c.k] {
		padded = append(padded, s...)
	}
	return c.Unpad(padded)
}

// Restore computes the data shards that are missing for one stretch. have has n
// entries: a stretch of each shard that is there, nil for others. out has k
// entries: where to put the stretch of each missing data shard.
func (c *Code) Restore(have, out [][]byte) error {
	shards := make([][]byte, c.n)
	copy(shards, have)
	for i, o := range out {
		if len(shards[i]) == 0 && len(o) > 0 {
			shards[i] = o[:0:len(o)]
		}
	}
	if err := c.all.ReconstructData(shards); err != nil {
		return fmt.Errorf("%w: %w", ErrTooFew, err)
	}
	for i, o := range out {
		if len(have[i]) == 0 && len(o) > 0 && &shards[i][0] != &o[0] {
			copy(o, shards[i])
		}
	}
	return nil
}
