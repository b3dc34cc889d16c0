package durability

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The mean times of small cases, as textbooks have them: f failures and m repairs
// a year.
func TestClosedForms(t *testing.T) {
	t.Parallel()
	for _, f := range []float64{1e-6, 0.04, 1, 30} {
		for _, m := range []float64{0, 0.5, 365, 1e7} {
			r := Rates{Failures: f}
			if m > 0 {
				r.Repair = inYears(1 / m)
				m = year / float64(r.Repair) // as rounded to nanoseconds
			}
			for _, p := range []struct {
				name             string
				backends, parity int
				want             float64
			}{
				{"1 of 1", 1, 0, 1 / f},
				{"9 of 9", 9, 0, 1 / (9 * f)},
				{"mirror", 2, 1, (3*f + m) / (2 * f * f)},
				{"one parity of 5", 5, 1, (9*f + m) / (20 * f * f)},
				{"1 of 3", 3, 2, (11*f*f + 7*f*m + 2*m*m) / (6 * f * f * f)},
				{"2 of 4", 4, 2, 1/(4*f) + (1+m/(4*f))/(3*f) + (1+2*m/(3*f)*(1+m/(4*f)))/(2*f)},
			} {
				c := line(p.backends, p.parity, r)
				require.InEpsilon(t, p.want, math.Exp(c.lnMTTDL()), 1e-9, "%s, f=%v m=%v", p.name, f, m)
				require.InEpsilon(t, p.want, c.eliminate(), 1e-9, "%s, f=%v m=%v", p.name, f, m)
			}
		}
	}
}

// Without repair each backend is lost with 1-e^-ft, and losses are binomial.
func TestWithoutRepairIsBinomial(t *testing.T) {
	t.Parallel()
	for _, p := range []struct{ backends, parity int }{{1, 0}, {5, 2}, {20, 4}, {40, 12}, {256, 100}} {
		for _, f := range []float64{1e-7, 0.04, 0.7} {
			got := line(p.backends, p.parity, Rates{Failures: f}).lost(10)
			for years := 1; years <= 10; years++ {
				gone := -math.Expm1(-f * float64(years))
				want := 0.0
				for i := p.parity + 1; i <= p.backends; i++ {
					a, _ := math.Lgamma(float64(p.backends + 1))
					b, _ := math.Lgamma(float64(i + 1))
					c, _ := math.Lgamma(float64(p.backends - i + 1))
					want += math.Exp(a - b - c + float64(i)*math.Log(gone) - float64(p.backends-i)*f*float64(years))
				}
				if want > 1e-290 {
					require.InEpsilon(t, want, got[years-1], 1e-9, "%+v f=%v %d years", p, f, years)
				}
			}
		}
	}
}

// Rates that differ by 1e9 and more: where failures are rare, loss is that of
// t / MTTDL, in any number of digits.
func TestStable(t *testing.T) {
	t.Parallel()
	for _, p := range []struct{ backends, parity int }{{2, 1}, {4, 2}, {20, 4}, {60, 12}} {
		for _, repair := range []time.Duration{time.Second, time.Minute, time.Hour, 24 * time.Hour} {
			for _, f := range []float64{1e-6, 0.04} {
				d := failures{backends: p.backends, parity: p.parity, rates: Rates{Failures: f, Repair: repair}}.durability()
				require.Greater(t, d.MTTDL, 10.0)
				if d.MTTDL < 1e290 {
					require.InEpsilon(t, 10/d.MTTDL, d.Ten.Loss, float64(p.parity)*0.002+1e-4, "%+v %s %v", p, repair, f)
				}
				require.InDelta(t, math.Log10(d.MTTDL)-1, d.Ten.Nines, 0.05)
			}
		}
	}
	d := failures{backends: 256, parity: 240, rates: Rates{Failures: 1e-6, Repair: time.Second}}.durability()
	require.Equal(t, longest, d.MTTDL)
	require.InDelta(t, 299, d.Ten.Nines, 1e-6)
}

