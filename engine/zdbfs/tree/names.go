package tree

import (
	"context"
	"errors"
	"syscall"
)

// maxLinks is the most names of one inode.
const maxLinks = 1 << 30

// Mkdir makes a folder.
func (t *Tree) Mkdir(ctx context.Context, parent uint64, name string, n NewNode) (Attr, error) {
	n.Mode = typeDir | n.Mode&permMask
	return t.make(ctx, parent, name, n, "", false)
}

// Create makes a regular file and opens it: Release gives it back.
func (t *Tree) Create(ctx context.Context, parent uint64, name string, n NewNode) (Attr, error) {
	n.Mode = typeReg | n.Mode&permMask
	return t.make(ctx, parent, name, n, "", true)
}

// Mknod makes a regular file, a fifo, a socket or a device, by the type in
// n.Mode; none means a regular file.
func (t *Tree) Mknod(ctx context.Context, parent uint64, name string, n NewNode) (Attr, error) {
	switch n.Mode & typeMask {
	case 0:
		n.Mode |= typeReg
	case typeReg, typeFifo, typeSock, typeChr, typeBlk:
	default:
		return Attr{}, syscall.EINVAL
	}
	return t.make(ctx, parent, name, n, "", false)
}

// Symlink makes a symbolic link.
func (t *Tree) Symlink(ctx context.Context, parent uint64, name, target string, n NewNode) (Attr, error) {
	if target == "" {
		return Attr{}, syscall.ENOENT
	}
	if len(target) > maxTarget {
		return Attr{}, syscall.ENAMETOOLONG
	}
	n.Mode = typeLnk | 0o777
	return t.make(ctx, parent, name, n, target, false)
}

