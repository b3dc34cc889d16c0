package qsfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/engine/zstor/seal"
	"github.com/threefoldtech/quantumd/qsfs/epoch"
	"github.com/threefoldtech/quantumd/qsfs/generation"
	"github.com/threefoldtech/quantumd/store"
)

// The set of backends is a numbered generation. The configuration gives the
// first one and the spares; each replacement makes the next. It is kept in
// SQLite and, sealed, on every metadata backend under …/qsfs/generation. The
// newest that is known counts: an older file never wins.

func (s *System) generationKey() string { return fmt.Sprintf("/%s/qsfs/generation", s.cfg.Prefix()) }

// generationOn asks the metadata backends of an engine for the newest
// generation that any of them knows; nil when none has one. answered is how many
// told something.
func (s *System) generationOn(ctx context.Context, e *zstor.Engine) (best *generation.Set, answered int, err error) {
	a, err := engineKeeper{e}.Get(ctx, s.generationKey())
	if err != nil {
		return nil, 0, err
	}
	for _, v := range a.Values {
		best = generation.Newest(best, generation.Decode(v))
	}
	if best == nil && a.Broken > 0 {
		return nil, 0, errForeign()
	}
	return best, len(a.Values) + a.Absent + a.Broken, nil
}

// configured is the set that the configuration, or the provisioner, gives:
// generation zero, for what is recorded begins with one.
func (s *System) configured(ctx context.Context) (*generation.Set, error) {
	list, err := s.opts.provisioner.List(ctx)
	if err != nil && len(list) > 0 {
		s.log.Warn("some backends are not known", "err", err)
		err = nil
	}
	g := &generation.Set{Schema: generation.Schema}
	for _, b := range list {
		if !b.Spare {
			g.Backends = append(g.Backends, generation.MemberOf(b))
		}
	}
	return g, err
}

// Named gives the backends that the set's record names: those in use, and those that
// were replaced and that objects may still name. It asks the metadata backends, and
// fails with a [*QuorumError] where too few of them answer.
func (s *System) Named(ctx context.Context) ([]backend.Backend, error) {
	given, err := s.configured(ctx)
	if err != nil {
		return nil, err
	}
	e, err := s.engineOver(given)
	if err != nil {
		return nil, err
	}
	defer e.Close() //nolint:errcheck // nothing is under way
	g, answered, err := s.generationOn(ctx, e)
	if err == nil && answered < epoch.Quorum {
		err = &QuorumError{What: "the set of backends", Answered: answered, Err: ctx.Err()}
	}
	if err != nil {
		return nil, err
	}
	if g == nil {
		return given.List(), nil
	}
	return slices.Concat(g.List(), g.Left()), nil
}

// remembered is the newest set that SQLite knows; nil for none. It is sealed
// there too: the database holds no secret in clear.
func (s *System) remembered(ctx context.Context) (*generation.Set, error) {
	if s.store == nil {
		return nil, nil
	}
	sealed, err := s.store.GetState(ctx, generationState)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	key, err := s.sealKey()
	if err != nil {
		return nil, err
	}
	text, err := key.Open(sealed, []byte(generationState))
	if err != nil {
		return nil, fmt.Errorf("the set of backends in the database: %w", ErrWrongKey)
	}
	return generation.Decode(text), nil
}

// generationState is where SQLite keeps the sealed set.
const generationState = "generation"

// remember keeps a generation in SQLite, and uses it from now on.
func (s *System) remember(ctx context.Context, g *generation.Set) error {
	if s.store != nil && g.Number > 0 {
		key, err := s.sealKey()
		if err != nil {
			return err
		}
		text, err := json.Marshal(g)
		if err != nil {
			return err
		}
		sealed := key.Seal(text, []byte(generationState))
		public, err := json.Marshal(g.List()) // without passwords
		if err != nil {
			return err
		}
		if err := s.store.SetState(ctx, generationState, sealed); err != nil {
			return err
		}
		err = s.store.SaveGeneration(ctx, store.Generation{Number: int64(g.Number), Created: g.Created, Reason: g.Reason, Backends: public})
		if err != nil && !errors.Is(err, store.ErrStale) { // what is shown to people; an older row of a rebuilt database does no harm
			return err
		}
	}
	s.set.Store(g)
	return nil
}

// current is the set in use.
func (s *System) current() *generation.Set {
	if g := s.set.Load(); g != nil {
		return g
	}
	return &generation.Set{}
}

// openEngine opens the object engine over the newest set of backends that is
// known here, or that a metadata backend of it knows.
func (s *System) openEngine(ctx context.Context) (*zstor.Engine, error) {
	given, err := s.configured(ctx)
	if err != nil {
		return nil, err
	}
	known, err := s.remembered(ctx)
	if err != nil {
		return nil, err
	}
	g := generation.Newest(given, known).WithPasswords(given)
	e, err := s.engineOver(g)
	if err != nil {
		return nil, err
	}
	g, err = s.follow(ctx, e, g, given)
	if err == nil {
		err = s.remember(ctx, g)
	}
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// follow reloads an engine with newer generations until its metadata backends
// know none. Without an answer it stays with the one that it has.
func (s *System) follow(ctx context.Context, e *zstor.Engine, g, given *generation.Set) (*generation.Set, error) {
	for {
		asking, cancel := context.WithTimeout(ctx, startPatience)
		n, _, err := s.generationOn(asking, e)
		cancel()
		if errors.Is(err, ErrWrongKey) || ctx.Err() != nil {
			return nil, errors.Join(err, ctx.Err())
		}
		if err != nil || generation.Newest(g, n) == g {
			return g, nil
		}
		n = n.WithPasswords(given)
		c, err := s.zstorConfig(n.List())
		if err == nil {
			err = e.Reload(ctx, c)
		}
		if err != nil {
			return nil, fmt.Errorf("generation %d of the backends: %w", n.Number, err)
		}
		s.log.Info("a newer set of backends is in use than the configuration gives", "generation", n.Number, "reason", n.Reason)
		g = n
	}
}

// writeGeneration puts a generation on the metadata backends of an engine that
// was opened over it.
func (s *System) writeGeneration(ctx context.Context, e *zstor.Engine, g *generation.Set) error {
	s.recordLock.Lock()
	defer s.recordLock.Unlock()
	return s.newEpochs(e).Write(ctx, s.generationKey(), g, false)
}

// engineOver opens an object engine over a set, one that stores files.
func (s *System) engineOver(g *generation.Set) (*zstor.Engine, error) {
	if err := os.MkdirAll(s.layout.State, 0o700); err != nil {
		return nil, &PathError{Path: s.layout.State, Err: err}
	}
	return s.engineIn(s.layout.State, g)
}

// engineIn opens an object engine over a set, with its large buffers in temp.
func (s *System) engineIn(temp string, g *generation.Set) (*zstor.Engine, error) {
	c, err := s.zstorConfig(g.List())
	if err != nil {
		return nil, err
	}
	return zstor.Open(c, zstor.Options{Dialer: s.opts.dialer, MemoryLimit: int64(s.cfg.MemoryLimit) / 2, TempDir: temp, Logger: s.log})
}

func (s *System) sealKey() (seal.Key, error) {
	var k seal.Key
	key, err := s.cfg.Key()
	copy(k[:], key)
	return k, err
}
