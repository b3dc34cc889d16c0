package backend

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// ErrPlacement says that no choice of backends meets a Redundancy.
var ErrPlacement = errors.New("backend: no placement meets the redundancy")

// Redundancy is what a placement must survive: the loss of Groups whole groups
// and, of each other group, of Nodes backends, with Needed shards left of Total.
type Redundancy struct {
	Needed, Total int // k and n
	Groups, Nodes int
}

// Place draws Total distinct backends, in shard order: the group with most
// shards first. A spread over the groups is drawn with the weight of the orders
// in which its shards could have been dealt, then the backends of each group
// evenly. Spares are left out. rnd may be nil. Errors match ErrPlacement.
//
// The cost does not depend on the number of spreads: they are counted, not made.
func Place(backends []Backend, r Redundancy, rnd *rand.Rand) ([]Backend, error) {
	if rnd == nil {
		rnd = newRand()
	}
	groups := groupsOf(backends, r.Nodes)
	c, err := newCounter(groups, r)
	if err != nil {
		return nil, err
	}
	counts, ok := c.draw(rnd)
	if !ok {
		return nil, fmt.Errorf("%w: unable to find a valid spread of %d shards (%d needed) over %d groups with %d groups and %d nodes to lose",
			ErrPlacement, r.Total, r.Needed, len(groups), r.Groups, r.Nodes)
	}
	return assign(groups, counts, rnd), nil
}

// Feasible says whether Place can succeed. Errors match ErrPlacement.
func Feasible(backends []Backend, r Redundancy) error {
	_, err := Place(backends, r, rand.New(rand.NewPCG(1, 1)))
	return err
}

// Extend chooses one backend for each of missing shards of an object whose other
// shards are on held. Choices are made one by one among candidates that hold
// nothing yet, evenly among those after which the most survives; met tells
// whether the whole placement still meets r. With fewer candidates than missing
// the choice is shorter than missing.
func Extend(held, candidates []Backend, missing int, r Redundancy, rnd *rand.Rand) (chosen []Backend, met bool) {
	if rnd == nil {
		rnd = newRand()
	}
	counts := map[string]int{}
	used := map[place]bool{}
	for _, b := range held {
		counts[b.Group]++
		used[placeOf(b)] = true
	}
	for range missing {
		var best []Backend
		bestScore := math.MinInt
		for _, b := range candidates {
			if b.Spare || used[placeOf(b)] {
				continue
			}
			counts[b.Group]++
			score := r.survivors(counts)*MaxPerGroup - counts[b.Group] // even out where nothing else decides
			counts[b.Group]--
			if score > bestScore {
				best, bestScore = nil, score
			}
			if score == bestScore {
				best = append(best, b)
			}
		}
		if len(best) == 0 {
			break
		}
		b := best[rnd.IntN(len(best))]
		counts[b.Group]++
		used[placeOf(b)] = true
		chosen = append(chosen, b)
	}
	return chosen, len(chosen) == missing && r.survivors(counts) >= r.Needed
}

// MaxPerGroup is more than the shards that any group can have.
const MaxPerGroup = 1 << 10

// Meets says whether shards on these backends survive what r asks for.
func (r Redundancy) Meets(placed []Backend) bool {
	counts := map[string]int{}
	for _, b := range placed {
		counts[b.Group]++
	}
	return r.survivors(counts) >= r.Needed
}

// survivors counts the shards left after the worst loss that r allows.
func (r Redundancy) survivors(counts map[string]int) int {
	var all []int
	for _, c := range counts {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b int) int { return b - a })
	left := 0
	for i, c := range all {
		if i >= r.Groups {
			left += max(0, c-r.Nodes)
		}
	}
	return left
}

type place struct {
	addr string
	ns   string
}

func placeOf(b Backend) place { return place{b.Address.String(), b.Namespace} }

func newRand() *rand.Rand { return rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) }

// groupsOf collects usable backends by group, in order of appearance, without
// groups that are smaller than what may be lost of them.
func groupsOf(backends []Backend, nodes int) [][]Backend {
	index := map[string]int{}
	var groups [][]Backend
	for _, b := range backends {
		if b.Spare {
			continue
		}
		i, ok := index[b.Group]
		if !ok {
			i = len(groups)
			index[b.Group] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], b)
	}
	return slices.DeleteFunc(groups, func(g []Backend) bool { return len(g) < nodes })
}

// assign draws counts[i] backends of groups[i], groups with more shards first.
func assign(groups [][]Backend, counts []int, rnd *rand.Rand) []Backend {
	order := make([]int, len(groups))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return counts[b] - counts[a] })
	var out []Backend
	for _, g := range order {
		for _, i := range rnd.Perm(len(groups[g]))[:counts[g]] {
			out = append(out, groups[g][i])
		}
	}
	return out
}

// counter weighs spreads without listing them. Counts per group are dealt from
// the largest value downwards: at value v some of the groups that are large
// enough and have no count yet get v. So the groups that a loss takes first are
// known to be the first dealt, and what survives is a sum.
type counter struct {
	r      Redundancy
	sizes  []int
	limit  int   // groups that may have shards
	fit    []int // fit[v]: groups of at least v backends
	memo   map[state]float64
	top    int
	lnFact []float64
}

