package durability

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func codes(r Report) []string {
	out := []string{}
	for _, w := range r.Warnings {
		out = append(out, string(w.Level)+" "+w.Code)
	}
	return out
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	apart := []Group{{Name: "a", Backends: 1}, {Name: "b", Backends: 1}, {Name: "c", Backends: 1}, {Name: "d", Backends: 1}}
	of := func(k, n int, sizes ...int) Set {
		return Set{Needed: k, Total: n, Groups: groupsOf(sizes...), Supply: true}
	}
	never, slow, many := DefaultRates(), DefaultRates(), DefaultRates()
	never.Repair, slow.Repair, many.MaxPerDay = 0, 240*time.Hour, 0
	for _, p := range []struct {
		name string
		sh   Shape
		r    Rates
		want []string
	}{
		{"good", Shape{Data: of(16, 20, 4, 4, 4, 4, 4), Meta: Set{Groups: apart, Supply: true}}, many, []string{}},
		{"a lost group takes two days", Shape{Data: of(16, 20, 4, 4, 4, 4, 4), Meta: Set{Groups: apart, Supply: true}}, DefaultRates(), []string{"note data-group-slow"}},
		{"as it is by default", Shape{Data: Set{Needed: 16, Total: 20, Backends: 20, Supply: true}}, DefaultRates(), []string{"note no-groups", "note metadata-decides"}},
		{"no parity", Shape{Data: Set{Needed: 4, Total: 4, Backends: 4, Supply: true}}, DefaultRates(), []string{"warning no-parity", "note no-groups"}},
		{"one parity", Shape{Data: of(4, 5, 1, 1, 1, 1, 1)}, DefaultRates(), []string{"warning one-parity"}},
		{"replication", Shape{Data: of(1, 3, 1, 1, 1)}, DefaultRates(), []string{"note replication", "note metadata-decides"}},
		{"too few", Shape{Data: of(3, 5, 1, 1, 1, 1)}, DefaultRates(), []string{"impossible data-too-few"}},
		{"too few for metadata", Shape{Data: of(3, 5, 1, 1, 1, 1, 1), Meta: Set{Backends: 3}}, DefaultRates(), []string{"impossible metadata-too-few"}},
		{"all on one machine", Shape{Data: of(3, 5, 5)}, DefaultRates(), []string{"warning data-one-group"}},
		{"3 of 5 on two machines", Shape{Data: of(3, 5, 3, 2)}, DefaultRates(), []string{"warning data-group-takes-all"}},
		{"metadata on two machines", Shape{Data: of(3, 5, 1, 1, 1, 1, 1), Meta: Set{Groups: groupsOf(3, 1)}}, DefaultRates(),
			[]string{"warning metadata-group-takes-all", "note metadata-decides"}},
		{"groups wanted and none given", Shape{Data: Set{Needed: 3, Total: 5, Backends: 5, RedundantGroups: 1}}, DefaultRates(),
			[]string{"impossible data-no-groups", "note no-groups", "warning no-spare"}},
		{"groups that do not suffice", Shape{Data: Set{Needed: 3, Total: 5, Groups: groupsOf(3, 3), RedundantGroups: 1, Supply: true}}, DefaultRates(),
			[]string{"impossible data-no-placement"}},
		{"never repaired", Shape{Data: of(3, 5, 1, 1, 1, 1, 1)}, never, []string{"warning no-repair"}},
		{"slowly repaired", Shape{Data: of(3, 5, 1, 1, 1, 1, 1)}, slow, []string{"warning slow-repair"}},
		{"no spare", Shape{Data: Set{Needed: 3, Total: 5, Groups: groupsOf(1, 1, 1, 1, 1)}}, DefaultRates(), []string{"warning no-spare"}},
		{"one spare for forty", Shape{Data: Set{Needed: 16, Total: 20, Groups: groupsOf(make40()...), Spares: 1}}, DefaultRates(), []string{"note few-spares", "note metadata-decides"}},
		{"does not fit", Shape{Data: Set{Needed: 3, Total: 5, Groups: groupsOf(1, 1, 1, 1, 1), Size: 1 << 30, Supply: true}, Size: 4 << 30}, DefaultRates(), []string{"warning too-small"}},
		{"one larger than it can be used", Shape{Data: Set{Needed: 3, Total: 5, Supply: true, Groups: []Group{{"a", 1, 1 << 30}, {"b", 1, 1 << 30}, {"c", 1, 1 << 30}, {"d", 1, 1 << 30}, {"e", 1, 9 << 30}}}}, DefaultRates(), []string{"note unequal"}},
		{"metadata too small", Shape{Data: Set{Needed: 3, Total: 5, Supply: true, Groups: groupsOf(1, 1, 1, 1, 1)}, Meta: Set{Size: 1 << 30}, Size: 1 << 40, DataFile: 1 << 20}, DefaultRates(), []string{"warning meta-too-small"}},
	} {
		rep, err := Evaluate(p.sh, p.r)
		require.NoError(t, err, p.name)
		require.Equal(t, p.want, codes(rep), "%s: %+v", p.name, rep.Warnings)
		possible := !strings.Contains(strings.Join(p.want, " "), "impossible")
		require.Equal(t, possible, rep.Possible, p.name)
		require.Equal(t, possible, rep.Both.MTTDL > 0, p.name)
		for _, w := range rep.Warnings {
			require.NotEmpty(t, w.Text, p.name)
			require.NotContains(t, w.Text+w.Remedy, "%!", p.name)
		}
		_, err = json.Marshal(rep)
		require.NoError(t, err, "no figure without a number: %s", p.name)
	}
}

