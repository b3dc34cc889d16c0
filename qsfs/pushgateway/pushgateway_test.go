package pushgateway_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/qsfs/pushgateway"
)

// gateway is a pushgateway that keeps the groups pushed to it.
type gateway struct {
	mu     sync.Mutex
	broken bool
	groups map[string]bool // job, and labels in order
	users  map[string]bool
	tries  int
	log    bytes.Buffer
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	user, password, _ := r.BasicAuth()
	group := groupOf(r.URL.Path)
	switch {
	case g.broken:
		g.tries++
		w.WriteHeader(http.StatusTeapot)
	case r.Method == http.MethodPut:
		g.tries++
		g.groups[group] = true
		g.users[user+" "+password] = true
	case r.Method == http.MethodDelete:
		delete(g.groups, group)
		w.WriteHeader(http.StatusAccepted)
	}
}

// groupOf gives the job and the labels of a path, which has them in any order.
func groupOf(path string) string {
	parts := strings.Split(strings.TrimPrefix(path, "/metrics/job/"), "/")
	labels := []string{}
	for i := 1; i+1 < len(parts); i += 2 {
		labels = append(labels, parts[i]+"="+parts[i+1])
	}
	slices.Sort(labels)
	return parts[0] + " " + strings.Join(labels, " ")
}

func (g *gateway) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.log.Write(p)
}

func (g *gateway) set(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

func (g *gateway) is(f func() bool) func() bool {
	return func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return f()
	}
}

func (g *gateway) count(text string) int { return strings.Count(g.log.String(), text) }

// What the address says is followed from push to push; each change is said once,
// a password never; at the end nothing is left behind.
func TestFollowsTheAddress(t *testing.T) {
	t.Parallel()
	g := &gateway{groups: map[string]bool{}, users: map[string]bool{}}
	srv := httptest.NewServer(g)
	defer srv.Close()
	bare := strings.TrimPrefix(srv.URL, "http://")
	absent := httptest.NewServer(nil)
	absent.Close()

	address := "auto"
	results := map[bool]int{}
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "qsfs_test"}))
	p := pushgateway.New(pushgateway.Options{
		Gatherer: registry,
		Address:  func() (a string) { g.set(func() { a = address }); return a },
		Auto:     absent.URL,
		Every:    time.Millisecond,
		Host:     "here", System: "one",
		Pushed: func(err error) { g.set(func() { results[err == nil]++ }) },
		Logger: slog.New(slog.NewTextHandler(g, nil)),
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.Run(ctx)
	}()
	reaches := func(f func() bool, what string) {
		t.Helper()
		require.Eventually(t, g.is(f), 10*time.Second, time.Millisecond, what)
	}

	g.set(func() { address = "http://user:hunter2@" + bare + "/" })
	reaches(func() bool { return results[true] >= 3 }, "it pushes")
	reaches(func() bool { return g.groups["quantumd instance=here system=one"] && len(g.groups) == 1 }, "one group")
	g.set(func() { g.broken = true })
	reaches(func() bool { return results[false] >= 3 }, "it fails")
	g.set(func() { g.broken = false })
	reaches(func() bool { return g.count("metrics are pushed") == 2 }, "it pushes again")
	g.set(func() { address = "off" })
	reaches(func() bool { return g.count("no longer pushed") == 1 }, "off")
	g.set(func() { g.tries, address = 0, "http://"+bare })
	reaches(func() bool { return g.tries > 0 }, "on")
	cancel()
	<-ended

	assert.Empty(t, g.groups, "what nobody keeps up to date is not left behind")
	assert.Equal(t, map[string]bool{"user hunter2": true, " ": true}, g.users)
	assert.Equal(t, 1, g.count("metrics cannot be pushed"))
	assert.Equal(t, 3, g.count("metrics are pushed"))
	assert.Zero(t, g.count("hunter2"))
}
