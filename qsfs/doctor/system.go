package doctor

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/engine/zdbfs/mount"
	"github.com/threefoldtech/quantumd/qsfs/binaries"
	"github.com/threefoldtech/quantumd/store"
)

// system is what checks know of a machine: functions, so that a test can have
// any machine.
type system struct {
	facts      string // put before /proc, /sys, /dev and /etc/fuse.conf
	arch       string
	uid        int
	now        func() time.Time
	release    func() (string, error)          // of the kernel
	statfs     func(path string) (disk, error) // of a path that exists
	clock      func() (clockState, error)
	reach      func(path string) error // stat(2)
	trialMount func(ctx context.Context) error
	measure    func(ctx context.Context, dir string) (speed, error)
	durable    func(dir string) error // temp file, rename, sync of file and folder
	listen     func(address string) error
	lookPath   func(name string) (string, error)
	probe      func(ctx context.Context, name, path string) (string, error)
	database   func(ctx context.Context, path string) error
}

func thisMachine() *system {
	return &system{
		facts: "/", arch: runtime.GOARCH, uid: os.Geteuid(), now: time.Now,
		release: kernelRelease, statfs: statfs, clock: clock, reach: reach, trialMount: mount.Probe,
		measure: measureDisk, durable: tryDurable, listen: tryListen, lookPath: exec.LookPath,
		probe: binaries.Probe, database: store.Verify,
	}
}

// disk is a file system.
type disk struct {
	kind         string // such as ext4
	id           uint64 // of the device
	total, free  int64  // bytes; free to this user
	files, nodes int64  // inodes in all, and free ones; zero: not counted
	readOnly     bool
}

// clockState is what the kernel says of its clock.
type clockState struct {
	synchronised bool
	maxError     time.Duration
}

// speed is what a disk did.
type speed struct {
	p50, p95 time.Duration // of an fsync of 4 KiB
	write    float64       // MiB/s, synced
	bytes    int64
}

// fact reads a small file of the machine; "": it is not there.
func (s *system) fact(path string) string {
	text, err := os.ReadFile(filepath.Join(s.facts, path))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// number reads a fact that is one number; false: it is none, as the word max.
func (s *system) number(path string) (int64, bool) {
	n, err := strconv.ParseInt(s.fact(path), 10, 64)
	return n, err == nil
}

func reach(path string) error {
	_, err := os.Stat(path)
	return err
}

func tryListen(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	return l.Close()
}

// mountEntry is a line of /proc/self/mountinfo.
type mountEntry struct {
	path, kind, source string
}

func readMounts(s *system) []mountEntry {
	var out []mountEntry
	for line := range strings.SplitSeq(s.fact("proc/self/mountinfo"), "\n") {
		left, right, found := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if found && len(l) >= 5 && len(r) >= 2 {
			out = append(out, mountEntry{path: unescape(l[4]), kind: r[0], source: unescape(r[1])})
		}
	}
	return out
}

// unescape reads the octal escapes of mountinfo.
func unescape(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) {
			if n, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

// mountAt is the topmost mount on a path itself.
func (x *examination) mountAt(path string) (mountEntry, bool) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	for i := len(x.mounts) - 1; i >= 0; i-- {
		if x.mounts[i].path == path {
			return x.mounts[i], true
		}
	}
	return mountEntry{}, false
}

// existing is the nearest folder of a path that is there: what a folder that is
// not made yet will lie on.
func existing(path string) string {
	for {
		if st, err := os.Stat(path); err == nil && st.IsDir() {
			return path
		}
		up := filepath.Dir(path)
		if up == path {
			return path
		}
		path = up
	}
}

// root is a system path below the prefix of the options.
func (x *examination) root(path string) string { return filepath.Join("/", x.Root, path) }

var errUnknown = errors.New("not known on this platform")
