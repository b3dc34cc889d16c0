// Package demo shows the main job of a QSFS before one's eyes: real data, lost
// backends, a lost machine, and every byte compared. It runs the program as a
// user would and talks to it through qsfs/client.
//
//	err := demo.Run(ctx, demo.Options{Program: self, Say: println})
package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/threefoldtech/quantumd/backend/local"
	"github.com/threefoldtech/quantumd/engine/zdbfs/mount"
	"github.com/threefoldtech/quantumd/qsfs/client"
)

// Options tunes a demo. Program is required.
type Options struct {
	Program      string // quantumd itself
	Source       string // folder whose files are copied; empty: generated files
	Dir          string // where everything is kept; empty: a temporary folder
	RequireMount bool   // fail where FUSE is not usable
	WithoutMount bool   // do not try
	Say          func(line string)
}

// needSpace is the disk space that a demo needs.
const needSpace = 2 << 30

// killed is how many data backends are lost: as many as 3+2 can spare.
const killed = 2

type demo struct {
	opts       Options
	dir        string
	config     string // of the backends
	mountpoint string
	useMount   bool
	children   []*frontend
	began      time.Time
	sums       []sum
	dropped    int64
}

// Run runs the whole demo. A nil error means that every byte was right. It
// leaves neither mounts nor processes nor, but for a folder that was given,
// files, also when ctx ends early.
func Run(ctx context.Context, o Options) (err error) {
	d := &demo{opts: o, began: time.Now()}
	if err := d.prepare(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.cleanup()) }()
	for _, step := range []func(context.Context) error{d.backends, d.writeAll, d.loseBackends, d.readBack, d.loseMachine} {
		if err := step(ctx); err != nil {
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			return err
		}
	}
	d.opts.Say(fmt.Sprintf("Done in %.0f s: %d files, %s, every byte right, twice.", time.Since(d.began).Seconds(), len(d.sums), size(total(d.sums))))
	return nil
}

func (d *demo) prepare(ctx context.Context) error {
	dir := d.opts.Dir
	var err error
	if dir == "" {
		dir, err = os.MkdirTemp("", "quantumd-demo-")
	} else if dir, err = filepath.Abs(dir); err == nil {
		err = mustBeNew(dir)
	}
	if err != nil {
		return err
	}
	d.dir, d.mountpoint = dir, filepath.Join(dir, "mnt")
	d.config = filepath.Join(dir, "backends", "config.yaml")
	if err := enoughSpace(dir); err != nil {
		return errors.Join(err, d.removeTemp())
	}
	if d.opts.WithoutMount {
		d.opts.Say("Without a mount, as asked: the same through the tree itself.")
		return nil
	}
	if err := mount.Probe(ctx); err != nil {
		if d.opts.RequireMount {
			return errors.Join(fmt.Errorf("a mount is required, and FUSE is not usable here: %w", err), d.removeTemp())
		}
		d.opts.Say(fmt.Sprintf("No usable FUSE here (%s): the same through the tree itself, without a mount.", strings.TrimSpace(err.Error())))
		return nil
	}
	d.useMount = true
	return os.Mkdir(d.mountpoint, 0o755)
}

// mustBeNew refuses a folder with something in it: a demo clears up behind
// itself.
func mustBeNew(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%s is not empty: name a new folder", dir)
	}
	return err
}

func enoughSpace(dir string) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return fmt.Errorf("free space of %s: %w", dir, err)
	}
	if free := int64(st.Bavail) * int64(st.Bsize); free < needSpace {
		return fmt.Errorf("%s has %s free, the demo needs 2 GiB: free some, or name another folder with --dir", dir, size(free))
	}
	return nil
}

// step says what is done, does it, and says what it took.
func (d *demo) step(what string, f func() (string, error)) error {
	began := time.Now()
	result, err := f()
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	d.opts.Say(fmt.Sprintf("%6.1f s  %-46s %s", time.Since(began).Seconds(), what, result))
	return nil
}

// run runs the program once, as a user would.
func (d *demo) run(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, d.opts.Program, args...)
	cmd.SysProcAttr = ownSession()
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("quantumd %s: %w: %s", args[0], err, strings.TrimSpace(said.String()))
	}
	return nil
}

func (d *demo) backendDir() string { return filepath.Join(d.dir, "backends") }

func (d *demo) backends(ctx context.Context) error {
	return d.step("4 metadata and 5 data backends (3+2)", func() (string, error) {
		return "9 processes on loopback", d.run(ctx, "deploy", "--local", "--dir", d.backendDir())
	})
}

func (d *demo) writeAll(ctx context.Context) error {
	var f *frontend
	err := d.step("frontend up", func() (string, error) {
		var err error
		f, err = d.start(ctx, filepath.Join(d.dir, "first"))
		if !d.useMount {
			return "without a mount", err
		}
		return "mounted on " + d.mountpoint, err
	})
	if err != nil {
		return err
	}
	began := time.Now()
	err = d.step("write real files and 200 MB of random data", func() (string, error) {
		var err error
		d.sums, err = f.write(ctx, d.opts.Source, sumsPath(d.dir))
		return d.figures(began), err
	})
	if err != nil {
		return err
	}
	began = time.Now()
	return d.step("sync: everything to the backends", func() (string, error) {
		r, err := f.client.Sync(ctx)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("checkpoint %d, %d data and index files, %s, %s/s", r.Checkpoint, r.Files, size(r.Bytes), rate(r.Bytes, time.Since(began))), nil
	})
}

