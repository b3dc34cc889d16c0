// Package generation has the set of backends that a system uses, as a numbered
// record: the configuration gives the first one, each replacement makes the next
// (Next, Without, Relieved, With), and the newest that is known counts (Newest): an
// older file never wins.
//
// A backend comes in with a generation, leaves with one (objects may still name
// it: Leaving) and is given back with one (Retired). The order of the metadata
// backends is part of zstor's format, so a successor takes the place of the one
// that it replaces.
//
// The package knows no backend's connection and no place where the record is kept;
// it holds passwords, so whoever keeps it seals it. The record is this project's
// own format.
package generation

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/threefoldtech/quantumd/backend"
)

// Schema is the newest schema that this version reads, and what it writes.
const Schema = 1

// Set is the record of one generation, JSON where it is kept. It is not changed:
// each transition gives a new one. The zero value is a set without backends, which
// is older than any.
type Set struct {
	Schema   int       `json:"schema"`
	Number   int       `json:"number"` // from 1; 0 for what the configuration gives, which is not recorded
	Created  time.Time `json:"created"`
	Reason   string    `json:"reason,omitempty"` // in words
	Backends []Member  `json:"backends"`
	// Leaving are those that were replaced, and that objects may still name.
	Leaving []Member `json:"leaving,omitempty"`
	// Retired were given back. The configuration may go on to list them.
	Retired []backend.Backend `json:"retired,omitempty"`
}

// Member is a backend with its password: records are sealed, and a new machine
// has nothing else to know it from.
type Member struct {
	backend.Backend
	Secret string `json:"password,omitempty"`
}

// MemberOf keeps a backend with its password.
func MemberOf(b backend.Backend) Member { return Member{b, b.Password.Reveal()} }

// WithPassword gives the backend as a dialer needs it.
func (m Member) WithPassword() backend.Backend {
	b := m.Backend
	b.Password = backend.Secret(m.Secret)
	return b
}

// List gives the backends of the set, in order: that of the metadata backends
// is part of the format.
func (g *Set) List() []backend.Backend { return backendsOf(g.Backends) }

// Left gives those that were replaced and not yet given back.
func (g *Set) Left() []backend.Backend { return backendsOf(g.Leaving) }

func backendsOf(members []Member) []backend.Backend {
	out := make([]backend.Backend, len(members))
	for i, m := range members {
		out[i] = m.WithPassword()
	}
	return out
}

// WithPasswords takes over those of the configuration, for the same backends: who
// changed one there knows it better than the record.
func (g *Set) WithPasswords(given *Set) *Set {
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

// Find gives the backend of the set that has an id.
func (g *Set) Find(id string) (backend.Backend, bool) {
	i := slices.IndexFunc(g.Backends, func(m Member) bool { return m.ID == id })
	if i < 0 {
		return backend.Backend{}, false
	}
	return g.Backends[i].WithPassword(), true
}

// Next is the generation in which each backend that is a key of swaps has left
// for the value's.
func (g *Set) Next(reason string, swaps map[string]backend.Backend) *Set {
	n := &Set{Schema: Schema, Number: g.Number + 1, Created: time.Now().UTC(), Reason: reason,
		Leaving: slices.Clone(g.Leaving), Retired: g.Retired}
	for _, m := range g.Backends {
		if successor, ok := swaps[m.ID]; ok {
			n.Leaving = append(n.Leaving, m)
			m = MemberOf(successor)
		}
		n.Backends = append(n.Backends, m)
	}
	return n
}

// Without is the generation after a backend that left was given back.
func (g *Set) Without(id string) *Set {
	n := &Set{Schema: Schema, Number: g.Number + 1, Created: time.Now().UTC(), Reason: id + " is retired",
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

// Relieved is the generation in which a full data backend keeps what it holds,
// and another one takes what is new.
func (g *Set) Relieved(id string, by backend.Backend) *Set {
	n := &Set{Schema: Schema, Number: g.Number + 1, Created: time.Now().UTC(), Reason: fmt.Sprintf("%s relieves %s, which is full", by.ID, id),
		Backends: slices.Clone(g.Backends), Leaving: g.Leaving, Retired: g.Retired}
	for i := range n.Backends {
		if n.Backends[i].ID == id {
			n.Backends[i].Spare = true
		}
	}
	n.Backends = append(n.Backends, MemberOf(by))
	return n
}

// With is the generation that has more data backends; nil when list brings none
// that is new.
func (g *Set) With(list []backend.Backend) *Set {
	n := &Set{Schema: Schema, Number: g.Number + 1, Created: time.Now().UTC(), Reason: "more backends",
		Backends: slices.Clone(g.Backends), Leaving: g.Leaving, Retired: g.Retired}
	for _, b := range list {
		// One that has the id of another is that one made anew: a replacement takes it.
		_, named := g.Find(b.ID)
		if b.Role == backend.Data && !b.Spare && !g.Knows(b) && !named {
			n.Backends = append(n.Backends, MemberOf(b))
		}
	}
	if len(n.Backends) == len(g.Backends) {
		return nil
	}
	return n
}

// Knows says whether a backend is in the set, or was.
func (g *Set) Knows(b backend.Backend) bool {
	same := func(m Member) bool { return Same(m.Backend, b) }
	return slices.ContainsFunc(g.Backends, same) || g.Gone(b)
}

// Gone says whether a backend was replaced.
func (g *Set) Gone(b backend.Backend) bool {
	return slices.ContainsFunc(g.Leaving, func(m Member) bool { return Same(m.Backend, b) }) ||
		slices.ContainsFunc(g.Retired, func(r backend.Backend) bool { return Same(r, b) })
}

// Same compares what records name a backend by.
func Same(a, b backend.Backend) bool {
	return a.Address == b.Address && a.Namespace == b.Namespace
}

// Decode reads a record that opened with our key; nil for one that is none, or of
// a newer schema.
func Decode(text []byte) *Set {
	g := new(Set)
	if json.Unmarshal(text, g) != nil || g.Number < 1 || g.Schema < 1 || g.Schema > Schema || len(g.Backends) == 0 {
		return nil
	}
	for _, m := range slices.Concat(g.Backends, g.Leaving) {
		if m.ID == "" || !m.Address.IsValid() || m.Role != backend.Meta && m.Role != backend.Data {
			return nil
		}
	}
	return g
}

// Newest gives the one with the higher number, a of two with the same one. Nil is
// older than any.
func Newest(a, b *Set) *Set {
	if a == nil || b != nil && b.Number > a.Number {
		return b
	}
	return a
}
