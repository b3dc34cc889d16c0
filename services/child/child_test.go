package child

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/proc"
	"github.com/threefoldtech/quantumd/services"
	"github.com/threefoldtech/quantumd/services/servicestest"
)

// The test binary is the supervisor and the services too.
func TestMain(m *testing.M) {
	if len(os.Args) < 3 || !strings.HasPrefix(os.Args[1], "as-") {
		os.Exit(m.Run())
	}
	if err := program(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	os.Exit(0)
}

func program(as string, args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	switch as {
	case "as-supervisor": // folder, name
		return Supervise(ctx, args[0], args[1], nil)
	case "as-crash": // file: notes its start and fails
		f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err == nil {
			_, err = fmt.Fprintln(f, "start")
		}
		return errors.Join(err, errors.New("crashed"))
	case "as-notify": // pipe: is ready once somebody opens it to write
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
		if err != nil {
			return err
		}
		defer conn.Close()
		for _, text := range []string{"STATUS=nearly", "X=1\nREADY=1"} {
			if _, err := conn.Write([]byte(text)); err != nil {
				return err
			}
		}
		<-ctx.Done()
		return nil
	case "as-stubborn": // file: made once SIGTERM is ignored
		signal.Ignore(syscall.SIGTERM)
		if err := os.WriteFile(args[0], nil, 0o600); err != nil {
			return err
		}
		select {}
	case "as-parent": // file: its child's process id
		cmd := exec.Command("/bin/sleep", "600")
		if err := cmd.Start(); err != nil {
			return err
		}
		if err := os.WriteFile(args[0]+".tmp", []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
			return err
		}
		if err := os.Rename(args[0]+".tmp", args[0]); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	}
	return errors.New("unknown program")
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	require.NoError(t, err)
	return path
}

// modes of a manager: supervisors in this process, or detached.
var modes = []string{"own", "detached"}

func newManager(t *testing.T, mode string) *Manager {
	t.Helper()
	o := Options{Dir: filepath.Join(t.TempDir(), "services")}
	if mode == "detached" {
		o.Supervisor = []string{self(t), "as-supervisor"}
	}
	m, err := New(o)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		left, err := os.ReadDir(m.dir)
		require.NoError(t, err)
		for _, d := range left {
			require.NoError(t, m.Remove(ctx, d.Name()))
		}
		require.NoError(t, m.Close())
	})
	return m
}

// sleeper is a service that ends at SIGTERM.
func sleeper(name string) services.Service {
	return services.Service{Name: name, Exec: []string{"/bin/sleep", "600"}, SuccessExit: []int{143}, RestartDelay: 10 * time.Millisecond}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			servicestest.Run(t, servicestest.Harness{
				New:     func(t *testing.T) services.ServiceManager { return newManager(t, mode) },
				Service: func(_ *testing.T, name string) services.Service { return sleeper(name) },
			})
		})
	}
}

func apply(t *testing.T, m *Manager, list ...services.Service) {
	t.Helper()
	_, err := m.Apply(t.Context(), list)
	require.NoError(t, err)
}

func statusOf(t *testing.T, m *Manager, name string) services.Status {
	t.Helper()
	list, err := m.Status(t.Context(), name)
	require.NoError(t, err)
	return list[0]
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, 20*time.Second, 5*time.Millisecond, what)
}

func alive(pid int) bool { return proc.Started(pid) != "" }

func TestRestart(t *testing.T) {
	t.Parallel()
	m := newManager(t, "own")
	file := filepath.Join(t.TempDir(), "starts")
	s := services.Service{Name: "a", Exec: []string{self(t), "as-crash", file}, RestartDelay: 10 * time.Millisecond}
	apply(t, m, s)
	require.NoError(t, m.Start(t.Context(), "a"))
	eventually(t, "three starts", func() bool {
		b, _ := os.ReadFile(file)
		return bytes.Count(b, []byte("start\n")) >= 3
	})
	eventually(t, "it waits for its next start", func() bool {
		st := statusOf(t, m, "a")
		return st.State == services.Starting && st.Restarts >= 2 && st.ExitCode == 3 && strings.Contains(st.Detail, "exit code 3; next start in")
	})
	require.NoError(t, m.Stop(t.Context(), "a"), "also while it waits")
	require.Equal(t, services.Inactive, statusOf(t, m, "a").State)
}

