package tree

import (
	"fmt"
	"hash/crc32"
)

// The journal is one record of the metadata namespace that zdbfs does not
// know; its key is in the root folder's dev field. It holds
//
//   - redo: records with the values that a commit gives them, written before
//     the first of them is changed and cleared after the last, so that a commit
//     is done whole or not at all;
//   - orphans: inodes without a name that are to be deleted, because they were
//     open or because the deletion waits until their names are durably gone;
//   - frees: blocks that no inode names any more, to be deleted;
//   - the key of the root folder's extension record.
//
// A payload that is too long for one record is kept in chunks of their own.
const (
	journalMagic   = "QDJRNL"
	journalVersion = 1
	journalHead    = 40
	journalInline  = 1 << 20
	journalChunk   = 4 << 20
	maxPayload     = 1 << 32
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// redo is a record and the value that it gets.
type redo struct {
	id    uint64
	value []byte
}

type journal struct {
	rootExt uint64
	orphans []uint64
	frees   []uint32
	redo    []redo
}

// payload encodes what may be long.
func (j *journal) payload() []byte {
	n := 12 + 8*len(j.orphans) + 4*len(j.frees)
	for _, r := range j.redo {
		n += 12 + len(r.value)
	}
	b := make([]byte, 0, n)
	b = le.AppendUint32(b, uint32(len(j.orphans)))
	for _, id := range j.orphans {
		b = le.AppendUint64(b, id)
	}
	b = le.AppendUint32(b, uint32(len(j.frees)))
	for _, id := range j.frees {
		b = le.AppendUint32(b, id)
	}
	b = le.AppendUint32(b, uint32(len(j.redo)))
	for _, r := range j.redo {
		b = le.AppendUint64(b, r.id)
		b = le.AppendUint32(b, uint32(len(r.value)))
		b = append(b, r.value...)
	}
	return b
}

func (j *journal) parse(b []byte) error {
	bad := fmt.Errorf("journal: %w: payload", errFormat)
	count := func(size int) (int, bool) {
		if len(b) < 4 {
			return 0, false
		}
		n := int(le.Uint32(b))
		b = b[4:]
		return n, n <= len(b)/size
	}
	n, ok := count(8)
	if !ok {
		return bad
	}
	for range n {
		j.orphans, b = append(j.orphans, le.Uint64(b)), b[8:]
	}
	if n, ok = count(4); !ok {
		return bad
	}
	for range n {
		j.frees, b = append(j.frees, le.Uint32(b)), b[4:]
	}
	if n, ok = count(12); !ok {
		return bad
	}
	for range n {
		if len(b) < 12 {
			return bad
		}
		id, l := le.Uint64(b), int(le.Uint32(b[8:]))
		if b = b[12:]; l > len(b) {
			return bad
		}
		j.redo, b = append(j.redo, redo{id, b[:l:l]}), b[l:]
	}
	if len(b) > 0 {
		return bad
	}
	return nil
}

// encodeJournal makes the record; chunks is nil when payload is inline.
func encodeJournal(rootExt uint64, payload []byte, chunks []uint64) []byte {
	b := make([]byte, journalHead, journalHead+len(payload))
	copy(b, journalMagic)
	le.PutUint16(b[6:], journalVersion)
	le.PutUint64(b[8:], rootExt)
	le.PutUint64(b[16:], uint64(len(payload)))
	le.PutUint32(b[24:], crc32.Checksum(payload, castagnoli))
	le.PutUint32(b[28:], uint32(len(chunks)))
	// bytes 32 to 40 are zero
	if chunks == nil {
		return append(b, payload...)
	}
	for _, id := range chunks {
		b = le.AppendUint64(b, id)
	}
	return b
}

func isJournal(b []byte) bool {
	return len(b) >= journalHead && string(b[:6]) == journalMagic
}

// decodeJournal reads the record; get fetches a chunk.
func decodeJournal(b []byte, get func(id uint64) ([]byte, error)) (*journal, []uint64, error) {
	if !isJournal(b) {
		return nil, nil, fmt.Errorf("journal: %w", errFormat)
	}
	if v := le.Uint16(b[6:]); v != journalVersion {
		return nil, nil, fmt.Errorf("journal: %w: version %d", errFormat, v)
	}
	j := &journal{rootExt: le.Uint64(b[8:])}
	length, crc, n := le.Uint64(b[16:]), le.Uint32(b[24:]), int(le.Uint32(b[28:]))
	rest := b[journalHead:]
	var chunks []uint64
	payload := rest
	if n > 0 {
		if n != len(rest)/8 || length > maxPayload || uint64(n) > length/journalChunk+1 {
			return nil, nil, fmt.Errorf("journal: %w: %d chunks", errFormat, n)
		}
		payload = nil
		for i := range n {
			id := le.Uint64(rest[8*i:])
			c, err := get(id)
			if err != nil {
				return nil, nil, fmt.Errorf("journal: chunk %d: %w", id, err)
			}
			chunks, payload = append(chunks, id), append(payload, c...)
		}
	}
	if uint64(len(payload)) != length || crc32.Checksum(payload, castagnoli) != crc {
		return nil, nil, fmt.Errorf("journal: %w: checksum", errFormat)
	}
	return j, chunks, j.parse(payload)
}
