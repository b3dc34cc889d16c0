package tree

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/backend"
)

const (
	defaultMemory   = 64 << 20
	defaultInterval = 5 * time.Second
	// maxDirtyInodes brings a commit forward.
	maxDirtyInodes = 8192
)

// Tree is a file system over records. It is safe for concurrent use. Errors of
// its operations match a syscall.Errno, as the system call would give it; where
// records failed it is EIO, without space ENOSPC, and EINTR when the context
// ended first.
//
// Operations on different inodes do not wait for one another, in particular
// not while one of them waits for a record.
type Tree struct {
	meta, data Records
	log        *slog.Logger
	now        func() time.Time
	size       int64
	interval   time.Duration

	life    context.Context // ends with Close: of loads that several may wait for
	endLife context.CancelFunc
	loads   sync.WaitGroup
	work    sync.WaitGroup
	stop    chan struct{}

	// gate is held for reading while an operation changes memory, which takes
	// no waiting for records but inserts, and for writing by whoever needs the
	// tree between two operations.
	gate sync.RWMutex
	// renames serializes moves of folders between folders, so that the check
	// against loops stays true.
	renames sync.Mutex

	mu        sync.Mutex // what follows
	closed    bool
	inodes    map[uint64]*inode
	lru       list.List // of unpinned inodes, front: used last
	metaUsed  int64
	metaLimit int64
	dirty     map[uint64]*inode
	opens     map[uint64]int
	orphans   map[uint64]*inode // without a name, each pinned

	cache     *cache
	softDirty int64 // bytes of dirty blocks above which they are written in the background
	hardDirty int64 // above which writers wait
	flushKick chan struct{}

	safe   safeMap
	commit committer
}

