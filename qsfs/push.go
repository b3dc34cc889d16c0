package qsfs

import (
	"context"
	"os"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/threefoldtech/quantumd/qsfs/pushgateway"
)

// startPush starts the pusher. What it does follows the configuration, also
// when that is loaded again.
func (s *System) startPush(ctx context.Context, stops *stopStack) error {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	gather, ok := s.opts.registerer.(prometheus.Gatherer)
	if !ok {
		own := prometheus.NewRegistry()
		if err := own.Register(newCollector(s)); err != nil {
			return err
		}
		gather = own
	}
	p := pushgateway.New(pushgateway.Options{
		Gatherer: gather,
		Address:  func() string { return s.settings().Metrics.Pushgateway },
		Auto:     s.opts.pushAuto,
		Every:    s.opts.pushEvery,
		Host:     host,
		System:   deploymentLabel(s.cfg),
		Pushed:   func(err error) { s.meters.pushes.WithLabelValues(outcome(err)).Inc() },
		Logger:   s.log.With("component", "metrics"),
	})
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.Run(ctx)
	}()
	stops.push(func() error {
		cancel()
		<-ended
		return nil
	})
	return nil
}
