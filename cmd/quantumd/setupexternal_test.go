//go:build linux

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/services"
	"github.com/threefoldtech/quantumd/services/zinit"
)

// TestSetupExternal installs a system whose components are programs of their
// own, on system paths below another root: fetched from a mirror on loopback,
// run as services, stopped in order after what was written is on the backends,
// killed one by one. Own has this program under the names of the real ones.
func TestSetupExternal(t *testing.T) {
	t.Parallel()
	real := func(names ...string) func(t *testing.T, s *installedStory) {
		return func(t *testing.T, s *installedStory) {
			for _, n := range names {
				if os.Getenv(n) == "" {
					t.Skip(n + " names no real program")
				}
				s.offer(strings.ToLower(strings.TrimSuffix(n, "_BIN")), os.Getenv(n))
			}
		}
	}
	own := func(names ...string) func(t *testing.T, s *installedStory) {
		return func(t *testing.T, s *installedStory) {
			for _, n := range names {
				s.offer(n, program(t))
			}
			s.pinURLs = true // it has no version of the table
		}
	}
	for _, v := range []struct {
		name, engine string
		programs     func(t *testing.T, s *installedStory)
		kill         bool
		zinit        zinit.Generation // of the double that runs the services; empty: none
	}{
		{"Own", "{zdb: external, zstor: external, zdbfs: external}", own("zdb", "zstor", "zdbfs"), true, ""},
		{"OwnZdb", "{zdb: external}", own("zdb"), false, ""},
		{"OwnZstor", "{zstor: external}", own("zstor"), false, ""},
		{"OldZinit", "{zdb: external, zstor: external, zdbfs: external}", own("zdb", "zstor", "zdbfs"), true, zinit.LineProtocol},
		{"NewZinit", "{zdb: external, zstor: external, zdbfs: external}", own("zdb", "zstor", "zdbfs"), true, zinit.JSONRPC},
		{"Real", "{zdb: external, zstor: external, zdbfs: external}", real("ZDB_BIN", "ZSTOR_BIN", "ZDBFS_BIN"), true, ""},
		{"RealZdbZstor", "{zdb: external, zstor: external}", real("ZDB_BIN", "ZSTOR_BIN"), true, ""},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			needsRootAndFUSE(t)
			if v.zinit != "" && os.Getenv("QUANTUMD_LONG") == "" {
				t.Skip("QUANTUMD_LONG is not set")
			}
			dir := folder(t)
			s := &installedStory{externalStory: externalStory{user: newUser(t, dir), dir: dir, rng: rand.New(rand.NewPCG(2, uint64(len(v.name)))), files: map[string][]byte{},
				externalFS: strings.Contains(v.engine, "zdbfs: external")}, engine: v.engine, kill: v.kill, mirror: filepath.Join(dir, "mirror"), root: filepath.Join(dir, "root")}
			s.mnt = filepath.Join(s.root, "mnt/qsfs")
			require.NoError(t, os.Mkdir(s.mirror, 0o755))
			v.programs(t, s)
			if s.zinit = v.zinit != ""; s.zinit {
				doubleZinit(t, v.zinit, s.root, s.env)
			}
			s.story(t)
		})
	}
}

type installedStory struct {
	externalStory
	engine            string
	mirror, root, mnt string
	names             []string // of external components
	pinURLs           bool
	kill              bool
	zinit             bool
}

// offer puts a program into the mirror. Not written by this process: see newUser.
func (s *installedStory) offer(name, from string) {
	out, err := exec.Command("cp", from, filepath.Join(s.mirror, name)).CombinedOutput()
	require.NoError(s.t, err, "%s", out)
	s.names = append(s.names, name)
}

func (s *installedStory) path(p string) string { return filepath.Join(s.root, p) }

