package zstor

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/backend"
)

// connections keeps one Conn per namespace in use, dialed when first needed.
type connections struct {
	dialer  backend.Dialer
	timeout time.Duration
	// patience is how long an operation waits for the probe of an open breaker.
	patience time.Duration

	log    *slog.Logger
	life   context.Context // of probes
	end    context.CancelFunc
	probes sync.WaitGroup

	mu       sync.Mutex
	closed   bool // no new probes
	conns    map[connKey]*connection
	failed   map[connKey]time.Time // when an operation last got no answer
	breakers map[connKey]*breaker  // of backends that ever failed
}

type connKey struct {
	addr     netip.AddrPort
	ns       string
	password backend.Secret
}

func keyOf(b backend.Backend) connKey { return connKey{b.Address, b.Namespace, b.Password} }

type connection struct {
	c       *connections
	b       backend.Backend
	dialing chan struct{} // holds one token: who takes it may dial
	conn    backend.Conn  // under dialing

	users int  // under c.mu
	stale bool // under c.mu: close with the last user
}

func newConnections(d backend.Dialer, timeout, patience time.Duration, log *slog.Logger) *connections {
	c := &connections{dialer: d, log: log, timeout: timeout, patience: patience,
		conns: map[connKey]*connection{}, failed: map[connKey]time.Time{}, breakers: map[connKey]*breaker{}}
	c.life, c.end = context.WithCancel(context.Background())
	return c
}

// use runs f with the connection to b under the limit of one operation, and
// remembers whether b answered. Errors that are no answer come as
// *backend.UnreachableError, unless ctx itself ended. While b's circuit breaker is
// open it is not asked.
func (c *connections) use(ctx context.Context, b backend.Backend, f func(context.Context, backend.Conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := c.admit(ctx, b); err != nil {
		return err
	}
	k := c.get(b)
	defer c.put(k)
	limited, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	conn, err := k.dial(limited)
	if err == nil {
		err = f(limited, conn)
	}
	return c.judge(ctx, b, err, limited.Err() != nil)
}

// errLate is the cause of a context that ended because its backend took too long
// while the others had answered.
var errLate = errors.New("the others answered long ago")

// judge classifies an error and keeps the memory of failures. timedOut: the limit
// of one operation was over.
func (c *connections) judge(ctx context.Context, b backend.Backend, err error, timedOut bool) error {
	answered := isAnswer(err)
	weight := 1
	if !answered {
		late := context.Cause(ctx) == errLate
		if ctx.Err() != nil && !late {
			return ctx.Err() // the caller gave up; says nothing of the backend
		}
		if timedOut && !late {
			weight = breakerFailures
		}
		var unreachable *backend.UnreachableError
		if !errors.As(err, &unreachable) {
			err = &backend.UnreachableError{Address: b.Address, Err: err}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if answered {
		c.answeredLocked(b)
	} else {
		c.failedLocked(b, err, weight)
	}
	return err
}

// stalled remembers that b made no progress where others did: it is asked last for
// a while.
func (c *connections) stalled(b backend.Backend) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed[keyOf(b)] = time.Now()
}

// failedWithin says whether b gave no answer in the last d and none since, or is not
// asked at all.
func (c *connections) failedWithin(b backend.Backend, d time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if br := c.breakers[keyOf(b)]; br != nil && br.open {
		return true
	}
	t, ok := c.failed[keyOf(b)]
	return ok && time.Since(t) < d
}

func (c *connections) get(b backend.Backend) *connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.conns[keyOf(b)]
	if !ok {
		k = &connection{c: c, b: b, dialing: make(chan struct{}, 1)}
		k.dialing <- struct{}{}
		c.conns[keyOf(b)] = k
	}
	k.users++
	return k
}

func (c *connections) put(k *connection) {
	c.mu.Lock()
	k.users--
	last := k.stale && k.users == 0
	c.mu.Unlock()
	if last {
		_ = k.close() // nobody uses it, and nothing is unwritten
	}
}

func (k *connection) dial(ctx context.Context) (backend.Conn, error) {
	select { // a dial that hangs must not outlast those who wait for it
	case <-k.dialing:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { k.dialing <- struct{}{} }()
	if k.conn == nil {
		conn, err := k.c.dialer.Dial(ctx, k.b)
		if err != nil {
			return nil, err
		}
		k.conn = conn
	}
	return k.conn, nil
}

func (k *connection) close() error {
	<-k.dialing
	defer func() { k.dialing <- struct{}{} }()
	if k.conn == nil {
		return nil
	}
	err := k.conn.Close()
	k.conn = nil
	return err
}

// keepOnly closes connections to backends that are not listed, each when its last
// user is done.
func (c *connections) keepOnly(bs []backend.Backend) {
	listed := map[connKey]bool{}
	for _, b := range bs {
		listed[keyOf(b)] = true
	}
	var idle []*connection
	c.mu.Lock()
	for key, k := range c.conns {
		if listed[key] {
			continue
		}
		delete(c.conns, key)
		delete(c.failed, key)
		k.stale = true
		if k.users == 0 {
			idle = append(idle, k)
		}
	}
	for key := range c.breakers {
		if !listed[key] {
			delete(c.breakers, key)
		}
	}
	c.mu.Unlock()
	for _, k := range idle {
		_ = k.close() // nobody uses it, and nothing is unwritten
	}
}

// close closes all; nobody uses any.
func (c *connections) close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.end()
	c.probes.Wait()
	c.mu.Lock()
	conns := c.conns
	c.conns = map[connKey]*connection{}
	c.mu.Unlock()
	var errs []error
	for _, k := range conns {
		errs = append(errs, k.close())
	}
	return errors.Join(errs...)
}
