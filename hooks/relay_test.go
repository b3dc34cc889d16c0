package hooks

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRelay(t *testing.T) {
	t.Parallel()
	answers := func(err error) HookHandler { return HandlerFunc(func(ctxT, Event) error { return err }) }
	down := answers(errors.Join(ErrUnavailable, errors.New("no such file")))
	for _, c := range []struct {
		event Kind
		down  int // exit code when the daemon is down
	}{
		{NamespacesInit, 0}, {Ready, 1}, {NamespaceCreated, 0}, {NamespaceUpdated, 0}, {NamespaceDeleted, 0}, {NamespaceReloaded, 0},
		{JumpIndex, 1}, {JumpData, 0}, {MissingData, 1}, {Close, 0}, {NamespaceClosing, 0}, {Crash, 0},
	} {
		args := Event{Kind: c.event, Instance: "i"}.Args()
		code, reason := Relay(t.Context(), down, args)
		require.Equal(t, c.down, code, c.event)
		require.Error(t, reason, c.event)
		code, reason = Relay(t.Context(), answers(nil), args)
		require.Zero(t, code)
		require.NoError(t, reason)
		code, reason = Relay(t.Context(), answers(&RemoteError{Text: "no"}), args)
		require.Equal(t, 1, code)
		require.Error(t, reason)
	}
	code, reason := Relay(t.Context(), answers(nil), []string{"unheard-of", "i"})
	require.Equal(t, 1, code)
	require.ErrorIs(t, reason, ErrEvent)

	_, _ = Relay(t.Context(), HandlerFunc(func(ctx ctxT, e Event) error {
		end, ok := ctx.Deadline()
		require.True(t, ok, "zdb never waits for ever")
		require.Less(t, time.Until(end), time.Hour)
		return nil
	}), []string{"ready", "i"})
}

func TestFindSocket(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := filepath.Join(dir, "quantumd-hook")
	none := func(string) string { return "" }
	path, err := FindSocket(none, program)
	require.NoError(t, err)
	require.Equal(t, DefaultSocket, path)
	require.NoError(t, os.WriteFile(filepath.Join(dir, SocketFile), []byte("/run/a b/hook.sock\n"), 0o600))
	path, err = FindSocket(none, program)
	require.NoError(t, err)
	require.Equal(t, "/run/a b/hook.sock", path)
	path, err = FindSocket(func(k string) string { return map[string]string{SocketEnv: "/env.sock"}[k] }, program)
	require.NoError(t, err)
	require.Equal(t, "/env.sock", path)
	require.NoError(t, os.WriteFile(filepath.Join(dir, SocketFile), []byte("\n"), 0o600))
	_, err = FindSocket(none, program)
	require.Error(t, err)
}
