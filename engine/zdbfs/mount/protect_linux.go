package mount

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// immutable is FS_IMMUTABLE_FL of linux/fs.h.
const immutable = 0x10

// Protect makes an empty folder that nothing is mounted on immutable, so that
// nobody writes into it while the file system is away: such files would be seen by
// nobody afterwards, and be stored nowhere. Mounting works as before. It gives
// false where the file system knows no such flag, where the process may not set it
// (CAP_LINUX_IMMUTABLE), and where the flag is set already. The errors are those
// of [CheckMountpoint].
func Protect(path string) (bool, error) {
	if err := CheckMountpoint(path); err != nil {
		return false, err
	}
	return setImmutable(path, true)
}

// Unprotect takes back what Protect has done, where nothing is mounted.
func Unprotect(path string) error {
	if kind, err := mountedHere(path); err != nil || kind != "" {
		return err
	}
	_, err := setImmutable(path, false)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// setImmutable says whether it changed anything. The flags are those of ioctl_iflags(2).
func setImmutable(path string, on bool) (bool, error) {
	dir, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return false, fmt.Errorf("mount: %w", err)
	}
	defer dir.Close() //nolint:errcheck // read only
	fd := int(dir.Fd())
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	was := flags&immutable != 0
	if err == nil && was != on {
		err = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags^immutable))
	}
	switch {
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EPERM):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("mount: flags of %s: %w", path, err)
	}
	return was != on, nil
}
