package qsfs_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/hooks"
	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs"
)

// values gathers what a registry has: name{label=value,…} → value, histograms
// by their count. The deployment is left out of the names.
func values(t testing.TB, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	require.NoError(t, err)
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				if l.GetName() != "deployment" {
					labels = append(labels, l.GetName()+"="+l.GetValue())
				}
			}
			name := f.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			switch {
			case m.Gauge != nil:
				out[name] = m.Gauge.GetValue()
			case m.Counter != nil:
				out[name] = m.Counter.GetValue()
			case m.Histogram != nil:
				out[name] = float64(m.Histogram.GetSampleCount())
			}
		}
	}
	return out
}

// sum adds the values of a metric, whatever its labels.
func sum(all map[string]float64, name string) float64 {
	var n float64
	for k, v := range all {
		if base, _, _ := strings.Cut(k, "{"); base == name {
			n += v
		}
	}
	return n
}

// eventually waits until the metrics are as wanted, and gives them.
func eventually(t testing.TB, g prometheus.Gatherer, what string, ok func(map[string]float64) bool) map[string]float64 {
	t.Helper()
	var last map[string]float64
	if !assert.Eventually(t, func() bool { last = values(t, g); return ok(last) }, 40*time.Second, 50*time.Millisecond, what) {
		names := slices.Sorted(maps.Keys(last))
		for _, name := range names {
			t.Logf("%s %v", name, last[name])
		}
		t.FailNow()
	}
	return last
}

// The metrics are named, typed and labelled as Prometheus wants them.
func TestMetricsAreLintFree(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	registry := prometheus.NewPedanticRegistry()
	f := env.Frontend(t, qsfs.WithRegisterer(registry), qsfs.WithVersion("v1"))
	f.Write(t, "a", []byte("a"))
	f.MustSync(t)
	problems, err := testutil.GatherAndLint(registry)
	require.NoError(t, err)
	assert.Empty(t, problems)
	families, err := registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		for _, m := range family.Metric {
			found := false
			for _, l := range m.Label {
				found = found || l.GetName() == "deployment"
			}
			assert.True(t, found, "%s is not labelled with the deployment", family.GetName())
		}
	}
	all := values(t, registry)
	assert.EqualValues(t, 1, all["qsfs_state{state=ok}"]+all["qsfs_state{state=degraded}"])
	for _, name := range []string{"last_retry_run_time", "healthy_file_configs", "unhealthy_file_configs", "zstor_last_scrape_time"} {
		assert.Contains(t, all, name, "the reference's name")
	}
	assert.EqualValues(t, 7, sum(all, "zstor_backend_status"))
	assert.NotZero(t, all["last_retry_run_time"])
	assert.EqualValues(t, all["qsfs_queue_stored_files"], all["healthy_file_configs"])
	require.NoError(t, f.Stop())
	families, err = registry.Gather()
	require.NoError(t, err)
	assert.Empty(t, families, "what ended leaves no value that says that all is well")
}

// last_retry_run_time is the end of the last round, not the time of the scrape.
func TestRetryRunTimeIsThatOfTheRound(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	registry := prometheus.NewRegistry()
	f := env.Frontend(t, qsfs.WithRegisterer(registry))
	assert.Zero(t, values(t, registry)["last_retry_run_time"])
	f.MustSync(t)
	first := values(t, registry)["last_retry_run_time"]
	assert.NotZero(t, first)
	require.Eventually(t, func() bool { return float64(time.Now().Unix()) > first+1 }, 5*time.Second, 50*time.Millisecond)
	assert.Equal(t, first, values(t, registry)["last_retry_run_time"])
}

