package zinit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
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

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/services"
	"github.com/threefoldtech/quantumd/services/zinit"
)

// script is a service that runs a shell script.
func script(name, text string) services.Service {
	return services.Service{Name: name, Exec: []string{"/bin/sh", "-c", text}, StopTimeout: 10 * time.Second}
}

// begun applies services and has them run.
func begun(t *testing.T, m *zinit.Manager, list ...services.Service) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := m.Apply(ctx, list)
	require.NoError(t, err)
	var names []string
	for _, s := range list {
		names = append(names, s.Name)
	}
	require.NoError(t, m.Start(ctx, names...))
	require.NoError(t, m.WaitReady(ctx, names...))
}

func look(t *testing.T, m *zinit.Manager, name string) services.Status {
	t.Helper()
	list, err := m.Status(t.Context(), name)
	require.NoError(t, err)
	return list[0]
}

func text(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if !errors.Is(err, os.ErrNotExist) {
		require.NoError(t, err)
	}
	return string(b)
}

// A service that needs longer than the half second after which a zinit since
// 0.2.15 kills ends by itself all the same, after what drains it.
func TestStopDrains(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, start func(t *testing.T) world) {
		w := start(t)
		m, log := w.manager(), filepath.Join(w.dir, "log")
		s := script("a", fmt.Sprintf("trap 'sleep 1.5; echo ended >>%[1]s; exit 0' TERM; while :; do sleep 0.1; done", log))
		s.StopExec = []string{"/bin/sh", "-c", "echo drained >>" + log}
		begun(t, m, s)
		require.NoError(t, m.Stop(t.Context(), "a"))
		require.Equal(t, "drained\nended\n", text(t, log))
		require.Equal(t, services.Inactive, look(t, m, "a").State)
	})
}

// One that ignores SIGTERM is killed when its time is over: a zinit up to
// 0.2.14 would wait for ever.
func TestStopKills(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, start func(t *testing.T) world) {
		m := start(t).manager()
		s := script("a", "trap '' TERM; while :; do sleep 0.1; done")
		s.StopTimeout = 300 * time.Millisecond
		begun(t, m, s)
		pid := look(t, m, "a").PID
		began := time.Now()
		require.NoError(t, m.Stop(t.Context(), "a"))
		require.GreaterOrEqual(t, time.Since(began), s.StopTimeout)
		require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
		require.NoError(t, m.Remove(t.Context(), "a"))
	})
}

// What a program started in a session of its own, as a zdb its hooks, goes on
// after a stop; what stays in its group does not.
func TestStopLeavesHooks(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, start func(t *testing.T) world) {
		w := start(t)
		m := w.manager()
		s := script("a", fmt.Sprintf(`setsid sleep 60 & echo $! >%[1]s/hook; (trap '' TERM; exec sleep 60) & echo $! >%[1]s/child; exec sleep 60`, w.dir))
		begun(t, m, s)
		ids := map[string]int{}
		for _, name := range []string{"hook", "child"} {
			require.Eventually(t, func() bool {
				var err error
				ids[name], err = strconv.Atoi(strings.TrimSpace(text(t, filepath.Join(w.dir, name))))
				return err == nil
			}, 5*time.Second, 10*time.Millisecond)
		}
		require.NoError(t, m.Stop(t.Context(), "a"))
		require.NoError(t, syscall.Kill(ids["hook"], 0), "the hook goes on")
		require.NoError(t, syscall.Kill(ids["hook"], syscall.SIGKILL))
		require.Eventually(t, func() bool { return ended(ids["child"]) }, 5*time.Second, 10*time.Millisecond, "the other one does not")
	})
}

// ended says whether a process runs no more; nobody may have reaped it.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || bytes.Contains(stat, []byte(") Z "))
}

// A changed file takes effect at the next start, though zinit remembers the
// older one.
func TestChangedFile(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, start func(t *testing.T) world) {
		w := start(t)
		m, log := w.manager(), filepath.Join(w.dir, "log")
		s := script("a", "echo $V >>"+log+"; exec sleep 60")
		s.Env = []string{"V=1"}
		begun(t, m, s)
		pid := look(t, m, "a").PID
		s.Env = []string{"V=2"}
		changes, err := m.Apply(t.Context(), []services.Service{s})
		require.NoError(t, err)
		require.Equal(t, services.Update, changes[0].Action)
		require.NoError(t, m.Start(t.Context(), "a"))
		require.Equal(t, pid, look(t, m, "a").PID, "a running one is left alone")
		require.NoError(t, m.Restart(t.Context(), "a"))
		require.NoError(t, m.WaitReady(t.Context(), "a"))
		require.NoError(t, m.Stop(t.Context(), "a"))
		s.Env = []string{"V=3"}
		begun(t, m, s)
		require.Equal(t, "1\n2\n3\n", text(t, log))
	})
}