func TestNotify(t *testing.T) {
	t.Parallel()
	m := newManager(t, "own")
	gate := filepath.Join(t.TempDir(), "gate")
	require.NoError(t, syscall.Mkfifo(gate, 0o600))
	apply(t, m, services.Service{Name: "a", Exec: []string{self(t), "as-notify", gate}, Notify: true, StopTimeout: time.Second}, services.Service{Name: "b", Exec: sleeper("b").Exec, After: []string{"a"}})
	require.NoError(t, m.Start(t.Context(), "a"))
	eventually(t, "it runs", func() bool { return statusOf(t, m, "a").PID != 0 })
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, m.WaitReady(short, "a"), context.DeadlineExceeded)
	require.Equal(t, services.Starting, statusOf(t, m, "a").State)

	short, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, m.Start(short, "b"), context.DeadlineExceeded, "b waits for a")
	require.Zero(t, statusOf(t, m, "b").PID)
	started := make(chan error, 1)
	go func() { started <- m.Start(t.Context(), "b") }()
	open, err := os.OpenFile(gate, os.O_RDWR, 0)
	require.NoError(t, err)
	defer open.Close()
	require.NoError(t, <-started)
	require.Equal(t, services.Active, statusOf(t, m, "a").State, "b waited for it")
	require.NoError(t, m.WaitReady(t.Context(), "a", "b"))
}

func TestWaitExec(t *testing.T) {
	t.Parallel()
	m := newManager(t, "own")
	gate := filepath.Join(t.TempDir(), "gate")
	require.NoError(t, syscall.Mkfifo(gate, 0o600))
	s := sleeper("a")
	s.WaitExec = []string{"/bin/sh", "-c", "exec cat <'" + gate + "'"}
	bad := sleeper("b")
	bad.WaitExec = []string{"/bin/sh", "-c", "echo no answer >&2; exit 1"}
	bad.RestartDelay = time.Hour
	apply(t, m, s, bad)
	require.NoError(t, m.Start(t.Context(), "a", "b"))
	eventually(t, "b is not ready, and is started again", func() bool { return strings.Contains(statusOf(t, m, "b").Detail, "no answer") })
	require.Equal(t, services.Starting, statusOf(t, m, "a").State)
	open, err := os.OpenFile(gate, os.O_WRONLY, 0)
	require.NoError(t, err)
	require.NoError(t, open.Close())
	require.NoError(t, m.WaitReady(t.Context(), "a"))
}

func TestStartTimeout(t *testing.T) {
	t.Parallel()
	m := newManager(t, "own")
	s := sleeper("a")
	s.Notify, s.StartTimeout, s.RestartDelay = true, 50*time.Millisecond, time.Hour
	apply(t, m, s)
	require.NoError(t, m.Start(t.Context(), "a"))
	eventually(t, "it is stopped", func() bool { return strings.Contains(statusOf(t, m, "a").Detail, "not ready within 50ms") })
	require.Zero(t, statusOf(t, m, "a").PID)
}

func TestStopKillsAtItsDeadline(t *testing.T) {
	t.Parallel()
	m := newManager(t, "own")
	file := filepath.Join(t.TempDir(), "ready")
	apply(t, m, services.Service{Name: "a", Exec: []string{self(t), "as-stubborn", file}, StopTimeout: 100 * time.Millisecond})
	require.NoError(t, m.Start(t.Context(), "a"))
	eventually(t, "it ignores SIGTERM", func() bool { _, err := os.Stat(file); return err == nil })
	pid := statusOf(t, m, "a").PID
	require.NoError(t, m.Stop(t.Context(), "a"))
	require.False(t, alive(pid))
	require.Equal(t, services.Inactive, statusOf(t, m, "a").State)
}

func TestKillMode(t *testing.T) {
	t.Parallel()
	for _, mode := range []services.KillMode{services.KillMain, services.KillGroup, services.KillProcess} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			m := newManager(t, "own")
			file := filepath.Join(t.TempDir(), "child")
			apply(t, m, services.Service{Name: "a", Exec: []string{self(t), "as-parent", file}, Kill: mode})
			require.NoError(t, m.Start(t.Context(), "a"))
			eventually(t, "it has a child", func() bool { _, err := os.Stat(file); return err == nil })
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			pid, err := strconv.Atoi(string(b))
			require.NoError(t, err)
			started := proc.Started(pid)
			require.NoError(t, m.Stop(t.Context(), "a"))
			if mode == services.KillProcess {
				require.True(t, proc.Is(pid, started), "the child goes on")
				require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
			}
			eventually(t, "the child ends", func() bool { return !proc.Is(pid, started) })
		})
	}
}

