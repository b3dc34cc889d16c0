package testenv

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/engine/zdbfs/mount"
)

// Disk is a folder whose every change is recorded, so that a test can ask what
// would be there after a power cut at any moment: whatever was fsynced, and an
// arbitrary part of the rest. It is a file system over another folder.
//
// What a crash may leave is taken strictly. A file keeps what its last fsync
// before the cut covered; of later writes any subset, page by page, in any
// order, with the length of any of them. Names (creation, renaming, removal)
// keep what a later fsync of their folder covered; of the others a prefix.
type Disk struct {
	Path string // the mount

	mu  sync.Mutex
	ops []diskOp
	ids map[uint64]uint64 // inode number to the file that has it now: numbers are used again
	got uint64            // files so far
}

type opKind int

const (
	opWrite opKind = iota
	opTruncate
	opFsync
	opName // creation, renaming or removal of a name
	opDirSync
)

type diskOp struct {
	kind opKind
	ino  uint64
	off  int64
	data []byte
	size int64

	dir, name string // the name that is changed; of opDirSync the folder
	make      bool   // the name now means ino; else it is gone
	folder    bool
	more      *diskOp // the second half of a renaming: both or none
}

// NewDisk mounts a recorder; the test is skipped where FUSE is not usable.
func NewDisk(t testing.TB) *Disk {
	t.Helper()
	if err := mount.Probe(t.Context()); err != nil {
		t.Skipf("no usable FUSE: %v", err)
	}
	under, over := t.TempDir(), t.TempDir()
	d := &Disk{Path: over, ids: map[uint64]uint64{}}
	var st syscall.Stat_t
	require.NoError(t, syscall.Stat(under, &st))
	root := &fs.LoopbackRoot{Path: under, Dev: st.Dev}
	node := &diskNode{LoopbackNode: fs.LoopbackNode{RootData: root}, disk: d}
	root.RootNode = node
	srv, err := fs.Mount(over, node, &fs.Options{MountOptions: fuse.MountOptions{DirectMount: os.Geteuid() == 0, FsName: "recorder"}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, srv.Unmount()) })
	return d
}

// Now is the number of changes so far: a moment that Cut can be asked about.
func (d *Disk) Now() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.ops)
}

// file gives the identity of an inode; fresh after its creation.
func (d *Disk) file(ino uint64, fresh bool) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.ids[ino]; fresh || !ok {
		d.got++
		d.ids[ino] = d.got
	}
	return d.ids[ino]
}

func (d *Disk) add(ops ...diskOp) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ops = append(d.ops, ops...)
}

// Cut makes in dir what could be there after a power cut at a moment; rng
// chooses among the possibilities.
func (d *Disk) Cut(t testing.TB, moment int, rng *rand.Rand, dir string) {
	t.Helper()
	d.mu.Lock()
	ops := d.ops[:moment]
	d.mu.Unlock()
	names := survivingNames(ops, rng)
	contents := survivingContents(ops, rng)
	for _, op := range names {
		apply(t, dir, op, contents)
	}
}

// survivingNames gives the changes of names that survive: a prefix that holds
// all that a sync of their folder covered.
func survivingNames(ops []diskOp, rng *rand.Rand) []diskOp {
	synced := 0 // ops before it whose folder was synced later
	for i, op := range ops {
		if op.kind != opDirSync {
			continue
		}
		for j := i - 1; j >= synced; j-- {
			if ops[j].kind == opName && (ops[j].dir == op.dir || ops[j].more != nil && ops[j].more.dir == op.dir) {
				synced = j + 1
				break
			}
		}
	}
	end := synced + rng.IntN(len(ops)-synced+1)
	var out []diskOp
	for _, op := range ops[:end] {
		if op.kind == opName {
			out = append(out, op)
		}
	}
	return out
}

// survivingContents gives what each file holds.
func survivingContents(ops []diskOp, rng *rand.Rand) map[uint64][]byte {
	lastSync := map[uint64]int{}
	for i, op := range ops {
		if op.kind == opFsync {
			lastSync[op.ino] = i
		}
	}
	out := map[uint64][]byte{}
	mode := rng.IntN(3) // nothing, everything, or parts of what was not synced
	for i, op := range ops {
		if op.kind != opWrite && op.kind != opTruncate {
			continue
		}
		if at, ok := lastSync[op.ino]; ok && i < at || mode == 1 {
			out[op.ino] = write(out[op.ino], op, nil)
			continue
		}
		if mode == 2 {
			out[op.ino] = write(out[op.ino], op, rng)
		}
	}
	return out
}

