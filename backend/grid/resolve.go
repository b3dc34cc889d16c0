package grid

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/threefoldtech/quantumd/backend"
)

// Held is a backend that the account pays for.
type Held struct {
	ID       string
	Role     backend.Role
	Contract Contract
	// Namespace is how the node names it, whether it answers or not.
	Namespace string
	// Backend has an address where that is known: from the journal, from the
	// configuration or from its node.
	Backend backend.Backend
	// Err says why the node tells nothing of it, or what is wrong. It is no reason to
	// rent another one.
	Err error
	// Extra: another contract has the same id, and is the one in use.
	Extra bool
}

// world is what one call knows of the grid.
type world struct {
	client  Client
	account Account
	held    []Held
	rows    map[string]Row    // by contract name
	prices  map[int64]float64 // US dollars a month, by size; asked once
}

func (w *world) find(id string) (*Held, bool) {
	for i := range w.held {
		if w.held[i].ID == id && !w.held[i].Extra {
			return &w.held[i], true
		}
	}
	return nil, false
}

// madeInVain says whether a contract never held anything: the journal saw it made
// and not used. What a contract holds that the journal does not know, nobody knows.
func (w *world) madeInVain(h Held) bool {
	r := w.rows[h.Contract.Name]
	return r.State == Intended || r.State == Made
}

// settle is how long a contract that was asked for may take to be on the chain: a
// few blocks of 6 s.
const settle = time.Minute

