package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/threefoldtech/quantumd/engine/zdbfs/mount"
)

func fuseDevice(_ context.Context, x *examination) []Result {
	path := filepath.Join(x.sys.facts, "dev/fuse")
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return bad(Problem, "/dev/fuse", "", "there is no such device", "`modprobe fuse`; in a container give it: --device /dev/fuse --cap-add SYS_ADMIN")
	case err != nil:
		return bad(Problem, "/dev/fuse", "", err.Error(), "make the device readable for this user")
	case st.Mode()&fs.ModeCharDevice == 0:
		return bad(Problem, "/dev/fuse", st.Mode().String(), "this is no device", "remove it, then `modprobe fuse`")
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return bad(Problem, "/dev/fuse", st.Mode().String(), "it cannot be opened: "+reason(err), "allow the device: mode 0666, and in a container --device /dev/fuse")
	}
	_ = f.Close() // nothing was written
	return ok("/dev/fuse", st.Mode().String())
}

func fuseHelper(_ context.Context, x *examination) []Result {
	if x.sys.uid == 0 {
		return skip("root mounts without fusermount3")
	}
	for _, name := range []string{"fusermount3", "fusermount"} {
		path, err := x.sys.lookPath(name)
		if err != nil {
			continue
		}
		st, err := os.Stat(path)
		if err == nil && st.Mode()&fs.ModeSetuid == 0 {
			return bad(Warning, path, st.Mode().String(), "it is not setuid root: mounting works only where user namespaces allow it", "install the package fuse3 again")
		}
		return ok(path, "")
	}
	return bad(Problem, "fusermount3", "", "not in PATH, and this user is not root", "install the package fuse3, or run as root")
}

func fuseMount(ctx context.Context, x *examination) []Result {
	if err := x.sys.trialMount(ctx); err != nil {
		return bad(Problem, "a trial mount", "", err.Error(), "see fuse-device and fuse-helper; in a container also --cap-add SYS_ADMIN and --security-opt apparmor=unconfined; or go on without a mount: `quantumd up --no-mount`")
	}
	return ok("a trial mount", "mounted and unmounted")
}

func fuseOthers(_ context.Context, x *examination) []Result {
	if x.sys.uid == 0 {
		return skip("root needs no permission to let others in")
	}
	for line := range strings.SplitSeq(x.sys.fact("etc/fuse.conf"), "\n") {
		if strings.TrimSpace(line) == "user_allow_other" {
			return ok("/etc/fuse.conf", "user_allow_other")
		}
	}
	return bad(Note, "/etc/fuse.conf", "no user_allow_other", "a mount of this user is seen by this user only", "")
}

// mountpoint is the folder that the configuration names.
func mountpoint(_ context.Context, x *examination) []Result {
	path := x.settings().QSFSMountpoint
	if path == "" {
		return skip("the configuration names none")
	}
	if x.status != nil && x.status.Mount.Mounted {
		if x.status.Mount.Path == path {
			return ok(path, "mounted by the running system")
		}
		return bad(Warning, path, "the running system is mounted at "+x.status.Mount.Path, "the configuration names another mountpoint than the one in use", "`quantumd restart`, or write the old path")
	}
	if err := x.sys.reach(path); errors.Is(err, syscall.ENOTCONN) {
		return bad(Warning, path, "a dead mount", "a file system process ended without unmounting", "the next start clears it; or `umount -l "+path+"`")
	}
	if m, there := x.mountAt(path); there {
		if x.status != nil || strings.Contains(m.kind, "zdbfs") && x.external("zdbfs") {
			return ok(path, m.kind)
		}
		if strings.HasPrefix(m.kind, "fuse") {
			return bad(Problem, path, m.kind+" of "+m.source, "somebody else's FUSE is mounted there", "unmount it (`umount "+path+"`), or name another qsfs_mountpoint")
		}
	}
	switch err := mount.CheckMountpoint(path); {
	case err == nil:
		return ok(path, "empty")
	case errors.Is(err, fs.ErrNotExist):
		up := existing(path)
		return ok(path, "not there yet, is made below "+up)
	case errors.Is(err, mount.ErrNotEmpty):
		return bad(Problem, path, "not empty", "what is in it would be hidden", "move away what is in it, or name another qsfs_mountpoint")
	default:
		return bad(Problem, path, "", strings.ReplaceAll(err.Error(), "\n", " "), "name an empty folder as qsfs_mountpoint")
	}
}

// reason strips the path that the subject already names.
func reason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}

func mode(m fs.FileMode) string { return fmt.Sprintf("mode %04o", m.Perm()) }
