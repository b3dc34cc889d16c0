package grid_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/grid"
)

// fake is a grid in memory. Faults are functions that tests set.
type fake struct {
	mu        sync.Mutex
	nodes     []grid.Node
	contracts map[uint64]*rented
	next      uint64
	made      int // contracts, ever
	twin      uint32
	tft       float64

	refuse  func(q grid.Request) error                       // no contract
	broken  func(node uint32) error                          // of a made zdb
	down    func(node uint32) bool                           // the node does not answer
	silent  func(node uint32) bool                           // its zdb is not reached
	small   func(node uint32) bool                           // its zdb has not the room
	index   func(c grid.Contract) bool                       // whether the index lists it
	crash   func(n int, q grid.Request) (made bool, at bool) // the SDK's process ends at the nth request
	asked   int
	deploys int
}

type rented struct {
	grid.Contract
	q    grid.Request
	addr netip.Addr
}

func newFake(nodes int) *fake {
	f := &fake{contracts: map[uint64]*rented{}, next: 500, twin: 13, tft: 1000}
	for i := range nodes {
		f.nodes = append(f.nodes, grid.Node{ID: uint32(i + 1), Farm: uint64(i%5 + 1), Country: []string{"BE", "DE", "EG"}[i%3], FreeHDD: 1 << 42, Up: true})
	}
	return f
}

func (f *fake) Account(context.Context) (grid.Account, error) {
	return grid.Account{Twin: f.twin, TFT: f.tft, TFTPrice: 0.02}, nil
}

func (f *fake) Nodes(_ context.Context, q grid.NodeFilter) ([]grid.Node, error) {
	return slices.DeleteFunc(slices.Clone(f.nodes), func(n grid.Node) bool {
		return len(q.IDs) > 0 && !slices.Contains(q.IDs, n.ID) || len(q.Farms) > 0 && !slices.Contains(q.Farms, n.Farm) || n.FreeHDD < q.FreeHDD || q.Certified && !n.Certified
	}), nil
}

func (f *fake) list(fit func(grid.Contract) bool) []grid.Contract {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []grid.Contract
	for _, c := range f.contracts {
		if fit(c.Contract) {
			out = append(out, c.Contract)
		}
	}
	slices.SortFunc(out, func(a, b grid.Contract) int { return int(a.ID) - int(b.ID) })
	return out
}

func (f *fake) Contracts(context.Context) ([]grid.Contract, error) {
	return f.list(func(c grid.Contract) bool { return f.index == nil || f.index(c) }), nil
}

func (f *fake) OnNode(_ context.Context, node uint32) ([]grid.Contract, error) {
	return f.list(func(c grid.Contract) bool { return c.Node == node }), nil
}

func (f *fake) make(q grid.Request) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next++
	f.made++
	addr := netip.AddrFrom16([16]byte{4, 0, 14: byte(q.Node >> 8), 15: byte(q.Node)})
	f.contracts[f.next] = &rented{grid.Contract{ID: f.next, Node: q.Node, Name: q.Name, Project: q.Project, Created: time.Now()}, q, addr}
	return f.next
}

func (f *fake) Deploy(ctx context.Context, list []grid.Request) ([]grid.Deployed, error) {
	f.deploys++
	out := make([]grid.Deployed, len(list))
	var errs []error
	for i, q := range list {
		f.asked++
		if f.crash != nil {
			if made, at := f.crash(f.asked, q); at {
				if made {
					f.make(q)
				}
				return nil, &grid.Error{Kind: grid.ErrCrashed}
			}
		}
		if f.refuse != nil {
			if out[i].Err = f.refuse(q); out[i].Err != nil {
				errs = append(errs, out[i].Err)
				continue
			}
		}
		out[i].Contract = f.make(q)
	}
	return out, errors.Join(errs...)
}

func (f *fake) Read(_ context.Context, node uint32, contract uint64) (grid.Zdb, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down != nil && f.down(node) {
		return grid.Zdb{}, &grid.Error{Kind: grid.ErrNodeDown, Msg: fmt.Sprintf("node %d", node)}
	}
	c, ok := f.contracts[contract]
	if !ok {
		return grid.Zdb{}, &grid.Error{Kind: grid.ErrWorkload, Msg: "no such deployment"}
	}
	if f.broken != nil {
		if err := f.broken(node); err != nil {
			return grid.Zdb{}, err
		}
	}
	return grid.Zdb{Name: c.Name, Role: c.q.Role, Namespace: fmt.Sprintf("%d-%d-%s", f.twin, contract, c.Name), Size: c.q.Size,
		Addresses: []netip.Addr{netip.MustParseAddr("2a02::1"), c.addr}, Port: 9900}, nil
}

