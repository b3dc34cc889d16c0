package backend

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func testBackends(sizes ...int) []Backend {
	var out []Backend
	for g, size := range sizes {
		for i := range size {
			out = append(out, Backend{ID: fmt.Sprintf("g%d-%d", g, i), Role: Data, Group: fmt.Sprintf("g%d", g),
				Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(g), byte(i >> 8), byte(i)}), 9900)})
		}
	}
	return out
}

// spreads lists every valid spread with its weight, straight from the rules: what
// Place must draw from.
func spreads(sizes []int, r Redundancy) map[string]float64 {
	var usable []int
	for _, s := range sizes {
		if s >= r.Nodes {
			usable = append(usable, s)
		}
	}
	limit := len(usable)
	if r.Nodes > 0 {
		limit = min(limit, (r.Total-r.Needed)/r.Nodes+r.Groups)
	}
	out := map[string]float64{}
	counts := make([]int, len(usable))
	fact := func(n int) float64 { g, _ := math.Lgamma(float64(n + 1)); return math.Exp(g) }
	var walk func(g, left int)
	walk = func(g, left int) {
		if g < len(usable) {
			for c := range min(usable[g], left) + 1 {
				counts[g] = c
				walk(g+1, left-c)
			}
			counts[g] = 0
			return
		}
		used, byGroup, weight := 0, map[string]int{}, fact(r.Total)
		for i, c := range counts {
			weight /= fact(c)
			if c > 0 {
				used++
				byGroup[fmt.Sprint(i)] = c
			}
		}
		if left == 0 && used > r.Groups && used <= limit && r.survivors(byGroup) >= r.Needed {
			out[fmt.Sprint(counts)] = weight
		}
	}
	walk(0, r.Total)
	return out
}

func countsOf(placed []Backend, sizes []int, nodes int) string {
	var counts []int
	for g, s := range sizes {
		if s < nodes {
			continue
		}
		n := 0
		for _, b := range placed {
			if b.Group == fmt.Sprintf("g%d", g) {
				n++
			}
		}
		counts = append(counts, n)
	}
	return fmt.Sprint(counts)
}

var placements = []struct {
	name  string
	sizes []int
	r     Redundancy
}{
	{"one group", []int{3}, Redundancy{2, 3, 0, 0}},
	{"2+2 over 3+3", []int{3, 3}, Redundancy{2, 4, 0, 0}},
	{"one group may go", []int{2, 2, 2}, Redundancy{3, 5, 1, 0}},
	{"group and node", []int{3, 3, 3}, Redundancy{2, 6, 1, 1}},
	{"uneven", []int{1, 2, 5}, Redundancy{3, 6, 0, 1}},
	{"small group is dropped", []int{1, 4, 4, 4}, Redundancy{2, 8, 1, 2}},
	{"wide", []int{1, 1, 1, 1, 1, 1, 1, 1}, Redundancy{3, 5, 2, 0}},
	{"nodes limit groups", []int{4, 4, 4, 4}, Redundancy{4, 8, 0, 2}},
	{"10 of 14", []int{4, 4, 4, 4}, Redundancy{10, 14, 1, 0}},
}

func TestPlaceDrawsByWeight(t *testing.T) {
	t.Parallel()
	for _, p := range placements {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			want := spreads(p.sizes, p.r)
			require.NotEmpty(t, want)
			total := 0.0
			for _, w := range want {
				total += w
			}
			rnd := rand.New(rand.NewPCG(1, 2))
			const draws = 4000
			got := map[string]int{}
			backends := testBackends(p.sizes...)
			for range draws {
				placed, err := Place(backends, p.r, rnd)
				require.NoError(t, err)
				require.Len(t, placed, p.r.Total)
				ids := map[string]bool{}
				for _, b := range placed {
					ids[b.ID] = true
				}
				require.Len(t, ids, p.r.Total, "each backend once")
				require.True(t, p.r.Meets(placed))
				got[countsOf(placed, p.sizes, p.r.Nodes)]++
			}
			for s, n := range got {
				require.Contains(t, want, s)
				share := want[s] / total
				sigma := math.Sqrt(draws * share * (1 - share))
				require.InDelta(t, draws*share, float64(n), 5*sigma+1, "spread %s", s)
			}
		})
	}
}

