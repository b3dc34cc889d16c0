package zstor

import (
	"math"
	"slices"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor/record"
)

// The real zstor reads all four metadata values, lets the later backend win where
// two have one index, and joins the two lowest indexes; if these are of two
// writes, its process aborts. So the order of writes, and which backend gets which
// index, are planned: by trying all of them against a model of that reader.

// slot is what a metadata backend holds, as far as is known.
type slot struct {
	write int // which write its value is of: newWrite, or another one; noValue
	index int
	// writable: it answered, so that it takes part in this write
	writable bool
}

const (
	noValue  = 0
	newWrite = -1
	// strangers are values that are damaged or of a write that is not known; they
	// are of one write each.
	stranger = 1000
)

type slots [backend.MetaBackends]slot

// consistent says whether the real reader, seeing all four, reads one write, or
// too little to be misled.
func (s slots) consistent() bool {
	var winner [record.Values]int
	for _, b := range s {
		if b.write != noValue {
			winner[b.index] = b.write
		}
	}
	first := noValue
	for _, w := range winner {
		switch {
		case w == noValue:
		case first == noValue:
			first = w
		default:
			return w == first
		}
	}
	return true
}

// step writes index of the new write at backend.
type step struct{ backend, index int }

// Costs of a plan; each outweighs all of the next kind.
const (
	costEndMixed    = 100_000 // the end, with what unreachable backends hold, misleads the reader
	costMomentMixed = 1_000   // so does a moment in between
	costLastHolds   = 100     // the last backend holds 0 or 1: its loss would leave nobody later to win
	costWrite       = 4
	costMoved       = 1 // not the index of its position
)

// plan finds the cheapest assignment of indexes to the writable backends and an
// order of writes. Backends that hold the new write already may keep their index.
func (s slots) plan() []step {
	p := &planner{start: s, best: math.MaxInt}
	p.assign(0, 0, nil)
	return p.steps
}

type planner struct {
	start slots
	best  int
	steps []step
}

// assign tries every index for backend b and those behind it.
func (p *planner) assign(b int, taken uint8, todo []step) {
	if b == len(p.start) {
		p.order(p.start, todo, nil, p.endCost(todo))
		return
	}
	if !p.start[b].writable {
		p.assign(b+1, taken, todo)
		return
	}
	for i := range record.Values {
		if taken&(1<<i) != 0 {
			continue
		}
		next := todo[:len(todo):len(todo)]
		if p.start[b].write != newWrite || p.start[b].index != i {
			next = append(next, step{b, i})
		}
		p.assign(b+1, taken|1<<i, next)
	}
}

func (p *planner) endCost(todo []step) int {
	end := p.start
	for _, t := range todo {
		end[t.backend].write, end[t.backend].index = newWrite, t.index
	}
	cost := costWrite * len(todo)
	if !end.consistent() {
		cost += costEndMixed
	}
	for b, e := range end {
		if e.write == newWrite && e.index != b {
			cost += costMoved
		}
	}
	if last := end[len(end)-1]; last.write == newWrite && last.index < record.Needed {
		cost += costLastHolds
	}
	return cost
}

// order tries every order of the writes.
func (p *planner) order(now slots, todo, done []step, cost int) {
	if cost >= p.best {
		return
	}
	if len(todo) == 0 {
		p.best, p.steps = cost, append([]step(nil), done...)
		return
	}
	for i, t := range todo {
		next := now
		next[t.backend].write, next[t.backend].index = newWrite, t.index
		c := cost
		if len(todo) > 1 && !next.consistent() {
			c += costMomentMixed
		}
		rest := append(append([]step(nil), todo[:i]...), todo[i+1:]...)
		p.order(next, rest, append(done[:len(done):len(done)], t), c)
	}
}

// slotsFor describes st for a write of gen, which may be there in part already.
// What a silent backend holds is guessed from the others: the index that is
// missing of the write that they hold.
func (st *metaState) slotsFor(gen *generation) slots {
	var s slots
	used := map[int]uint8{} // indexes seen per write
	for i, a := range st.answers {
		s[i].writable = a.kind != silent
		if a.kind != present {
			continue
		}
		s[i].index = a.value.Index
		switch {
		case a.gen == nil:
			s[i].write = stranger + i
		case a.gen == gen:
			s[i].write = newWrite
		default:
			s[i].write = slices.Index(st.gens, a.gen) + 1
		}
		used[s[i].write] |= 1 << a.value.Index
	}
	old := noValue
	for w := range used {
		if w > noValue && w < stranger && (old == noValue || w < old) {
			old = w
		}
	}
	for i, a := range st.answers {
		if a.kind == silent && old != noValue {
			s[i].write, s[i].index = old, missingIndex(used[old], i)
		}
	}
	return s
}

// missingIndex is the lowest index that nobody was seen to hold; its own position
// when that is one of several.
func missingIndex(seen uint8, position int) int {
	if seen&(1<<position) == 0 {
		return position
	}
	for i := range record.Values {
		if seen&(1<<i) == 0 {
			return i
		}
	}
	return position
}
