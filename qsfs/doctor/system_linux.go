package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/threefoldtech/quantumd/internal/durable"
)

func kernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

// fileSystems are names of the types that statfs(2) tells as numbers.
var fileSystems = map[int64]string{
	unix.TMPFS_MAGIC: "tmpfs", unix.RAMFS_MAGIC: "ramfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "nfs",
	unix.FUSE_SUPER_MAGIC: "fuse", unix.SMB_SUPER_MAGIC: "smb", unix.CIFS_SUPER_MAGIC: "cifs", unix.SMB2_SUPER_MAGIC: "smb2",
	unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", 0x2fc12fc1: "zfs",
	unix.F2FS_SUPER_MAGIC: "f2fs", unix.CEPH_SUPER_MAGIC: "ceph", unix.V9FS_MAGIC: "9p", unix.SQUASHFS_MAGIC: "squashfs",
	unix.MSDOS_SUPER_MAGIC: "vfat", unix.EXFAT_SUPER_MAGIC: "exfat", 0xca451a4e: "bcachefs",
}

func statfs(path string) (disk, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return disk{}, err
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return disk{}, err
	}
	kind, known := fileSystems[int64(s.Type)] //nolint:unconvert // its width differs
	if !known {
		kind = fmt.Sprintf("type %#x", s.Type)
	}
	return disk{kind: kind, id: uint64(st.Dev), total: int64(s.Blocks) * s.Frsize, free: int64(s.Bavail) * s.Frsize, //nolint:unconvert // likewise
		files: int64(s.Files), nodes: int64(s.Ffree), readOnly: s.Flags&unix.ST_RDONLY != 0}, nil
}

func clock() (clockState, error) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return clockState{}, err
	}
	return clockState{synchronised: state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0,
		maxError: time.Duration(t.Maxerror) * time.Microsecond}, nil
}

// tryDurable does what every careful write does.
func tryDurable(dir string) error {
	tmp, err := os.MkdirTemp(dir, ".quantumd-doctor-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // the trial's own
	path := filepath.Join(tmp, "file")
	for _, text := range []string{"first", "second"} { // the second replaces the first
		if err := durable.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
	}
	text, err := os.ReadFile(path)
	if err == nil && string(text) != "second" {
		err = fmt.Errorf("a file that replaced another one reads %q", text)
	}
	return err
}

// What is written to measure a disk.
const (
	trialSyncs = 24
	trialBytes = 32 << 20
	trialTime  = 2 * time.Second
)

// measureDisk writes a bounded amount, and removes it.
func measureDisk(ctx context.Context, dir string) (speed, error) {
	f, err := os.CreateTemp(dir, ".quantumd-doctor-")
	if err != nil {
		return speed{}, err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // the trial's own
	defer f.Close()           //nolint:errcheck // likewise
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * 7 >> 3) // not zeros: some disks store none
	}
	end := time.Now().Add(trialTime)
	var waits []time.Duration
	for i := 0; i < trialSyncs && time.Now().Before(end) && ctx.Err() == nil; i++ {
		began := time.Now()
		if _, err := f.Write(block[:4096]); err != nil {
			return speed{}, err
		}
		if err := f.Sync(); err != nil {
			return speed{}, err
		}
		waits = append(waits, time.Since(began))
	}
	began, end := time.Now(), time.Now().Add(trialTime)
	var n int64
	for n < trialBytes && time.Now().Before(end) && ctx.Err() == nil {
		if _, err := f.Write(block); err != nil {
			return speed{}, err
		}
		n += int64(len(block))
	}
	if err := f.Sync(); err != nil {
		return speed{}, err
	}
	took := time.Since(began)
	if err := ctx.Err(); err != nil {
		return speed{}, err
	}
	slices.Sort(waits)
	return speed{p50: waits[len(waits)/2], p95: waits[len(waits)*95/100], write: float64(n) / (1 << 20) / took.Seconds(), bytes: n}, nil
}
