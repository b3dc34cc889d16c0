package grid

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/threefoldtech/quantumd/backend"
)

// Item is one backend that would be rented.
type Item struct {
	ID      string       `json:"id"`
	Role    backend.Role `json:"role"`
	Node    uint32       `json:"node"`
	Farm    uint64       `json:"farm"`
	Country string       `json:"country"`
	Size    int64        `json:"size"` // bytes
	USD     float64      `json:"usd"`  // a month, as the chain tells it, before discounts
}

func (i Item) String() string {
	return fmt.Sprintf("%d GiB on node %d, farm %d, %s, %.3f USD a month", i.Size/GiB, i.Node, i.Farm, i.Country, i.USD)
}

// Bill says what a Provision would rent. Where a node refuses another one is taken.
type Bill struct {
	Account Account `json:"account"`
	Items   []Item  `json:"items"`
	Held    int     `json:"held"`    // contracts that there are
	Silent  int     `json:"silent"`  // of them, those whose node does not answer
	USD     float64 `json:"usd"`     // what the items cost a month
	Dearest float64 `json:"dearest"` // USD a month of the dearest kind of backend: what one replacement may cost
	Months  float64 `json:"months"`  // that the balance lasts for the items alone; zero: unknown
	// Farms counts the backends of a role by farm, those that are there and the items;
	// farm 0: where the journal does not know.
	Farms map[backend.Role]map[uint64]int `json:"farms"`
	// Warnings are in words: what looks safe and is not.
	Warnings []string `json:"warnings"`
}

func (b *Bill) item(id string) (Item, bool) {
	i := slices.IndexFunc(b.Items, func(i Item) bool { return i.ID == id })
	if i < 0 {
		return Item{}, false
	}
	return b.Items[i], true
}

// Bill says what Provision would rent for the specs, where, and what it costs.
// Nothing is changed.
func (p *Provisioner) Bill(ctx context.Context, specs []backend.Spec) (*Bill, error) {
	w, end, err := p.turnToLook(ctx, false)
	if err != nil {
		return nil, err
	}
	defer end()
	return p.bill(ctx, w, specs)
}

func (p *Provisioner) bill(ctx context.Context, w *world, specs []backend.Spec) (*Bill, error) {
	b := &Bill{Account: w.account, Items: []Item{}, Held: len(w.held), Warnings: []string{}, Farms: map[backend.Role]map[uint64]int{}}
	for _, h := range w.held {
		if h.Err != nil {
			b.Silent++
		}
		if !h.Extra {
			b.count(h.Role, w.rows[h.Contract.Name].Farm)
		}
	}
	for _, s := range p.missing(w, specs) {
		if err := p.check(s); err != nil {
			return nil, err
		}
	}
	for _, role := range []backend.Role{backend.Meta, backend.Data} {
		price, err := p.price(ctx, w, p.size(role))
		if err != nil {
			return nil, err
		}
		b.Dearest = max(b.Dearest, price)
		missing := slices.DeleteFunc(p.missing(w, specs), func(s backend.Spec) bool { return s.Role != role })
		if len(missing) == 0 {
			continue
		}
		s, err := p.spread(ctx, w, role)
		if err != nil {
			return nil, err
		}
		for _, m := range missing {
			size := p.sizeOf(m)
			if price, err = p.price(ctx, w, size); err != nil {
				return nil, err
			}
			n, ok := s.next(size)
			if !ok {
				return nil, &NoNodeError{ID: m.ID, Role: role, Size: size}
			}
			b.Items = append(b.Items, Item{ID: m.ID, Role: role, Node: n.ID, Farm: n.Farm, Country: n.Country, Size: size, USD: price})
			b.USD += price
			b.count(role, n.Farm)
		}
	}
	b.warn()
	if b.USD > 0 && w.account.TFTPrice > 0 {
		b.Months = w.account.TFT * w.account.TFTPrice / b.USD
	}
	return b, nil
}

// price asks the chain for each size once.
func (p *Provisioner) price(ctx context.Context, w *world, size int64) (float64, error) {
	if usd, ok := w.prices[size]; ok {
		return usd, nil
	}
	usd, err := w.client.Price(ctx, size, p.o.Choice.Certified)
	if err == nil {
		w.prices[size] = usd
	}
	return usd, err
}

// missing are the specs that nothing is there for.
func (p *Provisioner) missing(w *world, specs []backend.Spec) []backend.Spec {
	return slices.DeleteFunc(slices.Clone(specs), func(s backend.Spec) bool {
		_, held := w.find(s.ID)
		_, known := p.configured(s.ID)
		return held || known
	})
}

func (b *Bill) count(role backend.Role, farm uint64) {
	if b.Farms[role] == nil {
		b.Farms[role] = map[uint64]int{}
	}
	b.Farms[role][farm]++
}

// warn says what one loss takes with it.
func (b *Bill) warn() {
	for role, farms := range b.Farms {
		total := 0
		for _, n := range farms {
			total += n
		}
		for farm, n := range farms {
			if farm != 0 && n > 1 {
				b.Warnings = append(b.Warnings, fmt.Sprintf("%d of %d %s backends are in farm %d: they may be lost together", n, total, role, farm))
			}
		}
	}
	slices.Sort(b.Warnings)
}

// spread begins a choice of nodes for a role: where backends of it are counts, and
// where renting failed lately comes last.
func (p *Provisioner) spread(ctx context.Context, w *world, role backend.Role) (*spread, error) {
	nodes, err := w.client.Nodes(ctx, p.o.Choice.filter(role, p.size(role), p.o.Connection))
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	s := newSpread(nodes, p.o.Choice.Exclude, p.rnd)
	p.mu.Unlock()
	if p.fixed == nil {
		p.fixed = map[backend.Role][]uint32{}
	}
	if order, ok := p.fixed[role]; ok {
		s.reorder(order)
	} else {
		p.fixed[role] = s.order()
	}
	for _, h := range w.held {
		if h.Role == role {
			r := w.rows[h.Contract.Name]
			s.taken(h.Contract.Node, r.Farm, r.Country)
		}
	}
	for _, r := range w.rows {
		if r.Error != "" && r.State == Gone && time.Since(r.Changed) < doubt {
			s.doubtful[r.Node] = true
		}
	}
	return s, nil
}

// order and reorder keep the draw between a plan and what is done: what was shown
// is what is rented, as far as the nodes are there still.
func (s *spread) order() (ids []uint32) {
	for _, n := range s.candidates {
		ids = append(ids, n.ID)
	}
	return ids
}

func (s *spread) reorder(ids []uint32) {
	place := map[uint32]int{}
	for i, id := range ids {
		place[id] = i - len(ids)
	}
	slices.SortStableFunc(s.candidates, func(a, b Node) int { return place[a.ID] - place[b.ID] })
}

var errTooDear = errors.New("grid: more than the most that may be spent a month")
