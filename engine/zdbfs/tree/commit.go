package tree

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// committer makes changes durable, one commit at a time.
type committer struct {
	kick chan struct{}

	mu   sync.Mutex
	next *batch // waits for the committer

	dataDirty, metaDirty atomic.Bool // written and not synced

	run sync.Mutex // held by a commit; guards what follows

	journalKey  uint64
	rootExt     uint64
	payload     []byte   // of the journal as stored
	chunks      []uint64 // records of the journal beside its own
	found       *journal // at Open
	leftOrphans []uint64 // that could not be deleted in this run
	dead        []*inode // taken from Tree.orphans, their deletion is to be durable
	reap        []*inode // their blocks are deleted, their records not yet
	reapKeys    []uint64 // other records to delete
}

// batch is a commit that somebody waits for.
type batch struct {
	all  bool
	inos map[uint64]bool
	done chan struct{}
	errs map[uint64]error // of the blocks of one inode
	err  error            // of the commit
}

func (t *Tree) rootExt() uint64 {
	// Read by the load of the root folder only, which a commit never waits for.
	return t.commit.rootExt
}

func (t *Tree) isDead(n *inode) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return n.dead
}

// Sync returns when every operation that returned before is durable.
func (t *Tree) Sync(ctx context.Context) error {
	b, err := t.await(ctx, 0, true)
	if err != nil {
		return err
	}
	for _, err := range b.errs {
		return err
	}
	return nil
}

// Fsync returns when what was written to the inode, its attributes and the
// names that lead to it are durable.
func (t *Tree) Fsync(ctx context.Context, ino uint64) error {
	n, err := t.get(ctx, ino)
	if err != nil {
		return err
	}
	defer t.put(n)
	b, err := t.await(ctx, ino, false)
	if err != nil {
		return err
	}
	return b.errs[ino]
}

// await joins the next commit and waits for it.
func (t *Tree) await(ctx context.Context, ino uint64, all bool) (*batch, error) {
	c := &t.commit
	c.mu.Lock()
	if c.next == nil {
		c.next = &batch{inos: make(map[uint64]bool), done: make(chan struct{})}
	}
	b := c.next
	if all {
		b.all = true
	} else {
		b.inos[ino] = true
	}
	c.mu.Unlock()
	t.kickCommit()
	select {
	case <-b.done:
		return b, b.err
	case <-ctx.Done():
		return nil, interrupted(ctx)
	case <-t.stop:
		return nil, fault("commit", ino, ErrClosed)
	}
}

func (t *Tree) kickCommit() {
	select {
	case t.commit.kick <- struct{}{}:
	default:
	}
}

func (t *Tree) kickFlush() {
	select {
	case t.flushKick <- struct{}{}:
	default:
	}
}

// runCommitter commits when somebody waits for it, when many inodes changed,
// and in every interval.
func (t *Tree) runCommitter() {
	tick := time.NewTicker(t.interval)
	defer tick.Stop()
	c := &t.commit
	for {
		select {
		case <-t.stop:
			return
		case <-c.kick:
		case <-tick.C:
		}
		c.mu.Lock()
		b := c.next
		c.next = nil
		c.mu.Unlock()
		if b == nil {
			if !t.hasWork() {
				continue
			}
			b = &batch{all: true, done: make(chan struct{})}
		}
		c.run.Lock()
		b.errs, b.err = t.commitOnce(t.life, b.all, b.inos)
		c.run.Unlock()
		close(b.done)
		if b.err != nil {
			t.log.Error("changes could not be made durable; they stay in memory", "err", b.err)
		}
		for ino, err := range b.errs {
			t.log.Error("blocks of a file could not be stored; they stay in memory", "inode", ino, "err", err)
		}
	}
}

// runFlusher stores the oldest dirty blocks when there are many.
func (t *Tree) runFlusher() {
	for {
		select {
		case <-t.stop:
			return
		case <-t.flushKick:
		}
		for t.cache.dirtyBytes() > t.softDirty {
			b := t.cache.oldestDirty()
			if b == nil {
				break
			}
			err := t.flushBlock(t.life, b)
			t.cache.release(b)
			if err != nil {
				t.log.Error("a block could not be stored; it stays in memory", "inode", b.ino, "err", err)
				break // the next write, or commit, tries again
			}
		}
	}
}

func (t *Tree) hasWork() bool {
	t.commit.run.Lock()
	defer t.commit.run.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.dirty) > 0 || len(t.commit.reap)+len(t.commit.dead)+len(t.commit.reapKeys) > 0 {
		return true
	}
	for ino := range t.orphans {
		if t.opens[ino] == 0 {
			return true
		}
	}
	return false
}

// commitOnce makes durable what was changed before it: everything, or what
// belongs to some inodes together with all that touches several records.
func (t *Tree) commitOnce(ctx context.Context, all bool, inos map[uint64]bool) (map[uint64]error, error) {
	want := func(ino uint64) bool { return all || inos[ino] }
	t.flush(ctx, want)
	t.gate.Lock()
	errs := t.flush(ctx, want) // what was written meanwhile
	s := t.snapshot(want)
	t.gate.Unlock()
	err := t.store(ctx, s)
	t.finish(s, err, errs)
	return errs, err
}

// flush stores dirty blocks, and tells which inode's could not be stored.
func (t *Tree) flush(ctx context.Context, want func(uint64) bool) map[uint64]error {
	var errs map[uint64]error
	for _, b := range t.cache.dirtyBlocks(want) {
		if errs[b.ino] == nil {
			if err := t.flushBlock(ctx, b); err != nil {
				if errs == nil {
					errs = make(map[uint64]error)
				}
				errs[b.ino] = err
			}
		}
		t.cache.release(b)
	}
	return errs
}