// TestTakenOverStopsZdbfs has another machine take over from a system that runs: its
// zdbfs, a service, is stopped, for what it takes is stored nowhere.
func TestTakenOverStopsZdbfs(t *testing.T) {
	t.Parallel()
	needsRootAndFUSE(t)
	if os.Getenv("QUANTUMD_LONG") == "" {
		t.Skip("QUANTUMD_LONG is not set: a lease has to end")
	}
	dir := folder(t)
	s := &installedStory{externalStory: externalStory{user: newUser(t, dir), dir: dir, rng: rand.New(rand.NewPCG(3, 1)), files: map[string][]byte{}, externalFS: true},
		engine: "{zdb: external, zstor: external, zdbfs: external}", mirror: filepath.Join(dir, "mirror"), root: filepath.Join(dir, "root"), pinURLs: true}
	s.mnt = filepath.Join(s.root, "mnt/qsfs")
	require.NoError(t, os.Mkdir(s.mirror, 0o755))
	for _, n := range []string{"zdb", "zstor", "zdbfs"} {
		s.offer(n, program(t))
	}
	conf := s.configure("file://" + s.mirror)
	s.run(0, "setup", "--yes")
	s.write(s.mnt, "file", 100_000)
	s.run(0, "sync")
	u2 := *s.user
	u2.args, u2.env = nil, append(slices.Clone(s.env), "QUANTUMD_ENGINE=embedded")
	require.Eventually(t, func() bool { // its lease has to end
		return u2.command(t.Context(), "restore", "-c", conf, "--dir", filepath.Join(dir, "f2"), "--force").Run() == nil
	}, 60*time.Second, time.Second)
	require.Eventually(t, func() bool {
		return s.services()["qsfs-zdbfs"].State == services.Inactive && !mountpoint(s.mnt)
	}, 60*time.Second, 200*time.Millisecond)
	s.run(0, "uninstall", "--yes")
}

// configure deploys, and writes the components into the configuration; with
// URLs below mirror where they have no version of the table.
func (s *installedStory) configure(mirror string) (conf string) {
	s.args = []string{"--root", s.root}
	s.env = append(s.env, "QUANTUMD_MIN_SHARDS=2", "QUANTUMD_EXPECTED_SHARDS=3", "QUANTUMD_ZDB_DATA_SIZE=1M", "QUANTUMD_ZDB_ROTATE_TIME=10m")
	s.run(0, "deploy", "--local")
	conf = s.path("etc/quantumd.yaml")
	more := "\nengine: " + s.engine + "\n"
	if s.pinURLs {
		more += "binaries:\n"
		for _, n := range s.names {
			more += fmt.Sprintf("  %s: {url: %s/%s}\n", n, mirror, n)
		}
	}
	write(s.t, conf, read(s.t, conf)+more)
	return conf
}