// A supervisor process is killed: its service is an orphan, which is seen, and
// ended before another one starts.
func TestKilledSupervisor(t *testing.T) {
	t.Parallel()
	m := newManager(t, "detached")
	apply(t, m, sleeper("a"))
	require.NoError(t, m.Start(t.Context(), "a"))
	require.NoError(t, m.WaitReady(t.Context(), "a"))
	old := statusOf(t, m, "a").PID
	kill := func() {
		pid, err := m.home("a").supervisorPID(t.Context())
		require.NoError(t, err)
		require.NotEqual(t, os.Getpid(), pid)
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		eventually(t, "it is seen", func() bool { return statusOf(t, m, "a").State == services.Failed })
	}
	kill()
	require.Equal(t, old, statusOf(t, m, "a").PID, "the orphan lives")
	var failed *services.FailedError
	require.ErrorAs(t, m.WaitReady(t.Context(), "a"), &failed)
	require.NoError(t, m.Start(t.Context(), "a"))
	require.NoError(t, m.WaitReady(t.Context(), "a"))
	require.False(t, alive(old))
	old = statusOf(t, m, "a").PID
	kill()
	require.NoError(t, m.Stop(t.Context(), "a"))
	require.False(t, alive(old))
	require.Equal(t, services.Inactive, statusOf(t, m, "a").State)
}

// Detached services outlive the program that started them.
func TestDetachedOutlivesItsManager(t *testing.T) {
	t.Parallel()
	m := newManager(t, "detached")
	apply(t, m, sleeper("a"))
	require.NoError(t, m.Start(t.Context(), "a"))
	require.NoError(t, m.WaitReady(t.Context(), "a"))
	require.NoError(t, m.Close())
	pid := statusOf(t, m, "a").PID
	later, err := New(Options{Dir: m.dir})
	require.NoError(t, err)
	defer later.Close()
	require.NoError(t, later.Start(t.Context(), "a"), "it runs")
	require.Equal(t, pid, statusOf(t, later, "a").PID)
	require.ErrorIs(t, Supervise(t.Context(), m.dir, "a", nil), ErrSupervised)
	require.NoError(t, later.Stop(t.Context(), "a"))
	require.False(t, alive(pid))
}

func TestCloseStopsOwnServices(t *testing.T) {
	t.Parallel()
	m := newManager(t, "own")
	apply(t, m, sleeper("a"))
	require.NoError(t, m.Start(t.Context(), "a"))
	require.NoError(t, m.WaitReady(t.Context(), "a"))
	pid := statusOf(t, m, "a").PID
	require.NoError(t, m.Close())
	require.False(t, alive(pid))
	require.ErrorIs(t, m.Start(t.Context(), "a"), ErrClosed)
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	m := newManager(t, "own")
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("hush"), 0o600))
	dir := t.TempDir()
	apply(t, m, services.Service{
		Name: "a", Exec: []string{"/bin/sh", "-c", `echo "$A $(cat "$CREDENTIALS_DIRECTORY/key") $PWD"; exec sleep 600`},
		Env: []string{"A=b c"}, Dir: dir, Credentials: []services.Credential{{Name: "key", Path: secret}},
	})
	require.NoError(t, m.Start(t.Context(), "a"))
	eventually(t, "it prints", func() bool {
		var out bytes.Buffer
		require.NoError(t, m.Logs(t.Context(), "a", services.LogOptions{}, &out))
		return out.String() == "b c hush "+dir+"\n"
	})
	require.NoError(t, filepath.WalkDir(m.dir, func(path string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		st, err := d.Info()
		require.NoError(t, err)
		if st.Mode().Type() != fs.ModeSymlink {
			require.Zero(t, st.Mode().Perm()&0o077, "%s is private", path)
		}
		return nil
	}))
}

