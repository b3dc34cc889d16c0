package qsfs

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/internal/boottime"
	"github.com/threefoldtech/quantumd/qsfs/client"
)

// snapshots shares looks at the system among those who look often: scrapes,
// the dashboard, the service manager. There is at most one look under way, and
// nobody waits for it longer than he likes.
type snapshots struct {
	look   func(context.Context) (*client.Status, error)
	failed func() // is called for each look that failed

	mu      sync.Mutex
	last    *client.Status // must not be changed
	at      time.Duration  // boot time of last; zero: none yet
	took    time.Duration
	err     error         // of the newest look
	running chan struct{} // closed at its end; nil: none is under way
	looks   sync.WaitGroup
}

var errNoSnapshot = errors.New("nothing is known yet")

// lookTimeout bounds one look.
const lookTimeout = 30 * time.Second

// get gives a status and its age. Where the last one is older than maxAge (or
// than twenty times what it cost) a new one is waited for until ctx ends; then
// the old one is better than none.
func (s *snapshots) get(ctx context.Context, maxAge time.Duration) (*client.Status, time.Duration, error) {
	done := s.refresh(maxAge)
	if done != nil {
		select {
		case <-done:
		case <-ctx.Done():
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == 0 {
		return nil, 0, errors.Join(errNoSnapshot, s.err)
	}
	return s.last, boottime.Now() - s.at, s.err
}

// refresh begins a look where one is due, and gives what is closed at its end;
// nil: what there is is new enough.
func (s *snapshots) refresh(maxAge time.Duration) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at != 0 && boottime.Now()-s.at < max(maxAge, 20*s.took) && s.err == nil {
		return nil
	}
	if s.running != nil {
		return s.running
	}
	done := make(chan struct{})
	s.running = done
	s.looks.Go(func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
		defer cancel()
		began := boottime.Now()
		st, err := s.look(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.running, s.err = nil, err
		if err != nil {
			s.failed()
		} else {
			s.last, s.at, s.took = st, boottime.Now(), boottime.Now()-began
		}
	})
	return done
}

// wait returns when no look is under way.
func (s *snapshots) wait() { s.looks.Wait() }
