package qsfs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// A reload changes what can change, names the rest, and a bad configuration
// changes nothing and is said.
func TestReload(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	var level atomic.Value
	f := env.Frontend(t, qsfs.WithLogLevel(func(l string) { level.Store(l) }))
	load := func(change func(*config.Config)) func() (*config.Config, error) {
		return func() (*config.Config, error) {
			c := env.Config.Clone()
			change(c)
			return c, nil
		}
	}
	notes := func() string {
		st, err := f.Status(t.Context())
		require.NoError(t, err)
		return strings.Join(st.Notes, "\n")
	}
	report, err := f.Reload(t.Context(), load(func(*config.Config) {}))
	require.NoError(t, err)
	assert.Empty(t, append(report.Changed, report.Restart...))

	report, err = f.Reload(t.Context(), load(func(c *config.Config) {
		c.CacheSize = 32 * config.MiB
		c.UploadWorkers = 5
		c.RetryInterval = config.Duration(90 * time.Second)
		c.LogLevel = "debug"
		c.Replace.MaxPerDay = 7
		c.Metrics.Listen = "127.0.0.1:1"
		c.MinShards, c.ExpectedShards = 1, 3
		c.EncryptionKey = config.Secret(strings.Repeat("ab", 32))
	}))
	require.NoError(t, err)
	assert.ElementsMatch(t, []string{"cache_size", "upload_workers", "retry_interval", "log_level", "replace"}, report.Changed)
	assert.ElementsMatch(t, []string{"metrics", "min_shards", "encryption_key"}, report.Restart)
	st, err := f.Status(t.Context())
	require.NoError(t, err)
	assert.EqualValues(t, 32<<20, st.Cache.Limit)
	assert.Equal(t, "debug", level.Load())
	assert.Equal(t, 5, qsfs.Workers(f.System))
	assert.Contains(t, notes(), "in effect at the next start: ")
	assert.NotContains(t, notes(), "abab", "no secret is told")
	f.Write(t, "a", []byte("a"))
	f.MustSync(t)

	_, err = f.Reload(t.Context(), load(func(c *config.Config) { c.CacheSize = 1; c.UploadWorkers = 1 }))
	require.Error(t, err)
	_, err = f.Reload(t.Context(), func() (*config.Config, error) { return nil, errors.New("line 3: no such key") })
	require.ErrorContains(t, err, "line 3")
	assert.Equal(t, 5, qsfs.Workers(f.System), "nothing changed")
	assert.Contains(t, notes(), "refused, the old one is in effect: line 3")
	events, err := f.Events(t.Context(), "", 10)
	require.NoError(t, err)
	assert.Contains(t, fmt.Sprint(events.Events), "nothing changed: line 3")

	_, err = f.Reload(t.Context(), load(func(c *config.Config) { c.UploadWorkers = 1 }))
	require.NoError(t, err)
	assert.Equal(t, 1, qsfs.Workers(f.System))
	assert.NotContains(t, notes(), "refused")
	f.Write(t, "b", []byte("b"))
	f.MustSync(t)
}

// A system is alive while its own parts answer, whatever the backends do; not
// when one of them hangs.
func TestAlive(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	var hangs atomic.Bool
	hang := make(chan struct{})
	f := env.Frontend(t, qsfs.WithProbe(func(context.Context) {
		if hangs.Load() {
			<-hang
		}
	}))
	defer func() { close(hang) }()
	alive := func(d time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		return f.Alive(ctx)
	}
	require.NoError(t, alive(10*time.Second))
	for _, id := range []string{"meta0", "meta1", "meta2", "meta3", "data0", "data1", "data2"} {
		env.Faults.Down(addressOf(t, env, id))
	}
	f.Write(t, "a", []byte("a"))
	require.NoError(t, alive(10*time.Second), "dead backends are no reason to end")

	hangs.Store(true)
	var dead *qsfs.HangError
	require.ErrorAs(t, alive(50*time.Millisecond), &dead)
	assert.Equal(t, []string{"test"}, dead.Parts)
	hangs.Store(false)
	require.ErrorAs(t, alive(50*time.Millisecond), &dead, "the one before hangs still")
	hang <- struct{}{}
	require.Eventually(t, func() bool { return alive(time.Second) == nil }, 10*time.Second, 10*time.Millisecond)

	for _, id := range []string{"meta0", "meta1", "meta2", "meta3", "data0", "data1", "data2"} {
		env.Faults.Up(addressOf(t, env, id))
	}
	require.NoError(t, f.Stop())
	require.ErrorIs(t, alive(time.Second), qsfs.ErrNotReady)
}

// lines is what was logged.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

// gateway is a pushgateway's double.
type gateway struct {
	mu      sync.Mutex
	groups  map[string]string
	answers int // status code; zero: ok
	pushes  int
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	switch {
	case g.answers != 0:
		http.Error(w, "no", g.answers)
	case r.Method == http.MethodPut:
		g.pushes++
		g.groups[group(r.URL.Path)] = string(body)
	case r.Method == http.MethodDelete:
		delete(g.groups, group(r.URL.Path))
		w.WriteHeader(http.StatusAccepted)
	}
}

// group is the path with its labels in order: a client may name them in any.
func group(path string) string {
	parts := strings.Split(strings.TrimPrefix(path, "/metrics/job/"), "/")
	labels := parts[1:]
	var pairs []string
	for i := 0; i+1 < len(labels); i += 2 {
		pairs = append(pairs, labels[i]+"="+labels[i+1])
	}
	slices.Sort(pairs)
	return parts[0] + " " + strings.Join(pairs, " ")
}

