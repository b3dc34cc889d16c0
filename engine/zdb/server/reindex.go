package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb/segment"
)

// InstallClosed makes a namespace whose index files and descriptor were put in
// place by a restore ready for Open: its highest pair counts as closed, so that
// nothing is appended to a data file that may not be on this machine; every
// data file may be missing. indexDir and dataDir are the roots; the data
// folder is made. No server may run on them. It fails with ErrDamaged when
// index files are missing in between or have no header.
func InstallClosed(indexDir, dataDir, ns string) error {
	disk := systemDisk()
	index, data := filepath.Join(indexDir, ns), filepath.Join(dataDir, ns)
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	d, err := scanDir(index, data)
	if err != nil {
		return err
	}
	if len(d.index) == 0 {
		return fmt.Errorf("%w: %s has no index files", ErrDamaged, index)
	}
	c := &checkpointFile{clean: true, closed: true, lengths: d.index}
	for id := range d.index {
		path := filepath.Join(index, segment.IndexName(uint32(id)))
		if c.mode, err = readIndexHeader(path, uint32(id)); err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		if err := errors.Join(disk.sync(f), f.Close()); err != nil {
			return err
		}
	}
	if err := disk.replaceFile(filepath.Join(index, CheckpointName), c.encode()); err != nil {
		return err
	}
	return errors.Join(disk.syncDir(indexDir), disk.syncDir(dataDir))
}

func readIndexHeader(path string, id uint32) (Mode, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b := make([]byte, segment.IndexHeaderSize)
	if _, err := io.ReadFull(f, b); err != nil {
		return 0, fmt.Errorf("%w: %s has no whole header", ErrDamaged, path)
	}
	got, m, err := segment.DecodeIndexHeader(b)
	if err != nil {
		return 0, fmt.Errorf("%w: %s: %w", ErrDamaged, path, err)
	}
	if got != id {
		return 0, fmt.Errorf("%w: %s says that it is file %d", ErrDamaged, path, got)
	}
	return m, nil
}

// Reindex rebuilds all index files of a namespace from its data files, which
// must all be there: the index is a function of them. The descriptor stays.
// Damage in the highest data file ends the log there; in an older one it is
// ErrDamaged, and nothing is changed. indexDir and dataDir are the roots; no
// server may run on them.
func Reindex(ctx context.Context, indexDir, dataDir, ns string, mode Mode) error {
	unlock, err := lockRoots(indexDir, dataDir)
	if err != nil {
		return err
	}
	defer unlock()
	index, data := filepath.Join(indexDir, ns), filepath.Join(dataDir, ns)
	if err := os.MkdirAll(index, 0o700); err != nil {
		return err
	}
	return reindex(ctx, systemDisk(), index, data, mode)
}

// reindex works on the folders of one namespace.
func reindex(ctx context.Context, disk disk, index, data string, mode Mode) error {
	tmp, err := os.MkdirTemp(index, ".reindex-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	found, err := sizes(data, 'd')
	if err != nil {
		return err
	}
	x := newIndex(tmp, mode)
	defer x.cache.closeAll()
	old, err := sizes(index, 'i')
	if err != nil {
		return err
	}
	for id := range uint32(max(len(found), len(old))) {
		if _, ok := found[id]; !ok {
			return fmt.Errorf("%w: %s", ErrMissing, filepath.Join(data, segment.DataName(id)))
		}
		if err := reindexFile(ctx, x, filepath.Join(data, segment.DataName(id)), id, int(id) == max(len(found), len(old))-1); err != nil {
			return err
		}
	}
	if err := x.settle(); err != nil {
		return err
	}
	return swapIndex(disk, index, tmp, len(x.files))
}

func reindexFile(ctx context.Context, x *index, path string, id uint32, last bool) error {
	if err := x.flush(); err != nil {
		return err
	}
	if err := x.create(); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := segment.NewWalker(io.NewSectionReader(f, segment.DataHeaderSize, 1<<62), segment.DataHeaderSize)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		at := w.Offset()
		e, err := w.Next()
		if err == nil {
			err = applyEntry(x, &e, id, uint32(at))
		}
		bad := errors.Is(err, segment.ErrFormat) || errors.Is(err, ErrDamaged) || errors.Is(err, backend.ErrNotFound)
		switch {
		case err == io.EOF || bad && last:
			return nil
		case bad:
			return fmt.Errorf("%w: %s at %d: %w", ErrDamaged, path, at, err)
		case err != nil:
			return err
		}
		if len(x.patches) >= patchLimit {
			if err := x.settle(); err != nil {
				return err
			}
		}
	}
}

// settle writes everything that waits in memory into the files.
func (x *index) settle() error {
	if err := x.flush(); err != nil {
		return err
	}
	patches := make([]placedPatch, 0, len(x.patches))
	for p, b := range x.patches {
		patches = append(patches, placedPatch{p, b})
	}
	sortPatches(patches)
	if err := x.writePatches(patches); err != nil {
		return err
	}
	clear(x.patches)
	return nil
}

// swapIndex puts new index files in the place of the old ones.
func swapIndex(disk disk, index, tmp string, files int) error {
	for id := range uint32(files) {
		f, err := os.OpenFile(filepath.Join(tmp, segment.IndexName(id)), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		if err := errors.Join(disk.sync(f), f.Close()); err != nil {
			return err
		}
	}
	if err := removeIfThere(filepath.Join(index, CheckpointName)); err != nil {
		return err
	}
	for id := range uint32(files) {
		name := segment.IndexName(id)
		if err := os.Rename(filepath.Join(tmp, name), filepath.Join(index, name)); err != nil {
			return err
		}
	}
	old, err := sizes(index, 'i')
	if err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(old)) {
		if uint64(id) >= uint64(files) {
			if err := os.Remove(filepath.Join(index, segment.IndexName(id))); err != nil {
				return err
			}
		}
	}
	return disk.syncDir(index)
}
