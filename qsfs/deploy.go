package qsfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/qsfs/client"
)

// Plan says what Deploy would do.
type Plan struct {
	Schema int            `json:"schema"`
	Steps  []backend.Step `json:"steps"`

	specs []backend.Spec
}

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

// Specs are the backends that the configuration wants: those that it lists, or
// four for metadata and expected_shards for data.
func (s *System) Specs() []backend.Spec {
	if l, ok := s.opts.provisioner.(specLister); ok {
		return l.Specs()
	}
	return DefaultSpecs(backend.MetaBackends, s.cfg.ExpectedShards)
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
	specs := s.Specs()
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

// generation is the record of the set of backends at …/qsfs/generation.
type generation struct {
	Schema   int               `json:"schema"`
	Number   int               `json:"number"`
	Created  time.Time         `json:"created"`
	Backends []backend.Backend `json:"backends"` // without passwords
}

// Deploy makes sure that every backend of the plan exists and works, and writes
// the first generation of the set to the metadata backends. It is idempotent.
// Backends that hold what was sealed with another key are refused: they are
// somebody else's.
func (s *System) Deploy(ctx context.Context, p *Plan) ([]backend.Backend, error) {
	var out []backend.Backend
	var errs []error
	for i, spec := range p.specs {
		results, err := s.opts.provisioner.Provision(ctx, []backend.Spec{spec})
		if err == nil && len(results) == 1 {
			err = results[0].Err
		}
		s.opts.observer(Progress{Op: "deploy", Subject: spec.ID, Step: "backend", Done: int64(i + 1), Total: int64(len(p.specs)), Unit: "backends", Err: err})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, results[0].Backend)
	}
	if len(errs) > 0 {
		return out, &DeployError{Failed: len(errs), Total: len(p.specs), Err: errors.Join(errs...)}
	}
	return out, s.firstGeneration(ctx, out)
}

func errForeign() error {
	return fmt.Errorf("the metadata backends hold another system's records: %w", ErrWrongKey)
}

func (s *System) generationKey() string { return fmt.Sprintf("/%s/qsfs/generation", s.cfg.Prefix()) }

func (s *System) firstGeneration(ctx context.Context, list []backend.Backend) error {
	engine, err := s.openEngine(ctx)
	if err != nil {
		return err
	}
	defer engine.Close() //nolint:errcheck // nothing is under way
	e := s.newEpochs(engine)
	key := s.generationKey()
	a, err := e.keep.get(ctx, key)
	if err != nil {
		return err
	}
	switch {
	case a.broken > 0:
		return errForeign()
	case len(a.values) >= quorum:
		return nil
	}
	for _, v := range a.values {
		var g generation
		if json.Unmarshal(v, &g) == nil && g.Number > 1 {
			return nil // a newer set than the first is there; it must not be put back
		}
	}
	return e.write(ctx, key, generation{Schema: recordSchema, Number: 1, Created: time.Now().UTC(), Backends: list}, false)
}
