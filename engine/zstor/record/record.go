// Package record is zstor's metadata record: what it says of an object
// ([Record], [Parse], [Record.Append]), and how one is sealed, dispersed over
// four metadata backends and put together again ([Split], [Join]).
//
// The byte format is bincode 1 (see zstor's meta.rs):
//
//	k u64, p u64, checksum [16], encryption variant u32 = 0, key text, compression
//	variant u32 = 0, count u64, then per shard: index u64, checksum [16], key count
//	u64, keys (variant u32, then u32 or u64), address family u32, address, port u16,
//	namespace option text, password option text.
//
// zstor ignores what stands behind the record. [Record.Append] puts an extension
// there, described in extension.go.
package record

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/crypto/blake2b"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor/erasure"
	"github.com/threefoldtech/quantumd/engine/zstor/internal/bincode"
	"github.com/threefoldtech/quantumd/engine/zstor/seal"
)

// ErrMalformed says that bytes are not a record.
var ErrMalformed = errors.New("record: malformed")

// Checksum is a BLAKE2b-128.
type Checksum [16]byte

// Sum computes the checksum of b.
func Sum(b []byte) Checksum {
	h, err := blake2b.New(16, nil)
	if err != nil {
		panic("record: blake2b: " + err.Error()) // the size is a constant
	}
	_, _ = h.Write(b) // hash.Hash: never fails
	return Checksum(h.Sum(nil))
}

// Record says how an object is stored.
type Record struct {
	K, P     int // data shards and parity shards
	Checksum Checksum
	Key      seal.Key // of the object's data
	Shards   []Shard  // in order of upload; place them by Index

	Extension *Extension // what quantumd adds; nil in records of the real zstor
}

// Shard is one shard and where it is.
type Shard struct {
	Index    int
	Checksum Checksum // of the whole shard
	Keys     [][]byte // of its pieces, 4 or 8 bytes each, as the backend gave them

	Address   netip.AddrPort
	Namespace *string // nil: the server's default namespace
	Password  *string
}

// Backend says where the shard is, without id and group.
func (s Shard) Backend() backend.Backend {
	b := backend.Backend{Role: backend.Data, Address: s.Address}
	if s.Namespace != nil {
		b.Namespace = *s.Namespace
	}
	if s.Password != nil {
		b.Password = backend.Secret(*s.Password)
	}
	return b
}

const (
	variantAES    = 0
	variantSnappy = 0
	variantIPv4   = 0
	variantIPv6   = 1
	variantU32    = 0
	variantU64    = 1

	minShard = 8 + 16 + 8 + 4 + 4 + 2 + 1 + 1
	minKey   = 4 + 4
)

// Encode gives the bytes of the record without extension, as zstor writes it.
func (r *Record) Encode() ([]byte, error) {
	w := &bincode.Writer{}
	w.U64(uint64(r.K))
	w.U64(uint64(r.P))
	w.Raw(r.Checksum[:])
	w.U32(variantAES)
	w.String(r.Key.Hex())
	w.U32(variantSnappy)
	w.U64(uint64(len(r.Shards)))
	for i := range r.Shards {
		if err := r.Shards[i].encode(w); err != nil {
			return nil, err
		}
	}
	return w.Buf, nil
}

func (s *Shard) encode(w *bincode.Writer) error {
	w.U64(uint64(s.Index))
	w.Raw(s.Checksum[:])
	w.U64(uint64(len(s.Keys)))
	for _, k := range s.Keys {
		switch len(k) {
		case 4:
			w.U32(variantU32)
		case 8:
			w.U32(variantU64)
		default:
			return fmt.Errorf("record: shard %d has a key of %d bytes; zstor knows 4 and 8", s.Index, len(k))
		}
		w.Raw(k)
	}
	addr := s.Address.Addr()
	switch {
	case addr.Is4():
		w.U32(variantIPv4)
	case addr.Is6() && addr.Zone() == "":
		w.U32(variantIPv6)
	default:
		return fmt.Errorf("record: shard %d is at %v; zstor's records hold an IP address and a port without a zone", s.Index, s.Address)
	}
	w.Raw(addr.AsSlice())
	w.U16(s.Address.Port())
	w.OptString(s.Namespace)
	w.OptString(s.Password)
	return nil
}

// Parse reads a record and the extension behind it, if there is one. Anything
// else behind it is ignored, as zstor does. Errors match ErrMalformed.
func Parse(b []byte) (*Record, error) {
	rd := bincode.NewReader(b)
	r := Read(rd)
	if err := rd.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := r.validate(); err != nil {
		return nil, err
	}
	r.Extension = parseExtension(rd.Rest(), r)
	return r, nil
}

// Read takes a record from the middle of other bytes; faults show in rd.Err.
func Read(rd *bincode.Reader) *Record {
	r := &Record{}
	k, p := rd.U64(), rd.U64()
	if k > erasure.MaxShards || p > erasure.MaxShards {
		rd.Fail("%d data and %d parity shards", k, p)
		return r
	}
	r.K, r.P = int(k), int(p)
	copy(r.Checksum[:], rd.Raw(len(r.Checksum)))
	if v := rd.U32(); v != variantAES {
		rd.Fail("unknown encryption %d", v)
	}
	text := rd.String()
	if rd.Err() == nil {
		key, err := seal.ParseKey(text)
		if err != nil {
			rd.Fail("encryption key: %v", err)
		}
		r.Key = key
	}
	if v := rd.U32(); v != variantSnappy {
		rd.Fail("unknown compression %d", v)
	}
	n := rd.Count(minShard)
	for range n {
		if rd.Err() != nil {
			break
		}
		r.Shards = append(r.Shards, readShard(rd))
	}
	return r
}

func readShard(rd *bincode.Reader) Shard {
	s := Shard{}
	index := rd.U64()
	if index >= erasure.MaxShards {
		rd.Fail("shard index %d", index)
	}
	s.Index = int(index)
	copy(s.Checksum[:], rd.Raw(len(s.Checksum)))
	keys := rd.Count(minKey)
	for range keys {
		if rd.Err() != nil {
			break
		}
		s.Keys = append(s.Keys, readKey(rd))
	}
	s.Address = readAddress(rd)
	s.Namespace = rd.OptString()
	s.Password = rd.OptString()
	return s
}

func readKey(rd *bincode.Reader) []byte {
	switch v := rd.U32(); v {
	case variantU32:
		return append([]byte(nil), rd.Raw(4)...)
	case variantU64:
		return append([]byte(nil), rd.Raw(8)...)
	default:
		rd.Fail("unknown kind of key %d", v)
		return nil
	}
}

func readAddress(rd *bincode.Reader) netip.AddrPort {
	var addr netip.Addr
	switch v := rd.U32(); v {
	case variantIPv4:
		addr, _ = netip.AddrFromSlice(rd.Raw(4)) // a short read shows in rd.Err
	case variantIPv6:
		addr, _ = netip.AddrFromSlice(rd.Raw(16))
	default:
		rd.Fail("unknown address family %d", v)
	}
	return netip.AddrPortFrom(addr, rd.U16())
}

func (r *Record) validate() error {
	n := r.K + r.P
	if r.K < 1 || r.P < 0 || n > erasure.MaxShards {
		return fmt.Errorf("%w: %d data and %d parity shards", ErrMalformed, r.K, r.P)
	}
	for _, s := range r.Shards {
		if s.Index >= n {
			return fmt.Errorf("%w: shard index %d of %d shards", ErrMalformed, s.Index, n)
		}
	}
	return nil
}