// look finds every backend of the deployment: by the index, by the chain where the
// journal knows more than that, and then by the nodes.
func (p *Provisioner) look(ctx context.Context, read bool) (*world, error) {
	c, err := p.client(ctx)
	if err != nil {
		return nil, err
	}
	w := &world{client: c, rows: map[string]Row{}, prices: map[int64]float64{}}
	if w.account, err = c.Account(ctx); err != nil {
		return nil, err
	}
	list, err := c.Contracts(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := p.o.Journal.Rows(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		w.rows[r.Name] = r
	}
	if list, err = p.behind(ctx, w, list); err != nil {
		return nil, err
	}
	for _, contract := range list {
		if role, _, ok := parseName(contract.Name, p.o.Deployment, w.account.Twin); ok {
			w.held = append(w.held, Held{ID: p.idOf(w, role, contract), Role: role, Contract: contract, Namespace: namespaceOf(w.account.Twin, contract)})
		}
	}
	w.mark()
	if err := p.addresses(ctx, w, read); err != nil {
		return nil, err
	}
	return w, nil
}

// idOf gives the id of a contract's backend: the configuration's where that lists it,
// for the system goes by that.
func (p *Provisioner) idOf(w *world, role backend.Role, c Contract) string {
	for _, b := range p.o.Known {
		if b.Role == role && b.Namespace == namespaceOf(w.account.Twin, c) {
			return b.ID
		}
	}
	return idOf(p.o.Deployment, role, c)
}

// behind corrects the index's list by what the journal knows: of each contract that
// the index does not have as the journal does, the chain is asked. What the index
// still lists and the journal saw cancelled is left out.
func (p *Provisioner) behind(ctx context.Context, w *world, list []Contract) ([]Contract, error) {
	for name, row := range w.rows {
		if _, _, ours := parseName(name, p.o.Deployment, w.account.Twin); !ours {
			continue // of another account: what its chain has is not asked here
		}
		if row.State == Gone {
			list = slices.DeleteFunc(list, func(c Contract) bool { return c.ID == row.Contract })
			continue
		}
		if row.Contract != 0 && slices.ContainsFunc(list, func(c Contract) bool { return c.ID == row.Contract }) {
			continue
		}
		found, err := p.settled(ctx, w.client, row)
		if err != nil {
			return nil, fmt.Errorf("whether node %d has the contract %s: %w", row.Node, name, err)
		}
		list = slices.DeleteFunc(list, func(c Contract) bool { return c.Name == name })
		if found != nil {
			list = append(list, *found)
			continue
		}
		row.State, row.Error = Gone, "there is no such contract"
		if err := p.save(ctx, w, row); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// settled asks the chain for the contract of a row. One that was asked for a moment
// ago may be in no block yet: it is waited for.
func (p *Provisioner) settled(ctx context.Context, c Client, row Row) (*Contract, error) {
	for {
		on, err := c.OnNode(ctx, row.Node)
		if err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(on, func(c Contract) bool { return c.Name == row.Name }); i >= 0 {
			return &on[i], nil
		}
		if row.State != Intended || time.Since(row.Changed) > p.o.Settle {
			return nil, nil
		}
		if err := p.pause(ctx); err != nil {
			return nil, err
		}
	}
}

// mark says which contracts of an id are too many: the one that the journal knows to
// be in use counts, else the oldest; never one that was replaced.
func (w *world) mark() {
	slices.SortStableFunc(w.held, func(a, b Held) int {
		return cmp.Or(cmp.Compare(w.rank(a), w.rank(b)), cmp.Compare(a.Contract.ID, b.Contract.ID))
	})
	seen := map[string]bool{}
	for i := range w.held {
		w.held[i].Extra = seen[w.held[i].ID] || w.rank(w.held[i]) == rankReplaced
		seen[w.held[i].ID] = true
	}
	slices.SortStableFunc(w.held, func(a, b Held) int { return compareIDs(a.ID, b.ID) })
}

const (
	rankUsed = iota
	rankUnknown
	rankReplaced
)

func (w *world) rank(h Held) int {
	r, ok := w.rows[h.Contract.Name]
	switch {
	case ok && r.State == Ready && r.Contract == h.Contract.ID:
		return rankUsed
	case ok && r.State == Replaced:
		return rankReplaced
	}
	return rankUnknown
}

// atOnce is how many nodes are asked at a time: each takes seconds over the relay.
const atOnce = 8

// addresses fills in where each backend is. Nodes are asked of what is not known,
// and with read of all.
func (p *Provisioner) addresses(ctx context.Context, w *world, read bool) error {
	var g errgroup.Group
	g.SetLimit(atOnce)
	var mu sync.Mutex
	for i := range w.held {
		h := &w.held[i]
		b, known := p.known(w, *h)
		h.Backend = b
		if known && !read {
			continue
		}
		g.Go(func() error {
			z, err := w.client.Read(ctx, h.Contract.Node, h.Contract.ID)
			if err == nil {
				b, err = p.backendOf(h.ID, h.Role, h.Contract, z, w)
			}
			mu.Lock()
			defer mu.Unlock()
			if h.Err = err; err == nil {
				h.Backend = b
			}
			return nil // each has its own error
		})
	}
	_ = g.Wait()
	return ctx.Err()
}

// known gives a backend whose address needs no node.
func (p *Provisioner) known(w *world, h Held) (backend.Backend, bool) {
	if r, ok := w.rows[h.Contract.Name]; ok && r.Address.IsValid() && r.Contract == h.Contract.ID {
		return r.Backend(p.o.Password, p.group(r.Farm)), true
	}
	for _, b := range p.o.Known {
		if b.Namespace == namespaceOf(w.account.Twin, h.Contract) {
			b.ID = h.ID
			return b, true
		}
	}
	return backend.Backend{ID: h.ID, Role: h.Role}, false
}

// namespaceOf is how a node names the namespace of a zdb.
func namespaceOf(twin uint32, c Contract) string { return fmt.Sprintf("%d-%d-%s", twin, c.ID, c.Name) }

// backendOf checks what a node says of a zdb.
func (p *Provisioner) backendOf(id string, role backend.Role, c Contract, z Zdb, w *world) (backend.Backend, error) {
	b := backend.Backend{ID: id, Role: role, Namespace: z.Namespace, Password: p.o.Password}
	if z.Role != role {
		return b, &Error{Kind: ErrWorkload, Msg: fmt.Sprintf("the zdb of contract %d is in the mode of %s, and %s is wanted", c.ID, z.Role, role)}
	}
	addrs := p.o.Connection.addresses(z.Addresses)
	if len(addrs) == 0 || z.Port == 0 {
		return b, &Error{Kind: ErrWorkload, Msg: fmt.Sprintf("node %d gives its zdb no %s address", c.Node, p.o.Connection), Remedy: "choose another zdb_connection_type, or other nodes"}
	}
	b.Address = netip.AddrPortFrom(addrs[0], z.Port)
	if r, ok := w.rows[c.Name]; ok {
		b.Group = p.group(r.Farm)
	}
	return b, nil
}

// UnreachableError says that backends exist and their nodes tell nothing: nothing
// is rented in their place because of an outage.
type UnreachableError struct {
	IDs []string
	Err error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("grid: %d backends exist and do not answer (%v): nothing was rented in their place: %v", len(e.IDs), e.IDs, e.Err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *UnreachableError) Hint() string {
	return "wait until their nodes are back and run the same command again; --replace-unreachable rents others in their place, which costs money twice until the old ones are cancelled"
}

var errNotHeld = errors.New("there is no contract")
