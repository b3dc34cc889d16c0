package durability

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"time"

	"github.com/threefoldtech/quantumd/backend"
)

// ErrInvalid says that a shape or rates make no sense, such as 5 of 3 shards.
var ErrInvalid = errors.New("durability: no such plan")

// Group is a number of backends that one event may take together: those on one
// machine, in one farm, in one country.
type Group struct {
	Name     string `json:"name"`
	Backends int    `json:"backends"` // without spares
	Size     int64  `json:"size"`     // bytes of each; zero: that of the Set
}

// Set is backends over which objects are dispersed: each object in Total shards
// on as many of them, of which any Needed give it back.
type Set struct {
	Needed int `json:"needed"` // k, min_shards
	Total  int `json:"total"`  // n, expected_shards
	// What each placement has to survive; as in [backend.Redundancy].
	RedundantGroups int `json:"redundant_groups"`
	RedundantNodes  int `json:"redundant_nodes"`

	Backends int     `json:"backends"` // without spares, where Groups is empty: each fails alone
	Size     int64   `json:"size"`     // bytes of each; zero: not known
	Groups   []Group `json:"groups"`
	Spares   int     `json:"spares"`
	// Supply says that others can be had when one is lost, on the grid or on this
	// machine, so that nothing depends on spares.
	Supply bool `json:"supply"`
}

// Shape is what is planned. A zero Meta is four backends that fail alone.
type Shape struct {
	Data Set
	Meta Set // Needed and Total may be zero: they are 2 and 4, always
	// Size is what the file system shall hold, in bytes; zero: not said.
	Size int64
	// DataFile is the size of a data file (zdb_data_size), one object each; zero: 64 MiB.
	DataFile int64
}

// Rates are how often things fail, and how fast they are repaired.
type Rates struct {
	// Failures of a backend a year: gone for good, with what it held. What comes
	// back is no failure.
	Failures float64
	// GroupFailures of a whole group a year, beside those of its backends. Without
	// groups they are not used.
	GroupFailures float64
	// Repair is the mean time from a failure until all that was lost is made anew
	// elsewhere: until it is noticed, the grace period (replace.after), the rebuild.
	// Zero: nothing is ever repaired.
	Repair time.Duration
	// MaxPerDay limits replacements (replace.max_per_day); zero: no limit.
	MaxPerDay int
}

// The default rates. Published figures of large fleets have about 1.5 % of hard
// disks failing in a year; the rest of the 4 % is for machines that are given up by
// their owners. A whole farm or site that ends is taken as once in a hundred years.
const (
	DefaultFailures      = 0.04
	DefaultGroupFailures = 0.01
	DefaultRepair        = 24 * time.Hour
	DefaultMaxPerDay     = 2
)

// DefaultRates gives the rates for those who know no better ones.
func DefaultRates() Rates {
	return Rates{Failures: DefaultFailures, GroupFailures: DefaultGroupFailures, Repair: DefaultRepair, MaxPerDay: DefaultMaxPerDay}
}

const (
	maxShards   = 256
	maxBackends = 10000
	maxRate     = 1e6 // a year
	day         = 24 * time.Hour
	year        = 365.25 * 24 * float64(time.Hour)
)

// Count is the number of backends in use, without spares.
func (s Set) Count() int {
	if len(s.Groups) == 0 {
		return s.Backends
	}
	n := 0
	for _, g := range s.Groups {
		n += g.Backends
	}
	return n
}

// Parity is how many backends of an object may be lost: n - k.
func (s Set) Parity() int { return s.Total - s.Needed }

// Overhead is how many bytes are stored for each byte: n / k.
func (s Set) Overhead() float64 { return float64(s.Total) / float64(s.Needed) }

// sizes lists the groups' numbers of backends, largest first.
func (s Set) sizes() []int {
	var out []int
	for _, g := range s.Groups {
		if g.Backends > 0 {
			out = append(out, g.Backends)
		}
	}
	slices.SortFunc(out, func(a, b int) int { return b - a })
	return out
}

// sizeOf is the size of each backend of a group.
func (s Set) sizeOf(g Group) int64 {
	if g.Size > 0 {
		return g.Size
	}
	return s.Size
}

