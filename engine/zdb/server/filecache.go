package server

import (
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/engine/zdb/segment"
)

// fileCache keeps files of one kind of a namespace open, counting who uses
// them. A handle stays valid until it is released, also when its file is
// dropped or removed meanwhile.
type fileCache struct {
	dir  string
	name func(id uint32) string
	flag int // of os.OpenFile

	mu    sync.Mutex
	open  map[uint32]*fileHandle
	clock uint64

	track bool      // note when files are used
	start time.Time // of used
	used  []uint32  // seconds since start, plus one, by id; zero: not used
}

// openLimit is how many unused files stay open.
const openLimit = 64

type fileHandle struct {
	*os.File
	id     uint32
	refs   int    // guarded by fileCache.mu
	used   uint64 // fileCache.clock at the last use
	pinned bool   // the open pair: not closed by eviction, not checked for removal
	gone   bool   // out of the map: closed with the last release
}

func newFileCache(dir string, name func(uint32) string, flag int) *fileCache {
	return &fileCache{dir: dir, name: name, flag: flag, open: map[uint32]*fileHandle{}}
}

func (c *fileCache) path(id uint32) string { return filepath.Join(c.dir, c.name(id)) }

// acquire gives an open file. That it is not there is an error matching
// fs.ErrNotExist, also when it was removed behind the cache's back.
func (c *fileCache) acquire(id uint32) (*fileHandle, error) {
	c.mu.Lock()
	h := c.open[id]
	pinned := false
	if h != nil {
		pinned = h.pinned // it is unpinned when the pair closes
		h.refs++
		c.clock++
		h.used = c.clock
		c.noteUseLocked(id)
	}
	c.mu.Unlock()
	if h != nil {
		if pinned || !removed(h.File) {
			return h, nil
		}
		c.mu.Lock()
		c.dropLocked(h)
		c.mu.Unlock()
		c.release(h)
	}
	f, err := os.OpenFile(c.path(id), c.flag, 0)
	if err != nil {
		return nil, err
	}
	return c.add(id, f, false), nil
}

// add takes over an open file and gives a used handle of it. Another handle
// of the same file that came first wins, unless this one is pinned.
func (c *fileCache) add(id uint32, f *os.File, pinned bool) *fileHandle {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.open[id]; old != nil {
		if !pinned {
			f.Close()
			old.refs++
			return old
		}
		c.dropLocked(old)
	}
	c.clock++
	c.noteUseLocked(id)
	h := &fileHandle{File: f, id: id, refs: 1, used: c.clock, pinned: pinned}
	c.open[id] = h
	if len(c.open) > openLimit {
		c.evictLocked()
	}
	return h
}

// noteUseLocked remembers when a file was used: who makes room drops those that
// were not used for longest, and file systems keep access times for a day only.
func (c *fileCache) noteUseLocked(id uint32) {
	if !c.track {
		return
	}
	if uint64(id) >= uint64(len(c.used)) {
		c.used = append(c.used, make([]uint32, int(id)+1-len(c.used))...)
	}
	c.used[id] = uint32(time.Since(c.start)/time.Second) + 1
}

func (c *fileCache) lastUse(id uint32) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if uint64(id) >= uint64(len(c.used)) || c.used[id] == 0 {
		return time.Time{}
	}
	return c.start.Add(time.Duration(c.used[id]-1) * time.Second)
}

func (c *fileCache) release(h *fileHandle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h.refs--
	if h.gone && h.refs == 0 {
		h.File.Close()
	}
}

func (c *fileCache) unpin(h *fileHandle) {
	c.mu.Lock()
	h.pinned = false
	c.mu.Unlock()
}

func (c *fileCache) dropLocked(h *fileHandle) {
	if c.open[h.id] == h {
		delete(c.open, h.id)
	}
	h.gone = true
	if h.refs == 0 {
		h.File.Close()
	}
}

func (c *fileCache) evictLocked() {
	var oldest *fileHandle
	for _, h := range c.open {
		if h.refs == 0 && !h.pinned && (oldest == nil || h.used < oldest.used) {
			oldest = h
		}
	}
	if oldest != nil {
		c.dropLocked(oldest)
	}
}

// forget closes the file as soon as nobody uses it; the next acquire opens it
// by name again.
func (c *fileCache) forget(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.open[id]; h != nil {
		c.dropLocked(h)
	}
}

// remove deletes a file that nobody uses and gives the bytes that its blocks
// took; it fails with ErrInUse otherwise. A reader that opens the file in this
// very moment keeps it until it is done.
func (c *fileCache) remove(id uint32) (int64, error) {
	c.mu.Lock()
	if h := c.open[id]; h != nil {
		if h.refs > 0 || h.pinned {
			c.mu.Unlock()
			return 0, ErrInUse
		}
		c.dropLocked(h)
	}
	c.mu.Unlock()
	freed := allocated(c.path(id))
	if err := os.Remove(c.path(id)); err != nil {
		return 0, err
	}
	return freed, nil
}

// sweep closes unused files whose names are gone, so that their blocks come
// back.
func (c *fileCache) sweep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.open {
		if h.refs == 0 && !h.pinned && removed(h.File) {
			c.dropLocked(h)
		}
	}
}

func (c *fileCache) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.open {
		c.dropLocked(h)
	}
}

func newDataCache(dir string) *fileCache {
	c := newFileCache(dir, segment.DataName, os.O_RDWR)
	c.track, c.start = true, time.Now()
	return c
}

func newIndexCache(dir string) *fileCache {
	return newFileCache(dir, segment.IndexName, os.O_RDWR)
}

// retain counts one more user of a handle that is in use.
func (c *fileCache) retain(h *fileHandle) {
	c.mu.Lock()
	h.refs++
	c.mu.Unlock()
}
