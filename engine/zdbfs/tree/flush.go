package tree

import (
	"context"
	"syscall"
)

// spaceForBlock answers ENOSPC when the data namespace has no room for one
// block more.
func (t *Tree) spaceForBlock(ctx context.Context) error {
	fits := func() bool {
		_, used, limit := t.data.Stats()
		return limit <= 0 || used+t.cache.dirtyBytes()+blockSize <= limit
	}
	if fits() {
		return nil
	}
	// The dirty blocks may be overwrites, which take no more room.
	for t.cache.dirtyBytes() > 0 {
		b := t.cache.oldestDirty()
		if b == nil {
			break
		}
		err := t.flushBlock(ctx, b)
		t.cache.release(b)
		if err != nil {
			return err
		}
	}
	if !fits() {
		return syscall.ENOSPC
	}
	return nil
}

// makeRoom writes dirty blocks until they are below the limit.
func (t *Tree) makeRoom(ctx context.Context) error {
	for t.cache.dirtyBytes() >= t.hardDirty {
		if ctx.Err() != nil {
			return interrupted(ctx)
		}
		b := t.cache.oldestDirty()
		if b == nil {
			return nil
		}
		err := t.flushBlock(ctx, b)
		t.cache.release(b)
		if err != nil {
			return err
		}
	}
	return nil
}

// flushBlock stores a dirty block. The block is pinned by the caller.
func (t *Tree) flushBlock(ctx context.Context, b *block) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.dirty || b.dropped {
		return nil
	}
	n := b.n
	n.st.Lock()
	id := n.blocks[b.idx]
	n.st.Unlock()
	stored, err := t.storeBlock(ctx, id, b.data)
	if err != nil {
		err = fault("block of inode", b.ino, err)
		n.st.Lock()
		n.writeErr = err
		n.st.Unlock()
		return err
	}
	n.st.Lock()
	n.blocks[b.idx] = stored
	if id == n.clipID {
		n.clipID = 0
	}
	n.st.Unlock()
	b.dirty, b.clipped, b.n = false, false, nil
	t.cache.account(b)
	if stored != id {
		t.mu.Lock()
		n.dirty |= dirtySelf // it is in Tree.dirty already
		t.mu.Unlock()
	}
	n.dirtyBlocks.Add(-1)
	return nil
}

// storeBlock writes content to the block's record, or to a new one.
func (t *Tree) storeBlock(ctx context.Context, id uint32, content []byte) (uint32, error) {
	// Behind the call and before the id is known to a commit: whichever commit
	// stores it syncs the data first.
	defer t.commit.dataDirty.Store(true)
	if id != pendingBlock && id != 0 {
		return id, t.data.Update(ctx, uint64(id), content)
	}
	fresh, err := t.data.Insert(ctx, content)
	if err != nil {
		return 0, err
	}
	if fresh >= pendingBlock {
		return 0, syscall.ENOSPC // out of numbers
	}
	return uint32(fresh), nil
}
