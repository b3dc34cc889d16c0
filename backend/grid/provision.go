package grid

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/threefoldtech/quantumd/backend"
)

// batch is how many contracts one call of the SDK makes: small, for a crash of it
// may orphan those of one call until the journal finds them.
const batch = 8

// Plan says which backends exist, and what would be rented for the others, and
// where. It rents nothing.
func (p *Provisioner) Plan(ctx context.Context, specs []backend.Spec) ([]backend.Step, error) {
	if missing := p.unknown(specs); len(missing) == 0 {
		return p.keep(specs), nil
	}
	w, end, err := p.turnToLook(ctx, false)
	if err != nil {
		return nil, err
	}
	defer end()
	bill, err := p.bill(ctx, w, specs)
	if err != nil {
		return nil, err
	}
	steps := make([]backend.Step, len(specs))
	for i, s := range specs {
		steps[i] = backend.Step{Spec: s, ID: s.ID, Role: s.Role, Action: backend.Keep}
		if h, ok := w.find(s.ID); ok {
			steps[i].Detail = fmt.Sprintf("contract %d on node %d", h.Contract.ID, h.Contract.Node)
			if h.Err != nil {
				steps[i].Detail += ", which does not answer: nothing is rented in its place"
			}
			continue
		}
		if b, ok := p.configured(s.ID); ok {
			steps[i].Detail = b.Address.String()
			continue
		}
		steps[i].Action = backend.Create
		if item, ok := bill.item(s.ID); ok {
			steps[i].Detail = item.String()
		}
	}
	return steps, nil
}

func (p *Provisioner) keep(specs []backend.Spec) []backend.Step {
	steps := make([]backend.Step, len(specs))
	for i, s := range specs {
		b, _ := p.configured(s.ID)
		steps[i] = backend.Step{Spec: s, ID: s.ID, Role: s.Role, Action: backend.Keep, Detail: b.Address.String()}
	}
	return steps
}

// configured gives a backend that needs no grid.
func (p *Provisioner) configured(id string) (backend.Backend, bool) {
	i := slices.IndexFunc(p.o.Known, func(b backend.Backend) bool { return b.ID == id })
	if i < 0 {
		return backend.Backend{}, false
	}
	return p.o.Known[i], true
}

func (p *Provisioner) unknown(specs []backend.Spec) []backend.Spec {
	var out []backend.Spec
	for _, s := range specs {
		if _, ok := p.configured(s.ID); !ok {
			out = append(out, s)
		}
	}
	return out
}

// Provision makes sure that each spec has its backend. What exists is used, also
// while its node does not answer; only what does not exist is rented, noted in the
// journal before. A second call completes what the first could not.
func (p *Provisioner) Provision(ctx context.Context, specs []backend.Spec) ([]backend.Result, error) {
	results := make([]backend.Result, len(specs))
	var w *world
	if len(p.unknown(specs)) > 0 {
		looked, end, err := p.turnToLook(ctx, false)
		if err != nil {
			return failAll(specs, err), err
		}
		defer end()
		w = looked
	}
	var rent []int
	for i, s := range specs {
		results[i].Spec = s
		b, err := p.existing(ctx, w, s)
		if errors.Is(err, errNotHeld) {
			if err = p.check(s); err == nil {
				rent = append(rent, i)
				continue
			}
		}
		results[i].Backend, results[i].Err = b, err
	}
	if len(rent) > 0 {
		r := renting{p: p, w: w, specs: specs, results: results, open: rent, why: map[int]error{}}
		if err := r.run(ctx); err != nil {
			return results, err
		}
	}
	return results, ctx.Err()
}

func failAll(specs []backend.Spec, err error) []backend.Result {
	out := make([]backend.Result, len(specs))
	for i, s := range specs {
		out[i] = backend.Result{Spec: s, Err: err}
	}
	return out
}

// existing gives the backend of a spec that there is; errNotHeld: there is none.
func (p *Provisioner) existing(ctx context.Context, w *world, s backend.Spec) (backend.Backend, error) {
	if b, ok := p.configured(s.ID); ok {
		if b.Role != s.Role {
			return b, fmt.Errorf("%s: asked for with the role %s: %w", b, s.Role, backend.ErrMode)
		}
		return b, p.answers(ctx, b, false)
	}
	h, ok := w.find(s.ID)
	if !ok {
		return backend.Backend{}, errNotHeld
	}
	if h.Role != s.Role {
		return h.Backend, fmt.Errorf("%s: asked for with the role %s: %w", h.Backend, s.Role, backend.ErrMode)
	}
	switch {
	case h.Err == nil:
	case p.o.ReplaceUnreachable && errors.Is(h.Err, ErrNodeDown):
		p.log.Warn("another backend is rented in place of one whose node does not answer; its contract stays", "backend", s.ID, "contract", h.Contract.ID, "node", h.Contract.Node)
		if err := p.replaced(ctx, w, *h); err != nil {
			return h.Backend, err
		}
		return backend.Backend{}, errNotHeld
	case errors.Is(h.Err, ErrNodeDown):
		return h.Backend, &UnreachableError{IDs: []string{s.ID}, Err: h.Err}
	case errors.Is(h.Err, ErrWorkload) && w.madeInVain(*h):
		if err := p.giveBack(ctx, w, *h, h.Err); err != nil {
			return h.Backend, err
		}
		return backend.Backend{}, errNotHeld
	default:
		return h.Backend, h.Err
	}
	if err := p.answers(ctx, h.Backend, false); err != nil {
		return h.Backend, err
	}
	return h.Backend, p.ready(ctx, w, *h)
}

