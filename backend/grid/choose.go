package grid

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/threefoldtech/quantumd/backend"
)

// Choice says which nodes may be rented.
type Choice struct {
	Farms     []uint64 // empty: any
	Meta      []uint32 // nodes for metadata; empty: any of Farms
	Data      []uint32 // nodes for data; empty: any of Farms
	Exclude   []uint32
	Certified bool
}

func (c Choice) nodes(role backend.Role) []uint32 {
	if role == backend.Meta {
		return c.Meta
	}
	return c.Data
}

// filter is what the grid is asked for.
func (c Choice) filter(role backend.Role, size int64, over Connection) NodeFilter {
	f := NodeFilter{IDs: c.nodes(role), FreeHDD: size, Features: []string{"zdb"}, Certified: c.Certified, Up: true}
	if len(f.IDs) == 0 {
		f.Farms = c.Farms
	}
	if over == Mycelium {
		f.Features = append(f.Features, string(Mycelium))
	}
	return f
}

// spread chooses nodes one after the other so that a farm and a country hold as
// few backends of a role as possible.
type spread struct {
	candidates []Node
	used       map[uint32]bool // by the role, or tried in this call
	farms      map[uint64]int
	countries  map[string]int
	doubtful   map[uint32]bool // failed before: the last choice
}

func newSpread(candidates []Node, exclude []uint32, rnd *rand.Rand) *spread {
	s := &spread{used: map[uint32]bool{}, farms: map[uint64]int{}, countries: map[string]int{}, doubtful: map[uint32]bool{}}
	for _, n := range candidates {
		if n.Up && !slices.Contains(exclude, n.ID) {
			s.candidates = append(s.candidates, n)
		}
	}
	slices.SortFunc(s.candidates, func(a, b Node) int { return int(a.ID) - int(b.ID) }) // the same draw from the same answer
	rnd.Shuffle(len(s.candidates), func(i, j int) { s.candidates[i], s.candidates[j] = s.candidates[j], s.candidates[i] })
	return s
}

// taken counts a node that holds a backend of the role.
func (s *spread) taken(node uint32, farm uint64, country string) {
	s.used[node] = true
	if farm != 0 {
		s.farms[farm]++
		s.countries[country]++
	}
}

// next chooses a node with room for size, and counts it; false: there is none.
func (s *spread) next(size int64) (Node, bool) {
	best := -1
	for i, n := range s.candidates {
		if s.used[n.ID] || n.FreeHDD < size {
			continue
		}
		if best < 0 || s.less(n, s.candidates[best]) {
			best = i
		}
	}
	if best < 0 {
		return Node{}, false
	}
	n := s.candidates[best]
	s.taken(n.ID, n.Farm, n.Country)
	return n, true
}

func (s *spread) less(a, b Node) bool {
	if s.doubtful[a.ID] != s.doubtful[b.ID] {
		return s.doubtful[b.ID]
	}
	if x, y := s.farms[a.Farm], s.farms[b.Farm]; x != y {
		return x < y
	}
	return s.countries[a.Country] < s.countries[b.Country]
}

// NoNodeError says that no node is left for a backend.
type NoNodeError struct {
	ID   string
	Role backend.Role
	Size int64
}

func (e *NoNodeError) Error() string {
	return fmt.Sprintf("grid: no node is left for %s: it needs %d GiB of HDD, up, and not yet used for %s", e.ID, e.Size/GiB, e.Role)
}

// Hint names the remedy.
func (e *NoNodeError) Hint() string {
	return fmt.Sprintf("list more farms, or more nodes under %s_nodes; or ask for less with total_storage_size", e.Role)
}
