package tree

import (
	"context"
	"syscall"
)

// Tree is a file system over records. It is safe for concurrent use. Errors
// match a syscall.Errno.
type Tree struct{}

// Dir lists one folder.
type Dir struct{}

// Finding is one thing that Check found wrong.
type Finding struct {
	Ino    uint64 // the inode concerned; zero: none
	Path   string // a path that leads to it, when known
	Damage bool   // false: only space is lost
	Text   string
}

func Open(ctx context.Context, o Options) (*Tree, error) { return nil, syscall.ENOSYS }

func (t *Tree) Close(ctx context.Context) error { return syscall.ENOSYS }
func (t *Tree) Lookup(ctx context.Context, parent uint64, name string) (Attr, error) {
	return Attr{}, syscall.ENOSYS
}
func (t *Tree) Getattr(ctx context.Context, ino uint64) (Attr, error) { return Attr{}, syscall.ENOSYS }
func (t *Tree) Setattr(ctx context.Context, ino uint64, s SetAttr) (Attr, error) {
	return Attr{}, syscall.ENOSYS
}
func (t *Tree) Readlink(ctx context.Context, ino uint64) (string, error) { return "", syscall.ENOSYS }
func (t *Tree) Mkdir(ctx context.Context, parent uint64, name string, n NewNode) (Attr, error) {
	return Attr{}, syscall.ENOSYS
}
func (t *Tree) Create(ctx context.Context, parent uint64, name string, n NewNode) (Attr, error) {
	return Attr{}, syscall.ENOSYS
}
func (t *Tree) Mknod(ctx context.Context, parent uint64, name string, n NewNode) (Attr, error) {
	return Attr{}, syscall.ENOSYS
}
func (t *Tree) Symlink(ctx context.Context, parent uint64, name, target string, n NewNode) (Attr, error) {
	return Attr{}, syscall.ENOSYS
}
func (t *Tree) Link(ctx context.Context, ino, parent uint64, name string) (Attr, error) {
	return Attr{}, syscall.ENOSYS
}
func (t *Tree) Unlink(ctx context.Context, parent uint64, name string) error { return syscall.ENOSYS }
func (t *Tree) Rmdir(ctx context.Context, parent uint64, name string) error  { return syscall.ENOSYS }
func (t *Tree) Rename(ctx context.Context, parent uint64, name string, newParent uint64, newName string, flags uint32) error {
	return syscall.ENOSYS
}
func (t *Tree) Open(ctx context.Context, ino uint64) error { return syscall.ENOSYS }
func (t *Tree) Release(ino uint64)                         {}
func (t *Tree) ReadAt(ctx context.Context, ino uint64, p []byte, off int64) (int, error) {
	return 0, syscall.ENOSYS
}
func (t *Tree) WriteAt(ctx context.Context, ino uint64, p []byte, off int64) (int, error) {
	return 0, syscall.ENOSYS
}
func (t *Tree) Fallocate(ctx context.Context, ino uint64, off, length int64) error {
	return syscall.ENOSYS
}
func (t *Tree) Seek(ctx context.Context, ino uint64, off int64, whence int) (int64, error) {
	return 0, syscall.ENOSYS
}
func (t *Tree) Fsync(ctx context.Context, ino uint64) error             { return syscall.ENOSYS }
func (t *Tree) Sync(ctx context.Context) error                          { return syscall.ENOSYS }
func (t *Tree) OpenDir(ctx context.Context, ino uint64) (*Dir, error)   { return nil, syscall.ENOSYS }
func (d *Dir) Read(ctx context.Context, cookie uint64) ([]Entry, error) { return nil, syscall.ENOSYS }
func (d *Dir) Close()                                                   {}
func (t *Tree) Statfs(ctx context.Context) (Statfs, error)              { return Statfs{}, syscall.ENOSYS }
func (t *Tree) Getxattr(ctx context.Context, ino uint64, name string) ([]byte, error) {
	return nil, syscall.ENOSYS
}
func (t *Tree) Setxattr(ctx context.Context, ino uint64, name string, value []byte, flags uint32) error {
	return syscall.ENOSYS
}
func (t *Tree) Removexattr(ctx context.Context, ino uint64, name string) error { return syscall.ENOSYS }
func (t *Tree) Listxattr(ctx context.Context, ino uint64) ([]string, error) {
	return nil, syscall.ENOSYS
}
func (t *Tree) Cut(ctx context.Context, fn func(context.Context) error) (uint64, error) {
	return 0, syscall.ENOSYS
}
func (t *Tree) SafeState(ino uint64) string                  { return Local }
func (t *Tree) Check(ctx context.Context) ([]Finding, error) { return nil, syscall.ENOSYS }