// upgradeAlone: another quantumd restarts no program that is not quantumd: the
// mount of an external zdbfs stays, with what applications have open.
func (s *installedStory) upgradeAlone() {
	t := s.t
	f, err := os.OpenFile(s.program, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString("a newer one")
	require.NoError(t, errors.Join(err, f.Close()))
	before := s.services()
	open, err := os.Open(filepath.Join(s.mnt, "small"))
	require.NoError(t, err)
	defer open.Close() //nolint:errcheck // read only
	if !s.externalFS {
		require.NoError(t, open.Close()) // its mount is the daemon's
	}
	s.run(0, "upgrade")
	s.allActive()
	after := s.services()
	require.NotEqual(t, before["quantumd"].PID, after["quantumd"].PID)
	for _, n := range s.names {
		require.Equal(t, before["qsfs-"+n].PID, after["qsfs-"+n].PID, "%s runs no quantumd", n)
	}
	if s.externalFS {
		text, err := io.ReadAll(open)
		require.NoError(t, err)
		require.Equal(t, s.files["small"], text)
	}
	s.check(s.mnt)
}

func (s *installedStory) story(t *testing.T) {
	phase := func(text string) { t.Logf("%s: %s", time.Now().Format("05.000"), text) }
	mirror := httptest.NewServer(http.FileServer(http.Dir(s.mirror)))
	defer mirror.Close()
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range []string{"qsfs-zdb", "qsfs-zstor", "qsfs-zdbfs", "quantumd"} {
				if log, err := os.ReadFile(s.path("var/lib/quantumd/services/" + n + "/log")); err == nil {
					t.Logf("%s said:\n%s", n, tailOf(log))
				}
			}
		}
	})
	conf := s.configure(mirror.URL)
	from := []string{"--from", mirror.URL}
	if s.pinURLs {
		from = nil
	}

	phase("setup")
	setup := append([]string{"setup"}, from...)
	out := s.run(0, append(setup, "--dry-run")...)
	require.Contains(t, out, "fetch ")
	require.NoFileExists(t, s.path("usr/local/bin/zdb"))
	out = s.run(2, setup...) // nobody can be asked
	for _, n := range s.names {
		require.Contains(t, out, s.sum(n))
		require.NoFileExists(t, s.path("usr/local/bin/"+n))
	}
	require.NoFileExists(t, s.path("usr/local/bin/quantumd"))
	out = s.run(0, append(setup, "--yes")...)
	require.Contains(t, out, "mounted on "+s.mnt)
	for _, n := range s.names {
		require.Contains(t, out, "fetched "+n)
	}
	st, err := os.Stat(s.path("etc/zstor.toml"))
	if strings.Contains(s.engine, "zstor: external") {
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), st.Mode())
	}
	s.allActive()
	before := s.services()
	phase("again")
	out = s.run(0, "setup") // the mirror is not needed any more
	require.NotContains(t, out, "update")
	require.NotContains(t, out, "fetched")
	for name, one := range s.services() {
		require.Equal(t, before[name].PID, one.PID, "%s was not to be restarted", name)
	}

	phase("write")
	s.write(s.mnt, "small", 100)
	s.write(s.mnt, "dir/large", 3<<20)
	s.settle(s.mnt)
	require.Contains(t, s.run(0, "sync"), "safe: checkpoint")
	s.run(0, "wait", "zdb")
	s.run(0, "wait", "mount")
	s.write(s.mnt, "late", 300_000)
	s.settle(s.mnt)
	if s.pinURLs { // the real zdbfs may leave behind what it has in memory
		s.files["in-memory"] = bytes.Repeat([]byte("not synced "), 20_000)
		require.NoError(t, os.WriteFile(filepath.Join(s.mnt, "in-memory"), s.files["in-memory"], 0o644))
	}
	s.stopInOrder()
	phase("start")
	s.run(0, "start")
	s.allActive()
	s.check(s.mnt)
	phase("upgrade")
	s.upgradeAlone()
	if s.kill {
		for _, name := range []string{"qsfs-zstor", "quantumd", "qsfs-zdb", "qsfs-zdbfs"} {
			if _, ok := s.services()[name]; ok {
				phase("kill -9 " + name)
				s.killAndWait(name)
			}
		}
	}
	s.write(s.mnt, "last", 200_000)
	s.settle(s.mnt)
	s.stopInOrder()

	phase("everything is on the backends")
	for name := range s.services() {
		if strings.HasPrefix(name, "qsfs-data") || strings.HasPrefix(name, "qsfs-meta") {
			s.run(0, "start", name)
		}
	}
	f2, m2 := filepath.Join(s.dir, "f2"), filepath.Join(s.dir, "m2")
	s.args = nil
	env := s.env
	s.env = append(slices.Clone(env), "QUANTUMD_ENGINE=embedded")
	s.run(0, "restore", "-c", conf, "--dir", f2)
	stop := s.begin("up", "-c", conf, "--dir", f2, "--mount", m2)
	s.run(0, "wait", "mount", "--dir", f2, "--timeout", "60s")
	s.check(m2)
	require.Zero(t, stop(os.Interrupt))
	s.env, s.args = env, []string{"--root", s.root}
	if s.externalFS {
		phase("the old one comes back")
		s.comesBackFenced()
	}
	phase("uninstall")
	s.run(0, "uninstall", "--yes")
	found, err := filepath.Glob(s.path("usr/local/bin/*"))
	require.NoError(t, err)
	require.Empty(t, found)
	s.run(0, "destroy", "--local", "--yes")
	require.Empty(t, processes(s.dir))
}

