package zstor

import (
	"context"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

// memory shares out MemoryLimit. One operation reserves once, for all that it
// must have; what it may have besides is tried, never waited for. So no two
// operations wait for each other.
type memory struct {
	limit, spillAbove int64
	dir               string
	sem               *semaphore.Weighted
	used, peak        atomic.Int64
}

func newMemory(limit, spillAbove int64, dir string) *memory {
	return &memory{limit: limit, spillAbove: min(spillAbove, limit), dir: dir, sem: semaphore.NewWeighted(limit)}
}

func (m *memory) usage() (used, peak int64) { return m.used.Load(), m.peak.Load() }

// buffer is memory outside the Go heap, so that it is given back at once. It must
// never be handed to code that might keep it: reading it after free is a fault.
type buffer struct {
	b     []byte
	m     *memory
	held  int64 // of the limit
	spill bool  // in a file
}

// reserve gets a buffer of size bytes, and room for extra bytes that the caller
// allocates itself. It waits for room in the limit.
func (m *memory) reserve(ctx context.Context, size, extra int64) (*buffer, error) {
	spill := size > m.spillAbove
	want := extra
	if !spill {
		want += size
	}
	want = min(want, m.limit) // an operation that wants more than all runs alone
	if err := m.sem.Acquire(ctx, want); err != nil {
		return nil, err
	}
	m.count(want)
	return m.fill(size, want, spill)
}

// tryReserve gets a buffer without waiting: in a file when the limit has no room.
func (m *memory) tryReserve(size int64) (*buffer, error) {
	if size <= m.spillAbove && m.sem.TryAcquire(size) {
		m.count(size)
		return m.fill(size, size, false)
	}
	return m.fill(size, 0, true)
}

func (m *memory) fill(size, held int64, spill bool) (*buffer, error) {
	buf := &buffer{m: m, held: held, spill: spill}
	var err error
	if spill {
		buf.b, err = mapFile(m.dir, size)
	} else {
		buf.b, err = mapAnonymous(size)
	}
	if err != nil {
		buf.free()
		return nil, fmt.Errorf("buffer of %d bytes: %w", size, err)
	}
	return buf, nil
}

func (m *memory) count(n int64) {
	now := m.used.Add(n)
	for {
		peak := m.peak.Load()
		if now <= peak || m.peak.CompareAndSwap(peak, now) {
			return
		}
	}
}

// free gives the buffer back; it may be called twice.
func (b *buffer) free() {
	if b == nil {
		return
	}
	if b.b != nil {
		unmap(b.b)
		b.b = nil
	}
	if b.held > 0 {
		b.m.used.Add(-b.held)
		b.m.sem.Release(b.held)
		b.held = 0
	}
}