func (g *gateway) look(f func(*gateway)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(g)
}

// auto: a pushgateway that is absent, then started, then broken, then stopped.
// Nothing waits for it, each change is said once, and nothing stays behind.
func TestPushAuto(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())
	env := testenv.New(t, testenv.Options{})
	env.Config.Metrics.Pushgateway = "auto"
	log := &lines{}
	defer func() {
		if t.Failed() {
			t.Log(log.buf.String())
		}
	}()
	f := env.Frontend(t, qsfs.WithRegisterer(prometheus.NewRegistry()), qsfs.WithPushgateway("http://"+address, 20*time.Millisecond),
		qsfs.WithLogger(slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelInfo}))))
	f.Write(t, "a", []byte("a"))
	f.MustSync(t)
	assert.Zero(t, log.count("pushed"), "absent is no news")

	l, err = net.Listen("tcp", address)
	require.NoError(t, err)
	g := &gateway{groups: map[string]string{}}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: g}}
	srv.Start()
	pushed := func(n int) func() bool {
		return func() (ok bool) { g.look(func(g *gateway) { ok = g.pushes >= n && len(g.groups) == 1 }); return ok }
	}
	require.Eventually(t, pushed(3), 10*time.Second, 10*time.Millisecond)
	g.look(func(g *gateway) {
		for path, text := range g.groups {
			assert.Regexp(t, "^quantumd instance=.+ system=default$", path)
			assert.NotEmpty(t, text)
		}
	})
	assert.Equal(t, 1, log.count("metrics are pushed"), "once, not each time")

	g.look(func(g *gateway) { g.answers = http.StatusServiceUnavailable })
	require.Eventually(t, func() bool { return log.count("no longer pushed") == 1 }, 10*time.Second, 10*time.Millisecond)
	g.look(func(g *gateway) { g.answers = 0; g.pushes = 0 })
	require.Eventually(t, pushed(1), 10*time.Second, 10*time.Millisecond)
	f.Write(t, "b", []byte("b"))
	f.MustSync(t)
	began := time.Now()
	require.NoError(t, f.Stop())
	assert.Less(t, time.Since(began), 10*time.Second)
	g.look(func(g *gateway) { assert.Empty(t, g.groups, "what nobody keeps up to date is not left behind") })
	srv.Close()
}

// A URL that does not answer is said once, its password never; off pushes
// nothing.
func TestPushURL(t *testing.T) {
	t.Parallel()
	g := &gateway{groups: map[string]string{}, answers: http.StatusTeapot}
	srv := httptest.NewServer(g)
	defer srv.Close()
	env := testenv.New(t, testenv.Options{})
	env.Config.Metrics.Pushgateway = "http://user:hunter2@" + strings.TrimPrefix(srv.URL, "http://")
	log := &lines{}
	registry := prometheus.NewRegistry()
	f := env.Frontend(t, qsfs.WithRegisterer(registry), qsfs.WithPushgateway("", 20*time.Millisecond),
		qsfs.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
	eventually(t, registry, "pushes fail", func(v map[string]float64) bool { return v["qsfs_pushes_total{result=failed}"] >= 3 })
	assert.Equal(t, 1, log.count("metrics cannot be pushed"))
	assert.Zero(t, log.count("hunter2"))
	g.look(func(g *gateway) { g.answers = 0 })
	eventually(t, registry, "pushes succeed", func(v map[string]float64) bool { return v["qsfs_pushes_total{result=ok}"] >= 1 })
	_, err := f.Reload(t.Context(), func() (*config.Config, error) {
		c := env.Config.Clone()
		c.Metrics.Pushgateway = "off"
		return c, nil
	})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return log.count("no longer pushed") == 1 }, 10*time.Second, 10*time.Millisecond)
}

// The real pushgateway takes what is pushed, and shows it.
func TestPushToRealPushgateway(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("prometheus-pushgateway")
	if err != nil {
		t.Skip("no prometheus-pushgateway on this machine")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())
	env := testenv.New(t, testenv.Options{})
	env.Config.Metrics.Pushgateway = "auto"
	registry := prometheus.NewRegistry()
	f := env.Frontend(t, qsfs.WithRegisterer(registry), qsfs.WithPushgateway("http://"+address, 50*time.Millisecond))
	start := func() *exec.Cmd {
		cmd := exec.Command(program, "--web.listen-address="+address)
		cmd.Stderr = os.Stderr
		if !testing.Verbose() {
			cmd.Stderr = nil
		}
		require.NoError(t, cmd.Start())
		return cmd
	}
	page := func() string {
		resp, err := http.Get("http://" + address + "/metrics") //nolint:noctx // loopback
		if err != nil {
			return ""
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return string(body)
	}
	real := start()
	defer func() { _ = real.Process.Kill(); _ = real.Wait() }()
	shows := func() bool {
		p := page()
		return strings.Contains(p, "qsfs_loss_window_bytes{") && strings.Contains(p, `job="quantumd"`)
	}
	require.Eventually(t, shows, 20*time.Second, 20*time.Millisecond)
	require.NoError(t, real.Process.Kill())
	_ = real.Wait()
	f.Write(t, "a", []byte("a"))
	f.MustSync(t) // nothing waits
	real = start()
	require.Eventually(t, shows, 20*time.Second, 20*time.Millisecond, "it is found again")
	// One may have been cut off by the kill.
	assert.LessOrEqual(t, values(t, registry)["qsfs_pushes_total{result=failed}"], 1.0, "what is not there is not pushed to")
	require.NoError(t, f.Stop())
	assert.NotContains(t, page(), "qsfs_loss_window_bytes{")
}
