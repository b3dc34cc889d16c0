// Package backendtest holds the tests that every [backend.Provisioner] passes.
//
//	func TestConformance(t *testing.T) {
//		backendtest.Run(t, func(t *testing.T) backendtest.Harness { … })
//	}
//
// A [Harness] brings its surroundings up anew for each test. What a kind of
// provisioner cannot do is left nil in it; the tests that need it are then left
// out, and do not count as skipped.
package backendtest

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
)

// Harness is one kind of provisioner with its surroundings, fresh for a test.
type Harness struct {
	// Open gives the Provisioner. Called again it gives another one of the same
	// backends, as after a restart of the program.
	Open func(t *testing.T) backend.Provisioner
	// Specs ask for at least one backend of each role and three in all.
	Specs []backend.Spec
	// Dial reaches a backend.
	Dial backend.Dialer

	// Kill ends a backend's zdb without any warning.
	Kill func(t *testing.T, b backend.Backend)
	// Restart brings it back where the next Provision does not.
	Restart func(t *testing.T, b backend.Backend)
	// Obstruct makes Provision fail for one Spec until clear is called.
	Obstruct func(t *testing.T, s backend.Spec) (clear func())
	// Limit leaves a backend no space.
	Limit func(t *testing.T, b backend.Backend)
	// First is what Plan says of a Spec before the first Provision.
	First backend.Action
	// Owns tells that Retire takes the backends away.
	Owns bool
}

// Run has a provisioner pass every test. begin is called once per test.
func Run(t *testing.T, begin func(t *testing.T) Harness) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Harness)
	}{
		{"RolesAndModes", testRolesAndModes},
		{"PlanChangesNothing", testPlan},
		{"ProvisionAgain", testAgain},
		{"SecondCallCompletesFirst", testCompletes},
		{"OneFailsOthersDoNot", testObstructed},
		{"OtherRole", testOtherRole},
		{"NoSpecs", testNoSpecs},
		{"Health", testHealth},
		{"KilledAndBack", testKilled},
		{"Full", testFull},
		{"Retire", testRetire},
		{"Restarted", testRestarted},
		{"Cancelled", testCancelled},
		{"TwoAtATime", testTwoAtATime},
		{"PasswordsStayHidden", testHidden},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := begin(t)
			require.GreaterOrEqual(t, len(h.Specs), 3)
			test.run(t, h)
		})
	}
}

// provision demands that all Specs get their backend, in order.
func provision(t *testing.T, p backend.Provisioner, specs []backend.Spec) []backend.Backend {
	t.Helper()
	results, err := p.Provision(t.Context(), specs)
	require.NoError(t, err)
	require.Len(t, results, len(specs))
	out := make([]backend.Backend, len(specs))
	for i, r := range results {
		require.NoError(t, r.Err, specs[i].ID)
		require.Equal(t, specs[i], r.Spec)
		require.Equal(t, specs[i].ID, r.Backend.ID)
		require.Equal(t, specs[i].Role, r.Backend.Role)
		require.True(t, r.Backend.Address.IsValid())
		out[i] = r.Backend
	}
	return out
}

func (h Harness) conn(t *testing.T, b backend.Backend) backend.Conn {
	t.Helper()
	c, err := h.Dial.Dial(t.Context(), b)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() }) // what matters of it was asserted
	return c
}

// put stores a value and gives its key.
func (h Harness) put(t *testing.T, b backend.Backend, value string) []byte {
	t.Helper()
	var key []byte
	if b.Role == backend.Meta {
		key = []byte("key of " + value)
	}
	key, err := h.conn(t, b).Set(t.Context(), key, []byte(value))
	require.NoError(t, err)
	return key
}

// holds demands that a value is there.
func (h Harness) holds(t *testing.T, b backend.Backend, key []byte, value string) {
	t.Helper()
	got, err := h.conn(t, b).Get(t.Context(), key)
	require.NoError(t, err)
	require.Equal(t, value, string(got))
}

func testRolesAndModes(t *testing.T, h Harness) {
	seen := map[string]bool{}
	for _, b := range provision(t, h.Open(t), h.Specs) {
		place := b.Address.String() + "/" + b.Namespace
		require.False(t, seen[place], "%s is given twice", place)
		seen[place] = true
		info, err := h.conn(t, b).Info(t.Context())
		require.NoError(t, err)
		assert.Equal(t, b.Role == backend.Data, info.Sequential, b)
		assert.Equal(t, b.Password != "", info.Password, b)
		assert.False(t, info.Public && info.Password, "%s can be read without its password", b)
		key := h.put(t, b, "value")
		if b.Role == backend.Data {
			assert.Len(t, key, 8)
		}
		h.holds(t, b, key, "value")
	}
}

