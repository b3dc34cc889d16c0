package takeover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/engine/zdbfs/mount"
	"github.com/threefoldtech/quantumd/internal/durable"
	"github.com/threefoldtech/quantumd/internal/glob"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/services"
)

// The steps of a takeover. What is noted is the one that began last: a call that
// goes on does it, and those after it, again.
const (
	stepKeep      = "keep"      // what is there is copied
	stepPrepare   = "prepare"   // the backends are asked
	stepStop      = "stop"      // the older services are stopped, and do not start with the machine
	stepConfigure = "configure" // the configuration is put in place
	stepInstall   = "install"   // the new services run
	stepRemove    = "remove"    // the older ones are removed
	stepDone      = "done"
	stepUndo      = "undo"
	stepUndone    = "undone"
)

// Options says how a takeover is run.
type Options struct {
	Manager services.ServiceManager
	// Prepare is called while the older services run; an error: nothing was changed.
	Prepare func(ctx context.Context) error
	// Config is the text of the new configuration, and Path where it is put.
	Config []byte
	Path   string
	// Install is called once the older services have ended, and returns when the
	// new ones serve. After an error of it the older ones are brought back.
	Install func(ctx context.Context) error
	// Fetch brings what is only on the backends back to the disk, before the older
	// programs are started again: their hook may not find it. Its failure is told,
	// and is no reason not to start them.
	Fetch func(ctx context.Context) error
	Logf  func(format string, args ...any) // what is done, in words; may be nil

	step func(name string) error // tests end a run there
}

func (o *Options) say(format string, args ...any) {
	if o.Logf != nil {
		o.Logf(format, args...)
	}
}

// InterruptedError says that a way back was begun and did not end.
type InterruptedError struct{ Dir string }

func (e *InterruptedError) Error() string {
	return "takeover: the way back was begun and did not end (" + e.Dir + ")"
}

// Hint names the remedy.
func (e *InterruptedError) Hint() string {
	return "`quantumd upgrade --undo-takeover` goes on with it"
}

// Run takes the installation over. It goes on where an earlier call was
// interrupted.
func (t *Takeover) Run(ctx context.Context, o Options) error {
	if t.Step == stepUndo {
		return &InterruptedError{Dir: t.dir()}
	}
	if o.step == nil {
		o.step = func(string) error { return nil }
	}
	began := t.Step
	t.stopped = began == stepStop
	for _, s := range []struct {
		name string
		do   func(context.Context, *Options) error
	}{
		{stepKeep, t.keepAll}, {stepPrepare, t.prepare}, {stepStop, t.stop}, {stepConfigure, t.configure}, {stepInstall, t.install}, {stepRemove, t.remove},
	} {
		if began == stepRemove && s.name != stepRemove || (began == stepConfigure || began == stepInstall) && (s.name == stepKeep || s.name == stepPrepare) {
			continue // what these look at is not there any more, or is not the older one's
		}
		if err := t.save(s.name); err != nil {
			return fmt.Errorf("takeover: %w", err)
		}
		if err := o.step(s.name); err != nil {
			return err
		}
		err := s.do(ctx, &o)
		if err != nil && ctx.Err() == nil && slices.Contains([]string{stepStop, stepConfigure, stepInstall}, s.name) {
			err = t.back(ctx, &o, err)
		}
		if err != nil { // interrupted, perhaps: a second call goes on
			return err
		}
	}
	return t.save(stepDone)
}

// back brings the older services back after a failure.
func (t *Takeover) back(ctx context.Context, o *Options, cause error) error {
	cause = fmt.Errorf("the older installation could not be taken over: %w", cause)
	o.say("%v", cause)
	o.say("the older services are brought back")
	if err := t.Undo(ctx, *o); err != nil {
		return errors.Join(cause, err)
	}
	o.say("the older services run again")
	return cause
}

// keepAll copies what is replaced, before anything is.
func (t *Takeover) keepAll(_ context.Context, o *Options) error {
	for i := range t.Units {
		if err := t.findLinks(&t.Units[i]); err != nil {
			return err
		}
	}
	if err := t.save(stepKeep); err != nil {
		return err
	}
	for _, u := range t.Units {
		if err := durable.WriteFile(filepath.Join(t.dir(), filepath.Base(u.Path)), []byte(u.Text), 0o600); err != nil {
			return err
		}
	}
	t.Files = map[string]string{}
	for n, path := range t.kept(o.Path) {
		to := filepath.Join(t.dir(), "files", fmt.Sprintf("%d-%s", n, filepath.Base(path)))
		switch there, err := keepFile(path, to); {
		case err != nil:
			return &qsfs.PathError{Path: path, Err: err}
		case there:
			t.Files[path] = to
		}
	}
	if t.Derived, t.Made = o.Config, ""; t.Files[o.Path] == "" {
		t.Made = o.Path
	}
	return t.save(stepKeep)
}

