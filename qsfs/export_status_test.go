package qsfs

import (
	"context"

	"github.com/threefoldtech/quantumd/qsfs/client"
)

// HangStatus has f called before each look of the shared snapshots, until the
// function that it gives is called.
func HangStatus(s *System, f func()) func() {
	s.recent.mu.Lock()
	defer s.recent.mu.Unlock()
	s.recent.look = func(ctx context.Context) (*client.Status, error) {
		f()
		return s.Status(ctx)
	}
	return func() {
		s.recent.mu.Lock()
		defer s.recent.mu.Unlock()
		s.recent.look = s.Status
	}
}

// WithProbe adds a part to what Alive asks.
func WithProbe(f func(context.Context)) Option { return func(o *options) { o.probe = f } }

// StopHealth has the look at the backends seem to hang.
func StopHealth(s *System) { s.healthPulse.at.Store(1) }

// Workers is the number of uploaders.
func Workers(s *System) int {
	s.workers.mu.Lock()
	defer s.workers.mu.Unlock()
	return len(s.workers.stops)
}

// DescribedMetrics are the names that the collector describes.
func DescribedMetrics(s *System) map[string]bool {
	out := map[string]bool{}
	for name := range newCollector(s).descs {
		out[name] = true
	}
	return out
}
