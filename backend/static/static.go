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

	"golang.org/x/sync/errgroup"

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
	errs := make([]error, len(specs))
	p.each(specs, func(i int, s backend.Spec) {
		steps[i], errs[i] = p.plan(ctx, s)
	})
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return steps, nil
}

func (p *Provisioner) plan(ctx context.Context, s backend.Spec) (backend.Step, error) {
	step := backend.Step{Spec: s, ID: s.ID, Role: s.Role, Action: backend.Keep}
	b, err := p.find(s)
	if err != nil {
		return step, err
	}
	step.Detail = b.Address.String()
	state, err := p.check(ctx, b)
	switch {
	case state == missing:
		step.Action = backend.Create
	case state == begun:
		step.Detail += ", its namespace is empty and not yet as described"
	case err != nil:
		return step, fmt.Errorf("%s: %w", b, err)
	}
	return step, nil
}

// Provision reaches and authenticates each backend, several at a time, and makes
// a missing namespace in the right mode where this client may; it also completes
// one that is empty and has no password. A used namespace in the wrong mode is
// an error: what is in it is somebody's.
func (p *Provisioner) Provision(ctx context.Context, specs []backend.Spec) ([]backend.Result, error) {
	results := make([]backend.Result, len(specs))
	p.each(specs, func(i int, s backend.Spec) {
		b, err := p.find(s)
		if err == nil {
			err = p.ensure(ctx, b)
		}
		results[i] = backend.Result{Spec: s, Backend: b, Err: err}
	})
	return results, ctx.Err()
}

// atOnce is how many backends are asked at a time: those that do not answer
// must not add up their timeouts.
const atOnce = 16

func (p *Provisioner) each(specs []backend.Spec, do func(int, backend.Spec)) {
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, s := range specs {
		g.Go(func() error {
			do(i, s)
			return nil // each has its own result
		})
	}
	_ = g.Wait()
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
			if s.Namespace != "" && s.Namespace != b.Namespace {
				return b, fmt.Errorf("%s: asked for with the namespace %q: %w", b, s.Namespace, ErrUnknown)
			}
			return b, nil
		}
	}
	return backend.Backend{}, fmt.Errorf("%q: %w", s.ID, ErrUnknown)
}

// state is what check found.
type state int

const (
	ready   state = iota // usable, unless there is an error
	missing              // there is no such namespace
	begun                // the namespace is empty and nobody's: not in its mode, or without its password
)

// check reaches and authenticates a backend and sees that its mode is right.
func (p *Provisioner) check(ctx context.Context, b backend.Backend) (state, error) {
	conn, err := p.dialer.Dial(ctx, b)
	if err != nil {
		return ready, err
	}
	defer conn.Close() //nolint:errcheck // only asked
	info, err := conn.Info(ctx)
	if errors.Is(err, zdb.ErrNoNamespace) {
		return missing, err
	}
	if err != nil {
		return ready, err
	}
	wrongMode := info.Sequential != (b.Role == backend.Data)
	if info.Entries == 0 && !info.Password && named(b) && (wrongMode || b.Password != "") {
		return begun, nil
	}
	if wrongMode {
		return ready, fmt.Errorf("%w: %s backends are %s", backend.ErrMode, b.Role, modeName(b.Role))
	}
	// Info needs no right, and nor does reading where the namespace is public;
	// dialing showed that the password, where one is listed, is accepted.
	if info.Password && b.Password == "" {
		return ready, fmt.Errorf("%w: the namespace has a password, and none is listed", backend.ErrAccess)
	}
	if !info.Password && b.Password != "" {
		p.log.Warn("a backend has no password, though one is listed: anybody who reaches it can write to it", "backend", b.ID)
	}
	return ready, nil
}

// named says whether the namespace is one that can be made and changed.
func named(b backend.Backend) bool { return b.Namespace != "" && b.Namespace != "default" }

func (p *Provisioner) ensure(ctx context.Context, b backend.Backend) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	found, err := p.check(ctx, b)
	if found == ready {
		return err
	}
	admin := zdb.DialAdmin(b.Address.String(), "", zdb.Options{Timeout: 10 * time.Second})
	defer admin.Close() //nolint:errcheck // only asked
	spec := zdb.NamespaceSpec{Name: b.Namespace, Sequential: b.Role == backend.Data, Password: b.Password}
	if err := zdb.EnsureNamespace(ctx, admin, spec); err != nil {
		return &NamespaceError{Backend: b, Missing: found == missing, Err: err}
	}
	p.log.Info("namespace made", "backend", b.ID, "namespace", b.Namespace)
	_, err = p.check(ctx, b)
	return err
}

// NamespaceError says that a namespace is missing, or not as listed, and that
// this client may not change that.
type NamespaceError struct {
	Backend backend.Backend
	Missing bool
	Err     error
}

func (e *NamespaceError) Error() string {
	what := "is empty, but not as listed, and cannot be completed"
	if e.Missing {
		what = "is missing and cannot be made"
	}
	return fmt.Sprintf("%s: the namespace %s: %v", e.Backend, what, e.Err)
}

func (e *NamespaceError) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *NamespaceError) Hint() string {
	mode := "user"
	if e.Backend.Role == backend.Data {
		mode = "seq"
	}
	return fmt.Sprintf("as admin of the zdb at %s: NSNEW %s, NSSET %s mode %s, NSSET %s public 0, NSSET %s password …",
		e.Backend.Address, e.Backend.Namespace, e.Backend.Namespace, mode, e.Backend.Namespace, e.Backend.Namespace)
}

func modeName(r backend.Role) string {
	if r == backend.Data {
		return "sequential"
	}
	return "in user mode"
}
