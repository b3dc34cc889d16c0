//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/threefoldtech/quantumd/services"
	"github.com/threefoldtech/quantumd/services/child"
)

// TestExternalDemo carries a whole story through programs beside the daemon:
// hooks, sockets, and a zdb, zstor and zdbfs that know nothing of it. The first
// variants take the real ones; the last has this program under their names, so
// that the way is gone always.
func TestExternalDemo(t *testing.T) {
	t.Parallel()
	real := func(names ...string) func(t *testing.T, dir string) []string {
		return func(t *testing.T, _ string) []string {
			for _, n := range names {
				if os.Getenv(n) == "" {
					t.Skip(n + " names no real program")
				}
			}
			return nil // they are in the environment
		}
	}
	for _, v := range []struct {
		name, engine string
		programs     func(t *testing.T, dir string) []string // environment
	}{
		{"RealAll", "{zdb: external, zstor: external, zdbfs: external}", real("ZDB_BIN", "ZSTOR_BIN", "ZDBFS_BIN")},
		{"RealZdbZstor", "{zdb: external, zstor: external}", real("ZDB_BIN", "ZSTOR_BIN")},
		{"Own", "{zdb: external, zstor: external}", ownPrograms},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			needsFUSE(t)
			dir := folder(t)
			s := &externalStory{user: newUser(t, dir), dir: dir, rng: rand.New(rand.NewPCG(1, uint64(len(v.name)))), files: map[string][]byte{}, externalFS: strings.Contains(v.engine, "zdbfs: external")}
			s.env = append(s.env, v.programs(t, dir)...)
			s.env = append(s.env, "QUANTUMD_ENGINE="+v.engine, "QUANTUMD_MIN_SHARDS=2", "QUANTUMD_EXPECTED_SHARDS=3", "QUANTUMD_ZDB_DATA_SIZE=1M", "QUANTUMD_ZDB_ROTATE_TIME=10m")
			s.run_(t)
		})
	}
}

// ownPrograms puts this program under the names of the real ones.
func ownPrograms(t *testing.T, dir string) []string {
	self := program(t)
	var env []string
	for name, key := range map[string]string{"zdb": "ZDB_BIN", "zstor": "ZSTOR_BIN"} {
		path := filepath.Join(dir, name)
		require.NoError(t, os.Symlink(self, path))
		env = append(env, key+"="+path)
	}
	return env
}

type externalStory struct {
	*user
	dir   string
	rng   *rand.Rand
	files map[string][]byte // below the mount

	externalFS bool
}