func make40() []int {
	out := make([]int, 40)
	for i := range out {
		out[i] = 1
	}
	return out
}

func TestTolerated(t *testing.T) {
	t.Parallel()
	for _, p := range []struct {
		set                       Set
		backends, groups, ofThose int
		words                     string
	}{
		{Set{Needed: 16, Total: 20, Backends: 20}, 4, 0, 0, "any 4 of the 20 data backends may be lost at the same time"},
		{Set{Needed: 3, Total: 3, Backends: 3}, 0, 0, 0, "nothing may be lost: the first of the data backends that fails takes data with it"},
		{Set{Needed: 4, Total: 6, Groups: groupsOf(2, 2, 2)}, 2, 1, 1, "any 2 of the 6 data backends may be lost at the same time; any 1 group of the 3 may be lost whole"},
		{Set{Needed: 4, Total: 6, Groups: groupsOf(3, 3)}, 2, 0, 0, "any 2 of the 6 data backends may be lost at the same time; no whole group may be lost"},
		{Set{Needed: 4, Total: 6, Groups: groupsOf(1, 1, 1, 1, 1, 1)}, 2, 2, 2, "any 2 of the 6 data backends may be lost at the same time"},
		// Large farms: whatever the draw gives, and what redundant_groups makes of it.
		{Set{Needed: 16, Total: 20, Groups: groupsOf(9, 9, 9, 9, 9, 9)}, 4, 0, 1, "any 4 of the 54 data backends may be lost at the same time; no whole group may be lost"},
		{Set{Needed: 16, Total: 20, Groups: groupsOf(9, 9, 9, 9, 9, 9), RedundantGroups: 1}, 4, 1, 1, "any 4 of the 54 data backends may be lost at the same time; any 1 group of the 6 may be lost whole"},
		{Set{Needed: 3, Total: 9, Groups: groupsOf(3, 3, 3), RedundantGroups: 1, RedundantNodes: 1}, 6, 2, 2, "any 6 of the 9 data backends may be lost at the same time; any 2 groups of the 3 may be lost whole; any 1 group, and 1 backend of each other one"},
	} {
		rep, err := Evaluate(Shape{Data: p.set}, DefaultRates())
		require.NoError(t, err)
		require.Equal(t, p.backends, rep.Data.ToleratedBackends, "%+v", p.set)
		require.Equal(t, p.groups, rep.Data.ToleratedGroups, "%+v", p.set)
		require.Equal(t, p.ofThose, rep.Data.PossibleGroups, "%+v", p.set)
		require.Equal(t, p.words, rep.Data.Words)
		require.Equal(t, "any 2 of the 4 metadata backends may be lost at the same time; writing needs three of them", rep.Meta.Words)
	}
}

// redundant_groups is worth something: with large farms, it is what decides.
func TestRedundantGroupsCount(t *testing.T) {
	t.Parallel()
	s := Set{Needed: 16, Total: 20, Groups: groupsOf(9, 9, 9, 9, 9, 9)}
	without := s.report(DefaultRates()).Any
	s.RedundantGroups = 1
	with := s.report(DefaultRates()).Any
	require.Less(t, without.Ten.Nines, 1.0, "the first farm that goes takes data with it")
	require.Greater(t, with.Ten.Nines, 1.5)
}

func TestCapacity(t *testing.T) {
	t.Parallel()
	const tib = int64(1) << 40
	// 16 of 20 means total/16, and headroom.
	each := BackendSize(tib, 16, 20, 20, 1)
	require.InEpsilon(t, float64(tib)/16*1.05, each, 1e-9)
	require.Equal(t, int64(68<<30), BackendSize(tib, 16, 20, 20, 1<<30), "rounded up to whole GiB")
	require.InEpsilon(t, float64(tib)/32*1.05, BackendSize(tib, 16, 20, 40, 1), 1e-9, "more backends are smaller")
	require.Zero(t, BackendSize(tib, 16, 20, 19, 1))
	require.Zero(t, BackendSize(0, 16, 20, 20, 1))

	sh := Shape{Data: Set{Needed: 16, Total: 20, Backends: 20}, Size: tib}.Sized(1 << 30)
	rep, err := Evaluate(sh, DefaultRates())
	require.NoError(t, err)
	require.Equal(t, 20*int64(68<<30), rep.Capacity.Raw)
	require.GreaterOrEqual(t, rep.Capacity.Usable, tib)
	require.Less(t, rep.Capacity.Usable, tib+tib/25)
	require.Less(t, rep.Capacity.Meta, int64(1<<30), "the default meta_size suffices for a terabyte")
	require.Greater(t, rep.Capacity.Meta, int64(1<<20))

	// What a size asks for is enough for it.
	rnd := rand.New(rand.NewPCG(1, 9))
	for range 500 {
		k := 1 + rnd.IntN(20)
		n := k + rnd.IntN(10)
		count := n + rnd.IntN(10)
		size := 1 + rnd.Int64N(1<<45)
		sh := Shape{Data: Set{Needed: k, Total: n, Backends: count}, Size: size}.Sized(1)
		c := sh.filled().capacity()
		require.InDelta(t, float64(size), float64(c.Usable), float64(size)*1e-9+float64(2*n), "%d of %d on %d", k, n, count)
	}
}

