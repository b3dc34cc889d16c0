package systemd

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/services"
)

// four are the services of a system whose components are apart; each needs a
// while to end.
func (s *site) four() []services.Service {
	drain := []string{"-drain", "150ms"}
	zstor, quantumd := s.unit("zstor", drain...), s.unit("quantumd", append(drain, "-notify")...)
	zdb, zdbfs := s.unit("zdb", append(drain, "-exit", "143")...), s.unit("zdbfs", drain...)
	quantumd.Notify, quantumd.After = true, []string{zstor.Name}
	zdb.After, zdb.SuccessExit = []string{zstor.Name, quantumd.Name}, []int{143, 130}
	zdbfs.Requires = []string{zdb.Name}
	zdbfs.StopExec = []string{os.Args[0], "stub", "-log", s.log(), "-name", "sync", "-sleep", "300ms"}
	return []services.Service{zdbfs, zdb, quantumd, zstor}
}

// ended is what the four write when they are stopped in order: the sync first,
// and none begins before the one before it has ended.
var ended = []string{"sync done", "zdbfs TERM", "zdbfs END", "zdb TERM", "zdb END", "quantumd TERM", "quantumd END", "zstor TERM", "zstor END"}

func ending(lines []string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return strings.HasSuffix(l, " start") || strings.HasSuffix(l, " ready") })
}

func trapOrder(t *testing.T) {
	t.Parallel()
	s := newSite(t, "order")
	list := s.four()
	s.run(list...)
	require.Equal(t, []string{"zstor start", "zstor ready", "quantumd start", "quantumd ready", "zdb start", "zdb ready", "zdbfs start", "zdbfs ready"}, s.lines())
	require.NoError(t, s.Stop(t.Context(), namesOf(list)...))
	require.Equal(t, ended, ending(s.lines()), "when Stop returns all have ended")

	// Others stop and start the target; so does a machine that goes down.
	require.NoError(t, os.Remove(s.log()))
	systemctl(t, "start", "qsfs-order.target")
	require.NoError(t, s.WaitReady(t.Context(), namesOf(list)...))
	systemctl(t, "stop", "qsfs-order.target")
	require.Equal(t, ended, ending(s.lines()), "when systemctl returns all have ended")

	// One after the other, where it is not all of them.
	require.NoError(t, s.Start(t.Context(), namesOf(list)...))
	require.NoError(t, os.Remove(s.log()))
	require.NoError(t, s.Stop(t.Context(), namesOf(list[:3])...))
	require.Equal(t, ended[:7], ending(s.lines()))
	require.Equal(t, services.Active, s.status("zstor").State)
}

// A zdb's hooks are its children: those that run when it is stopped, the one
// that it waits for, and the one that it leaves behind, all come to their end.
func trapKillMode(t *testing.T) {
	t.Parallel()
	s := newSite(t, "kill")
	process, group := s.unit("process", "-hooks"), s.unit("group", "-hooks")
	process.Kill, group.Kill = services.KillProcess, services.KillGroup
	s.run(process, group)
	require.NoError(t, s.Stop(t.Context(), process.Name, group.Name))
	for _, hook := range []string{"running", "close", "closing"} {
		s.eventually("process-" + hook + " done")
	}
	require.NotContains(t, s.lines(), "group-closing done", "with the other mode it is killed: the test would see it")
}

func trapExitStatus(t *testing.T) {
	t.Parallel()
	s := newSite(t, "exit")
	zdb, other := s.unit("zdb", "-exit", "143"), s.unit("other", "-exit", "143")
	zdb.SuccessExit = []int{143, 130}
	s.run(zdb, other)
	require.NoError(t, s.Stop(t.Context(), zdb.Name, other.Name))
	require.Equal(t, services.Inactive, s.status("zdb").State)
	st := s.status("other")
	require.Equal(t, services.Failed, st.State, "without it, it counts as a failure")
	require.Equal(t, 143, st.ExitCode)
}

