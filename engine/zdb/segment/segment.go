package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
)

// Limits of the format.
const (
	MaxKey     = 255
	MaxPayload = 8 << 20

	DataHeaderSize  = 28
	IndexHeaderSize = 29
	DataEntrySize   = 18 // without key and payload
	IndexEntrySize  = 34 // without key
	SeqKeySize      = 8
	SeqSlotSize     = IndexEntrySize + SeqKeySize

	dataVersion  = 3
	indexVersion = 4
)

// FlagDeleted marks a tombstone in a data file, and a dead entry in an index.
const FlagDeleted = 1

// ErrFormat says that bytes are not what the format allows.
var ErrFormat = errors.New("zdb: malformed")

// Mode is how a namespace chooses its keys. The zero value is neither; in
// options it means "as each namespace says".
type Mode uint8

// The modes of a namespace.
const (
	User       Mode = iota + 1 // the client chooses keys of 1 to 255 bytes
	Sequential                 // keys are 8-byte numbers that the server gives
)

// String gives the word that NSINFO uses.
func (m Mode) String() string {
	switch m {
	case User:
		return "userkey"
	case Sequential:
		return "sequential"
	}
	return "unset"
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is zdb's checksum of a payload: CRC-32C from 0 without the usual
// inversions. The checksum of nothing is 0.
func Checksum(p []byte) uint32 {
	return ^crc32.Update(^uint32(0), castagnoli, p)
}

// DataName is the name of a data file.
func DataName(id uint32) string { return "d" + strconv.FormatUint(uint64(id), 10) }

// IndexName is the name of an index file.
func IndexName(id uint32) string { return "i" + strconv.FormatUint(uint64(id), 10) }

// ParseName reads a name that [DataName] ('d') or [IndexName] ('i') gave.
func ParseName(prefix byte, name string) (uint32, bool) {
	if len(name) < 2 || name[0] != prefix || (name[1] == '0' && len(name) > 2) {
		return 0, false
	}
	id, err := strconv.ParseUint(name[1:], 10, 32)
	if err != nil || name[1] == '+' {
		return 0, false
	}
	return uint32(id), true
}

// AppendDataHeader appends the header of data file id.
func AppendDataHeader(b []byte, id uint32) []byte {
	b = append(b, "DAT0"...)
	b = binary.LittleEndian.AppendUint32(b, dataVersion)
	b = append(b, make([]byte, 16)...)
	return binary.LittleEndian.AppendUint32(b, id)
}

// DecodeDataHeader checks the header of a data file and gives its id.
func DecodeDataHeader(b []byte) (uint32, error) {
	if len(b) < DataHeaderSize {
		return 0, fmt.Errorf("%w data header: %d bytes", ErrFormat, len(b))
	}
	if string(b[:4]) != "DAT0" {
		return 0, fmt.Errorf("%w data header: magic %q", ErrFormat, b[:4])
	}
	if v := binary.LittleEndian.Uint32(b[4:]); v != dataVersion {
		return 0, fmt.Errorf("%w data header: version %d, want %d", ErrFormat, v, dataVersion)
	}
	return binary.LittleEndian.Uint32(b[24:]), nil
}

// AppendIndexHeader appends the header of index file id.
func AppendIndexHeader(b []byte, id uint32, m Mode) []byte {
	b = append(b, "IDX0"...)
	b = binary.LittleEndian.AppendUint32(b, indexVersion)
	b = append(b, make([]byte, 16)...)
	b = binary.LittleEndian.AppendUint32(b, id)
	return append(b, byte(m-User))
}

// DecodeIndexHeader checks the header of an index file and gives its id and mode.
func DecodeIndexHeader(b []byte) (uint32, Mode, error) {
	if len(b) < IndexHeaderSize {
		return 0, 0, fmt.Errorf("%w index header: %d bytes", ErrFormat, len(b))
	}
	if string(b[:4]) != "IDX0" {
		return 0, 0, fmt.Errorf("%w index header: magic %q", ErrFormat, b[:4])
	}
	if v := binary.LittleEndian.Uint32(b[4:]); v != indexVersion {
		return 0, 0, fmt.Errorf("%w index header: version %d, want %d", ErrFormat, v, indexVersion)
	}
	if b[28] > 1 {
		return 0, 0, fmt.Errorf("%w index header: mode byte %d", ErrFormat, b[28])
	}
	return binary.LittleEndian.Uint32(b[24:]), User + Mode(b[28]), nil
}

// DataEntry is the head of an entry of a data file; the payload follows its key.
type DataEntry struct {
	Key       []byte
	Length    uint32 // of the payload
	Previous  uint32 // offset of the entry appended before, maybe in the file before
	CRC       uint32
	Flags     uint8
	Timestamp uint32
}

// Deleted says that e is a tombstone.
func (e *DataEntry) Deleted() bool { return e.Flags&FlagDeleted != 0 }

// Size is the length of the entry with key and payload.
func (e *DataEntry) Size() int64 {
	return DataEntrySize + int64(len(e.Key)) + int64(e.Length)
}

// Append appends the entry without its payload.
func (e *DataEntry) Append(b []byte) []byte {
	b = append(b, byte(len(e.Key)))
	b = binary.LittleEndian.AppendUint32(b, e.Length)
	b = binary.LittleEndian.AppendUint32(b, e.Previous)
	b = binary.LittleEndian.AppendUint32(b, e.CRC)
	b = append(b, e.Flags)
	b = binary.LittleEndian.AppendUint32(b, e.Timestamp)
	return append(b, e.Key...)
}

// DecodeDataEntry reads the head of an entry; Key aliases b. It refuses what
// no server writes: an empty key, a payload above the limit, a tombstone with
// a payload.
func DecodeDataEntry(b []byte) (DataEntry, error) {
	if len(b) < DataEntrySize {
		return DataEntry{}, fmt.Errorf("%w data entry: %d bytes", ErrFormat, len(b))
	}
	klen := int(b[0])
	e := DataEntry{
		Length:    binary.LittleEndian.Uint32(b[1:]),
		Previous:  binary.LittleEndian.Uint32(b[5:]),
		CRC:       binary.LittleEndian.Uint32(b[9:]),
		Flags:     b[13],
		Timestamp: binary.LittleEndian.Uint32(b[14:]),
	}
	switch {
	case klen == 0:
		return e, fmt.Errorf("%w data entry: empty key", ErrFormat)
	case len(b) < DataEntrySize+klen:
		return e, fmt.Errorf("%w data entry: cut in its key", ErrFormat)
	case e.Length > MaxPayload:
		return e, fmt.Errorf("%w data entry: payload of %d bytes", ErrFormat, e.Length)
	case e.Flags&^3 != 0:
		return e, fmt.Errorf("%w data entry: flags %#x", ErrFormat, e.Flags)
	case e.Deleted() && (e.Length != 0 || e.CRC != 0):
		return e, fmt.Errorf("%w data entry: tombstone with a payload", ErrFormat)
	}
	e.Key = b[DataEntrySize : DataEntrySize+klen : DataEntrySize+klen]
	return e, nil
}

// IndexEntry is an entry of an index file.
type IndexEntry struct {
	Key          []byte
	Offset       uint32 // of the entry in the data file
	Length       uint32 // of the payload
	Previous     uint32 // offset of the index entry appended before
	Flags        uint8
	DataFile     uint32 // user mode: 0 for a new key whatever the file; use the index file's id
	Timestamp    uint32
	CRC          uint32
	ParentFile   uint32 // older version of the same key; 0/0: none
	ParentOffset uint32
}

// Deleted says that e is dead: deleted, overwritten, or the copy that an
// update in sequential mode leaves.
func (e *IndexEntry) Deleted() bool { return e.Flags&FlagDeleted != 0 }

// Size is the length of the entry with its key.
func (e *IndexEntry) Size() int64 { return IndexEntrySize + int64(len(e.Key)) }

// FlagsOffset is where in an index entry its flags lie.
const FlagsOffset = 13

// Append appends the entry.
func (e *IndexEntry) Append(b []byte) []byte {
	b = append(b, byte(len(e.Key)))
	b = binary.LittleEndian.AppendUint32(b, e.Offset)
	b = binary.LittleEndian.AppendUint32(b, e.Length)
	b = binary.LittleEndian.AppendUint32(b, e.Previous)
	b = append(b, e.Flags)
	b = binary.LittleEndian.AppendUint32(b, e.DataFile)
	b = binary.LittleEndian.AppendUint32(b, e.Timestamp)
	b = binary.LittleEndian.AppendUint32(b, e.CRC)
	b = binary.LittleEndian.AppendUint32(b, e.ParentFile)
	b = binary.LittleEndian.AppendUint32(b, e.ParentOffset)
	return append(b, e.Key...)
}

// DecodeIndexEntry reads an entry; Key aliases b.
func DecodeIndexEntry(b []byte) (IndexEntry, error) {
	if len(b) < IndexEntrySize {
		return IndexEntry{}, fmt.Errorf("%w index entry: %d bytes", ErrFormat, len(b))
	}
	klen := int(b[0])
	e := IndexEntry{
		Offset:       binary.LittleEndian.Uint32(b[1:]),
		Length:       binary.LittleEndian.Uint32(b[5:]),
		Previous:     binary.LittleEndian.Uint32(b[9:]),
		Flags:        b[13],
		DataFile:     binary.LittleEndian.Uint32(b[14:]),
		Timestamp:    binary.LittleEndian.Uint32(b[18:]),
		CRC:          binary.LittleEndian.Uint32(b[22:]),
		ParentFile:   binary.LittleEndian.Uint32(b[26:]),
		ParentOffset: binary.LittleEndian.Uint32(b[30:]),
	}
	switch {
	case klen == 0:
		return e, fmt.Errorf("%w index entry: empty key", ErrFormat)
	case len(b) < IndexEntrySize+klen:
		return e, fmt.Errorf("%w index entry: cut in its key", ErrFormat)
	case e.Length > MaxPayload:
		return e, fmt.Errorf("%w index entry: payload of %d bytes", ErrFormat, e.Length)
	}
	e.Key = b[IndexEntrySize : IndexEntrySize+klen : IndexEntrySize+klen]
	return e, nil
}

// SlotOffset is where slot n of a sequential index file lies.
func SlotOffset(n uint32) int64 { return IndexHeaderSize + SeqSlotSize*int64(n) }

// SeqKey is the key of id in sequential mode.
func SeqKey(id uint64) []byte { return binary.LittleEndian.AppendUint64(nil, id) }

// ParseSeqKey reads a key of sequential mode.
func ParseSeqKey(key []byte) (uint64, bool) {
	if len(key) != SeqKeySize {
		return 0, false
	}
	return binary.LittleEndian.Uint64(key), true
}

// update continues a checksum in the inverted form that hash/crc32 keeps.
func update(sum uint32, p []byte) uint32 { return crc32.Update(sum, castagnoli, p) }