func (s *externalStory) run_(t *testing.T) {
	b, f1, f2, f3 := filepath.Join(s.dir, "b"), filepath.Join(s.dir, "f1"), filepath.Join(s.dir, "f2"), filepath.Join(s.dir, "f3")
	m1, m2, m3 := filepath.Join(s.dir, "m1"), filepath.Join(s.dir, "m2"), filepath.Join(s.dir, "m3")
	conf := filepath.Join(b, "config.yaml")
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for _, f := range []string{f1, f2, f3} {
			for _, name := range []string{"zdb", "zstor", "zdbfs"} {
				if log, err := os.ReadFile(filepath.Join(f, "state/services", name, "log")); err == nil {
					t.Logf("%s of %s said:\n%s", name, f, tailOf(log))
				}
			}
		}
	})
	up := func(f, m string) func(os.Signal) int {
		stop := s.begin("up", "-c", conf, "--dir", f, "--mount", m, "--lease", "1s", "--log-level", "debug")
		s.run(0, "wait", "mount", "--dir", f, "--timeout", "60s")
		return stop
	}
	phase := func(text string) { t.Logf("%s: %s", time.Now().Format("05.000"), text) }

	s.run(0, "deploy", "--local", "--dir", b)
	phase("up")
	stop := up(f1, m1)
	s.write(m1, "small", 100)
	s.write(m1, "dir/sub/large", 5<<20)
	s.write(m1, "dir/gone", 300_000)
	s.run(0, "sync", "--dir", f1)
	phase("synced")
	// Change what is stored: index files that were copied change in place.
	s.rewrite(m1, "dir/sub/large", 1<<20, 200_000)
	s.rename(m1, "small", "dir/renamed")
	s.remove(m1, "dir/gone")
	s.write(m1, "second", 2<<20)
	s.run(0, "sync", "--dir", f1)
	s.args = []string{"--dir", f1}
	st := s.status()
	assert.Zero(t, st.Queue.Pending+st.Queue.Failed)
	assert.Zero(t, st.LossWindow.Bytes, "%+v", st)
	s.args = nil
	s.check(m1)

	phase("evict")
	data := filepath.Join(f1, "frontend/data/zdbfs-data")
	before := dataFiles(t, data)
	s.run(0, "evict", "--dir", f1)
	evicted := dataFiles(t, data)
	require.Less(t, len(evicted), len(before)-2)
	require.Zero(t, stop(os.Interrupt)) // what is held in memory would be read from there
	stop = up(f1, m1)
	phase("a backend is lost")
	s.killBackend(b, "data0")
	s.check(m1) // through missing-data
	require.Greater(t, len(dataFiles(t, data)), len(evicted))
	s.run(0, "deploy", "--local", "--dir", b) // it is back

	phase("a backend is replaced")
	s.killBackend(b, "data1")
	t.Log(s.run(0, "replace", "data1", "--dir", f1, "--yes"))
	t.Log(s.run(0, "check", "--dir", f1))
	config, err := os.ReadFile(filepath.Join(f1, "state/zstor.toml"))
	require.NoError(t, err)
	require.NotContains(t, string(config), `"data1"`, "the config of the zstor daemon has the new set")
	s.run(0, "evict", "--dir", f1)
	s.check(m1)

	phase("kill -9 of the daemon, then of zdb")
	s.write(m1, "before-the-crash", 700_000)
	s.settle(m1)
	stop(os.Kill)
	require.NoError(t, syscall.Kill(s.pidOf(f1, "zdb"), syscall.SIGKILL))
	stop = up(f1, m1)
	s.wake(m1)
	s.check(m1)
	s.write(m1, "after-the-crash", 700_000)
	s.run(0, "sync", "--dir", f1)
	phase("kill -9 of zdb alone")
	s.settle(m1)
	old := s.pidOf(f1, "zdb")
	require.NoError(t, syscall.Kill(old, syscall.SIGKILL))
	require.Eventually(t, func() bool { return s.pidOf(f1, "zdb") != old && s.pidOf(f1, "zdb") != 0 && s.serves(f1) }, 30*time.Second, 50*time.Millisecond)
	s.wake(m1)
	s.check(m1)
	s.write(m1, "third", 400_000)

	phase("a clean stop and a start")
	require.Zero(t, stop(os.Interrupt))
	require.False(t, mountpoint(m1))
	require.Empty(t, s.servicesRunning(f1))
	stop = up(f1, m1)
	s.check(m1)
	s.write(m1, "fourth", 400_000)
	s.run(0, "sync", "--dir", f1)

	phase("the machine is lost")
	stop(os.Kill)
	clear(f1)
	_ = syscall.Unmount(m1, syscall.MNT_DETACH) // it may be gone with its process
	require.NoError(t, os.RemoveAll(f1))
	require.Eventually(t, func() bool { // it was alive a moment ago
		return s.command(t.Context(), "restore", "-c", conf, "--dir", f2, "--lease", "1s").Run() == nil
	}, 30*time.Second, 200*time.Millisecond)
	phase("restored")
	stop = up(f2, m2)
	s.check(m2)
	s.write(m2, "on-the-new-machine", 1<<20)
	s.run(0, "sync", "--dir", f2)
	require.Zero(t, stop(os.Interrupt))
	stop = up(f2, m2)
	s.check(m2)

	phase("another machine takes over")
	s.run(0, "restore", "-c", conf, "--dir", f3, "--lease", "1s", "--force")
	if s.externalFS {
		require.Eventually(t, func() bool { return !mountpoint(m2) }, 60*time.Second, 50*time.Millisecond, "it cannot be made read-only")
	} else {
		require.Eventually(t, func() bool {
			f, err := os.OpenFile(filepath.Join(m2, "second"), os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteString("x")
				err = errors.Join(err, f.Sync(), f.Close())
			}
			return errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EIO) // a write that is not taken
		}, 60*time.Second, 50*time.Millisecond)
	}
	require.NotZero(t, stop(os.Interrupt), "it says that it was fenced")
	stop = up(f3, m3)
	s.check(m3)
	require.Zero(t, stop(os.Interrupt))
	phase("done")
	s.run(0, "destroy", "--local", "--dir", b, "--yes")
	require.Empty(t, processes(s.dir))
}

func (s *externalStory) write(m, name string, n int) {
	s.t.Helper()
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(s.rng.Uint32())
	}
	path := filepath.Join(m, name)
	require.NoError(s.t, os.MkdirAll(filepath.Dir(path), 0o755))
	f, err := os.Create(path)
	require.NoError(s.t, err)
	_, err = f.Write(data)
	require.NoError(s.t, err)
	require.NoError(s.t, f.Sync())
	require.NoError(s.t, f.Close())
	s.files[name] = data
}

