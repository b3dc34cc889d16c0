package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/hooks"
)

// retire ends the namespace: every further call fails with ErrClosed, the
// files are closed.
func (n *Namespace) retire(ctx context.Context) error {
	if err := n.lockWrite(ctx); err != nil {
		return err
	}
	defer n.wmu.Unlock()
	n.ckptMu.Lock()
	defer n.ckptMu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.deleted = true
	n.gone.Store(true)
	n.closeFilesLocked()
	return nil
}

// close is the clean end: everything durable, the index files current, a
// checkpoint that says so.
func (n *Namespace) close() error {
	if err := n.lockWrite(context.Background()); err != nil {
		return err
	}
	defer n.wmu.Unlock()
	n.mu.Lock()
	deleted := n.deleted
	n.deleted = true // no more calls; what follows does not ask
	if deleted {
		n.mu.Unlock()
		return nil
	}
	var event hooks.Event
	if n.srv.o.Hooks != nil {
		id, _ := n.pairLocked()
		event = hooks.Event{
			Kind: hooks.NamespaceClosing, Namespace: n.name,
			Index: n.IndexPath(id), Data: n.DataPath(id), Dirty: slices.Sorted(maps.Keys(n.index.dirty)),
		}
	}
	err := n.abandonEmptyLocked()
	n.mu.Unlock()
	if err == nil {
		err = n.trim()
	}
	if err == nil {
		err = n.checkpoint(context.Background(), checkpointOptions{clean: true})
	}
	n.syncer.close()
	n.mu.Lock()
	n.closeFilesLocked()
	n.mu.Unlock()
	n.srv.hookLater(event)
	return err
}

// trim gives back the blocks that were reserved ahead.
func (n *Namespace) trim() error {
	if n.active == nil || n.reserved <= n.dataOff {
		return nil
	}
	n.reserved = n.dataOff
	return n.active.Truncate(n.dataOff)
}

// abandonEmptyLocked removes an open pair that was made for a write that then
// failed.
func (n *Namespace) abandonEmptyLocked() error {
	x := n.index
	if n.active == nil || len(x.files) < 2 || !n.pairEmptyLocked() {
		return nil
	}
	id := n.active.id
	n.data.unpin(n.active)
	n.data.release(n.active)
	n.active, n.dataOff = nil, 0
	x.cache.forget(id)
	delete(x.unsync, id)
	x.files = x.files[:id]
	x.tail, x.tailOff = nil, int64(x.last().length)
	return errors.Join(removeIfThere(n.DataPath(id)), removeIfThere(n.IndexPath(id)))
}

// Flush removes everything in the namespace: afterwards it has no keys, and
// the next id and file are 0. Files are gone when it returns.
func (n *Namespace) Flush(ctx context.Context) error {
	if err := n.lockWrite(ctx); err != nil {
		return err
	}
	defer n.wmu.Unlock()
	return n.exclusive(func() error { return n.flush(ctx) })
}

func (n *Namespace) flush(ctx context.Context) error {
	n.mu.RLock()
	err := n.writableLocked()
	n.mu.RUnlock()
	if err != nil {
		return err
	}
	// From here on Open completes what a crash leaves.
	if err := n.checkpoint(ctx, checkpointOptions{flushing: true}); err != nil {
		return err
	}
	n.ckptMu.Lock()
	mode := n.emptyInMemory()
	l, err := n.startOver(mode)
	if err == nil {
		n.install(l)
	}
	n.ckptMu.Unlock()
	if err != nil {
		n.fail(fmt.Errorf("flush: %w", err))
		return err
	}
	return n.checkpoint(context.WithoutCancel(ctx), checkpointOptions{})
}

// emptyInMemory makes readers find nothing while the files go away.
func (n *Namespace) emptyInMemory() Mode {
	n.mu.Lock()
	defer n.mu.Unlock()
	mode := n.index.mode
	n.closeFilesLocked()
	n.index, n.data = newIndex(n.indexDir, mode), newDataCache(n.dataDir)
	n.dataOff, n.lastData, n.appended = 0, 0, false
	return mode
}