// A program that is missing is told before zinit is asked; one that goes
// missing later is tried again, as one that comes back.
func TestMissingProgram(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, start func(t *testing.T) world) {
		w := start(t)
		m := w.manager()
		path := filepath.Join(w.dir, "program")
		s := services.Service{Name: "a", Exec: []string{path}, StopTimeout: 5 * time.Second}
		_, err := m.Apply(t.Context(), []services.Service{s})
		require.NoError(t, err)
		var missing *zinit.ProgramError
		require.ErrorAs(t, m.Start(t.Context(), "a"), &missing)
		require.Equal(t, path, missing.Path)
		require.Equal(t, services.Inactive, look(t, m, "a").State)
		s.WaitExec = []string{path}
		s.Exec = []string{program(t, "sleep"), "60"}
		_, err = m.Apply(t.Context(), []services.Service{s})
		require.NoError(t, err)
		require.ErrorAs(t, m.Start(t.Context(), "a"), &missing, "the test's program, too")

		write := func() { require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\nexec sleep 60\n"), 0o755)) }
		write()
		begun(t, m, services.Service{Name: "b", Exec: []string{path}, StopTimeout: 5 * time.Second})
		require.NoError(t, os.Remove(path))
		require.NoError(t, syscall.Kill(-look(t, m, "b").PID, syscall.SIGKILL))
		require.Eventually(t, func() bool { st := look(t, m, "b"); return st.ExitCode == 127 && st.State == services.Starting }, 10*time.Second, 20*time.Millisecond,
			"zinit alone would give it up")
		require.Contains(t, look(t, m, "b").Detail, "again")
		write()
		require.NoError(t, m.WaitReady(t.Context(), "b"), "by itself")
	})
}

// A test whose program has gone missing is not run without a pause.
func TestMissingTest(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, start func(t *testing.T) world) {
		w := start(t)
		m := w.manager()
		path := filepath.Join(w.dir, "test")
		require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755))
		s := sleeper(t, "a")
		s.WaitExec = []string{path}
		begun(t, m, s)
		require.NoError(t, os.Remove(path))
		require.NoError(t, syscall.Kill(-look(t, m, "a").PID, syscall.SIGKILL))
		require.Eventually(t, func() bool { st := look(t, m, "a"); return st.State == services.Starting && st.PID != 0 }, 10*time.Second, 20*time.Millisecond)
		time.Sleep(500 * time.Millisecond) // what does not happen is under test
		require.Less(t, strings.Count(w.log(t), "a/test: ------------ [start]"), 6)
		require.Equal(t, services.Starting, look(t, m, "a").State)
		require.NoError(t, m.Remove(t.Context(), "a"), "it can be stopped")
	})
}

// log is all that a zinit tells.
func (w world) log(t *testing.T) string {
	t.Helper()
	conn, err := net.Dial("unix", w.socket)
	require.NoError(t, err)
	defer conn.Close() //nolint:errcheck // it was read
	request := "log snapshot\n"
	if w.g == zinit.JSONRPC {
		request = `{"jsonrpc":"2.0","id":1,"method":"stream_currentLogs","params":[null]}` + "\n"
	}
	_, err = io.WriteString(conn, request)
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
	b, err := io.ReadAll(conn)
	if !os.IsTimeout(err) {
		require.NoError(t, err)
	}
	return string(b)
}

// One that waits for another says for which, and can be stopped and removed.
func TestBlocked(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, start func(t *testing.T) world) {
		m := start(t).manager()
		a, b := sleeper(t, "a"), sleeper(t, "b")
		a.WaitExec, b.After = []string{program(t, "false")}, []string{"a"}
		_, err := m.Apply(t.Context(), []services.Service{a, b})
		require.NoError(t, err)
		require.NoError(t, m.Start(t.Context(), "b"), "what it needs is started too")
		require.Eventually(t, func() bool { return look(t, m, "b").Detail == "waits for a (Spawned)" }, 5*time.Second, 20*time.Millisecond)
		require.Equal(t, services.Starting, look(t, m, "b").State)
		require.NoError(t, m.Stop(t.Context(), "b"))
		require.Equal(t, services.Inactive, look(t, m, "b").State)
		require.NoError(t, m.Remove(t.Context(), "a", "b"))
		names, err := m.Installed(t.Context())
		require.NoError(t, err)
		require.Empty(t, names)
	})
}

