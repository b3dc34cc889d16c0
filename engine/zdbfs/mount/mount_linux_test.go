package mount_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/threefoldtech/quantumd/engine/zdbfs/mount"
	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
	"github.com/threefoldtech/quantumd/engine/zdbfs/treetest"
)

// mapEnv makes the test program write to a file through a shared mapping.
const mapEnv = "QSFS_TEST_MAP"

func TestMain(m *testing.M) {
	if name := os.Getenv(mapEnv); name != "" {
		if err := writeMapped(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func writeMapped(name string) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 300000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	copy(m[200000:], "mapped")
	return errors.Join(unix.Msync(m, unix.MS_SYNC), unix.Munmap(m))
}

var probe = sync.OnceValue(func() error { return mount.Probe(context.Background()) })

func needFUSE(t testing.TB) {
	t.Helper()
	if err := probe(); err != nil {
		t.Skipf("FUSE is not usable: %v", err)
	}
}

// system is a mounted tree over records in memory.
type system struct {
	meta, data *treetest.Memory
	tree       *tree.Tree
	mounted    *mount.Mounted
	dir        string
}

func start(t testing.TB, meta, data *treetest.Memory) *system {
	t.Helper()
	return startIn(t, t.TempDir(), meta, data)
}

func startIn(t testing.TB, dir string, meta, data *treetest.Memory) *system {
	t.Helper()
	needFUSE(t)
	s := &system{meta: meta, data: data, dir: dir}
	var err error
	s.tree, err = tree.Open(context.Background(), tree.Options{Meta: meta, Data: data})
	require.NoError(t, err)
	s.mounted, err = mount.Mount(t.Context(), s.tree, mount.Options{Path: s.dir, AllowOther: true})
	require.NoError(t, err)
	t.Cleanup(func() { s.stop(t) })
	return s
}

func (s *system) stop(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	require.NoError(t, s.mounted.Unmount(ctx))
	s.mounted.Wait()
	require.NoError(t, s.tree.Close(ctx))
}

func (s *system) path(name string) string { return filepath.Join(s.dir, name) }

// run runs a program in the mount.
func (s *system) run(t testing.TB, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("no %s here", name)
	}
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = s.dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return string(out)
}

func TestProbe(t *testing.T) {
	t.Parallel()
	needFUSE(t)
}

func TestPosix(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	skip := map[string]string{
		"FcntlFlockLocksFile": "wants two record locks of one process to exclude each other, which POSIX says they do not",
	}
	for name, fn := range posixtest.All {
		if reason := skip[name]; reason != "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fn(t, start(t, treetest.New(), treetest.New()).dir)
		})
	}
}

func TestMountpoint(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	s := start(t, treetest.New(), treetest.New())
	ctx := t.Context()
	_, err := mount.Mount(ctx, s.tree, mount.Options{Path: s.dir})
	require.ErrorIs(t, err, mount.ErrMounted)
	dir := t.TempDir()
	_, err = mount.Mount(ctx, s.tree, mount.Options{Path: filepath.Join(dir, "none")})
	require.ErrorIs(t, err, mount.ErrNoMountpoint)
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = mount.Mount(ctx, s.tree, mount.Options{Path: file})
	require.ErrorIs(t, err, mount.ErrNoMountpoint)
	_, err = mount.Mount(ctx, s.tree, mount.Options{Path: dir})
	require.ErrorIs(t, err, mount.ErrNotEmpty)
	require.NoError(t, mount.CleanDead(dir), "nothing to do")
}

func TestUnmountBusy(t *testing.T) {
	t.Parallel()
	s := start(t, treetest.New(), treetest.New())
	f, err := os.Create(s.path("open"))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.mounted.Unmount(ctx), mount.ErrBusy)
	entries, err := os.ReadDir(s.dir)
	require.NoError(t, err)
	require.Empty(t, entries, "detached")
	_, err = f.Write([]byte("still works"))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	s.mounted.Wait()
	require.NoError(t, s.tree.Close(t.Context()))
	s.mounted = start(t, s.meta, s.data).mounted // for the cleanup
}

func TestDeadMount(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make a dead mount")
	}
	dir := t.TempDir()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	opts := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)
	require.NoError(t, unix.Mount("dead", dir, "fuse", 0, opts))
	require.NoError(t, unix.Close(fd))
	_, err = os.Stat(dir)
	require.ErrorIs(t, err, syscall.ENOTCONN)
	s := start(t, treetest.New(), treetest.New())
	_, err = mount.Mount(t.Context(), s.tree, mount.Options{Path: dir})
	require.ErrorIs(t, err, mount.ErrMounted)
	require.NoError(t, mount.CleanDead(dir))
	_, err = os.Stat(dir)
	require.NoError(t, err)
}

