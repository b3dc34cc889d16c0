//go:build linux

package proc_test

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/proc"
)

func TestStarted(t *testing.T) {
	t.Parallel()
	own := proc.Started(os.Getpid())
	require.NotEmpty(t, own)
	require.True(t, proc.Is(os.Getpid(), own))
	require.False(t, proc.Is(os.Getpid(), own+"1"), "another process had this id")
	require.Empty(t, proc.Started(0))
	require.Empty(t, proc.Started(-1))

	cmd := exec.Command("sleep", "60")
	require.NoError(t, cmd.Start())
	require.NotEmpty(t, proc.Started(cmd.Process.Pid))
	require.NoError(t, cmd.Process.Kill())
	require.Eventually(t, func() bool { return proc.Started(cmd.Process.Pid) == "" }, 5*time.Second, time.Millisecond,
		"a zombie has ended, before it is reaped")
	require.Error(t, cmd.Wait())
}
