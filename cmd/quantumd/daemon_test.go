//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// told collects what the service manager was told.
type told struct {
	mu   sync.Mutex
	list []string
}

func (s *told) send(state string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, state)
	return nil
}

func (s *told) count(part string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, state := range s.list {
		if strings.Contains(state, part) {
			n++
		}
	}
	return n
}

func (s *told) waitFor(t *testing.T, part string) {
	t.Helper()
	require.Eventually(t, func() bool { return s.count(part) > 0 }, 20*time.Second, 10*time.Millisecond, "the manager was not told %s", part)
}

// The service manager is told READY, STATUS, RELOADING and STOPPING, and
// WATCHDOG as long as the system lives: not when a part of it hangs, but while
// backends are away.
func TestNotify(t *testing.T) {
	env := testenv.New(t, testenv.Options{})
	f := env.Frontend(t)
	s := &told{}
	var errs said
	a := &app{stdin: strings.NewReader(""), stdout: io.Discard, stderr: &errs}
	t.Setenv("WATCHDOG_USEC", "300000")
	t.Setenv("WATCHDOG_PID", "")
	ctx, cancel := context.WithCancel(t.Context())
	var loads int
	n := newNotifier(a, f.System, func() (*config.Config, error) {
		loads++
		c := env.Config.Clone()
		c.UploadWorkers = 3
		return c, nil
	}, cancel)
	n.send, n.every = s.send, 20*time.Millisecond
	var hangs atomic.Bool
	n.alive = func(ctx context.Context) error {
		if hangs.Load() {
			return &qsfs.HangError{Parts: []string{"tree"}}
		}
		return f.Alive(ctx)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.run(ctx)
	}()
	s.waitFor(t, "READY=1\nSTATUS=ok, ")
	s.waitFor(t, "WATCHDOG=1")
	f.Write(t, "a", bytes.Repeat([]byte("x"), 1<<20))
	s.waitFor(t, "not on the backends yet")
	f.MustSync(t)
	s.waitFor(t, "all is on the backends")

	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGHUP))
	s.waitFor(t, "RELOADING=1\nMONOTONIC_USEC=")
	require.Eventually(t, func() bool { return s.count("READY=1") == 2 }, 20*time.Second, 10*time.Millisecond)
	before := s.count("WATCHDOG=1")
	require.Eventually(t, func() bool { return s.count("WATCHDOG=1") > before+1 }, 20*time.Second, 10*time.Millisecond, "it goes on")
	hangs.Store(true)
	require.Eventually(t, func() bool { return strings.Contains(errs.String(), "no sign of life") }, 20*time.Second, 10*time.Millisecond)
	before = s.count("WATCHDOG=1")
	looks := strings.Count(errs.String(), "no sign of life")
	require.Eventually(t, func() bool { return strings.Count(errs.String(), "no sign of life") > looks+1 }, 20*time.Second, 10*time.Millisecond)
	assert.Equal(t, before, s.count("WATCHDOG=1"), "the manager is to end what hangs")
	cancel()
	<-ended
	s.waitFor(t, "STOPPING=1")
	assert.Equal(t, 1, loads)
	assert.Contains(t, errs.String(), "changed: [upload_workers]")
}

// The messages arrive at the manager's socket as sd_notify(3) has them, when
// the whole program runs; SIGHUP with a broken file changes nothing and is said,
// with a good one it takes effect; SIGTERM ends it within its time.
func TestDaemonTellsItsManager(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "notify.sock")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	require.NoError(t, err)
	defer conn.Close()
	s := &told{}
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 1<<16)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			_ = s.send(string(buf[:n]))
		}
	}()
	u := newUser(t, dir)
	cfg := filepath.Join(dir, "b", "config.yaml")
	u.run(0, "deploy", "--local", "--dir", filepath.Join(dir, "b"))
	defer u.run(0, "destroy", "--local", "--dir", filepath.Join(dir, "b"), "--yes")
	daemon := u.command(t.Context(), "up", "-c", cfg, "--dir", filepath.Join(dir, "f"), "--no-mount")
	daemon.Env = append(daemon.Env, "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=900000")
	daemon.Stdout, daemon.Stderr = u.said, u.said
	require.NoError(t, daemon.Start())
	ended := false
	defer func() {
		if !ended {
			_ = daemon.Process.Kill()
			_ = daemon.Wait()
		}
	}()
	s.waitFor(t, "READY=1")
	s.waitFor(t, "WATCHDOG=1")
	good, err := os.ReadFile(cfg)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(cfg, append(good, "\nupload_workers: many\n"...), 0o600))
	require.NoError(t, daemon.Process.Signal(syscall.SIGHUP))
	s.waitFor(t, "RELOADING=1")
	cl := client.New(qsfs.LayoutBelow(filepath.Join(dir, "f")).ControlSocket())
	notes := func() string {
		st, err := cl.Status(t.Context())
		require.NoError(t, err)
		return strings.Join(st.Notes, "\n")
	}
	require.Eventually(t, func() bool { return strings.Contains(notes(), "refused") }, 20*time.Second, 20*time.Millisecond)
	assert.Contains(t, notes(), "upload_workers")
	require.NoError(t, os.WriteFile(cfg, append(good, "\ncache_size: 1G\nzdb_data_size: 32M\n"...), 0o600))
	require.NoError(t, daemon.Process.Signal(syscall.SIGHUP))
	require.Eventually(t, func() bool { return strings.Contains(notes(), "at the next start: zdb_data_size") }, 20*time.Second, 20*time.Millisecond)
	began := time.Now()
	require.NoError(t, daemon.Process.Signal(syscall.SIGTERM))
	ended = true
	require.NoError(t, daemon.Wait())
	assert.Less(t, time.Since(began), 20*time.Second)
	s.waitFor(t, "STOPPING=1")
	_ = conn.Close()
	<-read
}

