package zstor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/threefoldtech/quantumd/backend"
)

// A circuit breaker per backend: one that gave no answer several times in a row is
// not asked for a while, so that each of thousands of stores and reads does not
// wait for it anew. Its breaker is open: every operation on it ends at once as
// *backend.UnreachableError, which matches ErrBreakerOpen, and never says that
// something does not exist. When the time is over one probe asks it something
// small; until that is answered nobody else waits for it.

// ErrBreakerOpen says that a backend was not asked, because it gave no answer again
// and again a moment ago.
var ErrBreakerOpen = errors.New("zstor: not asked, its circuit breaker is open")

const (
	breakerFailures = 3               // moments without an answer, in a row, open a breaker; or one operation that took the whole time limit
	breakerFirst    = time.Second     // how long it is open at first
	breakerLongest  = time.Minute     // and at most, as it doubles
	probeTime       = 5 * time.Second // for the answer to a probe
)

// BreakerState is that of one backend's circuit breaker.
type BreakerState string

// The states of a circuit breaker.
const (
	BreakerClosed   BreakerState = "closed"    // the backend is asked
	BreakerOpen     BreakerState = "open"      // it is not
	BreakerHalfOpen BreakerState = "half-open" // one probe asks it
)

// BackendStats is what the engine knows of one backend that it used.
type BackendStats struct {
	Backend  backend.Backend
	Breaker  BreakerState
	Failures int       // in a row
	Opened   uint64    // times that the breaker opened, since Open
	Since    time.Time // of the state; zero where the backend never failed
	Next     time.Time // when a probe may ask an open one
	Err      error     // of the last failure; nil when closed
}

// breaker is the circuit breaker of one backend; connections.mu guards it.
type breaker struct {
	b        backend.Backend
	open     bool
	failures int
	counted  time.Time // the last of them
	row      int       // times opened since an operation last succeeded
	opened   uint64
	since    time.Time
	until    time.Time
	probe    *probe
	deaf     bool // somebody else said that it answers, and then it did not
	err      error
}

type probe struct {
	began time.Time
	done  chan struct{}
}

// breakerLocked gives the breaker of b, made when it is first needed.
func (c *connections) breakerLocked(b backend.Backend) *breaker {
	br := c.breakers[keyOf(b)]
	if br == nil {
		br = &breaker{b: b}
		c.breakers[keyOf(b)] = br
	}
	return br
}

