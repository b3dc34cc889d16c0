package durability

import (
	"fmt"
	"math"
	"slices"
)

// failures is the model's input for one set of backends.
type failures struct {
	backends  int // that may fail
	parity    int // more than so many lost shards of one object are a loss
	groups    []int
	redundant int  // so many lost groups are no loss by themselves
	apart     bool // a lost group does not make fewer backends that may fail
	rates     Rates
}

// mostStates is how many states the model with groups has at most; what lies
// beyond them, many failures at a time, is taken for a loss.
const mostStates = 160

// chain is a Markov chain in continuous time: rate[i][j] a year from state i to
// state j. State 0 is the beginning, the last one is loss and is never left.
type chain struct {
	rate [][]float64
	line bool // birth and death: each state leads only to its neighbours
}

func newChain(f failures) chain {
	r := f.rates
	alone := len(f.groups) == 0 || r.GroupFailures == 0
	if !alone && f.groups[0] <= 1 { // a group of one is a backend that fails more often
		r.Failures += r.GroupFailures
		alone = true
	}
	if alone {
		return line(f.backends, f.parity, r)
	}
	return byGroups(f)
}

// line: state i is i backends lost.
func line(backends, parity int, r Rates) chain {
	c := chain{rate: square(parity + 2), line: true}
	for i := range parity + 1 {
		c.rate[i][i+1] = float64(max(0, backends-i)) * r.Failures
		if i > 0 {
			c.rate[i][i-1] = float64(i) * r.repair(i)
		}
	}
	return c
}

// byGroups: a state tells how many groups of each size are lost, and how many
// backends of other groups. Where that makes too many states, sizes are taken for
// the next larger one.
func byGroups(f failures) chain {
	g := newGrouped(f)
	c, whole := g.chain()
	for !whole && len(g.sizes) > 1 {
		g.coarsen()
		c, whole = g.chain()
	}
	return c
}

// chain goes through the states, breadth first: fewer failures come first. It
// says whether these are all.
func (g *grouped) chain() (c chain, whole bool) {
	type arrow struct {
		from int
		to   string
		rate float64
	}
	first := lostState{groups: make([]int, len(g.sizes))}
	index := map[string]int{first.key(): 0}
	states := []lostState{first}
	var arrows []arrow
	whole = true
	for at := 0; at < len(states); at++ {
		g.next(states[at], func(to lostState, rate float64) {
			key := to.key()
			if _, known := index[key]; !known && !g.loss(to) {
				if whole = whole && len(states) < mostStates; len(states) < mostStates {
					index[key] = len(states)
					states = append(states, to)
				}
			}
			arrows = append(arrows, arrow{at, key, rate})
		})
	}
	c = chain{rate: square(len(states) + 1)}
	for _, a := range arrows {
		to, known := index[a.to]
		if !known {
			to = len(states)
		}
		c.rate[a.from][to] += a.rate
	}
	return c, whole
}

// grouped is a set of backends by the sizes of its groups.
type grouped struct {
	failures
	sizes  []int // that there are, each once
	counts []int // groups of each size
}

// lostState: groups of each size, and backends besides.
type lostState struct {
	groups []int
	alone  int
}

func (s lostState) key() string { return fmt.Sprint(s) }

func newGrouped(f failures) *grouped {
	g := &grouped{failures: f}
	for _, size := range f.groups { // largest first
		if n := len(g.sizes); n == 0 || g.sizes[n-1] != size {
			g.sizes, g.counts = append(g.sizes, size), append(g.counts, 0)
		}
		g.counts[len(g.counts)-1]++
	}
	return g
}

// coarsen takes the groups of one size for larger ones: where that adds least.
func (g *grouped) coarsen() {
	best, least := 1, math.MaxInt
	for c := 1; c < len(g.sizes); c++ {
		if adds := g.counts[c] * (g.sizes[c-1] - g.sizes[c]); adds < least {
			best, least = c, adds
		}
	}
	g.counts[best-1] += g.counts[best]
	g.sizes = slices.Delete(g.sizes, best, best+1)
	g.counts = slices.Delete(g.counts, best, best+1)
	g.apart = true // what is counted as lost is more than there is
}

// lost counts the groups and backends of a state.
func (g *grouped) lost(s lostState) (groups, backends int) {
	for c, n := range s.groups {
		groups += n
		backends += n * g.sizes[c]
	}
	return groups, backends + s.alone
}

// loss says whether some object may have lost too many shards.
func (g *grouped) loss(s lostState) bool {
	groups, backends := g.lost(s)
	shards := backends - s.alone
	if groups <= g.redundant {
		shards = min(shards, g.parity)
	}
	return shards+s.alone > g.parity
}