// state: counts above v are dealt to `dealt` groups, using `used` shards, of
// which `left` survive (capped at what is needed).
type state struct{ v, dealt, used, left int16 }

func newCounter(groups [][]Backend, r Redundancy) (*counter, error) {
	if r.Needed < 1 || r.Total < r.Needed || r.Groups < 0 || r.Nodes < 0 || r.Total >= MaxPerGroup {
		return nil, fmt.Errorf("%w: %d shards of which %d are needed, %d groups and %d nodes to lose",
			ErrPlacement, r.Total, r.Needed, r.Groups, r.Nodes)
	}
	c := &counter{r: r, limit: len(groups), memo: map[state]float64{}}
	if r.Nodes > 0 {
		c.limit = min(c.limit, (r.Total-r.Needed)/r.Nodes+r.Groups)
	}
	for _, g := range groups {
		c.sizes = append(c.sizes, min(len(g), r.Total))
		c.top = max(c.top, min(len(g), r.Total))
	}
	c.fit = make([]int, c.top+1)
	for _, s := range c.sizes {
		for v := range s + 1 {
			c.fit[v]++
		}
	}
	c.lnFact = make([]float64, max(r.Total, len(groups))+1)
	for i := 2; i < len(c.lnFact); i++ {
		c.lnFact[i] = c.lnFact[i-1] + math.Log(float64(i))
	}
	if c.weight(c.start()) == math.Inf(-1) && !c.anyCandidate() {
		return nil, fmt.Errorf("%w: could not find any viable backend distribution of %d shards over %d groups",
			ErrPlacement, r.Total, len(groups))
	}
	return c, nil
}

func (c *counter) anyCandidate() bool {
	sum := 0
	for _, s := range c.sizes {
		sum += s - c.r.Nodes
	}
	return len(c.sizes) > c.r.Groups && sum >= c.r.Needed
}

func (c *counter) start() state { return state{v: int16(c.top)} }

// deal gives the state after m more groups got v shards each, and the logarithm
// of the step's weight: the ways to choose the groups over the orders within them.
func (c *counter) deal(s state, m int) (state, float64) {
	v, dealt := int(s.v), int(s.dealt)
	surviving := max(0, dealt+m-max(c.r.Groups, dealt))
	next := state{
		v:     s.v - 1,
		dealt: int16(dealt + m),
		used:  int16(int(s.used) + m*v),
		left:  int16(min(c.r.Needed, int(s.left)+surviving*max(0, v-c.r.Nodes))),
	}
	avail := c.fit[v] - dealt
	ln := c.lnFact[avail] - c.lnFact[m] - c.lnFact[avail-m] - float64(m)*c.lnFact[v]
	return next, ln
}

// most is how many groups can get v shards in state s.
func (c *counter) most(s state) int {
	v := int(s.v)
	return min(c.fit[v]-int(s.dealt), c.limit-int(s.dealt), (c.r.Total-int(s.used))/v)
}

// weight is the logarithm of the summed weights of all valid ends of s.
func (c *counter) weight(s state) float64 {
	if int(s.used) == c.r.Total {
		if int(s.left) >= c.r.Needed && int(s.dealt) > c.r.Groups {
			return 0
		}
		return math.Inf(-1)
	}
	if s.v <= 0 {
		return math.Inf(-1)
	}
	if w, ok := c.memo[s]; ok {
		return w
	}
	var terms []float64
	for m := range c.most(s) + 1 {
		next, ln := c.deal(s, m)
		terms = append(terms, ln+c.weight(next))
	}
	w := logSum(terms)
	c.memo[s] = w
	return w
}

// draw picks one spread; false when there is none.
func (c *counter) draw(rnd *rand.Rand) ([]int, bool) {
	s := c.start()
	if math.IsInf(c.weight(s), -1) {
		return nil, false
	}
	counts := make([]int, len(c.sizes))
	for int(s.used) < c.r.Total {
		var nexts []state
		var terms []float64
		for m := range c.most(s) + 1 {
			next, ln := c.deal(s, m)
			nexts, terms = append(nexts, next), append(terms, ln+c.weight(next))
		}
		m := pick(terms, rnd)
		c.give(counts, int(s.v), m, rnd)
		s = nexts[m]
	}
	return counts, true
}

// give deals v shards to m groups drawn among those that can take them.
func (c *counter) give(counts []int, v, m int, rnd *rand.Rand) {
	var open []int
	for g, size := range c.sizes {
		if counts[g] == 0 && size >= v {
			open = append(open, g)
		}
	}
	for _, i := range rnd.Perm(len(open))[:m] {
		counts[open[i]] = v
	}
}

// pick draws an index with the probabilities whose logarithms are given.
func pick(terms []float64, rnd *rand.Rand) int {
	total := logSum(terms)
	x := rnd.Float64()
	last := 0
	for i, t := range terms {
		if math.IsInf(t, -1) {
			continue
		}
		last = i
		if x -= math.Exp(t - total); x < 0 {
			return i
		}
	}
	return last // rounding: the sum of probabilities fell short of x
}

func logSum(terms []float64) float64 {
	most := math.Inf(-1)
	for _, t := range terms {
		most = max(most, t)
	}
	if math.IsInf(most, -1) {
		return most
	}
	sum := 0.0
	for _, t := range terms {
		sum += math.Exp(t - most)
	}
	return most + math.Log(sum)
}
