package zstor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor/record"
	"github.com/threefoldtech/quantumd/engine/zstor/seal"
)

// PieceSize is how many bytes of a shard are one entry of a backend.
const PieceSize = 2 << 20

// Object is what is known of a stored object: its record, and how well that
// record is kept.
type Object struct {
	Path     string          // as given; empty when it was found by key
	Key      string          // of its record on the metadata backends
	Checksum record.Checksum // BLAKE2b-128 of the content
	Size     int64           // bytes; -1 where the record does not tell (the real zstor's)
	DataKey  seal.Key        // decrypts the content; never prints

	K, N   int // any K of N shards restore it
	Shards []Shard

	// Generation orders writes of one record; zero in records of the real zstor.
	Generation uint64
	// MetaHolders counts the metadata backends seen to hold this record. A quick
	// look-up may see fewer than there are.
	MetaHolders int
	// Degraded: the record is on three metadata backends only. It survives one more
	// loss; complete it before anything relies on it.
	Degraded bool
	// Unchanged: the store found the same content stored and healthy.
	Unchanged bool
}

// Shard is one shard of an object.
type Shard struct {
	Index    int
	Backend  backend.Backend // the config's where it lists the recorded address and namespace
	Keys     [][]byte        // of its pieces, in order
	Checksum record.Checksum
	Length   int64    // bytes; -1 where the record does not tell
	CRCs     []uint32 // of its pieces; nil where the record does not tell
}

// pieceLen is the length of piece i of a shard whose Length is known.
func (s Shard) pieceLen(i int) int64 { return min(PieceSize, s.Length-int64(i)*PieceSize) }

// ErrNotFound: enough metadata backends answered that the object cannot exist.
var ErrNotFound = errors.New("zstor: no such object")

// ErrDamaged: something that was stored reads back wrong, or opens with no key
// that is known. It never means that the object does not exist.
var ErrDamaged = errors.New("zstor: damaged")

// UnavailableError: too few backends answered to do or to know what was asked. It
// says nothing about whether the object exists.
type UnavailableError struct {
	What             string // metadata, data
	Answered, Needed int
	Err              error // what the others said
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("zstor: %d %s backends answered, %d are needed: %v", e.Answered, e.What, e.Needed, e.Err)
}

func (e *UnavailableError) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *UnavailableError) Hint() string {
	return fmt.Sprintf("check the network and the %s backends; nothing is lost while they are only out of reach", e.What)
}

// TooFewShardsError: fewer than k shards could be read. It is loss of data only if
// the backends that did not answer never return.
type TooFewShardsError struct {
	Have, Need  int
	Unreachable int // shards on backends that gave no answer
	Err         error
}

func (e *TooFewShardsError) Error() string {
	return fmt.Sprintf("zstor: %d good shards of %d needed (%d on backends that do not answer): %v", e.Have, e.Need, e.Unreachable, e.Err)
}

func (e *TooFewShardsError) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *TooFewShardsError) Hint() string {
	if e.Have+e.Unreachable >= e.Need {
		return "bring back the data backends that do not answer"
	}
	return "the object cannot be restored from its backends; keep every local copy of it"
}

// Source is what is stored: size bytes, read once from the front.
type Source struct {
	Reader io.ReaderAt
	Size   int64
}

// Entry is one object in a listing.
type Entry struct {
	Key     string
	Created time.Time // the latest time that a metadata backend gives; whole seconds
	Holders int       // metadata backends that list it
}

func objectOf(path, key string, r *record.Record) Object {
	o := Object{
		Path: path, Key: key, Checksum: r.Checksum, Size: -1, DataKey: r.Key,
		K: r.K, N: r.K + r.P,
	}
	length := int64(-1)
	if ext := r.Extension; ext != nil {
		o.Generation = ext.Generation
		if !ext.Unsized {
			o.Size = ext.Size
		}
		if ext.ShardLen > 0 {
			length = ext.ShardLen
		}
	}
	for i, s := range r.Shards {
		shard := Shard{Index: s.Index, Backend: s.Backend(), Keys: s.Keys, Checksum: s.Checksum, Length: length}
		if r.Extension != nil && r.Extension.CRCs != nil {
			shard.CRCs = r.Extension.CRCs[i]
		}
		if length >= 0 && pieces(length) != len(s.Keys) {
			shard.Length = -1 // not in our pieces
		}
		o.Shards = append(o.Shards, shard)
	}
	return o
}

func pieces(length int64) int { return int((length + PieceSize - 1) / PieceSize) }

func (o *Object) record() *record.Record {
	r := &record.Record{K: o.K, P: o.N - o.K, Checksum: o.Checksum, Key: o.DataKey}
	ext := &record.Extension{Generation: o.Generation, Size: o.Size}
	known := o.Size >= 0
	for _, s := range o.Shards {
		rs := record.Shard{Index: s.Index, Checksum: s.Checksum, Keys: s.Keys, Address: s.Backend.Address}
		if s.Backend.Namespace != "" {
			ns := s.Backend.Namespace
			rs.Namespace = &ns
		}
		if s.Backend.Password != "" {
			pw := s.Backend.Password.Reveal()
			rs.Password = &pw
		}
		r.Shards = append(r.Shards, rs)
		ext.ShardLen = s.Length
		ext.CRCs = append(ext.CRCs, s.CRCs)
		known = known && s.Length >= 0 && len(s.CRCs) == len(s.Keys)
	}
	if !known {
		ext.Size, ext.ShardLen, ext.CRCs = max(0, o.Size), 0, nil
		if o.Size < 0 {
			ext.Unsized = true
		}
	}
	r.Extension = ext
	return r
}

// openSource makes a Source of a file; the caller closes it.
func openSource(file string) (Source, *os.File, error) {
	f, err := os.Open(file)
	if err != nil {
		return Source{}, nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", file)
	}
	if err != nil {
		_ = f.Close() // read only
		return Source{}, nil, err
	}
	return Source{Reader: f, Size: st.Size()}, f, nil
}
