package qsfs

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/dashboard"
)

// Handler serves the dashboard at /, /metrics of what gatherer gathers,
// /healthz (the process lives) and /readyz (the tree serves). Being degraded
// fails neither. It can serve before [System.Run], and tells no secret; who may
// reach it may read it.
func (s *System) Handler(gatherer prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{EnableOpenMetrics: true,
		MaxRequestsInFlight: 8, Timeout: 10 * time.Second}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.serving(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.Handle("/", dashboard.New(shown{s}, dashboard.Options{Logger: s.log}))
	return mux
}

// shown is the system as the dashboard sees it.
type shown struct{ sys *System }

// Status gives the newest look that is there within a second, or the last one.
func (s shown) Status(ctx context.Context) (*client.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	st, _, err := s.sys.recent.get(ctx, 250*time.Millisecond)
	return st, err
}

func (s shown) Events(ctx context.Context, limit int) ([]client.Event, error) {
	list, err := s.sys.Events(ctx, "", limit)
	if err != nil {
		return nil, err
	}
	return list.Events, nil
}

func (s shown) Changed() <-chan struct{} { return s.sys.changed.next() }

// ServedAt has status tell where [System.Handler] is served.
func (s *System) ServedAt(url string) { s.web.Store(&url) }

func (s *System) servedAt() string {
	if url := s.web.Load(); url != nil {
		return *url
	}
	return ""
}
