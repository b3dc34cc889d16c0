package main

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/threefoldtech/quantumd/qsfs"
)

// serveWeb serves the dashboard, /metrics, /healthz and /readyz. That it cannot
// is no reason not to run: it is said, and the system goes on without.
func (r *runner) serveWeb(sys *qsfs.System, registry *prometheus.Registry) func() error {
	none := func() error { return nil }
	addr := r.cfg.Metrics.Listen
	if addr == "off" {
		return none
	}
	l, err := r.listenWeb(addr)
	if err != nil {
		r.app.notef("metrics and dashboard are not served: %v (name another address with --set 'metrics={listen: \"127.0.0.1:0\"}', or metrics in the configuration)", err)
		return none
	}
	if a, err := netip.ParseAddrPort(l.Addr().String()); err == nil && !a.Addr().IsLoopback() {
		r.app.logger().Warn("metrics and dashboard can be read by everybody who reaches this address; they show no secret and change nothing", "address", l.Addr())
	}
	srv := &http.Server{Handler: sys.Handler(registry), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = srv.Serve(l) // it ends with Close
	}()
	sys.ServedAt("http://" + l.Addr().String() + "/")
	r.app.notef("dashboard: http://%s/", l.Addr())
	r.app.notef("metrics: http://%s/metrics", l.Addr())
	return func() error {
		err := srv.Close()
		<-ended
		return err
	}
}

func (r *runner) listenWeb(addr string) (net.Listener, error) {
	if r.cfg.PrometheusPort != 0 {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		addr = net.JoinHostPort(host, fmt.Sprint(r.cfg.PrometheusPort))
	}
	return net.Listen("tcp", addr)
}