// next tells where a state leads. A group that fails is taken for one without
// lost backends, so that the model errs towards loss.
func (g *grouped) next(s lostState, to func(lostState, float64)) {
	change := func(class, n, alone int, rate float64) {
		if rate == 0 {
			return
		}
		t := lostState{slices.Clone(s.groups), s.alone + alone}
		if class >= 0 {
			t.groups[class] += n
		}
		to(t, rate)
	}
	_, lost := g.lost(s)
	up := g.backends - lost
	if g.apart {
		up = g.backends - s.alone
	}
	repair := g.rates.repair(lost)
	change(-1, 0, -1, float64(s.alone)*repair)
	change(-1, 0, +1, float64(max(0, up))*g.rates.Failures)
	for c, n := range s.groups {
		change(c, -1, 0, float64(n)*repair)
		change(c, +1, 0, float64(g.counts[c]-n)*g.rates.GroupFailures)
	}
}

// repair is the rate a year at which each of so many lost backends comes back:
// all at the same time, as far as MaxPerDay allows.
func (r Rates) repair(lost int) float64 {
	if r.Repair == 0 || lost == 0 {
		return 0
	}
	each := year / float64(r.Repair)
	if r.MaxPerDay > 0 && lost > r.MaxPerDay {
		each = float64(r.MaxPerDay) / float64(lost) * year / float64(max(r.Repair, day))
	}
	return each
}

func square(n int) [][]float64 {
	cells := make([]float64, n*n)
	out := make([][]float64, n)
	for i := range out {
		out[i] = cells[i*n : (i+1)*n]
	}
	return out
}

// lnMTTDL is the logarithm of the mean years from the beginning to loss. All
// terms are positive, so nothing cancels, whatever the rates; as logarithms they
// do not overflow.
func (c chain) lnMTTDL() float64 {
	if !c.line {
		return math.Log(c.eliminate())
	}
	loss := len(c.rate) - 1
	step, sum := math.Inf(-1), math.Inf(-1) // ln of the mean time from i to i+1, and of their sum
	for i := range loss {
		up := math.Log(c.rate[i][i+1])
		if i == 0 {
			step = -up
		} else {
			step = lnAdd(-up, math.Log(c.rate[i][i-1])-up+step)
		}
		sum = lnAdd(sum, step)
	}
	return sum
}

// lnAdd is ln(e^a + e^b).
func lnAdd(a, b float64) float64 {
	if a < b {
		a, b = b, a
	}
	if math.IsInf(a, 0) {
		return a
	}
	return a + math.Log1p(math.Exp(b-a))
}

// eliminate gives the mean years to loss of any chain by taking out one state
// after the other (Grassmann, Taksar, Heyman): without a subtraction.
func (c chain) eliminate() float64 {
	loss := len(c.rate) - 1
	r := square(loss + 1)
	for i := range r {
		copy(r[i], c.rate[i])
	}
	stay := make([]float64, loss) // time that counts while in a state, those taken out included
	for i := range stay {
		stay[i] = 1
	}
	for s := loss - 1; s > 0; s-- {
		out := r[s][loss]
		for j := range s {
			out += r[s][j]
		}
		for i := range s {
			if r[i][s] == 0 {
				continue
			}
			f := r[i][s] / out
			for j := range s {
				if j != i {
					r[i][j] += f * r[s][j]
				}
			}
			r[i][loss] += f * r[s][loss]
			stay[i] += f * stay[s]
		}
	}
	return stay[0] / r[0][loss]
}

// lost gives the probability of loss within 1, 2, … years, exactly: e^Q by
// uniformisation over a short time, squared as often as it takes. No entry is
// negative, so nothing cancels: a probability of 1e-200 has as many right digits.
func (c chain) lost(years int) []float64 {
	loss := len(c.rate) - 1
	fastest := 0.0
	out := make([]float64, loss+1)
	for i := range out {
		for _, v := range c.rate[i] {
			out[i] += v
		}
		fastest = max(fastest, out[i])
	}
	squarings := 0
	for fastest > 1 {
		fastest /= 2
		squarings++
	}
	short := math.Ldexp(1, -squarings)
	// The chain's steps at the rate `fastest`: 1/fastest is its unit of time.
	step := square(loss + 1)
	for i := range step {
		for j, v := range c.rate[i] {
			step[i][j] = v * short / fastest
		}
		step[i][i] = max(0, 1-out[i]*short/fastest)
	}
	term, sum := square(loss+1), square(loss+1)
	for i := range term {
		term[i][i] = math.Exp(-fastest)
		sum[i][i] = term[i][i]
	}
	for k, more := 1, true; more; k++ {
		term = multiply(step, term, fastest/float64(k))
		more = k < loss
		for i := range sum {
			for j, v := range term[i] {
				sum[i][j] += v
				more = more || v > 1e-17*sum[i][j]
			}
		}
	}
	for range squarings {
		sum = multiply(sum, sum, 1)
	}
	at := square(1 + loss)[:1]
	at[0][0] = 1
	var in []float64
	so := 0.0
	for range years {
		at = multiply(at, sum, 1)
		so = max(so, min(1, at[0][loss])) // it only grows, but for rounding
		in = append(in, so)
	}
	return in
}

func multiply(a, b [][]float64, factor float64) [][]float64 {
	n := len(b)
	out := square(n)[:len(a)]
	for i := range a {
		row := out[i]
		for k, v := range a[i] {
			if v == 0 {
				continue
			}
			v *= factor
			for j, w := range b[k] {
				row[j] += v * w
			}
		}
	}
	return out
}