// Both ways to the mean time, and the matrix, agree for chains of every kind.
func TestRoutesAgree(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(4, 2))
	for range 300 {
		n := 1 + rnd.IntN(30)
		parity := rnd.IntN(n)
		r := Rates{Failures: math.Exp(rnd.Float64()*12 - 9), Repair: inYears(math.Exp(rnd.Float64()*8 - 8)), MaxPerDay: rnd.IntN(4)}
		c := line(n, parity, r)
		require.InEpsilon(t, math.Exp(c.lnMTTDL()), c.eliminate(), 1e-9)
		// Groups that never fail are none; groups of one are backends that fail more often.
		var ones []int
		for range n {
			ones = append(ones, 1)
		}
		f := failures{backends: n, parity: parity, groups: ones, rates: r}
		require.Equal(t, c.rate, newChain(f).rate)
		f.rates.GroupFailures = 0.5
		more := r
		more.Failures += 0.5
		require.Equal(t, line(n, parity, more).rate, newChain(f).rate)
		// The same by way of states of groups: a group and a backend are lost alike, but
		// for what the model counts twice.
		g := byGroups(f).eliminate()
		require.LessOrEqual(t, g, math.Exp(line(n, parity, more).lnMTTDL())*(1+1e-9))
	}
}

// The least: what must be so whatever the numbers are.
func TestProperties(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(7, 7))
	better := func(worse, better Durability, what string, args ...any) {
		t.Helper()
		what = fmt.Sprintf(what, args...)
		require.GreaterOrEqual(t, better.MTTDL, worse.MTTDL*(1-1e-9), what)
		require.LessOrEqual(t, better.Year.Loss, worse.Year.Loss*(1+1e-6), what)
		require.LessOrEqual(t, better.Ten.Loss, worse.Ten.Loss*(1+1e-6), what)
		require.GreaterOrEqual(t, better.Ten.Nines, worse.Ten.Nines-1e-6, what)
	}
	for range 100 {
		s := Set{Needed: 1 + rnd.IntN(12)}
		s.Total = s.Needed + rnd.IntN(7)
		spread := 1 + rnd.IntN(s.Total+3)
		sizes := make([]int, spread)
		for range s.Total + rnd.IntN(6) {
			sizes[rnd.IntN(spread)]++
		}
		if rnd.IntN(3) > 0 {
			s.Groups = groupsOf(sizes...)
		} else {
			s.Backends = s.Total + rnd.IntN(6)
		}
		r := Rates{Failures: math.Exp(rnd.Float64()*5 - 5), GroupFailures: rnd.Float64() * 0.1, Repair: inYears(math.Exp(rnd.Float64()*6 - 7)), MaxPerDay: rnd.IntN(3)}
		rep := s.report(r)
		name := fmt.Sprintf("%+v %+v", s, r)
		better(rep.Any, rep.One, "one object lives longer than all: %s", name)
		require.LessOrEqual(t, rep.Any.Year.Loss, rep.Any.Five.Loss, name)
		require.LessOrEqual(t, rep.Any.Five.Loss, rep.Any.Ten.Loss, name)
		require.LessOrEqual(t, rep.Any.Ten.Loss, 1.0, name)

		faster := r
		faster.Repair /= 2
		better(rep.Any, s.report(faster).Any, "faster repair: %s", name)
		never := r
		never.Repair = 0
		better(s.report(never).Any, rep.Any, "repair at all: %s", name)
		unbound := r
		unbound.MaxPerDay = 0
		better(rep.Any, s.report(unbound).Any, "no limit a day: %s", name)
		frail := r
		frail.Failures *= 1.5
		better(s.report(frail).Any, rep.Any, "more failures: %s", name)
		frail = r
		frail.GroupFailures += 0.1
		better(s.report(frail).Any, rep.Any, "groups fail more often: %s", name)
		if s.Needed > 1 {
			safer := s
			safer.Needed--
			better(rep.Any, safer.report(r).Any, "more parity: %s", name)
		}
		alone := s
		alone.Backends, alone.Groups = s.Count(), nil
		better(rep.Any, alone.report(r).Any, "without groups: %s", name)
		wider := alone
		wider.Backends++
		better(wider.report(r).Any, alone.report(r).Any, "fewer backends, of which any may not fail: %s", name)
	}
}

