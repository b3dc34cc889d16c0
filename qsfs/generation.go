package qsfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/engine/zstor/seal"
	"github.com/threefoldtech/quantumd/qsfs/epoch"
	"github.com/threefoldtech/quantumd/store"
)

// The set of backends is a numbered generation. The configuration gives the
// first one and the spares; each replacement makes the next. It is kept in
// SQLite and, sealed, on every metadata backend under …/qsfs/generation. The
// newest that is known counts: an older file never wins.

// generation is the record of the set of backends.
type generation struct {
	Schema   int       `json:"schema"`
	Number   int       `json:"number"`
	Created  time.Time `json:"created"`
	Reason   string    `json:"reason,omitempty"`
	Backends []member  `json:"backends"`
	// Leaving are those that were replaced, and that objects may still name.
	Leaving []member `json:"leaving,omitempty"`
	// Retired were given back. The configuration may go on to list them.
	Retired []backend.Backend `json:"retired,omitempty"`
}

// member is a backend with its password: records are sealed, and a new machine
// has nothing else to know it from.
type member struct {
	backend.Backend
	Secret string `json:"password,omitempty"`
}

func memberOf(b backend.Backend) member { return member{b, b.Password.Reveal()} }

func (m member) backend() backend.Backend {
	b := m.Backend
	b.Password = backend.Secret(m.Secret)
	return b
}

// list gives the backends of the set, in order: that of the metadata backends
// is part of the format.
func (g *generation) list() []backend.Backend { return backendsOf(g.Backends) }

func (g *generation) leaving() []backend.Backend { return backendsOf(g.Leaving) }

func backendsOf(members []member) []backend.Backend {
	out := make([]backend.Backend, len(members))
	for i, m := range members {
		out[i] = m.backend()
	}
	return out
}

// passwords takes over those of the configuration, for the same backends: who
// changed one there knows it better than the record.
func (g *generation) passwords(given *generation) *generation {
	n := *g
	n.Backends = slices.Clone(g.Backends)
	for i, m := range n.Backends {
		for _, c := range given.Backends {
			if c.Address == m.Address && c.Namespace == m.Namespace && c.Secret != "" {
				n.Backends[i].Secret = c.Secret
			}
		}
	}
	return &n
}

func (g *generation) find(id string) (backend.Backend, bool) {
	i := slices.IndexFunc(g.Backends, func(m member) bool { return m.ID == id })
	if i < 0 {
		return backend.Backend{}, false
	}
	return g.Backends[i].backend(), true
}

// next is the generation in which each backend that is a key of swaps has left
// for the value's.
func (g *generation) next(reason string, swaps map[string]backend.Backend) *generation {
	n := &generation{Schema: epoch.Schema, Number: g.Number + 1, Created: time.Now().UTC(), Reason: reason,
		Leaving: slices.Clone(g.Leaving), Retired: g.Retired}
	for _, m := range g.Backends {
		if successor, ok := swaps[m.ID]; ok {
			n.Leaving = append(n.Leaving, m)
			m = memberOf(successor)
		}
		n.Backends = append(n.Backends, m)
	}
	return n
}

// without is the generation after a backend that left was given back.
func (g *generation) without(id string) *generation {
	n := &generation{Schema: epoch.Schema, Number: g.Number + 1, Created: time.Now().UTC(), Reason: id + " is retired",
		Backends: g.Backends, Retired: slices.Clone(g.Retired)}
	for _, m := range g.Leaving {
		if m.ID == id {
			n.Retired = append(n.Retired, m.Backend)
		} else {
			n.Leaving = append(n.Leaving, m)
		}
	}
	return n
}

// with is the generation that has more data backends; nil when list brings none
// that is new.
func (g *generation) with(list []backend.Backend) *generation {
	n := &generation{Schema: epoch.Schema, Number: g.Number + 1, Created: time.Now().UTC(), Reason: "more backends",
		Backends: slices.Clone(g.Backends), Leaving: g.Leaving, Retired: g.Retired}
	for _, b := range list {
		// One that has the id of another is that one made anew: a replacement takes it.
		_, named := g.find(b.ID)
		if b.Role == backend.Data && !b.Spare && !g.knows(b) && !named {
			n.Backends = append(n.Backends, memberOf(b))
		}
	}
	if len(n.Backends) == len(g.Backends) {
		return nil
	}
	return n
}

// knows says whether a backend is in the set, or was.
func (g *generation) knows(b backend.Backend) bool {
	same := func(m member) bool { return sameBackend(m.Backend, b) }
	return slices.ContainsFunc(g.Backends, same) || g.gone(b)
}

// gone says whether a backend was replaced.
func (g *generation) gone(b backend.Backend) bool {
	return slices.ContainsFunc(g.Leaving, func(m member) bool { return sameBackend(m.Backend, b) }) ||
		slices.ContainsFunc(g.Retired, func(r backend.Backend) bool { return sameBackend(r, b) })
}