// listed gives backends as placement takes them. Those without groups are in one,
// as they are for the placement.
func (s Set) listed() []backend.Backend {
	if len(s.Groups) == 0 {
		return make([]backend.Backend, s.Backends)
	}
	var out []backend.Backend
	for i, g := range s.Groups {
		for range g.Backends {
			out = append(out, backend.Backend{Group: fmt.Sprint(i)})
		}
	}
	return out
}

// feasible says whether every object can be placed so that groups whole groups
// and, of each other one, nodes backends may be lost.
func (s Set) feasible(groups, nodes int) bool {
	if groups == 0 && nodes == 0 {
		return s.Count() >= s.Total
	}
	return backend.Feasible(s.listed(), backend.Redundancy{Needed: s.Needed, Total: s.Total, Groups: groups, Nodes: nodes}) == nil
}

// atWorst is the most shards that one object may have in any i groups: as many
// as fit, where the redundancy does not forbid it.
func (s Set) atWorst(i int) int {
	sum := 0
	for j, size := range s.sizes() {
		if j < i {
			sum += size
		}
	}
	sum = min(sum, s.Total)
	if i <= s.RedundantGroups {
		sum = min(sum, s.Parity())
	}
	return sum
}

// groupsTolerated is how many whole groups may be lost, wherever shards lie.
func (s Set) groupsTolerated() int {
	n := 0
	for n < len(s.sizes()) && s.atWorst(n+1) <= s.Parity() {
		n++
	}
	return n
}

// groupsPossible is the largest redundant_groups that can be asked for.
func (s Set) groupsPossible() int {
	if s.Count() < s.Total {
		return 0
	}
	most := min(len(s.sizes())-1, s.Parity())
	return sort.Search(max(most, 0), func(i int) bool { return !s.feasible(i+1, 0) })
}

func (s Set) check(name string) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s: %s", ErrInvalid, name, fmt.Sprintf(format, args...))
	}
	switch {
	case s.Needed < 1:
		return bad("%d shards are needed; at least 1 is", s.Needed)
	case s.Total < s.Needed:
		return bad("%d of %d shards are needed", s.Needed, s.Total)
	case s.Total > maxShards:
		return bad("%d shards; %d are the most", s.Total, maxShards)
	case s.RedundantGroups < 0, s.RedundantNodes < 0, s.Backends < 0, s.Spares < 0, s.Size < 0:
		return bad("a number is negative")
	case len(s.Groups) > 0 && s.Backends > 0 && s.Backends != s.Count():
		return bad("%d backends, but %d in groups", s.Backends, s.Count())
	case len(s.Groups) > maxBackends:
		return bad("too many groups")
	}
	sum := 0
	for _, g := range s.Groups {
		if g.Backends < 0 || g.Size < 0 {
			return bad("group %s: a number is negative", g.Name)
		}
		if sum += min(g.Backends, maxBackends+1); sum > maxBackends {
			break
		}
	}
	if max(sum, s.Backends) > maxBackends {
		return bad("more than %d backends", maxBackends)
	}
	return nil
}

func (r Rates) check() error {
	for _, v := range []float64{r.Failures, r.GroupFailures} {
		if math.IsNaN(v) || v < 0 || v > maxRate {
			return fmt.Errorf("%w: %v failures a year", ErrInvalid, v)
		}
	}
	if r.Failures == 0 {
		return fmt.Errorf("%w: backends that never fail", ErrInvalid)
	}
	if r.Repair < 0 || r.Repair > 0 && r.Repair < time.Second || r.MaxPerDay < 0 {
		return fmt.Errorf("%w: repaired in %s, at most %d a day", ErrInvalid, r.Repair, r.MaxPerDay)
	}
	return nil
}

// filled gives the metadata's set what is always so.
func (sh Shape) filled() Shape {
	m := &sh.Meta
	m.Needed, m.Total = metaNeeded, backend.MetaBackends
	if len(m.Groups) == 0 && m.Backends == 0 {
		m.Backends = backend.MetaBackends
		m.Supply = m.Supply || sh.Data.Supply
	}
	if sh.DataFile == 0 {
		sh.DataFile = 64 << 20
	}
	return sh
}

// metaNeeded of the four metadata backends suffice to read.
const metaNeeded = 2