// filled against filling: objects of one byte a shard, each on the backends with
// most room.
func TestFilled(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(5, 5))
	for range 300 {
		total := 1 + rnd.IntN(5)
		room := make([]int, total+rnd.IntN(4))
		sizes := make([]int64, len(room))
		for i := range room {
			room[i] = 1 + rnd.IntN(60)
			sizes[i] = int64(room[i])
		}
		objects := 0
		for {
			var order []int
			for i := range room {
				if room[i] > 0 {
					order = append(order, i)
				}
			}
			if len(order) < total {
				break
			}
			for range total {
				best := -1
				for j, i := range order {
					if best < 0 || room[i] > room[order[best]] {
						best = j
					}
				}
				room[order[best]]--
				order = append(order[:best], order[best+1:]...)
			}
			objects++
		}
		require.InDelta(t, float64(objects), filled(sizes, total), 1, "%v over %d", sizes, total)
	}
}

func TestInvalid(t *testing.T) {
	t.Parallel()
	good := Shape{Data: Set{Needed: 3, Total: 5, Backends: 5}}
	change := func(f func(*Shape)) Shape { sh := good; f(&sh); return sh }
	for _, sh := range []Shape{
		{},
		change(func(s *Shape) { s.Data.Needed = 0 }),
		change(func(s *Shape) { s.Data.Needed = 6 }),
		change(func(s *Shape) { s.Data.Total = 257 }),
		change(func(s *Shape) { s.Data.Backends = 1 << 40 }),
		change(func(s *Shape) { s.Data.Groups = groupsOf(2, 2) }),
		change(func(s *Shape) { s.Data.Backends, s.Data.Groups = 0, groupsOf(5, -1) }),
		change(func(s *Shape) { s.Data.Backends, s.Data.Groups = 0, groupsOf(1<<62, 1<<62, 1<<62) }),
		change(func(s *Shape) { s.Meta.Spares = -1 }),
		change(func(s *Shape) { s.Size = -1 }),
	} {
		_, err := Evaluate(sh, DefaultRates())
		require.ErrorIs(t, err, ErrInvalid, "%+v", sh)
	}
	for _, r := range []Rates{{}, {Failures: -1}, {Failures: 1, Repair: -1}, {Failures: 1, Repair: 1}, {Failures: 1, MaxPerDay: -1}, {Failures: 1e9}} {
		_, err := Evaluate(good, r)
		require.ErrorIs(t, err, ErrInvalid, "%+v", r)
	}
}

// Whatever is asked, the answer has numbers and comes soon.
func FuzzEvaluate(f *testing.F) {
	f.Add(3, 5, 5, 0, 0, int64(1<<40), int64(1<<30), 0.04, 0.01, int64(24*time.Hour), 2, []byte{})
	f.Add(16, 20, 0, 1, 0, int64(0), int64(0), 4.0, 0.0, int64(0), 0, []byte{4, 4, 4, 4, 4, 9})
	f.Fuzz(func(t *testing.T, k, n, count, groups, nodes int, size, each int64, failures, whole float64, repair int64, perDay int, sizes []byte) {
		sh := Shape{Data: Set{Needed: k, Total: n, Backends: count, RedundantGroups: groups, RedundantNodes: nodes, Size: each}, Size: size}
		if n > 40 || len(sizes) > 20 {
			return
		}
		for _, s := range sizes {
			sh.Data.Backends = 0
			sh.Data.Groups = append(sh.Data.Groups, Group{Backends: int(s % 16)})
		}
		rep, err := Evaluate(sh.Sized(1<<30), Rates{failures, whole, time.Duration(repair), perDay})
		if err != nil {
			require.ErrorIs(t, err, ErrInvalid)
			return
		}
		_, err = json.Marshal(rep)
		require.NoError(t, err)
		if rep.Possible {
			require.GreaterOrEqual(t, rep.Both.Ten.Nines, 0.0)
			require.Positive(t, rep.Both.MTTDL)
		}
	})
}