// kept are the files that a takeover replaces, or that the way back needs.
func (t *Takeover) kept(config string) []string {
	out := []string{config, t.Zstor, t.at("/usr/local/bin/quantumd"), t.at("/usr/local/bin/quantumd-hook")}
	if t.Config != "" && t.Config != config {
		out = append(out, t.Config)
	}
	return out
}

// keepFile copies a file, or a link, with its mode, if it is there.
func keepFile(from, to string) (there bool, err error) {
	if _, err := os.Lstat(from); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return false, err
	}
	return true, putFile(from, to)
}

// putFile puts a copy of a file or a link in place of what is there.
func putFile(from, to string) error {
	st, err := os.Lstat(from)
	if err != nil {
		return err
	}
	temp := to + ".part"
	if err := durable.RemoveIfThere(temp); err != nil {
		return err
	}
	switch {
	case st.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err == nil {
			err = os.Symlink(target, temp)
		}
		if err != nil {
			return err
		}
	case st.Mode().IsRegular():
		if err := durable.CopyFile(from, temp, st.Mode().Perm()); err != nil {
			return err
		}
	default:
		return errors.New("not a file")
	}
	return errors.Join(os.Rename(temp, to), durable.SyncDir(filepath.Dir(to)))
}

func (t *Takeover) prepare(ctx context.Context, o *Options) error {
	if o.Prepare == nil {
		return nil
	}
	err := o.Prepare(ctx)
	if err != nil && !t.stopped {
		return errors.Join(err, t.forget())
	}
	return err
}

// forget takes back a takeover that has changed nothing.
func (t *Takeover) forget() error {
	t.Step = ""
	return os.RemoveAll(t.dir())
}

// stop ends the older services, the file system first, after it wrote out what
// it holds. From then on nothing starts them with the machine: two programs must
// never work on the same files.
func (t *Takeover) stop(ctx context.Context, o *Options) error {
	if err := qsfs.FlushZdbfs(ctx, t.Mountpoint); err != nil && !errors.Is(err, syscall.ENOTTY) {
		o.say("the older zdbfs could not be asked to write out what it holds: %v", err)
	}
	if seen := names(t.Mountpoint); len(seen) > 0 {
		t.Seen = seen
		if err := t.save(stepStop); err != nil {
			return err
		}
	}
	for _, u := range slices.Backward(t.Units) {
		if t.replaced(u) {
			continue
		}
		o.say("stopping %s", u.Name)
		if err := o.Manager.Stop(ctx, u.Name); err != nil && !errors.Is(err, services.ErrNotFound) {
			return &Error{Msg: "the older " + u.Name + " does not stop", Err: err, Remedy: "stop it by hand and run the same command again"}
		}
		if err := t.disarm(ctx, o, u); err != nil {
			return err
		}
	}
	if err := mount.CleanDead(t.Mountpoint); err != nil {
		return err
	}
	installed, err := o.Manager.Installed(ctx)
	if err != nil || slices.Contains(installed, qsfs.ServiceName) { // it goes on after an interruption
		return err
	}
	return t.mustBeIdle()
}

// replaced says whether the definition of a service is ours already.
func (t *Takeover) replaced(u Unit) bool {
	text, err := read(u.Path, maxFile)
	return err == nil && strings.HasPrefix(string(text), services.Mark)
}

// disarm has nothing start a service with the machine. zinit starts whatever is
// in its folder, so that the file has to go at once.
func (t *Takeover) disarm(ctx context.Context, o *Options, u Unit) error {
	if t.Manager == services.Zinit {
		return o.Manager.Remove(ctx, u.Name)
	}
	for link := range u.Links {
		if err := durable.RemoveIfThere(link); err != nil {
			return &qsfs.PathError{Path: link, Err: err}
		}
	}
	return nil
}

// findLinks notes what starts a systemd unit with the machine. A second look finds
// less, and adds nothing.
func (t *Takeover) findLinks(u *Unit) error {
	if t.Manager != services.Systemd {
		return nil
	}
	for _, kind := range []string{"*.wants", "*.requires"} {
		found, err := filepath.Glob(filepath.Join(glob.Escape(t.at("/etc/systemd/system")), kind, filepath.Base(u.Path)))
		if err != nil {
			return err
		}
		for _, link := range found {
			target, err := os.Readlink(link)
			if err != nil {
				continue // a file: nothing of an installation
			}
			if u.Links == nil {
				u.Links = map[string]string{}
			}
			u.Links[link] = target
		}
	}
	return nil
}