// A service that comes after one that is not installed is not blocked; the file
// follows what is installed.
func TestAfterUnknown(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, start func(t *testing.T) world) {
		w := start(t)
		m := w.manager()
		a, b := sleeper(t, "a"), sleeper(t, "b")
		b.After = []string{"a"}
		begun(t, m, b)
		waits := func() bool { return strings.Contains(text(t, filepath.Join(w.services, "b.yaml")), "\nafter:") }
		require.False(t, waits())
		begun(t, m, a)
		require.True(t, waits())
		plan, err := m.Plan(t.Context(), []services.Service{b})
		require.NoError(t, err)
		require.Equal(t, services.Keep, plan[0].Action)
		require.NoError(t, m.Restart(t.Context(), "b"))
		require.NoError(t, m.Remove(t.Context(), "a"))
		require.False(t, waits(), "else it would not start with the machine")
		require.NoError(t, m.Restart(t.Context(), "b"))
		require.NoError(t, m.WaitReady(t.Context(), "b"))
	})
}

// One that only says that it comes before another keeps that from nothing when
// it fails.
func TestBeforeFails(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, start func(t *testing.T) world) {
		w := start(t)
		m := w.manager()
		a, b := sleeper(t, "a"), script("b", "exit 3")
		b.Before = []string{"a"}
		_, err := m.Apply(t.Context(), []services.Service{a, b})
		require.NoError(t, err)
		require.NoError(t, m.Start(t.Context(), "a", "b"))
		require.NoError(t, m.WaitReady(t.Context(), "a"))
		require.NoError(t, syscall.Kill(-look(t, m, "a").PID, syscall.SIGKILL))
		require.Eventually(t, func() bool { return look(t, m, "a").Restarts > 0 }, 10*time.Second, 20*time.Millisecond)
		require.NoError(t, m.WaitReady(t.Context(), "a"), "also when zinit starts it again")
		require.NotEqual(t, services.Active, look(t, m, "b").State)
		require.Contains(t, text(t, filepath.Join(w.services, "a.yaml")), "shutdown_timeout: 5\n", "its own is shorter than what is left of it")
	})
}

// What zinit has given up is started again.
func TestFailureIsStarted(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, start func(t *testing.T) world) {
		w := start(t)
		m := w.manager()
		file := filepath.Join(w.services, "a.yaml") // of somebody else
		require.NoError(t, os.WriteFile(file, []byte("exec: /nonexistent\n"), 0o644))
		require.NoError(t, m.Start(t.Context(), "a"))
		require.Eventually(t, func() bool { return look(t, m, "a").State == services.Failed }, 5*time.Second, 20*time.Millisecond)
		var failed *services.FailedError
		require.ErrorAs(t, m.WaitReady(t.Context(), "a"), &failed)
		require.NoError(t, os.WriteFile(file, []byte("exec: sleep 60\n"), 0o644))
		require.NoError(t, m.Start(t.Context(), "a"))
		require.NoError(t, m.WaitReady(t.Context(), "a"))
		names, err := m.Installed(t.Context())
		require.NoError(t, err)
		require.Empty(t, names, "it is not ours")
		require.NoError(t, os.WriteFile(file, []byte("after: x\n"), 0o644))
		require.NoError(t, m.Stop(t.Context(), "a"))
		var bad interface{ Hint() string }
		require.ErrorAs(t, m.Start(t.Context(), "a"), &bad, "zinit does not take the file")
		require.NoError(t, m.Remove(t.Context(), "a"))
	})
}

