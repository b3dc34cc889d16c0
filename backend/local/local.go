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
// the way of the command line.
package local

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb"
)

// dataSize is where a backend's zdb closes a data file: its default.
const dataSize = 256 << 20

// startLimit is how long a zdb may take until it answers.
const startLimit = 30 * time.Second

// Launcher starts and stops the zdb of an instance. [InProcess] and [Command]
// are the two there are.
type Launcher interface {
	running(Instance) (pid int, ok bool)
	start(context.Context, Instance) error
	stop(context.Context, Instance) error
	close() error
}

// Provisioner keeps the local backends below one folder. It is safe for
// concurrent use as long as no two calls concern the same id.
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

// List finds the backends below the folder.
func (p *Provisioner) List(context.Context) ([]backend.Backend, error) {
	instances, err := loadAll(p.dir)
	out := make([]backend.Backend, len(instances))
	for i := range instances {
		out[i] = instances[i].backend()
	}
	return out, err
}

// Plan says which backends would be made, and which started again.
func (p *Provisioner) Plan(_ context.Context, specs []backend.Spec) ([]backend.Step, error) {
	steps := make([]backend.Step, len(specs))
	for n, s := range specs {
		if err := checkSpec(s); err != nil {
			return nil, err
		}
		step := backend.Step{Spec: s, ID: s.ID, Role: s.Role}
		i, err := load(filepath.Join(p.dir, s.ID))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			step.Action, step.Detail = backend.Create, filepath.Join(p.dir, s.ID)
		case err != nil:
			return nil, err
		default:
			step.Action, step.Detail = backend.Keep, i.Address.String()
			if _, ok := p.launcher.running(i); !ok {
				step.Action = backend.Start
			}
		}
		steps[n] = step
	}
	return steps, nil
}

// Provision makes sure that each Spec has its zdb, running, with its namespace.
func (p *Provisioner) Provision(ctx context.Context, specs []backend.Spec) ([]backend.Result, error) {
	results := make([]backend.Result, len(specs))
	for n, s := range specs {
		b, err := p.one(ctx, s)
		results[n] = backend.Result{Spec: s, Backend: b, Err: err}
		if ctx.Err() != nil {
			return results, ctx.Err()
		}
	}
	return results, nil
}