// status --watch writes a line for each look where there is no terminal, also
// of a system that does not run yet.
func TestStatusWatch(t *testing.T) {
	env := testenv.New(t, testenv.Options{})
	dir := t.TempDir()
	var out said
	a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: io.Discard, globals: Globals{Dir: dir}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- (&statusCmd{Watch: true, Every: 100 * time.Millisecond}).Run(ctx, a) }()
	require.Eventually(t, func() bool { return strings.Contains(out.String(), " stopped: ") }, 10*time.Second, 10*time.Millisecond)
	f := env.FrontendIn(t, dir)
	require.Eventually(t, func() bool { return strings.Contains(out.String(), " ok, ") }, 10*time.Second, 10*time.Millisecond)
	require.NoError(t, f.Stop())
	cancel()
	require.NoError(t, <-ended)
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		assert.Regexp(t, `^\d{4}-\d\d-\d\dT\S+ (stopped|starting|ok|degraded|failed)`, line)
	}
}

// On a terminal each look is drawn over the one before.
func TestStatusOnScreen(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	a := &app{stdout: &out}
	require.NoError(t, a.watchScreen(&client.Status{State: client.StateOK}, nil))
	text := out.String()
	assert.True(t, strings.HasPrefix(text, "\x1b[H"))
	assert.True(t, strings.HasSuffix(text, "\x1b[K\n\x1b[J"))
	assert.Equal(t, strings.Count(text, "\n"), strings.Count(text, "\x1b[K\n"))
	out.Reset()
	require.NoError(t, a.watchScreen(nil, errors.New("not running")))
	assert.Contains(t, out.String(), "not running")
}

// status tells on one screen what is being done.
func TestStatusText(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	now := time.Now()
	printStatus(&app{stdout: &out}, &client.Status{
		State: client.StateDegraded, Started: now.Add(-3 * time.Hour), Mount: client.Mount{Path: "/mnt/q", Mounted: true},
		LossWindow: client.LossWindow{Bytes: 3 << 20, Seconds: 90}, Checkpoint: client.Checkpoint{Seq: 7, AgeSeconds: 300},
		Queue: client.Queue{Pending: 2, BytesPending: 3 << 20}, Cache: client.Cache{Bytes: 1 << 30, Limit: 10 << 30}, Disk: client.Disk{FreeBytes: 5 << 30, TotalBytes: 50 << 30},
		Backends: []client.Backend{{ID: "meta0", Role: "meta", State: "up"}, {ID: "data0", Role: "data", Address: "192.0.2.1:9900", State: "down",
			Since: now.Add(-5 * time.Minute), Error: "no answer"}},
		Redundancy:   []client.Redundancy{{Role: "data", Tolerated: 1, Full: 2}, {Role: "meta", Tolerated: 2, Full: 2}},
		Replacements: []client.Replacement{{Backend: "data0", Successor: "data5", Step: client.ReplaceRebuild, Objects: 1000, Rebuilt: 250, Bytes: 64 << 20}},
		Dashboard:    "http://127.0.0.1:9092/", Notes: []string{"1 data backend does not work"},
	})
	assert.Equal(t, `degraded, mounted on /mnt/q, up for 3 h
not safe  3 MiB, the oldest for 1m30s (checkpoint 7, 5 min ago)
doing     replacing data0 by data5: step 4 of 6, what it held is made anew, 250 of 1000 objects, 64 MiB
queue     2 waiting, 0 uploading, 0 failed, 3 MiB
cache     1 GiB of 10 GiB; disk 5 GiB free of 50 GiB
backends  1 of 2 up; may still be lost: 1 data and 2 metadata
          data data0 at 192.0.2.1:9900 is down for 5 min: no answer
dashboard http://127.0.0.1:9092/
note      1 data backend does not work
`, out.String())
}
