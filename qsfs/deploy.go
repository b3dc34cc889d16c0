package qsfs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/epoch"
	"github.com/threefoldtech/quantumd/qsfs/generation"
)

// Plan says what Deploy would do.
type Plan struct {
	Schema int            `json:"schema"`
	Steps  []backend.Step `json:"steps"`

	specs []backend.Spec
}

// Specs are the backends that there are to be.
func (p *Plan) Specs() []backend.Spec { return slices.Clone(p.specs) }

// Changes counts the steps that are not merely kept.
func (p *Plan) Changes() int {
	n := 0
	for _, s := range p.Steps {
		if s.Action != backend.Keep {
			n++
		}
	}
	return n
}

// specLister is a Provisioner that knows by itself which backends there should
// be.
type specLister interface {
	Specs() []backend.Spec
}

// wanter is a Provisioner that finds out which backends there are to be: those
// that it has, whatever made them, and new ones.
type wanter interface {
	Wanted(ctx context.Context, meta, data int) ([]backend.Spec, error)
}

// batcher is a Provisioner that makes several at a time.
type batcher interface {
	Batch() int
}

// spender is a Provisioner whose backends cost money.
type spender interface {
	Costs() bool
}

// Specs are the backends that the configuration wants: those that it lists, or
// four for metadata and expected_shards for data.
func (s *System) Specs() []backend.Spec {
	if l, ok := s.opts.provisioner.(specLister); ok {
		return l.Specs()
	}
	return DefaultSpecs(backend.MetaBackends, s.cfg.ExpectedShards)
}

// wanted are the Specs without those that were replaced: a configuration goes on
// to list them. Without an answer from the metadata backends, or before there is
// a set, nothing was.
func (s *System) wanted(ctx context.Context) ([]backend.Spec, error) {
	specs := s.Specs()
	if w, ok := s.opts.provisioner.(wanter); ok {
		var err error
		if specs, err = w.Wanted(ctx, backend.MetaBackends, s.cfg.ExpectedShards); err != nil {
			return nil, err
		}
	}
	given, err := s.configured(ctx)
	if err != nil || len(given.Backends) == 0 {
		return specs, err
	}
	e, err := s.engineIn("", given) // it only asks
	if err != nil {
		return specs, nil // the set, or the key, is still to be made
	}
	defer e.Close() //nolint:errcheck // nothing is under way
	asking, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	g, _, err := s.generationOn(asking, e)
	if errors.Is(err, ErrWrongKey) || err != nil && ctx.Err() != nil {
		return nil, err
	}
	if g == nil {
		return specs, nil
	}
	return slices.DeleteFunc(specs, func(sp backend.Spec) bool {
		i := slices.IndexFunc(given.Backends, func(m generation.Member) bool { return m.ID == sp.ID })
		return i >= 0 && g.Gone(given.Backends[i].Backend)
	}), nil
}

// DefaultSpecs asks for so many backends of each role, named meta0… and data0….
func DefaultSpecs(meta, data int) []backend.Spec {
	var specs []backend.Spec
	for i := range meta {
		specs = append(specs, backend.Spec{ID: fmt.Sprintf("meta%d", i), Role: backend.Meta})
	}
	for i := range data {
		specs = append(specs, backend.Spec{ID: fmt.Sprintf("data%d", i), Role: backend.Data})
	}
	return specs
}

// PlanDeploy finds out what Deploy would do, and changes nothing.
func (s *System) PlanDeploy(ctx context.Context) (*Plan, error) {
	specs, err := s.wanted(ctx)
	if err != nil {
		return nil, err
	}
	steps, err := s.opts.provisioner.Plan(ctx, specs)
	if err != nil {
		return nil, err
	}
	return &Plan{Schema: client.SchemaVersion, Steps: steps, specs: specs}, nil
}

// DeployError says which backends could not be brought up. What could is kept:
// the next Deploy completes it.
type DeployError struct {
	Failed, Total int
	Err           error
}

func (e *DeployError) Error() string {
	return fmt.Sprintf("%d of %d backends are not up: %v", e.Failed, e.Total, e.Err)
}

func (e *DeployError) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *DeployError) Hint() string {
	const again = "run the same command again: it completes what is missing"
	var inner interface{ Hint() string }
	switch {
	case errors.Is(e.Err, syscall.ENOSPC): // what did not start for that says less
		return "free some space on that disk; then " + again
	case errors.Is(e.Err, backend.ErrAccess):
		return "correct the password of that backend in the configuration, then " + again
	case errors.As(e.Err, &inner) && inner.Hint() != "":
		return inner.Hint() + "; then " + again
	}
	return "correct what is wrong and " + again
}

// Deploy makes sure that every backend of the plan exists and works, and writes
// the first generation of the set to the metadata backends. It is idempotent.
// Backends that hold what was sealed with another key are refused: they are
// somebody else's.
func (s *System) Deploy(ctx context.Context, p *Plan) ([]backend.Backend, error) {
	var out []backend.Backend
	var errs []error
	size := 1
	if b, ok := s.opts.provisioner.(batcher); ok {
		size = b.Batch()
	}
	done := int64(0)
	for specs := range slices.Chunk(p.specs, size) {
		results, err := s.opts.provisioner.Provision(ctx, specs)
		for i, spec := range specs {
			failed := err
			if i < len(results) && (results[i].Err != nil || err == nil) {
				failed = results[i].Err
			}
			done++
			s.opts.observer(Progress{Op: "deploy", Subject: spec.ID, Step: "backend", Done: done, Total: int64(len(p.specs)), Unit: "backends", Err: failed})
			if failed != nil {
				errs = append(errs, failed)
				continue
			}
			out = append(out, results[i].Backend)
		}
		if err != nil && ctx.Err() != nil {
			break
		}
	}
	if len(errs) > 0 {
		return out, &DeployError{Failed: len(errs), Total: len(p.specs), Err: errors.Join(errs...)}
	}
	return out, s.firstGeneration(ctx, out)
}

func errForeign() error {
	return fmt.Errorf("the metadata backends hold another system's records: %w", ErrWrongKey)
}

// firstGeneration writes the set that was deployed. Where the metadata backends
// know one already that one counts, with the data backends that are new.
func (s *System) firstGeneration(ctx context.Context, list []backend.Backend) error {
	given, err := s.configured(ctx)
	if err != nil {
		return err
	}
	e, err := s.engineOver(given)
	if err != nil {
		return err
	}
	defer e.Close() //nolint:errcheck // nothing is under way
	known, answered, err := s.generationOn(ctx, e)
	if err == nil && answered < epoch.Quorum {
		err = &QuorumError{What: "the set of backends", Answered: answered, Err: ctx.Err()}
	}
	if err != nil {
		return err
	}
	g := &generation.Set{Schema: generation.Schema, Created: time.Now().UTC(), Reason: "deployed"}
	if known != nil {
		if known, err = s.follow(ctx, e, &generation.Set{}, given); err != nil {
			return err
		}
		if g = known.With(list); g == nil {
			return nil
		}
	} else {
		g.Number = 1
		for _, b := range list {
			if !b.Spare {
				g.Backends = append(g.Backends, generation.MemberOf(b))
			}
		}
	}
	c, err := s.zstorConfig(g.List())
	if err == nil {
		err = e.Reload(ctx, c)
	}
	if err != nil {
		return err
	}
	return s.writeGeneration(ctx, e, g)
}
