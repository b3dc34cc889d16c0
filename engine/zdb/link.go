package zdb

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/internal/resp"
)

// link is one connection. Requests go out in the order of their calls, and
// answers come back in that order.
type link struct {
	nc      net.Conn
	timeout time.Duration
	done    sync.WaitGroup // the reading goroutine

	mu      sync.Mutex
	out     []byte // requests that wait for the one who writes
	spare   []byte
	writing bool
	pending []*call // in the order of their requests
	err     error   // why the link is dead
}

type call struct {
	since time.Time
	done  chan struct{}
	reply resp.Reply
	err   error
}

// errIdle ends calls that find their connection dead before a byte was sent.
var errIdle = errors.New("connection was closed while idle")

const keepBuffer = 1 << 20

func newLink(nc net.Conn, timeout time.Duration) *link {
	l := &link{nc: nc, timeout: timeout}
	l.done.Go(l.read)
	return l
}

// load is the number of unanswered requests, or -1 for a dead link.
func (l *link) load() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return -1
	}
	return len(l.pending)
}

// do sends a request and waits for its answer. When ctx ends first, the answer
// is dropped when it comes. When the oldest request has waited too long, the
// link is given up: whoever comes next would wait behind it.
func (l *link) do(ctx context.Context, args ...[]byte) (resp.Reply, error) {
	c := &call{done: make(chan struct{}), since: time.Now()}
	if err := l.send(c, args); err != nil {
		return resp.Reply{}, err
	}
	select {
	case <-c.done:
		return c.reply, c.err
	case <-ctx.Done():
		l.giveUp()
		return resp.Reply{}, ctx.Err()
	}
}

// send queues a request. Whoever finds nobody writing writes for all that
// come meanwhile.
func (l *link) send(c *call, args [][]byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return errIdle
	}
	l.out = resp.AppendCommand(l.out, args...)
	l.pending = append(l.pending, c)
	if l.writing {
		return nil
	}
	l.writing = true
	for len(l.out) > 0 && l.err == nil {
		b := l.out
		l.out = l.spare[:0]
		l.mu.Unlock()
		err := l.write(b)
		l.mu.Lock()
		l.spare = nil
		if cap(b) <= keepBuffer {
			l.spare = b
		}
		if err != nil {
			l.killLocked(err)
		}
	}
	l.writing = false
	return nil
}

// writeTimeout ends a connection whose other side does not read.
const writeTimeout = time.Minute

func (l *link) write(b []byte) error {
	if err := l.nc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := l.nc.Write(b)
	return err
}

func (l *link) read() {
	r := resp.NewReplyReader(l.nc)
	for {
		p, err := r.Read()
		l.mu.Lock()
		if err == nil && len(l.pending) == 0 {
			err = errors.New("answer without a request")
		}
		if err != nil {
			l.killLocked(err)
			l.mu.Unlock()
			return
		}
		c := l.pending[0]
		l.pending[0] = nil
		l.pending = l.pending[1:]
		l.mu.Unlock()
		c.reply = p
		close(c.done)
	}
}

// giveUp ends a link that does not answer any more.
func (l *link) giveUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pending) > 0 && time.Since(l.pending[0].since) >= l.timeout {
		l.killLocked(context.DeadlineExceeded)
	}
}

func (l *link) kill(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.killLocked(err)
}

func (l *link) killLocked(err error) {
	if l.err != nil {
		return
	}
	l.err = err
	l.nc.Close() // the reading goroutine ends; nothing is left to save
	for _, c := range l.pending {
		c.err = err
		close(c.done)
	}
	l.pending = nil
}

func (l *link) close() {
	l.kill(net.ErrClosed)
	l.done.Wait()
}
