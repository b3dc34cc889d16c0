package tree

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"syscall"
)

// folder gets a folder.
func (t *Tree) folder(ctx context.Context, ino uint64) (*inode, error) {
	n, err := t.get(ctx, ino)
	if err != nil {
		return nil, err
	}
	if !n.isDir() {
		t.put(n)
		return nil, syscall.ENOTDIR
	}
	return n, nil
}

// loadBucket returns a bucket of a pinned folder; it stays in memory as long as
// the folder does. A bucket that is missing is a fault, never an empty one. No
// lock needs to be held.
func (t *Tree) loadBucket(ctx context.Context, n *inode, slot int) (*bucket, error) {
	n.st.Lock()
	b, key := n.dir.buckets[slot], n.dir.keys[slot]
	if b == nil && key == 0 {
		b = &bucket{bytes: bucketHead}
		n.dir.buckets[slot] = b
	}
	n.st.Unlock()
	if b != nil {
		return b, nil
	}
	value, err := t.meta.Get(ctx, key)
	if err != nil {
		return nil, fault(fmt.Sprintf("bucket %d of folder", key), n.ino, err)
	}
	entries, sorted, err := decodeBucket(value)
	if err != nil {
		return nil, fault(fmt.Sprintf("bucket %d of folder", key), n.ino, err)
	}
	if !sorted {
		t.log.Warn("a bucket was not sorted", "folder", n.ino, "bucket", key)
	}
	n.st.Lock()
	defer n.st.Unlock()
	if n.dir.buckets[slot] == nil {
		n.dir.buckets[slot] = &bucket{entries: entries, bytes: len(value)}
	}
	return n.dir.buckets[slot], nil
}

// find gives the place of a name, or where it would be.
func (b *bucket) find(name string) (int, bool) {
	i := sort.Search(len(b.entries), func(i int) bool { return b.entries[i].name >= name })
	return i, i < len(b.entries) && b.entries[i].name == name
}

// put adds a name or changes its inode number.
func (b *bucket) put(name string, ino uint64) {
	b.dirty = true
	i, found := b.find(name)
	if found {
		b.entries[i].ino = ino
		return
	}
	b.entries = append(b.entries, dirent{})
	copy(b.entries[i+1:], b.entries[i:])
	b.entries[i] = dirent{name, ino}
	b.bytes += entryBytes + len(name)
}

// remove takes a name away.
func (b *bucket) remove(name string) {
	i, found := b.find(name)
	if !found {
		return
	}
	b.dirty = true
	b.entries = append(b.entries[:i], b.entries[i+1:]...)
	b.bytes -= entryBytes + len(name)
}

// checkName refuses what can not be the name of a new entry.
func checkName(name string) error {
	switch {
	case name == "":
		return syscall.ENOENT
	case len(name) > maxName:
		return syscall.ENAMETOOLONG
	case isDot(name):
		return syscall.EEXIST
	case strings.ContainsAny(name, "/\x00"):
		return syscall.EINVAL
	}
	return nil
}