func testPlan(t *testing.T, h Harness) {
	p := h.Open(t)
	before, err := p.List(t.Context())
	require.NoError(t, err)
	for range 2 { // had the first one made anything, the second would see it
		steps, err := p.Plan(t.Context(), h.Specs)
		require.NoError(t, err)
		require.Len(t, steps, len(h.Specs))
		for i, s := range steps {
			assert.Equal(t, h.Specs[i], s.Spec)
			assert.Equal(t, h.Specs[i].ID, s.ID)
			assert.Equal(t, h.Specs[i].Role, s.Role)
			assert.Equal(t, h.First, s.Action, s.ID)
		}
	}
	after, err := p.List(t.Context())
	require.NoError(t, err)
	assert.Equal(t, before, after)
	provision(t, p, h.Specs)
	steps, err := p.Plan(t.Context(), h.Specs)
	require.NoError(t, err)
	for _, s := range steps {
		assert.Equal(t, backend.Keep, s.Action, s.ID)
	}
}

func testAgain(t *testing.T, h Harness) {
	p := h.Open(t)
	first := provision(t, p, h.Specs)
	keys := make([][]byte, len(first))
	for i, b := range first {
		keys[i] = h.put(t, b, b.ID)
	}
	assert.Equal(t, first, provision(t, p, h.Specs))
	for i, b := range first {
		h.holds(t, b, keys[i], b.ID)
	}
}

func testCompletes(t *testing.T, h Harness) {
	p := h.Open(t)
	some := provision(t, p, h.Specs[:2])
	all := provision(t, p, h.Specs)
	assert.Equal(t, some, all[:2])
	list, err := p.List(t.Context())
	require.NoError(t, err)
	assert.ElementsMatch(t, all, list)
}

func testObstructed(t *testing.T, h Harness) {
	if h.Obstruct == nil {
		return
	}
	p := h.Open(t)
	clearAway := h.Obstruct(t, h.Specs[1])
	results, err := p.Provision(t.Context(), h.Specs)
	require.NoError(t, err, "it concerns one of them only")
	require.Len(t, results, len(h.Specs))
	for i, r := range results {
		require.Equal(t, h.Specs[i], r.Spec)
		if i == 1 {
			require.Error(t, r.Err)
		} else {
			require.NoError(t, r.Err)
		}
	}
	clearAway()
	for i, b := range provision(t, p, h.Specs) {
		if i != 1 {
			assert.Equal(t, results[i].Backend, b)
		}
	}
}

func testOtherRole(t *testing.T, h Harness) {
	p := h.Open(t)
	was := provision(t, p, h.Specs)
	for _, s := range h.Specs[:3] {
		other := s
		other.Role = flip(s.Role)
		results, err := p.Provision(t.Context(), []backend.Spec{other})
		require.NoError(t, err)
		require.Len(t, results, 1)
		require.ErrorIs(t, results[0].Err, backend.ErrMode)
	}
	results, err := p.Provision(t.Context(), []backend.Spec{{ID: h.Specs[0].ID, Role: "both"}})
	require.NoError(t, err)
	require.Error(t, results[0].Err)
	assert.Equal(t, was, provision(t, p, h.Specs))
}

func flip(r backend.Role) backend.Role {
	if r == backend.Meta {
		return backend.Data
	}
	return backend.Meta
}

func testNoSpecs(t *testing.T, h Harness) {
	p := h.Open(t)
	results, err := p.Provision(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, results)
	steps, err := p.Plan(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, steps)
	require.NoError(t, p.Retire(t.Context()))
}

func testHealth(t *testing.T, h Harness) {
	p := h.Open(t)
	for _, b := range provision(t, p, h.Specs) {
		key := h.put(t, b, "twelve bytes")
		got := p.Health(t.Context(), b)
		require.NoError(t, got.Err)
		assert.Equal(t, backend.Up, got.State)
		assert.Positive(t, got.Latency)
		assert.EqualValues(t, 1, got.Entries)
		assert.EqualValues(t, 12, got.Used)
		h.holds(t, b, key, "twelve bytes")

		wrong := b
		wrong.Role = flip(b.Role)
		got = p.Health(t.Context(), wrong)
		assert.Equal(t, backend.Down, got.State)
		assert.ErrorIs(t, got.Err, backend.ErrMode)
		if b.Password == "" {
			continue
		}
		wrong = b
		wrong.Password = "not the password"
		got = p.Health(t.Context(), wrong)
		assert.Equal(t, backend.Down, got.State)
		assert.ErrorIs(t, got.Err, backend.ErrAccess)
		assert.NotContains(t, got.Err.Error(), "not the password")
	}
}

