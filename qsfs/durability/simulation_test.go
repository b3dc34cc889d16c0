package durability

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// world is what the model stands for, without its simplifications: single
// backends in groups, and the objects on them.
type world struct {
	group   []int   // of each backend
	groups  int     // of which each may fail whole
	objects [][]int // the backends of each
	needed  int
	rates   Rates
}

// worldOf lays objects on the backends of a set: one per possible placement.
func worldOf(s Set, r Rates) world {
	w := world{needed: s.Needed, rates: r}
	for g, size := range s.sizes() {
		for range size {
			w.group = append(w.group, g)
		}
	}
	w.groups = len(s.sizes())
	if w.groups == 0 {
		w.group = make([]int, s.Backends)
	}
	var place func(from int, chosen []int)
	place = func(from int, chosen []int) {
		if len(chosen) == s.Total {
			w.objects = append(w.objects, append([]int(nil), chosen...))
			return
		}
		for b := from; b < len(w.group); b++ {
			place(b+1, append(chosen, b))
		}
	}
	place(0, nil)
	return w
}

// untilLoss lives one life, event by event, and gives its years.
func (w world) untilLoss(rnd *rand.Rand) float64 {
	lost := make([]bool, len(w.group))
	type repair struct{ backend, group int } // group -1: of one backend
	var repairs []repair
	now := 0.0
	for {
		up := 0
		for _, l := range lost {
			if !l {
				up++
			}
		}
		fail := float64(up) * w.rates.Failures
		whole := fail + float64(w.groups)*w.rates.GroupFailures
		all := whole
		if w.rates.Repair > 0 {
			all += float64(len(repairs)) * year / float64(w.rates.Repair)
		}
		now += rnd.ExpFloat64() / all
		switch x := rnd.Float64() * all; {
		case x < fail:
			nth := rnd.IntN(up)
			for b := range lost {
				if !lost[b] {
					if nth == 0 {
						lost[b] = true
						repairs = append(repairs, repair{b, -1})
						break
					}
					nth--
				}
			}
		case x < whole: // what was lost of it, or is being replaced in it, is lost with it
			g := rnd.IntN(w.groups)
			left := repairs[:0]
			for _, r := range repairs {
				if r.group != g && (r.group >= 0 || w.group[r.backend] != g) {
					left = append(left, r)
				}
			}
			repairs = append(left, repair{-1, g})
			for b := range lost {
				lost[b] = lost[b] || w.group[b] == g
			}
		default:
			i := rnd.IntN(len(repairs))
			r := repairs[i]
			repairs = append(repairs[:i], repairs[i+1:]...)
			for b := range lost {
				if b == r.backend || r.group >= 0 && w.group[b] == r.group {
					lost[b] = false
				}
			}
			continue
		}
		for _, o := range w.objects {
			alive := 0
			for _, b := range o {
				if !lost[b] {
					alive++
				}
			}
			if alive < w.needed {
				return now
			}
		}
	}
}

// simulated is what many lives gave.
type simulated struct {
	mean, meanError float64
	within          map[int]float64 // share of the lives that ended within so many years
	lives           int
}

func simulate(w world, lives int, seed uint64) simulated {
	rnd := rand.New(rand.NewPCG(seed, 6))
	out := simulated{within: map[int]float64{}, lives: lives}
	sum, squares := 0.0, 0.0
	for range lives {
		t := w.untilLoss(rnd)
		sum += t
		squares += t * t
		for _, years := range []int{1, 5, 10} {
			if t <= float64(years) {
				out.within[years] += 1 / float64(lives)
			}
		}
	}
	n := float64(lives)
	out.mean = sum / n
	out.meanError = math.Sqrt((squares/n - out.mean*out.mean) / n)
	return out
}

func inYears(y float64) time.Duration { return time.Duration(y * year) }

// The model against lives of single backends, groups and objects: exact where
// nothing is simplified, never more hopeful elsewhere.
func TestPlanAgainstSimulation(t *testing.T) {
	t.Parallel()
	for seed, p := range []struct {
		name  string
		set   Set
		rates Rates
		times float64 // how much sooner than the simulation the model may lose; 1: never
	}{
		{"1 of 1", Set{Needed: 1, Total: 1, Backends: 1}, Rates{Failures: 0.3, Repair: inYears(0.1)}, 1},
		{"1 of 3", Set{Needed: 1, Total: 3, Backends: 3}, Rates{Failures: 0.8, Repair: inYears(0.2)}, 1},
		{"2 of 4, the metadata", Set{Needed: 2, Total: 4, Backends: 4}, Rates{Failures: 0.7, Repair: inYears(0.15)}, 1},
		{"3 of 5", Set{Needed: 3, Total: 5, Backends: 5}, Rates{Failures: 0.5, Repair: inYears(0.1)}, 1},
		{"3 of 5 without repair", Set{Needed: 3, Total: 5, Backends: 5}, Rates{Failures: 0.2}, 1},
		{"16 of 20", Set{Needed: 16, Total: 20, Backends: 20}, Rates{Failures: 0.4, Repair: inYears(0.08)}, 1},
		{"3 of 5 over 7", Set{Needed: 3, Total: 5, Backends: 7}, Rates{Failures: 0.4, Repair: inYears(0.08)}, 1},
		{"4 of 6, groups of one", Set{Needed: 4, Total: 6, Groups: groupsOf(1, 1, 1, 1, 1, 1)}, Rates{Failures: 0.3, GroupFailures: 0.1, Repair: inYears(0.1)}, 1.1},
		{"4 of 6, 3 groups of two", Set{Needed: 4, Total: 6, Groups: groupsOf(2, 2, 2)}, Rates{Failures: 0.3, GroupFailures: 0.05, Repair: inYears(0.1)}, 1.25},
		{"4 of 6, 2 groups of three", Set{Needed: 4, Total: 6, Groups: groupsOf(3, 3)}, Rates{Failures: 0.3, GroupFailures: 0.05, Repair: inYears(0.1)}, 1},
		{"4 of 8, uneven groups", Set{Needed: 4, Total: 8, Groups: groupsOf(3, 2, 2, 1)}, Rates{Failures: 0.3, GroupFailures: 0.1, Repair: inYears(0.1)}, 1.5},
	} {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			model := p.set.report(p.rates).Any
			sim := simulate(worldOf(p.set, p.rates), 8000, uint64(seed))
			t.Logf("mean years: model %.3f, simulation %.3f ± %.3f; within 1, 5, 10: %.4f %.4f %.4f, %.4f %.4f %.4f", model.MTTDL, sim.mean, sim.meanError,
				model.Year.Loss, model.Five.Loss, model.Ten.Loss, sim.within[1], sim.within[5], sim.within[10])
			require.Less(t, model.MTTDL, sim.mean+4*sim.meanError)
			require.Greater(t, model.MTTDL, (sim.mean-4*sim.meanError)/p.times)
			for years, risk := range map[int]Risk{1: model.Year, 5: model.Five, 10: model.Ten} {
				share := sim.within[years]
				sigma := math.Sqrt(max(share, 1/float64(sim.lives)) * (1 - share) / float64(sim.lives))
				require.Greater(t, risk.Loss, share-4*sigma, "%d years", years)
				require.Less(t, risk.Loss, (share+4*sigma)*p.times, "%d years", years)
			}
		})
	}
}

func groupsOf(sizes ...int) []Group {
	var out []Group
	for i, n := range sizes {
		out = append(out, Group{Name: fmt.Sprintf("g%d", i), Backends: n})
	}
	return out
}
