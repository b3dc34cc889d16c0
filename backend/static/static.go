// Package static uses zdbs that somebody else runs: those that the
// configuration lists. It makes a missing namespace where it may, and changes
// nothing else.
//
//	p := static.New(backends)
//	results, err := p.Provision(ctx, p.Specs())
package static

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb"
)

// ErrUnknown says that a Spec asks for a backend that the configuration does
// not list.
var ErrUnknown = errors.New("not one of the listed backends")

// Provisioner knows a fixed list of backends. It is safe for concurrent use.
type Provisioner struct {
	backends []backend.Backend
	dialer   backend.Dialer
	log      *slog.Logger
}

var _ backend.Provisioner = (*Provisioner)(nil)

// New makes a Provisioner of the listed backends. A nil logger discards.
func New(backends []backend.Backend, log *slog.Logger) *Provisioner {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Provisioner{backends: backends, log: log.With("component", "backend/static"),
		dialer: zdb.NewDialer(zdb.Options{PoolSize: 1, Timeout: 10 * time.Second})}
}

// Specs asks for every listed backend.
func (p *Provisioner) Specs() []backend.Spec {
	specs := make([]backend.Spec, len(p.backends))
	for i, b := range p.backends {
		specs[i] = backend.Spec{ID: b.ID, Role: b.Role, Namespace: b.Namespace, Password: b.Password, Group: b.Group}
	}
	return specs
}

// List gives the listed backends.
func (p *Provisioner) List(context.Context) ([]backend.Backend, error) {
	return append([]backend.Backend(nil), p.backends...), nil
}

// Plan asks each backend whether its namespace is there.
func (p *Provisioner) Plan(ctx context.Context, specs []backend.Spec) ([]backend.Step, error) {
	steps := make([]backend.Step, len(specs))
	for i, s := range specs {
		b, err := p.find(s)
		if err != nil {
			return nil, err
		}
		steps[i] = backend.Step{Spec: s, ID: s.ID, Role: s.Role, Action: backend.Keep, Detail: b.Address.String()}
		switch err := p.check(ctx, b); {
		case errors.Is(err, zdb.ErrNoNamespace):
			steps[i].Action = backend.Create
		case err != nil:
			return nil, fmt.Errorf("%s: %w", b, err)
		}
	}
	return steps, nil
}

// Provision reaches and authenticates each backend, and makes a missing
// namespace in the right mode where this client may. A namespace in the wrong
// mode is an error: what is in it is somebody's.
func (p *Provisioner) Provision(ctx context.Context, specs []backend.Spec) ([]backend.Result, error) {
	results := make([]backend.Result, len(specs))
	for i, s := range specs {
		b, err := p.find(s)
		if err == nil {
			err = p.ensure(ctx, b)
		}
		results[i] = backend.Result{Spec: s, Backend: b, Err: err}
		if ctx.Err() != nil {
			return results, ctx.Err()
		}
	}
	return results, nil
}

// Retire does nothing: the backends belong to somebody else.
func (p *Provisioner) Retire(context.Context, ...string) error { return nil }

// Health asks the backend.
func (p *Provisioner) Health(ctx context.Context, b backend.Backend) backend.Health {
	return zdb.Health(ctx, p.dialer, b)
}

func (p *Provisioner) find(s backend.Spec) (backend.Backend, error) {
	for _, b := range p.backends {
		if b.ID == s.ID {
			if b.Role != s.Role {
				return b, fmt.Errorf("%s: asked for with the role %s: %w", b, s.Role, backend.ErrMode)
			}
			return b, nil
		}
	}
	return backend.Backend{}, fmt.Errorf("%q: %w", s.ID, ErrUnknown)
}

// check reaches and authenticates a backend and sees that its mode is right.
func (p *Provisioner) check(ctx context.Context, b backend.Backend) error {
	conn, err := p.dialer.Dial(ctx, b)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // only asked
	info, err := conn.Info(ctx)
	if err != nil {
		return err
	}
	if info.Sequential != (b.Role == backend.Data) {
		return fmt.Errorf("%w: %s backends are %s", backend.ErrMode, b.Role, modeName(b.Role))
	}
	// Info needs no right; looking up a key shows that the password is accepted.
	if _, err := conn.Stat(ctx, []byte("authenticate")); err != nil && !errors.Is(err, backend.ErrNotFound) {
		return err
	}
	return nil
}

func (p *Provisioner) ensure(ctx context.Context, b backend.Backend) error {
	err := p.check(ctx, b)
	if !errors.Is(err, zdb.ErrNoNamespace) {
		return err
	}
	admin := zdb.DialAdmin(b.Address.String(), "", zdb.Options{Timeout: 10 * time.Second})
	defer admin.Close() //nolint:errcheck // only asked
	spec := zdb.NamespaceSpec{Name: b.Namespace, Sequential: b.Role == backend.Data, Password: b.Password}
	if err := zdb.EnsureNamespace(ctx, admin, spec); err != nil {
		return fmt.Errorf("namespace %q is missing and cannot be made: %w", b.Namespace, err)
	}
	p.log.Info("namespace made", "backend", b.ID, "namespace", b.Namespace)
	return p.check(ctx, b)
}

func modeName(r backend.Role) string {
	if r == backend.Data {
		return "sequential"
	}
	return "in user mode"
}
