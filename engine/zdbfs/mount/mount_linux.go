package mount

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
)

const (
	maxTransfer   = 1 << 20 // bytes of one request
	maxBackground = 64      // requests of readahead and the like at a time
	unmountRetry  = 100 * time.Millisecond
)

// Mounted is a tree that the kernel shows.
type Mounted struct {
	Path string // absolute

	log  *slog.Logger
	done chan struct{} // closed when the kernel has let go
	once sync.Once
	err  error
}

// Mount shows t at o.Path until Unmount. It returns when the mount works.
// Errors match ErrNoMountpoint, ErrNotEmpty, ErrMounted or ErrUnsupported where
// they are that.
func Mount(ctx context.Context, t *tree.Tree, o Options) (*Mounted, error) {
	path, err := filepath.Abs(o.Path)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", o.Path, err)
	}
	if err := CheckMountpoint(path); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("mount %s: %w", path, err)
	}
	return serve(newRaw(t), path, o)
}

func serve(fs fuse.RawFileSystem, path string, o Options) (*Mounted, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.FSName == "" {
		o.FSName = "quantumd"
	}
	server, err := newServer(fs, path, fuse.MountOptions{
		AllowOther:    o.AllowOther,
		Options:       []string{"default_permissions"},
		FsName:        o.FSName,
		Name:          "zdbfs",
		MaxWrite:      maxTransfer,
		MaxReadAhead:  maxTransfer,
		MaxBackground: maxBackground,
		// Devices are shown, and belong to whoever made them; the kernel refuses
		// to use them, as it does for every mount of a user.
		DirectMountFlags:         syscall.MS_NOSUID | syscall.MS_NODEV,
		ExplicitDataCacheControl: true,
		EnableSymlinkCaching:     true,
		ExtraCapabilities:        fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_HANDLE_KILLPRIV_V2,
		Debug:                    o.Debug,
		Logger:                   slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
		PanicHandler: func(p any) fuse.Status {
			o.Logger.Error("a request of the kernel ended in a panic", "panic", p)
			return fuse.EIO
		},
	})
	if err != nil {
		return nil, fmt.Errorf("%w: mount on %s: %w", ErrUnsupported, path, err)
	}
	m := &Mounted{Path: path, log: o.Logger, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		server.Serve()
	}()
	if err := server.WaitMount(); err != nil {
		_ = detach(path, true)
		return nil, fmt.Errorf("%w: mount on %s: %w", ErrUnsupported, path, err)
	}
	return m, nil
}

// CheckMountpoint accepts an empty folder that no FUSE is mounted on. Its errors
// are those of Mount.
func CheckMountpoint(path string) error {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, syscall.ENOTCONN):
		return fmt.Errorf("%w: a dead mount is on %s", ErrMounted, path)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrNoMountpoint, err)
	case !st.IsDir():
		return fmt.Errorf("%w: %s is no folder", ErrNoMountpoint, path)
	}
	if kind, err := mountedHere(path); err != nil {
		return err
	} else if strings.HasPrefix(kind, "fuse") {
		return fmt.Errorf("%w: %s on %s", ErrMounted, kind, path)
	}
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoMountpoint, err)
	}
	defer dir.Close()
	if names, _ := dir.Readdirnames(1); len(names) > 0 {
		return fmt.Errorf("%w: %s", ErrNotEmpty, path)
	}
	return nil
}

// mountedHere gives the type of the file system that is mounted on path itself,
// the topmost one; empty: none.
func mountedHere(path string) (string, error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("mount: %w", err)
	}
	defer f.Close()
	kind := ""
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// 36 35 98:0 /root /mountpoint options … - type source options
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		if ok && len(fields) > 4 && unescape.Replace(fields[4]) == path {
			kind, _, _ = strings.Cut(after, " ")
		}
	}
	return kind, nil
}

var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// Unmount takes the tree away from the kernel: it retries while files are
// open. When ctx ends first, the mount is detached and the error matches
// ErrBusy: who has a file open can use it until the tree is closed. A second
// call answers as the first.
func (m *Mounted) Unmount(ctx context.Context) error {
	m.once.Do(func() { m.err = m.unmount(ctx) })
	return m.err
}

func (m *Mounted) unmount(ctx context.Context) error {
	retry := time.NewTicker(unmountRetry)
	defer retry.Stop()
	var err error
	for {
		select {
		case <-m.done: // somebody else did it
			return nil
		default:
		}
		if err = detach(m.Path, false); err == nil {
			break
		}
		m.log.Debug("the mount is busy", "path", m.Path, "err", err)
		select {
		case <-m.done:
			return nil
		case <-ctx.Done():
			if lazy := detach(m.Path, true); lazy != nil {
				return fmt.Errorf("unmount %s: %w", m.Path, errors.Join(err, lazy))
			}
			return fmt.Errorf("%w: %s", ErrBusy, m.Path)
		case <-retry.C:
		}
	}
	select {
	case <-m.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %s: %w", ErrBusy, m.Path, ctx.Err())
	}
}

