package segment

import (
	"encoding/binary"
	"fmt"
)

// DescriptorName is the file in a namespace's index folder that describes it.
const DescriptorName = "zdb-namespace"

// Flags of a descriptor.
const (
	flagPublic = 1
	flagWorm   = 2
	flagAlways = 4
)

const descriptorSize = 15

// Descriptor is what a namespace's descriptor file holds. The password is
// plain text in the format.
type Descriptor struct {
	Name     string
	Password string
	MaxSize  uint64 // bytes, zero: no limit
	Public   bool
	Worm     bool
}

// Append appends the descriptor's bytes; name and password are cut to 255.
func (d *Descriptor) Append(b []byte) []byte {
	name, pass := d.Name[:min(len(d.Name), 255)], d.Password[:min(len(d.Password), 255)]
	b = binary.LittleEndian.AppendUint32(b, 1)
	b = append(b, byte(len(name)), byte(len(pass)))
	b = binary.LittleEndian.AppendUint64(b, d.MaxSize)
	flags := byte(flagAlways)
	if d.Public {
		flags |= flagPublic
	}
	if d.Worm {
		flags |= flagWorm
	}
	b = append(b, flags)
	b = append(b, name...)
	return append(b, pass...)
}

// DecodeDescriptor reads a descriptor; bytes behind the valid part, which the
// reference leaves after a shorter password, are ignored.
func DecodeDescriptor(b []byte) (Descriptor, error) {
	if len(b) < descriptorSize {
		return Descriptor{}, fmt.Errorf("%w descriptor: %d bytes", ErrFormat, len(b))
	}
	if v := binary.LittleEndian.Uint32(b); v != 1 {
		return Descriptor{}, fmt.Errorf("%w descriptor: version %d, want 1", ErrFormat, v)
	}
	nlen, plen := int(b[4]), int(b[5])
	if len(b) < descriptorSize+nlen+plen {
		return Descriptor{}, fmt.Errorf("%w descriptor: cut", ErrFormat)
	}
	name, rest := b[descriptorSize:descriptorSize+nlen], b[descriptorSize+nlen:]
	return Descriptor{
		Name: string(name), Password: string(rest[:plen]),
		MaxSize: binary.LittleEndian.Uint64(b[6:]),
		Public:  b[14]&flagPublic != 0, Worm: b[14]&flagWorm != 0,
	}, nil
}
