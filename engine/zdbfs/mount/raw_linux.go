package mount

import (
	"context"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
)

// SafeXattr is the extended attribute that tells tree.SafeState of a file. It
// can be read, not listed (cp -a would copy it) and not set.
const SafeXattr = "user.qsfs.safe"

// cacheFor is how long the kernel may keep names and attributes: there is no
// other writer, and it knows its own changes.
const cacheFor = time.Hour

// raw answers the kernel. Node ids are inode numbers; nothing is kept for what
// the kernel knows, so there is nothing to forget.
type raw struct {
	fuse.RawFileSystem // answers ENOSYS
	t                  *tree.Tree

	mu   sync.Mutex
	dirs map[uint64]*dirHandle
	next uint64
}

type dirHandle struct {
	mu sync.Mutex
	d  *tree.Dir
}

func newRaw(t *tree.Tree) *raw {
	return &raw{RawFileSystem: fuse.NewDefaultRawFileSystem(), t: t, dirs: make(map[uint64]*dirHandle)}
}

func (r *raw) String() string { return "zdbfs" }

func call(cancel <-chan struct{}) context.Context { return &fuse.Context{Cancel: cancel} }

func status(err error) fuse.Status { return fuse.Status(tree.Errno(err)) }

func fillAttr(a tree.Attr, out *fuse.Attr) {
	out.Ino, out.Size, out.Blocks = a.Ino, uint64(a.Size), uint64(a.Blocks)
	out.Mode, out.Nlink, out.Rdev = a.Mode, a.Nlink, a.Rdev
	out.Uid, out.Gid = a.UID, a.GID
	out.Atime, out.Atimensec = uint64(a.Atime.Unix()), uint32(a.Atime.Nanosecond())
	out.Mtime, out.Mtimensec = uint64(a.Mtime.Unix()), uint32(a.Mtime.Nanosecond())
	out.Ctime, out.Ctimensec = uint64(a.Ctime.Unix()), uint32(a.Ctime.Nanosecond())
	out.Blksize = 4096
}

func fillEntry(a tree.Attr, err error, out *fuse.EntryOut) fuse.Status {
	if err != nil {
		return status(err)
	}
	out.NodeId = a.Ino
	out.SetEntryTimeout(cacheFor)
	out.SetAttrTimeout(cacheFor)
	fillAttr(a, &out.Attr)
	return fuse.OK
}

func fillAttrOut(a tree.Attr, err error, out *fuse.AttrOut) fuse.Status {
	if err != nil {
		return status(err)
	}
	out.SetTimeout(cacheFor)
	fillAttr(a, &out.Attr)
	return fuse.OK
}

func (r *raw) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	a, err := r.t.Lookup(call(cancel), h.NodeId, name)
	if tree.Errno(err) == syscall.ENOENT {
		out.NodeId = 0 // the kernel keeps that there is no such name
		out.SetEntryTimeout(cacheFor)
		return fuse.OK
	}
	return fillEntry(a, err, out)
}

func (r *raw) Forget(uint64, uint64) {}

func (r *raw) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	a, err := r.t.Getattr(call(cancel), in.NodeId)
	return fillAttrOut(a, err, out)
}

func (r *raw) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	ctx := call(cancel)
	var s tree.SetAttr
	if m, ok := in.GetMode(); ok {
		s.Mode = &m
	}
	if id, ok := in.GetUID(); ok {
		s.UID = &id
	}
	if id, ok := in.GetGID(); ok {
		s.GID = &id
	}
	if size, ok := in.GetSize(); ok {
		n := int64(size)
		s.Size = &n
	}
	now := r.t.Now()
	if in.Valid&fuse.FATTR_ATIME != 0 {
		at := time.Unix(int64(in.Atime), int64(in.Atimensec))
		s.Atime = &at
	}
	if in.Valid&fuse.FATTR_ATIME_NOW != 0 {
		s.Atime = &now
	}
	if in.Valid&fuse.FATTR_MTIME != 0 {
		at := time.Unix(int64(in.Mtime), int64(in.Mtimensec))
		s.Mtime = &at
	}
	if in.Valid&fuse.FATTR_MTIME_NOW != 0 {
		s.Mtime = &now
	}
	s.KillPriv = in.Valid&fuse.FATTR_KILL_SUIDGID != 0 || s.UID != nil || s.GID != nil
	a, err := r.t.Setattr(ctx, in.NodeId, s)
	return fillAttrOut(a, err, out)
}

