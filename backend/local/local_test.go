package local

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/backendtest"
	"github.com/threefoldtech/quantumd/engine/zdb"
	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/services/child"
)

// The test binary is the program of Command too: called as `X zdb …` it is one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "zdb" {
		if err := serve(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil { // else each of our zdbs takes a second to end
		panic(err)
	}
	os.Exit(m.Run())
}

func serve(args []string) error {
	f := flag.NewFlagSet("zdb", flag.ContinueOnError)
	data, index, mode := f.String("data", "", ""), f.String("index", "", ""), f.String("mode", "", "")
	listen, port, size, admin := f.String("listen", "", ""), f.String("port", "", ""), f.Int64("datasize", 0, ""), f.String("admin-file", "", "")
	pid := f.String("pid-file", "", "")
	if err := f.Parse(args); err != nil {
		return err
	}
	if err := WritePID(*pid, os.Getpid()); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(*data), "refuse")); err == nil {
		return errors.New("refused, as the test wants it")
	}
	password, err := os.ReadFile(*admin)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	l, err := net.Listen("tcp", net.JoinHostPort(*listen, *port))
	if err != nil {
		return err
	}
	modes := map[string]server.Mode{"user": server.User, "seq": server.Sequential}
	fmt.Fprintln(os.Stderr, "starting on", l.Addr())
	s, err := server.Open(ctx, server.Options{DataDir: *data, IndexDir: *index, DataSize: *size, Mode: modes[*mode],
		AdminPassword: backend.Secret(strings.TrimSpace(string(password))), Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		return err
	}
	if err := s.Serve(ctx, l); ctx.Err() == nil {
		return err
	}
	return s.Close()
}

var kinds = map[string]func(*testing.T) Launcher{
	"InProcess": func(*testing.T) Launcher { return InProcess(nil) },
	"Command":   func(*testing.T) Launcher { return Command(os.Args[0], "zdb") },
	"AsServices": func(t *testing.T) Launcher {
		return AsServices(manager(t, filepath.Join(t.TempDir(), "services")), "quantumd", os.Args[0], "zdb")
	},
}

func manager(t *testing.T, dir string) *child.Manager {
	m, err := child.New(child.Options{Dir: dir})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, m.Close()) })
	return m
}

// open makes a Provisioner whose backends end with the test.
func open(t *testing.T, dir string, l Launcher, opts ...Option) *Provisioner {
	t.Helper()
	p := New(dir, l, opts...)
	t.Cleanup(func() {
		var elsewhere *ElsewhereError // another one's of the same test
		if err := p.Stop(context.Background()); !errors.As(err, &elsewhere) {
			assert.NoError(t, err)
		}
		assert.NoError(t, p.Close())
	})
	return p
}

func specs() []backend.Spec {
	return []backend.Spec{
		{ID: "meta0", Role: backend.Meta}, {ID: "data0", Role: backend.Data, Group: "a"},
		{ID: "data1", Role: backend.Data, Namespace: "other", Password: "chosen by the caller"},
	}
}

func TestConformance(t *testing.T) {
	for name, launcher := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			backendtest.Run(t, func(t *testing.T) backendtest.Harness {
				dir := filepath.Join(t.TempDir(), "backends")
				var opened []*Provisioner
				run := launcher(t) // one, as there is one service manager
				return backendtest.Harness{
					Open: func(t *testing.T) backend.Provisioner {
						p := open(t, dir, run)
						opened = append(opened, p)
						return p
					},
					Specs: specs(), First: backend.Create, Owns: true,
					Dial: zdb.NewDialer(zdb.Options{PoolSize: 1, Timeout: 10 * time.Second}),
					Kill: func(t *testing.T, b backend.Backend) { kill(t, opened[0], b) },
					Obstruct: func(t *testing.T, s backend.Spec) func() {
						at := filepath.Join(dir, s.ID)
						require.NoError(t, os.MkdirAll(dir, 0o700))
						require.NoError(t, os.WriteFile(at, nil, 0o600))
						return func() { require.NoError(t, os.Remove(at)) }
					},
					Limit: func(t *testing.T, b backend.Backend) {
						results, err := opened[0].Provision(t.Context(), []backend.Spec{{ID: b.ID, Role: b.Role, Size: 1 << 20}})
						require.NoError(t, err)
						require.NoError(t, results[0].Err)
					},
				}
			})
		})
	}
}