func (n *Namespace) startOver(mode Mode) (*loader, error) {
	if err := n.removeFiles(); err != nil {
		return nil, err
	}
	l := &loader{n: n, data: newDataCache(n.dataDir), newMode: mode}
	if err := l.fresh(); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// Reload reads the namespace from its files again.
func (n *Namespace) Reload(ctx context.Context) error {
	if err := n.lockWrite(ctx); err != nil {
		return err
	}
	defer n.wmu.Unlock()
	err := n.exclusive(func() error {
		if err := n.checkpoint(ctx, checkpointOptions{clean: true}); err != nil {
			return err
		}
		n.ckptMu.Lock()
		err := n.load(ctx)
		n.ckptMu.Unlock()
		if err != nil {
			return err
		}
		n.mu.Lock()
		clear(n.index.dirty)
		n.mu.Unlock()
		return n.checkpoint(ctx, checkpointOptions{})
	})
	if err == nil {
		n.srv.hookLater(hooks.Event{Kind: hooks.NamespaceReloaded, Namespace: n.name})
	}
	return err
}

var errModeUsed = &refusal{"Cannot change mode of used namespace", backend.ErrMode}

// setMode changes the mode of a namespace that never held anything.
func (n *Namespace) setMode(m Mode) error {
	n.wmu.Lock()
	defer n.wmu.Unlock()
	n.ckptMu.Lock()
	defer n.ckptMu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	x := n.index
	if n.excl != nil || n.active == nil || len(x.files) != 1 || !n.pairEmptyLocked() || n.deleted {
		return errModeUsed
	}
	h, err := x.cache.acquire(0)
	if err != nil {
		return err
	}
	defer x.cache.release(h)
	if _, err := h.WriteAt(segment.AppendIndexHeader(nil, 0, m), 0); err != nil {
		return err
	}
	if err := n.srv.disk.sync(h.File); err != nil {
		return err
	}
	x.mode = m
	return n.srv.disk.replaceFile(n.checkpointPath(), n.stateLocked(checkpointOptions{}).encode())
}

// describe changes the descriptor and makes it durable before it counts.
func (n *Namespace) describe(change func(*segment.Descriptor)) error {
	n.ckptMu.Lock() // one at a time
	n.mu.RLock()
	d := n.desc
	deleted := n.deleted
	n.mu.RUnlock()
	var err error
	if deleted {
		err = ErrClosed
	} else {
		change(&d)
		err = n.saveDescriptor(d)
	}
	if err == nil {
		n.mu.Lock()
		n.desc = d
		n.mu.Unlock()
	}
	n.ckptMu.Unlock()
	if err == nil {
		n.srv.hookLater(hooks.Event{Kind: hooks.NamespaceUpdated, Namespace: n.name})
	}
	return err
}

// Lock forbids writes (as NSSET lock), until Unlock or the next Open.
func (n *Namespace) Lock() { n.setLock(true, false) }

// Freeze forbids reads and writes (as NSSET freeze), until Unlock or the next
// Open.
func (n *Namespace) Freeze() { n.setLock(false, true) }

// Unlock ends Lock and Freeze.
func (n *Namespace) Unlock() { n.setLock(false, false) }

func (n *Namespace) setLock(locked, frozen bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.locked, n.frozen = locked, frozen
}

// background syncs, checkpoints, rotates and sweeps until Close begins.
func (s *Server) background() {
	every := time.Second
	if s.o.SyncEvery > 0 {
		every = min(every, s.o.SyncEvery)
	}
	if s.o.Rotate > 0 {
		every = min(every, max(s.o.Rotate/4, 10*time.Millisecond))
	}
	t := time.NewTicker(every)
	defer t.Stop()
	lastSync := s.disk.now()
	for {
		select {
		case <-s.reads.Done():
			return
		case <-t.C:
		}
		syncNow := s.o.SyncEvery > 0 && s.disk.now()-lastSync >= s.o.SyncEvery-every/2
		if syncNow {
			lastSync = s.disk.now()
		}
		for _, n := range s.all() {
			n.tick(syncNow)
		}
	}
}

// checkpointEvery bounds how old a checkpoint gets while something changes.
const checkpointEvery = time.Minute

func (n *Namespace) tick(syncNow bool) {
	ctx, s := n.srv.reads, n.srv
	if syncNow {
		n.report("sync", n.Sync(ctx))
	}
	now := s.disk.now()
	n.mu.RLock()
	old := s.o.SyncEvery > 0 && now-n.saved.at > checkpointEvery
	due := len(n.index.patches) > patchLimit || // bounds memory
		old && (n.writeSeq != n.saved.seq || len(n.index.dirty) != n.saved.dirty)
	rotate := s.o.Rotate > 0 && n.appended && now-n.switched > s.o.Rotate
	dead := n.broken != nil || n.deleted
	data, index := n.data, n.index.cache
	n.mu.RUnlock()
	if dead {
		return
	}
	if due {
		n.report("checkpoint", n.Checkpoint(ctx))
	}
	if rotate {
		_, err := n.Jump(ctx)
		n.report("rotate", err)
	}
	data.sweep()
	index.sweep()
}

func (n *Namespace) report(what string, err error) {
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, ErrClosed) {
		n.srv.log.Error(what+" in the background failed", "namespace", n.name, "err", err)
	}
}

func (n *Namespace) checkpointPath() string {
	return n.indexDir + string(os.PathSeparator) + CheckpointName
}
