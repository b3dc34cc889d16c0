//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/engine/zdbfs/mount"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/services"
)

// user runs a copy of the program as a user would, and keeps all that it says.
type user struct {
	t       *testing.T
	program string
	args    []string // before the command
	env     []string
	said    *said
}

// said collects output of several programs.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// newUser copies only the program into an empty folder. QUANTUMD_BIN names
// another program than the test's own, such as the one that make build leaves.
func newUser(t *testing.T, dir string) *user {
	t.Helper()
	from := program(t)
	if bin := os.Getenv("QUANTUMD_BIN"); bin != "" {
		from = bin
	}
	u := &user{t: t, program: filepath.Join(dir, "machine", "quantumd"), env: append(os.Environ(), surroundings()...), said: new(said)}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("what the programs said:\n%s", u.said)
			if log, err := os.ReadFile(filepath.Join(dir, "root/var/lib/quantumd/services/quantumd/log")); err == nil {
				t.Logf("what the service said:\n%s", log)
			}
		}
	})
	require.NoError(t, os.Mkdir(filepath.Dir(u.program), 0o755))
	// Not written by this process: a child that another test forks at that moment
	// would hold the file open for writing, and it could not be run ("text file busy").
	out, err := exec.Command("cp", from, u.program).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return u
}

func (u *user) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, u.program, append(append([]string{}, u.args...), args...)...)
	cmd.Env = u.env
	cmd.Dir = filepath.Dir(u.program)
	return cmd
}

// run runs a command to its end and gives what it printed, errors last.
func (u *user) run(code int, args ...string) string {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), time.Minute)
	defer cancel()
	cmd := u.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		u.t.Fatal(err)
	}
	out := stdout.String() + stderr.String()
	_, _ = u.said.Write([]byte(out))
	require.Equal(u.t, code, cmd.ProcessState.ExitCode(), "quantumd %s\n%s", strings.Join(args, " "), out)
	return out
}

// begin runs a command in the background until the end of the test, or stop.
func (u *user) begin(args ...string) (stop func(os.Signal) int) {
	u.t.Helper()
	cmd := u.command(context.Background(), args...)
	cmd.Stdout, cmd.Stderr = u.said, u.said
	require.NoError(u.t, cmd.Start())
	var once sync.Once
	end := func(sig os.Signal) int {
		once.Do(func() {
			_ = cmd.Process.Signal(sig) // it may have ended
			_ = cmd.Wait()
		})
		return cmd.ProcessState.ExitCode()
	}
	u.t.Cleanup(func() { end(os.Kill) })
	return end
}

func (u *user) status() client.Status {
	u.t.Helper()
	var st client.Status
	require.NoError(u.t, json.Unmarshal([]byte(u.run(0, "status", "--json")), &st))
	return st
}

// services maps the installed services to what they do.
func (u *user) services() map[string]services.Status {
	u.t.Helper()
	var list struct{ Services []services.Status }
	require.NoError(u.t, json.Unmarshal([]byte(u.run(0, "services", "--json")), &list))
	out := map[string]services.Status{}
	for _, s := range list.Services {
		out[s.Name] = s
	}
	return out
}

func needsRootAndFUSE(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it installs on system paths")
	}
	needsFUSE(t)
}