func TestPlaceRefusesWhatDoesNotSurvive(t *testing.T) {
	t.Parallel()
	for _, p := range []struct {
		name  string
		sizes []int
		r     Redundancy
	}{
		// The original's sums wrap around here, and it deals 5+1 or 4+2.
		{"3+3 over 5+5", []int{5, 5}, Redundancy{3, 6, 1, 3}},
		{"too few backends", []int{2, 2}, Redundancy{2, 5, 0, 0}},
		{"one group cannot lose one", []int{9}, Redundancy{2, 4, 1, 0}},
		{"no backends", nil, Redundancy{1, 2, 0, 0}},
		{"needs more than there is", []int{4, 4}, Redundancy{3, 2, 0, 0}},
		{"nothing needed", []int{4, 4}, Redundancy{0, 2, 0, 0}},
		{"groups too small", []int{2, 2, 2}, Redundancy{2, 4, 0, 3}},
	} {
		_, err := Place(testBackends(p.sizes...), p.r, nil)
		require.ErrorIs(t, err, ErrPlacement, p.name)
		require.ErrorIs(t, Feasible(testBackends(p.sizes...), p.r), ErrPlacement, p.name)
	}
}

// Random shapes against the list of all spreads: feasible in the same cases, and
// never anything outside the list.
func TestPlaceAgainstEnumeration(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		sizes := make([]int, 1+rnd.IntN(4))
		for i := range sizes {
			sizes[i] = 1 + rnd.IntN(5)
		}
		r := Redundancy{Needed: 1 + rnd.IntN(5), Groups: rnd.IntN(3), Nodes: rnd.IntN(3)}
		r.Total = r.Needed + rnd.IntN(5)
		want := spreads(sizes, r)
		placed, err := Place(testBackends(sizes...), r, rnd)
		if len(want) == 0 {
			require.ErrorIs(t, err, ErrPlacement, "%v %+v", sizes, r)
			continue
		}
		require.NoError(t, err, "%v %+v", sizes, r)
		require.Contains(t, want, countsOf(placed, sizes, r.Nodes), "%v %+v", sizes, r)
	}
}

func TestPlaceLeavesSparesOut(t *testing.T) {
	t.Parallel()
	backends := testBackends(4)
	backends[1].Spare = true
	for range 50 {
		placed, err := Place(backends, Redundancy{2, 3, 0, 0}, nil)
		require.NoError(t, err)
		for _, b := range placed {
			require.NotEqual(t, "g0-1", b.ID)
		}
	}
}

func TestPlaceFillsTheLargestGroupFirst(t *testing.T) {
	t.Parallel()
	for range 50 {
		placed, err := Place(testBackends(1, 4), Redundancy{3, 5, 0, 0}, nil)
		require.NoError(t, err)
		require.Equal(t, "g0", placed[4].Group)
	}
}

func TestPlaceIsFastForManyBackends(t *testing.T) {
	t.Parallel()
	for _, p := range []struct {
		sizes []int
		r     Redundancy
	}{
		{[]int{4, 4, 4, 4}, Redundancy{10, 14, 0, 0}},
		{[]int{16, 16, 16, 16, 16, 16, 16, 16}, Redundancy{20, 30, 1, 1}},
		{make40(), Redundancy{16, 20, 2, 0}},
	} {
		began := time.Now()
		_, err := Place(testBackends(p.sizes...), p.r, nil)
		require.NoError(t, err)
		require.Less(t, time.Since(began), time.Second)
	}
}

func make40() []int {
	out := make([]int, 40)
	for i := range out {
		out[i] = 1 + i%3
	}
	return out
}

func TestExtend(t *testing.T) {
	t.Parallel()
	backends := testBackends(3, 3, 3)
	r := Redundancy{3, 5, 1, 0}
	for range 100 {
		held := []Backend{backends[0], backends[1], backends[3]} // 2, 1, 0
		chosen, met := Extend(held, backends, 2, r, nil)
		require.Len(t, chosen, 2)
		require.True(t, met, "%v", chosen)
		require.True(t, r.Meets(append(held, chosen...)))
		for _, c := range chosen {
			require.NotContains(t, held, c)
		}
	}
	chosen, met := Extend(backends[:8], backends, 3, r, nil)
	require.Len(t, chosen, 1)
	require.False(t, met)
	_, met = Extend(backends[:2], backends[2:3], 1, Redundancy{2, 3, 1, 0}, nil)
	require.False(t, met, "all in one group")
}

func BenchmarkPlace10of14(b *testing.B) {
	backends := testBackends(4, 4, 4, 4)
	for b.Loop() {
		if _, err := Place(backends, Redundancy{10, 14, 0, 0}, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPlace20of30Over128(b *testing.B) {
	backends := testBackends(16, 16, 16, 16, 16, 16, 16, 16)
	for b.Loop() {
		if _, err := Place(backends, Redundancy{20, 30, 1, 1}, nil); err != nil {
			b.Fatal(err)
		}
	}
}