// Wait returns when the tree is not mounted any more, whoever unmounted it.
func (m *Mounted) Wait() { <-m.done }

// Done is closed when Wait would return.
func (m *Mounted) Done() <-chan struct{} { return m.done }

// detach unmounts path; lazily, it vanishes for new users at once.
func detach(path string, lazy bool) error {
	flags := unix.UMOUNT_NOFOLLOW
	if lazy {
		flags |= unix.MNT_DETACH
	}
	err := unix.Unmount(path, flags)
	if err == nil || !errors.Is(err, unix.EPERM) {
		return err
	}
	arg := "-u"
	if lazy {
		arg = "-uz"
	}
	for _, program := range []string{"fusermount3", "fusermount"} {
		bin, lookErr := exec.LookPath(program)
		if lookErr != nil {
			continue
		}
		if out, runErr := exec.Command(bin, arg, path).CombinedOutput(); runErr != nil {
			return fmt.Errorf("%s: %w: %s", program, runErr, strings.TrimSpace(string(out)))
		}
		return nil
	}
	return err
}

// Probe tells by a trial mount in a temporary folder whether FUSE is usable.
// Its error matches ErrUnsupported and says why not.
func Probe(ctx context.Context) error {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return fmt.Errorf("%w: %w (is the kernel module fuse loaded, and the device given to this container?)", ErrUnsupported, err)
	}
	if os.Geteuid() != 0 {
		_, err3 := exec.LookPath("fusermount3")
		_, err := exec.LookPath("fusermount")
		if err3 != nil && err != nil {
			return fmt.Errorf("%w: not root, and no fusermount3 in PATH (package fuse3)", ErrUnsupported)
		}
	}
	dir, err := os.MkdirTemp("", "qsfs-probe-")
	if err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	defer os.Remove(dir)
	m, err := serve(probeFS{fuse.NewDefaultRawFileSystem()}, dir, Options{})
	if err != nil {
		return err
	}
	_, statErr := os.Stat(dir)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := m.Unmount(ctx); err != nil && !errors.Is(err, ErrBusy) { // somebody looks at each new mount: it is detached
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if statErr != nil {
		return fmt.Errorf("%w: %w", ErrUnsupported, statErr)
	}
	return nil
}

// probeFS is an empty folder.
type probeFS struct{ fuse.RawFileSystem }

func (probeFS) GetAttr(_ <-chan struct{}, _ *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.Mode, out.Nlink = syscall.S_IFDIR|0o755, 2
	return fuse.OK
}

// newServer mounts: as root directly, else by fusermount.
//
// The library leaves its descriptor of /dev/fuse open in programs that this one
// starts. One that lives on would keep the mount from ending with us: whoever
// touches it then waits for ever. So the descriptor is closed on exec, and where
// that can be, nothing is started between.
func newServer(fs fuse.RawFileSystem, path string, o fuse.MountOptions) (*fuse.Server, error) {
	if os.Geteuid() == 0 {
		direct := o
		direct.DirectMount, direct.DirectMountStrict = true, true // nothing is started under the lock
		syscall.ForkLock.RLock()
		server, err := fuse.NewServer(fs, path, &direct)
		closeOnExec()
		syscall.ForkLock.RUnlock()
		if err == nil {
			return server, nil
		}
	}
	server, err := fuse.NewServer(fs, path, &o)
	closeOnExec()
	return server, err
}

// closeOnExec marks every descriptor of /dev/fuse.
func closeOnExec() {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return // no /proc: nothing better can be done
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(fuseMajor, fuseMinor) {
			unix.CloseOnExec(fd)
		}
	}
}

// The device numbers of /dev/fuse (the kernel's Documentation/admin-guide/devices.txt).
const fuseMajor, fuseMinor = 10, 229

// CleanDead detaches a dead mount from path ("Transport endpoint is not
// connected"). Anything else there is left alone, without an error.
func CleanDead(path string) error {
	// Not stat: the kernel answers that from attributes that it has cached.
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); !errors.Is(err, unix.ENOTCONN) {
		return nil
	}
	if err := detach(path, true); err != nil {
		return fmt.Errorf("detach the dead mount on %s: %w", path, err)
	}
	return nil
}
