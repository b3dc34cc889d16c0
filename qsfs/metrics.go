package qsfs

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/threefoldtech/quantumd/qsfs/client"
)

// collector shows the status as metrics. It keeps nothing: each scrape looks.
type collector struct {
	sys   *System
	descs map[string]*prometheus.Desc
}

var gauges = []struct {
	name, help string
	value      func(*client.Status) float64
}{
	{"qsfs_loss_window_bytes", "Bytes that would be lost with this machine now.", func(s *client.Status) float64 { return float64(s.LossWindow.Bytes) }},
	{"qsfs_loss_window_seconds", "Age of the oldest byte that is not on the backends.", func(s *client.Status) float64 { return s.LossWindow.Seconds }},
	{"qsfs_queue_pending_files", "Files that wait for their upload.", func(s *client.Status) float64 { return float64(s.Queue.Pending) }},
	{"qsfs_queue_uploading_files", "Files that are being uploaded.", func(s *client.Status) float64 { return float64(s.Queue.Uploading) }},
	{"qsfs_queue_failed_files", "Files whose upload failed and is tried again.", func(s *client.Status) float64 { return float64(s.Queue.Failed) }},
	{"qsfs_queue_pending_bytes", "Bytes that are not on the backends yet, in closed files.", func(s *client.Status) float64 { return float64(s.Queue.BytesPending) }},
	{"qsfs_cache_bytes", "Disk space of local data files.", func(s *client.Status) float64 { return float64(s.Cache.Bytes) }},
	{"qsfs_cache_limit_bytes", "Most disk space of local data files.", func(s *client.Status) float64 { return float64(s.Cache.Limit) }},
	{"qsfs_checkpoint_seq", "Number of the newest committed checkpoint.", func(s *client.Status) float64 { return float64(s.Checkpoint.Seq) }},
	{"qsfs_epoch", "Epoch of this frontend.", func(s *client.Status) float64 { return float64(s.Epoch) }},
}

func newCollector(s *System) *collector {
	c := &collector{sys: s, descs: map[string]*prometheus.Desc{}}
	labels := prometheus.Labels{"deployment": s.cfg.DeploymentName}
	for _, g := range gauges {
		c.descs[g.name] = prometheus.NewDesc(g.name, g.help, nil, labels)
	}
	c.descs["up"] = prometheus.NewDesc("qsfs_backend_up", "Whether a backend works.", []string{"backend", "role", "address"}, labels)
	c.descs["sent"] = prometheus.NewDesc("qsfs_backend_sent_bytes_total", "Bytes of shards sent to backends.", nil, labels)
	c.descs["fetched"] = prometheus.NewDesc("qsfs_backend_fetched_bytes_total", "Bytes of shards fetched from backends.", nil, labels)
	return c
}

// Describe sends every description.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect looks once.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	st, err := c.sys.Status(ctx)
	if err != nil || c.sys.serving() != nil {
		return
	}
	for _, g := range gauges {
		ch <- prometheus.MustNewConstMetric(c.descs[g.name], prometheus.GaugeValue, g.value(st))
	}
	for _, b := range st.Backends {
		up := 0.0
		if b.State == "up" {
			up = 1
		}
		ch <- prometheus.MustNewConstMetric(c.descs["up"], prometheus.GaugeValue, up, b.ID, b.Role, b.Address)
	}
	ch <- prometheus.MustNewConstMetric(c.descs["sent"], prometheus.CounterValue, float64(st.Transfer.SentBytes))
	ch <- prometheus.MustNewConstMetric(c.descs["fetched"], prometheus.CounterValue, float64(st.Transfer.FetchedBytes))
}

// registerMetrics registers the collector, where a registerer is given, for as
// long as the system runs.
func (s *System) registerMetrics(stops *stopStack) error {
	if s.opts.registerer == nil {
		return nil
	}
	c := newCollector(s)
	if err := s.opts.registerer.Register(c); err != nil {
		return err
	}
	stops.push(func() error {
		s.opts.registerer.Unregister(c)
		return nil
	})
	return nil
}
