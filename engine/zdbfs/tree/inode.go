package tree

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/threefoldtech/quantumd/backend"
)

// pendingBlock stands in a block list for a block that has content in memory
// and no id yet. It is never stored.
const pendingBlock = 1<<32 - 1

// What a commit has to do with a changed inode.
const (
	dirtySelf   = 1 << iota // its record alone changed
	dirtyShared             // it changed together with other records: all or none
)

// inode is an inode in memory. Lock order: mu, Tree.gate, block.mu, Tree.mu, st.
type inode struct {
	ino uint64

	// mu is held by an operation on the inode from its first look to its last
	// change, also while it waits for records. Holders of several take them by
	// rising number.
	mu sync.RWMutex

	// Guarded by Tree.mu.
	pins    int           // in use, or changed
	elem    *list.Element // in Tree.lru, when pins is zero
	cost    int64         // bytes, as counted in Tree.metaUsed
	dirty   int           // dirtySelf, dirtyShared
	inDirty bool          // in Tree.dirty
	dead    bool          // its deletion has begun

	ready chan struct{} // closed when the fields below and err are there
	err   error
	kind  uint32 // the type bits of mode, which never change

	dirtyBlocks atomic.Int64

	// st guards what follows. It is changed by holders of mu (the block list
	// also by the flush of a block) inside the gate.
	st                  sync.Mutex
	mode, uid, gid      uint32
	rdev, links         uint32
	dev                 uint32 // of other use than below, kept for zdbfs
	size                int64
	atime, mtime, ctime stamp
	target              string
	blocks              []uint32
	alloc               int64    // blocks that are not holes
	frees               []uint32 // blocks dropped from the list, to be deleted after it is durable
	fresh               bool     // no durable name leads here yet
	gone                bool     // no name leads here any more
	stored              int64    // size in the record, lowered by truncation
	clipID              uint32   // this block has content behind the end of the file …
	clipAt              int      // … which is here
	writeErr            error    // of a block written in the background, to be told once

	extKey uint64
	extSum uint32 // checksum of the extension as stored
	xattrs map[string][]byte

	dir *folder
}

// folder is what an inode has more when it is a folder.
type folder struct {
	keys    [slotCount]uint64 // 0: none
	buckets [slotCount]*bucket
	parent  uint64 // 0: not known
}

// bucket is one bucket in memory. Its entries are changed inside the gate by
// holders of the folder's mu.
type bucket struct {
	entries []dirent
	bytes   int // of its record
	dirty   bool
}

func (n *inode) isDir() bool     { return n.dir != nil }
func (n *inode) isRegular() bool { return n.kind == typeReg }

// attr takes st.
func (n *inode) attr() Attr {
	n.st.Lock()
	defer n.st.Unlock()
	a := Attr{
		Ino: n.ino, Mode: n.mode, Nlink: n.links, UID: n.uid, GID: n.gid, Rdev: n.rdev, Size: n.size,
		Atime: n.atime.time(), Mtime: n.mtime.time(), Ctime: n.ctime.time(),
	}
	switch {
	case n.dir != nil:
		a.Nlink = max(2, n.links)
		a.Blocks = (n.size + 511) / 512
	case n.isRegular():
		a.Blocks = (min(n.alloc*blockSize, n.size) + 511) / 512
	}
	return a
}