// kill ends a backend without warning, a process by SIGKILL.
func kill(t *testing.T, p *Provisioner, b backend.Backend) {
	t.Helper()
	i, err := load(filepath.Join(p.dir, b.ID))
	require.NoError(t, err)
	if _, ok := p.launcher.(*inProcess); ok {
		require.NoError(t, p.launcher.stop(t.Context(), i))
		return
	}
	pid, ok := p.launcher.running(i)
	require.True(t, ok)
	if l, ok := p.launcher.(*asServices); ok { // it would come back by itself
		defer func() { require.NoError(t, l.manager.Stop(t.Context(), ServiceName(i.ID))) }()
	}
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	require.Eventually(t, func() bool { _, ok := p.launcher.running(i); return !ok }, 10*time.Second, 5*time.Millisecond)
}

func provision(t *testing.T, p *Provisioner, specs ...backend.Spec) []backend.Backend {
	t.Helper()
	results, err := p.Provision(t.Context(), specs)
	require.NoError(t, err)
	var out []backend.Backend
	for _, r := range results {
		require.NoError(t, r.Err)
		out = append(out, r.Backend)
	}
	return out
}

func TestPortInUse(t *testing.T) {
	t.Parallel()
	for name, launcher := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := open(t, t.TempDir(), launcher(t))
			all := provision(t, p, specs()...)
			require.NoError(t, p.Stop(t.Context()))
			l, err := net.Listen("tcp", all[1].Address.String())
			require.NoError(t, err)
			defer l.Close() //nolint:errcheck // closed below
			asked := answerLikeRedis(l)

			results, err := p.Provision(t.Context(), specs())
			require.NoError(t, err)
			var port *PortError
			require.ErrorAs(t, results[1].Err, &port)
			assert.Equal(t, all[1].Address, port.Address)
			assert.ErrorIs(t, port, syscall.EADDRINUSE)
			assert.Contains(t, port.Hint(), fmt.Sprint(all[1].Address.Port()))
			assert.NoError(t, results[0].Err)
			assert.NoError(t, results[2].Err)
			require.ErrorAs(t, p.Start(t.Context()), &port)
			assert.Equal(t, backend.Down, p.Health(t.Context(), all[1]).State)
			require.NoError(t, l.Close())
			i, err := load(filepath.Join(p.dir, all[1].ID))
			require.NoError(t, err)
			assert.NotContains(t, <-asked, i.Admin.Reveal(), "the stranger was told the admin password")

			require.NoError(t, p.Start(t.Context()))
			assert.Equal(t, all, provision(t, p, specs()...), "it keeps its port")
		})
	}
}

// answerLikeRedis answers each request with an error, and gives what it was told.
func answerLikeRedis(l net.Listener) <-chan string {
	told := make(chan string, 1)
	go func() {
		var all strings.Builder
		defer func() { told <- all.String() }()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(200 * time.Millisecond)) // on a live connection it cannot fail
			buf := make([]byte, 4096)
			for {
				n, err := c.Read(buf)
				all.Write(buf[:n])
				if err != nil {
					break
				}
				_, _ = c.Write([]byte("-ERR unknown command, with some words behind\r\n")) // the client may be gone
			}
			_ = c.Close()
		}
	}()
	return told
}

// Two stopped backends must not be given the same port.
func TestPortsOfStoppedBackendsAreTaken(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), InProcess(nil))
	first := provision(t, p, specs()[0])[0]
	require.NoError(t, p.Stop(t.Context()))
	end := ephemeralPorts()
	if end > firstPort+1000 {
		assert.Less(t, int(first.Address.Port()), end, "outgoing connections get such ports")
	}
	// The stopped one's is free to listen at, and another's is not.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close() //nolint:errcheck // nothing is written
	used := l.Addr().(*net.TCPAddr).AddrPort().Port()
	candidates := []uint16{first.Address.Port(), used, 0}
	port, err := freePort(map[uint16]bool{first.Address.Port(): true}, func() uint16 {
		next := candidates[0]
		candidates = candidates[1:]
		return next
	})
	require.NoError(t, err)
	require.NotContains(t, []uint16{0, used, first.Address.Port()}, port)
	_, err = freePort(nil, func() uint16 { return used })
	require.ErrorIs(t, err, errNoPort)
}

// A process that ends and another that gets its pid: the pid file's number
// alone says nothing.
func TestPIDOfAnotherProcess(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), Command(os.Args[0], "zdb"))
	b := provision(t, p, specs()[0])[0]
	i, err := load(filepath.Join(p.dir, b.ID))
	require.NoError(t, err)
	real, err := os.ReadFile(i.path(pidFile))
	require.NoError(t, err)
	kill(t, p, b)
	started := strings.Fields(string(real))[1]
	for name, text := range map[string]string{
		"another start": fmt.Sprintf("%d %s\n", os.Getpid(), started),
		"no start":      fmt.Sprintf("%d\n", os.Getpid()),
		"init":          "1 1\n", "negative": "-1 x\n", "empty": "", "noise": "\x00\xff 7 7 7", "long": strings.Repeat("9", 1000),
	} {
		require.NoError(t, os.WriteFile(i.path(pidFile), []byte(text), 0o600))
		_, ok := p.launcher.running(i)
		require.False(t, ok, name)
		require.NoError(t, p.Stop(t.Context()), name) // and this test process lives on
	}
	require.NoError(t, os.WriteFile(i.path(pidFile), real, 0o600))
	assert.Equal(t, b, provision(t, p, specs()[0])[0])
	assert.NotEqual(t, os.Getpid(), p.Health(t.Context(), b).PID)
}

