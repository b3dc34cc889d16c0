//go:build !linux

package server

import (
	"errors"
	"os"
	"syscall"
	"time"
)

func fdatasync(f *os.File) error { return f.Sync() }

func preallocate(*os.File, int64, int64) {}

func writeParts(f *os.File, a, b []byte, off int64) error {
	if _, err := f.WriteAt(a, off); err != nil {
		return err
	}
	_, err := f.WriteAt(b, off+int64(len(a)))
	return err
}

func removed(f *os.File) bool {
	_, err := os.Lstat(f.Name())
	return errors.Is(err, os.ErrNotExist)
}

func allocated(path string) int64 {
	fi, err := os.Lstat(path)
	if err != nil {
		return 0
	}
	return fi.Size()
}

func reflink(dst, src *os.File) bool { return false }

func freeSpace(string) (int64, error) { return 0, errors.ErrUnsupported }

var start = time.Now()

func bootTime() time.Duration { return time.Since(start) }

func isNoSpace(err error) bool { return errors.Is(err, syscall.ENOSPC) }