// zdb starts before anything listens; its hooks live in its sandbox, and reach
// the socket of a daemon that has started, and started again, since.
func trapHookReachesTheSocket(t *testing.T) {
	t.Parallel()
	s := newSite(t, "hook")
	zdb := s.unit("zdb", "-hooks", "-call", "/run/qsfs-hook/hook.sock")
	zdb.Kill, zdb.Writable = services.KillProcess, append(zdb.Writable, "/run/qsfs-hook")
	quantumd := s.unit("quantumd", "-listen", "/run/qsfs-hook/hook.sock", "-notify")
	quantumd.RuntimeDir, quantumd.Notify = "qsfs-hook", true
	require.NoDirExists(t, "/run/qsfs-hook")
	s.apply(zdb, quantumd)
	require.NoError(t, s.Start(t.Context(), zdb.Name))
	st, err := os.Stat("/run/qsfs-hook")
	require.NoError(t, err, "whoever comes first makes it")
	require.Equal(t, os.FileMode(0o700), st.Mode().Perm())
	require.NoError(t, s.Start(t.Context(), quantumd.Name))
	require.NoError(t, s.Restart(t.Context(), quantumd.Name))
	again, err := os.Stat("/run/qsfs-hook")
	require.NoError(t, err)
	require.True(t, os.SameFile(st, again), "it is kept: another one would not be seen in zdb's sandbox")
	require.NoError(t, s.Stop(t.Context(), zdb.Name))
	for _, hook := range []string{"close", "closing"} {
		s.eventually(fmt.Sprintf("quantumd got %q <nil>", "call of zdb-"+hook+"\n"))
	}
	require.NotContains(t, strings.Join(s.lines(), "\n"), "failed")
}

func mounts(t *testing.T, dir string) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	return strings.Count(string(b), " "+dir+" ")
}

// mounter is a service as the daemon's own: all that it may have beside a mount.
func (s *site) mounter(dir string) services.Service {
	u := s.unit("mounter", "-mount", dir, "-notify", "-secret", "key")
	u.Mountpoint, u.Notify, u.Watchdog, u.RuntimeDir = dir, true, 10*time.Second, "qsfs-"+s.name
	require.NoError(s.t, os.MkdirAll(dir, 0o755))
	key := filepath.Join(logDir, s.name+".key")
	require.NoError(s.t, os.WriteFile(key, []byte("hidden"), 0o600))
	u.Credentials = []services.Credential{{Name: "key", Path: key}}
	return u
}

func requireSeen(t *testing.T, dir string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "file"))
	require.NoError(t, err)
	require.Equal(t, "seen\n", string(b))
	require.Equal(t, 1, mounts(t, dir))
}

func trapMount(t *testing.T) {
	t.Parallel()
	s := newSite(t, "mount")
	const dir = "/mnt/qsfs-mount"
	s.run(s.mounter(dir))
	requireSeen(t, dir)
	require.Contains(t, s.lines(), "mounter secret of 6 bytes <nil>")

	// Killed, it leaves a dead mount, which would fail every start.
	old := s.status("mounter").PID
	require.NoError(t, syscall.Kill(old, syscall.SIGKILL))
	require.Eventually(t, func() bool { st := s.status("mounter"); return st.State == services.Active && st.PID != old }, soon, 20*time.Millisecond)
	requireSeen(t, dir)
	require.NoError(t, s.Stop(t.Context(), "mount-mounter"))
	require.Zero(t, mounts(t, dir))
	require.Equal(t, services.Inactive, s.status("mounter").State)

	// Others confine themselves, and see what is mounted after their start.
	reader := s.unit("reader")
	s.run(reader)
	require.NoError(t, s.Start(t.Context(), "mount-mounter"))
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/root%s/file", s.status("reader").PID, dir))
	require.NoError(t, err)
	require.Equal(t, "seen\n", string(b))
	require.NoError(t, s.Stop(t.Context(), "mount-mounter"))
	b, err = os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", s.status("reader").PID))
	require.NoError(t, err)
	require.NotContains(t, string(b), dir, "and hold nothing of it")
}

// One that died before, and not as a service.
func trapDeadMount(t *testing.T) {
	t.Parallel()
	s := newSite(t, "dead")
	const dir = "/mnt/qsfs-dead"
	u := s.mounter(dir)
	s.apply(u)
	cmd := exec.Command(os.Args[0], "stub", "-log", s.log(), "-name", "first", "-mount", dir)
	require.NoError(t, cmd.Start())
	s.eventually("first ready")
	requireSeen(t, dir)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait() // it was killed
	_, err := os.ReadDir(dir)
	require.ErrorIs(t, err, syscall.ENOTCONN)
	require.NoError(t, s.Start(t.Context(), u.Name))
	requireSeen(t, dir)
	require.NoError(t, syscall.Kill(s.status("mounter").PID, syscall.SIGKILL))
	require.NoError(t, s.Stop(t.Context(), u.Name))
	require.Zero(t, mounts(t, dir), "no dead mount stays behind either")
}