func testKilled(t *testing.T, h Harness) {
	if h.Kill == nil {
		return
	}
	p := h.Open(t)
	all := provision(t, p, h.Specs)
	victim := all[1]
	key := h.put(t, victim, "survives")
	h.Kill(t, victim)
	require.Eventually(t, func() bool {
		got := p.Health(t.Context(), victim)
		var gone *backend.UnreachableError
		return got.State == backend.Down && assert.ErrorAs(t, got.Err, &gone) && got.PID == 0
	}, 10*time.Second, 20*time.Millisecond)
	list, err := p.List(t.Context())
	require.NoError(t, err)
	assert.ElementsMatch(t, all, list, "one that is down exists none the less")
	if h.Restart != nil {
		results, err := p.Provision(t.Context(), h.Specs)
		require.NoError(t, err)
		require.Error(t, results[1].Err)
		require.NoError(t, results[0].Err)
		h.Restart(t, victim)
	} else {
		steps, err := p.Plan(t.Context(), h.Specs)
		require.NoError(t, err)
		assert.Equal(t, backend.Start, steps[1].Action)
	}
	assert.Equal(t, all, provision(t, p, h.Specs), "addresses are for life")
	h.holds(t, victim, key, "survives")
	assert.Equal(t, backend.Up, p.Health(t.Context(), victim).State)
}

func testFull(t *testing.T, h Harness) {
	if h.Limit == nil {
		return
	}
	p := h.Open(t)
	b := provision(t, p, h.Specs)[0]
	h.Limit(t, b)
	got := p.Health(t.Context(), b)
	assert.Equal(t, backend.Full, got.State)
	assert.Error(t, got.Err)
	assert.Positive(t, got.Limit)
}

func testRetire(t *testing.T, h Harness) {
	p := h.Open(t)
	all := provision(t, p, h.Specs)
	kept := h.put(t, all[0], "kept")
	gone := h.put(t, all[1], "gone")
	require.NoError(t, p.Retire(t.Context(), "unknown", all[1].ID))
	require.NoError(t, p.Retire(t.Context(), all[1].ID), "a second time")
	h.holds(t, all[0], kept, "kept")
	list, err := p.List(t.Context())
	require.NoError(t, err)
	if !h.Owns { // somebody else's
		assert.ElementsMatch(t, all, list)
		h.holds(t, all[1], gone, "gone")
		return
	}
	assert.ElementsMatch(t, append(append([]backend.Backend{}, all[:1]...), all[2:]...), list)
	assert.Equal(t, backend.Down, p.Health(t.Context(), all[1]).State)
	steps, err := p.Plan(t.Context(), h.Specs)
	require.NoError(t, err)
	assert.Equal(t, backend.Create, steps[1].Action)
	next := provision(t, p, h.Specs)
	info, err := h.conn(t, next[1]).Info(t.Context())
	require.NoError(t, err)
	assert.Zero(t, info.Entries)
}

func testRestarted(t *testing.T, h Harness) {
	p := h.Open(t)
	all := provision(t, p, h.Specs)
	before, err := p.List(t.Context())
	require.NoError(t, err)
	assert.ElementsMatch(t, all, before)
	q := h.Open(t)
	for range 2 {
		list, err := q.List(t.Context())
		require.NoError(t, err)
		assert.Equal(t, before, list, "in the same order, with the same addresses and passwords")
	}
	assert.Equal(t, all, provision(t, q, h.Specs))
}

func testCancelled(t *testing.T, h Harness) {
	p := h.Open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	results, err := p.Provision(ctx, h.Specs)
	require.ErrorIs(t, err, context.Canceled)
	require.Len(t, results, len(h.Specs))
	for i, r := range results {
		assert.Equal(t, h.Specs[i], r.Spec)
		assert.ErrorIs(t, r.Err, context.Canceled, "without an error it would pass for done")
	}
	_, err = p.Plan(ctx, h.Specs)
	require.ErrorIs(t, err, context.Canceled)
	provision(t, p, h.Specs)
	require.Error(t, p.Health(ctx, results[0].Backend).Err)
}

// Two programs that provision at once must not make two backends of one Spec.
func testTwoAtATime(t *testing.T, h Harness) {
	both := []backend.Provisioner{h.Open(t), h.Open(t)}
	results := make([][]backend.Result, len(both))
	done := make(chan error, len(both))
	for i, p := range both {
		go func() {
			var err error
			results[i], err = p.Provision(t.Context(), h.Specs)
			done <- err
		}()
	}
	for range both {
		require.NoError(t, <-done)
	}
	for i := range h.Specs {
		require.NoError(t, results[0][i].Err)
		require.NoError(t, results[1][i].Err)
		assert.Equal(t, results[0][i].Backend, results[1][i].Backend)
		key := h.put(t, results[0][i].Backend, "one")
		h.holds(t, results[1][i].Backend, key, "one")
	}
}

func testHidden(t *testing.T, h Harness) {
	p := h.Open(t)
	steps, err := p.Plan(t.Context(), h.Specs)
	require.NoError(t, err)
	results, err := p.Provision(t.Context(), h.Specs)
	require.NoError(t, err)
	list, err := p.List(t.Context())
	require.NoError(t, err)
	text, err := json.Marshal(map[string]any{"plan": steps, "list": list})
	require.NoError(t, err)
	shown := fmt.Sprintf("%s %v %+v %v %+v %v %+v %#v", text, steps, steps, results, results, list, list, list)
	for _, b := range list {
		if b.Password != "" {
			assert.NotContains(t, shown, b.Password.Reveal())
		}
	}
}
