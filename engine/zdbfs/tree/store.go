package tree

import (
	"context"
	"fmt"
)

// writer collects the metadata writes of one commit.
type writer struct {
	t      *Tree
	redo   []redo // together with others: through the journal
	single []redo // alone
}

// store writes a snapshot and syncs it. Order is everything here: what a
// record names is durable, or ahead of it in the same namespace, before it.
func (t *Tree) store(ctx context.Context, s *snapshot) error {
	c := &t.commit
	if c.dataDirty.Swap(false) {
		if err := t.data.Sync(ctx); err != nil {
			c.dataDirty.Store(true)
			return fault("sync of the data", 0, err)
		}
	}
	if err := t.reap(ctx); err != nil {
		return err
	}
	w := &writer{t: t}
	var frees []uint32
	for _, ch := range s.changes {
		if err := w.prepare(ctx, ch); err != nil {
			return err
		}
		frees = append(frees, ch.frees...)
	}
	for _, n := range c.dead {
		n.st.Lock()
		frees = append(frees, n.frees...)
		n.st.Unlock()
	}
	j := journal{rootExt: c.rootExt, orphans: append([]uint64(nil), c.leftOrphans...)}
	j.orphans = append(j.orphans, s.orphans...)
	for _, n := range c.dead {
		j.orphans = append(j.orphans, n.ino)
	}
	if len(w.redo) > 0 {
		j.redo = w.redo
		if err := t.writeJournal(ctx, &j); err != nil {
			return err
		}
		j.redo = nil
	}
	for _, list := range [][]redo{w.redo, w.single} {
		for _, r := range list {
			if err := t.updateMeta(ctx, r.id, r.value); err != nil {
				return err
			}
		}
	}
	j.frees = frees
	if err := t.writeJournal(ctx, &j); err != nil {
		return err
	}
	if c.metaDirty.Swap(false) {
		if err := t.meta.Sync(ctx); err != nil {
			c.metaDirty.Store(true)
			return fault("sync of the metadata", 0, err)
		}
	}
	t.deleteBlocks(ctx, frees)
	c.reap, c.dead = append(c.reap, c.dead...), nil
	return nil
}

func (t *Tree) updateMeta(ctx context.Context, id uint64, value []byte) error {
	t.commit.metaDirty.Store(true)
	return fault("record", id, t.meta.Update(ctx, id, value))
}

func (t *Tree) insertMeta(ctx context.Context, value []byte) (uint64, error) {
	t.commit.metaDirty.Store(true)
	id, err := t.meta.Insert(ctx, value)
	return id, fault("new record", id, err)
}

// deleteBlocks deletes blocks that no durable record names. What can not be
// deleted stays behind: space is lost, and the journal names it until the next
// commit.
func (t *Tree) deleteBlocks(ctx context.Context, ids []uint32) {
	for _, id := range ids {
		t.commit.dataDirty.Store(true)
		if err := ignoreNotFound(t.data.Delete(ctx, uint64(id))); err != nil {
			t.log.Warn("a block that nobody uses could not be deleted", "block", id, "err", err)
		}
	}
}

// reap deletes the records of inodes whose blocks are durably deleted.
func (t *Tree) reap(ctx context.Context) error {
	c := &t.commit
	keys := c.reapKeys
	c.reapKeys = nil
	for _, n := range c.reap {
		n.st.Lock()
		if n.dir != nil {
			for _, key := range n.dir.keys {
				if key != 0 {
					keys = append(keys, key)
				}
			}
		}
		if n.extKey != 0 {
			keys = append(keys, n.extKey)
		}
		n.st.Unlock()
		keys = append(keys, n.ino)
	}
	for _, key := range keys {
		c.metaDirty.Store(true)
		if err := ignoreNotFound(t.meta.Delete(ctx, key)); err != nil {
			c.reapKeys = keys
			return fault("delete record", key, err)
		}
	}
	for _, n := range c.reap {
		t.safe.forget(n.ino)
		t.put(n)
	}
	c.reap = nil
	return nil
}

// prepare writes what nothing leads to yet, which gives new records their
// keys, and sorts the rest into redo and single.
func (w *writer) prepare(ctx context.Context, ch *change) error {
	t, n := w.t, ch.n
	shared := ch.how&dirtyShared != 0
	if ch.ext != nil {
		changed, err := w.extension(ctx, ch)
		if err != nil {
			return err
		}
		shared = shared || changed
	}
	for i := range ch.buckets {
		b := &ch.buckets[i]
		isNew := b.key == 0
		if isNew {
			key, err := t.insertMeta(ctx, encodeBucket(0, nil))
			if err != nil {
				return err
			}
			b.key = key
			le.PutUint64(b.value, key)
			le.PutUint64(ch.value[slotOffset(b.slot):], key)
			n.st.Lock()
			n.dir.keys[b.slot] = key
			n.st.Unlock()
		}
		if isNew || ch.fresh {
			if err := t.updateMeta(ctx, b.key, b.value); err != nil {
				return err
			}
			continue
		}
		w.redo = append(w.redo, redo{b.key, b.value})
	}
	switch {
	case ch.fresh:
		return t.updateMeta(ctx, n.ino, ch.value)
	case shared:
		w.redo = append(w.redo, redo{n.ino, ch.value})
	default:
		w.single = append(w.single, redo{n.ino, ch.value})
	}
	return nil
}

// extension stores an inode's extension record; true: one that was there is
// changed, so that it belongs into the journal.
func (w *writer) extension(ctx context.Context, ch *change) (bool, error) {
	t, n := w.t, ch.n
	checksum := sum(ch.ext)
	n.st.Lock()
	key, same := n.extKey, n.extSum == checksum && checksum != 0
	n.st.Unlock()
	changed := false
	switch {
	case key == 0:
		id, err := t.insertMeta(ctx, ch.ext)
		if err != nil {
			return false, err
		}
		if id > maxInode {
			return false, fault("new record", id, fmt.Errorf("%w: the namespace is out of numbers", errFormat))
		}
		key = id
		if n.ino == Root {
			t.commit.rootExt, changed = key, true
		} else {
			le.PutUint32(ch.value[devOffset:], uint32(key))
		}
	case same:
	case ch.fresh:
		if err := t.updateMeta(ctx, key, ch.ext); err != nil {
			return false, err
		}
	default:
		w.redo = append(w.redo, redo{key, ch.ext})
		changed = true
	}
	n.st.Lock()
	n.extKey, n.extSum = key, checksum
	n.st.Unlock()
	return changed, nil
}

// writeJournal stores the journal, when it is not what is stored.
func (t *Tree) writeJournal(ctx context.Context, j *journal) error {
	c := &t.commit
	payload := j.payload()
	if len(j.redo) == 0 && c.rootExt == j.rootExt && string(payload) == string(c.payload) {
		return nil
	}
	var chunks []uint64
	if len(payload) > journalInline {
		for rest := payload; len(rest) > 0; {
			n := min(len(rest), journalChunk)
			id, err := t.insertMeta(ctx, rest[:n])
			if err != nil {
				c.reapKeys = append(c.reapKeys, chunks...)
				return err
			}
			chunks, rest = append(chunks, id), rest[n:]
		}
	}
	c.reapKeys, c.chunks = append(c.reapKeys, c.chunks...), chunks
	if err := t.updateMeta(ctx, c.journalKey, encodeJournal(j.rootExt, payload, chunks)); err != nil {
		return err
	}
	c.payload = payload
	return nil
}