// A zdbfs whose zdb was away answers its first calls with errors: it starts anew.
func trapZdbfsFollowsZdb(t *testing.T) {
	t.Parallel()
	s := newSite(t, "follow")
	zdb, zdbfs, other := s.unit("zdb"), s.unit("zdbfs"), s.unit("other")
	zdbfs.Requires, other.After = []string{zdb.Name}, []string{zdb.Name}
	s.run(zdb, zdbfs, other)
	before, beside := s.status("zdbfs").PID, s.status("other").PID
	require.NoError(t, syscall.Kill(s.status("zdb").PID, syscall.SIGKILL))
	require.Eventually(t, func() bool {
		st := s.status("zdbfs")
		return st.State == services.Active && st.PID != before && s.status("zdb").State == services.Active
	}, soon, 20*time.Millisecond)
	require.Equal(t, beside, s.status("other").PID, "an order is not a need")
}

func trapWatchdog(t *testing.T) {
	t.Parallel()
	s := newSite(t, "watchdog")
	hang := filepath.Join(logDir, "watchdog-hang")
	u := s.unit("quantumd", "-notify", "-hang", hang)
	u.Notify, u.Watchdog, u.RestartDelay = true, 500*time.Millisecond, time.Second
	s.run(u)
	first := s.status("quantumd").PID
	require.NoError(t, os.WriteFile(hang, nil, 0o600))
	require.Eventually(t, func() bool { return s.status("quantumd").Detail == "watchdog" }, soon, 20*time.Millisecond)
	require.NoError(t, os.Remove(hang))
	require.Eventually(t, func() bool {
		st := s.status("quantumd")
		return st.State == services.Active && st.PID != first && st.Restarts > 0
	}, soon, 20*time.Millisecond)
}

func trapMissingFolder(t *testing.T) {
	t.Parallel()
	s := newSite(t, "missing")
	u := s.unit("zdb")
	u.Writable = append(u.Writable, "/opt/is not there", "/run/qsfs-missing/sub")
	s.run(u)
	require.DirExists(t, "/run/qsfs-missing/sub")
}

// What a service without a mount may do, and what not.
func trapConfined(t *testing.T) {
	t.Parallel()
	s := newSite(t, "confined")
	u := s.unit("zdb", "-write", "/srv/log,/run/qsfs-confined,/etc,/usr/local,/root,/tmp,/var/tmp", "-secret", "key")
	u.RuntimeDir = "qsfs-confined"
	key := filepath.Join(logDir, "confined.key")
	require.NoError(t, os.WriteFile(key, []byte("hidden"), 0o600))
	u.Credentials = []services.Credential{{Name: "key", Path: key}}
	s.run(u)
	s.eventually("zdb ready")
	for _, want := range []string{
		"zdb write /srv/log <nil>", "zdb write /run/qsfs-confined <nil>", "zdb write /tmp <nil>",
		"zdb chown true", "zdb nice true", "zdb mount true", "zdb self <nil>", "zdb secret of 6 bytes <nil>",
	} {
		require.Contains(t, s.lines(), want)
	}
	for _, dir := range []string{"/etc", "/usr/local", "/root", "/tmp"} {
		require.NoFileExists(t, filepath.Join(dir, "made-by-zdb"), "nothing of it is on the machine")
	}
	require.FileExists(t, "/run/qsfs-confined/made-by-zdb")
	text, err := readUnit(s.file(u.Name))
	require.NoError(t, err)
	require.NotContains(t, text, "hidden")
}

// A confined daemon that says so may install and start services, as one does
// that replaces a local backend; so may one that mounts.
func trapDaemonManages(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"plain", "mounts"} {
		s := newSite(t, "manages-"+name)
		u := s.unit(name, "-manage", "manages-"+name+"-made", "-notify")
		if u.Notify = true; name == "mounts" {
			dir := "/mnt/qsfs-manages"
			require.NoError(t, os.MkdirAll(dir, 0o755))
			u.Exec = append(u.Exec, "-mount", dir)
			u.Mountpoint = dir
		}
		u.Writable = append(u.Writable, "/etc/systemd/system")
		s.run(u)
		require.Contains(t, s.lines(), name+" manage <nil>")
		m := New(Options{Target: "qsfs-" + name + ".target"})
		require.NoError(t, m.Remove(t.Context(), "manages-"+name+"-made"))
	}
}