// answers says whether a backend is reached, lets us in and has its mode; a fresh one
// also whether it has the room that was rented.
func (p *Provisioner) answers(ctx context.Context, b backend.Backend, fresh bool) error {
	conn, err := p.o.Dialer.Dial(ctx, b)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing was written
	info, err := conn.Info(ctx)
	if err != nil {
		return err
	}
	if info.Sequential != (b.Role == backend.Data) {
		return fmt.Errorf("%s: %w", b, backend.ErrMode)
	}
	if size := p.size(b.Role); fresh && (info.Limit > 0 && info.Limit < size || info.Free > 0 && info.Free < size/2) {
		return &Error{Kind: ErrWorkload, Msg: fmt.Sprintf("%s has a limit of %d bytes and %d free on its disk, and %d were rented", b, info.Limit, info.Free, size)}
	}
	return nil
}

// reached waits until a new backend answers: a route over the overlay needs time.
func (p *Provisioner) reached(ctx context.Context, b backend.Backend) error {
	limited, cancel := context.WithTimeout(ctx, p.o.Reach)
	defer cancel()
	for {
		err := p.answers(limited, b, true)
		if err == nil || errors.Is(err, backend.ErrMode) || errors.Is(err, backend.ErrAccess) || errors.Is(err, ErrWorkload) {
			return err
		}
		if p.pause(limited) != nil {
			return errors.Join(ctx.Err(), err)
		}
	}
}

// replaced notes that another contract takes the place of one.
func (p *Provisioner) replaced(ctx context.Context, w *world, h Held) error {
	r := w.rows[h.Contract.Name]
	r.Name, r.ID, r.Role, r.Node, r.Contract, r.State = h.Contract.Name, h.ID, h.Role, h.Contract.Node, h.Contract.ID, Replaced
	r.Error = h.Err.Error()
	return p.save(ctx, w, r)
}

// giveBack cancels a contract, noted before and after.
func (p *Provisioner) giveBack(ctx context.Context, w *world, h Held, why error) error {
	r := w.rows[h.Contract.Name]
	r.Name, r.ID, r.Role, r.Node, r.Contract, r.State = h.Contract.Name, h.ID, h.Role, h.Contract.Node, h.Contract.ID, Leaving
	r.Namespace = namespaceOf(w.account.Twin, h.Contract)
	if why != nil {
		r.Error = why.Error()
	}
	if err := p.save(ctx, w, r); err != nil {
		return err
	}
	if err := w.client.Cancel(ctx, h.Contract.ID); err != nil {
		return err
	}
	r.State = Gone
	w.held = slices.DeleteFunc(w.held, func(o Held) bool { return o.Contract.ID == h.Contract.ID })
	return p.save(ctx, w, r)
}

// Retire cancels the contracts of backends; what they hold is lost. Those that
// exist twice are cancelled wholly.
func (p *Provisioner) Retire(ctx context.Context, ids ...string) error {
	return p.cancel(ctx, len(ids), func(h Held) bool { return slices.Contains(ids, h.ID) })
}

// Cancel ends contracts of the deployment; what they hold is lost. Others are left
// alone.
func (p *Provisioner) Cancel(ctx context.Context, contracts ...uint64) error {
	return p.cancel(ctx, len(contracts), func(h Held) bool { return slices.Contains(contracts, h.Contract.ID) })
}

func (p *Provisioner) cancel(ctx context.Context, asked int, fits func(Held) bool) error {
	if asked == 0 {
		return nil
	}
	w, end, err := p.turnToLook(ctx, false)
	if err != nil {
		return err
	}
	defer end()
	var errs []error
	for _, h := range slices.Clone(w.held) {
		if fits(h) {
			errs = append(errs, p.giveBack(ctx, w, h, nil))
		}
	}
	return errors.Join(errs...)
}

// doubt is how long a node that failed is chosen last.
const doubt = 24 * time.Hour
