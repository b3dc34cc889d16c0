package qsfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/engine/zdbfs/mount"
	"github.com/threefoldtech/quantumd/qsfs/binaries"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/services"
)

// UninstallOptions says what is removed, and under which condition.
type UninstallOptions struct {
	Manager    services.ServiceManager
	Root       string // put before system paths; empty: /
	Layout     Layout
	Mountpoint string
	Binaries   *binaries.Installer // removes external programs that setup has fetched; nil: there are none
	Observe    func(Progress)      // of the drain; may be nil
	Patience   time.Duration       // with the drain; zero: until ctx ends

	Force  bool // also when something is not on the backends
	Purge  bool // data, state, configuration and local backends too
	DryRun bool
}

// UninstallReport says what was removed, or would be, and what stays.
type UninstallReport struct {
	Schema   int      `json:"schema"`
	DryRun   bool     `json:"dry_run"`
	Services []string `json:"services"`
	Files    []string `json:"files"` // and folders with what is in them
	Kept     []string `json:"kept"`
}

// Uninstall stops and removes the services, the programs, sockets, secrets and
// a mountpoint that setup has made. Before that all that was written is brought
// to the backends; a [*NotSafeError] when that cannot be, and the system runs
// on. Data, state and configuration stay, but for Purge. A second call goes on
// where one was interrupted.
func Uninstall(ctx context.Context, o UninstallOptions) (*UninstallReport, error) {
	names, err := o.Manager.Installed(ctx)
	if err != nil {
		return nil, err
	}
	r := &UninstallReport{Schema: client.SchemaVersion, DryRun: o.DryRun, Services: names, Files: []string{}, Kept: []string{}}
	gone, kept := o.paths()
	r.Files, r.Kept = there(gone), there(kept)
	if len(r.Services)+len(r.Files) == 0 || o.DryRun {
		return r, nil
	}
	if err := o.stop(ctx, names); err != nil {
		return r, err
	}
	if err := o.Manager.Remove(ctx, names...); err != nil {
		return r, err
	}
	if err := mount.CleanDead(o.Mountpoint); err != nil {
		return r, err
	}
	if err := unprotectMountpoint(o.Layout); err != nil {
		return r, err
	}
	if o.Binaries != nil {
		more, err := o.Binaries.Remove(ctx)
		if err != nil {
			return r, err
		}
		r.Files = append(r.Files, more...)
	}
	return r, o.remove(gone)
}

// stop ends what writes, and finds out whether all of it is safe.
func (o UninstallOptions) stop(ctx context.Context, names []string) error {
	draining := ctx
	if o.Patience > 0 {
		var cancel context.CancelFunc
		draining, cancel = context.WithTimeout(ctx, o.Patience)
		defer cancel()
	}
	drain := Drain(draining, client.New(o.Layout.ControlSocket()), o.Observe)
	runs := !errors.Is(drain, client.ErrNotRunning)
	if drain != nil && runs && !isFenced(drain) && !o.Force {
		return &NotSafeError{Err: drain}
	}
	components := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !isComponent(n) })
	if err := o.Manager.Stop(ctx, components...); !services.Ended(err) {
		return err
	}
	unsynced, err := Unsynced(ctx, o.Layout)
	if err == nil && unsynced.Bytes > 0 {
		err = unsynced
	}
	if err == nil || o.Force {
		return nil
	}
	if isFenced(drain) {
		err = errors.Join(ErrFenced, err)
	}
	if runs { // as it was before
		err = errors.Join(err, o.Manager.Start(ctx, names...))
	}
	return &NotSafeError{Err: err}
}

// NotSafeError says that what was written could not be brought to the backends,
// so that nothing was removed. Err may be an [*UnsyncedError].
type NotSafeError struct{ Err error }

func (e *NotSafeError) Error() string {
	text := fmt.Sprintf("nothing was removed: what was written is not on the backends: %v", e.Err)
	var unsynced *UnsyncedError
	if errors.As(e.Err, &unsynced) && len(unsynced.Paths) > 0 {
		text += ", such as " + strings.Join(unsynced.Paths, ", ")
	}
	return text
}

func (e *NotSafeError) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *NotSafeError) Hint() string {
	if errors.Is(e.Err, ErrFenced) {
		return "it cannot go there any more: copy what you need of it from the mount; --force removes services and programs all the same, and keeps the data on this machine"
	}
	return "`quantumd status` says what is in the way, and `quantumd queue ls` lists the files; --force removes it all the same, and keeps the data on this machine"
}

// isFenced says whether a daemon has answered that another frontend has taken over.
func isFenced(err error) bool {
	var answer *client.Error
	return errors.As(err, &answer) && answer.Kind == client.KindFenced
}

// paths are what is removed, and what stays; innermost first.
func (o UninstallOptions) paths() (gone, kept []string) {
	l := o.Layout
	program := func(name string) string { return filepath.Join("/", o.Root, ProgramDir, name) }
	gone = []string{
		program("quantumd-hook"), program("quantumd" + binaries.OldSuffix), program("quantumd"),
		l.Run, l.Secrets(), filepath.Join(l.State, "services"),
	}
	if made, err := os.ReadFile(l.madeMountpoint()); err == nil && string(made) == o.Mountpoint {
		gone = append(gone, o.Mountpoint, l.madeMountpoint())
	}
	data := []string{
		l.DataDir(), l.IndexDir(), l.damaged(), l.handing(), l.identity(), l.Database, l.Database + "-wal", l.Database + "-shm",
		l.Backends, l.State, l.Logs, l.Zstor, l.Config,
	}
	if o.Purge {
		return append(gone, append(data, l.Root)...), nil
	}
	return gone, []string{l.Root, l.State, l.Logs, l.Zstor, l.Config}
}

func there(paths []string) []string {
	return slices.DeleteFunc(slices.Clone(paths), func(p string) bool {
		_, err := os.Lstat(p)
		return errors.Is(err, fs.ErrNotExist)
	})
}

// remove deletes. The mountpoint and the frontend's folder may hold what is not
// ours: they go only when nothing is in them any more. Links are not followed.
func (o UninstallOptions) remove(paths []string) error {
	for _, p := range paths {
		err := error(nil)
		if p == o.Mountpoint || p == o.Layout.Root {
			if err = os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
				if left, readErr := os.ReadDir(p); readErr == nil && len(left) > 0 {
					err = nil
				}
			}
		} else {
			err = os.RemoveAll(p)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return &PathError{Path: p, Err: err}
		}
	}
	return nil
}
