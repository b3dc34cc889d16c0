package tree

import (
	"context"
	"maps"
	"slices"
	"strings"
	"syscall"
)

// Getattr gives what stat shows. It does not wait for operations on the inode.
func (t *Tree) Getattr(ctx context.Context, ino uint64) (Attr, error) {
	n, err := t.get(ctx, ino)
	if err != nil {
		return Attr{}, err
	}
	defer t.put(n)
	return n.attr(), nil
}

// Setattr changes what s names, all or nothing.
func (t *Tree) Setattr(ctx context.Context, ino uint64, s SetAttr) (Attr, error) {
	n, err := t.get(ctx, ino)
	if err != nil {
		return Attr{}, err
	}
	defer t.put(n)
	if s.Size != nil {
		switch {
		case n.isDir():
			return Attr{}, syscall.EISDIR
		case !n.isRegular():
			return Attr{}, syscall.EINVAL
		}
	}
	if s == (SetAttr{KillPriv: true}) && !n.privileged() {
		return n.attr(), nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if s.Size != nil {
		if err := t.truncate(ctx, n, *s.Size); err != nil {
			return Attr{}, err
		}
	}
	t.gate.RLock()
	defer t.gate.RUnlock()
	n.st.Lock()
	if s.Mode != nil {
		n.mode = n.mode&typeMask | *s.Mode&permMask
	}
	if s.KillPriv && n.kind != typeDir {
		n.mode &^= setUID
		if n.mode&groupExec != 0 {
			n.mode &^= setGID
		}
	}
	if s.UID != nil {
		n.uid = *s.UID
	}
	if s.GID != nil {
		n.gid = *s.GID
	}
	if s.Atime != nil {
		n.atime = stampOf(*s.Atime)
	}
	if s.Mtime != nil {
		n.mtime = stampOf(*s.Mtime)
	}
	n.ctime = t.stamp()
	n.st.Unlock()
	t.touch(n, dirtySelf)
	return n.attr(), nil
}

// privileged says whether KillPriv would change n.
func (n *inode) privileged() bool {
	n.st.Lock()
	defer n.st.Unlock()
	return n.kind != typeDir && (n.mode&setUID != 0 || n.mode&(setGID|groupExec) == setGID|groupExec)
}

// Readlink gives the target of a symbolic link.
func (t *Tree) Readlink(ctx context.Context, ino uint64) (string, error) {
	n, err := t.get(ctx, ino)
	if err != nil {
		return "", err
	}
	defer t.put(n)
	if n.kind != typeLnk {
		return "", syscall.EINVAL
	}
	return n.target, nil
}

// Statfs tells sizes: what is free is Options.Size without the bytes of the
// data namespace, or the rest of that namespace's limit where it is less.
func (t *Tree) Statfs(context.Context) (Statfs, error) {
	const frag = 4096
	_, used, limit := t.data.Stats()
	used += t.cache.dirtyBytes()
	entries, _, _ := t.meta.Stats()
	free := max(0, t.size-used)
	if limit > 0 {
		free = min(free, max(0, limit-used))
	}
	return Statfs{
		BlockSize: blockSize, FragSize: frag,
		Blocks: uint64(t.size) / frag, Free: uint64(free) / frag,
		Files: maxInode, FilesFree: uint64(max(0, maxInode-entries)),
		NameLength: maxName,
	}, nil
}

// The flags of Setxattr, as setxattr(2).
const (
	XattrCreate  = 1
	XattrReplace = 2
)

// checkXattr refuses namespaces that are not kept: access control lists would
// have to be obeyed.
func checkXattr(name string) error {
	switch {
	case strings.HasPrefix(name, "user."), strings.HasPrefix(name, "trusted."), strings.HasPrefix(name, "security."):
	default:
		return syscall.EOPNOTSUPP
	}
	if len(name) > maxXattrName {
		return syscall.ERANGE
	}
	return nil
}

// Getxattr gives an extended attribute; ENODATA where there is none.
func (t *Tree) Getxattr(ctx context.Context, ino uint64, name string) ([]byte, error) {
	n, err := t.get(ctx, ino)
	if err != nil {
		return nil, err
	}
	defer t.put(n)
	if err := checkXattr(name); err != nil {
		return nil, err
	}
	n.st.Lock()
	defer n.st.Unlock()
	value, found := n.xattrs[name]
	if !found {
		return nil, syscall.ENODATA
	}
	return slices.Clone(value), nil
}

// Listxattr gives the names of the extended attributes, sorted.
func (t *Tree) Listxattr(ctx context.Context, ino uint64) ([]string, error) {
	n, err := t.get(ctx, ino)
	if err != nil {
		return nil, err
	}
	defer t.put(n)
	n.st.Lock()
	defer n.st.Unlock()
	return slices.Sorted(maps.Keys(n.xattrs)), nil
}

// Setxattr sets an extended attribute; flags are XattrCreate or XattrReplace.
func (t *Tree) Setxattr(ctx context.Context, ino uint64, name string, value []byte, flags uint32) error {
	if len(value) > maxXattrValue {
		return syscall.E2BIG
	}
	return t.changeXattrs(ctx, ino, name, func(attrs map[string][]byte) error {
		old, found := attrs[name]
		switch {
		case found && flags&XattrCreate != 0:
			return syscall.EEXIST
		case !found && flags&XattrReplace != 0:
			return syscall.ENODATA
		}
		used := len(name) + len(value) - len(old)
		for k, v := range attrs {
			used += len(k) + len(v)
		}
		if used > maxXattrs {
			return syscall.ENOSPC
		}
		attrs[name] = slices.Clone(value)
		return nil
	})
}

// Removexattr removes an extended attribute; ENODATA where there is none.
func (t *Tree) Removexattr(ctx context.Context, ino uint64, name string) error {
	return t.changeXattrs(ctx, ino, name, func(attrs map[string][]byte) error {
		if _, found := attrs[name]; !found {
			return syscall.ENODATA
		}
		delete(attrs, name)
		return nil
	})
}

func (t *Tree) changeXattrs(ctx context.Context, ino uint64, name string, change func(map[string][]byte) error) error {
	if err := checkXattr(name); err != nil {
		return err
	}
	n, err := t.get(ctx, ino)
	if err != nil {
		return err
	}
	defer t.put(n)
	n.mu.Lock()
	defer n.mu.Unlock()
	t.gate.RLock()
	defer t.gate.RUnlock()
	n.st.Lock()
	attrs := maps.Clone(n.xattrs)
	if attrs == nil {
		attrs = make(map[string][]byte)
	}
	if err = change(attrs); err == nil {
		n.xattrs, n.ctime = attrs, t.stamp()
	}
	n.st.Unlock()
	if err == nil {
		t.touch(n, dirtySelf)
	}
	return err
}
