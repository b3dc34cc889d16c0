package tree

import (
	"context"
	"errors"
	"syscall"
)

// move is a rename on its way. The inodes are pinned.
type move struct {
	from, to         *inode // folders, perhaps the same
	name, newName    string
	source, target   *inode // target is nil where the new name is free
	noReplace, trade bool
}

// Rename moves a name, replacing what the new name led to unless flags say
// otherwise: RenameNoReplace, RenameExchange.
func (t *Tree) Rename(ctx context.Context, parent uint64, name string, newParent uint64, newName string, flags uint32) error {
	m := &move{name: name, newName: newName, noReplace: flags&RenameNoReplace != 0, trade: flags&RenameExchange != 0}
	switch {
	case flags&^(RenameNoReplace|RenameExchange) != 0, m.noReplace && m.trade:
		return syscall.EINVAL
	case isDot(name), isDot(newName):
		return syscall.EBUSY
	}
	if err := checkName(newName); err != nil {
		return err
	}
	var err error
	if m.from, err = t.folder(ctx, parent); err != nil {
		return err
	}
	defer t.put(m.from)
	if m.to, err = t.folder(ctx, newParent); err != nil {
		return err
	}
	defer t.put(m.to)
	if m.from != m.to {
		// Held before it is known whether a folder moves: rarely in the way.
		t.renames.Lock()
		defer t.renames.Unlock()
	}
	for {
		again, err := t.renameOnce(ctx, m)
		if !again {
			return err
		}
	}
}

// renameOnce asks to be called again when a name changed meanwhile.
func (t *Tree) renameOnce(ctx context.Context, m *move) (again bool, err error) {
	if err := t.prepareRemove(ctx, m.from, m.name); err != nil {
		return false, err
	}
	if m.source, err = t.child(ctx, m.from, m.name); err != nil {
		return false, err
	}
	defer t.put(m.source)
	if err := t.prepareAdd(ctx, m.to, m.newName); err != nil {
		return false, err
	}
	m.target, err = t.child(ctx, m.to, m.newName)
	switch {
	case err == nil:
		defer t.put(m.target)
	case errors.Is(err, syscall.ENOENT):
		m.target = nil
	default:
		return false, err
	}
	if err := t.checkMove(ctx, m); err != nil {
		return false, err
	}
	defer lockAll(m.from, m.to, m.source, m.target)()
	if !m.from.stillNamed(m.name, m.source.ino) {
		return true, nil
	}
	err = m.to.accepts(m.newName)
	switch {
	case errors.Is(err, syscall.ENOENT):
		return false, err // the folder was removed
	case m.target == nil && err != nil:
		return true, nil
	case m.target != nil && (err == nil || !m.to.stillNamed(m.newName, m.target.ino)):
		return true, nil
	}
	if m.source == m.target {
		return false, nil // two names of one inode: both stay
	}
	if m.target != nil && !m.trade && m.target.isDir() && !t.isEmpty(m.target) {
		return false, syscall.ENOTEMPTY
	}
	t.gate.RLock()
	defer t.gate.RUnlock()
	t.apply(m)
	return false, nil
}

// checkMove refuses what can be seen before the locks.
func (t *Tree) checkMove(ctx context.Context, m *move) error {
	switch {
	case m.target == nil && m.trade:
		return syscall.ENOENT
	case m.target != nil && m.noReplace:
		return syscall.EEXIST
	}
	if m.from != m.to {
		if err := t.notBelow(ctx, m.to, m.source, syscall.EINVAL); err != nil {
			return err
		}
		if m.target != nil {
			// Traded, it would be below itself; replaced, it is not empty.
			refuse := syscall.ENOTEMPTY
			if m.trade {
				refuse = syscall.EINVAL
			}
			if err := t.notBelow(ctx, m.from, m.target, refuse); err != nil {
				return err
			}
		}
	}
	if m.target == nil || m.trade || m.source == m.target {
		return nil
	}
	switch {
	case m.source.isDir() && !m.target.isDir():
		return syscall.ENOTDIR
	case !m.source.isDir() && m.target.isDir():
		return syscall.EISDIR
	case m.target.isDir():
		return t.loadAll(ctx, m.target)
	}
	return nil
}

// apply changes memory, inside the gate with every lock held.
func (t *Tree) apply(m *move) {
	if m.trade {
		t.addName(m.from, m.name, m.target.ino)
		t.addName(m.to, m.newName, m.source.ino)
		t.moved(m.target, m.to, m.from)
	} else {
		t.removeName(m.from, m.name)
		t.addName(m.to, m.newName, m.source.ino)
		if m.target != nil {
			if m.target.isDir() {
				m.to.countFolder(-1)
			}
			t.dropLink(m.target)
		}
	}
	t.moved(m.source, m.from, m.to)
	t.touch(m.from, dirtyShared)
	t.touch(m.to, dirtyShared)
}

// moved notes that n went from one folder to another.
func (t *Tree) moved(n, from, to *inode) {
	n.st.Lock()
	n.ctime = t.stamp()
	if n.dir != nil {
		n.dir.parent = to.ino
	}
	n.st.Unlock()
	if n.isDir() && from != to {
		from.countFolder(-1)
		to.countFolder(+1)
	}
	t.touch(n, dirtyShared)
}

// notBelow refuses when folder d is n or lies below it. Tree.renames is held.
func (t *Tree) notBelow(ctx context.Context, d, n *inode, refuse syscall.Errno) error {
	if !n.isDir() {
		return nil
	}
	below, known, err := t.above(ctx, d, n)
	if err == nil && !known {
		below, err = t.contains(ctx, n, d, map[uint64]bool{})
	}
	if err == nil && below {
		return refuse
	}
	return err
}

// above climbs from d; known is false where the way up is not known, because a
// folder on it was not reached by its name since it was loaded.
func (t *Tree) above(ctx context.Context, d, n *inode) (below, known bool, err error) {
	seen := map[uint64]bool{}
	for ino := d.ino; ; {
		if ino == n.ino {
			return true, true, nil
		}
		if ino == Root {
			return false, true, nil
		}
		if seen[ino] {
			return false, false, nil // a damaged tree
		}
		seen[ino] = true
		c, err := t.get(ctx, ino)
		if err != nil {
			return false, false, err
		}
		if !c.isDir() {
			t.put(c)
			return false, false, nil
		}
		c.st.Lock()
		ino = c.dir.parent
		c.st.Unlock()
		t.put(c)
		if ino == 0 {
			return false, false, nil
		}
	}
}

// contains searches downwards from n for d.
func (t *Tree) contains(ctx context.Context, n, d *inode, seen map[uint64]bool) (bool, error) {
	if n.ino == d.ino {
		return true, nil
	}
	if seen[n.ino] {
		return false, nil
	}
	seen[n.ino] = true
	entries, err := t.ReadDir(ctx, n.ino)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		c, err := t.child(ctx, n, e.Name)
		if errors.Is(err, syscall.ENOENT) {
			continue
		}
		if err != nil {
			return false, err
		}
		found := false
		if c.isDir() {
			found, err = t.contains(ctx, c, d, seen)
		}
		t.put(c)
		if found || err != nil {
			return found, err
		}
	}
	return false, nil
}
