package server

import (
	"context"
	"fmt"
	"sync"
)

// Sync returns when everything written before the call survives a power
// failure. Concurrent callers share one fdatasync. The index is not synced: it
// is a function of the data files, and Open replays them.
func (n *Namespace) Sync(ctx context.Context) error {
	n.mu.RLock()
	target, broken, deleted := n.writeSeq, n.broken, n.deleted
	n.mu.RUnlock()
	switch {
	case deleted:
		return ErrClosed
	case broken != nil:
		return broken
	case n.synced.Load() >= target:
		return nil
	}
	return n.syncer.wait(ctx)
}

// syncData makes the open data file durable. A pair is synced when it is
// closed, so nothing else can be unsynced.
func (n *Namespace) syncData() error {
	n.mu.Lock()
	seq, h, broken := n.writeSeq, n.active, n.broken
	if h != nil {
		n.data.retain(h)
	}
	n.mu.Unlock()
	if h == nil || n.synced.Load() >= seq {
		if h != nil {
			n.data.release(h)
		}
		return broken
	}
	defer n.data.release(h)
	if broken != nil {
		return broken
	}
	if err := n.srv.disk.datasync(h.File); err != nil {
		// The kernel forgets what it could not write: a later success would say
		// nothing about these bytes.
		err = fmt.Errorf("fdatasync %s: %w", h.Name(), err)
		n.fail(err)
		return err
	}
	for old := n.synced.Load(); old < seq && !n.synced.CompareAndSwap(old, seq); old = n.synced.Load() {
	}
	return nil
}

// syncer gathers callers into groups: those who come while a sync runs share
// the next one.
type syncer struct {
	sync func() error

	mu    sync.Mutex
	ended chan struct{} // closed by the run that goes on; nil: none does
	next  *syncGroup
}

type syncGroup struct {
	done chan struct{}
	err  error
}

func (s *syncer) wait(ctx context.Context) error {
	s.mu.Lock()
	if s.next == nil {
		s.next = &syncGroup{done: make(chan struct{})}
	}
	g := s.next
	if s.ended == nil {
		s.ended = make(chan struct{})
		go s.run()
	}
	s.mu.Unlock()
	select {
	case <-g.done:
		return g.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *syncer) run() {
	for {
		s.mu.Lock()
		g := s.next
		s.next = nil
		if g == nil {
			close(s.ended)
			s.ended = nil
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		g.err = s.sync()
		close(g.done)
	}
}

// close waits for the last group. Callers may still come: not a WaitGroup, whose
// Wait must not meet an Add.
func (s *syncer) close() {
	s.mu.Lock()
	ended := s.ended
	s.mu.Unlock()
	if ended != nil {
		<-ended
	}
}
