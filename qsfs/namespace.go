package qsfs

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/qsfs/manifest"
	"github.com/threefoldtech/quantumd/store"
)

// namespace is one namespace of the frontend's zdb, as checkpoints, cache and
// status need it: the embedded zdb's, or one of a real zdb beside this process.
type namespace interface {
	// Cut closes the open pair, if it has entries, and gives what a checkpoint
	// has to hold: index files that changed are copied as they are at that moment.
	Cut(ctx context.Context, r cutRequest) (*cutFiles, error)
	// Committed says that a checkpoint holds a cut: what it copied and what did
	// not change since is clean.
	Committed(*cutFiles)
	Files() (server.FilesInfo, error)
	Pairs() (server.Pairs, error)
	DataFile(id uint32) (server.DataFile, error)
	LastRead(id uint32) time.Time
	// DropData removes a closed data file and gives the bytes that its blocks
	// took; fs.ErrNotExist when it is gone, server.ErrInUse for one that stays.
	DropData(id uint32) (int64, error)
	// Where tells which data file holds the payload of key, and which index file
	// its entry; backend.ErrNotFound where there is none.
	Where(key []byte) (dataFile, indexFile uint32, err error)
	ForgetData(id uint32) // the next read opens the file anew
	DataPath(id uint32) string
	IndexPath(id uint32) string
	DescriptorPath() string
}

// cutRequest is what a cut of one namespace has to know.
type cutRequest struct {
	copies  string // how the names of copies begin; `-i5` or `-d5` follows
	stored  func(kind store.Kind, id uint32) (manifest.Ref, bool)
	lacking func(kind store.Kind, n uint32) []uint32 // ids below n that are not stored
	// mend puts the good copy in place of a data file that differs from what was
	// stored of it; what it has behind that stays.
	mend func(ctx context.Context, id uint32, ref manifest.Ref) error
}

func (r cutRequest) copyOf(kind byte, id uint32) string {
	return fmt.Sprintf("%s-%c%d", r.copies, kind, id)
}

// cutFiles is what is to be stored for a cut.
type cutFiles struct {
	Slots   uint64 // entries of all index files
	Data    []cutFile
	Index   []cutFile
	Missing []uint32 // data files that are neither here nor stored

	generations map[uint32]uint64 // embedded: of each index file that was copied
	stamps      map[uint32]stamp  // external: the same
}

// cutFile is one file of a cut: the file itself, or a copy of it. Index files
// are always copies.
type cutFile struct {
	ID     uint32
	Length int64
	Copied bool
}

// embeddedSpace is a namespace of the zdb in this process.
type embeddedSpace struct{ *server.Namespace }

func (n embeddedSpace) Cut(ctx context.Context, r cutRequest) (*cutFiles, error) {
	if _, err := n.Jump(ctx); err != nil {
		return nil, err
	}
	pairs, err := n.Pairs()
	if err != nil {
		return nil, err
	}
	cut := &cutFiles{Slots: pairs.Slots, generations: map[uint32]uint64{}}
	for _, id := range r.lacking(store.KindData, pairs.Count) {
		d, err := n.DataFile(id)
		if err != nil {
			return cut, err
		}
		if !d.Present {
			cut.Missing = append(cut.Missing, id)
			continue
		}
		cut.Data = append(cut.Data, cutFile{ID: id, Length: d.Length})
	}
	indexes := append(r.lacking(store.KindIndex, pairs.Count), n.DirtyIndexes()...)
	slices.Sort(indexes)
	for _, id := range slices.Compact(indexes) {
		i, ok := n.IndexFile(id)
		if !ok {
			continue // on the list of an earlier life, and gone
		}
		if err := n.CopyIndex(ctx, id, r.copyOf('i', id)); err != nil {
			return cut, err
		}
		cut.generations[id] = i.Generation
		cut.Index = append(cut.Index, cutFile{ID: id, Length: i.Length, Copied: true})
	}
	return cut, nil
}

func (n embeddedSpace) Committed(cut *cutFiles) { n.ResetCopied(cut.generations) }

// isCopy says whether a source of an upload is a copy that a cut made.
func (l Layout) isCopy(source string) bool {
	return filepath.Dir(source) == filepath.Clean(l.staging())
}
