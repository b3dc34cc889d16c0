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