// Every word and every value arrives as it was given.
func TestWordsArrive(t *testing.T) {
	t.Parallel()
	words := []string{"", " ", "a b", "'", `"`, `\`, `\n`, `a\`, "$HOME", "`id`", "#", "# no", "a#b", "~", "*", ";", "&& x", "%s", "ü", "日本", "'\"'", "--flag=x y", "\t", "{}", "[a]", "!x", "=", "-"}
	values := []string{"~", "null", "no", "true", "0x1F", "1e3", "1_000", "012", ".5", ": x", "- x", "#x", " x ", "'", `"`, `\`, "é", "", "2020-01-01", "<<", "!!int 3"}
	each(t, func(t *testing.T, start func(t *testing.T) world) {
		w := start(t)
		m := w.manager()
		out := filepath.Join(w.dir, "out put")
		s := services.Service{Name: "a", StopTimeout: 5 * time.Second, Dir: w.dir, RuntimeDir: "x y/run", Description: "it's: #1",
			Exec: slices.Concat([]string{"/bin/sh", "-c", `{ printf '%s\0' "$@"; env -0; } >"$OUT.new"; mv "$OUT.new" "$OUT"; pwd >dir; exec sleep 60`, "sh"}, words)}
		s.Env = []string{"OUT=" + out}
		for n, v := range values {
			s.Env = append(s.Env, fmt.Sprintf("V%d=%s", n, v))
		}
		begun(t, m, s)
		require.Eventually(t, func() bool { return text(t, filepath.Join(w.dir, "dir")) != "" }, 5*time.Second, 10*time.Millisecond)
		got := strings.Split(strings.TrimSuffix(text(t, out), "\x00"), "\x00")
		require.Equal(t, words, got[:len(words)])
		for n, v := range values {
			require.Contains(t, got, fmt.Sprintf("V%d=%s", n, v))
		}
		require.Equal(t, w.dir+"\n", text(t, filepath.Join(w.dir, "dir")))
		for path, mode := range map[string]os.FileMode{out: 0o600, filepath.Join(w.dir, "run/x y/run"): os.ModeDir | 0o700, filepath.Join(w.services, "a.yaml"): 0o644} {
			st, err := os.Stat(path)
			require.NoError(t, err)
			require.Equal(t, mode, st.Mode(), path)
		}
	})
}

// The last lines, then those that come, of this service alone.
func TestLogs(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, start func(t *testing.T) world) {
		w := start(t)
		m := w.manager()
		gate := filepath.Join(w.dir, "gate")
		a := script("a", fmt.Sprintf("for n in 1 2 3; do echo line $n; done; echo >&2 'words: [+] b: x'; while ! [ -e %[1]s ]; do sleep 0.02; done; echo late; exec sleep 60", gate))
		begun(t, m, a, script("a2", "echo other; exec sleep 60"))
		last := func(n int) string {
			var b bytes.Buffer
			require.NoError(t, m.Logs(t.Context(), "a", services.LogOptions{Lines: n}, &b))
			return b.String()
		}
		require.Eventually(t, func() bool { return strings.Contains(last(10), "words") && strings.Contains(last(10), "3") }, 5*time.Second, 20*time.Millisecond)
		require.ElementsMatch(t, []string{"line 1", "line 2", "line 3", "words: [+] b: x"}, strings.Split(strings.TrimSpace(last(0)), "\n"))
		require.Len(t, strings.Split(strings.TrimSpace(last(2)), "\n"), 2)

		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var out locked
		ended := make(chan error, 1)
		go func() { ended <- m.Logs(ctx, "a", services.LogOptions{Lines: 1, Follow: true}, &out) }()
		require.Eventually(t, func() bool { return strings.Count(out.String(), "\n") == 1 }, 5*time.Second, 10*time.Millisecond)
		require.NoError(t, os.WriteFile(gate, nil, 0o600))
		require.Eventually(t, func() bool { return strings.HasSuffix(out.String(), "\nlate\n") }, 5*time.Second, 10*time.Millisecond)
		require.Equal(t, 2, strings.Count(out.String(), "\n"))
		cancel()
		require.NoError(t, <-ended, "the way to end it")
	})
}

type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(p) }
func (l *locked) String() string              { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// A zinit that has ended leaves its socket: nobody is taken for running there,
// and what is asked has an error with a remedy.
func TestNotRunning(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "var/run"), 0o755))
	socket := services.ZinitSockets(dir)[0]
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
	require.FileExists(t, socket)
	require.Equal(t, services.Child, services.DetectAt(dir))
	m := zinit.New(zinit.Options{Root: dir})
	_, err = m.Apply(t.Context(), []services.Service{sleeper(t, "a")})
	require.NoError(t, err, "files need no zinit")
	_, err = m.Status(t.Context(), "a")
	var no *zinit.NotRunningError
	require.ErrorAs(t, err, &no)
	require.NotEmpty(t, no.Hint())
	require.ErrorAs(t, m.Start(t.Context(), "a"), &no)
	require.ErrorAs(t, m.Stop(t.Context(), "a"), &no)
}