func trapResults(t *testing.T) {
	t.Parallel()
	s := newSite(t, "results")
	ctx := t.Context()
	fails, late, needs, deaf := s.unit("fails", "-fail"), s.unit("late"), s.unit("needs"), s.unit("deaf", "-ignore")
	fails.Notify, late.Notify = true, true // … and late never says that it is ready
	fails.RestartDelay, late.RestartDelay = time.Minute, time.Minute
	late.StartTimeout, deaf.StopTimeout = 500*time.Millisecond, 500*time.Millisecond
	needs.Requires = []string{fails.Name}
	s.apply(fails, late, needs, deaf)

	var failed *services.FailedError
	var job *JobError
	require.ErrorAs(t, s.Start(ctx, fails.Name), &failed)
	require.Equal(t, 1, failed.Status.ExitCode)
	require.Contains(t, failed.Error(), "exit-code")
	require.Contains(t, failed.Hint(), "quantumd logs results-fails")

	require.ErrorAs(t, s.Start(ctx, late.Name), &failed)
	require.Contains(t, failed.Error(), "timeout")

	require.NoError(t, s.Stop(ctx, fails.Name))
	err := s.Start(ctx, needs.Name)
	require.ErrorAs(t, err, &job)
	require.Equal(t, "dependency", job.Result)
	require.ErrorAs(t, err, &failed)
	require.Equal(t, fails.Name, failed.Status.Name, "the one to blame")

	require.NoError(t, s.Start(ctx, deaf.Name))
	s.eventually("deaf ready")
	require.ErrorAs(t, s.Stop(ctx, deaf.Name), &failed, "it had to be killed")
	require.Equal(t, deaf.Name, failed.Status.Name)
	require.Zero(t, failed.Status.PID)
	require.NoError(t, s.Stop(ctx, deaf.Name), "that is told once")

	// A start that somebody's stop puts an end to.
	late.StartTimeout = time.Minute
	_, err = s.Apply(ctx, []services.Service{late})
	require.NoError(t, err)
	require.NoError(t, s.Stop(ctx, late.Name))
	result := make(chan error, 1)
	go func() { result <- s.Start(ctx, late.Name) }()
	require.Eventually(t, func() bool { return s.status("late").State == services.Starting }, soon, 20*time.Millisecond)
	require.NoError(t, s.Stop(ctx, late.Name))
	require.ErrorAs(t, <-result, &job)
	require.Equal(t, "canceled", job.Result)
}

// Who does not want to wait any longer leaves systemd at it.
func trapStopIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := newSite(t, "wait")
	u := s.unit("zstor", "-drain", "2s")
	s.run(u)
	s.eventually("zstor ready")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- s.Stop(ctx, u.Name) }()
	require.Eventually(t, func() bool { return s.status("zstor").State == services.Stopping }, soon, 20*time.Millisecond)
	cancel()
	require.ErrorIs(t, <-result, context.Canceled)
	require.Equal(t, services.Stopping, s.status("zstor").State)
	require.NoError(t, s.Stop(t.Context(), u.Name))
	require.Contains(t, s.lines(), "zstor END")
}

// A unit file that systemd has not read again: as after a crash in between.
func trapStaleUnit(t *testing.T) {
	t.Parallel()
	s := newSite(t, "stale")
	u := s.unit("zdb")
	s.run(u)
	u.Env = []string{"A=b"}
	text, err := Render(u, s.target)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(s.file(u.Name), []byte(text), 0o644))
	stale := func() bool {
		return strings.Contains(systemctl(t, "show", "--property=NeedDaemonReload", u.Name), "yes")
	}
	require.True(t, stale())
	changes, err := s.Apply(t.Context(), []services.Service{u})
	require.NoError(t, err)
	require.Equal(t, services.Keep, changes[0].Action)
	require.False(t, stale())
	require.Contains(t, systemctl(t, "show", "--property=Environment", u.Name), "A=b")
}

func trapReload(t *testing.T) {
	t.Parallel()
	s := newSite(t, "reload")
	u := s.unit("zstor")
	u.ReloadSignal = syscall.SIGUSR1
	s.run(u)
	s.eventually("zstor ready")
	require.NoError(t, s.Reload(t.Context(), u.Name))
	s.eventually("zstor reload")
}

func trapLogs(t *testing.T) {
	t.Parallel()
	s := newSite(t, "logs")
	u := s.unit("zdb", "-say", "words of a service")
	s.run(u)
	var out bytes.Buffer
	require.Eventually(t, func() bool {
		out.Reset()
		require.NoError(t, s.Logs(t.Context(), u.Name, services.LogOptions{Lines: 20}, &out))
		return strings.Contains(out.String(), "words of a service")
	}, soon, 50*time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	require.NoError(t, s.Logs(ctx, u.Name, services.LogOptions{Follow: true}, &out), "the way to end it")
}
