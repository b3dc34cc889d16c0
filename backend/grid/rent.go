package grid

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/threefoldtech/quantumd/backend"
)

// renting makes contracts for the specs that have none, in rounds: those that
// failed go to other nodes.
type renting struct {
	p       *Provisioner
	w       *world
	specs   []backend.Spec
	results []backend.Result
	open    []int         // indexes of specs
	why     map[int]error // each one's last failure
}

// run fills in the results. Its error concerns all of them.
func (r *renting) run(ctx context.Context) error {
	if err := CheckLocal(r.p.o.Connection); err != nil { // before money is spent
		return r.fail(err)
	}
	if err := r.affordable(ctx); err != nil {
		return r.fail(err)
	}
	spreads := map[backend.Role]*spread{}
	for _, i := range r.open {
		role := r.specs[i].Role
		if spreads[role] != nil {
			continue
		}
		s, err := r.p.spread(ctx, r.w, role)
		if err != nil {
			return r.fail(err)
		}
		spreads[role] = s
	}
	for round := 0; len(r.open) > 0 && round <= r.p.o.MaxRetries; round++ {
		for chunk := range slices.Chunk(slices.Clone(r.open), batch) {
			if err := r.round(ctx, spreads, chunk); err != nil {
				return r.fail(err)
			}
		}
	}
	for _, i := range r.open {
		r.results[i].Err = r.why[i]
	}
	return nil
}

// fail gives the specs that are open an error.
func (r *renting) fail(err error) error {
	for _, i := range r.open {
		r.results[i].Err = errors.Join(err, r.why[i])
	}
	return err
}

// affordable compares what the new contracts cost with what may be spent.
func (r *renting) affordable(ctx context.Context) error {
	total := 0.0
	for _, i := range r.open {
		usd, err := r.p.price(ctx, r.w, r.p.sizeOf(r.specs[i]))
		if err != nil {
			return err
		}
		total += usd
	}
	total += r.spent()
	if r.p.o.MaxUSD > 0 && total > r.p.o.MaxUSD {
		return &Error{Kind: errTooDear, Msg: fmt.Sprintf("%.2f USD, and at most %.2f are allowed", total, r.p.o.MaxUSD), Remedy: "raise replace.max_cost_per_month, or replace by hand with `quantumd replace`"}
	}
	return nil
}

// spent is what was rented in the last 30 days beside what the configuration lists.
func (r *renting) spent() (usd float64) {
	for _, row := range r.w.rows {
		if _, listed := r.p.configured(row.ID); !listed && row.State != Gone && time.Since(row.Changed) < 30*24*time.Hour {
			usd += row.USD
		}
	}
	return usd
}

// round makes one batch: each in the journal first, then all of them at once.
func (r *renting) round(ctx context.Context, spreads map[backend.Role]*spread, chunk []int) error {
	p := r.p
	var requests []Request
	var asked []int
	for _, i := range chunk {
		s := r.specs[i]
		size := p.sizeOf(s)
		n, ok := spreads[s.Role].next(size)
		if !ok {
			r.why[i] = errors.Join(r.why[i], &NoNodeError{ID: s.ID, Role: s.Role, Size: size})
			continue
		}
		name := contractName(p.o.Deployment, r.w.account.Twin, s.Role, n.ID)
		row := Row{Name: name, ID: s.ID, Role: s.Role, Node: n.ID, Farm: n.Farm, Country: n.Country, Size: size, State: Intended, USD: r.w.prices[size]}
		if err := p.save(ctx, r.w, row); err != nil {
			return err
		}
		p.o.Observe(Progress{ID: s.ID, Node: n.ID, Step: "renting"})
		requests = append(requests, Request{Name: name, Project: project(p.o.Deployment, s.ID), Node: n.ID, Role: s.Role, Size: size, Password: p.o.Password})
		asked = append(asked, i)
	}
	if len(requests) == 0 {
		return nil
	}
	made, err := r.w.client.Deploy(ctx, requests)
	if len(made) != len(requests) { // it ended in the middle: the chain tells what there is
		made = make([]Deployed, len(requests))
		for i := range made {
			made[i].Err = err
		}
	}
	if err != nil && errors.Is(err, ErrFunds) {
		return errors.Join(err, r.forget(ctx, requests, made))
	}
	return r.follow(ctx, requests, asked, made)
}

