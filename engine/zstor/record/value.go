package record

import (
	"fmt"

	"github.com/threefoldtech/quantumd/engine/zstor/erasure"
)

// Values of a metadata backend: index byte, shard, BLAKE2b-128 of the shard.
const (
	Values      = 4 // one per metadata backend
	Needed      = 2 // values that restore a record
	valueHeader = 1
	valueSum    = 16
	// MaxValue is the longest value that a zdb takes.
	MaxValue = 8 << 20
)

// Value is what one metadata backend holds of a sealed record.
type Value struct {
	Index int // 0 to 3
	Shard []byte
}

func code() *erasure.Code {
	c, err := erasure.New(Needed, Values)
	if err != nil {
		panic("record: 2+2 code: " + err.Error()) // the shape is a constant
	}
	return c
}

// SealedLenFor gives the length that a sealed record must have for its values to
// be valueLen bytes, or 0 when there is none.
func SealedLenFor(valueLen int) int {
	shard := valueLen - valueHeader - valueSum
	if shard < 1 {
		return 0
	}
	return 2*shard - 1
}

// Split disperses a sealed record over four values, by index.
func Split(sealed []byte) ([Values]Value, error) {
	var out [Values]Value
	shards, err := code().Split(sealed)
	if err != nil {
		return out, fmt.Errorf("record: disperse: %w", err)
	}
	for i := range out {
		out[i] = Value{Index: i, Shard: shards[i]}
	}
	if l := len(out[0].Encode()); l > MaxValue {
		return out, fmt.Errorf("record: a metadata value of %d bytes is over zdb's limit of %d; use fewer or larger shards", l, MaxValue)
	}
	return out, nil
}

// Encode gives the bytes stored at a metadata backend.
func (v Value) Encode() []byte {
	b := make([]byte, 0, valueHeader+len(v.Shard)+valueSum)
	b = append(b, byte(v.Index))
	b = append(b, v.Shard...)
	sum := Sum(v.Shard)
	return append(b, sum[:]...)
}

// ParseValue reads what a metadata backend holds. The error matches ErrMalformed.
func ParseValue(b []byte) (Value, error) {
	if len(b) <= valueHeader+valueSum {
		return Value{}, fmt.Errorf("%w: metadata value of %d bytes", ErrMalformed, len(b))
	}
	if b[0] >= Values {
		return Value{}, fmt.Errorf("%w: metadata index %d", ErrMalformed, b[0])
	}
	shard := b[valueHeader : len(b)-valueSum]
	if sum := Sum(shard); string(sum[:]) != string(b[len(b)-valueSum:]) {
		return Value{}, fmt.Errorf("%w: metadata value does not match its checksum", ErrMalformed)
	}
	return Value{Index: int(b[0]), Shard: shard}, nil
}

// Join puts a sealed record together from two values of different index. Values
// of different writes give bytes that do not open.
func Join(a, b Value) ([]byte, error) {
	if a.Index == b.Index || len(a.Shard) != len(b.Shard) {
		return nil, fmt.Errorf("%w: values %d and %d of %d and %d bytes do not fit", ErrMalformed,
			a.Index, b.Index, len(a.Shard), len(b.Shard))
	}
	shards := make([][]byte, Values)
	shards[a.Index], shards[b.Index] = a.Shard, b.Shard
	sealed, err := code().Join(shards)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return sealed, nil
}
