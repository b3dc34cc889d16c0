//go:build unix

package zstor

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func mapAnonymous(size int64) ([]byte, error) {
	if size == 0 {
		return []byte{}, nil
	}
	return unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
}

// mapFile maps an unlinked file in dir. Its blocks are allocated first: writing to
// a mapped hole on a full disk would end the process.
func mapFile(dir string, size int64) ([]byte, error) {
	f, err := os.CreateTemp(dir, "zstor-spill-*")
	if err != nil {
		return nil, err
	}
	defer f.Close() // the mapping stays
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	if err := allocate(f, size); err != nil {
		return nil, fmt.Errorf("allocate in %s: %w", dir, err)
	}
	if size == 0 {
		return []byte{}, nil
	}
	return unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

func unmap(b []byte) {
	if len(b) > 0 {
		_ = unix.Munmap(b[:cap(b)]) // fails only for what was never mapped
	}
}

// writeZeros allocates where the system has no call for it.
func writeZeros(f *os.File, size int64) error {
	zeros := make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-off)], off); err != nil {
			return err
		}
	}
	return nil
}
