package servicestest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/services"
)

// script is a service that runs a line of shell, which notes in $F what
// happens. It is ready when it has noted something.
func script(t *testing.T, h Harness, name, line string) (s services.Service, noted func() string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "services") // a name that needs no quoting
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	file := filepath.Join(dir, "notes")
	s = h.Service(t, name)
	s.Exec = []string{"/bin/sh", "-c", line}
	s.WaitExec = []string{"/bin/sh", "-c", "until test -s " + file + "; do sleep 0.05; done"}
	s.Env = append(s.Env, "F="+file)
	s.Writable, s.Unconfined = []string{dir}, true
	return s, func() string {
		b, err := os.ReadFile(file)
		if err != nil {
			require.ErrorIs(t, err, os.ErrNotExist)
		}
		return strings.Join(strings.Fields(string(b)), " ")
	}
}

func run(t *testing.T, ctx context.Context, m services.ServiceManager, s services.Service) {
	t.Helper()
	_, err := m.Apply(ctx, []services.Service{s})
	require.NoError(t, err)
	require.NoError(t, m.Start(ctx, s.Name))
	require.NoError(t, m.WaitReady(ctx, s.Name))
}

func eventually(t *testing.T, ctx context.Context, what string, ok func() bool) {
	t.Helper()
	deadline, _ := ctx.Deadline()
	require.Eventually(t, ok, time.Until(deadline), 20*time.Millisecond, what)
}

// What runs before a stop runs before the signal, once, and the stop goes on
// when it fails.
func testStopExec(t *testing.T, ctx context.Context, h Harness, m services.ServiceManager) {
	s, noted := script(t, h, "a", `trap 'echo end >>"$F"; exit 0' TERM; echo start >>"$F"; while :; do sleep 0.1; done`)
	file := strings.TrimPrefix(s.Env[len(s.Env)-1], "F=")
	s.StopExec = []string{"/bin/sh", "-c", "echo drain >>" + file + "; exit 1"}
	run(t, ctx, m, s)
	require.NoError(t, m.Stop(ctx, "a"))
	require.Equal(t, "start drain end", noted())
	require.NotEqual(t, services.Active, status(t, ctx, m, "a").State)
	require.NoError(t, m.Remove(ctx, "a"))
	require.Equal(t, "start drain end", noted(), "it did not run: nothing to drain")
}

// A service that is killed returns.
func testKilled(t *testing.T, ctx context.Context, h Harness, m services.ServiceManager) {
	run(t, ctx, m, h.Service(t, "a"))
	first := status(t, ctx, m, "a").PID
	require.NoError(t, syscall.Kill(first, syscall.SIGKILL))
	eventually(t, ctx, "it runs again", func() bool {
		st := status(t, ctx, m, "a")
		return st.State == services.Active && st.PID != 0 && st.PID != first && st.Restarts > 0
	})
	require.NoError(t, m.Remove(ctx, "a"))
}

// A service that ends again and again is started for ever, and is told of.
func testCrashLoop(t *testing.T, ctx context.Context, h Harness, m services.ServiceManager) {
	s := h.Service(t, "a")
	s.Exec, s.RestartDelay = []string{"/bin/sh", "-c", "exit 3"}, 100*time.Millisecond
	_, err := m.Apply(ctx, []services.Service{s})
	require.NoError(t, err)
	starting, cancel := context.WithTimeout(ctx, time.Second) // it may wait, or say that it failed
	defer cancel()
	_ = m.Start(starting, "a")
	eventually(t, ctx, "it is told of", func() bool {
		st := status(t, ctx, m, "a")
		return st.State == services.Starting && st.Restarts > 1 && st.ExitCode == 3 && st.Detail != ""
	})
	require.NoError(t, m.Stop(ctx, "a"))
	eventually(t, ctx, "it can be stopped", func() bool {
		st := status(t, ctx, m, "a").State
		return st == services.Inactive || st == services.Failed
	})
	require.NoError(t, m.Remove(ctx, "a"))
}

// A reload reaches the program as its signal.
func testReloadSignal(t *testing.T, ctx context.Context, h Harness, m services.ServiceManager) {
	s, noted := script(t, h, "a", `trap 'echo reload >>"$F"' USR1; echo start >>"$F"; while :; do sleep 0.1; done`)
	s.ReloadSignal = syscall.SIGUSR1
	run(t, ctx, m, s)
	pid := status(t, ctx, m, "a").PID
	require.NoError(t, m.Reload(ctx, "a"))
	eventually(t, ctx, "the signal arrives", func() bool { return noted() == "start reload" })
	require.Equal(t, pid, status(t, ctx, m, "a").PID, "the same process")
	require.NoError(t, m.Remove(ctx, "a"))
}

// Secrets come as files, and stand in no definition.
func testCredentials(t *testing.T, ctx context.Context, h Harness, m services.ServiceManager) {
	s, noted := script(t, h, "a", `cat "$CREDENTIALS_DIRECTORY/key" >>"$F"; exec sleep 600`)
	secret := filepath.Join(s.Writable[0], "secret")
	require.NoError(t, os.WriteFile(secret, []byte("hush\n"), 0o600))
	s.Credentials = []services.Credential{{Name: "key", Path: secret}}
	plan, err := m.Plan(ctx, []services.Service{s})
	require.NoError(t, err)
	for _, c := range plan {
		require.NotContains(t, c.Text, "hush")
	}
	run(t, ctx, m, s)
	require.Equal(t, "hush", noted())
	require.NoError(t, m.Remove(ctx, "a"))
}