// Cut calls fn while no operation is under way and everything is durable: the
// caller switches the files of the records in it. Without an error the cut is
// made and gets its number, from 1 on in a run.
func (t *Tree) Cut(ctx context.Context, fn func(context.Context) error) (seq uint64, err error) {
	c := &t.commit
	c.run.Lock()
	defer c.run.Unlock()
	all := func(uint64) bool { return true }
	// Most of the work before the tree stands still.
	if _, err := t.commitOnce(ctx, true, nil); err != nil {
		return 0, err
	}
	t.gate.Lock()
	defer t.gate.Unlock()
	errs := t.flush(ctx, all)
	for _, err := range errs {
		return 0, err
	}
	s := t.snapshot(all)
	err = t.store(ctx, s)
	t.finishInside(s, err, errs)
	if err != nil {
		return 0, err
	}
	if err := fn(ctx); err != nil {
		return 0, err
	}
	t.safe.mu.Lock()
	seq = t.safe.cut + 1
	t.safe.mu.Unlock()
	t.safe.made(seq)
	return seq, nil
}

// change is what a commit writes of one inode.
type change struct {
	n         *inode
	how       int
	size      int64
	value     []byte
	wasStored int64
	ext       []byte
	fresh     bool
	partial   bool // dirty blocks are left out
	frees     []uint32
	buckets   []bucketChange
}

type bucketChange struct {
	slot  int
	key   uint64 // 0: new
	value []byte // its own key is missing while key is 0
}

// snapshot is everything that a commit writes.
type snapshot struct {
	changes []*change
	orphans []uint64 // open and without a name
}

// snapshot copies what changed. The gate is held for writing.
func (t *Tree) snapshot(want func(uint64) bool) *snapshot {
	s := &snapshot{}
	c := &t.commit
	t.mu.Lock()
	for ino, n := range t.orphans {
		if t.opens[ino] > 0 {
			s.orphans = append(s.orphans, ino)
			continue
		}
		n.dead = true // pinned still
		delete(t.orphans, ino)
		c.dead = append(c.dead, n)
	}
	var dead []*inode
	for ino, n := range t.dirty {
		switch {
		case n.dead:
			dead = append(dead, n)
			n.dirty = 0
		case n.dirty != 0 && (n.dirty&dirtyShared != 0 || want(ino)):
			s.changes = append(s.changes, &change{n: n, how: n.dirty})
			n.dirty = 0
			n.pins++
		}
	}
	t.mu.Unlock()
	for _, n := range c.dead {
		t.dropBlocks(n, 0)
	}
	for _, n := range dead {
		t.dropBlocks(n, 0)
		t.mu.Lock()
		delete(t.dirty, n.ino)
		n.inDirty = false
		t.unpinLocked(n)
		t.mu.Unlock()
	}
	for _, ch := range s.changes {
		t.fillChange(ch)
	}
	slices.SortFunc(s.changes, func(a, b *change) int { return int(int64(a.n.ino) - int64(b.n.ino)) })
	return s
}

func (t *Tree) fillChange(ch *change) {
	n := ch.n
	var unstored []*block
	if n.dirtyBlocks.Load() > 0 {
		unstored = t.cache.dirtyOf(n.ino)
	}
	n.st.Lock()
	defer n.st.Unlock()
	ch.size, ch.fresh = n.size, n.fresh
	// A file whose blocks are not all stored shows what it had, or as much of
	// the new as is whole from the start.
	for _, b := range unstored {
		ch.size = min(ch.size, max(b.idx*blockSize, n.stored))
		ch.partial = true
	}
	// From here on what is stored counts as this; a truncation lowers it.
	ch.wasStored, n.stored = n.stored, ch.size
	if ch.partial {
		defer func() {
			for _, b := range unstored {
				t.cache.release(b)
			}
		}()
	}
	ch.value, ch.ext = n.encodeLocked(ch.size)
	ch.frees, n.frees = n.frees, nil
	if n.dir == nil {
		return
	}
	for slot, b := range n.dir.buckets {
		if b == nil || !b.dirty {
			continue
		}
		b.dirty = false
		ch.buckets = append(ch.buckets, bucketChange{slot, n.dir.keys[slot], encodeBucket(n.dir.keys[slot], b.entries)})
	}
}

// finish takes the gate where finishInside needs it.
func (t *Tree) finish(s *snapshot, err error, errs map[uint64]error) {
	t.gate.Lock()
	defer t.gate.Unlock()
	t.finishInside(s, err, errs)
}

// finishInside notes that the snapshot is durable, or that it still has to be
// written. The gate is held for writing.
func (t *Tree) finishInside(s *snapshot, err error, errs map[uint64]error) {
	for _, ch := range s.changes {
		n := ch.n
		n.st.Lock()
		if err != nil {
			n.frees = append(ch.frees, n.frees...)
			n.stored = min(n.stored, ch.wasStored)
			if ch.ext != nil {
				n.extSum = 0
			}
			for _, bc := range ch.buckets {
				n.dir.buckets[bc.slot].dirty = true
			}
		} else {
			n.fresh = false
			if errs[n.ino] == nil {
				n.writeErr = nil
			}
		}
		n.st.Unlock()
		t.mu.Lock()
		if err != nil {
			n.dirty |= ch.how
		} else if ch.partial {
			n.dirty |= dirtySelf
		}
		if n.dirty == 0 && n.inDirty && n.dirtyBlocks.Load() == 0 {
			delete(t.dirty, n.ino)
			n.inDirty = false
			t.unpinLocked(n)
		}
		t.unpinLocked(n)
		t.mu.Unlock()
	}
}