// A metric that says OK while the job failed is the worst: each failure shows.
func TestMetricsTellOfFailures(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	registry := prometheus.NewRegistry()
	f := env.Frontend(t, qsfs.WithRegisterer(registry), qsfs.WithDrainTime(5*time.Second))
	f.Write(t, "a", random(1, 3<<20))
	f.MustSync(t)
	all := values(t, registry)
	assert.Zero(t, all["qsfs_loss_window_bytes"])
	assert.Zero(t, all["qsfs_queue_failed_files"])
	assert.Zero(t, all["qsfs_uploads_total{kind=data,result=failed}"])
	assert.NotZero(t, all["qsfs_uploads_total{kind=data,result=ok}"])
	assert.NotZero(t, all["qsfs_hook_event_duration_seconds{kind=jump-data}"])
	assert.EqualValues(t, 1, all["qsfs_checkpoints_total{result=ok}"])

	// Two data backends do not take shards: of three, none of two-of-three can be stored.
	env.Faults.Down(addressOf(t, env, "data0"), addressOf(t, env, "data1"))
	f.Write(t, "b", random(2, 3<<20))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = f.Sync(ctx)
	}()
	all = eventually(t, registry, "uploads fail", func(v map[string]float64) bool {
		return v["qsfs_uploads_total{kind=data,result=failed}"] > 0 && v["qsfs_queue_failed_files"] > 0
	})
	assert.Positive(t, all["qsfs_loss_window_bytes"])
	assert.Positive(t, all["qsfs_loss_window_seconds"])
	assert.Positive(t, all["qsfs_queue_pending_bytes"])
	assert.Positive(t, all["qsfs_queue_oldest_seconds"])
	assert.EqualValues(t, 1, all["qsfs_state{state=degraded}"])
	assert.Zero(t, all["qsfs_state{state=ok}"])
	stored := all["qsfs_uploads_total{kind=data,result=ok}"]
	env.Faults.Up(addressOf(t, env, "data0"), addressOf(t, env, "data1"))
	require.NoError(t, f.RetryNow(t.Context()))
	all = eventually(t, registry, "it is stored", func(v map[string]float64) bool {
		return v["qsfs_queue_failed_files"] == 0 && v["qsfs_loss_window_bytes"] == 0
	})
	assert.Greater(t, all["qsfs_uploads_total{kind=data,result=ok}"], stored)
	cancel()
	<-ended

	// A fetch that fails.
	_, err := f.Evict(t.Context(), 0)
	require.NoError(t, err)
	assert.Positive(t, values(t, registry)["qsfs_evicted_files_total"])
	env.Faults.Down(addressOf(t, env, "data0"), addressOf(t, env, "data1"))
	missing := hooks.Event{Kind: hooks.MissingData, Data: filepath.Join(f.Layout().DataDir(), "zdbfs-data", "d0")}
	require.NoFileExists(t, missing.Data)
	require.Error(t, f.HookHandler().HandleHook(t.Context(), missing))
	all = values(t, registry)
	assert.Positive(t, all["qsfs_fetches_total{result=failed}"])
	assert.Zero(t, all["qsfs_fetches_total{result=ok}"])
	assert.Positive(t, all["qsfs_hook_events_total{kind=missing-data,result=failed}"])
	env.Faults.Up(addressOf(t, env, "data0"), addressOf(t, env, "data1"))
	require.NoError(t, f.RetryNow(t.Context()))
	require.NoError(t, f.HookHandler().HandleHook(t.Context(), missing))
	assert.Positive(t, values(t, registry)["qsfs_fetches_total{result=ok}"])
}

// A lost backend shows as down, as fewer losses that can be borne, and as
// endangered objects; one that is no longer in use leaves.
func TestMetricsTellOfLostBackends(t *testing.T) {
	t.Parallel()
	wiring := testenv.InProcess(t)
	env := testenv.New(t, testenv.Options{Provisioner: wiring, Data: 5, Shards: 5, MinShards: 3})
	registry := prometheus.NewRegistry()
	f := env.Frontend(t, qsfs.WithRegisterer(registry))
	f.Write(t, "a", random(1, 1<<20))
	f.MustSync(t)
	all := eventually(t, registry, "all are up", func(v map[string]float64) bool { return sum(v, "qsfs_backend_up") == 9 })
	assert.EqualValues(t, 2, all["qsfs_tolerated_losses{role=data}"])
	assert.EqualValues(t, 2, all["qsfs_tolerated_losses{role=meta}"])
	assert.Zero(t, all["qsfs_endangered_objects{role=data}"])
	assert.Positive(t, all["healthy_file_configs"])
	address := addressOf(t, env, "data0").String()
	eventually(t, registry, "it tells what it holds", func(v map[string]float64) bool {
		return v["qsfs_backend_used_bytes{address="+address+",backend=data0,role=data}"] > 0
	})

	wiring.Kill(t, "data0")
	all = eventually(t, registry, "one is down", func(v map[string]float64) bool { return sum(v, "qsfs_backend_up") == 8 })
	assert.EqualValues(t, 1, all["qsfs_tolerated_losses{role=data}"])
	assert.Equal(t, all["qsfs_queue_stored_files"], all["qsfs_endangered_objects{role=data}"], "each has a part there: k+1 are left")
	assert.Zero(t, all["healthy_file_configs"])
	assert.Positive(t, all["unhealthy_file_configs"])
	assert.Zero(t, all["zstor_backend_status{address="+address+",backend_type=data,namespace=data0}"])
	assert.EqualValues(t, 1, all["qsfs_backend_state{address="+address+",backend=data0,role=data,state=down}"])
	assert.NotContains(t, all, "qsfs_backend_used_bytes{address="+address+",backend=data0,role=data}", "nothing is known of it")
}

