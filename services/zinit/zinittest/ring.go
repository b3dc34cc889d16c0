package zinittest

import "sync"

const ringSize = 2000 // lines

// ring keeps the last lines, and hands on those that come.
type ring struct {
	mu    sync.Mutex
	lines []string
	taps  map[chan string]bool
}

func (r *ring) push(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
	r.lines = r.lines[max(0, len(r.lines)-ringSize):]
	for t := range r.taps {
		select {
		case t <- line:
		default: // too slow: it loses lines, as with zinit
		}
	}
}

// tap gives what is there, and a channel of what comes; end gives it back.
func (r *ring) tap() (old []string, lines <-chan string, end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := make(chan string, 100)
	if r.taps == nil {
		r.taps = map[chan string]bool{}
	}
	r.taps[c] = true
	return append([]string(nil), r.lines...), c, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.taps, c)
	}
}