// admit says whether b is asked. Who comes while a probe is young waits for its
// answer, at most c.patience from its start.
func (c *connections) admit(ctx context.Context, b backend.Backend) error {
	c.mu.Lock()
	br := c.breakers[keyOf(b)]
	if br == nil || !br.open {
		c.mu.Unlock()
		return nil
	}
	c.probeLocked(br)
	p, err := br.probe, br.refusal()
	c.mu.Unlock()
	if p == nil || !c.await(ctx, p) {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if br.open {
		return br.refusal()
	}
	return nil
}

// await waits for a young probe; false when there is no answer.
func (c *connections) await(ctx context.Context, p *probe) bool {
	timer := time.NewTimer(c.patience - time.Since(p.began))
	defer timer.Stop()
	select {
	case <-p.done:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// settle has probes ask those of bs whose time is over, and waits for them a moment.
func (c *connections) settle(ctx context.Context, bs []backend.Backend) {
	var probes []*probe
	c.mu.Lock()
	for _, b := range bs {
		if br := c.breakers[keyOf(b)]; br != nil && br.open {
			if c.probeLocked(br); br.probe != nil {
				probes = append(probes, br.probe)
			}
		}
	}
	c.mu.Unlock()
	for _, p := range probes {
		c.await(ctx, p)
	}
}

// probeLocked starts the probe of an open breaker whose time is over.
func (c *connections) probeLocked(br *breaker) {
	if br.probe != nil || c.closed || time.Now().Before(br.until) {
		return
	}
	p := &probe{began: time.Now(), done: make(chan struct{})}
	br.probe = p
	c.probes.Go(func() {
		err := c.ask(br.b)
		c.mu.Lock()
		defer c.mu.Unlock()
		br.probe = nil
		switch {
		case !br.open: // an operation that was under way was answered meanwhile
		case isAnswer(err):
			br.close()
			c.log.Info("backend answers again", "backend", br.b.ID, "address", br.b.Address)
			delete(c.failed, keyOf(br.b))
		default:
			br.err = err
			br.trip()
		}
		close(p.done)
	})
}

// ask has b say something small.
func (c *connections) ask(b backend.Backend) error {
	ctx, cancel := context.WithTimeout(c.life, min(probeTime, c.timeout))
	defer cancel()
	k := c.get(b)
	defer c.put(k)
	conn, err := k.dial(ctx)
	if err == nil {
		_, err = conn.Info(ctx)
	}
	return err
}

// isAnswer says whether an error, or none, is what the backend itself said.
func isAnswer(err error) bool {
	return err == nil || errors.Is(err, backend.ErrNotFound) || errors.Is(err, backend.ErrFull) ||
		errors.Is(err, backend.ErrLocked) || errors.Is(err, backend.ErrAccess) || errors.Is(err, backend.ErrMode)
}

// failedLocked counts a failure.
func (c *connections) failedLocked(b backend.Backend, err error, weight int) {
	c.failed[keyOf(b)] = time.Now()
	br := c.breakerLocked(b)
	// Many operations at a time meet one fault: within a moment they count as one.
	if now := time.Now(); weight > 1 || br.failures == 0 || now.Sub(br.counted) >= c.patience {
		br.failures += weight
		br.counted = now
	}
	br.err = err
	if !br.open && (br.failures >= breakerFailures || br.row > 0) {
		br.trip()
		c.log.Warn("backend is not asked for a while", "backend", b.ID, "address", b.Address, "failures", br.failures, "err", err)
	}
}

// answeredLocked forgets all failures.
func (c *connections) answeredLocked(b backend.Backend) {
	delete(c.failed, keyOf(b))
	if br := c.breakers[keyOf(b)]; br != nil && (br.failures > 0 || br.row > 0) {
		br.row, br.deaf = 0, false
		br.close()
	}
}

// trip opens the breaker, or keeps it open, for longer than the last time.
func (br *breaker) trip() {
	if !br.open {
		br.open, br.since = true, time.Now()
		br.opened++
	}
	d := breakerLongest
	if br.row < 6 {
		d = min(d, breakerFirst<<br.row)
	}
	br.row++
	br.until = time.Now().Add(d/2 + rand.N(d/2+1))
}

// close lets operations pass. Until one of them is answered the first failure opens
// it again.
func (br *breaker) close() {
	if br.open {
		br.since = time.Now()
	}
	br.open, br.failures, br.err = false, 0, nil
}

func (br *breaker) refusal() error {
	cause := br.err
	var silent *backend.UnreachableError
	if errors.As(cause, &silent) && silent.Err != nil {
		cause = silent.Err // that it does not answer is said once
	}
	return &backend.UnreachableError{Address: br.b.Address, Err: fmt.Errorf("%w for %s: %w",
		ErrBreakerOpen, time.Since(br.since).Round(time.Millisecond), cause)}
}

// isOpen says whether b would not be asked now.
func (c *connections) isOpen(b backend.Backend) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	br := c.breakers[keyOf(b)]
	return br != nil && br.open
}

// refusals says why backends are not asked.
func (c *connections) refusals(bs []backend.Backend) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, b := range bs {
		if br := c.breakers[keyOf(b)]; br != nil && br.open {
			errs = append(errs, fmt.Errorf("%s: %w", b, br.refusal()))
		}
	}
	return errors.Join(errs...)
}

// reachable closes the breaker of b because somebody else saw it answer. It does so
// once: where b then gave no answer all the same, its own probes decide.
func (c *connections) reachable(b backend.Backend) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if br := c.breakers[keyOf(b)]; br != nil && br.open && !br.deaf {
		br.close()
		br.deaf = true
		delete(c.failed, keyOf(b))
	}
}

// backendStats lists what is known of bs.
func (c *connections) backendStats(bs []backend.Backend) []BackendStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]BackendStats, 0, len(bs))
	for _, b := range bs {
		s := BackendStats{Backend: b, Breaker: BreakerClosed}
		if br := c.breakers[keyOf(b)]; br != nil {
			s.Failures, s.Opened, s.Since, s.Err = br.failures, br.opened, br.since, br.err
			if br.open {
				s.Breaker, s.Next = BreakerOpen, br.until
			}
			if br.probe != nil {
				s.Breaker = BreakerHalfOpen
			}
		}
		out = append(out, s)
	}
	return out
}

// Reachable tells the Engine that b was just seen to answer: its circuit breaker
// closes at once, and does not wait for its next probe.
func (e *Engine) Reachable(b backend.Backend) { e.conns.reachable(b) }

// Backends tells what the Engine knows of each backend of its config, data backends
// first.
func (e *Engine) Backends() []BackendStats {
	e.mu.RLock()
	all := append(append([]backend.Backend(nil), e.cfg.Data...), e.cfg.Meta...)
	e.mu.RUnlock()
	return e.conns.backendStats(all)
}