// encodeLocked makes the inode's record, showing size bytes, and its extension
// where it needs one. st is held.
func (n *inode) encodeLocked(size int64) (value, ext []byte) {
	r := rawInode{
		mode: n.mode, dev: n.dev, uid: baseID(n.uid), gid: baseID(n.gid), size: uint64(size), links: n.links,
		atime: n.atime.base(), mtime: n.mtime.base(), ctime: n.ctime.base(), target: n.target,
	}
	switch {
	case n.dir != nil:
		r.buckets = &n.dir.keys
	case n.isRegular():
		end := len(n.blocks)
		for end > 0 && (n.blocks[end-1] == 0 || n.blocks[end-1] == pendingBlock) {
			end--
		}
		r.blocks = n.blocks[:end]
	case n.kind == typeChr, n.kind == typeBlk:
		r.dev = n.rdev
	}
	if n.needsExtLocked() {
		e := extension{owner: n.ino, base: r, uid: n.uid, gid: n.gid, rdev: n.rdev,
			atime: n.atime, mtime: n.mtime, ctime: n.ctime, xattrs: n.xattrs}
		ext = e.encode()
		if n.ino != Root {
			r.dev = uint32(n.extKey)
		}
	}
	value = r.encode()
	for i, id := range r.blocks {
		if id == pendingBlock {
			le.PutUint32(value[headSize+8+4*i:], 0)
		}
	}
	return value, ext
}

func (n *inode) needsExtLocked() bool {
	return n.extKey != 0 || n.uid > 1<<16-1 || n.gid > 1<<16-1 || len(n.xattrs) > 0 ||
		!n.atime.fits() || !n.mtime.fits() || !n.ctime.fits()
}

// fill takes over a record.
func (n *inode) fill(r *rawInode) {
	n.mode, n.uid, n.gid, n.links = r.mode, uint32(r.uid), uint32(r.gid), r.links
	n.kind, n.size, n.stored = r.mode&typeMask, int64(r.size), int64(r.size)
	n.atime, n.mtime, n.ctime = stampFrom(r.atime), stampFrom(r.mtime), stampFrom(r.ctime)
	switch r.mode & typeMask {
	case typeDir:
		n.dir = &folder{keys: *r.buckets}
	case typeLnk:
		n.target, n.size = r.target, int64(len(r.target))
	case typeReg:
		n.blocks = r.blocks
		if want := (n.size + blockSize - 1) / blockSize; int64(len(n.blocks)) > want {
			for _, id := range n.blocks[want:] {
				if id != 0 {
					n.frees = append(n.frees, id)
				}
			}
			n.blocks = n.blocks[:want:want]
		}
		for _, id := range n.blocks {
			if id != 0 {
				n.alloc++
			}
		}
		last := n.size / blockSize
		if at := n.size % blockSize; at != 0 && last < int64(len(n.blocks)) {
			n.clipID, n.clipAt = n.blocks[last], int(at)
		}
	}
}

// applyExt takes over an extension, as far as the record still is the one that
// it extends.
func (n *inode) applyExt(r *rawInode, e *extension, key uint64, value []byte) {
	n.extKey, n.extSum = key, sum(value)
	if r.uid == e.base.uid {
		n.uid = e.uid
	}
	if r.gid == e.base.gid {
		n.gid = e.gid
	}
	if r.atime == e.base.atime {
		n.atime = e.atime
	}
	if r.mtime == e.base.mtime {
		n.mtime = e.mtime
	}
	if r.ctime == e.base.ctime {
		n.ctime = e.ctime
	}
	n.rdev, n.xattrs = e.rdev, e.xattrs
}

// load reads the inode from the records.
func (t *Tree) load(ctx context.Context, n *inode) error {
	value, err := t.meta.Get(ctx, n.ino)
	if errors.Is(err, backend.ErrNotFound) {
		return syscall.ENOENT
	}
	if err != nil {
		return fault("inode", n.ino, err)
	}
	r, err := decodeInode(value)
	if err != nil {
		return fault("inode", n.ino, err)
	}
	n.fill(&r)
	extKey := uint64(r.dev)
	switch {
	case n.ino == Root:
		extKey, n.dev = t.rootExt(), r.dev
	case n.kind == typeChr, n.kind == typeBlk:
		n.rdev = r.dev
	default:
		n.dev = r.dev
	}
	if extKey == 0 {
		return nil
	}
	value, err = t.meta.Get(ctx, extKey)
	if errors.Is(err, backend.ErrNotFound) {
		return nil // a device number, or another writer's
	}
	if err != nil {
		return fault("extension of inode", n.ino, err)
	}
	if !isExtension(value, n.ino) {
		return nil
	}
	e, err := decodeExtension(value)
	if err != nil {
		return fault("extension of inode", n.ino, err)
	}
	n.applyExt(&r, e, extKey, value)
	if n.ino != Root {
		n.dev = 0
	}
	return nil
}