// Open opens the tree in o.Meta and o.Data, and makes a new one when both are
// empty. What a crash left undone is finished or undone. Without any of the
// records that it needs it fails: [ErrForeign], an error of format, or that
// of the records.
func Open(ctx context.Context, o Options) (*Tree, error) {
	if o.Meta == nil || o.Data == nil {
		return nil, errors.New("tree: Options.Meta and Options.Data are required")
	}
	if o.MemoryLimit <= 0 {
		o.MemoryLimit = defaultMemory
	}
	o.MemoryLimit = max(o.MemoryLimit, 2<<20)
	if o.Interval <= 0 {
		o.Interval = defaultInterval
	}
	if o.Size <= 0 {
		o.Size = defaultSize
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	t := &Tree{
		meta: o.Meta, data: o.Data, log: o.Logger, now: o.Now, size: o.Size, interval: o.Interval,
		stop:   make(chan struct{}),
		inodes: make(map[uint64]*inode), dirty: make(map[uint64]*inode),
		opens: make(map[uint64]int), orphans: make(map[uint64]*inode),
		metaLimit: o.MemoryLimit / 2,
		cache:     &cache{limit: o.MemoryLimit, files: make(map[uint64]map[int64]*block)},
		softDirty: o.MemoryLimit / 4, hardDirty: o.MemoryLimit / 2,
		flushKick: make(chan struct{}, 1),
	}
	t.safe.init(o.CleanStart, o.Committed)
	t.commit.kick = make(chan struct{}, 1)
	t.life, t.endLife = context.WithCancel(context.WithoutCancel(ctx))
	if err := t.start(ctx, o.UID, o.GID); err != nil {
		t.endLife()
		return nil, err
	}
	t.work.Go(t.runCommitter)
	t.work.Go(t.runFlusher)
	return t, nil
}

// start makes or checks the fixed records, and recovers.
func (t *Tree) start(ctx context.Context, uid, gid uint32) error {
	fresh, err := t.header(ctx, t.meta, magicMeta)
	if err != nil {
		return fmt.Errorf("tree: metadata: %w", err)
	}
	entries, _, _ := t.meta.Stats()
	if !fresh && entries > 2 {
		// A tree is there: then its data must be there too.
		if _, err := t.data.Get(ctx, 0); err != nil {
			return fmt.Errorf("tree: header of the data: %w", err)
		}
	}
	freshData, err := t.header(ctx, t.data, magicData)
	if err != nil {
		return fmt.Errorf("tree: data: %w", err)
	}
	if n, _, _ := t.data.Stats(); fresh && !freshData && n > 1 {
		return fmt.Errorf("%w: data without metadata", ErrForeign)
	}
	if freshData { // before there is a root folder that needs it
		if err := t.data.Sync(ctx); err != nil {
			return fmt.Errorf("tree: sync of the data: %w", err)
		}
	}
	root, err := t.root(ctx, uid, gid)
	if err != nil {
		return err
	}
	if err := t.openJournal(ctx, root); err != nil {
		return fmt.Errorf("tree: %w", err)
	}
	return t.recover(ctx)
}

// header checks the record with key 0, and makes it in an empty namespace.
func (t *Tree) header(ctx context.Context, r Records, magic string) (fresh bool, err error) {
	value, err := r.Get(ctx, 0)
	if err == nil {
		if err := checkHeader(value, magic); err != nil {
			return false, fmt.Errorf("%w: %w", ErrForeign, err)
		}
		return false, nil
	}
	if !errors.Is(err, backend.ErrNotFound) {
		return false, fmt.Errorf("header: %w", err)
	}
	if n, _, _ := r.Stats(); n > 0 {
		return false, fmt.Errorf("%w: %d records and no header", ErrForeign, n)
	}
	id, err := r.Insert(ctx, encodeHeader(magic, t.size))
	if err != nil {
		return false, fmt.Errorf("header: %w", err)
	}
	if id != 0 {
		return false, errors.Join(fmt.Errorf("%w: the namespace is empty but not new: first key %d", ErrForeign, id), r.Delete(ctx, id))
	}
	return true, nil
}

// root reads the root folder, or makes it behind a fresh header.
func (t *Tree) root(ctx context.Context, uid, gid uint32) (rawInode, error) {
	value, err := t.meta.Get(ctx, Root)
	missing := errors.Is(err, backend.ErrNotFound)
	if err != nil && !missing {
		return rawInode{}, fmt.Errorf("tree: root folder: %w", err)
	}
	if missing || len(value) == 1 {
		if n, _, _ := t.meta.Stats(); n > 2 {
			return rawInode{}, fmt.Errorf("%w: %d records and no root folder", ErrForeign, n)
		}
		now := stampOf(t.now()).base()
		r := rawInode{mode: typeDir | 0o755, uid: baseID(uid), gid: baseID(gid), links: 2,
			atime: now, mtime: now, ctime: now, buckets: new([slotCount]uint64)}
		if !missing { // a placeholder of zdbfs
			return r, t.meta.Update(ctx, Root, r.encode())
		}
		id, err := t.meta.Insert(ctx, r.encode())
		if err != nil {
			return r, fmt.Errorf("tree: root folder: %w", err)
		}
		if id != Root {
			return r, errors.Join(fmt.Errorf("%w: root folder would be %d", ErrForeign, id), t.meta.Delete(ctx, id))
		}
		return r, nil
	}
	r, err := decodeInode(value)
	if err == nil && r.buckets == nil {
		err = fmt.Errorf("%w: no folder", errFormat)
	}
	if err != nil {
		return r, fmt.Errorf("tree: root folder: %w", err)
	}
	return r, nil
}

// openJournal finds the journal, or makes one, and does what it says.
func (t *Tree) openJournal(ctx context.Context, root rawInode) error {
	c := &t.commit
	if root.dev != 0 {
		value, err := t.meta.Get(ctx, uint64(root.dev))
		if err != nil && !errors.Is(err, backend.ErrNotFound) {
			return fmt.Errorf("journal: %w", err)
		}
		if err == nil && isJournal(value) {
			c.journalKey = uint64(root.dev)
			j, chunks, err := decodeJournal(value, func(id uint64) ([]byte, error) { return t.meta.Get(ctx, id) })
			if err != nil {
				return err
			}
			c.found, c.chunks, c.rootExt = j, chunks, j.rootExt
			c.payload = j.payload()
			return nil
		}
		t.log.Warn("the root folder names no journal", "key", root.dev)
	}
	c.found = &journal{}
	c.payload = c.found.payload()
	id, err := t.meta.Insert(ctx, encodeJournal(0, c.payload, nil))
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if id >= maxInode {
		return fmt.Errorf("journal: %w: the namespace is out of numbers", errFormat)
	}
	c.journalKey, root.dev = id, uint32(id)
	if err := t.meta.Update(ctx, Root, root.encode()); err != nil {
		return fmt.Errorf("root folder: %w", err)
	}
	return t.meta.Sync(ctx)
}

// recover finishes what the journal says is undone.
func (t *Tree) recover(ctx context.Context) error {
	j := t.commit.found
	t.commit.found = nil
	if len(j.redo) == 0 && len(j.orphans) == 0 && len(j.frees) == 0 {
		return nil
	}
	t.log.Info("finishing what a crash left", "records", len(j.redo), "orphans", len(j.orphans), "blocks", len(j.frees))
	for _, r := range j.redo {
		if err := t.meta.Update(ctx, r.id, r.value); err != nil {
			return fmt.Errorf("tree: journal: record %d: %w", r.id, err)
		}
	}
	left := journal{rootExt: j.rootExt}
	var gone []uint64
	frees := j.frees
	for _, ino := range j.orphans {
		records, blocks, err := t.orphan(ctx, ino)
		if err != nil {
			t.log.Warn("an orphan stays for the next time", "inode", ino, "err", err)
			left.orphans = append(left.orphans, ino)
			continue
		}
		gone, frees = append(gone, records...), append(frees, blocks...)
	}
	for _, id := range frees {
		if err := ignoreNotFound(t.data.Delete(ctx, uint64(id))); err != nil {
			return fmt.Errorf("tree: delete block %d: %w", id, err)
		}
	}
	if err := t.data.Sync(ctx); err != nil {
		return fmt.Errorf("tree: sync of the data: %w", err)
	}
	for _, id := range gone {
		if err := ignoreNotFound(t.meta.Delete(ctx, id)); err != nil {
			return fmt.Errorf("tree: delete record %d: %w", id, err)
		}
	}
	t.commit.leftOrphans = left.orphans
	if err := t.writeJournal(ctx, &left); err != nil {
		return fmt.Errorf("tree: %w", err)
	}
	if err := t.meta.Sync(ctx); err != nil {
		return fmt.Errorf("tree: sync of the metadata: %w", err)
	}
	return nil
}

// orphan gives what is to be deleted with an inode without a name: records, the
// inode last, and blocks.
func (t *Tree) orphan(ctx context.Context, ino uint64) (records []uint64, blocks []uint32, err error) {
	value, err := t.meta.Get(ctx, ino)
	if errors.Is(err, backend.ErrNotFound) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	r, err := decodeInode(value)
	if err != nil {
		return nil, nil, err
	}
	if r.buckets != nil {
		for _, key := range r.buckets {
			if key == 0 {
				continue
			}
			value, err := t.meta.Get(ctx, key)
			if errors.Is(err, backend.ErrNotFound) {
				continue
			}
			if err != nil {
				return nil, nil, err
			}
			entries, _, err := decodeBucket(value)
			if err != nil {
				return nil, nil, err
			}
			for _, e := range entries {
				if !isDot(e.name) {
					return nil, nil, fmt.Errorf("%w: folder %d has names", errFormat, ino)
				}
			}
			records = append(records, key)
		}
	}
	if r.dev != 0 && ino != Root {
		value, err := t.meta.Get(ctx, uint64(r.dev))
		if err != nil && !errors.Is(err, backend.ErrNotFound) {
			return nil, nil, err
		}
		if err == nil && isExtension(value, ino) {
			records = append(records, uint64(r.dev))
		}
	}
	for _, id := range r.blocks {
		if id != 0 {
			blocks = append(blocks, id)
		}
	}
	return append(records, ino), blocks, nil
}

func ignoreNotFound(err error) error {
	if errors.Is(err, backend.ErrNotFound) {
		return nil
	}
	return err
}

// Close makes everything durable and ends the tree; a second call does
// nothing. Open files are as if released. When it fails the tree is closed all
// the same, and what was not synced is lost.
func (t *Tree) Close(ctx context.Context) error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	clear(t.opens)
	t.mu.Unlock()
	err := t.Sync(ctx)
	if err == nil {
		err = t.Sync(ctx) // deletes what the first one dropped
	}
	t.mu.Lock()
	again := t.closed
	t.closed = true
	t.mu.Unlock()
	if !again {
		close(t.stop)
	}
	t.endLife()
	t.work.Wait()
	t.loads.Wait()
	return err
}

// Now is the time that the tree gives to what it changes: whole seconds.
func (t *Tree) Now() time.Time { return time.Unix(t.now().Unix(), 0) }

func (t *Tree) stamp() stamp { return stamp{sec: t.now().Unix()} }

// Usage tells what the tree holds in memory.
type Usage struct {
	Inodes      int   // in memory
	DirtyInodes int   // to be written
	MetaBytes   int64 // of inodes and folders, estimated
	CacheBytes  int64 // of file blocks
	DirtyBytes  int64 // of file blocks to be written
}

// Usage tells what the tree holds in memory.
func (t *Tree) Usage() Usage {
	t.mu.Lock()
	u := Usage{Inodes: len(t.inodes), DirtyInodes: len(t.dirty), MetaBytes: t.metaUsed}
	t.mu.Unlock()
	t.cache.mu.Lock()
	defer t.cache.mu.Unlock()
	u.CacheBytes, u.DirtyBytes = t.cache.used, t.cache.dirty
	return u
}
