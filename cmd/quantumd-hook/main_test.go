package main

import (
	"bytes"
	"context"
	"errors"
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

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/engine/zstor/monitor"
	"github.com/threefoldtech/quantumd/hooks"
)

// asHook makes the test binary behave as the program: zdb gives its hook no
// arguments of ours.
const asHook = "QUANTUMD_HOOK_TEST_AS_HOOK"

func TestMain(m *testing.M) {
	if os.Getenv(asHook) != "" {
		main()
	}
	os.Exit(m.Run())
}

// recorder keeps the events that arrive at a socket.
type recorder struct {
	socket string
	mu     sync.Mutex
	events []hooks.Event
	answer func(hooks.Event) error
}

func (r *recorder) HandleHook(_ context.Context, e hooks.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	if r.answer != nil {
		return r.answer(e)
	}
	return nil
}

func (r *recorder) all() []hooks.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

func (r *recorder) kinds() (out []hooks.Kind) {
	for _, e := range r.all() {
		out = append(out, e.Kind)
	}
	return out
}

func listen(t testing.TB, r *recorder) {
	t.Helper()
	dir, err := os.MkdirTemp("", "qh")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	r.socket = filepath.Join(dir, "s")
	l, err := hooks.Listen(r.socket, r, hooks.ListenerOptions{})
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- l.Serve(context.Background()) }()
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		require.NoError(t, <-ended)
	})
}

// call runs the program and gives its exit code and what it printed.
func call(t testing.TB, socket string, args ...string) (int, string) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), asHook+"=1", hooks.SocketEnv+"="+socket)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	require.Empty(t, stdout.String())
	return cmd.ProcessState.ExitCode(), stderr.String()
}

func TestEventReachesTheDaemon(t *testing.T) {
	t.Parallel()
	r := &recorder{answer: func(e hooks.Event) error {
		if e.Kind == hooks.Ready {
			return errors.New("the backends do not answer")
		}
		return nil
	}}
	listen(t, r)
	code, text := call(t, r.socket, "jump-index", "tcp://x", "a b/i0", "a b/i1", "1 2 3")
	require.Zero(t, code)
	require.Empty(t, text)
	require.Equal(t, []hooks.Event{{Kind: hooks.JumpIndex, Instance: "tcp://x", Index: "a b/i0", NextIndex: "a b/i1", Dirty: []uint32{1, 2, 3}}}, r.all())
	code, text = call(t, r.socket, "ready", "tcp://x")
	require.Equal(t, 1, code)
	require.Contains(t, text, "the backends do not answer")
}

func TestDaemonDown(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	socket := filepath.Join(dir, "none")
	spool := &hooks.Spool{Dir: filepath.Join(dir, "sp ool")}
	require.NoError(t, hooks.Settings{Socket: socket, Spool: spool.Dir}.Write())
	for _, args := range [][]string{
		{"jump-data", "tcp://x", "d0\nwith \xff bytes", "d1"}, {"jump-index", "tcp://x", "i0", "i1", "3 4"}, {"close", "tcp://x"},
	} {
		code, text := call(t, socket, args...)
		require.Zero(t, code, text)
		require.Contains(t, text, "spooled")
	}
	code, text := call(t, socket, "missing-data", "tcp://x", "d0")
	require.Equal(t, 1, code)
	require.Contains(t, text, "does not answer")
	code, _ = call(t, socket, "ready", "tcp://x")
	require.Zero(t, code)
	code, _ = call(t, socket)
	require.Equal(t, 1, code)
	var got []hooks.Event
	_, err := spool.Drain(t.Context(), func(_ context.Context, e hooks.Spooled) error {
		got = append(got, e.Event)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, []hooks.Event{
		{Kind: hooks.JumpData, Instance: "tcp://x", Data: "d0\nwith \xff bytes", NextData: "d1"},
		{Kind: hooks.JumpIndex, Instance: "tcp://x", Index: "i0", NextIndex: "i1", Dirty: []uint32{3, 4}},
		{Kind: hooks.Close, Instance: "tcp://x"},
	}, got)
}

// A service manager that stops zdb ends its hooks too: the event is kept.
func TestAskedToEndWhileItWaits(t *testing.T) {
	t.Parallel()
	waiting, release := make(chan struct{}), make(chan struct{})
	r := &recorder{answer: func(hooks.Event) error {
		close(waiting)
		<-release
		return nil
	}}
	listen(t, r)
	defer close(release)
	self, err := os.Executable()
	require.NoError(t, err)
	spool := &hooks.Spool{Dir: t.TempDir()}
	cmd := exec.Command(self, "close", "tcp://x")
	cmd.Env = append(os.Environ(), asHook+"=1", hooks.SocketEnv+"="+r.socket, hooks.SpoolEnv+"="+spool.Dir)
	require.NoError(t, cmd.Start())
	<-waiting
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait())
	st, err := spool.Stats()
	require.NoError(t, err)
	require.Equal(t, 1, st.Events)
}

