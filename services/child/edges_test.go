package child

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/proc"
	"github.com/threefoldtech/quantumd/services"
)

// Pauses double up to a minute, and begin anew after a run that was long enough.
func TestNextDelay(t *testing.T) {
	t.Parallel()
	var got []time.Duration
	for last, n := time.Duration(0), 0; n < 8; n++ {
		last = nextDelay(2*time.Second, last, time.Second)
		got = append(got, last/time.Second)
	}
	require.Equal(t, []time.Duration{2, 4, 8, 16, 32, 60, 60, 60}, got)
	require.Equal(t, 2*time.Second, nextDelay(2*time.Second, time.Minute, steady))
	require.Equal(t, time.Hour, nextDelay(time.Hour, time.Hour, 0), "never less than the service wants")
}

// A crash loop that prints much does not fill the disk.
func TestCrashLoopLogIsBounded(t *testing.T) {
	t.Parallel()
	m := newManager(t, "own")
	apply(t, m, services.Service{Name: "a", Exec: []string{"/bin/sh", "-c", "head -c 6000000 /dev/zero; echo; exit 1"}, RestartDelay: time.Millisecond})
	require.NoError(t, m.Start(t.Context(), "a"))
	eventually(t, "it wrote much", func() bool { return statusOf(t, m, "a").Restarts >= 8 })
	require.NoError(t, m.Stop(t.Context(), "a"))
	var size int64
	for _, name := range []string{"log", "log.1"} {
		st, err := os.Stat(m.home("a").file(name))
		require.NoError(t, err)
		size += st.Size()
	}
	require.Less(t, size, int64(2*(maxLog+6_000_001)))
}

// A service that ends while it is drained is sent nothing: its process id may be
// another's by then.
func TestEndedIsSentNothing(t *testing.T) {
	t.Parallel()
	other := exec.Command("/bin/sleep", "600")
	other.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	require.NoError(t, other.Start())
	s := sleeper("a").WithDefaults()
	require.NoError(t, endProcess(t.Context(), other.Process.Pid, s, func() bool { return true }))
	require.NoError(t, other.Process.Signal(syscall.Signal(0)))
	require.NoError(t, other.Process.Kill())
	var exit *exec.ExitError
	require.ErrorAs(t, other.Wait(), &exit)
	require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal(), "ours, not a SIGTERM before it")

	m := newManager(t, "own")
	pid := filepath.Join(t.TempDir(), "pid")
	s = sleeper("b")
	s.Exec = []string{"/bin/sh", "-c", "sleep 600 & echo $$ >'" + pid + "'; wait"}
	s.WaitExec = []string{"/bin/sh", "-c", "until test -s '" + pid + "'; do sleep 0.02; done"}
	s.StopExec = []string{"/bin/sh", "-c", "kill -9 $(cat '" + pid + "')"}
	apply(t, m, s)
	require.NoError(t, m.Start(t.Context(), "b"))
	require.NoError(t, m.WaitReady(t.Context(), "b"))
	group := statusOf(t, m, "b").PID
	require.NoError(t, m.Stop(t.Context(), "b"))
	require.Equal(t, services.Inactive, statusOf(t, m, "b").State)
	eventually(t, "what it left behind ends too", func() bool { return errors.Is(syscall.Kill(-group, 0), syscall.ESRCH) })
}

// A stop has ended what ran, though somebody starts it again at once.
func TestStopAmongStarts(t *testing.T) {
	t.Parallel()
	m := newManager(t, "detached")
	apply(t, m, sleeper("a"))
	ctx, cancel := context.WithCancel(t.Context())
	starter := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			if err := m.Start(ctx, "a"); err != nil && ctx.Err() == nil {
				starter <- err
				return
			}
		}
		starter <- nil
	}()
	for range 10 {
		eventually(t, "it runs", func() bool { return statusOf(t, m, "a").State == services.Active })
		pid := statusOf(t, m, "a").PID
		started := proc.Started(pid)
		stopping, end := context.WithTimeout(t.Context(), 10*time.Second)
		err := m.Stop(stopping, "a")
		end()
		require.NoError(t, err)
		require.False(t, proc.Is(pid, started), "what ran has ended")
	}
	cancel()
	require.NoError(t, <-starter)
}