const pageSize = 4096

// write applies one change; with a rng only some pages of it arrive, though
// the length may.
func write(content []byte, op diskOp, rng *rand.Rand) []byte {
	if op.kind == opTruncate {
		if rng != nil && rng.IntN(2) == 0 {
			return content
		}
		if op.size <= int64(len(content)) {
			return content[:op.size:op.size]
		}
		return append(content, make([]byte, op.size-int64(len(content)))...)
	}
	if end := op.off + int64(len(op.data)); int64(len(content)) < end {
		if rng != nil && rng.IntN(2) == 0 {
			return content // not even the length arrived
		}
		content = append(content, make([]byte, end-int64(len(content)))...)
	}
	for at := 0; at < len(op.data); {
		// A page of the disk, not of the write.
		n := min(len(op.data)-at, pageSize-int((op.off+int64(at))%pageSize))
		if rng == nil || rng.IntN(3) > 0 {
			copy(content[op.off+int64(at):], op.data[at:at+n])
		}
		at += n
	}
	return content
}

func apply(t testing.TB, root string, op diskOp, contents map[uint64][]byte) {
	t.Helper()
	path := filepath.Join(root, op.dir, op.name)
	switch {
	case !op.make:
		require.NoError(t, os.RemoveAll(path))
	case op.folder:
		require.NoError(t, os.MkdirAll(path, 0o700))
	default:
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, contents[op.ino], 0o600))
	}
	if op.more != nil {
		apply(t, root, *op.more, contents)
	}
}

// diskNode records what is done to names.
type diskNode struct {
	fs.LoopbackNode
	disk *Disk
}

var (
	_ fs.NodeFsyncer     = (*diskNode)(nil)
	_ fs.NodeSetattrer   = (*diskNode)(nil)
	_ fs.NodeWrapChilder = (*diskNode)(nil)
)

// WrapChild has every inode of the loopback recorded.
func (n *diskNode) WrapChild(_ context.Context, ops fs.InodeEmbedder) fs.InodeEmbedder {
	return &diskNode{LoopbackNode: fs.LoopbackNode{RootData: ops.(*fs.LoopbackNode).RootData}, disk: n.disk}
}

func (n *diskNode) rel() string { return n.Path(n.Root()) }

func (n *diskNode) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	ino, fh, fuseFlags, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	if errno != 0 {
		return nil, nil, 0, errno
	}
	id := n.disk.file(ino.StableAttr().Ino, true)
	n.disk.add(diskOp{kind: opName, dir: n.rel(), name: name, ino: id, make: true})
	return ino, &diskFile{fh.(*fs.LoopbackFile), n.disk, id}, fuseFlags, 0
}

func (n *diskNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	fh, fuseFlags, errno := n.LoopbackNode.Open(ctx, flags)
	if errno != 0 {
		return nil, 0, errno
	}
	id := n.disk.file(n.StableAttr().Ino, false)
	if flags&syscall.O_TRUNC != 0 {
		n.disk.add(diskOp{kind: opTruncate, ino: id})
	}
	return &diskFile{fh.(*fs.LoopbackFile), n.disk, id}, fuseFlags, 0
}

func (n *diskNode) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	ino, errno := n.LoopbackNode.Mkdir(ctx, name, mode, out)
	if errno == 0 {
		n.disk.add(diskOp{kind: opName, dir: n.rel(), name: name, make: true, folder: true})
	}
	return ino, errno
}

func (n *diskNode) Rmdir(ctx context.Context, name string) syscall.Errno {
	return n.gone(name, n.LoopbackNode.Rmdir(ctx, name))
}

func (n *diskNode) Unlink(ctx context.Context, name string) syscall.Errno {
	return n.gone(name, n.LoopbackNode.Unlink(ctx, name))
}

func (n *diskNode) gone(name string, errno syscall.Errno) syscall.Errno {
	if errno == 0 {
		n.disk.add(diskOp{kind: opName, dir: n.rel(), name: name})
	}
	return errno
}