// get returns the inode, pinned: put gives it back. ENOENT where there is none.
func (t *Tree) get(ctx context.Context, ino uint64) (*inode, error) {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil, fault("inode", ino, ErrClosed)
	}
	n := t.inodes[ino]
	if n == nil {
		n = &inode{ino: ino, ready: make(chan struct{})}
		t.inodes[ino] = n
		t.loads.Go(func() {
			n.err = t.load(t.life, n)
			close(n.ready)
		})
	}
	t.pinLocked(n)
	t.mu.Unlock()
	select {
	case <-n.ready:
	default:
		select {
		case <-n.ready:
		case <-ctx.Done():
			t.put(n)
			return nil, interrupted(ctx)
		}
	}
	if n.err != nil {
		err := n.err
		t.put(n)
		return nil, err
	}
	return n, nil
}

func (t *Tree) pinLocked(n *inode) {
	n.pins++
	if n.elem != nil {
		t.lru.Remove(n.elem)
		n.elem = nil
	}
}

// put gives back what get returned.
func (t *Tree) put(n *inode) {
	t.mu.Lock()
	t.unpinLocked(n)
	t.mu.Unlock()
}

func (t *Tree) unpinLocked(n *inode) {
	if n.pins--; n.pins > 0 {
		return
	}
	select {
	case <-n.ready:
	default: // everybody stopped waiting: whoever comes next finds it
		n.elem = t.lru.PushFront(n)
		return
	}
	if n.err != nil || n.dead {
		if t.inodes[n.ino] == n {
			delete(t.inodes, n.ino)
		}
		t.metaUsed -= n.cost
		n.cost = 0
		return
	}
	t.metaUsed -= n.cost
	n.cost = n.weigh()
	t.metaUsed += n.cost
	n.elem = t.lru.PushFront(n)
	for t.metaUsed > t.metaLimit {
		back := t.lru.Back()
		if back == nil {
			return
		}
		old := back.Value.(*inode)
		t.lru.Remove(back)
		old.elem = nil
		delete(t.inodes, old.ino)
		t.metaUsed -= old.cost
		old.cost = 0
	}
}

// weigh estimates the memory of n.
func (n *inode) weigh() int64 {
	n.st.Lock()
	defer n.st.Unlock()
	cost := int64(512 + 4*cap(n.blocks) + len(n.target))
	for k, v := range n.xattrs {
		cost += int64(len(k) + len(v) + 64)
	}
	if n.dir != nil {
		cost += 16 * slotCount
		for _, b := range n.dir.buckets {
			if b != nil {
				cost += int64(64 + b.bytes + 24*len(b.entries))
			}
		}
	}
	return cost
}

// touch notes that n was changed, inside the gate.
func (t *Tree) touch(n *inode, how int) {
	t.mu.Lock()
	n.dirty |= how
	if !n.inDirty {
		n.inDirty = true
		t.pinLocked(n)
		t.dirty[n.ino] = n
	}
	many := len(t.dirty) == maxDirtyInodes
	t.mu.Unlock()
	t.safe.mark(n.ino)
	if many {
		t.kickCommit()
	}
}

// lockAll write-locks inodes in the order of their numbers; the result unlocks.
func lockAll(nodes ...*inode) func() {
	var held []*inode
	for {
		var next *inode
		for _, n := range nodes {
			if n != nil && (len(held) == 0 || n.ino > held[len(held)-1].ino) && (next == nil || n.ino < next.ino) {
				next = n
			}
		}
		if next == nil {
			break
		}
		next.mu.Lock()
		held = append(held, next)
	}
	return func() {
		for _, n := range held {
			n.mu.Unlock()
		}
	}
}