// syncBuffer is written to by Logs while the test reads it.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestLogs(t *testing.T) {
	t.Parallel()
	m := newManager(t, "own")
	apply(t, m, sleeper("a"))
	h := m.home("a")
	var out syncBuffer
	require.NoError(t, m.Logs(t.Context(), "a", services.LogOptions{}, &out))
	require.Empty(t, out.String())
	write := func(text string) {
		f, err := h.openLog()
		require.NoError(t, err)
		_, err = f.WriteString(text)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	write("one\ntwo\nthree\n")
	last := func(n int) string {
		var out bytes.Buffer
		require.NoError(t, m.Logs(t.Context(), "a", services.LogOptions{Lines: n}, &out))
		return out.String()
	}
	require.Equal(t, "two\nthree\n", last(2))
	require.Equal(t, "one\ntwo\nthree\n", last(3))
	require.Equal(t, "one\ntwo\nthree\n", last(10))

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Logs(ctx, "a", services.LogOptions{Lines: 1, Follow: true}, &out) }()
	eventually(t, "the last line", func() bool { return out.String() == "three\n" })
	write("four\n")
	eventually(t, "the next line", func() bool { return out.String() == "three\nfour\n" })
	cancel()
	require.NoError(t, <-ended)

	// A long log becomes log.1, under the process that appends to it.
	f, err := os.OpenFile(h.file("log"), os.O_WRONLY|os.O_APPEND, 0)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteString(strings.Repeat("x", maxLog) + "\nlast\n")
	require.NoError(t, err)
	require.NoError(t, h.trimLog())
	_, err = f.WriteString("first\n")
	require.NoError(t, err)
	st, err := os.Stat(h.file("log"))
	require.NoError(t, err)
	require.EqualValues(t, 6, st.Size())
	require.Equal(t, "last\nfirst\n", last(2))
}

// What is on disk may be damaged.
func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	m := newManager(t, "own")
	apply(t, m, sleeper("a"), sleeper("b"))
	require.NoError(t, os.WriteFile(m.home("a").definition(), []byte(`{"Name":"b","Exec":["/bin/true"]}`), 0o600))
	require.ErrorContains(t, m.Start(t.Context(), "a"), "it is of b")
	require.NoError(t, os.WriteFile(m.home("a").definition(), []byte(`{`), 0o600))
	require.Error(t, m.Start(t.Context(), "a"))
	require.NoError(t, os.WriteFile(m.home("b").file("status.json"), []byte(`{"pid":`), 0o600))
	require.Contains(t, statusOf(t, m, "b").Detail, "is damaged")
	require.NoError(t, m.Start(t.Context(), "b"), "it does not keep the service from starting")
	require.NoError(t, m.WaitReady(t.Context(), "b"))
	require.NoError(t, os.RemoveAll(string(m.home("a")))) // for the cleanup
}

func TestLongNotifyPath(t *testing.T) {
	t.Parallel()
	n, err := listenNotify(filepath.Join(t.TempDir(), strings.Repeat("x", 200)))
	require.NoError(t, err)
	require.LessOrEqual(t, len(n.path), maxSocketPath)
	folder := n.folder
	n.close()
	require.NoDirExists(t, folder)
}

// What a supervisor that is gone wrote says nothing about the service of the
// next one: after a reset `start` returned before the service was ready.
func TestStatusOfAnEarlierLife(t *testing.T) {
	t.Parallel()
	m, err := New(Options{Dir: filepath.Join(t.TempDir(), "services")})
	require.NoError(t, err)
	apply(t, m, sleeper("a"))
	h := m.home("a")
	lock := h.lock()
	locked, err := lock.TryLock() // a supervisor has just begun
	require.NoError(t, err)
	require.True(t, locked)
	defer lock.Close() //nolint:errcheck // at the end
	for _, c := range []struct {
		name string
		pid  int
	}{{"not written yet", 1 << 30}, {"written", os.Getpid()}} {
		require.NoError(t, os.WriteFile(h.file("lock"), fmt.Appendf(nil, "%d\n", c.pid), 0o600))
		require.NoError(t, h.writeRecord(record{Supervisor: 1 << 30, State: services.Active, PID: os.Getpid(), Started: proc.Started(os.Getpid())}))
		require.Equal(t, services.Starting, statusOf(t, m, "a").State, c.name)
	}
	require.NoError(t, h.writeRecord(record{Supervisor: os.Getpid(), State: services.Active, PID: os.Getpid(), Started: proc.Started(os.Getpid())}))
	require.Equal(t, services.Active, statusOf(t, m, "a").State)
}

