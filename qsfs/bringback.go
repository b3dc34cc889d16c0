package qsfs

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/store"
)

// BringBackReport says which data files were brought back to the disk.
type BringBackReport struct {
	Files int
	Bytes int64
	Left  int // there is no room for them, or they could not be had
}

// bringBackFree is what stays free on the disk.
const bringBackFree = 512 << 20

// BringBack brings every data file that was dropped from the disk back to it, of
// a system that does not run, metadata first, the newest data first: for whoever
// works on the files next and cannot fetch them. An error tells why some are left.
func (s *System) BringBack(ctx context.Context) (*BringBackReport, error) {
	db, err := store.Open(ctx, s.layout.Database, store.Options{ReadOnly: true})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	b := bringer{sys: s, known: map[string]store.StoredFile{}}
	if db != nil {
		err := db.EachStored(ctx, func(f store.StoredFile) error {
			if f.Kind == store.KindData {
				b.known[filepath.Join(s.layout.DataDir(), f.Namespace, segment.DataName(f.FileID))] = f
			}
			return nil
		})
		if err := errors.Join(err, db.Close()); err != nil {
			return nil, err
		}
	}
	if b.engine, err = s.openEngine(ctx); err != nil {
		return nil, err
	}
	defer b.engine.Close() //nolint:errcheck // nothing is under way
	for _, name := range []string{metaSpace, dataSpace} {
		if err := b.namespace(ctx, name); err != nil {
			return &b.report, err
		}
	}
	return &b.report, b.err
}

type bringer struct {
	sys    *System
	engine *zstor.Engine
	known  map[string]store.StoredFile // by path

	mu     sync.Mutex
	report BringBackReport
	err    error // the first of those that were left
}

func (b *bringer) namespace(ctx context.Context, name string) error {
	var missing []string
	ids, err := indexIDs(filepath.Join(b.sys.layout.IndexDir(), name))
	if err != nil {
		return err
	}
	for _, id := range slices.Backward(ids) {
		path := filepath.Join(b.sys.layout.DataDir(), name, segment.DataName(id))
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, path)
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(b.sys.cfg.UploadWorkers)
	for _, path := range missing {
		group.Go(func() error {
			length, err := b.file(ctx, path)
			b.mu.Lock()
			defer b.mu.Unlock()
			if err == nil {
				b.report.Files++
				b.report.Bytes += length
				return nil
			}
			if b.report.Left++; b.err == nil {
				b.err = fmt.Errorf("%s: %w", path, err)
			}
			return ctx.Err()
		})
	}
	return group.Wait()
}

// file brings one file: as a checkpoint names it, else as the older installation
// did, which was taken over a moment ago.
func (b *bringer) file(ctx context.Context, path string) (int64, error) {
	var disk syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(path), &disk); err == nil && int64(disk.Bavail)*int64(disk.Bsize) < bringBackFree {
		return 0, syscall.ENOSPC
	}
	var obj zstor.Object
	var err error
	if f, ok := b.known[path]; ok {
		obj, err = b.engine.Lookup(ctx, b.sys.objectPath(f.ObjectPath))
		if got := hex.EncodeToString(obj.Checksum[:]); err == nil && got != f.Checksum {
			err = fmt.Errorf("its object has the checksum %s, want %s: %w", got, f.Checksum, zstor.ErrDamaged)
		}
	} else {
		roots := []string{""}
		if a := b.sys.adopting(); a != nil {
			roots = append(roots, a.ObjectRoot)
		}
		obj, err = b.sys.plainObject(ctx, b.engine, path, roots)
	}
	if err != nil {
		return 0, err
	}
	if err := b.engine.RetrieveObjectFile(ctx, obj, path); err != nil {
		return 0, err
	}
	st, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// indexIDs lists the index files of a namespace, in order.
func indexIDs(dir string) ([]uint32, error) {
	var ids []uint32
	err := eachName(dir, func(_, file string) error {
		if id, ok := segment.ParseName('i', file); ok {
			ids = append(ids, id)
		}
		return nil
	})
	slices.Sort(ids)
	return ids, err
}