// More states than are looked at: those beyond are a loss, so the figure errs
// towards it, and is there in time.
func TestManyGroups(t *testing.T) {
	t.Parallel()
	began := time.Now()
	s := Set{Needed: 140, Total: 200, Groups: groupsOf(2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20)}
	d := s.report(DefaultRates()).Any
	require.Greater(t, d.Ten.Nines, 4.0)
	alone := Set{Needed: 140, Total: 200, Backends: s.Count()}.report(DefaultRates()).Any
	require.Less(t, d.Ten.Nines, alone.Ten.Nines)
	require.Less(t, time.Since(began), time.Minute)
}

func BenchmarkEvaluate(b *testing.B) {
	sh := Shape{Data: Set{Needed: 16, Total: 20, Groups: groupsOf(3, 3, 3, 3, 3, 3, 3, 3)}, Size: 1 << 40}
	for b.Loop() {
		if _, err := Evaluate(sh, DefaultRates()); err != nil {
			b.Fatal(err)
		}
	}
}

// Sizes of groups that are taken for larger ones make loss more likely, never less.
func TestCoarsenErrsTowardsLoss(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(2, 8))
	for range 200 {
		f := failures{parity: 2 + rnd.IntN(8), rates: Rates{Failures: rnd.Float64(), GroupFailures: rnd.Float64(), Repair: inYears(rnd.Float64())}}
		for range 3 + rnd.IntN(4) {
			f.groups = append(f.groups, 1+rnd.IntN(5))
		}
		slices.SortFunc(f.groups, func(a, b int) int { return b - a })
		for _, n := range f.groups {
			f.backends += n
		}
		g := newGrouped(f)
		fine, whole := g.chain()
		require.True(t, whole)
		for len(g.sizes) > 1 {
			g.coarsen()
			coarse, _ := g.chain()
			require.LessOrEqual(t, coarse.eliminate(), fine.eliminate()*(1+1e-9), "%+v", f)
		}
	}
}

func TestRepairRates(t *testing.T) {
	t.Parallel()
	for _, p := range []struct {
		r        Rates
		lost     int
		allInDay float64 // of all that are lost, a day
	}{
		{Rates{Repair: day}, 5, 5},
		{Rates{Repair: time.Hour}, 1, 24},
		{Rates{Repair: time.Hour, MaxPerDay: 2}, 2, 48},
		{Rates{Repair: time.Hour, MaxPerDay: 2}, 3, 2},
		{Rates{Repair: 4 * day, MaxPerDay: 2}, 2, 0.5},
		{Rates{Repair: 4 * day, MaxPerDay: 2}, 8, 0.5},
		{Rates{}, 3, 0},
	} {
		require.InDelta(t, p.allInDay, float64(p.lost)*p.r.repair(p.lost)/365.25, 1e-9, "%+v", p)
	}
}

func TestEither(t *testing.T) {
	t.Parallel()
	rep, err := Evaluate(Shape{Data: Set{Needed: 3, Total: 5, Backends: 5}}, DefaultRates())
	require.NoError(t, err)
	require.InEpsilon(t, rep.Data.Any.Ten.Loss+rep.Meta.Any.Ten.Loss, rep.Both.Ten.Loss, 1e-6)
	require.InEpsilon(t, rep.Data.Any.Year.Loss+rep.Meta.Any.Year.Loss, math.Pow(10, -rep.Both.Year.Nines), 1e-6)
	require.InEpsilon(t, 1/(1/rep.Data.Any.MTTDL+1/rep.Meta.Any.MTTDL), rep.Both.MTTDL, 1e-9)
	tiny := Durability{MTTDL: longest, Ten: Risk{Nines: 299}}
	require.InDelta(t, 299-math.Log10(2), either(tiny, tiny).Ten.Nines, 1e-9)
}
