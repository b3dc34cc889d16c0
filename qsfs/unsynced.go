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
				if err == nil && row.Length == st.Size() && row.State != store.FilePending &&
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