// make makes an inode and its name.
func (t *Tree) make(ctx context.Context, parent uint64, name string, node NewNode, target string, open bool) (Attr, error) {
	if err := checkName(name); err != nil {
		return Attr{}, err
	}
	p, err := t.folder(ctx, parent)
	if err != nil {
		return Attr{}, err
	}
	defer t.put(p)
	if err := t.prepareAdd(ctx, p, name); err != nil {
		return Attr{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.accepts(name); err != nil {
		return Attr{}, err
	}
	t.gate.RLock()
	defer t.gate.RUnlock()
	n, err := t.newInode(ctx, p, node, target)
	if err != nil {
		return Attr{}, err
	}
	if open {
		t.mu.Lock()
		t.opens[n.ino]++
		t.mu.Unlock()
	}
	t.addName(p, name, n.ino)
	if n.isDir() {
		p.countFolder(+1)
	}
	t.touch(n, dirtyShared)
	t.touch(p, dirtyShared)
	defer t.put(n)
	return n.attr(), nil
}

// accepts says whether a new name may be made in a folder whose mu is held.
func (n *inode) accepts(name string) error {
	n.st.Lock()
	defer n.st.Unlock()
	if n.gone {
		return syscall.ENOENT
	}
	if _, found := n.dir.buckets[slotOf(name)].find(name); found {
		return syscall.EEXIST
	}
	return nil
}

// countFolder keeps a folder's links: two, and one for each folder in it.
// zdbfs stores none at all; then the count is not known, and stays so.
func (n *inode) countFolder(by int) {
	n.st.Lock()
	defer n.st.Unlock()
	if n.links >= 2 {
		n.links = uint32(max(2, int(n.links)+by))
	}
}

// newInode stores a new inode, for its number, and returns it pinned. Nothing
// leads to it yet. It is called inside the gate.
func (t *Tree) newInode(ctx context.Context, p *inode, node NewNode, target string) (*inode, error) {
	now := t.stamp()
	n := &inode{
		mode: node.Mode & (typeMask | permMask), kind: node.Mode & typeMask, uid: node.UID, gid: node.GID, links: 1, target: target, size: int64(len(target)),
		atime: now, mtime: now, ctime: now, fresh: true, ready: make(chan struct{}), pins: 1,
	}
	close(n.ready)
	p.st.Lock()
	if p.mode&setGID != 0 {
		n.gid = p.gid
		if node.Mode&typeMask == typeDir {
			n.mode |= setGID
		}
	}
	p.st.Unlock()
	switch n.mode & typeMask {
	case typeDir:
		n.links, n.dir = 2, &folder{parent: p.ino}
	case typeChr, typeBlk:
		n.rdev = node.Rdev
	}
	value, _ := n.encodeLocked(n.size)
	id, err := t.meta.Insert(ctx, value)
	if err != nil {
		return nil, fault("new inode in folder", p.ino, err)
	}
	t.commit.metaDirty.Store(true)
	if id > maxInode {
		t.log.Error("the metadata namespace is out of numbers", "id", id)
		return nil, errors.Join(syscall.ENOSPC, t.meta.Delete(ctx, id))
	}
	n.ino = id
	t.mu.Lock()
	t.inodes[id] = n
	t.mu.Unlock()
	return n, nil
}

// Link gives an inode that is no folder one name more.
func (t *Tree) Link(ctx context.Context, ino, parent uint64, name string) (Attr, error) {
	if err := checkName(name); err != nil {
		return Attr{}, err
	}
	n, err := t.get(ctx, ino)
	if err != nil {
		return Attr{}, err
	}
	defer t.put(n)
	if n.isDir() {
		return Attr{}, syscall.EPERM
	}
	p, err := t.folder(ctx, parent)
	if err != nil {
		return Attr{}, err
	}
	defer t.put(p)
	if err := t.prepareAdd(ctx, p, name); err != nil {
		return Attr{}, err
	}
	defer lockAll(p, n)()
	if err := p.accepts(name); err != nil {
		return Attr{}, err
	}
	t.gate.RLock()
	defer t.gate.RUnlock()
	n.st.Lock()
	switch {
	case n.gone:
		err = syscall.ENOENT
	case n.links >= maxLinks:
		err = syscall.EMLINK
	default:
		n.links++
		n.ctime = t.stamp()
	}
	n.st.Unlock()
	if err != nil {
		return Attr{}, err
	}
	t.addName(p, name, n.ino)
	t.touch(n, dirtyShared)
	t.touch(p, dirtyShared)
	return n.attr(), nil
}

// stillNamed says whether the name leads to ino; p.mu is held.
func (n *inode) stillNamed(name string, ino uint64) bool {
	n.st.Lock()
	defer n.st.Unlock()
	b := n.dir.buckets[slotOf(name)]
	i, found := b.find(name)
	return found && b.entries[i].ino == ino
}

// Unlink takes a name away. With the last one the inode is deleted, as soon as
// nobody has it open.
func (t *Tree) Unlink(ctx context.Context, parent uint64, name string) error {
	return t.remove(ctx, parent, name, false)
}

// Rmdir removes an empty folder.
func (t *Tree) Rmdir(ctx context.Context, parent uint64, name string) error {
	switch name {
	case ".":
		return syscall.EINVAL
	case "..":
		return syscall.ENOTEMPTY
	}
	return t.remove(ctx, parent, name, true)
}

func (t *Tree) remove(ctx context.Context, parent uint64, name string, folder bool) error {
	p, err := t.folder(ctx, parent)
	if err != nil {
		return err
	}
	defer t.put(p)
	for {
		again, err := t.removeOnce(ctx, p, name, folder)
		if !again {
			return err
		}
	}
}

// removeOnce asks to be called again when the name changed meanwhile.
func (t *Tree) removeOnce(ctx context.Context, p *inode, name string, folder bool) (again bool, err error) {
	if isDot(name) {
		return false, syscall.EISDIR
	}
	if err := t.prepareRemove(ctx, p, name); err != nil {
		return false, err
	}
	n, err := t.child(ctx, p, name)
	if err != nil {
		return false, err
	}
	defer t.put(n)
	switch {
	case folder && !n.isDir():
		return false, syscall.ENOTDIR
	case !folder && n.isDir():
		return false, syscall.EISDIR
	case folder:
		if err := t.loadAll(ctx, n); err != nil {
			return false, err
		}
	}
	defer lockAll(p, n)()
	if !p.stillNamed(name, n.ino) {
		return true, nil
	}
	if folder && !t.isEmpty(n) {
		return false, syscall.ENOTEMPTY
	}
	t.gate.RLock()
	defer t.gate.RUnlock()
	t.removeName(p, name)
	if folder {
		p.countFolder(-1)
	}
	t.touch(p, dirtyShared)
	t.dropLink(n)
	return false, nil
}

// dropLink takes one name from an inode's count, inside the gate; a folder has
// one only.
func (t *Tree) dropLink(n *inode) {
	n.st.Lock()
	if n.links > 0 {
		n.links--
	}
	if n.isDir() {
		n.links = 0
	}
	n.gone = n.links == 0
	gone := n.gone
	n.ctime = t.stamp()
	n.st.Unlock()
	t.touch(n, dirtyShared)
	if !gone {
		return
	}
	t.mu.Lock()
	if t.orphans[n.ino] == nil {
		t.orphans[n.ino] = n
		t.pinLocked(n)
	}
	t.mu.Unlock()
}