func node(h *fuse.InHeader, mode, rdev uint32) tree.NewNode {
	return tree.NewNode{Mode: mode, UID: h.Uid, GID: h.Gid, Rdev: rdev}
}

func (r *raw) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	a, err := r.t.Mknod(call(cancel), in.NodeId, name, node(&in.InHeader, in.Mode, in.Rdev))
	return fillEntry(a, err, out)
}

func (r *raw) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	a, err := r.t.Mkdir(call(cancel), in.NodeId, name, node(&in.InHeader, in.Mode, 0))
	return fillEntry(a, err, out)
}

func (r *raw) Unlink(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return status(r.t.Unlink(call(cancel), h.NodeId, name))
}

func (r *raw) Rmdir(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return status(r.t.Rmdir(call(cancel), h.NodeId, name))
}

func (r *raw) Rename(cancel <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	return status(r.t.Rename(call(cancel), in.NodeId, oldName, in.Newdir, newName, in.Flags))
}

func (r *raw) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	a, err := r.t.Link(call(cancel), in.Oldnodeid, in.NodeId, name)
	return fillEntry(a, err, out)
}

func (r *raw) Symlink(cancel <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	a, err := r.t.Symlink(call(cancel), h.NodeId, name, target, node(h, 0, 0))
	return fillEntry(a, err, out)
}

func (r *raw) Readlink(cancel <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	target, err := r.t.Readlink(call(cancel), h.NodeId)
	return []byte(target), status(err)
}

func (r *raw) GetXAttr(cancel <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	if name == SafeXattr {
		return answer([]byte(r.t.SafeState(h.NodeId)), dest)
	}
	value, err := r.t.Getxattr(call(cancel), h.NodeId, name)
	if err != nil {
		return 0, status(err)
	}
	return answer(value, dest)
}

func answer(value, dest []byte) (uint32, fuse.Status) {
	if len(value) > len(dest) {
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(dest, value)), fuse.OK
}

func (r *raw) ListXAttr(cancel <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	names, err := r.t.Listxattr(call(cancel), h.NodeId)
	if err != nil {
		return 0, status(err)
	}
	var list []byte
	for _, name := range names {
		list = append(append(list, name...), 0)
	}
	return answer(list, dest)
}

func (r *raw) SetXAttr(cancel <-chan struct{}, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	if name == SafeXattr {
		return fuse.EPERM
	}
	return status(r.t.Setxattr(call(cancel), in.NodeId, name, value, in.Flags))
}

func (r *raw) RemoveXAttr(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	if name == SafeXattr {
		return fuse.EPERM
	}
	return status(r.t.Removexattr(call(cancel), h.NodeId, name))
}

// openFlags lets the kernel keep pages over opens, and spares the flush of a
// file that is only read.
func openFlags(flags uint32) uint32 {
	out := uint32(fuse.FOPEN_KEEP_CACHE)
	if flags&syscall.O_ACCMODE == syscall.O_RDONLY {
		out |= fuse.FOPEN_NOFLUSH
	}
	return out
}

func (r *raw) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	a, err := r.t.Create(call(cancel), in.NodeId, name, node(&in.InHeader, in.Mode, 0))
	out.OpenFlags = openFlags(in.Flags)
	return fillEntry(a, err, &out.EntryOut)
}

func (r *raw) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	ctx := call(cancel)
	if err := r.t.Open(ctx, in.NodeId); err != nil {
		return status(err)
	}
	if in.Flags&syscall.O_TRUNC != 0 {
		var zero int64
		s := tree.SetAttr{Size: &zero, KillPriv: in.Mode&fuse.OPEN_KILL_SUIDGID != 0}
		if _, err := r.t.Setattr(ctx, in.NodeId, s); err != nil {
			r.t.Release(in.NodeId)
			return status(err)
		}
	}
	out.OpenFlags = openFlags(in.Flags)
	return fuse.OK
}