func (s *externalStory) rewrite(m, name string, at, n int) {
	s.t.Helper()
	part := bytes.Repeat([]byte{byte(s.rng.Uint32())}, n)
	f, err := os.OpenFile(filepath.Join(m, name), os.O_WRONLY, 0)
	require.NoError(s.t, err)
	_, err = f.WriteAt(part, int64(at))
	require.NoError(s.t, err)
	require.NoError(s.t, f.Close())
	s.files[name] = append([]byte{}, s.files[name]...)
	copy(s.files[name][at:], part)
}

func (s *externalStory) rename(m, from, to string) {
	s.t.Helper()
	require.NoError(s.t, os.Rename(filepath.Join(m, from), filepath.Join(m, to)))
	s.files[to] = s.files[from]
	delete(s.files, from)
}

func (s *externalStory) remove(m, name string) {
	s.t.Helper()
	require.NoError(s.t, os.Remove(filepath.Join(m, name)))
	delete(s.files, name)
}

// check compares every byte, and that nothing else is there.
func (s *externalStory) check(m string) {
	s.t.Helper()
	for name, want := range s.files {
		got, err := readCold(filepath.Join(m, name))
		require.NoError(s.t, err, name)
		require.True(s.t, bytes.Equal(want, got), "%s: %d bytes differ from the %d that were written", name, len(got), len(want))
	}
	found := 0
	require.NoError(s.t, filepath.WalkDir(m, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			found++
		}
		return err
	}))
	require.Equal(s.t, len(s.files), found)
}

// readCold reads a file past the kernel's cache.
func readCold(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	_, err = b.ReadFrom(f)
	return b.Bytes(), err
}

// settle has the file system write out what it holds: a real zdbfs loses it
// with its process, and does nothing at fsync.
func (s *externalStory) settle(m string) {
	s.t.Helper()
	f, err := os.Open(m)
	require.NoError(s.t, err)
	defer f.Close() // read only
	for range 16 {
		var at uint64
		// EINVAL or ENOTTY: it is the embedded one, which holds nothing back.
		_ = ioctl(f.Fd(), 0x80084500, &at)
	}
	require.NoError(s.t, unix.Syncfs(int(f.Fd())))
}

// wake waits until a real zdbfs has found its zdb again, which the daemon sees
// to: until then files seem not to be there.
func (s *externalStory) wake(m string) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		var st unix.Statfs_t
		return unix.Statfs(m, &st) == nil
	}, 10*time.Second, 100*time.Millisecond)
}

func (s *externalStory) killBackend(b, id string) {
	s.t.Helper()
	for _, pid := range processes(filepath.Join(b, "backends", id)) {
		require.NoError(s.t, syscall.Kill(pid, syscall.SIGKILL))
		require.Eventually(s.t, func() bool { return !alive(pid) }, 10*time.Second, 10*time.Millisecond)
		return
	}
	s.t.Fatalf("no process of %s", id)
}

func (s *externalStory) states(f string) []services.Status {
	m, err := child.New(child.Options{Dir: filepath.Join(f, "state/services")})
	require.NoError(s.t, err)
	list, err := m.Status(s.t.Context(), "zdb", "zstor", "zdbfs")
	require.NoError(s.t, err)
	return list
}

func (s *externalStory) pidOf(f, name string) int {
	for _, st := range s.states(f) {
		if st.Name == name {
			return st.PID
		}
	}
	return 0
}

func (s *externalStory) servicesRunning(f string) []string {
	var out []string
	for _, st := range s.states(f) {
		if st.PID != 0 {
			out = append(out, fmt.Sprintf("%s %d %s", st.Name, st.PID, st.State))
		}
	}
	return out
}

// serves says whether the zdb answers.
func (s *externalStory) serves(f string) bool {
	c, err := dialUnix(filepath.Join(f, "run/zdb.sock"))
	if err != nil {
		return false
	}
	defer c.Close() // only asked
	if _, err := c.Write([]byte("*1\r\n$4\r\nPING\r\n")); err != nil {
		return false
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	answer := make([]byte, 7)
	n, _ := c.Read(answer)
	return strings.HasPrefix(string(answer[:n]), "+PONG")
}

func dataFiles(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "d*"))
	require.NoError(t, err)
	return found
}

func mountpoint(path string) bool {
	text, err := os.ReadFile("/proc/self/mountinfo")
	return err == nil && strings.Contains(string(text), " "+path+" ")
}

func tailOf(log []byte) []byte { return log[max(0, len(log)-6000):] }
