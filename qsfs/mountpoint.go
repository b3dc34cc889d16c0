package qsfs

import (
	"errors"
	"os"

	"github.com/threefoldtech/quantumd/engine/zdbfs/mount"
	"github.com/threefoldtech/quantumd/internal/durable"
)

// protectMountpoint has nobody write into the bare mountpoint while the file
// system is away: nobody would see that again, and the next start would refuse a
// folder that is not empty. It is noted first, so that Uninstall takes it back.
// Below another root nothing of this machine's is changed but files.
func (s *System) protectMountpoint(o SetupOptions) error {
	path := s.cfg.QSFSMountpoint
	if o.Root != "" || mount.CheckMountpoint(path) != nil { // in use: done before; not empty: the start tells
		return nil
	}
	before := s.layout.protected()
	if before != path {
		if err := unprotectMountpoint(s.layout); err != nil { // the one of an earlier configuration
			return err
		}
	}
	note := s.layout.protectedMountpoint()
	if err := durable.WriteFile(note, []byte(path), 0o600); err != nil {
		return &PathError{Path: note, Err: err}
	}
	done, err := mount.Protect(path)
	if err == nil && (done || before == path) {
		return nil
	}
	// The file system has no such flag, or somebody else has set it.
	return errors.Join(err, os.Remove(note))
}

// unprotectMountpoint takes back what protectMountpoint has done.
func unprotectMountpoint(l Layout) error {
	path := l.protected()
	if path == "" {
		return nil
	}
	if err := mount.Unprotect(path); err != nil {
		return &PathError{Path: path, Err: err}
	}
	return os.Remove(l.protectedMountpoint())
}

// protected is the mountpoint that was made immutable; empty: none.
func (l Layout) protected() string {
	path, err := os.ReadFile(l.protectedMountpoint())
	if err != nil {
		return ""
	}
	return string(path)
}