// Start starts every backend below the folder that does not run.
func (p *Provisioner) Start(ctx context.Context) error {
	instances, err := loadAll(p.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, i := range instances {
		errs = append(errs, p.ensure(ctx, i))
	}
	return errors.Join(errs...)
}

// Stop ends every backend below the folder, and keeps what it holds.
func (p *Provisioner) Stop(ctx context.Context) error {
	instances, err := loadAll(p.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, i := range instances {
		errs = append(errs, p.launcher.stop(ctx, i))
	}
	return errors.Join(errs...)
}

// Close ends what cannot outlive this process.
func (p *Provisioner) Close() error { return p.launcher.close() }

// Retire stops backends and removes their folders.
func (p *Provisioner) Retire(ctx context.Context, ids ...string) error {
	var errs []error
	for _, id := range ids {
		if err := checkID(id); err != nil {
			errs = append(errs, err)
			continue
		}
		i, err := load(filepath.Join(p.dir, id))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = p.launcher.stop(ctx, i)
		}
		if err == nil {
			err = os.RemoveAll(i.Dir)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Health asks the backend, and adds its pid and folder.
func (p *Provisioner) Health(ctx context.Context, b backend.Backend) backend.Health {
	h := zdb.Health(ctx, p.dialer, b)
	if i, err := load(filepath.Join(p.dir, b.ID)); err == nil {
		h.Dir = i.Dir
		h.PID, _ = p.launcher.running(i)
	}
	return h
}

func (p *Provisioner) one(ctx context.Context, s backend.Spec) (backend.Backend, error) {
	if err := checkSpec(s); err != nil {
		return backend.Backend{}, err
	}
	i, err := load(filepath.Join(p.dir, s.ID))
	if errors.Is(err, fs.ErrNotExist) {
		if i, err = p.describe(s); err == nil {
			err = i.save()
		}
	}
	if err != nil {
		return backend.Backend{}, err
	}
	if i.Role != s.Role {
		return backend.Backend{}, fmt.Errorf("local backend %s has the role %s, not %s", s.ID, i.Role, s.Role)
	}
	return i.backend(), p.ensure(ctx, i)
}

// describe chooses what the Spec leaves open.
func (p *Provisioner) describe(s backend.Spec) (Instance, error) {
	port, err := freePort()
	if err != nil {
		return Instance{}, err
	}
	i := Instance{ID: s.ID, Dir: filepath.Join(p.dir, s.ID), Role: s.Role, Namespace: s.Namespace, Password: s.Password,
		Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port), Size: s.Size, Group: s.Group, Admin: newPassword()}
	if i.Namespace == "" {
		i.Namespace = s.ID
	}
	if i.Password == "" {
		i.Password = newPassword()
	}
	return i, nil
}

// ensure starts the zdb where it does not run, and completes its namespace.
func (p *Provisioner) ensure(ctx context.Context, i Instance) error {
	if _, ok := p.launcher.running(i); !ok {
		if err := portFree(i.Address); err != nil {
			return err
		}
		if err := p.launcher.start(ctx, i); err != nil {
			return fmt.Errorf("local backend %s: %w", i.ID, err)
		}
		p.log.Info("backend started", "backend", i.ID, "address", i.Address)
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := p.complete(ctx, i); err != nil {
		return fmt.Errorf("local backend %s: %w%s", i.ID, err, lastWords(i))
	}
	return nil
}

// complete waits for the zdb and makes its namespace as described.
func (p *Provisioner) complete(ctx context.Context, i Instance) error {
	admin := zdb.DialAdmin(i.Address.String(), i.Admin, zdb.Options{Timeout: 5 * time.Second})
	defer admin.Close() //nolint:errcheck // only asked
	if err := p.waitAnswer(ctx, i, admin); err != nil {
		return err
	}
	return zdb.EnsureNamespace(ctx, admin, zdb.NamespaceSpec{
		Name: i.Namespace, Sequential: i.sequential(), Password: i.Password, MaxSize: i.Size})
}

func (p *Provisioner) waitAnswer(ctx context.Context, i Instance, admin *zdb.Admin) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := admin.Ping(ctx)
		if err == nil {
			return nil
		}
		if _, alive := p.launcher.running(i); !alive {
			return fmt.Errorf("the zdb ended at once: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the zdb does not answer: %w", errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

func (i Instance) sequential() bool { return i.Role == backend.Data }

// lastWords quotes the end of the zdb's log, for a message.
func lastWords(i Instance) string {
	text, err := os.ReadFile(i.path(logFile))
	if err != nil || len(text) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(text[max(0, len(text)-500):])), "\n")
	return fmt.Sprintf(" (its log ends with %q)", lines[len(lines)-1])
}

func checkSpec(s backend.Spec) error {
	if s.Role != backend.Meta && s.Role != backend.Data {
		return fmt.Errorf("local backend %s: role %q is neither meta nor data", s.ID, s.Role)
	}
	return checkID(s.ID)
}

// checkID refuses what is no name of a folder.
func checkID(id string) error {
	if id == "" || id != filepath.Base(id) || id == "." || id == ".." {
		return fmt.Errorf("local backend: %q cannot be the name of a folder", id)
	}
	return nil
}

// PortError says that a backend's port is taken by something else.
type PortError struct {
	Address netip.AddrPort
	Err     error
}

func (e *PortError) Error() string {
	return fmt.Sprintf("port in use: a local backend needs %s, and something else has it: %v", e.Address, e.Err)
}

func (e *PortError) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *PortError) Hint() string {
	return fmt.Sprintf("find it with `ss -ltnp 'sport = :%d'` and end it: the port is part of each object's address and cannot change", e.Address.Port())
}

func portFree(addr netip.AddrPort) error {
	l, err := net.Listen("tcp", addr.String())
	if err != nil {
		return &PortError{Address: addr, Err: err}
	}
	return l.Close()
}

func freePort() (uint16, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	return port, l.Close()
}

func newPassword() backend.Secret {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return backend.Secret(hex.EncodeToString(b[:]))
}
