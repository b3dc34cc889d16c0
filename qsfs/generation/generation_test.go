package generation_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/qsfs/generation"
)

func one(role backend.Role, nr int) backend.Backend {
	return backend.Backend{ID: fmt.Sprintf("%s-%d", role, nr), Role: role, Namespace: fmt.Sprintf("n%d", nr),
		Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(9000+nr)), Password: backend.Secret(fmt.Sprintf("secret-%d", nr))}
}

func first() *generation.Set {
	g := &generation.Set{Schema: generation.Schema, Number: 1, Reason: "deployed"}
	for nr := range backend.MetaBackends {
		g.Backends = append(g.Backends, generation.MemberOf(one(backend.Meta, nr)))
	}
	for nr := 10; nr < 13; nr++ {
		g.Backends = append(g.Backends, generation.MemberOf(one(backend.Data, nr)))
	}
	return g
}

func text(t testing.TB, g *generation.Set) []byte {
	t.Helper()
	b, err := json.Marshal(g)
	require.NoError(t, err)
	return b
}

func ids(list []backend.Backend) (out []string) {
	for _, b := range list {
		out = append(out, b.ID)
	}
	return out
}

// Each transition: who is in, who leaves, who is retired. Each makes the next
// number, leaves the set that it is made from as it was, and comes back from its
// record with passwords, but for those of the retired.
func TestTransitions(t *testing.T) {
	t.Parallel()
	swap := map[string]backend.Backend{"meta-1": one(backend.Meta, 20), "data-12": one(backend.Data, 21)}
	spare := one(backend.Data, 30)
	spare.Spare = true
	again := one(backend.Data, 31) // made anew under the id of another
	again.ID = "data-10"
	for _, c := range []struct {
		name             string
		from             *generation.Set
		change           func(g *generation.Set) *generation.Set
		in, left, retire []string
	}{
		{"swap keeps places", first(), func(g *generation.Set) *generation.Set { return g.Next("lost", swap) },
			[]string{"meta-0", "meta-20", "meta-2", "meta-3", "data-10", "data-11", "data-21"}, []string{"meta-1", "data-12"}, nil},
		{"given back", first().Next("lost", swap), func(g *generation.Set) *generation.Set { return g.Without("meta-1") },
			[]string{"meta-0", "meta-20", "meta-2", "meta-3", "data-10", "data-11", "data-21"}, []string{"data-12"}, []string{"meta-1"}},
		{"more", first(), func(g *generation.Set) *generation.Set {
			return g.With([]backend.Backend{one(backend.Data, 10), spare, again, one(backend.Meta, 32), one(backend.Data, 33)})
		}, []string{"meta-0", "meta-1", "meta-2", "meta-3", "data-10", "data-11", "data-12", "data-33"}, nil, nil},
		{"relieved", first(), func(g *generation.Set) *generation.Set { return g.Relieved("data-11", one(backend.Data, 40)) },
			[]string{"meta-0", "meta-1", "meta-2", "meta-3", "data-10", "data-11", "data-12", "data-40"}, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			before := text(t, c.from)
			n := c.change(c.from)
			assert.JSONEq(t, string(before), string(text(t, c.from)))
			assert.Equal(t, c.from.Number+1, n.Number)
			assert.NotEmpty(t, n.Reason)
			assert.Equal(t, c.in, ids(n.List()))
			assert.Equal(t, c.left, ids(n.Left()))
			assert.Equal(t, c.retire, ids(n.Retired))
			assert.Same(t, n, generation.Newest(c.from, n))
			assert.Same(t, n, generation.Newest(n, c.from))

			record := text(t, n)
			kept := generation.Decode(record)
			require.NotNil(t, kept)
			assert.Equal(t, n.List(), kept.List())
			assert.Equal(t, n.Left(), kept.Left())
			for _, b := range kept.List() {
				assert.NotEmpty(t, b.Password.Reveal(), b.ID)
			}
			assert.JSONEq(t, string(record), string(text(t, kept)))
		})
	}
}

func TestKnowsWhoWasThere(t *testing.T) {
	t.Parallel()
	old, successor := one(backend.Data, 12), one(backend.Data, 21)
	g := first()
	assert.True(t, g.Knows(old))
	assert.False(t, g.Gone(old))
	assert.False(t, g.Knows(successor))
	assert.Nil(t, g.With([]backend.Backend{old}))
	g = g.Next("lost", map[string]backend.Backend{old.ID: successor})
	for range 2 { // leaving, then retired
		assert.True(t, g.Gone(old))
		assert.True(t, g.Knows(successor))
		_, in := g.Find(old.ID)
		assert.False(t, in)
		assert.Nil(t, g.With([]backend.Backend{old}), "it does not come back by itself")
		g = g.Without(old.ID)
	}
	full := first().Relieved("data-11", successor)
	b, in := full.Find("data-11")
	assert.True(t, in && b.Spare, "it takes nothing new")
}

func TestWithPasswords(t *testing.T) {
	t.Parallel()
	given := first()
	given.Backends[0].Secret, given.Backends[1].Secret = "changed", ""
	given.Backends[2].Namespace, given.Backends[2].Secret = "another", "not ours"
	g := first()
	n := g.WithPasswords(given).List()
	assert.Equal(t, "changed", n[0].Password.Reveal())
	assert.Equal(t, "secret-1", n[1].Password.Reveal())
	assert.Equal(t, "secret-2", n[2].Password.Reveal())
	assert.Equal(t, first(), g)
}

func TestNewest(t *testing.T) {
	t.Parallel()
	a, b := first(), first()
	assert.Same(t, a, generation.Newest(a, b))
	assert.Same(t, a, generation.Newest(a, nil))
	assert.Same(t, b, generation.Newest(nil, b))
	assert.Nil(t, generation.Newest(nil, nil))
}

func FuzzDecode(f *testing.F) {
	f.Add(text(f, first().Next("lost", map[string]backend.Backend{"meta-1": one(backend.Meta, 20)}).Without("meta-1")))
	f.Add([]byte(`{"schema":2,"number":1,"backends":[{"id":"a","role":"data","address":"127.0.0.1:1"}]}`))
	f.Add([]byte(`{"schema":1,"number":1,"backends":[{"id":"","role":"data","address":"127.0.0.1:1"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		g := generation.Decode(data)
		if g == nil {
			return
		}
		require.Positive(t, g.Number)
		require.LessOrEqual(t, g.Schema, generation.Schema)
		for _, b := range append(g.List(), g.Left()...) {
			require.True(t, b.Address.IsValid() && b.ID != "")
		}
		again := generation.Decode(text(t, g))
		require.NotNil(t, again)
		require.Equal(t, g.List(), again.List())
	})
}
