package qsfs

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// zdbfsSnapshot is _IOR('E', 0, u64): write out and drop what is held, and tell
// the time.
const zdbfsSnapshot = 0x80084500

// flushZdbfs asks the zdbfs of a mount to write out what it holds.
func flushZdbfs(mountpoint string) error {
	f, err := os.Open(mountpoint)
	if err != nil {
		return err
	}
	for range snapshotRounds {
		var at uint64
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), zdbfsSnapshot, uintptr(unsafe.Pointer(&at))); errno != 0 {
			return errors.Join(errno, f.Close())
		}
	}
	return f.Close()
}