// It is found at the sockets of both generations, and what is none is not.
func TestDetect(t *testing.T) {
	t.Parallel()
	eachIdle(t, func(t *testing.T, idle func(t *testing.T) world) {
		w := idle(t)
		w.socket = services.ZinitSockets(w.dir)[map[zinit.Generation]int{zinit.LineProtocol: 0, zinit.JSONRPC: 1}[w.g]]
		require.NoError(t, os.MkdirAll(filepath.Dir(w.socket), 0o755))
		require.Equal(t, services.Child, services.DetectAt(w.dir))
		w.begin(t)
		require.Equal(t, services.Zinit, services.DetectAt(w.dir))
		found, err := zinit.Probe(t.Context(), w.socket)
		require.NoError(t, err)
		require.Equal(t, w.g, found)
		require.NoError(t, os.MkdirAll(filepath.Join(w.dir, "run/systemd/system"), 0o755))
		require.Equal(t, services.Systemd, services.DetectAt(w.dir))
	})
}

// What listens at its socket and is no zinit is not taken for one.
func TestDetectOther(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "tmp"), 0o755))
	l, err := net.Listen("unix", services.ZinitSockets(dir)[1])
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, l.Close()) })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n") // to a client that may be gone
			_ = conn.Close()
		}
	}()
	require.Equal(t, services.Child, services.DetectAt(dir))
	_, err = zinit.Probe(t.Context(), services.ZinitSockets(dir)[1])
	require.Error(t, err)
}

// A socket in /tmp may be anybody's: one of another user is not spoken with.
func TestStranger(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it needs root to run as somebody else")
	}
	t.Parallel()
	perl := program(t, "perl") // of every Debian
	dir := shortDir(t)
	require.NoError(t, os.Chmod(dir, 0o777))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "tmp"), 0o777))
	require.NoError(t, os.Chmod(filepath.Join(dir, "tmp"), 0o777))
	socket := services.ZinitSockets(dir)[1]
	cmd := exec.Command(perl, "-e", `use IO::Socket::UNIX; $SIG{PIPE} = 'IGNORE'; my $l = IO::Socket::UNIX->new(Local => $ARGV[0], Listen => 5) or die; chmod 0777, $ARGV[0];
		while (my $c = $l->accept) { print $c '{"state":"ok","body":{}}'; close $c }`, socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }) // killed
	require.Eventually(t, func() bool {
		conn, err := net.Dial("unix", socket)
		return err == nil && conn.Close() == nil
	}, 5*time.Second, 20*time.Millisecond)
	_, err := zinit.Probe(t.Context(), socket)
	require.ErrorContains(t, err, "neither root nor this user")
	require.Equal(t, services.Child, services.DetectAt(dir))
}

// What no file can hold, or zinit cannot do, is refused, and nothing is written.
func TestRefused(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	m := zinit.New(zinit.Options{Root: dir})
	for name, change := range map[string]func(*services.Service){
		"dot":     func(s *services.Service) { s.Name = "a.b" },
		"notify":  func(s *services.Service) { s.Notify = true },
		"newline": func(s *services.Service) { s.Exec = append(s.Exec, "a\nb") },
		"nel":     func(s *services.Service) { s.Exec = append(s.Exec, "a\u0085b") },
		"bytes":   func(s *services.Service) { s.Env = []string{"A=\xff"} },
	} {
		s := sleeper(t, "a")
		change(&s)
		_, err := m.Apply(t.Context(), []services.Service{s})
		require.Error(t, err, name)
		require.NoDirExists(t, filepath.Join(dir, "etc"), name)
	}
	s := sleeper(t, "a")
	s.Notify = true
	_, err := m.Plan(t.Context(), []services.Service{s})
	var no *zinit.NoTestError
	require.ErrorAs(t, err, &no)
	require.Contains(t, no.Hint(), "WaitExec")
}

// A file of ours that somebody damaged is told, and hides nothing that runs.
func TestDamagedFile(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, start func(t *testing.T) world) {
		w := start(t)
		m := w.manager()
		s := sleeper(t, "a")
		begun(t, m, s)
		file := filepath.Join(w.services, "a.yaml")
		good := text(t, file)
		require.NoError(t, os.WriteFile(file, []byte(good+"more: 1\n"), 0o644))
		require.ErrorContains(t, m.Stop(t.Context(), "a"), file)
		st := look(t, m, "a")
		require.Equal(t, services.Active, st.State)
		require.Contains(t, st.Detail, file)
		_, err := m.Apply(t.Context(), []services.Service{s})
		require.NoError(t, err, "it is written again")
		require.Equal(t, good, text(t, file))
		require.NoError(t, os.WriteFile(file, []byte(good+"more: 1\n"), 0o644))
		names, err := m.Installed(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"a"}, names)
		require.NoError(t, m.Remove(t.Context(), "a"))
	})
}
