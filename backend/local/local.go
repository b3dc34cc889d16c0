// Package local provisions backends on this machine: each a zdb with one
// namespace, in a folder of its own, on a loopback port that stays its own for
// life. They protect against lost files and for trying things out, not against
// a lost machine.
//
//	p := local.New(dir, local.InProcess(nil))
//	results, err := p.Provision(ctx, specs)
//	defer p.Close()
//
// [InProcess] runs the zdbs inside this process: the way for libraries and
// tests. [Command] starts them as detached processes that outlive this one:
// the way of the command line. [AsServices] has a service manager run them:
// the way of an installed system.
package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb"
	"github.com/threefoldtech/quantumd/internal/glob"
)

// dataSize is where a backend's zdb closes a data file: its default.
const dataSize = 256 << 20

// startLimit is how long a zdb may take until it answers.
const startLimit = 30 * time.Second

// Launcher starts and stops the zdb of an instance. [InProcess], [Command] and
// [AsServices] are those there are.
type Launcher interface {
	running(Instance) (pid int, ok bool)
	start(context.Context, Instance) error
	stop(context.Context, Instance) error
	forget(context.Context, Instance) error // after stop, before the folder goes
	close() error
}

// Provisioner keeps the local backends below one folder. It is safe for
// concurrent use, also with other Provisioners, of other processes too, on the
// same folder: a lock has them change it one after the other.
type Provisioner struct {
	dir      string
	launcher Launcher
	dialer   backend.Dialer
	log      *slog.Logger
}

var _ backend.Provisioner = (*Provisioner)(nil)

// Option changes a Provisioner.
type Option func(*Provisioner)

// WithLogger logs what is started and stopped.
func WithLogger(l *slog.Logger) Option {
	return func(p *Provisioner) { p.log = l.With("component", "backend/local") }
}

// New makes a Provisioner of the backends below dir.
func New(dir string, l Launcher, opts ...Option) *Provisioner {
	p := &Provisioner{dir: dir, launcher: l, log: slog.New(slog.DiscardHandler), dialer: zdb.NewDialer(zdb.Options{PoolSize: 1, Timeout: 5 * time.Second})}
	for _, o := range opts {
		o(p)
	}
	return p
}

// List finds the backends below the folder. With an error it still gives those
// whose description could be read.
func (p *Provisioner) List(context.Context) ([]backend.Backend, error) {
	instances, err := loadAll(p.dir)
	out := make([]backend.Backend, len(instances))
	for i := range instances {
		out[i] = instances[i].backend()
	}
	return out, err
}

// Plan says which backends would be made, and which started again.
func (p *Provisioner) Plan(ctx context.Context, specs []backend.Spec) ([]backend.Step, error) {
	steps := make([]backend.Step, len(specs))
	for n, s := range specs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		step, err := p.plan(ctx, s)
		if err != nil {
			return nil, err
		}
		steps[n] = step
	}
	return steps, nil
}

func (p *Provisioner) plan(ctx context.Context, s backend.Spec) (backend.Step, error) {
	step := backend.Step{Spec: s, ID: s.ID, Role: s.Role}
	if err := checkSpec(s); err != nil {
		return step, err
	}
	i, err := load(filepath.Join(p.dir, s.ID))
	if errors.Is(err, fs.ErrNotExist) {
		step.Action, step.Detail = backend.Create, filepath.Join(p.dir, s.ID)
		return step, nil
	}
	if err == nil {
		err = i.fits(s)
	}
	if err != nil {
		return step, err
	}
	step.Action, step.Detail = backend.Keep, i.Address.String()
	if !p.isUp(ctx, i) {
		step.Action = backend.Start
	}
	if s.Size > 0 && s.Size != i.Size {
		step.Detail += fmt.Sprintf(", limit from %d to %d bytes", i.Size, s.Size)
	}
	return step, nil
}