func needsFUSE(t *testing.T) {
	t.Helper()
	if err := mount.Probe(t.Context()); err != nil {
		t.Skipf("FUSE is not usable here: %v", err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	_, err = f.WriteString(text)
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	require.NoError(t, f.Close())
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

// TestReadmeWalk goes the way of the README, line by line, below another root
// and without systemd.
func TestReadmeWalk(t *testing.T) {
	t.Parallel()
	needsRootAndFUSE(t)
	dir := folder(t)
	root := filepath.Join(dir, "root")
	u := newUser(t, dir)
	u.args = []string{"--root", root}
	mnt := filepath.Join(root, "mnt/qsfs")

	require.Contains(t, u.run(0, "deploy", "--local"), "next: quantumd setup")
	st, err := os.Stat(filepath.Join(root, "etc/quantumd.yaml"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode())
	detached := u.backendPIDs(root)
	require.Len(t, detached, 6)

	// A dry run of setup changes nothing; setup takes the backends over.
	u.run(0, "setup", "--dry-run", "--json")
	require.NoFileExists(t, filepath.Join(root, "usr/local/bin/quantumd"))
	require.NoDirExists(t, filepath.Join(root, "var/lib/quantumd/services"))
	require.Contains(t, u.run(0, "setup"), "mounted on "+mnt)
	for name, s := range u.services() {
		require.Equal(t, services.Active, s.State, name)
		require.NotContains(t, detached, s.PID)
	}
	u.hookInstalled(root)
	require.NotContains(t, u.run(0, "setup"), "update", "a second setup changes nothing")

	write(t, filepath.Join(mnt, "before"), "hello")
	require.Equal(t, "ok", u.status().State)
	require.Contains(t, u.run(0, "sync"), "safe: checkpoint")
	require.Zero(t, u.status().LossWindow.Bytes)

	// What runs is told apart from what does not.
	require.Contains(t, u.run(1), "it already runs")
	require.Contains(t, u.run(1, "up", "--local"), "it already runs")
	require.Contains(t, u.run(1, "destroy", "--local", "--yes"), "in use by another quantumd")
	u.env = append(u.env, "RETRY_INTERVAL=5m")
	require.Regexp(t, `(?m)^retry_interval +environment +5m$`, u.run(0, "config", "show"))
	require.Contains(t, u.run(0, "deploy", "--local", "--dry-run"), "0 of 6", "services' backends count as running")
	require.Contains(t, u.run(0, "deploy", "--local"), "6 backends are up")
	require.Equal(t, u.servicePIDs(), u.backendPIDs(root))

	u.stopAndStart(mnt)
	u.killEverything(dir, mnt)
	u.takeLateBackend(root)
	u.upgrade(mnt)
	u.converge(root)
	u.failedUpgrade(root, mnt)
	u.killedUpgrade(mnt)
	u.breakConfig(root, mnt)

	// The end: nothing runs, nothing is mounted; data and configuration stay.
	require.Contains(t, u.run(2, "uninstall"), "give --yes")
	u.run(0, "uninstall", "--yes")
	require.Empty(t, processes(dir))
	require.NoFileExists(t, filepath.Join(root, "usr/local/bin/quantumd"))
	require.FileExists(t, filepath.Join(root, "etc/quantumd.yaml"))
	require.FileExists(t, filepath.Join(root, "opt/zdb/quantumd.json"))
	require.NoFileExists(t, filepath.Join(mnt, "before"))
	u.left(root)
	require.Contains(t, u.run(2, "destroy", "--local"), "give --yes")
	require.Contains(t, u.run(0, "destroy", "--local", "--yes"), "7 backends destroyed")
	require.Empty(t, processes(dir))
	u.run(1, "destroy", "--local", "--yes")

	// The next system in the same place is a new one; the old files are kept.
	require.FileExists(t, filepath.Join(root, "opt/zdb.destroyed/quantumd.json"))
	require.Contains(t, u.run(0, "init", "--local"), "mounted on "+mnt)
	require.Equal(t, "ok", u.status().State)
	require.NoFileExists(t, filepath.Join(mnt, "before"))
	require.Contains(t, u.run(1, "init", "--local", "--destroy", "--yes"), "in use by another quantumd")
	u.run(0, "stop")
	require.Contains(t, u.run(1, "init", "--local", "--destroy", "--yes"), "run `quantumd uninstall` first")
	u.run(0, "uninstall", "--yes")
	require.Contains(t, u.run(0, "init", "--local", "-d", "--yes"), "mounted on "+mnt)
	u.run(0, "uninstall", "--yes")
	require.Empty(t, processes(dir))
}

// upgrade puts another program in place; what ran the old one runs the new one.
func (u *user) upgrade(mnt string) {
	u.t.Helper()
	daemon := u.services()["quantumd"].PID
	u.run(0, "upgrade")
	require.Equal(u.t, daemon, u.services()["quantumd"].PID, "it is the same program")
	f, err := os.OpenFile(u.program, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(u.t, err)
	_, err = f.WriteString("a newer one")
	require.NoError(u.t, errors.Join(err, f.Close()))
	before := u.servicePIDs()
	plan := u.run(0, "upgrade", "--dry-run")
	require.Contains(u.t, plan, "restart quantumd")
	require.Contains(u.t, plan, "restart qsfs-meta0")
	require.Equal(u.t, daemon, u.services()["quantumd"].PID)
	u.run(0, "upgrade")
	require.NotEqual(u.t, daemon, u.services()["quantumd"].PID)
	require.NotEqual(u.t, before[0], u.servicePIDs()[0])
	require.Equal(u.t, "hello", read(u.t, filepath.Join(mnt, "before")))
}

// converge: setup does what a changed configuration needs, and no more.
func (u *user) converge(root string) {
	u.t.Helper()
	path := filepath.Join(root, "etc/quantumd.yaml")
	good := read(u.t, path)
	daemon, backends := u.services()["quantumd"].PID, u.servicePIDs()
	require.NotRegexp(u.t, "reload|restart", u.run(0, "setup"))
	write(u.t, path, good+"\nupload_workers: 3\n")
	require.Contains(u.t, u.run(0, "setup", "--dry-run"), "reload  quantumd")
	out := u.run(0, "setup")
	require.Contains(u.t, out, "reload  quantumd")
	require.NotContains(u.t, out, "restart")
	require.Equal(u.t, daemon, u.services()["quantumd"].PID)
	write(u.t, path, good+"\nzdb_data_size: 32M\n")
	require.Contains(u.t, u.run(0, "setup"), "restart quantumd")
	require.NotEqual(u.t, daemon, u.services()["quantumd"].PID)
	require.NotRegexp(u.t, "reload|restart", u.run(0, "setup"))
	write(u.t, path, good)
	u.run(0, "setup")
	require.Equal(u.t, backends, u.servicePIDs(), "the backends go on")
}

// killedUpgrade: an upgrade that is killed at any moment is completed by the next.
func (u *user) killedUpgrade(mnt string) {
	u.t.Helper()
	f, err := os.OpenFile(u.program, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(u.t, err)
	_, err = f.WriteString("another one")
	require.NoError(u.t, errors.Join(err, f.Close()))
	before := u.services()
	for _, after := range []time.Duration{20 * time.Millisecond, 60 * time.Millisecond, 150 * time.Millisecond, 300 * time.Millisecond, 600 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(u.t.Context(), after) // SIGKILL at its end
		_ = u.command(ctx, "upgrade").Run()                      // its end is what is under test
		cancel()
	}
	u.run(0, "upgrade")
	for name, s := range u.services() {
		require.Equal(u.t, services.Active, s.State, name)
		require.NotEqual(u.t, before[name].PID, s.PID, "%s runs the newer one", name)
		is, err := os.Stat(fmt.Sprintf("/proc/%d/exe", s.PID))
		require.NoError(u.t, err)
		want, err := os.Stat(filepath.Join(filepath.Dir(mnt), "../usr/local/bin/quantumd"))
		require.NoError(u.t, err)
		require.True(u.t, os.SameFile(is, want), name)
	}
	require.Equal(u.t, "hello", read(u.t, filepath.Join(mnt, "before")))
	// Until the first look at the backends it says less than ok.
	require.Eventually(u.t, func() bool { return u.command(u.t.Context(), "status").Run() == nil }, 20*time.Second, 100*time.Millisecond)
}

// failedUpgrade: a new version that does not serve is taken back.
func (u *user) failedUpgrade(root, mnt string) {
	u.t.Helper()
	if os.Getenv("QUANTUMD_BIN") != "" {
		return // only the test's own program can be broken so
	}
	installed := filepath.Join(root, "usr/local/bin/quantumd")
	older, err := os.Stat(installed)
	require.NoError(u.t, err)
	// It upgrades as the good one does, and fails as a daemon.
	wrapper := filepath.Join(filepath.Dir(u.program), "broken", "quantumd")
	require.NoError(u.t, os.Mkdir(filepath.Dir(wrapper), 0o755))
	out, err := exec.Command("cp", u.program, wrapper).CombinedOutput()
	require.NoError(u.t, err, "%s", out)
	f, err := os.OpenFile(wrapper, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(u.t, err)
	_, err = f.WriteString(brokenMark)
	require.NoError(u.t, errors.Join(err, f.Close()))
	good := u.program
	u.program = wrapper
	text := u.run(1, "upgrade")
	u.program = good
	require.Contains(u.t, text, "the new version does not serve")
	require.Contains(u.t, text, "the older program serves again")
	now, err := os.Stat(installed)
	require.NoError(u.t, err)
	require.True(u.t, os.SameFile(older, now))
	require.Equal(u.t, "hello", read(u.t, filepath.Join(mnt, "before")))
	require.Eventually(u.t, func() bool { return u.command(u.t.Context(), "status").Run() == nil }, time.Minute, 100*time.Millisecond, "all is well soon")
}

// breakConfig has the service fail at each start: who waits for it is told, and
// finds the reason in its log.
func (u *user) breakConfig(root, mnt string) {
	u.t.Helper()
	path := filepath.Join(root, "etc/quantumd.yaml")
	good := read(u.t, path)
	write(u.t, path, good+"upload_workers: none\n")
	out := u.run(1, "restart")
	require.Contains(u.t, out, "service quantumd is starting, exit code 2")
	require.Contains(u.t, out, "hint: `quantumd logs quantumd` shows what it printed")
	require.Contains(u.t, u.run(0, "logs", "-n", "20"), `upload_workers: "none" is not a whole number`)
	require.Contains(u.t, u.run(2, "setup"), "upload_workers")
	write(u.t, path, good)
	u.run(0, "restart")
	require.Equal(u.t, "hello", read(u.t, filepath.Join(mnt, "before")))
}

// left wants that an uninstall has left what its help names, and empty folders of
// the system.
func (u *user) left(root string) {
	u.t.Helper()
	kept := []string{"etc/quantumd.yaml", "etc/zstor.toml", "opt/zdb", "var/lib/quantumd", "var/log/qsfs"}
	system := []string{".", "etc", "opt", "mnt", "run", "usr", "usr/local", "usr/local/bin", "var", "var/lib", "var/log"}
	require.NoError(u.t, filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, path)
		documented := slices.Contains(kept, rel)
		if err == nil && documented && d.IsDir() {
			return filepath.SkipDir
		}
		if err == nil && !documented && !slices.Contains(system, rel) {
			err = fmt.Errorf("left behind: %s", rel)
		}
		return err
	}))
	for _, gone := range []string{"services", "secrets", "mountpoint"} {
		require.NoFileExists(u.t, filepath.Join(root, "var/lib/quantumd", gone))
		require.NoDirExists(u.t, filepath.Join(root, "var/lib/quantumd", gone))
	}
}

// TestRestoreInstalls brings a file system to the system paths of a new
// machine, where it ends installed and mounted.
func TestRestoreInstalls(t *testing.T) {
	t.Parallel()
	needsRootAndFUSE(t)
	dir := folder(t)
	u := newUser(t, dir)
	b, conf := filepath.Join(dir, "b"), filepath.Join(dir, "b/config.yaml")
	u.run(0, "deploy", "--local", "--dir", b)
	stop := u.begin("up", "-c", conf, "--dir", filepath.Join(dir, "f"), "--mount", filepath.Join(dir, "m"))
	u.run(0, "wait", "mount", "--dir", filepath.Join(dir, "f"))
	write(t, filepath.Join(dir, "m/file"), "brought here")
	require.Zero(t, stop(os.Interrupt))

	root := filepath.Join(dir, "root")
	u.args = []string{"--root", root}
	u.run(0, "restore", "-c", conf, "--dry-run", "--json")
	require.NoDirExists(t, root)
	mnt := filepath.Join(root, "mnt/qsfs")
	require.Contains(t, u.run(0, "restore", "-c", conf), "mounted on "+mnt)
	require.Equal(t, "brought here", read(t, filepath.Join(mnt, "file")))
	require.Equal(t, services.Active, u.services()["quantumd"].State)
	require.Contains(t, u.run(1, "restore", "-c", conf), "in use by another quantumd")
	u.run(0, "restart") // with the installed configuration alone
	require.Equal(t, "brought here", read(t, filepath.Join(mnt, "file")))
	u.run(0, "uninstall", "--yes")
}

// backendPIDs reads the pid files of the local backends.
func (u *user) backendPIDs(root string) (pids []int) {
	u.t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "var/lib/quantumd/backends/*/pid"))
	require.NoError(u.t, err)
	for _, f := range files { // sorted by name
		pid, err := strconv.Atoi(strings.Fields(read(u.t, f))[0])
		require.NoError(u.t, err)
		pids = append(pids, pid)
	}
	return pids
}

func (u *user) servicePIDs() (pids []int) {
	u.t.Helper()
	list := u.services()
	for _, name := range []string{"data0", "data1", "meta0", "meta1", "meta2", "meta3"} {
		pids = append(pids, list["qsfs-"+name].PID)
	}
	return pids
}

// hookInstalled looks at quantumd-hook: a program of its own where the build
// embeds it, else a link.
func (u *user) hookInstalled(root string) {
	u.t.Helper()
	hook := filepath.Join(root, "usr/local/bin/quantumd-hook")
	st, err := os.Lstat(hook)
	require.NoError(u.t, err)
	if embedded := os.Getenv("QUANTUMD_BIN") != "" || hookProgram != nil; embedded {
		require.True(u.t, st.Mode().IsRegular())
		require.Equal(u.t, os.FileMode(0o755), st.Mode().Perm())
		require.Less(u.t, st.Size(), int64(8<<20))
	}
	cmd := exec.Command(hook, "jump-data", "tcp://x", "d0", "d1")
	cmd.Env = append(u.env, "QUANTUMD_HOOK_SOCKET="+filepath.Join(root, "run/qsfs/hook.sock"))
	out, err := cmd.CombinedOutput()
	require.NoError(u.t, err, "%s", out)
	require.NotContains(u.t, string(out), "not delivered")
}

// stopAndStart stops the system, and not its backends; all of it; one backend.
func (u *user) stopAndStart(mnt string) {
	u.t.Helper()
	require.Contains(u.t, u.run(0, "stop", "--dry-run"), "would stop quantumd")
	before := u.servicePIDs()
	require.Contains(u.t, u.run(0, "stop"), "stopped: quantumd")
	require.NoFileExists(u.t, filepath.Join(mnt, "before"))
	require.Equal(u.t, services.Inactive, u.services()["quantumd"].State)
	require.Equal(u.t, before, u.servicePIDs(), "the backends go on")
	u.run(1, "status")
	require.Contains(u.t, u.run(0, "start"), "quantumd")
	require.Equal(u.t, "hello", read(u.t, filepath.Join(mnt, "before")))

	u.run(0, "stop", "--all")
	for name, s := range u.services() {
		require.Equal(u.t, services.Inactive, s.State, name)
	}
	u.run(0, "start")
	require.Equal(u.t, "hello", read(u.t, filepath.Join(mnt, "before")))
	before = u.servicePIDs()
	require.Contains(u.t, u.run(0, "restart", "meta1"), "restarted: qsfs-meta1")
	after := u.servicePIDs()
	require.NotEqual(u.t, before[3], after[3])
	require.Equal(u.t, before[:3], after[:3])
	daemon := u.services()["quantumd"].PID
	u.run(0, "restart")
	require.NotEqual(u.t, daemon, u.services()["quantumd"].PID)
	require.Contains(u.t, u.run(1, "restart", "meta9"), `"meta9": services: no such service`)
	require.Contains(u.t, u.run(0, "logs"), "mounted on")
}

// killEverything is what a reset of the machine does to processes.
func (u *user) killEverything(dir, mnt string) {
	u.t.Helper()
	write(u.t, filepath.Join(mnt, "unsynced"), "only fsynced")
	running := processes(dir)
	require.Len(u.t, running, 14)
	for len(running) > 0 { // a supervisor that is killed late starts its service again
		for _, pid := range running {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
		for _, pid := range running {
			require.Eventually(u.t, func() bool { return !alive(pid) }, 10*time.Second, time.Millisecond)
		}
		running = processes(dir)
	}
	_, err := os.ReadDir(mnt)
	require.ErrorIs(u.t, err, syscall.ENOTCONN)
	u.run(1, "status")
	u.run(0, "start")
	require.Equal(u.t, "hello", read(u.t, filepath.Join(mnt, "before")))
	require.Equal(u.t, "only fsynced", read(u.t, filepath.Join(mnt, "unsynced")))
	u.run(0, "sync")
	require.Eventually(u.t, func() bool { return u.status().State == "ok" }, 20*time.Second, 50*time.Millisecond)
}

// takeLateBackend adds a backend to an installed system: deploy makes it a
// service, and the others go on.
func (u *user) takeLateBackend(root string) {
	u.t.Helper()
	before := u.servicePIDs()
	u.run(0, "deploy", "--local", "--data", "3")
	require.Contains(u.t, u.services(), "qsfs-data2")
	require.Contains(u.t, u.run(0, "setup"), "keep    qsfs-data2")
	require.Equal(u.t, services.Active, u.services()["qsfs-data2"].State)
	require.Equal(u.t, u.services()["qsfs-data2"].PID, u.backendPIDs(root)[2])
	require.Equal(u.t, before, u.servicePIDs())
}
