package server

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/threefoldtech/quantumd/hooks"
)

// stats are the counters of INFO.
type stats struct {
	clients, executed, failed, unauthorized atomic.Int64

	indexReadFailed, indexWriteFailed, dataReadFailed, dataWriteFailed atomic.Int64

	indexRead, indexWritten, dataRead, dataWritten, received, sent atomic.Int64
}

// hookCall is one line of HOOKS.
type hookCall struct {
	event         hooks.Event
	started, done time.Time
	failed        bool
}

// hooklog remembers recent hooks, for HOOKS.
type hooklog struct {
	mu    sync.Mutex
	calls []*hookCall
}

const (
	hookMemory = 300 * time.Second
	hookLimit  = 1000
)

func (l *hooklog) begin(e hooks.Event) func(error) {
	c := &hookCall{event: e, started: time.Now()}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pruneLocked()
	l.calls = append(l.calls, c)
	return func(err error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		c.done, c.failed = time.Now(), err != nil
	}
}

func (l *hooklog) pruneLocked() {
	keep := l.calls[:0]
	for i, c := range l.calls {
		old := !c.done.IsZero() && (time.Since(c.done) > hookMemory || len(l.calls)-i > hookLimit)
		if !old {
			keep = append(keep, c)
		}
	}
	clear(l.calls[len(keep):])
	l.calls = keep
}

func (l *hooklog) list() []hookCall {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pruneLocked()
	list := make([]hookCall, len(l.calls))
	for i, c := range l.calls {
		list[i] = *c
	}
	return list
}

func (c *hookCall) pid() int { return os.Getpid() }