// mustBeIdle refuses to go on while a program works on the files: one that no
// service runs.
func (t *Takeover) mustBeIdle() error {
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, path := range found {
		line, err := read0(path)
		if err != nil || len(line) == 0 || !slices.Contains(roles, strings.TrimSuffix(filepath.Base(line[0]), "_v2")) {
			continue
		}
		for _, a := range line[1:] {
			for _, dir := range []string{filepath.Join(t.Root, "data"), filepath.Join(t.Root, "index"), t.Mountpoint, t.Zstor} {
				if a == dir || strings.HasPrefix(a, dir+"/") {
					pid := filepath.Base(filepath.Dir(path))
					return &Error{Msg: fmt.Sprintf("process %s (%s) works on %s, and no service of it is known", pid, line[0], dir),
						Remedy: "end it with `kill " + pid + "`, then run the same command again"}
				}
			}
		}
	}
	return nil
}

// read0 gives the words of a process.
func read0(path string) ([]string, error) {
	text, err := os.ReadFile(path) // bounded by the kernel
	return strings.Split(strings.TrimRight(string(text), "\x00"), "\x00"), err
}

func (t *Takeover) configure(_ context.Context, o *Options) error {
	return durable.WriteFile(o.Path, o.Config, 0o600)
}

func (t *Takeover) install(ctx context.Context, o *Options) error {
	if err := o.Install(ctx); err != nil {
		return err
	}
	return t.compare(o)
}

// remove takes away the definitions of the older services, which do not run. What
// is ours by now bears the same name and stays.
func (t *Takeover) remove(ctx context.Context, o *Options) error {
	for _, u := range slices.Backward(t.Units) {
		if t.replaced(u) {
			continue
		}
		if err := o.Manager.Remove(ctx, u.Name); err != nil {
			return err
		}
	}
	return nil
}

// Undo brings the older installation back: it removes the services of this one,
// but for local backends, and starts the older ones. A second call goes on where
// one was interrupted. What was written meanwhile is in the files that they work
// on; the identity of this program's frontend stays, so that the next takeover
// goes on with it. Of the options Manager, Fetch and Logf count.
func (t *Takeover) Undo(ctx context.Context, o Options) error {
	m := o.Manager
	if err := t.save(stepUndo); err != nil {
		return fmt.Errorf("takeover: %w", err)
	}
	installed, err := m.Installed(ctx)
	if err != nil {
		return err
	}
	for _, name := range slices.Backward(installed) {
		if !slices.Contains(qsfs.ComponentServices(), name) {
			continue
		}
		o.say("stopping %s", name)
		if err := m.Remove(ctx, name); err != nil {
			return err
		}
	}
	if err := mount.CleanDead(t.Mountpoint); err != nil {
		return err
	}
	// A real zdb does not find what it writes behind an empty pair.
	if err := segment.DropAllEmptyPairs(filepath.Join(t.Root, "index"), filepath.Join(t.Root, "data")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if o.Fetch != nil {
		if err := o.Fetch(ctx); ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		} else if err != nil {
			o.say("not every file is on this machine's disk again, and the older programs have to fetch the others: %v", err)
		}
	}
	if err := t.restore(); err != nil {
		return err
	}
	for _, u := range t.Units {
		o.say("starting %s", u.Name)
		if err := m.Start(ctx, u.Name); err != nil {
			return &Error{Msg: "the older " + u.Name + " does not start", Err: err, Remedy: "its log tells why; all that it had is in place again"}
		}
	}
	return t.save(stepUndone)
}

// restore puts back what was there before.
func (t *Takeover) restore() error {
	if t.Made != "" {
		if err := durable.RemoveIfThere(t.Made); err != nil {
			return &qsfs.PathError{Path: t.Made, Err: err}
		}
	}
	for to, copied := range t.Files {
		if err := putFile(copied, to); err != nil {
			return &qsfs.PathError{Path: to, Err: err}
		}
	}
	for _, u := range t.Units {
		if err := durable.WriteFile(u.Path, []byte(u.Text), u.Mode); err != nil {
			return &qsfs.PathError{Path: u.Path, Err: err}
		}
		for link, target := range u.Links {
			err := os.MkdirAll(filepath.Dir(link), 0o755)
			if err == nil {
				if err = os.Symlink(target, link); errors.Is(err, fs.ErrExist) {
					err = nil
				}
			}
			if err != nil {
				return &qsfs.PathError{Path: link, Err: err}
			}
		}
	}
	return nil
}
