package server

import (
	"context"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/hooks"
)

// Namespace is one keyspace with files of its own. All methods are safe for
// concurrent use. Reads never wait for a write's disk access, an fsync or a
// hook; writes wait for one another, and for the jump-index hook of a switch:
// that hook's handler may read, copy and inspect the namespace, not write it.
type Namespace struct {
	srv      *Server
	name     string
	dataDir  string // root + name, as given: hooks and NSINFO show it
	indexDir string

	// wmu is held by whoever writes. A switch, which runs hooks and fsyncs,
	// holds excl instead, so that others can give up waiting with their context.
	wmu  sync.Mutex
	excl chan struct{}

	ckptMu  sync.Mutex // one checkpoint or copy of an index file at a time
	syncer  syncer
	missing flights
	mending flights

	// mu guards all that follows. It is held briefly: never over a hook, an
	// fsync, or the reading of a payload.
	mu       sync.RWMutex
	desc     segment.Descriptor
	locked   bool
	frozen   bool
	deleted  bool
	broken   error // a failed fsync or roll-back: no more writes until the next Open
	index    *index
	data     *fileCache
	active   *fileHandle // data file of the open pair; nil: the highest pair is closed
	dataOff  int64       // where its next entry begins
	lastData uint32      // offset of the newest data entry
	reserved int64       // preallocated up to here
	writeSeq uint64      // counts writes
	appended bool        // index entries since the pair was opened, for Rotate
	switched time.Duration

	saved checkpointMark // what the last checkpoint covers

	synced atomic.Uint64 // writeSeq that is known to be durable

	gone    atomic.Bool // removed while clients use it
	waiters waiters
}

// checkpointMark tells whether a new checkpoint would say something new.
type checkpointMark struct {
	seq     uint64
	dataOff int64
	at      time.Duration
	dirty   int
}

func (s *Server) newNamespace(name string) *Namespace {
	n := &Namespace{
		srv: s, name: name,
		dataDir:  filepath.Join(s.o.DataDir, name),
		indexDir: filepath.Join(s.o.IndexDir, name),
	}
	n.syncer.sync = n.syncData
	return n
}

// Name is the namespace's name.
func (n *Namespace) Name() string { return n.name }

// Mode is how the namespace chooses keys.
func (n *Namespace) Mode() Mode {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.index.mode
}

// DataPath is the name of a data file, whether it is there or not.
func (n *Namespace) DataPath(id uint32) string {
	return filepath.Join(n.dataDir, segment.DataName(id))
}

// IndexPath is the name of an index file. While the server runs its content
// is not current: use CopyIndex.
func (n *Namespace) IndexPath(id uint32) string {
	return filepath.Join(n.indexDir, segment.IndexName(id))
}

// DescriptorPath is the name of the descriptor file.
func (n *Namespace) DescriptorPath() string {
	return filepath.Join(n.indexDir, segment.DescriptorName)
}

// lockWrite takes wmu when no switch is going on.
func (n *Namespace) lockWrite(ctx context.Context) error {
	for {
		n.wmu.Lock()
		ch := n.excl
		if ch == nil {
			return nil
		}
		n.wmu.Unlock()
		select {
		case <-ch:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// exclusive runs f without wmu, which the caller holds, while every other
// writer waits; then wmu is held again.
func (n *Namespace) exclusive(f func() error) error {
	n.excl = make(chan struct{})
	n.wmu.Unlock()
	defer func() {
		n.wmu.Lock()
		close(n.excl)
		n.excl = nil
	}()
	return f()
}

// pair gives the id of the open pair, or of the one that the next write makes.
func (n *Namespace) pairLocked() (id uint32, open bool) {
	if n.active == nil {
		return uint32(len(n.index.files)), false
	}
	return n.index.lastID(), true
}

// pairEmptyLocked says that nothing was written to the open pair.
func (n *Namespace) pairEmptyLocked() bool {
	return n.dataOff <= segment.DataHeaderSize && n.index.last().count == 0
}

// usable says whether data commands may run; write asks for more.
func (n *Namespace) usableLocked() error {
	switch {
	case n.deleted:
		return ErrClosed
	case n.frozen:
		return errFrozen
	}
	return nil
}

func (n *Namespace) usable() error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.usableLocked()
}

func (n *Namespace) writableLocked() error {
	if err := n.usableLocked(); err != nil {
		return err
	}
	if n.locked {
		return errLockedNS
	}
	return n.broken
}

// Info describes the namespace.
func (n *Namespace) Info() backend.NamespaceInfo {
	n.mu.RLock()
	defer n.mu.RUnlock()
	i := backend.NamespaceInfo{
		Name: n.name, Entries: int64(n.index.live),
		Public: n.desc.Public, Password: n.desc.Password != "", Worm: n.desc.Worm,
		Sequential: n.index.mode == Sequential, Locked: n.locked || n.frozen,
		Used: int64(n.index.liveBytes), Limit: int64(n.desc.MaxSize), IndexUsed: int64(n.index.liveIndex),
		NextID: n.nextIDLocked(),
	}
	if free, err := freeSpace(n.dataDir); err == nil {
		i.Free = free
	}
	return i
}

func (n *Namespace) nextIDLocked() uint64 {
	if n.index.mode == Sequential {
		return n.index.slots
	}
	return n.index.inserts
}

// hook tells the handler of an event and waits for it.
func (s *Server) hook(ctx context.Context, e hooks.Event) error {
	if s.o.Hooks == nil {
		return nil
	}
	e.Instance = s.o.Instance
	done := s.hooklog.begin(e)
	err := s.o.Hooks.HandleHook(ctx, e)
	done(err)
	if err != nil {
		s.log.Warn("hook failed", "event", e.Kind, "err", err)
	}
	return err
}

// hookLater tells the handler of an event that nobody waits for but Close.
func (s *Server) hookLater(e hooks.Event) {
	if s.o.Hooks == nil {
		return
	}
	s.tasks.Go(func() { _ = s.hook(s.ctx, e) }) // logged there; nothing depends on it
}