// What drains runs before a stop, and not when a start failed.
func TestStopExecOnlyAtAStop(t *testing.T) {
	t.Parallel()
	m := newManager(t, "own")
	drained := filepath.Join(t.TempDir(), "drained")
	s := sleeper("a")
	s.WaitExec = []string{"/bin/false"}
	s.StopExec = []string{"/bin/sh", "-c", "echo x >>'" + drained + "'"}
	apply(t, m, s)
	require.NoError(t, m.Start(t.Context(), "a"))
	eventually(t, "its start failed twice", func() bool { return statusOf(t, m, "a").Restarts >= 2 })
	require.NoError(t, m.Stop(t.Context(), "a"))
	require.NoFileExists(t, drained)
	s.WaitExec = []string{"/bin/sleep", "60"}
	apply(t, m, s)
	require.NoError(t, m.Start(t.Context(), "a"))
	eventually(t, "it is not ready yet", func() bool { return statusOf(t, m, "a").PID != 0 })
	require.NoError(t, m.Stop(t.Context(), "a"))
	require.NoFileExists(t, drained, "there is nothing to drain")
	s.WaitExec = nil
	apply(t, m, s)
	require.NoError(t, m.Start(t.Context(), "a"))
	require.NoError(t, m.WaitReady(t.Context(), "a"))
	require.NoError(t, m.Stop(t.Context(), "a"))
	b, err := os.ReadFile(drained)
	require.NoError(t, err)
	require.Equal(t, "x\n", string(b))
}

// What requires a service stops with it, and is started again with it.
func TestRequires(t *testing.T) {
	t.Parallel()
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			m := newManager(t, mode)
			zdb, zdbfs, other := sleeper("zdb"), sleeper("zdbfs"), sleeper("other")
			zdbfs.Requires, other.After = []string{"zdb"}, []string{"zdb"}
			apply(t, m, zdb, zdbfs, other)
			names := []string{"zdb", "zdbfs", "other"}
			require.NoError(t, m.Start(t.Context(), names...))
			require.NoError(t, m.WaitReady(t.Context(), names...))
			before := statusOf(t, m, "zdbfs").PID
			require.NoError(t, syscall.Kill(statusOf(t, m, "zdb").PID, syscall.SIGKILL))
			eventually(t, "both run again", func() bool {
				st := statusOf(t, m, "zdbfs")
				return statusOf(t, m, "zdb").Restarts == 1 && st.State == services.Active && st.PID != before
			})
			require.Zero(t, statusOf(t, m, "other").Restarts, "an order is no need")
			require.NoError(t, m.Restart(t.Context(), "zdb"))
			require.NoError(t, m.WaitReady(t.Context(), "zdb", "zdbfs"))
			require.NoError(t, m.Stop(t.Context(), "zdb"))
			require.Equal(t, services.Inactive, statusOf(t, m, "zdbfs").State)
			require.Equal(t, services.Active, statusOf(t, m, "other").State)
		})
	}
}

// Run is a container's one program: everything in order, reload, and everything
// stopped in the opposite order.
func TestRun(t *testing.T) {
	t.Parallel()
	m := newManager(t, "detached")
	require.ErrorIs(t, m.Run(t.Context(), nil), ErrNothingInstalled)
	file := filepath.Join(t.TempDir(), "notes")
	note := func(name string, after ...string) services.Service {
		s := sleeper(name)
		s.Exec = []string{"/bin/sh", "-c", `trap 'echo end "$0" >>"$1"; exit 0' TERM; trap 'echo reload "$0" >>"$1"' HUP; echo start "$0" >>"$1"; while :; do sleep 0.05; done`, name, file}
		s.WaitExec = []string{"/bin/sh", "-c", "until grep -q 'start " + name + "' '" + file + "'; do sleep 0.02; done"}
		s.After, s.ReloadSignal = after, syscall.SIGHUP
		return s
	}
	apply(t, m, note("b", "a"), note("a"), note("c", "b"))
	ctx, stop := context.WithCancel(t.Context())
	reload, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- m.Run(ctx, reload) }()
	require.NoError(t, m.WaitReady(t.Context(), "a"))
	eventually(t, "all run", func() bool { return statusOf(t, m, "c").State == services.Active })
	reload <- struct{}{}
	has := func(text string) func() bool {
		return func() bool { b, _ := os.ReadFile(file); return strings.Contains(string(b), text) }
	}
	eventually(t, "reload", has("reload c"))
	stop()
	require.NoError(t, <-ended)
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Regexp(t, `^start a\nstart b\nstart c\n(reload [abc]\n){3}end c\nend b\nend a\n$`, string(b))
}
