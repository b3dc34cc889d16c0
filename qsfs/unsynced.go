package qsfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/threefoldtech/quantumd/store"
)

// UnsyncedError says what of a frontend that does not run is only there.
type UnsyncedError struct {
	Root  string
	Files int
	Bytes int64
}

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
	e := &UnsyncedError{Root: l.Root}
	db, err := store.Open(ctx, l.Database, store.Options{ReadOnly: true})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if db != nil {
		defer db.Close() //nolint:errcheck // read only
	}
	var committed int64
	if db != nil {
		c, err := db.LatestCommitted(ctx)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		committed = c.Seq
	}
	for _, name := range []string{metaSpace, dataSpace} {
		entries, err := os.ReadDir(filepath.Join(l.DataDir(), name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, f := range entries {
			n, ok := strings.CutPrefix(f.Name(), "d")
			if _, err := strconv.ParseUint(n, 10, 32); !ok || err != nil {
				continue
			}
			st, err := f.Info()
			if err != nil {
				return nil, err
			}
			path := fmt.Sprintf("data/%s/%s", name, f.Name())
			if db != nil {
				row, err := db.File(ctx, path)
				if err == nil && row.Length == st.Size() && (row.State == store.FileStored || row.State == store.FileDegraded) &&
					row.Checkpoint != 0 && row.Checkpoint <= committed { // stored, and named by a head: without that a restore does not find it
					continue
				}
				if err != nil && !errors.Is(err, store.ErrNotFound) {
					return nil, err
				}
			}
			e.Files++
			e.Bytes += st.Size()
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
