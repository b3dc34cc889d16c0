package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// disk is what this package asks of the system where durability or time is
// concerned, so that a test can watch it, fail it, or lose what was not synced.
type disk struct {
	datasync func(*os.File) error // contents and length
	sync     func(*os.File) error
	syncDir  func(dir string) error
	write    func(f *os.File, a, b []byte, off int64) error // an append to a data file
	now      func() time.Duration                           // boot-time clock
}

func systemDisk() disk {
	return disk{
		datasync: fdatasync,
		sync:     (*os.File).Sync,
		syncDir:  syncDir,
		write:    writeParts,
		now:      bootTime,
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// replaceFile puts content under path such that a crash leaves the old file or
// the new one, and returns when the new one is durable.
func (d disk) replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = d.sync(f)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return d.syncDir(filepath.Dir(path))
}

// removeIfThere removes a file; that it is gone already is no error.
func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// fileSize is the length of a file, and whether it is there.
func fileSize(path string) (int64, bool, error) {
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, false, nil
	case err != nil:
		return 0, false, err
	case !fi.Mode().IsRegular():
		return 0, false, fmt.Errorf("%s is not a regular file", path)
	}
	return fi.Size(), true, nil
}
