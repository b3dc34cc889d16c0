//go:build linux

package pid1

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The test binary is process 1 and the program too.
func TestMain(m *testing.M) {
	as := os.Getenv("PID1_TEST")
	switch {
	case as == "":
		os.Exit(m.Run())
	case Is():
		code, err := Run()
		if err != nil {
			fmt.Println(err)
			code = 99
		}
		os.Exit(code)
	}
	program(as)
}

func program(as string) {
	switch as {
	case "exit":
		os.Exit(7)
	case "killed":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM)
	// Orphans: two that end, and one that is left behind.
	if err := exec.Command("/bin/sh", "-c", "sleep 0.05 & sleep 0.1 & sleep 600 & exit 0").Run(); err != nil {
		fmt.Println(err)
		os.Exit(98)
	}
	fmt.Println("ready")
	for s := range signals {
		fmt.Println(s)
		if s == syscall.SIGTERM {
			// os/exec gets its own exit codes, whatever process 1 reaps.
			for range 20 {
				if err := exec.Command("/bin/sh", "-c", "exit 0").Run(); err != nil {
					fmt.Println(err)
					os.Exit(98)
				}
			}
			os.Exit(5)
		}
	}
}

// container starts the test binary as process 1 of a process namespace.
func container(t *testing.T, as string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for a process namespace")
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "PID1_TEST="+as)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Setsid: true}
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, bufio.NewReader(out)
}

func line(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	text, err := r.ReadString('\n')
	require.NoError(t, err, text)
	return strings.TrimSpace(text)
}

func TestExitCode(t *testing.T) {
	t.Parallel()
	for as, want := range map[string]int{"exit": 7, "killed": 128 + 9} {
		cmd, _ := container(t, as)
		require.Error(t, cmd.Wait())
		require.Equal(t, want, cmd.ProcessState.ExitCode(), as)
	}
}

// Orphans are reaped, signals arrive, the exit code is the program's, and what
// it left behind ends.
func TestInit(t *testing.T) {
	t.Parallel()
	cmd, out := container(t, "serve")
	require.Equal(t, "ready", line(t, out))
	children := func() int {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
		require.NoError(t, err)
		return len(strings.Fields(string(b)))
	}
	require.Eventually(t, func() bool { return children() == 2 }, 10*time.Second, 10*time.Millisecond,
		"the program and the orphan that lives: no zombies")
	require.NoError(t, cmd.Process.Signal(syscall.SIGHUP))
	require.Equal(t, "hangup", line(t, out))
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.Equal(t, "terminated", line(t, out))
	began := time.Now()
	require.Error(t, cmd.Wait())
	require.Equal(t, 5, cmd.ProcessState.ExitCode())
	require.Less(t, time.Since(began), grace, "what was left behind was told to end")
}
