package qsfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/store"
)

// UnsyncedError says what of a frontend that does not run is only there.
type UnsyncedError struct {
	Root  string
	Files int
	Bytes int64
	Paths []string // some of them, below Root
}

// unsyncedNamed is how many of the files are named.
const unsyncedNamed = 5

func (e *UnsyncedError) Error() string {
	return fmt.Sprintf("%d data files (%d bytes) below %s are not on the backends yet", e.Files, e.Bytes, e.Root)
}

// Hint names the remedy.
func (e *UnsyncedError) Hint() string {
	return "bring them there with `quantumd up` and `quantumd sync`, or give --force to lose them"
}

// Unsynced finds out what a frontend that does not run holds that no committed
// checkpoint does. It changes nothing.
func Unsynced(ctx context.Context, l Layout) (*UnsyncedError, error) {
	db, err := store.Open(ctx, l.Database, store.Options{ReadOnly: true})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if db != nil {
		defer db.Close() //nolint:errcheck // read only
	}
	return unsynced(ctx, l, db)
}

// unsynced compares every local data file with its row; db may be nil.
func unsynced(ctx context.Context, l Layout, db *store.Store) (*UnsyncedError, error) {
	e := &UnsyncedError{Root: l.Root}
	safe, err := namedFiles(ctx, db)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{metaSpace, dataSpace} {
		err := eachName(filepath.Join(l.DataDir(), name), func(dir, file string) error {
			id, ok := segment.ParseName('d', file)
			if !ok {
				return nil
			}
			st, err := os.Stat(filepath.Join(dir, file))
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			if st.Size() <= segment.DataHeaderSize {
				return nil // a pair that was opened and never written: the real zdb leaves one behind each cut
			}
			if lengths := safe[name]; uint64(id) < uint64(len(lengths)) && lengths[id] == st.Size()+1 {
				return nil
			}
			if e.Files++; len(e.Paths) < unsyncedNamed {
				e.Paths = append(e.Paths, filepath.Join("data", name, file))
			}
			e.Bytes += st.Size()
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return e, nil
}

// namedFiles gives, per namespace and by id, the lengths of stored data files
// that a committed checkpoint names, plus one: without a head that names it a
// restore does not find a file.
func namedFiles(ctx context.Context, db *store.Store) (map[string][]int64, error) {
	out := map[string][]int64{}
	if db == nil {
		return out, nil
	}
	c, err := db.LatestCommitted(ctx)
	if errors.Is(err, store.ErrNotFound) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	err = db.EachStored(ctx, func(f store.StoredFile) error {
		if f.Kind != store.KindData || f.State == store.FileDamaged || f.Checkpoint == 0 || f.Checkpoint > c.Seq {
			return nil
		}
		lengths := out[f.Namespace]
		if more := int(f.FileID) + 1 - len(lengths); more > 0 {
			lengths = append(lengths, make([]int64, more)...)
			out[f.Namespace] = lengths
		}
		lengths[f.FileID] = f.Length + 1
		return nil
	})
	return out, err
}

// eachName goes through a folder, some names at a time; a missing one is empty.
func eachName(dir string, fn func(dir, name string) error) error {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(countPage)
		for _, name := range names {
			if err := fn(dir, name); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// unsyncedSoon is unsynced for a status: it believes the sums that the database
// keeps, and asks the disk only of what came after its last row.
func unsyncedSoon(ctx context.Context, l Layout, db *store.Store) (*UnsyncedError, error) {
	e := &UnsyncedError{Root: l.Root}
	files, bytes, err := db.Unsettled(ctx)
	if err != nil {
		return nil, err
	}
	e.Files, e.Bytes = int(files), bytes
	for _, name := range []string{metaSpace, dataSpace} {
		count, highest, err := db.DataFiles(ctx, name)
		if err != nil {
			return nil, err
		}
		if count != highest+1 { // some are not known to the database
			return unsynced(ctx, l, db)
		}
		for id := uint32(highest + 1); ; id++ {
			st, err := os.Stat(filepath.Join(l.DataDir(), name, segment.DataName(id)))
			if err == nil {
				if st.Size() <= segment.DataHeaderSize {
					continue
				}
				e.Files++
				e.Bytes += st.Size()
				continue
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			if _, err := os.Stat(filepath.Join(l.IndexDir(), name, segment.IndexName(id))); err != nil {
				break // nothing has this id
			}
		}
	}
	return e, nil
}

// SetAside moves what a frontend keeps here out of the way, once its backends
// are gone for good: with it, a new system in these folders would be taken for
// one that somebody else has taken over. Nothing is deleted. It gives the new
// path; empty when there was no frontend.
func SetAside(l Layout) (string, error) {
	if _, err := os.Lstat(l.identity()); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	} else if err != nil {
		return "", &PathError{Path: l.identity(), Err: err}
	}
	to := l.Root + ".destroyed"
	for n := 2; ; n++ {
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			break
		}
		to = fmt.Sprintf("%s.destroyed-%d", l.Root, n)
	}
	// The identity goes with the folder, in one step; the database is only a
	// record of what was done, and an old one is no use to a new system.
	if err := os.Rename(l.Root, to); err != nil {
		return "", &PathError{Path: l.Root, Err: err}
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		err := os.Rename(l.Database+suffix, filepath.Join(to, filepath.Base(l.Database)+suffix))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return to, &PathError{Path: l.Database, Err: err}
		}
	}
	return to, nil
}