// figures tells files, bytes and throughput of a pass over all files.
func (d *demo) figures(began time.Time) string {
	n := total(d.sums)
	return fmt.Sprintf("%d files, %s, %s/s", len(d.sums), size(n), rate(n, time.Since(began)))
}

func (d *demo) loseBackends(ctx context.Context) error {
	f := d.children[len(d.children)-1]
	err := d.step(fmt.Sprintf("kill -9 of %d data backends", killed), func() (string, error) {
		st, err := f.client.Status(ctx)
		if err != nil {
			return "", err
		}
		return killData(st)
	})
	if err != nil {
		return err
	}
	err = d.step("drop the local data files", func() (string, error) {
		r, err := f.client.Evict(ctx, 0)
		if err != nil {
			return "", err
		}
		if d.dropped = r.Bytes; r.Kept > 0 || r.Bytes == 0 {
			return "", fmt.Errorf("%d files were kept, %d bytes dropped", r.Kept, r.Bytes)
		}
		return fmt.Sprintf("%d files, %s", r.Files, size(r.Bytes)), nil
	})
	if err != nil {
		return err
	}
	return d.step("stop", func() (string, error) { return "nothing stays in a cache", f.stop() })
}

func killData(st *client.Status) (string, error) {
	var names []string
	for _, b := range st.Backends {
		if b.Role != "data" || len(names) == killed {
			continue
		}
		if b.PID <= 1 {
			return "", fmt.Errorf("the process of %s is not known", b.ID)
		}
		if err := syscall.Kill(b.PID, syscall.SIGKILL); err != nil {
			return "", fmt.Errorf("kill %s: %w", b.ID, err)
		}
		names = append(names, b.ID)
	}
	return strings.Join(names, " and ") + " are gone", nil
}

func (d *demo) readBack(ctx context.Context) error {
	f, err := d.start(ctx, filepath.Join(d.dir, "first"))
	if err != nil {
		return err
	}
	return d.compare(ctx, f, "read back from 3 of 5 backends, compare")
}

// compare reads everything, and has it come from the backends.
func (d *demo) compare(ctx context.Context, f *frontend, what string) error {
	began := time.Now()
	return d.step(what, func() (string, error) {
		if err := f.verify(ctx, sumsPath(d.dir), d.sums); err != nil {
			return "", err
		}
		st, err := f.client.Status(ctx)
		if err != nil {
			return "", err
		}
		if got := st.Transfer.FetchedFileBytes; got < d.dropped {
			return "", fmt.Errorf("%s were fetched from backends, %s had been dropped", size(got), size(d.dropped))
		}
		return fmt.Sprintf("%s; fetched %s (%s of shards)", d.figures(began), size(st.Transfer.FetchedFileBytes), size(st.Transfer.FetchedBytes)), nil
	})
}

func (d *demo) loseMachine(ctx context.Context) error {
	old := d.children[len(d.children)-1]
	err := d.step("kill -9 of the frontend, its folder thrown away", func() (string, error) {
		return "", errors.Join(old.kill(), os.RemoveAll(old.dir))
	})
	if err != nil {
		return err
	}
	next := filepath.Join(d.dir, "second")
	err = d.step("restore into a new folder from the config alone", func() (string, error) {
		err := d.run(ctx, "restore", "--force", "--lease", lease.String(), "-c", d.config, "--dir", next)
		return fmt.Sprintf("(%s of it wait for the old one's lease to end)", 2*lease), err
	})
	if err != nil {
		return err
	}
	f, err := d.start(ctx, next)
	if err != nil {
		return err
	}
	if err := d.compare(ctx, f, "read back on the new machine, compare"); err != nil {
		return err
	}
	return f.stop()
}

// cleanup ends every child, clears the mount and removes the files.
func (d *demo) cleanup() error {
	var errs []error
	for _, f := range d.children {
		select {
		case <-f.ended:
		default:
			errs = append(errs, f.kill())
		}
	}
	if d.useMount {
		errs = append(errs, mount.CleanDead(d.mountpoint))
	}
	backends := local.New(filepath.Join(d.backendDir(), "backends"), local.Command(d.opts.Program, "zdb"))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	errs = append(errs, backends.Stop(ctx))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up %s: %w", d.dir, err)
	}
	return d.removeTemp()
}

func (d *demo) removeTemp() error {
	if d.opts.Dir != "" {
		return nil // the caller's
	}
	return os.RemoveAll(d.dir)
}

func size(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func rate(n int64, d time.Duration) string { return size(int64(float64(n) / max(d.Seconds(), 1e-9))) }
