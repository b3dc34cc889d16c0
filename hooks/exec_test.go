package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

type ctxT = context.Context

// The test binary is the hook program too: modeEnv says what it does, and
// fileEnv names the file that it works with.
const (
	modeEnv = "HOOKS_TEST_MODE"
	fileEnv = "HOOKS_TEST_FILE"
)

func TestMain(m *testing.M) {
	if mode := os.Getenv(modeEnv); mode != "" {
		os.Exit(program(mode, os.Getenv(fileEnv)))
	}
	os.Exit(m.Run())
}

func program(mode, file string) int {
	fail := func(err error) int { fmt.Fprintln(os.Stderr, err); return 99 }
	switch mode {
	case "spool":
		return putForEver(file)
	case "record":
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			return fail(err)
		}
		var open []string
		for _, d := range fds {
			if target, err := os.Readlink("/proc/self/fd/" + d.Name()); err == nil {
				open = append(open, target)
			}
		}
		sid, err := sessionOf(os.Getpid())
		if err != nil {
			return fail(err)
		}
		b, err := json.Marshal(record{Args: os.Args[1:], Leader: sid == os.Getpid(), Open: open})
		if err == nil {
			err = os.WriteFile(file, b, 0o600)
		}
		if err != nil {
			return fail(err)
		}
		return 0
	case "fail":
		fmt.Fprintln(os.Stderr, strings.Repeat("x", 5000)+"the last words")
		return 7
	case "signal":
		_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
		select {}
	case "hang":
		select {}
	case "gate": // until somebody opens the pipe to write
		f, err := os.Open(file)
		if err != nil {
			return fail(err)
		}
		_ = f.Close()
		return 0
	case "background": // leaves a program behind that keeps stderr open
		cmd := exec.Command("/bin/sleep", "60")
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			return fail(err)
		}
		if err := os.WriteFile(file, []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
			return fail(err)
		}
		return 0
	}
	return fail(errors.New("unknown mode"))
}

type record struct {
	Args   []string
	Leader bool
	Open   []string
}

// sessionOf reads the session of a process, field 6 of its stat.
func sessionOf(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return strconv.Atoi(strings.Fields(rest)[3])
}

func testExec(t *testing.T, mode, file string) *Exec {
	t.Helper()
	path, err := os.Executable()
	require.NoError(t, err)
	x := &Exec{Path: path, Env: []string{modeEnv + "=" + mode, fileEnv + "=" + file}}
	t.Cleanup(func() { require.NoError(t, x.Close()) })
	return x
}

func TestExecRunsTheProgram(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "out")
	ours, err := os.Create(filepath.Join(t.TempDir(), "ours")) // must not be passed on
	require.NoError(t, err)
	defer ours.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	e := Event{Kind: JumpIndex, Instance: "tcp://x", Index: "a b/i0", NextIndex: "\xff'\"", Dirty: []uint32{1, 2}}
	require.NoError(t, testExec(t, "record", file).HandleHook(t.Context(), e))
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	var got record
	require.NoError(t, json.Unmarshal(b, &got))
	require.Equal(t, []string{"jump-index", "tcp://x", "a b/i0", "\ufffd'\"", "1 2"}, got.Args)
	require.True(t, got.Leader, "a session of its own")
	require.NotContains(t, got.Open, ours.Name())
	for _, target := range got.Open {
		require.False(t, strings.HasPrefix(target, "socket:"), "%q", got.Open)
	}
}

func TestExecMapsTheEnd(t *testing.T) {
	t.Parallel()
	var exit *ExitError
	err := testExec(t, "fail", "").HandleHook(t.Context(), Event{Kind: Ready, Instance: "i"})
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 7, exit.Code)
	require.True(t, strings.HasSuffix(exit.Stderr, "xthe last words"))
	require.LessOrEqual(t, len(exit.Stderr), stderrTail)

	err = testExec(t, "signal", "").HandleHook(t.Context(), Event{Kind: MissingData, Instance: "i"})
	require.ErrorAs(t, err, &exit)
	require.Equal(t, -1, exit.Code)
	require.Equal(t, "terminated", exit.Signal)

	err = (&Exec{Path: "/nonexistent/hook"}).HandleHook(t.Context(), Event{Kind: Ready, Instance: "i"})
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestExecEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := testExec(t, "hang", "").HandleHook(ctx, Event{Kind: MissingData, Instance: "i"})
	require.ErrorIs(t, err, context.DeadlineExceeded)

	x := testExec(t, "hang", "")
	x.Timeout = 200 * time.Millisecond
	err = x.HandleHook(t.Context(), Event{Kind: MissingData, Instance: "i"})
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestExecOwnsWhatNobodyWaitsFor(t *testing.T) {
	t.Parallel()
	gate := filepath.Join(t.TempDir(), "gate")
	require.NoError(t, syscall.Mkfifo(gate, 0o600))
	x := testExec(t, "gate", gate)
	x.MaxRunning, x.MaxWaiting = 1, 2
	ctx, cancel := context.WithCancel(t.Context())
	require.NoError(t, x.HandleHook(ctx, Event{Kind: JumpData, Instance: "i"}), "not waited for")
	require.NoError(t, x.HandleHook(ctx, Event{Kind: JumpData, Instance: "i"}))
	require.ErrorIs(t, x.HandleHook(ctx, Event{Kind: JumpData, Instance: "i"}), ErrBusy)
	cancel() // the caller's context is not theirs
	closed := make(chan error, 1)
	go func() { closed <- x.Close() }()
	require.Eventually(t, func() bool {
		return errors.Is(x.HandleHook(t.Context(), Event{Kind: JumpData, Instance: "i"}), ErrClosed)
	}, 5*time.Second, time.Millisecond)
	select {
	case <-closed:
		t.Fatal("Close did not wait")
	default:
	}
	open, err := os.OpenFile(gate, os.O_RDWR, 0)
	require.NoError(t, err)
	defer open.Close()
	require.NoError(t, <-closed)
}

// A hook script that leaves an upload in the background kept its pipe open,
// and so its caller waiting.
func TestExecDoesNotWaitForTheBackground(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pid")
	x := testExec(t, "background", file)
	began := time.Now()
	require.NoError(t, x.HandleHook(t.Context(), Event{Kind: JumpIndex, Instance: "i"}))
	require.Less(t, time.Since(began), 20*time.Second)
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	pid, err := strconv.Atoi(string(b))
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL), "it goes on")
}

func TestExecLeavesNoDescriptors(t *testing.T) { // not parallel: it counts
	x := testExec(t, "fail", "")
	count := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		return len(names)
	}
	require.Error(t, x.HandleHook(t.Context(), Event{Kind: Ready, Instance: "i"}))
	before := count()
	for range 10 {
		require.Error(t, x.HandleHook(t.Context(), Event{Kind: Ready, Instance: "i"}))
	}
	require.LessOrEqual(t, count(), before)
}