// A zdb whose pid file was lost with a crash between start and its writing, or
// that a service manager started, is found by its admin password.
func TestRunsElsewhere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := open(t, dir, Command(os.Args[0], "zdb"))
	b := provision(t, first, specs()[0])[0]
	i, err := load(filepath.Join(dir, b.ID))
	require.NoError(t, err)
	pid, err := os.ReadFile(i.path(pidFile))
	require.NoError(t, err)
	t.Cleanup(func() { // so that its end is found, whatever fails below
		if _, err := os.Stat(i.Dir); err == nil {
			assert.NoError(t, os.WriteFile(i.path(pidFile), pid, 0o600))
		}
	})
	require.NoError(t, os.Remove(i.path(pidFile)))

	second := New(dir, Command(os.Args[0], "zdb"))
	steps, err := second.Plan(t.Context(), specs()[:1])
	require.NoError(t, err)
	assert.Equal(t, backend.Keep, steps[0].Action)
	assert.Equal(t, b, provision(t, second, specs()[0])[0])
	var elsewhere *ElsewhereError
	require.ErrorAs(t, second.Retire(t.Context(), b.ID), &elsewhere)
	assert.NotEmpty(t, elsewhere.Hint())
	require.ErrorAs(t, second.Stop(t.Context()), &elsewhere)
	assert.DirExists(t, i.path("data"), "a running zdb needs its files")
	assert.Equal(t, backend.Up, second.Health(t.Context(), b).State)

	require.NoError(t, os.WriteFile(i.path(pidFile), pid, 0o600))
	require.NoError(t, second.Retire(t.Context(), b.ID))
	assert.NoDirExists(t, i.Dir)
}

func TestEndsAtOnce(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), Command(os.Args[0], "zdb"))
	b := provision(t, p, specs()[0])[0]
	kill(t, p, b)
	refuse := filepath.Join(p.dir, b.ID, "refuse")
	require.NoError(t, os.WriteFile(refuse, nil, 0o600))
	results, err := p.Provision(t.Context(), specs()[:1])
	require.NoError(t, err)
	require.ErrorContains(t, results[0].Err, "ended at once")
	require.ErrorContains(t, results[0].Err, "refused, as the test wants it", "its log tells why")
	require.NoError(t, os.Remove(refuse))
	assert.Equal(t, b, provision(t, p, specs()[0])[0])

	none := open(t, t.TempDir(), Command(filepath.Join(t.TempDir(), "no-such-program")))
	results, err = none.Provision(t.Context(), specs()[:1])
	require.NoError(t, err)
	require.ErrorIs(t, results[0].Err, os.ErrNotExist)
}

// cancelAt cancels when a message is logged.
type cancelAt struct {
	slog.Handler
	message string
	cancel  context.CancelFunc
}

func (c cancelAt) Handle(_ context.Context, r slog.Record) error {
	if r.Message == c.message {
		c.cancel()
	}
	return nil
}

func (c cancelAt) Enabled(context.Context, slog.Level) bool { return true }
func (c cancelAt) WithAttrs([]slog.Attr) slog.Handler       { return c }

// A Provision that ends half way tells of each Spec that it is not done, and
// the next one goes on from there.
func TestCancelledHalfWay(t *testing.T) {
	t.Parallel()
	for name, launcher := range kinds {
		ctx, cancel := context.WithCancel(t.Context())
		logger := slog.New(cancelAt{slog.DiscardHandler, "backend started", cancel})
		p := open(t, t.TempDir(), launcher(t), WithLogger(logger))
		results, err := p.Provision(ctx, specs())
		require.ErrorIs(t, err, context.Canceled, name)
		require.Len(t, results, 3)
		for i, r := range results {
			require.Equal(t, specs()[i], r.Spec)
			require.ErrorIs(t, r.Err, context.Canceled, name)
		}
		begun, err := p.List(t.Context())
		require.NoError(t, err)
		require.Len(t, begun, 1)
		assert.Equal(t, begun[0], provision(t, p, specs()...)[0], "what was begun is completed, at its address")
	}
}
