package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/hooks"
	"github.com/threefoldtech/quantumd/internal/resp"
)

// Serve answers clients of l until ctx ends, Close is called, or l fails; it
// closes l. Before the first client of the first listener is served it raises
// ready, whose error stops it. Several listeners may be served at a time.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errors.Join(ErrClosed, l.Close())
	}
	s.listeners[l] = struct{}{}
	s.serving.Add(1)
	s.mu.Unlock()
	defer s.serving.Done()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer func() {
		stop()
		l.Close() // a second Close of a listener says nothing new
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()
	s.ready.once.Do(func() { s.ready.err = s.hook(ctx, hooks.Event{Kind: hooks.Ready}) })
	if s.ready.err != nil {
		return fmt.Errorf("zdb: the ready hook refused: %w", s.ready.err)
	}
	return s.accept(ctx, l)
}

func (s *Server) accept(ctx context.Context, l net.Listener) error {
	var pause time.Duration
	for {
		nc, err := l.Accept()
		if err == nil {
			pause = 0
			s.welcome(nc)
			continue
		}
		switch {
		case s.isClosed():
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, net.ErrClosed):
			return err
		}
		// Out of descriptors, most likely: wait for clients to go away.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		s.log.Warn("accept failed", "err", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		case <-s.reads.Done():
		}
	}
}

func (s *Server) isClosed() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.closed
}

// welcome serves a client in a goroutine that Close waits for.
func (s *Server) welcome(nc net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.conns) >= s.o.MaxConnections {
		nc.Close()
		return
	}
	s.stats.clients.Add(1)
	c := &conn{srv: s, nc: nc, r: resp.NewReader(countingReader{nc, s}), admin: s.o.AdminPassword == ""}
	c.ctx, c.cancel = context.WithCancel(s.ctx)
	c.ns = s.namespaces[DefaultNamespace]
	c.writable = !s.o.Protect
	s.conns[c] = struct{}{}
	s.serving.Go(func() {
		c.serve()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	})
}

type countingReader struct {
	net.Conn
	s *Server
}

func (r countingReader) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.s.stats.received.Add(int64(n))
	return n, err
}

// conn is one client.
type conn struct {
	srv    *Server
	nc     net.Conn
	r      *resp.Reader
	out    []byte
	ctx    context.Context // ends when the connection does
	cancel context.CancelFunc

	wmu     sync.Mutex // of nc's writing side, over a whole reply
	holding bool       // part of a reply is out, wmu is held

	ns        *Namespace
	admin     bool
	writable  bool
	master    bool
	challenge string
	quit      bool
}

const (
	outFlush = 64 << 10  // bytes of replies that are sent before the next request is read
	outKeep  = 256 << 10 // capacity that stays between requests
)

// hangUp ends the connection: its reads fail, what it waits for is cancelled.
func (c *conn) hangUp() {
	c.cancel()
	c.nc.Close()
}

func (c *conn) serve() {
	defer c.hangUp()
	defer c.stopWaiting()
	for !c.quit {
		args, err := c.r.Read()
		if err != nil {
			c.refuse(err)
			return
		}
		c.run(args)
		if c.r.Buffered() == 0 || len(c.out) >= outFlush || c.quit {
			if c.flush() != nil {
				return
			}
		}
	}
}

// refuse answers a request that cannot be understood.
func (c *conn) refuse(err error) {
	var p *resp.ProtocolError
	if errors.As(err, &p) {
		c.out = resp.AppendError(c.out, p.Text)
	}
	if len(c.out) > 0 && !errors.Is(err, io.ErrUnexpectedEOF) {
		_ = c.flush() // the connection ends either way
	}
}

// flush sends what was answered and ends the hold on the writing side.
func (c *conn) flush() error {
	if !c.holding {
		c.wmu.Lock()
	}
	c.holding = false
	defer c.wmu.Unlock()
	return c.send()
}

// flushPart sends the beginning of a long reply; nothing else gets between it
// and the rest.
func (c *conn) flushPart() error {
	if !c.holding {
		c.wmu.Lock()
		c.holding = true
	}
	return c.send()
}

func (c *conn) send() error {
	if len(c.out) == 0 {
		return nil
	}
	n, err := c.nc.Write(c.out)
	c.srv.stats.sent.Add(int64(n))
	if cap(c.out) > outKeep {
		c.out = nil
	}
	c.out = c.out[:0]
	if err != nil {
		c.quit = true
	}
	return err
}

// push sends a reply that no request of this moment asked for.
func (c *conn) push(reply []byte) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	_, _ = c.nc.Write(reply) // its own goroutine sees that the connection is gone
}

// run answers one request.
func (c *conn) run(args [][]byte) {
	if c.master && len(args) > 1 {
		args = args[:len(args)-1] // an owner's id, which nobody uses
	}
	name, cmd := command(args[0])
	if cmd == nil {
		c.srv.stats.failed.Add(1)
		c.fail("Command not supported")
		return
	}
	c.srv.stats.executed.Add(1)
	if c.ns.gone.Load() {
		c.fail("Your active namespace is not available anymore (probably removed).")
		c.quit = true
		return
	}
	if cmd.admin && !c.admin {
		c.srv.stats.unauthorized.Add(1)
		c.fail("Permission denied")
	} else {
		cmd.run(c, args)
	}
	if c.ns.waiters.any() {
		c.ns.waiters.wake(name, c)
	}
}

func (c *conn) fail(text string) { c.out = resp.AppendError(c.out, text) }

func (c *conn) ok() { c.out = append(c.out, "+OK\r\n"...) }

// failWith answers with the text that zdb has for err, else with other.
func (c *conn) failWith(err error, other string) {
	var r *refusal
	var w *writeError
	switch {
	case errors.As(err, &r):
		other = r.text
	case errors.As(err, &w):
		other = w.text
	}
	if r == nil && !errors.Is(err, context.Canceled) {
		c.srv.log.Warn("command failed", "namespace", c.ns.name, "err", err)
	}
	c.fail(other)
}

const internalError = "Internal Error"

// exact checks the number of arguments, name included, and that none is empty.
func (c *conn) exact(args [][]byte, n int) bool {
	return c.exact0(args, n) && c.filled(args)
}

func (c *conn) exact0(args [][]byte, n int) bool {
	if len(args) != n {
		c.fail("Unexpected arguments")
		return false
	}
	return true
}

func (c *conn) min(args [][]byte, n int) bool {
	if len(args) < n {
		c.fail("Missing arguments")
		return false
	}
	return c.filled(args)
}

func (c *conn) filled(args [][]byte) bool {
	for _, a := range args {
		if len(a) == 0 {
			c.fail("Invalid argument")
			return false
		}
	}
	return true
}
