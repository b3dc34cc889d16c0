package qsfs

import (
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/internal/boottime"
)

// signal wakes everybody who waits.
type signal struct {
	mu sync.Mutex
	ch chan struct{}
}

func newSignal() *signal { return &signal{ch: make(chan struct{})} }

// next is closed by the next tell.
func (s *signal) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ch
}

func (s *signal) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.ch)
	s.ch = make(chan struct{})
}

// dirtyClock knows since when there is something that is not safe: written
// after the last cut, or in a cut that is not committed yet.
type dirtyClock struct {
	mu    sync.Mutex
	after time.Duration // boot time of the first change after the last cut; zero: none
	inCut time.Duration // the same for the cut that is under way
}

// touch says that something was written.
func (d *dirtyClock) touch() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.after == 0 {
		d.after = boottime.Now()
	}
}

func (d *dirtyClock) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inCut == 0 {
		d.inCut = d.after
	}
	d.after = 0
}

func (d *dirtyClock) committed() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inCut = 0
}

// age is how old the oldest byte is that is not safe; zero: all is.
func (d *dirtyClock) age() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	since := d.after
	if d.inCut != 0 {
		since = d.inCut
	}
	if since == 0 {
		return 0
	}
	return boottime.Now() - since
}