func (f *fake) Cancel(_ context.Context, list ...uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range list {
		delete(f.contracts, id)
	}
	return nil
}

func (f *fake) Price(_ context.Context, size int64, _ bool) (float64, error) {
	return float64(size/grid.GiB) * 0.01, nil
}

func (f *fake) Close() error { return nil }

// Dial reaches the zdbs of the grid.
func (f *fake) Dial(_ context.Context, b backend.Backend) (backend.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.contracts {
		if netip.AddrPortFrom(c.addr, 9900) == b.Address && b.Namespace == fmt.Sprintf("%d-%d-%s", f.twin, c.ID, c.Name) {
			if f.silent != nil && f.silent(c.Node) {
				break
			}
			if b.Password != c.q.Password {
				return nil, backend.ErrAccess
			}
			limit := c.q.Size
			if f.small != nil && f.small(c.Node) {
				limit /= 2
			}
			return conn{role: c.q.Role, limit: limit}, nil
		}
	}
	return nil, &backend.UnreachableError{Address: b.Address, Err: errors.New("no route")}
}

type conn struct {
	backend.Conn
	role  backend.Role
	limit int64
}

func (c conn) Info(context.Context) (backend.NamespaceInfo, error) {
	return backend.NamespaceInfo{Sequential: c.role == backend.Data, Limit: c.limit}, nil
}
func (conn) Close() error { return nil }

// memory is a journal.
type memory struct {
	mu   sync.Mutex
	rows []grid.Row
	busy bool
	no   int // turns that were refused
}

func (m *memory) refused() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.no
}

func (m *memory) Begin(context.Context) (func(), error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.busy {
		m.no++
		return nil, grid.ErrBusy
	}
	m.busy = true
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.busy = false
	}, nil
}

func (m *memory) Save(_ context.Context, r grid.Row) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rows = append(slices.DeleteFunc(m.rows, func(o grid.Row) bool { return o.Name == r.Name }), r)
	return nil
}

func (m *memory) Rows(context.Context) ([]grid.Row, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.rows), nil
}

// env is a deployment on a fake grid.
type env struct {
	t *testing.T
	f *fake
	j *memory
	o grid.Options
}

func newEnv(t *testing.T, nodes int) *env {
	f, j := newFake(nodes), new(memory)
	return &env{t: t, f: f, j: j, o: grid.Options{
		Deployment: "demo", Open: func(context.Context) (grid.Client, error) { return f, nil }, Journal: j, Password: "pw",
		MetaSize: grid.GiB, DataSize: 5 * grid.GiB, MaxRetries: 5, Dialer: f, Connection: grid.Any,
		Turn: 20 * time.Millisecond, Reach: 20 * time.Millisecond, Settle: 30 * time.Millisecond, Pause: time.Millisecond,
	}}
}

// provisioner is one after a restart of the program.
func (e *env) provisioner() *grid.Provisioner {
	e.t.Helper()
	p, err := grid.New(e.o)
	require.NoError(e.t, err)
	return p
}

var shape = []backend.Spec{
	{ID: "meta0", Role: backend.Meta}, {ID: "meta1", Role: backend.Meta}, {ID: "meta2", Role: backend.Meta}, {ID: "meta3", Role: backend.Meta},
	{ID: "data0", Role: backend.Data}, {ID: "data1", Role: backend.Data}, {ID: "data2", Role: backend.Data}, {ID: "data3", Role: backend.Data}, {ID: "data4", Role: backend.Data},
}

// provision wants all of the shape.
func (e *env) provision() []backend.Backend {
	e.t.Helper()
	results, err := e.provisioner().Provision(e.t.Context(), shape)
	require.NoError(e.t, err)
	var out []backend.Backend
	for i, r := range results {
		require.NoError(e.t, r.Err, r.Spec.ID)
		require.Equal(e.t, shape[i].ID, r.Backend.ID)
		out = append(out, r.Backend)
	}
	return out
}