// sameBackend compares what records name a backend by.
func sameBackend(a, b backend.Backend) bool {
	return a.Address == b.Address && a.Namespace == b.Namespace
}

// decodeGeneration reads a record that opened with our key; nil for one that is
// none.
func decodeGeneration(text []byte) *generation {
	g := new(generation)
	if json.Unmarshal(text, g) != nil || g.Number < 1 || g.Schema < 1 || g.Schema > epoch.Schema || len(g.Backends) == 0 {
		return nil
	}
	for _, m := range slices.Concat(g.Backends, g.Leaving) {
		if m.ID == "" || !m.Address.IsValid() || m.Role != backend.Meta && m.Role != backend.Data {
			return nil
		}
	}
	return g
}

func newest(a, b *generation) *generation {
	if a == nil || b != nil && b.Number > a.Number {
		return b
	}
	return a
}

func (s *System) generationKey() string { return fmt.Sprintf("/%s/qsfs/generation", s.cfg.Prefix()) }

// generationOn asks the metadata backends of an engine for the newest
// generation that any of them knows; nil when none has one. answered is how many
// told something.
func (s *System) generationOn(ctx context.Context, e *zstor.Engine) (best *generation, answered int, err error) {
	a, err := engineKeeper{e}.Get(ctx, s.generationKey())
	if err != nil {
		return nil, 0, err
	}
	for _, v := range a.Values {
		best = newest(best, decodeGeneration(v))
	}
	if best == nil && a.Broken > 0 {
		return nil, 0, errForeign()
	}
	return best, len(a.Values) + a.Absent + a.Broken, nil
}

// configured is the set that the configuration, or the provisioner, gives:
// generation zero, for what is recorded begins with one.
func (s *System) configured(ctx context.Context) (*generation, error) {
	list, err := s.opts.provisioner.List(ctx)
	if err != nil && len(list) > 0 {
		s.log.Warn("some backends are not known", "err", err)
		err = nil
	}
	g := &generation{Schema: epoch.Schema}
	for _, b := range list {
		if !b.Spare {
			g.Backends = append(g.Backends, memberOf(b))
		}
	}
	return g, err
}

// remembered is the newest set that SQLite knows; nil for none. It is sealed
// there too: the database holds no secret in clear.
func (s *System) remembered(ctx context.Context) (*generation, error) {
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
	return decodeGeneration(text), nil
}

// generationState is where SQLite keeps the sealed set.
const generationState = "generation"

// remember keeps a generation in SQLite, and uses it from now on.
func (s *System) remember(ctx context.Context, g *generation) error {
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
		public, err := json.Marshal(g.list()) // without passwords
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
func (s *System) current() *generation {
	if g := s.set.Load(); g != nil {
		return g
	}
	return &generation{}
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
	g := newest(given, known).passwords(given)
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
func (s *System) follow(ctx context.Context, e *zstor.Engine, g, given *generation) (*generation, error) {
	for {
		asking, cancel := context.WithTimeout(ctx, startPatience)
		n, _, err := s.generationOn(asking, e)
		cancel()
		if errors.Is(err, ErrWrongKey) || ctx.Err() != nil {
			return nil, errors.Join(err, ctx.Err())
		}
		if err != nil || newest(g, n) == g {
			return g, nil
		}
		n = n.passwords(given)
		c, err := s.zstorConfig(n.list())
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
func (s *System) writeGeneration(ctx context.Context, e *zstor.Engine, g *generation) error {
	s.recordLock.Lock()
	defer s.recordLock.Unlock()
	return s.newEpochs(e).Write(ctx, s.generationKey(), g, false)
}

// engineOver opens an object engine over a set, one that stores files.
func (s *System) engineOver(g *generation) (*zstor.Engine, error) {
	if err := os.MkdirAll(s.layout.State, 0o700); err != nil {
		return nil, &PathError{Path: s.layout.State, Err: err}
	}
	return s.engineIn(s.layout.State, g)
}

// engineIn opens an object engine over a set, with its large buffers in temp.
func (s *System) engineIn(temp string, g *generation) (*zstor.Engine, error) {
	c, err := s.zstorConfig(g.list())
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

// relieved is the generation in which a full data backend keeps what it holds,
// and another one takes what is new.
func (g *generation) relieved(id string, by backend.Backend) *generation {
	n := &generation{Schema: epoch.Schema, Number: g.Number + 1, Created: time.Now().UTC(), Reason: fmt.Sprintf("%s relieves %s, which is full", by.ID, id),
		Backends: slices.Clone(g.Backends), Leaving: g.Leaving, Retired: g.Retired}
	for i := range n.Backends {
		if n.Backends[i].ID == id {
			n.Backends[i].Spare = true
		}
	}
	n.Backends = append(n.Backends, memberOf(by))
	return n
}
