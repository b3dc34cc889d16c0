package durability

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Report is what a plan is worth.
type Report struct {
	Data     SetReport  `json:"data"`
	Meta     SetReport  `json:"meta"`
	Both     Durability `json:"both"` // data or metadata is lost
	Capacity Capacity   `json:"capacity"`
	Warnings []Warning  `json:"warnings"`
	// Possible is false where a warning says that this cannot be deployed. Then there
	// are no figures for that set.
	Possible    bool     `json:"possible"`
	Model       []string `json:"model"`       // the formula, line by line
	Assumptions []string `json:"assumptions"` // what it supposes, and what it leaves out
}

// SetReport is what a set is worth.
type SetReport struct {
	Needed   int     `json:"needed"`
	Total    int     `json:"total"`
	Backends int     `json:"backends"`
	Groups   int     `json:"groups"` // zero: none were given
	Spares   int     `json:"spares"`
	Overhead float64 `json:"overhead"` // bytes stored for each byte
	// What may be lost at the same time, wherever an object's shards lie.
	ToleratedBackends int `json:"tolerated_backends"`
	ToleratedGroups   int `json:"tolerated_groups"`
	// PossibleGroups is the largest redundant_groups that can be asked for.
	PossibleGroups int    `json:"possible_groups"`
	Words          string `json:"words"` // the same in plain words
	// Any is the durability of everything: no object is lost. One is that of one
	// object, which lies on Total backends.
	Any Durability `json:"any"`
	One Durability `json:"one"`
}

// Durability is how likely nothing is lost.
type Durability struct {
	MTTDL float64 `json:"mttdl_years"` // mean time to data loss; 1e300 at most
	Year  Risk    `json:"1_year"`
	Five  Risk    `json:"5_years"`
	Ten   Risk    `json:"10_years"`
}

// Risk is a probability of loss; its nines are -log10 of it.
type Risk struct {
	Loss  float64 `json:"loss"` // zero where it is below 1e-300; Nines has it still
	Nines float64 `json:"nines"`
}

const longest = 1e300 // years

// Evaluate tells what a shape is worth at these rates. Errors match [ErrInvalid];
// a shape that makes sense and cannot be deployed is no error, but a Warning.
func Evaluate(sh Shape, r Rates) (Report, error) {
	sh = sh.filled()
	if err := sh.Data.check("data"); err != nil {
		return Report{}, err
	}
	if err := sh.Meta.check("metadata"); err != nil {
		return Report{}, err
	}
	if err := r.check(); err != nil {
		return Report{}, err
	}
	if sh.Size < 0 || sh.DataFile < 0 {
		return Report{}, fmt.Errorf("%w: a size is negative", ErrInvalid)
	}
	rep := Report{Data: sh.Data.report(r), Meta: sh.Meta.report(r), Capacity: sh.capacity(), Model: model(sh, r), Assumptions: assumptions(sh, r)}
	rep.Data.Words = sh.Data.words("data backends")
	rep.Meta.Words = sh.Meta.words("metadata backends") + "; writing needs three of them"
	rep.Warnings = warnings(sh, r, rep)
	rep.Possible = true
	for _, w := range rep.Warnings {
		rep.Possible = rep.Possible && w.Level != Impossible
	}
	if rep.Possible {
		rep.Both = either(rep.Data.Any, rep.Meta.Any)
	}
	return rep, nil
}

func (s Set) report(r Rates) SetReport {
	out := SetReport{
		Needed: s.Needed, Total: s.Total, Backends: s.Count(), Groups: len(s.sizes()), Spares: s.Spares, Overhead: s.Overhead(),
		ToleratedBackends: s.Parity(), ToleratedGroups: s.groupsTolerated(), PossibleGroups: s.groupsPossible(),
	}
	if !s.placeable() {
		return out
	}
	f := failures{backends: s.Count(), parity: s.Parity(), groups: s.sizes(), redundant: s.RedundantGroups, rates: r}
	out.Any = f.durability()
	out.One = out.Any
	if s.Total < s.Count() {
		out.One = longer(s.one(r).durability(), out.Any) // one object is there as long as all are
	}
	return out
}

// placeable says whether there is a place for every shard.
func (s Set) placeable() bool {
	return s.Count() >= s.Total && s.feasible(s.RedundantGroups, s.RedundantNodes)
}

// one is the model of one object: only its shards' backends fail, in as many
// groups as it can be in, each of which may hold the most.
func (s Set) one(r Rates) failures {
	sizes := s.sizes()
	return failures{backends: s.Total, parity: s.Parity(), groups: sizes[:min(len(sizes), s.Total)], redundant: s.RedundantGroups, apart: true, rates: r}
}

func (f failures) durability() Durability {
	c := newChain(f)
	ln := min(c.lnMTTDL(), math.Log(longest))
	p := c.lost(10)
	risk := func(n int) Risk { return riskOf(p[n-1], math.Log(float64(n))-ln) }
	return Durability{MTTDL: years(ln), Year: risk(1), Five: risk(5), Ten: risk(10)}
}

func years(ln float64) float64 {
	if ln >= math.Log(longest) {
		return longest
	}
	return math.Exp(ln)
}

// longer gives the better of two bounds.
func longer(a, b Durability) Durability {
	risk := func(a, b Risk) Risk {
		if a.Nines > b.Nines {
			return a
		}
		return b
	}
	return Durability{MTTDL: max(a.MTTDL, b.MTTDL), Year: risk(a.Year, b.Year), Five: risk(a.Five, b.Five), Ten: risk(a.Ten, b.Ten)}
}