// The zstor brings a file back while the daemon is down.
func TestMissingDataThroughZstor(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "qh")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	ln, err := net.Listen("unix", filepath.Join(dir, "zstor.sock"))
	require.NoError(t, err)
	z := &zstor{}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- monitor.NewServer(z, monitor.Options{}).Serve(ctx, ln) }()
	t.Cleanup(func() { cancel(); <-ended })
	socket := filepath.Join(dir, "none")
	require.NoError(t, hooks.Settings{Socket: socket, Spool: filepath.Join(dir, "spool"), Zstor: ln.Addr().String()}.Write())
	code, text := call(t, socket, "missing-data", "tcp://x", "/data/zdbfs-data/d4")
	require.Zero(t, code, text)
	code, text = call(t, socket, "missing-data", "tcp://x", "/data/zdbfs-data/d5")
	require.Equal(t, 1, code)
	require.Contains(t, text, "no such object")
	require.Equal(t, []string{"/data/zdbfs-data/d4", "/data/zdbfs-data/d5"}, z.files)
}

type zstor struct {
	monitor.Handler // what is not asked for here
	files           []string
}

func (z *zstor) Retrieve(_ context.Context, r monitor.Retrieve) error {
	z.files = append(z.files, r.File)
	if strings.HasSuffix(r.File, "d5") {
		return errors.New("no such object")
	}
	return nil
}

// A real zdb calls the program and obeys it.
func TestRealZdb(t *testing.T) {
	t.Parallel()
	zdb := os.Getenv("ZDB_BIN")
	if zdb == "" {
		t.Skip("ZDB_BIN names no zdb")
	}
	r := &recorder{}
	listen(t, r)
	port := freePort(t)
	dir := t.TempDir()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(zdb, "--listen", "127.0.0.1", "--port", strconv.Itoa(port), "--data", "data", "--index", "index", "--hook", self)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), asHook+"=1", hooks.SocketEnv+"="+r.socket)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stopped := false
	defer func() {
		if !stopped {
			_ = cmd.Process.Kill()
			<-ended
		}
	}()
	ask := func(command string) string {
		conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return ""
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		words := strings.Fields(command)
		request := "*" + strconv.Itoa(len(words)) + "\r\n"
		for _, w := range words {
			request += "$" + strconv.Itoa(len(w)) + "\r\n" + w + "\r\n"
		}
		if _, err := conn.Write([]byte(request)); err != nil {
			return ""
		}
		b := make([]byte, 100)
		n, _ := conn.Read(b)
		return string(b[:n])
	}
	require.Eventually(t, func() bool { return strings.HasPrefix(ask("PING"), "+PONG") }, 10*time.Second, 20*time.Millisecond)
	require.Equal(t, "+OK\r\n", ask("NSNEW one"))
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	<-ended
	stopped = true
	require.Eventually(t, func() bool { return len(r.kinds()) >= 6 }, 10*time.Second, 10*time.Millisecond, "%v\n%s", r.kinds(), &out)
	kinds := r.kinds()
	require.Equal(t, []hooks.Kind{hooks.NamespacesInit, hooks.Ready, hooks.NamespaceCreated, hooks.Close}, kinds[:4])
	require.ElementsMatch(t, []hooks.Kind{hooks.NamespaceClosing, hooks.NamespaceClosing}, kinds[4:])
	require.Equal(t, "tcp://127.0.0.1:"+strconv.Itoa(port), r.all()[0].Instance)
}

func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// BenchmarkCall is one event from the program's start to its end, of the program
// as it is installed: `go test -bench Call -benchtime 200x` tells how 200 calls
// are distributed.
func BenchmarkCall(b *testing.B) {
	program := filepath.Join(b.TempDir(), "quantumd-hook")
	build := exec.Command(goTool(), "build", "-ldflags", "-s -w", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(b, err, string(out))
	up := &recorder{}
	listen(b, up)
	for _, c := range []struct {
		name, socket string
		args         []string
	}{
		{"up", up.socket, []string{"jump-index", "tcp://x", "i0", "i1", "1 2 3"}},
		{"spooled", filepath.Join(b.TempDir(), "none"), []string{"jump-index", "tcp://x", "i0", "i1", "1 2 3"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				cmd := exec.Command(program, c.args...)
				cmd.Env = []string{hooks.SocketEnv + "=" + c.socket, hooks.SpoolEnv + "=" + filepath.Join(b.TempDir(), "spool")}
				began := time.Now()
				if err := cmd.Run(); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			for name, at := range map[string]int{"p50-ms": len(took) / 2, "p95-ms": len(took) * 95 / 100, "max-ms": len(took) - 1} {
				b.ReportMetric(float64(took[at].Microseconds())/1000, name)
			}
		})
	}
}

func goTool() string {
	if g := os.Getenv("GO"); g != "" {
		return g
	}
	return "go"
}
