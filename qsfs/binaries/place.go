package binaries

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/threefoldtech/quantumd/internal/durable"
	"github.com/threefoldtech/quantumd/internal/glob"
)

// tempFile is a file that a program is written to; *os.File.
type tempFile interface {
	io.Writer
	Name() string
	Chmod(os.FileMode) error
	Sync() error
	Close() error
}

func createTemp(dir, pattern string) (tempFile, error) { return os.CreateTemp(dir, pattern+"*") }

// tempPrefix begins the names of what is not in place yet.
func tempPrefix(name string) string { return "." + name + ".quantumd-" }

// OldSuffix ends the name of the program that was there before.
const OldSuffix = ".old"

// discard takes away what was fetched.
func (d *download) discard() error {
	_ = d.tempFile.Close() // perhaps closed before
	err := os.Remove(d.tempFile.Name())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return err
}

// lockDir keeps other processes from putting programs into the folder at the
// same time. The kernel lets go of it when the process ends.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, &PlaceError{Path: dir, Err: err}
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return func() {
			_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN) // a child that does not run its program yet has it too
			_ = f.Close()
		}, nil
	}
	_ = f.Close() // read only
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, &BusyError{Dir: dir}
	}
	return nil, &PlaceError{Path: dir, Err: err}
}

// BusyError says that another process puts programs into the folder.
type BusyError struct{ Dir string }

func (e *BusyError) Error() string {
	return fmt.Sprintf("another process is putting programs into %s", e.Dir)
}

// Hint names the remedy.
func (e *BusyError) Hint() string { return "wait until it has ended, then run the same command again" }

// sweep takes away what calls that were killed have left.
func (in *Installer) sweep() error {
	for _, p := range table {
		found, err := filepath.Glob(filepath.Join(glob.Escape(in.o.Dir), glob.Escape(tempPrefix(p.Name))+"*"))
		if err != nil {
			return err
		}
		for _, f := range found {
			if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return &PlaceError{Path: f, Err: err}
			}
		}
	}
	return nil
}

// place puts a program in place. Whoever runs the old one goes on with that: it
// is another file.
func (in *Installer) place(d *download) error {
	target := in.path(d.want.Name)
	in.o.Progress(Progress{Name: d.want.Name, Step: "place", Done: d.size, Total: d.size})
	if err := KeepOld(target); err != nil {
		return &PlaceError{Path: target + OldSuffix, Err: err}
	}
	if err := in.step("kept"); err != nil {
		return err
	}
	if err := os.Rename(d.tempFile.Name(), target); err != nil {
		return &PlaceError{Path: target, Err: err}
	}
	if err := in.step("renamed"); err != nil {
		return err
	}
	if err := durable.SyncDir(in.o.Dir); err != nil {
		return &PlaceError{Path: in.o.Dir, Err: err}
	}
	return in.step("placed")
}

// KeepOld gives the program that is there a second name, which ends with
// [OldSuffix], in place of an older one's. It is there under its own name all
// the time.
func KeepOld(target string) error {
	st, err := os.Lstat(target)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.IsDir() {
		return errors.New("a folder is in its place")
	}
	if old, err := os.Lstat(target + OldSuffix); err == nil && os.SameFile(old, st) {
		return nil // a call that was killed did so; rename(2) does nothing with two names of one file
	}
	f, err := os.CreateTemp(filepath.Dir(target), tempPrefix(filepath.Base(target))+"*") // only for a name that nobody has
	if err != nil {
		return err
	}
	temp := f.Name()
	if err := errors.Join(f.Close(), os.Remove(temp)); err != nil {
		return err
	}
	if err := os.Link(target, temp); err != nil {
		if err = durable.CopyFile(target, temp, 0o755); err != nil { // a file system without links
			return err
		}
	}
	return os.Rename(temp, target+OldSuffix)
}

// hashed is a file as it is.
type hashed struct {
	sum  string
	size int64
}

// hashFile gives nil where there is no such file.
func hashFile(path string, limit int64) (*hashed, error) {
	f, size, err := openFile(path)
	if errors.Is(err, ErrNotThere) {
		if st, err := os.Stat(path); err == nil {
			return nil, &PlaceError{Path: path, Err: fmt.Errorf("it is no regular file, but %v", st.Mode().Type())}
		}
		return nil, nil
	}
	if err != nil {
		return nil, &PlaceError{Path: path, Err: err}
	}
	defer f.Close() //nolint:errcheck // read only
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, 4*limit)); err != nil {
		return nil, &PlaceError{Path: path, Err: err}
	}
	return &hashed{sum: hex.EncodeToString(h.Sum(nil)), size: size}, nil
}

// base is the last part of a location's path.
func base(l location) string { return path.Base(l.url.Path) }

func bases(list []location) string {
	var out []string
	for _, l := range list {
		out = append(out, base(l))
	}
	return strings.Join(out, ", ")
}

func shownFrom(from string) string {
	text, err := ParseFrom(from)
	if err != nil {
		return "the mirror"
	}
	u, err := url.Parse(text)
	if err != nil {
		return "the mirror"
	}
	return shown(u)
}
