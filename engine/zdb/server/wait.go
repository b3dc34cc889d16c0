package server

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/threefoldtech/quantumd/internal/resp"
)

// waiters are the connections that wait for a command in a namespace.
type waiters struct {
	count atomic.Int32
	mu    sync.Mutex
	m     map[*conn]*waiter
}

type waiter struct {
	name  string // `*` for any
	timer *time.Timer
}

func (w *waiters) any() bool { return w.count.Load() > 0 }

// add makes c wait; what it waited for before is forgotten.
func (w *waiters) add(c *conn, name string, timeout time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.removeLocked(c)
	if w.m == nil {
		w.m = map[*conn]*waiter{}
	}
	x := &waiter{name: name}
	x.timer = time.AfterFunc(timeout, func() {
		if w.take(c, x) {
			c.push(resp.AppendError(nil, "Timeout"))
		}
	})
	w.m[c] = x
	w.count.Add(1)
}

func (w *waiters) removeLocked(c *conn) {
	if x := w.m[c]; x != nil {
		x.timer.Stop()
		delete(w.m, c)
		w.count.Add(-1)
	}
}

func (w *waiters) take(c *conn, x *waiter) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m[c] != x {
		return false
	}
	w.removeLocked(c)
	return true
}

func (w *waiters) remove(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.removeLocked(c)
}

// wake tells the others that by ran a command. A waiter that does not read
// must not hold it up.
func (w *waiters) wake(name string, by *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c, x := range w.m {
		if c != by && (x.name == name || x.name == "*") {
			w.removeLocked(c)
			by.srv.tasks.Go(func() { c.push(resp.AppendSimple(nil, name)) })
		}
	}
}

func (c *conn) stopWaiting() {
	for _, n := range c.srv.all() {
		if n.waiters.any() {
			n.waiters.remove(c)
		}
	}
}

// cmdWait is WAIT name [milliseconds]. It answers when another connection of
// the same namespace has run that command.
func cmdWait(c *conn, args [][]byte) {
	if len(args) != 2 && len(args) != 3 {
		c.fail("Invalid arguments")
		return
	}
	name := strings.ToUpper(string(args[1]))
	if _, known := commands[name]; !known {
		c.fail("Unknown command to watch")
		return
	}
	ms := int64(5000)
	if len(args) == 3 {
		ms = -1
		if len(args[2]) <= 16 {
			ms = leadingNumber(args[2])
		}
		if ms < 100 || ms > 1800000 {
			c.fail("Invalid timeout")
			return
		}
	}
	c.ns.waiters.add(c, name, time.Duration(ms)*time.Millisecond)
}