// A scrape shows the last look, and how old it is, where a new one hangs.
func TestScrapeNeverHangs(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	hang := make(chan struct{})
	var hangs atomic.Bool
	registry := prometheus.NewRegistry()
	f := env.Frontend(t, qsfs.WithRegisterer(registry))
	f.MustSync(t)
	assert.Less(t, values(t, registry)["qsfs_status_age_seconds"], 1.0)
	restore := qsfs.HangStatus(f.System, func() {
		if hangs.Load() {
			<-hang
		}
	})
	defer restore()
	hangs.Store(true)
	defer close(hang)
	all := eventually(t, registry, "the look grows old", func(v map[string]float64) bool { return v["qsfs_status_age_seconds"] > 1.5 })
	assert.Contains(t, all, "qsfs_loss_window_bytes")
	began := time.Now()
	values(t, registry)
	assert.Less(t, time.Since(began), 3*time.Second)
}

// Events are counted by kind, with their failures and times.
func TestHookMetrics(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	registry := prometheus.NewRegistry()
	f := env.Frontend(t, qsfs.WithRegisterer(registry))
	h := f.HookHandler()
	before := values(t, registry)["qsfs_hook_events_total{kind=namespace-updated,result=ok}"]
	require.NoError(t, h.HandleHook(t.Context(), hooks.Event{Kind: hooks.NamespaceUpdated, Namespace: "zdbfs-data"}))
	require.Error(t, h.HandleHook(t.Context(), hooks.Event{Kind: hooks.MissingData, Data: "/nowhere/zdbfs-data/d77"}))
	all := values(t, registry)
	assert.EqualValues(t, 1+before, all["qsfs_hook_events_total{kind=namespace-updated,result=ok}"])
	assert.EqualValues(t, 1, all["qsfs_hook_events_total{kind=missing-data,result=failed}"])
	assert.EqualValues(t, 1, all["qsfs_hook_event_duration_seconds{kind=missing-data}"])
}

// /metrics speaks OpenMetrics, and answers while the system starts.
func TestMetricsOverHTTP(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	registry := prometheus.NewRegistry()
	sys := env.Open(t, t.TempDir(), qsfs.WithRegisterer(registry))
	srv := httptest.NewServer(sys.Handler(registry))
	defer srv.Close()
	get := func(path string) (int, string, http.Header) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+path, nil)
		require.NoError(t, err)
		req.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(body), resp.Header
	}
	code, _, _ := get("/readyz")
	assert.Equal(t, http.StatusServiceUnavailable, code)
	code, _, _ = get("/healthz")
	assert.Equal(t, http.StatusOK, code)

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- sys.Run(ctx) }()
	<-sys.Ready()
	code, _, _ = get("/readyz")
	assert.Equal(t, http.StatusOK, code)
	code, body, header := get("/metrics")
	assert.Equal(t, http.StatusOK, code)
	assert.Contains(t, header.Get("Content-Type"), "application/openmetrics-text")
	assert.True(t, strings.HasSuffix(body, "# EOF\n"))
	assert.Contains(t, body, "qsfs_loss_window_bytes")
	cancel()
	require.NoError(t, errors.Join(<-ended))
	code, _, _ = get("/readyz")
	assert.Equal(t, http.StatusServiceUnavailable, code)
}

var _ = backend.Up
