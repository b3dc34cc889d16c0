package tree

import (
	"bytes"
	"context"
	"syscall"
)

// Open keeps an inode alive that loses its last name, until Release.
func (t *Tree) Open(ctx context.Context, ino uint64) error {
	n, err := t.get(ctx, ino)
	if err != nil {
		return err
	}
	defer t.put(n)
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.dead {
		return syscall.ENOENT
	}
	t.opens[ino]++
	return nil
}

// Release ends what Open began. The last one deletes an inode without names.
func (t *Tree) Release(ino uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.opens[ino]--; t.opens[ino] <= 0 {
		delete(t.opens, ino)
	}
}

// regular gets a regular file.
func (t *Tree) regular(ctx context.Context, ino uint64) (*inode, error) {
	n, err := t.get(ctx, ino)
	if err != nil {
		return nil, err
	}
	switch {
	case n.isDir():
		err = syscall.EISDIR
	case !n.isRegular():
		err = syscall.EINVAL
	}
	if err != nil {
		t.put(n)
		return nil, err
	}
	return n, nil
}

// piece is the part of a request that lies in one block.
type piece struct {
	idx int64
	off int
	p   []byte
}

// pieces cuts a request at the ends of blocks.
func pieces(p []byte, off int64) []piece {
	out := make([]piece, 0, len(p)/blockSize+2)
	for len(p) > 0 {
		in := int(off % blockSize)
		n := min(blockSize-in, len(p))
		out = append(out, piece{off / blockSize, in, p[:n]})
		p, off = p[n:], off+int64(n)
	}
	return out
}