// TestPrograms runs what people run, remounts, and compares.
func TestPrograms(t *testing.T) {
	t.Parallel()
	s := start(t, treetest.New(), treetest.New())
	src := t.TempDir()
	for i := range 200 {
		dir := filepath.Join(src, fmt.Sprintf("d%d", i%7), fmt.Sprintf("e%d", i%3))
		require.NoError(t, os.MkdirAll(dir, 0o755))
		name := filepath.Join(dir, fmt.Sprintf("file-%d", i))
		require.NoError(t, os.WriteFile(name, bytes.Repeat([]byte{byte(i)}, i*i*17), 0o600+fs.FileMode(i%64)))
		require.NoError(t, os.Chtimes(name, time.Unix(int64(i), int64(i)), time.Unix(1e9, int64(i)*1000+1)))
	}
	require.NoError(t, os.Symlink("d0/e0", filepath.Join(src, "link")))
	require.NoError(t, os.Link(filepath.Join(src, "d1/e1/file-1"), filepath.Join(src, "hard")))
	require.NoError(t, unix.Setxattr(filepath.Join(src, "hard"), "user.note", []byte("kept"), 0))

	s.run(t, "cp", "-a", src, "copy")
	s.run(t, "tar", "-cf", "all.tar", "-C", src, ".")
	require.NoError(t, os.Mkdir(s.path("untarred"), 0o755))
	s.run(t, "tar", "-xpf", "all.tar", "-C", "untarred")
	if _, err := exec.LookPath("git"); err == nil {
		s.run(t, "git", "init", "-q", "repo")
		s.run(t, "cp", "-r", src+"/.", "repo/")
		s.run(t, "git", "-C", "repo", "add", ".")
		s.run(t, "git", "-C", "repo", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-m", "x")
		s.run(t, "git", "-C", "repo", "gc", "-q")
		s.run(t, "git", "-C", "repo", "fsck", "--full")
	}
	s.stop(t)

	s2 := start(t, s.meta, s.data)
	s.mounted, s.tree = s2.mounted, s2.tree // stopping twice is fine
	require.Empty(t, s2.run(t, "diff", "-r", "--no-dereference", src, "copy"))
	require.Empty(t, s2.run(t, "diff", "-r", "--no-dereference", src, "untarred"))
	list := "find . -printf '%P %y %m %s %l %n %T@\\n' | grep -v '^ ' | sed -E 's/^(.* d [0-9]+) [0-9]+/\\1/' | sort"
	want, err := exec.CommandContext(t.Context(), "sh", "-c", "cd "+src+" && "+list).Output()
	require.NoError(t, err)
	require.Equal(t, string(want), s2.run(t, "sh", "-c", "cd copy && "+list))
	value := make([]byte, 10)
	n, err := unix.Getxattr(s2.path("copy/hard"), "user.note", value)
	require.NoError(t, err)
	require.Equal(t, "kept", string(value[:n]))
	if _, err := exec.LookPath("git"); err == nil {
		require.Empty(t, s2.run(t, "git", "-C", "repo", "status", "--porcelain"))
	}
	found, err := s2.tree.Check(t.Context())
	require.NoError(t, err)
	require.Empty(t, found)
}

func TestFsyncIsDurable(t *testing.T) {
	t.Parallel()
	s := start(t, treetest.New(), treetest.New())
	want := bytes.Repeat([]byte("0123456789"), 50000)
	require.NoError(t, os.MkdirAll(s.path("a/b"), 0o755))
	f, err := os.Create(s.path("a/b/tmp"))
	require.NoError(t, err)
	_, err = f.Write(want)
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	require.NoError(t, os.Rename(s.path("a/b/tmp"), s.path("a/b/final")))
	dir, err := os.Open(s.path("a/b"))
	require.NoError(t, err)
	require.NoError(t, dir.Sync())
	require.NoError(t, dir.Close())
	require.NoError(t, f.Close())
	after := start(t, s.meta.Crash(0), s.data.Crash(0))
	got, err := os.ReadFile(after.path("a/b/final"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
}

func TestFileSemantics(t *testing.T) {
	t.Parallel()
	s := start(t, treetest.New(), treetest.New())
	t.Run("unlinked and open", func(t *testing.T) {
		f, err := os.Create(s.path("gone"))
		require.NoError(t, err)
		defer f.Close()
		require.NoError(t, os.Remove(s.path("gone")))
		_, err = f.WriteString("hello")
		require.NoError(t, err)
		got := make([]byte, 5)
		_, err = f.ReadAt(got, 0)
		require.NoError(t, err)
		require.Equal(t, "hello", string(got))
		var st unix.Stat_t
		require.NoError(t, unix.Fstat(int(f.Fd()), &st))
		require.Zero(t, st.Nlink)
	})
	t.Run("append", func(t *testing.T) {
		for range 3 {
			f, err := os.OpenFile(s.path("log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
			require.NoError(t, err)
			_, err = f.WriteString("line\n")
			require.NoError(t, err)
			require.NoError(t, f.Close())
		}
		got, err := os.ReadFile(s.path("log"))
		require.NoError(t, err)
		require.Equal(t, "line\nline\nline\n", string(got))
	})
	t.Run("mmap", func(t *testing.T) {
		f, err := os.Create(s.path("map"))
		require.NoError(t, err)
		defer f.Close()
		require.NoError(t, f.Truncate(300000))
		// In a process of its own: a page fault on a mount of the same process
		// would keep the garbage collector waiting for itself.
		helper := exec.CommandContext(t.Context(), os.Args[0])
		helper.Env = append(os.Environ(), mapEnv+"="+f.Name())
		out, err := helper.CombinedOutput()
		require.NoError(t, err, "%s", out)
		got := make([]byte, 6)
		_, err = f.ReadAt(got, 200000)
		require.NoError(t, err)
		require.Equal(t, "mapped", string(got))
	})
	t.Run("truncate shows no old bytes", func(t *testing.T) {
		name := s.path("cut")
		require.NoError(t, os.WriteFile(name, bytes.Repeat([]byte{1}, 300000), 0o644))
		require.NoError(t, os.Truncate(name, 1000))
		require.NoError(t, os.Truncate(name, 300000))
		got, err := os.ReadFile(name)
		require.NoError(t, err)
		require.True(t, bytes.Equal(append(bytes.Repeat([]byte{1}, 1000), make([]byte, 299000)...), got))
	})
	t.Run("safe state", func(t *testing.T) {
		name := s.path("safe")
		require.NoError(t, os.WriteFile(name, []byte("x"), 0o644))
		value := make([]byte, 20)
		n, err := unix.Getxattr(name, mount.SafeXattr, value)
		require.NoError(t, err)
		require.Equal(t, "local", string(value[:n]))
		_, err = s.tree.Cut(t.Context(), func(context.Context) error { return nil })
		require.NoError(t, err)
		n, err = unix.Getxattr(name, mount.SafeXattr, value)
		require.NoError(t, err)
		require.Equal(t, "pending", string(value[:n]))
		n, err = unix.Listxattr(name, value)
		require.NoError(t, err)
		require.Zero(t, n)
		require.ErrorIs(t, unix.Setxattr(name, mount.SafeXattr, []byte("safe"), 0), unix.EPERM)
		require.ErrorIs(t, unix.Removexattr(name, mount.SafeXattr), unix.EPERM)
	})
	t.Run("list while deleting", func(t *testing.T) {
		require.NoError(t, os.Mkdir(s.path("many"), 0o755))
		for i := range 2000 {
			require.NoError(t, os.WriteFile(s.path(fmt.Sprintf("many/%d", i)), nil, 0o644))
		}
		dir, err := os.Open(s.path("many"))
		require.NoError(t, err)
		defer dir.Close()
		seen := 0
		for {
			names, err := dir.Readdirnames(37)
			if len(names) == 0 {
				break
			}
			require.NoError(t, err)
			for _, name := range names {
				require.NoError(t, os.Remove(s.path("many/"+name)))
				seen++
			}
		}
		require.Equal(t, 2000, seen)
		require.NoError(t, os.Remove(s.path("many")))
	})
	t.Run("special files", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("needs root")
		}
		require.NoError(t, unix.Mknod(s.path("dev"), unix.S_IFCHR|0o600, int(unix.Mkdev(300, 70000))))
		require.NoError(t, unix.Mkfifo(s.path("fifo"), 0o600))
		require.NoError(t, os.Chown(s.path("dev"), 100000, 200000))
		var st unix.Stat_t
		require.NoError(t, unix.Stat(s.path("dev"), &st))
		require.EqualValues(t, unix.Mkdev(300, 70000), st.Rdev)
		require.EqualValues(t, 100000, st.Uid)
		require.EqualValues(t, 200000, st.Gid)
	})
	t.Run("statfs", func(t *testing.T) {
		var st unix.Statfs_t
		require.NoError(t, unix.Statfs(s.dir, &st))
		require.EqualValues(t, 10<<30, int64(st.Blocks)*st.Frsize)
		require.EqualValues(t, 255, st.Namelen)
	})
	t.Run("mount type", func(t *testing.T) {
		mounts, err := os.ReadFile("/proc/mounts")
		require.NoError(t, err)
		require.True(t, strings.Contains(string(mounts), "quantumd "+s.dir+" fuse.zdbfs "))
	})
}