// Provision makes sure that each Spec has its zdb, running, with its namespace.
// A larger or smaller Size and another Group are taken over; another role,
// namespace or password than the backend has is an error ([ErrSpec]).
func (p *Provisioner) Provision(ctx context.Context, specs []backend.Spec) ([]backend.Result, error) {
	results := make([]backend.Result, len(specs))
	for n, s := range specs {
		results[n].Spec = s
	}
	unlock, err := p.lock(ctx)
	if err != nil {
		for n := range results {
			results[n].Err = err
		}
		return results, err
	}
	defer unlock()
	for n, s := range specs {
		if err := ctx.Err(); err != nil {
			results[n].Err = err
			continue
		}
		results[n].Backend, results[n].Err = p.one(ctx, s)
	}
	return results, ctx.Err()
}

// Start starts the backends with these ids that do not run; without ids every
// one below the folder.
func (p *Provisioner) Start(ctx context.Context, ids ...string) error {
	return p.each(ctx, ids, p.ensure)
}

// Stop ends the backends with these ids, and keeps what they hold; without ids
// every one below the folder.
func (p *Provisioner) Stop(ctx context.Context, ids ...string) error {
	return p.each(ctx, ids, p.stop)
}

func (p *Provisioner) each(ctx context.Context, ids []string, do func(context.Context, Instance) error) error {
	if !p.exists() {
		return nil
	}
	unlock, err := p.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	instances, err := loadAll(p.dir)
	errs := []error{err}
	for _, i := range instances {
		if len(ids) > 0 && !slices.Contains(ids, i.ID) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		errs = append(errs, do(ctx, i))
	}
	return errors.Join(errs...)
}

// Close ends what cannot outlive this process.
func (p *Provisioner) Close() error { return p.launcher.close() }

// Retire stops backends and removes their folders.
func (p *Provisioner) Retire(ctx context.Context, ids ...string) error {
	if !p.exists() {
		return nil
	}
	unlock, err := p.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	var errs []error
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if err := p.retire(ctx, id); err != nil {
			errs = append(errs, fmt.Errorf("retire local backend %q: %w", id, err))
		}
	}
	return errors.Join(append(errs, p.sweep())...)
}

// retiredPrefix begins the names of folders that are being removed.
const retiredPrefix = ".retired-"

// retire takes the folder's name away before it removes the files: what a crash
// leaves of it is not a backend with half of its data, but rubbish for sweep.
func (p *Provisioner) retire(ctx context.Context, id string) error {
	if checkID(id) != nil {
		return nil // no backend can have it
	}
	i, err := load(filepath.Join(p.dir, id))
	if errors.Is(err, fs.ErrNotExist) { // lost with its files: its service is not
		return p.launcher.forget(ctx, Instance{ID: id, Dir: filepath.Join(p.dir, id)})
	}
	if err != nil {
		return err
	}
	if err := p.stop(ctx, i); err != nil {
		return err
	}
	if err := p.launcher.forget(ctx, i); err != nil {
		return err
	}
	if err := p.noteRetired(i); err != nil {
		return err
	}
	if err := os.Rename(i.Dir, filepath.Join(p.dir, retiredPrefix+id+"-"+newPassword().Reveal())); err != nil {
		return err
	}
	p.log.Info("backend retired", "backend", id, "address", i.Address)
	return syncDir(p.dir)
}

func (p *Provisioner) sweep() error {
	old, err := filepath.Glob(filepath.Join(glob.Escape(p.dir), retiredPrefix+"*"))
	errs := []error{err}
	for _, dir := range old {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

// Health asks the backend, and adds its pid and folder.
func (p *Provisioner) Health(ctx context.Context, b backend.Backend) backend.Health {
	h := zdb.Health(ctx, p.dialer, b)
	if checkID(b.ID) != nil {
		return h
	}
	if i, err := load(filepath.Join(p.dir, b.ID)); err == nil && i.Address == b.Address {
		h.Dir = i.Dir
		if pid, ok := p.launcher.running(i); ok {
			h.PID = pid
		}
	}
	return h
}