// ReadAt reads from a regular file. It reads less than len(p) only at the end
// of the file, without an error.
func (t *Tree) ReadAt(ctx context.Context, ino uint64, p []byte, off int64) (int, error) {
	n, err := t.regular(ctx, ino)
	if err != nil {
		return 0, err
	}
	defer t.put(n)
	if off < 0 {
		return 0, syscall.EINVAL
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	n.st.Lock()
	size := n.size
	n.st.Unlock()
	if off >= size {
		return 0, nil
	}
	p = p[:min(int64(len(p)), size-off)]
	parts := pieces(p, off)
	blocks := make([]*block, len(parts))
	defer func() {
		for _, b := range blocks {
			if b != nil {
				t.cache.release(b)
			}
		}
	}()
	for i, part := range parts {
		blocks[i] = t.blockForRead(n, part.idx)
	}
	for i, part := range parts {
		if blocks[i] == nil {
			clear(part.p)
			continue
		}
		if err := blocks[i].wait(ctx); err != nil {
			return 0, err
		}
		blocks[i].copyAt(part.p, part.off)
	}
	if t.isDead(n) {
		return 0, syscall.ENOENT // its blocks may have been dropped meanwhile
	}
	return len(p), nil
}

// blockForRead returns a block, pinned, whose content may be on its way; nil
// for a hole. n.mu is held.
func (t *Tree) blockForRead(n *inode, idx int64) *block {
	n.st.Lock()
	var id uint32
	if idx < int64(len(n.blocks)) {
		id = n.blocks[idx]
	}
	clip := blockSize
	if id != 0 && id == n.clipID {
		clip = n.clipAt
	}
	n.st.Unlock()
	if id == 0 {
		return nil
	}
	b, made := t.cache.acquire(n.ino, idx)
	if made {
		t.fetch(b, id, clip)
	}
	return b
}

// WriteAt writes to a regular file. What it wrote before an error is counted.
// Data is durable after Fsync or Sync only.
func (t *Tree) WriteAt(ctx context.Context, ino uint64, p []byte, off int64) (int, error) {
	n, err := t.regular(ctx, ino)
	if err != nil {
		return 0, err
	}
	defer t.put(n)
	if off < 0 {
		return 0, syscall.EINVAL
	}
	if len(p) == 0 {
		return 0, nil
	}
	const limit = min(maxSize, maxBlocks*blockSize)
	if off >= limit {
		return 0, syscall.EFBIG
	}
	p = p[:min(int64(len(p)), limit-off)]
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.takeWriteErr(); err != nil {
		return 0, err
	}
	n.st.Lock()
	anew := off <= n.size/blockSize*blockSize // the last block is written anew in any case
	n.st.Unlock()
	if !anew {
		if err := t.prepareExtend(ctx, n, off+int64(len(p))); err != nil {
			return 0, err
		}
	}
	done := 0
	for _, part := range pieces(p, off) {
		if err := t.writePiece(ctx, n, part); err != nil {
			return done, err
		}
		done += len(part.p)
	}
	return done, nil
}

func (n *inode) takeWriteErr() error {
	n.st.Lock()
	defer n.st.Unlock()
	err := n.writeErr
	n.writeErr = nil
	return err
}

// WriteError tells once that a block of the file could not be stored in the
// background. The block stays in memory and is tried again.
func (t *Tree) WriteError(ctx context.Context, ino uint64) error {
	n, err := t.get(ctx, ino)
	if err != nil {
		return err
	}
	defer t.put(n)
	return n.takeWriteErr()
}

// writePiece changes one block. n.mu is held.
func (t *Tree) writePiece(ctx context.Context, n *inode, w piece) error {
	if err := t.makeRoom(ctx); err != nil {
		return err
	}
	n.st.Lock()
	size := n.size
	var id uint32
	if w.idx < int64(len(n.blocks)) {
		id = n.blocks[w.idx]
	}
	n.st.Unlock()
	if id == 0 {
		if err := t.spaceForBlock(ctx); err != nil {
			return err
		}
	}
	start := w.idx * blockSize
	whole := w.off == 0 && start+int64(len(w.p)) >= min(size, start+blockSize)
	var b *block
	if id == 0 || whole {
		var made bool
		if b, made = t.cache.acquire(n.ino, w.idx); made {
			close(b.ready)
		}
	} else {
		b = t.blockForRead(n, w.idx)
	}
	defer t.cache.release(b)
	if err := b.wait(ctx); err != nil {
		return err
	}

	t.gate.RLock()
	defer t.gate.RUnlock()
	b.mu.Lock()
	b.grow(w.off + len(w.p))
	copy(b.data[w.off:], w.p)
	if !b.dirty {
		b.dirty, b.n = true, n
		n.dirtyBlocks.Add(1)
	}
	t.cache.account(b)
	b.mu.Unlock()
	n.st.Lock()
	n.setBlockLocked(w.idx)
	n.size = max(n.size, start+int64(w.off+len(w.p)))
	n.mtime = t.stamp()
	n.ctime = n.mtime
	n.st.Unlock()
	t.touch(n, dirtySelf)
	if t.cache.dirtyBytes() > t.softDirty {
		t.kickFlush()
	}
	return nil
}

// setBlockLocked notes that the block has content in memory. st is held.
func (n *inode) setBlockLocked(idx int64) {
	for int64(len(n.blocks)) <= idx {
		n.blocks = append(n.blocks, 0)
	}
	if n.blocks[idx] == 0 {
		n.blocks[idx] = pendingBlock
		n.alloc++
	}
}

// prepareExtend is called before the file grows to size: a last block that is
// longer in the records than in the file is to be written anew, or its old
// bytes would show. n.mu is held.
func (t *Tree) prepareExtend(ctx context.Context, n *inode, size int64) error {
	n.st.Lock()
	idle := size <= n.size || n.clipID == 0
	idx := n.size / blockSize
	n.st.Unlock()
	if idle {
		return nil
	}
	b := t.blockForRead(n, idx)
	if b == nil {
		return nil
	}
	defer t.cache.release(b)
	if err := b.wait(ctx); err != nil {
		return err
	}
	t.gate.RLock()
	defer t.gate.RUnlock()
	b.mu.Lock()
	clipped := b.clipped && !b.dirty
	if clipped {
		b.dirty, b.n = true, n
		n.dirtyBlocks.Add(1)
		t.cache.account(b)
	}
	b.mu.Unlock()
	n.st.Lock()
	n.clipID = 0
	n.st.Unlock()
	if clipped {
		t.touch(n, dirtySelf)
	}
	return nil
}

// truncate sets the size; n.mu is held. The blocks behind the end are dropped,
// and a block that the end cuts is stored anew under another id, so that the
// old file is whole until the new one is durable.
func (t *Tree) truncate(ctx context.Context, n *inode, size int64) error {
	if size < 0 {
		return syscall.EINVAL
	}
	if size > maxSize {
		return syscall.EFBIG
	}
	n.st.Lock()
	old := n.size
	n.st.Unlock()
	var last *block
	cut := int(size % blockSize)
	keep := (size + blockSize - 1) / blockSize
	switch {
	case size > old:
		if err := t.prepareExtend(ctx, n, size); err != nil {
			return err
		}
	case size < old && cut > 0:
		if last = t.blockForRead(n, keep-1); last != nil {
			defer t.cache.release(last)
			if err := last.wait(ctx); err != nil {
				return err
			}
		}
	}

	t.gate.RLock()
	defer t.gate.RUnlock()
	if size < old {
		if last != nil {
			t.cutBlock(n, last, cut)
		}
		t.dropBlocks(n, keep)
	}
	n.st.Lock()
	n.size = size
	n.stored = min(n.stored, size)
	n.mtime = t.stamp()
	n.ctime = n.mtime
	n.st.Unlock()
	t.touch(n, dirtySelf)
	return nil
}

// cutBlock shortens the content of a block, inside the gate.
func (t *Tree) cutBlock(n *inode, b *block, size int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.data) <= size {
		return
	}
	b.data, b.owned, b.clipped = bytes.Clone(b.data[:size]), true, false
	if !b.dirty {
		b.dirty, b.n = true, n
		n.dirtyBlocks.Add(1)
	}
	t.cache.account(b)
	n.st.Lock()
	defer n.st.Unlock()
	if id := n.blocks[b.idx]; id != pendingBlock {
		n.frees = append(n.frees, id)
		n.blocks[b.idx] = pendingBlock
		if id == n.clipID {
			n.clipID = 0
		}
	}
}