// riskOf takes the nines of a probability, or, where that is too small for a
// number, of its logarithm by t / MTTDL, which is above it.
func riskOf(p, ln float64) Risk {
	if p < 1e-300 {
		return Risk{Nines: -ln / math.Ln10}
	}
	return Risk{Loss: p, Nines: max(0, -math.Log10(p))}
}

// either is the durability where neither of two may be lost, as if they did not
// depend on each other.
func either(a, b Durability) Durability {
	join := func(a, b Risk) Risk {
		p := a.Loss + b.Loss - a.Loss*b.Loss
		return riskOf(p, lnAdd(-a.Nines*math.Ln10, -b.Nines*math.Ln10))
	}
	return Durability{
		MTTDL: 1 / (1/a.MTTDL + 1/b.MTTDL), Year: join(a.Year, b.Year), Five: join(a.Five, b.Five), Ten: join(a.Ten, b.Ten),
	}
}

// words tells what may be lost.
func (s Set) words(what string) string {
	var parts []string
	switch p := s.Parity(); {
	case s.Count() < s.Total:
		return fmt.Sprintf("nothing can be written: %d %s, %d are needed", s.Count(), what, s.Total)
	case p == 0:
		parts = append(parts, "nothing may be lost: the first of the "+what+" that fails takes data with it")
	default:
		parts = append(parts, fmt.Sprintf("any %d of the %d %s may be lost at the same time", p, s.Count(), what))
	}
	if sizes := s.sizes(); len(sizes) > 0 && s.Parity() > 0 {
		switch g := s.groupsTolerated(); {
		case g == 0 && sizes[0] > 1:
			parts = append(parts, "no whole group may be lost")
		case g > 0 && sizes[0] > 1:
			parts = append(parts, fmt.Sprintf("any %s of the %d may be lost whole", plural(g, "group"), len(sizes)))
		}
	}
	if s.RedundantNodes > 0 && s.RedundantGroups > 0 {
		parts = append(parts, fmt.Sprintf("any %s, and %s of each other one", plural(s.RedundantGroups, "group"), plural(s.RedundantNodes, "backend")))
	} else if s.RedundantNodes > 0 {
		parts = append(parts, plural(s.RedundantNodes, "backend")+" of each group")
	}
	return strings.Join(parts, "; ")
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// model tells the formula.
func model(sh Shape, r Rates) []string {
	out := []string{
		"A Markov chain for each set: state i is i backends lost, loss is state n-k+1.",
		fmt.Sprintf("From i to i+1 at (N-i)·f a year; from i to i-1 at i/T (N backends; f = %.4g failures a year; %s).", r.Failures, repairWords(r)),
	}
	if r.Repair > 0 && r.MaxPerDay > 0 {
		out = append(out, fmt.Sprintf("With more than %d lost: %d in the longer of T and a day.", r.MaxPerDay, r.MaxPerDay))
	}
	out = append(out,
		"MTTDL = h(0) + … + h(n-k), with h(0) = 1/(N·f) and h(i) = (1 + i/T·h(i-1)) / ((N-i)·f).",
		"Loss within t: the last entry of the first row of e^(Qt), Q being the matrix of these rates; nines = -log10 of it.")
	if r.GroupFailures > 0 && (inGroups(sh.Data) || inGroups(sh.Meta)) {
		out = append(out, fmt.Sprintf("With groups: a state is the lost groups and i other backends; each group is lost at %.4g a year and comes back at 1/T.", r.GroupFailures))
	}
	if r.GroupFailures > 0 && (ones(sh.Data) || ones(sh.Meta)) {
		out = append(out, fmt.Sprintf("A backend that is its whole group is lost at f + %.4g a year.", r.GroupFailures))
	}
	return out
}

func repairWords(r Rates) string {
	if r.Repair == 0 {
		return "no repair: 1/T = 0"
	}
	return "T = " + short(r.Repair)
}

// short gives a duration in its largest units.
func short(d time.Duration) string {
	switch {
	case d >= 2*day:
		return fmt.Sprintf("%.3gd", d.Hours()/24)
	case d >= time.Hour:
		return fmt.Sprintf("%.3gh", d.Hours())
	}
	return d.Round(time.Second).String()
}

// ones says whether each backend is a group of its own.
func ones(s Set) bool { return len(s.sizes()) > 0 && s.sizes()[0] == 1 }

func inGroups(s Set) bool { return len(s.sizes()) > 0 && s.sizes()[0] > 1 }

func assumptions(sh Shape, r Rates) []string {
	out := []string{
		"Failures do not depend on each other, except within a group; times to failure and of repair are exponential.",
	}
	if r.Repair > 0 {
		out = append(out, "Lost backends are repaired at the same time, each within T on average; there is always another to take the place.")
	}
	if sh.Data.Count() > sh.Data.Total {
		out = append(out, fmt.Sprintf("Every placement of %d over %d backends holds some object, so any %d lost ones lose data: so it is with many objects.",
			sh.Data.Total, sh.Data.Count(), sh.Data.Parity()+1))
	}
	if inGroups(sh.Data) || inGroups(sh.Meta) {
		if r.GroupFailures > 0 {
			out = append(out, "A group is lost and repaired as one; what was lost of it before counts besides.")
		} else {
			out = append(out, "Groups do not fail as a whole: only what is tolerated tells of them.")
		}
	}
	if len(sh.Data.Groups) > 0 && len(sh.Meta.Groups) == 0 {
		out = append(out, "The metadata backends have no groups: each is taken to fail alone.")
	}
	return append(out,
		"Metadata and data do not depend on each other: together they lose as often as either.",
		"Damage that nobody noticed is not in it (scrubs find it), nor mistakes, defects, lost keys, unpaid backends.")
}