// comesBackFenced starts a system that another one has taken over: what its zdbfs
// would write is stored nowhere, so it does not stay mounted.
func (s *installedStory) comesBackFenced() {
	s.t.Helper()
	end := s.begin("start") // its zdb does not come
	require.Eventually(s.t, func() bool {
		var st client.Status
		out, err := s.command(s.t.Context(), "status", "--json").Output()
		_ = json.Unmarshal(out, &st) // whatever its exit code says
		return st.State == client.StateFenced || err != nil && strings.Contains(string(out), client.StateFenced)
	}, 60*time.Second, 200*time.Millisecond)
	require.False(s.t, mountpoint(s.mnt))
	require.NotEqual(s.t, services.Active, s.services()["qsfs-zdbfs"].State)
	require.NotZero(s.t, end(os.Interrupt))
	s.run(0, "stop")
	require.Equal(s.t, exitFenced, s.services()["quantumd"].ExitCode)
}

func (s *installedStory) sum(name string) string {
	b, err := os.ReadFile(filepath.Join(s.mirror, name))
	require.NoError(s.t, err)
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// components are the services of this system in the order of their start.
func (s *installedStory) components() []string {
	var out []string
	for _, n := range []string{"qsfs-zstor", "quantumd", "qsfs-zdb", "qsfs-zdbfs"} {
		if n == "quantumd" || strings.Contains(s.engine, strings.TrimPrefix(n, "qsfs-")+": external") {
			out = append(out, n)
		}
	}
	return out
}

func (s *installedStory) allActive() {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		list := s.services()
		for _, n := range s.components() {
			if list[n].State != services.Active {
				return false
			}
		}
		return mountpoint(s.mnt)
	}, 60*time.Second, 100*time.Millisecond)
}

// stopInOrder stops the system: the last started first.
func (s *installedStory) stopInOrder() {
	s.t.Helper()
	s.run(0, "stop", "--all")
	list := s.services()
	order := s.components()
	for i, n := range order {
		require.Equal(s.t, services.Inactive, list[n].State, n)
		require.Contains(s.t, []int{0, 143}, list[n].ExitCode, n)
		if i > 0 {
			require.False(s.t, list[n].Since.After(list[order[i-1]].Since), "%s ended at %v, %s at %v", n, list[n].Since, order[i-1], list[order[i-1]].Since)
		}
	}
	require.False(s.t, mountpoint(s.mnt))
	log := s.serviceLog()
	require.NotContains(s.t, log, "not everything is on the backends")
}

// serviceLog is what the daemon printed.
func (s *installedStory) serviceLog() string {
	if s.zinit {
		return s.run(0, "logs", "-n", "2000")
	}
	return read(s.t, s.path("var/lib/quantumd/services/quantumd/log"))
}

// killAndWait kills a service, and every byte is there again soon.
func (s *installedStory) killAndWait(name string) {
	s.t.Helper()
	s.settle(s.mnt)
	old := s.services()[name].PID
	require.NoError(s.t, syscall.Kill(old, syscall.SIGKILL))
	require.Eventually(s.t, func() bool { return s.services()[name].PID != old }, 30*time.Second, 50*time.Millisecond)
	s.allActive()
	require.Eventually(s.t, func() bool { // a zdbfs finds its zdb again
		for file, want := range s.files {
			got, err := readCold(filepath.Join(s.mnt, file))
			if err != nil || !bytes.Equal(got, want) {
				return false
			}
		}
		return true
	}, 30*time.Second, 100*time.Millisecond, "after the end of %s", name)
	s.write(s.mnt, "after-"+name, 150_000)
	s.check(s.mnt)
}