// dropBlocks forgets the blocks from keep on, inside the gate.
func (t *Tree) dropBlocks(n *inode, keep int64) {
	for _, b := range t.cache.behind(n.ino, keep) {
		b.mu.Lock()
		if b.dirty {
			b.dirty = false
			n.dirtyBlocks.Add(-1)
		}
		b.dropped, b.n = true, nil
		t.cache.forget(b)
		b.mu.Unlock()
		t.cache.release(b)
	}
	n.st.Lock()
	defer n.st.Unlock()
	for i := keep; i < int64(len(n.blocks)); i++ {
		id := n.blocks[i]
		if id == 0 {
			continue
		}
		n.alloc--
		if id != pendingBlock {
			n.frees = append(n.frees, id)
		}
		if id == n.clipID {
			n.clipID = 0
		}
	}
	if keep < int64(len(n.blocks)) {
		n.blocks = n.blocks[:keep]
	}
}

// Fallocate makes a file at least off+length bytes long, as fallocate(2) with
// mode 0 does; it reserves no space.
func (t *Tree) Fallocate(ctx context.Context, ino uint64, off, length int64) error {
	n, err := t.regular(ctx, ino)
	if err != nil {
		return err
	}
	defer t.put(n)
	if off < 0 || length <= 0 {
		return syscall.EINVAL
	}
	if off > maxSize-length {
		return syscall.EFBIG
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.st.Lock()
	size := n.size
	n.st.Unlock()
	if off+length <= size {
		return nil
	}
	return t.truncate(ctx, n, off+length)
}

// The values of whence that Seek knows, as lseek(2).
const (
	SeekData = 3
	SeekHole = 4
)

// Seek finds the next data or hole at or behind off, by whole blocks.
func (t *Tree) Seek(ctx context.Context, ino uint64, off int64, whence int) (int64, error) {
	n, err := t.regular(ctx, ino)
	if err != nil {
		return 0, err
	}
	defer t.put(n)
	if whence != SeekData && whence != SeekHole {
		return 0, syscall.EINVAL
	}
	n.st.Lock()
	defer n.st.Unlock()
	if off < 0 || off >= n.size {
		return 0, syscall.ENXIO
	}
	for i := off / blockSize; i*blockSize < n.size; i++ {
		hole := i >= int64(len(n.blocks)) || n.blocks[i] == 0
		if hole == (whence == SeekHole) {
			return max(off, i*blockSize), nil
		}
		if i >= int64(len(n.blocks)) {
			break
		}
	}
	if whence == SeekHole {
		return n.size, nil
	}
	return 0, syscall.ENXIO
}
