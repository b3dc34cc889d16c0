package tree

import (
	"container/list"
	"context"
	"fmt"
	"hash/crc32"
	"sync"
)

func sum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// block is one block of a file in memory.
type block struct {
	ino uint64
	idx int64

	ready chan struct{} // closed when the content or err is there
	err   error

	mu      sync.Mutex
	n       *inode // of a dirty block: pinned, for it is in Tree.dirty
	data    []byte // what is behind its end is zero
	owned   bool   // data may be changed
	clipped bool   // the stored block is longer than the file
	dirty   bool
	dropped bool

	// Guarded by cache.mu.
	pins    int
	elem    *list.Element // in cache.clean when not pinned and clean, in cache.changed when dirty
	inDirty bool
	size    int64 // bytes as counted
}

// cache holds blocks of all files, within one limit.
type cache struct {
	limit int64

	mu      sync.Mutex
	files   map[uint64]map[int64]*block
	clean   list.List // front: used last
	changed list.List // front: changed first
	used    int64
	dirty   int64
}

// blockOverhead is counted for each block beside its content.
const blockOverhead = 256

var buffers = sync.Pool{New: func() any { b := make([]byte, blockSize); return &b }}

// acquire returns the block, pinned. When it was made, the caller must fill it
// and close ready.
func (c *cache) acquire(ino uint64, idx int64) (b *block, made bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	file := c.files[ino]
	if b = file[idx]; b != nil {
		c.pinLocked(b)
		return b, false
	}
	if file == nil {
		file = make(map[int64]*block)
		c.files[ino] = file
	}
	b = &block{ino: ino, idx: idx, ready: make(chan struct{}), pins: 1, size: blockOverhead}
	c.used += b.size
	file[idx] = b
	return b, true
}

func (c *cache) pinLocked(b *block) {
	b.pins++
	if b.elem != nil && !b.inDirty {
		c.clean.Remove(b.elem)
		b.elem = nil
	}
}

// release gives back a pinned block.
func (c *cache) release(b *block) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.releaseLocked(b)
}

func (c *cache) releaseLocked(b *block) {
	b.pins--
	if b.pins > 0 || b.inDirty || c.files[b.ino][b.idx] != b {
		return
	}
	b.elem = c.clean.PushFront(b)
	for c.used > c.limit {
		back := c.clean.Back()
		if back == nil {
			return
		}
		old := back.Value.(*block)
		c.forgetLocked(old)
		if old.owned && cap(old.data) == blockSize {
			data := old.data[:blockSize]
			old.data = nil
			buffers.Put(&data)
		}
	}
}

// forgetLocked takes a block out of the cache.
func (c *cache) forgetLocked(b *block) {
	if c.files[b.ino][b.idx] != b {
		return
	}
	if b.elem != nil {
		if b.inDirty {
			c.changed.Remove(b.elem)
			c.dirty -= b.size
			b.inDirty = false
		} else {
			c.clean.Remove(b.elem)
		}
		b.elem = nil
	}
	c.used -= b.size
	delete(c.files[b.ino], b.idx)
	if len(c.files[b.ino]) == 0 {
		delete(c.files, b.ino)
	}
}

func (c *cache) forget(b *block) {
	c.mu.Lock()
	c.forgetLocked(b)
	c.mu.Unlock()
}

// account notes the state and the size of b, whose mu is held.
func (c *cache) account(b *block) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.files[b.ino][b.idx] != b {
		return
	}
	size := blockOverhead + int64(cap(b.data))
	c.used += size - b.size
	if b.inDirty {
		c.dirty += size - b.size
	}
	b.size = size
	switch {
	case b.dirty && !b.inDirty:
		if b.elem != nil {
			c.clean.Remove(b.elem)
		}
		b.inDirty, b.elem = true, c.changed.PushBack(b)
		c.dirty += b.size
	case !b.dirty && b.inDirty:
		c.changed.Remove(b.elem)
		b.inDirty, b.elem = false, nil
		c.dirty -= b.size
	}
}

// oldestDirty returns the block that waits longest to be written, pinned, and
// puts it last; nil when there is none.
func (c *cache) oldestDirty() *block {
	c.mu.Lock()
	defer c.mu.Unlock()
	front := c.changed.Front()
	if front == nil {
		return nil
	}
	c.changed.MoveToBack(front)
	b := front.Value.(*block)
	b.pins++
	return b
}

// dirtyBlocks returns the dirty blocks of the files that want accepts, pinned,
// oldest first.
func (c *cache) dirtyBlocks(want func(ino uint64) bool) []*block {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*block
	for e := c.changed.Front(); e != nil; e = e.Next() {
		if b := e.Value.(*block); want(b.ino) {
			b.pins++
			out = append(out, b)
		}
	}
	return out
}

// dirtyOf returns the dirty blocks of a file, pinned.
func (c *cache) dirtyOf(ino uint64) []*block {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*block
	for _, b := range c.files[ino] {
		if b.inDirty {
			b.pins++
			out = append(out, b)
		}
	}
	return out
}

// behind returns the blocks of a file from idx on, pinned.
func (c *cache) behind(ino uint64, idx int64) []*block {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*block
	for i, b := range c.files[ino] {
		if i >= idx {
			c.pinLocked(b)
			out = append(out, b)
		}
	}
	return out
}

func (c *cache) dirtyBytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dirty
}

// wait returns when the block has its content.
func (b *block) wait(ctx context.Context) error {
	select {
	case <-b.ready:
		return b.err
	default:
	}
	select {
	case <-b.ready:
		return b.err
	case <-ctx.Done():
		return interrupted(ctx)
	}
}

// fetch fills a block that acquire made from record id; content from clip on
// is behind the end of the file. It does not end with the one who waits:
// others may wait too.
func (t *Tree) fetch(b *block, id uint32, clip int) {
	t.loads.Go(func() {
		data, err := t.data.Get(t.life, uint64(id))
		if err == nil && len(data) > blockSize {
			err = fmt.Errorf("%w: %d bytes", errFormat, len(data))
		}
		b.mu.Lock()
		if err != nil {
			b.err = fault("block", uint64(id), err)
			b.dropped = true
		} else {
			if len(data) > clip {
				data, b.clipped = data[:clip:clip], true
			}
			b.data = data
		}
		if err != nil {
			t.cache.forget(b)
		} else {
			t.cache.account(b)
		}
		b.mu.Unlock()
		close(b.ready)
	})
}

// grow makes at least n bytes of b writable; bytes that it adds are zero.
// b.mu is held.
func (b *block) grow(n int) {
	if n <= len(b.data) && b.owned {
		return
	}
	n = max(n, len(b.data))
	if b.owned && n <= cap(b.data) {
		old := len(b.data)
		b.data = b.data[:n]
		clear(b.data[old:])
		return
	}
	var data []byte
	if n > blockSize/2 {
		data = *buffers.Get().(*[]byte)
	} else {
		size := 512
		for size < n {
			size *= 2
		}
		data = make([]byte, size)
	}
	old := copy(data, b.data)
	clear(data[old:n])
	b.data, b.owned = data[:n], true
}

// copyAt copies content from off on into p; zeros behind its end.
func (b *block) copyAt(p []byte, off int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	if off < len(b.data) {
		n = copy(p, b.data[off:])
	}
	clear(p[n:])
}