func (n *diskNode) Rename(ctx context.Context, name string, parent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	child := n.GetChild(name)
	errno := n.LoopbackNode.Rename(ctx, name, parent, newName, flags)
	if errno != 0 || child == nil {
		return errno
	}
	to, ok := parent.(*diskNode)
	if !ok || child.Mode()&syscall.S_IFDIR != 0 || flags != 0 {
		panic(fmt.Sprintf("testenv: a renaming that is not recorded: %s", name))
	}
	n.disk.add(diskOp{kind: opName, dir: to.rel(), name: newName, ino: n.disk.file(child.StableAttr().Ino, false), make: true,
		more: &diskOp{kind: opName, dir: n.rel(), name: name}})
	return 0
}

// Link and Symlink are not recorded: what is tested makes none.
func (n *diskNode) Link(context.Context, fs.InodeEmbedder, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.ENOTSUP
}

func (n *diskNode) Symlink(context.Context, string, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.ENOTSUP
}

func (n *diskNode) Tmpfile(context.Context, uint32, uint32, *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	return nil, nil, 0, syscall.ENOTSUP
}

func (n *diskNode) CopyFileRange(context.Context, fs.FileHandle, uint64, *fs.Inode, fs.FileHandle, uint64, uint64, uint64) (uint32, syscall.Errno) {
	return 0, syscall.ENOTSUP
}

func (n *diskNode) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if own, ok := f.(*diskFile); ok {
		f = own.LoopbackFile
	}
	errno := n.LoopbackNode.Setattr(ctx, f, in, out)
	if size, ok := in.GetSize(); ok && errno == 0 {
		n.disk.add(diskOp{kind: opTruncate, ino: n.disk.file(n.StableAttr().Ino, false), size: int64(size)})
	}
	return errno
}

func (n *diskNode) Getattr(ctx context.Context, f fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	if own, ok := f.(*diskFile); ok {
		f = own.LoopbackFile
	}
	return n.LoopbackNode.Getattr(ctx, f, out)
}

// Fsync of a file or of a folder. Nothing has to reach the real disk.
func (n *diskNode) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	if n.IsDir() {
		n.disk.add(diskOp{kind: opDirSync, dir: n.rel()})
	} else {
		n.disk.add(diskOp{kind: opFsync, ino: n.disk.file(n.StableAttr().Ino, false)})
	}
	return 0
}

func (n *diskNode) OpendirHandle(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	fh, fuseFlags, errno := n.LoopbackNode.OpendirHandle(ctx, flags)
	if errno != 0 {
		return nil, 0, errno
	}
	return &diskFolder{fh.(dirHandle), n}, fuseFlags, 0
}

// dirHandle is what the loopback's open folder can do.
type dirHandle interface {
	fs.FileReaddirenter
	fs.FileSeekdirer
	fs.FileReleasedirer
}

// diskFolder records the fsync of an open folder.
type diskFolder struct {
	dirHandle
	node *diskNode
}

func (f *diskFolder) Fsyncdir(ctx context.Context, flags uint32) syscall.Errno {
	return f.node.Fsync(ctx, nil, flags)
}

// diskFile records what is done to a file's content.
type diskFile struct {
	*fs.LoopbackFile
	disk *Disk
	ino  uint64
}

// PassthroughFd keeps the kernel from writing past the recorder.
func (f *diskFile) PassthroughFd() (int, bool) { return 0, false }

func (f *diskFile) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	n, errno := f.LoopbackFile.Write(ctx, data, off)
	if errno == 0 {
		f.disk.add(diskOp{kind: opWrite, ino: f.ino, off: off, data: append([]byte(nil), data[:n]...)})
	}
	return n, errno
}

// Ioctl refuses clones of files, which would not be recorded.
func (f *diskFile) Ioctl(context.Context, uint32, uint64, []byte, []byte) (int32, syscall.Errno) {
	return 0, syscall.ENOTTY
}

// Allocate with the size kept changes nothing that a crash could show.
func (f *diskFile) Allocate(ctx context.Context, off, size uint64, mode uint32) syscall.Errno {
	const keepSize = 1
	if mode&keepSize == 0 {
		return syscall.EOPNOTSUPP
	}
	return f.LoopbackFile.Allocate(ctx, off, size, mode)
}