// peek looks a name up in a pinned folder.
func (t *Tree) peek(ctx context.Context, p *inode, name string) (uint64, error) {
	if name == "." {
		return p.ino, nil
	}
	if name == ".." {
		return t.parentOf(p), nil
	}
	b, err := t.loadBucket(ctx, p, slotOf(name))
	if err != nil {
		return 0, err
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	if i, found := b.find(name); found {
		return b.entries[i].ino, nil
	}
	if len(name) > maxName {
		return 0, syscall.ENAMETOOLONG
	}
	return 0, syscall.ENOENT
}

// parentOf gives the folder that n was last reached from; the root is its own,
// and stands in where nothing is known.
func (t *Tree) parentOf(n *inode) uint64 {
	n.st.Lock()
	defer n.st.Unlock()
	if n.ino == Root || n.dir.parent == 0 {
		return Root
	}
	return n.dir.parent
}

// named gets an inode that a name leads to: that it is missing is a fault.
func (t *Tree) named(ctx context.Context, ino uint64) (*inode, error) {
	n, err := t.get(ctx, ino)
	if errors.Is(err, syscall.ENOENT) {
		return nil, fault("inode", ino, errors.New("a name leads to it and it is missing"))
	}
	return n, err
}

// child looks a name up and gets its inode.
func (t *Tree) child(ctx context.Context, p *inode, name string) (*inode, error) {
	for {
		ino, err := t.peek(ctx, p, name)
		if err != nil {
			return nil, err
		}
		n, err := t.get(ctx, ino)
		if err == nil {
			if n.dir != nil && !isDot(name) {
				t.learnParent(p, name, n)
			}
			return n, nil
		}
		if !errors.Is(err, syscall.ENOENT) {
			return nil, err
		}
		// Removed between the two looks, or really missing.
		if again, err := t.peek(ctx, p, name); err != nil || again == ino {
			if err == nil {
				_, err = t.named(ctx, ino)
			}
			return nil, err
		}
	}
}

// learnParent notes that folder n is the name in p, if it still is.
func (t *Tree) learnParent(p *inode, name string, n *inode) {
	n.st.Lock()
	known := n.dir.parent == p.ino
	n.st.Unlock()
	if known || p == n {
		return
	}
	p.mu.RLock() // whoever moves n away holds it for writing
	defer p.mu.RUnlock()
	p.st.Lock()
	b := p.dir.buckets[slotOf(name)]
	p.st.Unlock()
	if i, found := b.find(name); found && b.entries[i].ino == n.ino {
		n.st.Lock()
		n.dir.parent = p.ino
		n.st.Unlock()
	}
}

// Lookup finds a name in a folder.
func (t *Tree) Lookup(ctx context.Context, parent uint64, name string) (Attr, error) {
	p, err := t.folder(ctx, parent)
	if err != nil {
		return Attr{}, err
	}
	defer t.put(p)
	n, err := t.child(ctx, p, name)
	if err != nil {
		return Attr{}, err
	}
	defer t.put(n)
	return n.attr(), nil
}

// isEmpty says whether a folder has no names; n.mu is held.
func (t *Tree) isEmpty(n *inode) bool {
	n.st.Lock()
	defer n.st.Unlock()
	for slot, b := range n.dir.buckets {
		if b == nil {
			if n.dir.keys[slot] != 0 {
				return false // not loaded
			}
			continue
		}
		for _, e := range b.entries {
			if !isDot(e.name) {
				return false
			}
		}
	}
	return true
}

// loadAll brings every bucket of a folder into memory.
func (t *Tree) loadAll(ctx context.Context, n *inode) error {
	for slot := range slotCount {
		n.st.Lock()
		needed := n.dir.buckets[slot] == nil && n.dir.keys[slot] != 0
		n.st.Unlock()
		if !needed {
			continue
		}
		if _, err := t.loadBucket(ctx, n, slot); err != nil {
			return err
		}
	}
	return nil
}

// names counts the names of a folder whose buckets are in memory, and the size
// that the format wants for them.
func (n *inode) namesLocked() (size int64) {
	for _, b := range n.dir.buckets {
		if b == nil {
			continue
		}
		for _, e := range b.entries {
			if !isDot(e.name) {
				size += int64(entryBytes + len(e.name))
			}
		}
	}
	return size
}

// addName puts a name into a folder, inside the gate; the bucket is loaded and
// has room. A name that was there is replaced.
func (t *Tree) addName(p *inode, name string, ino uint64) {
	p.st.Lock()
	defer p.st.Unlock()
	b := p.dir.buckets[slotOf(name)]
	if _, found := b.find(name); !found {
		p.size += int64(entryBytes + len(name))
	}
	b.put(name, ino)
	t.changedLocked(p)
}

// removeName takes a name out of a folder, inside the gate.
func (t *Tree) removeName(p *inode, name string) {
	p.st.Lock()
	defer p.st.Unlock()
	b := p.dir.buckets[slotOf(name)]
	if _, found := b.find(name); !found {
		return
	}
	b.remove(name)
	p.size -= int64(entryBytes + len(name))
	if p.size < 0 {
		// Another writer's wrong number; zdbfs must never see it below zero.
		p.size = p.namesLocked()
	}
	t.changedLocked(p)
}

// changedLocked gives a folder the times of a change. st is held.
func (t *Tree) changedLocked(p *inode) {
	p.mtime = t.stamp()
	p.ctime = p.mtime
}

// prepareRemove loads what removeName needs of a folder: its bucket, and all of
// them when the folder's size is wrong and has to be counted.
func (t *Tree) prepareRemove(ctx context.Context, p *inode, name string) error {
	if _, err := t.loadBucket(ctx, p, slotOf(name)); err != nil {
		return err
	}
	p.st.Lock()
	wrong := p.size < int64(entryBytes+len(name))
	p.st.Unlock()
	if wrong {
		return t.loadAll(ctx, p)
	}
	return nil
}

// prepareAdd loads the bucket of a new name and checks that it has room.
func (t *Tree) prepareAdd(ctx context.Context, p *inode, name string) error {
	b, err := t.loadBucket(ctx, p, slotOf(name))
	if err != nil {
		return err
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	if b.bytes+entryBytes+len(name) > bucketFull {
		t.log.Error("a bucket of a folder is full", "folder", p.ino, "bytes", b.bytes)
		return syscall.ENOSPC
	}
	return nil
}

// Dir lists one folder. It is not safe for concurrent use.
type Dir struct {
	t     *Tree
	ino   uint64
	slot  int
	names []dirent // of slot
}

// OpenDir opens a folder for listing; Close gives it back.
func (t *Tree) OpenDir(ctx context.Context, ino uint64) (*Dir, error) {
	n, err := t.folder(ctx, ino)
	if err != nil {
		return nil, err
	}
	defer t.put(n)
	if err := t.Open(ctx, ino); err != nil {
		return nil, err
	}
	return &Dir{t: t, ino: ino, slot: -1}, nil
}

// Ino is the folder's inode number.
func (d *Dir) Ino() uint64 { return d.ino }

// Stat gives the attributes of an entry that Read returned. An inode that is
// missing is a fault, EIO, as long as the name leads to it.
func (d *Dir) Stat(ctx context.Context, e Entry) (Attr, error) {
	n, err := d.t.get(ctx, e.Ino)
	if err != nil {
		return Attr{}, err
	}
	defer d.t.put(n)
	if n.isDir() {
		p, err := d.t.folder(ctx, d.ino)
		if err != nil {
			return Attr{}, err
		}
		defer d.t.put(p)
		if _, err := d.t.loadBucket(ctx, p, slotOf(e.Name)); err != nil {
			return Attr{}, err
		}
		d.t.learnParent(p, e.Name, n)
	}
	return n.attr(), nil
}

// Close ends the listing.
func (d *Dir) Close() { d.t.Release(d.ino) }

// Read returns the entries behind a cookie, 0 for the start: as many as one
// bucket holds. No entries means the end. A name that is there all the time is
// listed once, whatever happens to others meanwhile. `.` and `..` come first.
func (d *Dir) Read(ctx context.Context, cookie uint64) ([]Entry, error) {
	n, err := d.t.folder(ctx, d.ino)
	if err != nil {
		return nil, err
	}
	defer d.t.put(n)
	if cookie < 2 {
		dots := []Entry{{".", d.ino, 1}, {"..", d.t.parentOf(n), 2}}
		return dots[cookie:], nil
	}
	at := int(max(cookie, 1<<32) & 0xffffffff)
	slot := max(0, int(cookie>>32)-1)
	for ; slot < slotCount; slot, at = slot+1, 0 {
		if d.slot != slot || at == 0 {
			if d.names, err = d.t.snapshotBucket(ctx, n, slot, d.names[:0]); err != nil {
				d.slot = -1
				return nil, err
			}
			d.slot = slot
		}
		if at < len(d.names) {
			break
		}
	}
	if slot == slotCount {
		return nil, nil
	}
	out := make([]Entry, 0, len(d.names)-at)
	for i := at; i < len(d.names); i++ {
		out = append(out, Entry{d.names[i].name, d.names[i].ino, uint64(slot+1)<<32 | uint64(i+1)})
	}
	return out, nil
}

// snapshotBucket copies the names of a bucket that a listing may show.
func (t *Tree) snapshotBucket(ctx context.Context, n *inode, slot int, into []dirent) ([]dirent, error) {
	b, err := t.loadBucket(ctx, n, slot)
	if err != nil {
		return nil, err
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	for _, e := range b.entries {
		if !isDot(e.name) && e.name != "" && !strings.ContainsAny(e.name, "/\x00") {
			into = append(into, e)
		}
	}
	return into, nil
}

// ReadDir lists a folder at once, without `.` and `..`.
func (t *Tree) ReadDir(ctx context.Context, ino uint64) ([]Entry, error) {
	d, err := t.OpenDir(ctx, ino)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	var out []Entry
	for cookie := uint64(2); ; {
		part, err := d.Read(ctx, cookie)
		if err != nil || len(part) == 0 {
			return out, err
		}
		out = append(out, part...)
		cookie = part[len(part)-1].Next
	}
}
