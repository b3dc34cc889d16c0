package servicestest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/services"
)

// begin starts a service that may never be ready: Start may wait for it, or say
// that it failed. The error is what Start said, nil where it only waited.
func begin(t *testing.T, ctx context.Context, m services.ServiceManager, s services.Service) error {
	t.Helper()
	_, err := m.Apply(ctx, []services.Service{s})
	require.NoError(t, err)
	starting, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err = m.Start(starting, s.Name); errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// One that was not ready has nothing to drain, and nobody who could.
func testStopUnready(t *testing.T, ctx context.Context, h Harness, m services.ServiceManager) {
	s, noted := script(t, h, "a", `echo start >>"$F"; exec sleep 600`)
	file := strings.TrimPrefix(s.Env[len(s.Env)-1], "F=")
	s.WaitExec = []string{"/bin/sh", "-c", "until test -s " + file + ".never; do sleep 0.05; done"}
	s.StopExec = []string{"/bin/sh", "-c", "echo drain >>" + file}
	_ = begin(t, ctx, m, s)
	eventually(t, ctx, "it runs", func() bool { return noted() == "start" })
	require.Equal(t, services.Starting, status(t, ctx, m, "a").State)
	require.NoError(t, m.Stop(ctx, "a"))
	require.Equal(t, "start", noted())
	require.NotEqual(t, services.Active, status(t, ctx, m, "a").State)
	require.NoError(t, m.Remove(ctx, "a"))
}

// What ignores SIGTERM is killed in the end.
func testStubborn(t *testing.T, ctx context.Context, h Harness, m services.ServiceManager) {
	s, _ := script(t, h, "a", `trap '' TERM; echo start >>"$F"; while :; do sleep 0.1; done`)
	s.StopTimeout = time.Second
	run(t, ctx, m, s)
	pid := status(t, ctx, m, "a").PID
	began := time.Now()
	var killed *services.FailedError
	if err := m.Stop(ctx, "a"); err != nil {
		require.ErrorAs(t, err, &killed)
	}
	require.GreaterOrEqual(t, time.Since(began), 900*time.Millisecond, "it had its time")
	eventually(t, ctx, "its process is gone", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
	require.Zero(t, status(t, ctx, m, "a").PID)
	require.NoError(t, m.Remove(ctx, "a"))
}

// A program that is not there is told of, by the start or afterwards.
func testMissingProgram(t *testing.T, ctx context.Context, h Harness, m services.ServiceManager) {
	s := h.Service(t, "a")
	s.Exec, s.WaitExec = []string{"/nonexistent/program"}, nil
	s.RestartDelay = 100 * time.Millisecond
	if err := begin(t, ctx, m, s); err == nil {
		eventually(t, ctx, "it is told of", func() bool {
			st := status(t, ctx, m, "a")
			require.NotEqual(t, services.Active, st.State)
			return st.Detail != ""
		})
	}
	st := status(t, ctx, m, "a")
	require.NotEqual(t, services.Active, st.State)
	require.Zero(t, st.PID)
	require.NoError(t, m.Stop(ctx, "a"))
	require.NoError(t, m.Remove(ctx, "a"))
}

// What a program prints, on either output, is in its log.
func testPrinted(t *testing.T, ctx context.Context, h Harness, m services.ServiceManager) {
	s, _ := script(t, h, "a", `echo to-stdout; echo to-stderr >&2; echo start >>"$F"; exec sleep 600`)
	run(t, ctx, m, s)
	eventually(t, ctx, "the log has it", func() bool {
		var log bytes.Buffer
		require.NoError(t, m.Logs(ctx, "a", services.LogOptions{Lines: 10}, &log))
		return strings.Contains(log.String(), "to-stdout") && strings.Contains(log.String(), "to-stderr")
	})
	require.NoError(t, m.Remove(ctx, "a"))
}

// hostile is what quoting, variables and specifiers of a definition could change.
const hostile = `%h $HOME ${HOME} "q" 'a' \n # ; | ü`

// Arguments, environment and folder reach the program as they were given.
func testVerbatim(t *testing.T, ctx context.Context, h Harness, m services.ServiceManager) {
	s, noted := script(t, h, "a", "")
	s.Exec = []string{"/bin/sh", "-c", `printf '%s\n' "$1" "$A" "$PWD" "<$2>" >>"$F"; exec sleep 600`, "sh", hostile, ""}
	s.Env = append(s.Env, "A="+hostile)
	s.Dir = s.Writable[0]
	run(t, ctx, m, s)
	eventually(t, ctx, "all is noted", func() bool { return strings.HasSuffix(noted(), "<>") })
	require.Equal(t, hostile+" "+hostile+" "+s.Dir+" <>", noted())
	require.NoError(t, m.Remove(ctx, "a"))
}

// growing is a buffer that is read while it is written.
type growing struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (g *growing) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.b.Write(p)
}

func (g *growing) has(text string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Contains(g.b.String(), text)
}

// A log is followed until the context ends, and that is no error of the log.
func testFollowed(t *testing.T, ctx context.Context, h Harness, m services.ServiceManager) {
	s, _ := script(t, h, "a", `trap 'echo line-later' USR1; echo line-first; echo start >>"$F"; while :; do sleep 0.1; done`)
	s.ReloadSignal = syscall.SIGUSR1
	run(t, ctx, m, s)
	following, stop := context.WithCancel(ctx)
	defer stop()
	var log growing
	ended := make(chan error, 1)
	go func() { ended <- m.Logs(following, "a", services.LogOptions{Lines: 10, Follow: true}, &log) }()
	eventually(t, ctx, "what was printed before", func() bool { return log.has("line-first") })
	require.NoError(t, m.Reload(ctx, "a"))
	eventually(t, ctx, "what is printed later", func() bool { return log.has("line-later") })
	stop()
	if err := <-ended; err != nil {
		require.ErrorIs(t, err, context.Canceled)
	}
	require.NoError(t, m.Remove(ctx, "a"))
}

// A changed definition is that of the next start, and of that one already.
func testChanged(t *testing.T, ctx context.Context, h Harness, m services.ServiceManager) {
	s, noted := script(t, h, "a", `echo "$N" >>"$F"; exec sleep 600`)
	s.Env = append(s.Env, "N=first")
	run(t, ctx, m, s)
	pid := status(t, ctx, m, "a").PID
	s.Env[len(s.Env)-1] = "N=second"
	_, err := m.Apply(ctx, []services.Service{s})
	require.NoError(t, err)
	require.NoError(t, m.Start(ctx, "a"))
	require.Equal(t, pid, status(t, ctx, m, "a").PID, "Apply and Start leave alone what runs")
	require.NoError(t, m.Restart(ctx, "a"))
	eventually(t, ctx, "the second definition runs", func() bool { return noted() == "first second" })
	require.NoError(t, m.WaitReady(ctx, "a"))
	require.NoError(t, m.Stop(ctx, "a"))
	s.Env[len(s.Env)-1] = "N=third"
	_, err = m.Apply(ctx, []services.Service{s})
	require.NoError(t, err)
	require.NoError(t, m.Start(ctx, "a"))
	eventually(t, ctx, "the third definition runs", func() bool { return noted() == "first second third" })
	require.NoError(t, m.Remove(ctx, "a"))
}

// Several callers at once start one process, and stop it.
func testConcurrent(t *testing.T, ctx context.Context, h Harness, m services.ServiceManager) {
	s, noted := script(t, h, "a", `echo start >>"$F"; exec sleep 600`)
	together := func(f func() error) {
		t.Helper()
		errs := make(chan error)
		for range 4 {
			go func() { errs <- f() }()
		}
		var all error
		for range 4 {
			all = errors.Join(all, <-errs)
		}
		require.NoError(t, all)
	}
	together(func() error { _, err := m.Apply(ctx, []services.Service{s}); return err })
	together(func() error { return m.Start(ctx, "a") })
	together(func() error { return m.WaitReady(ctx, "a") })
	require.Equal(t, "start", noted())
	together(func() error { _, err := m.Status(ctx, "a"); return err })
	together(func() error { return m.Stop(ctx, "a") })
	require.Equal(t, services.Inactive, status(t, ctx, m, "a").State)
	require.Equal(t, "start", noted())
	together(func() error { return m.Remove(ctx, "a") })
	require.Equal(t, services.Missing, status(t, ctx, m, "a").State)
}
