package qsfs

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/threefoldtech/quantumd/hooks"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// The outcomes that counters tell apart.
const (
	outcomeOK     = "ok"
	outcomeFailed = "failed"
)

// meters count what the system does, where it is done. A failure is counted by
// the same call as a success: no metric says OK of work that failed.
type meters struct {
	uploads       *prometheus.CounterVec // kind, result
	uploadBytes   prometheus.Counter
	uploadSeconds prometheus.Histogram
	fetches       *prometheus.CounterVec // result
	checkpoints   *prometheus.CounterVec // result
	evicted       prometheus.Counter
	evictedBytes  prometheus.Counter
	hookEvents    *prometheus.CounterVec   // kind, result
	hookSeconds   *prometheus.HistogramVec // kind
	statusFailed  prometheus.Counter
	pushes        *prometheus.CounterVec // result

	cycle           atomic.Int64 // unix ms of the end of the last round of uploads or checkpoints; zero: none
	checkpointError atomic.Pointer[string]
	checkpointsLost atomic.Int64 // checkpoints that failed since the last one that did not
}

// hookBuckets go from what an answer costs to the minutes that a fetch may take.
var hookBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120}

func newMeters(deployment string) *meters {
	labels := prometheus.Labels{"deployment": deployment}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels})
	}
	vec := func(name, help string, by ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, by)
	}
	m := &meters{
		uploads:     vec("qsfs_uploads_total", "Tries to bring a file to the backends, by kind of file and result.", "kind", "result"),
		uploadBytes: counter("qsfs_uploaded_file_bytes_total", "Bytes of files that were brought to the backends and confirmed there."),
		uploadSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "qsfs_upload_duration_seconds", ConstLabels: labels,
			Help: "Duration of uploads that succeeded.", Buckets: prometheus.ExponentialBuckets(.01, 2, 15)}),
		fetches:      vec("qsfs_fetches_total", "Tries to bring a dropped data file back, by result.", "result"),
		checkpoints:  vec("qsfs_checkpoints_total", "Tries to commit a checkpoint, by result.", "result"),
		evicted:      counter("qsfs_evicted_files_total", "Local data files that were dropped because they are safe on the backends."),
		evictedBytes: counter("qsfs_evicted_bytes_total", "Bytes of local data files that were dropped."),
		hookEvents:   vec("qsfs_hook_events_total", "Events of the frontend's zdb, by kind and result.", "kind", "result"),
		hookSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "qsfs_hook_event_duration_seconds", ConstLabels: labels,
			Help: "Time from an event to its answer.", Buckets: hookBuckets}, []string{"kind"}),
		statusFailed: counter("qsfs_status_failures_total", "Looks at the system itself that failed: while this grows, other values are old."),
		pushes:       vec("qsfs_pushes_total", "Pushes to a pushgateway, by result.", "result"),
	}
	for _, r := range []string{outcomeOK, outcomeFailed} { // a rate needs a value from before the first failure
		for _, v := range []*prometheus.CounterVec{m.fetches, m.checkpoints, m.pushes} {
			v.WithLabelValues(r)
		}
		for _, kind := range []string{"data", "index", "descriptor"} {
			m.uploads.WithLabelValues(kind, r)
		}
	}
	return m
}

func (m *meters) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.uploads, m.uploadBytes, m.uploadSeconds, m.fetches, m.checkpoints, m.evicted, m.evictedBytes,
		m.hookEvents, m.hookSeconds, m.statusFailed, m.pushes}
}

func outcome(err error) string {
	if err != nil {
		return outcomeFailed
	}
	return outcomeOK
}

// uploaded counts one try of an upload.
func (m *meters) uploaded(kind string, bytes int64, took time.Duration, err error) {
	m.uploads.WithLabelValues(kind, outcome(err)).Inc()
	if err == nil {
		m.uploadBytes.Add(float64(bytes))
		m.uploadSeconds.Observe(took.Seconds())
	}
	m.cycled()
}

// cycled says that a round of work is over: the reference's last_retry_run_time.
func (m *meters) cycled() { m.cycle.Store(time.Now().UnixMilli()) }

// checkpointed counts one try of a checkpoint, and keeps why the last failed.
func (m *meters) checkpointed(err error) {
	m.checkpoints.WithLabelValues(outcome(err)).Inc()
	m.cycled()
	if err == nil {
		m.checkpointsLost.Store(0)
		m.checkpointError.Store(nil)
		return
	}
	text := err.Error()
	m.checkpointError.Store(&text)
	m.checkpointsLost.Add(1)
}

func (m *meters) evictedFile(bytes int64) {
	m.evicted.Inc()
	m.evictedBytes.Add(float64(bytes))
}

// hooked counts the events that h answers.
func (m *meters) hooked(h hooks.HookHandler) hooks.HookHandler {
	return hooks.HandlerFunc(func(ctx context.Context, e hooks.Event) error {
		began := time.Now()
		err := h.HandleHook(ctx, e)
		m.hookSeconds.WithLabelValues(string(e.Kind)).Observe(time.Since(began).Seconds())
		m.hookEvents.WithLabelValues(string(e.Kind), outcome(err)).Inc()
		return err
	})
}

// deploymentLabel names the deployment in metrics.
func deploymentLabel(cfg *config.Config) string {
	if cfg.DeploymentName != "" {
		return cfg.DeploymentName
	}
	return "default"
}