// forget notes that what was asked for was not begun.
func (r *renting) forget(ctx context.Context, requests []Request, made []Deployed) error {
	for i, q := range requests {
		if made[i].Contract != 0 {
			continue
		}
		row := r.w.rows[q.Name]
		row.State = Gone
		if err := r.p.save(ctx, r.w, row); err != nil {
			return err
		}
	}
	return nil
}

// follow sees what became of each request. One after the other is noted; they are
// waited for together.
func (r *renting) follow(ctx context.Context, requests []Request, asked []int, made []Deployed) error {
	outcomes := make([]outcome, len(requests))
	for i, q := range requests {
		row := r.w.rows[q.Name]
		if row.Contract = made[i].Contract; row.Contract == 0 { // it may have been made all the same
			asked := row
			if !errors.Is(made[i].Err, ErrCrashed) {
				asked.State = Made // what the SDK says is over is over: nothing is waited for
			}
			found, err := r.p.settled(ctx, r.w.client, asked)
			if err != nil {
				return errors.Join(made[i].Err, err)
			}
			if found == nil {
				row.State, row.Error = Gone, text(made[i].Err)
				if err := r.p.save(ctx, r.w, row); err != nil {
					return err
				}
				outcomes[i].err = made[i].Err
				if outcomes[i].err == nil {
					outcomes[i].err = errors.New("grid: there is no contract, and no reason was given")
				}
				continue
			}
			row.Contract = found.ID
		}
		row.State = Made
		if err := r.p.save(ctx, r.w, row); err != nil { // before anything else is asked of it
			return err
		}
		outcomes[i].contract = Contract{ID: row.Contract, Node: q.Node, Name: q.Name, Project: q.Project}
	}
	var g errgroup.Group
	for i := range outcomes {
		if o := &outcomes[i]; o.err == nil {
			g.Go(func() error {
				o.backend, o.err = r.p.take(ctx, r.specs[asked[i]], o.contract, r.w)
				return nil // each has its own error
			})
		}
	}
	_ = g.Wait()
	return r.judge(ctx, asked, outcomes)
}

type outcome struct {
	contract Contract
	backend  backend.Backend
	err      error
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// take reads a new zdb back and waits until it is reached.
func (p *Provisioner) take(ctx context.Context, s backend.Spec, c Contract, w *world) (backend.Backend, error) {
	z, err := w.client.Read(ctx, c.Node, c.ID)
	if err != nil {
		return backend.Backend{}, err
	}
	b, err := p.backendOf(s.ID, s.Role, c, z, w)
	if err != nil {
		return b, err
	}
	return b, p.reached(ctx, b)
}

// judge keeps what works. What does not is given back, and its spec goes to another
// node; but where this machine reaches none of several it is this machine's
// network, and nothing is given back: the next call goes on with them.
func (r *renting) judge(ctx context.Context, asked []int, outcomes []outcome) error {
	if err := ctx.Err(); err != nil {
		return err // all is in the journal
	}
	unreached, good := 0, 0
	var last error
	for _, o := range outcomes {
		var silent *backend.UnreachableError
		switch {
		case o.err == nil:
			good++
		case errors.As(o.err, &silent):
			unreached++
			last = o.err
		}
	}
	if good == 0 && unreached > 1 {
		return fmt.Errorf("grid: %d new backends were made and this machine reaches none of them: %w", unreached, last)
	}
	for n, o := range outcomes {
		i := asked[n]
		s := r.specs[i]
		if o.err != nil {
			r.why[i] = o.err
			r.p.o.Observe(Progress{ID: s.ID, Node: o.contract.Node, Step: "failed", Err: o.err})
			if o.contract.ID != 0 {
				if err := r.p.giveBack(ctx, r.w, Held{ID: s.ID, Role: s.Role, Contract: o.contract, Backend: o.backend}, o.err); err != nil {
					return err
				}
			}
			continue
		}
		h := Held{ID: s.ID, Role: s.Role, Contract: o.contract, Backend: o.backend}
		if err := r.p.ready(ctx, r.w, h); err != nil {
			return err
		}
		r.w.held = append(r.w.held, h)
		r.results[i].Backend, r.results[i].Err = o.backend, nil
		r.open = slices.DeleteFunc(r.open, func(x int) bool { return x == i })
		r.p.o.Observe(Progress{ID: s.ID, Node: o.contract.Node, Step: "works"})
	}
	return nil
}