func (r *raw) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n, err := r.t.ReadAt(call(cancel), in.NodeId, buf[:min(len(buf), int(in.Size))], int64(in.Offset))
	if err != nil {
		return nil, status(err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

func (r *raw) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	return r.Writev(cancel, in, [][]byte{data})
}

func (r *raw) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	ctx := call(cancel)
	if in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0 {
		if _, err := r.t.Setattr(ctx, in.NodeId, tree.SetAttr{KillPriv: true}); err != nil {
			return 0, status(err)
		}
	}
	done := 0
	for _, p := range data {
		n, err := r.t.WriteAt(ctx, in.NodeId, p, int64(in.Offset)+int64(done))
		done += n
		if err == nil && n < len(p) {
			break // at the largest size of a file
		}
		if err != nil && done == 0 {
			return 0, status(err)
		}
		if err != nil {
			break // the next write tells
		}
	}
	return uint32(done), fuse.OK
}

func (r *raw) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	off, err := r.t.Seek(call(cancel), in.NodeId, int64(in.Offset), int(in.Whence))
	out.Offset = uint64(off)
	return status(err)
}

func (r *raw) Release(_ <-chan struct{}, in *fuse.ReleaseIn) { r.t.Release(in.NodeId) }

// Flush is close(2): it tells what could not be stored in the background.
func (r *raw) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	return status(r.t.WriteError(call(cancel), in.NodeId))
}

func (r *raw) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return status(r.t.Fsync(call(cancel), in.NodeId))
}

func (r *raw) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return status(r.t.Fsync(call(cancel), in.NodeId))
}

func (r *raw) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	switch in.Mode {
	case 0:
	case unix.FALLOC_FL_KEEP_SIZE:
		return fuse.OK // nothing is reserved in either mode
	default:
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	return status(r.t.Fallocate(call(cancel), in.NodeId, int64(in.Offset), int64(in.Length)))
}

func (r *raw) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return fuse.Status(syscall.ENOTTY)
}

func (r *raw) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	d, err := r.t.OpenDir(call(cancel), in.NodeId)
	if err != nil {
		return status(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	out.Fh = r.next
	r.dirs[out.Fh] = &dirHandle{d: d}
	return fuse.OK
}

func (r *raw) ReleaseDir(in *fuse.ReleaseIn) {
	r.mu.Lock()
	h := r.dirs[in.Fh]
	delete(r.dirs, in.Fh)
	r.mu.Unlock()
	if h != nil {
		h.d.Close()
	}
}

func (r *raw) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return r.list(cancel, in, func(ctx context.Context, d *tree.Dir, e tree.Entry) bool {
		entry := fuse.DirEntry{Name: e.Name, Ino: e.Ino, Off: e.Next, Mode: syscall.S_IFDIR}
		if e.Name != "." && e.Name != ".." {
			a, _ := d.Stat(ctx, e) // without it the type is not known
			entry.Mode = a.Mode
		}
		return out.AddDirEntry(entry)
	})
}

func (r *raw) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return r.list(cancel, in, func(ctx context.Context, d *tree.Dir, e tree.Entry) bool {
		entry := out.AddDirLookupEntry(fuse.DirEntry{Name: e.Name, Ino: e.Ino, Off: e.Next, Mode: syscall.S_IFDIR})
		if entry == nil {
			return false
		}
		if e.Name == "." || e.Name == ".." {
			return true
		}
		// Without attributes the name is listed all the same.
		if a, err := d.Stat(ctx, e); err == nil {
			fillEntry(a, nil, entry)
			out.FixMode(a.Mode)
		} else {
			out.FixMode(0)
		}
		return true
	})
}

// list adds entries from the offset on until add has no room.
func (r *raw) list(cancel <-chan struct{}, in *fuse.ReadIn, add func(context.Context, *tree.Dir, tree.Entry) bool) fuse.Status {
	r.mu.Lock()
	h := r.dirs[in.Fh]
	r.mu.Unlock()
	if h == nil {
		return fuse.EBADF
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	ctx := call(cancel)
	some := false
	for cookie := in.Offset; ; {
		entries, err := h.d.Read(ctx, cookie)
		if err != nil && some {
			return fuse.OK // the next call tells
		}
		if err != nil || len(entries) == 0 {
			return status(err)
		}
		for _, e := range entries {
			if !add(ctx, h.d, e) {
				return fuse.OK
			}
			some, cookie = true, e.Next
		}
	}
}

func (r *raw) StatFs(cancel <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	s, err := r.t.Statfs(call(cancel))
	out.Bsize, out.Frsize = s.BlockSize, s.FragSize
	out.Blocks, out.Bfree, out.Bavail = s.Blocks, s.Free, s.Free
	out.Files, out.Ffree = s.Files, s.FilesFree
	out.NameLen = s.NameLength
	return status(err)
}
