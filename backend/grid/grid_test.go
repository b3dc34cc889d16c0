package grid_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/grid"
)

func TestRentsWhatIsMissing(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 20)
	first := e.provision()
	require.Equal(t, 9, e.f.made)
	require.Equal(t, first, e.provision(), "a second call changes nothing")
	require.Equal(t, 9, e.f.made)
	listed, err := e.provisioner().List(t.Context())
	require.NoError(t, err)
	require.Equal(t, first, listed, "without asking the grid")

	e.j.rows = nil // a new machine
	require.Equal(t, first, e.provision())
	require.Equal(t, 9, e.f.made)
	nodes := map[string]map[uint32]bool{"meta": {}, "data": {}}
	for _, c := range e.f.contracts {
		require.False(t, nodes[string(c.q.Role)][c.Node], "two of a role on node %d", c.Node)
		nodes[string(c.q.Role)][c.Node] = true
		require.Equal(t, fmt.Sprintf("demo_13_%s_%d", c.q.Role, c.Node), c.Name)
	}
}

func TestSpreadsOverFarms(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		e := newEnv(t, 20)
		e.o.Rand = rand.New(rand.NewPCG(seed, 1))
		e.o.FarmGroups = true
		farms := map[backend.Role]map[string]int{backend.Meta: {}, backend.Data: {}}
		for _, b := range e.provision() {
			farms[b.Role][b.Group]++
		}
		require.Len(t, farms[backend.Meta], 4)
		require.Len(t, farms[backend.Data], 5, "%v", farms)
	}
}

// The plan's nodes are those that are rented.
func TestPlanIsKept(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 20)
	p := e.provisioner()
	bill, err := p.Bill(t.Context(), shape)
	require.NoError(t, err)
	require.Zero(t, e.f.made)
	require.Len(t, bill.Items, 9)
	require.InDelta(t, 4*0.01+5*0.05, bill.USD, 1e-9)
	require.InDelta(t, 0.05, bill.Dearest, 1e-9)
	require.InDelta(t, 1000*0.02/bill.USD, bill.Months, 1e-9)
	steps, err := p.Plan(t.Context(), shape)
	require.NoError(t, err)
	_, err = p.Provision(t.Context(), shape)
	require.NoError(t, err)
	for i, item := range bill.Items {
		require.Equal(t, backend.Create, steps[i].Action)
		require.Equal(t, item.String(), steps[i].Detail)
		for _, c := range e.f.contracts {
			if c.Project == "qsfs/demo/"+item.ID {
				require.Equal(t, item.Node, c.Node, item.ID)
				require.Equal(t, item.Size, c.q.Size)
			}
		}
	}
}

func TestOtherNodesAreTried(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 16)
	e.o.MaxRetries = 6 // as many as are bad
	e.f.refuse = func(q grid.Request) error {
		if q.Node%4 == 1 {
			return &grid.Error{Kind: grid.ErrCapacity, Msg: "no more free devices found"}
		}
		return nil
	}
	e.f.broken = func(node uint32) error {
		if node == 2 {
			return &grid.Error{Kind: grid.ErrWorkload, Msg: "error: could not start"}
		}
		return nil
	}
	e.f.small = func(node uint32) bool { return node == 3 }
	e.provision()
	require.Len(t, e.f.contracts, 9, "those that do not work are given back")
	for _, c := range e.f.contracts {
		require.NotContains(t, []uint32{1, 2, 3, 5, 9}, c.Node)
	}

	e.o.Choice.Farms = []uint64{1}
	e.o.Deployment = "other"
	_, err := e.provisioner().Provision(t.Context(), shape)
	require.NoError(t, err)
	results, err := e.provisioner().Provision(t.Context(), shape)
	require.NoError(t, err)
	var none *grid.NoNodeError // of the four nodes one refuses
	require.ErrorAs(t, errors.Join(results[0].Err, results[1].Err, results[2].Err, results[3].Err), &none)
	require.Contains(t, none.Hint(), "meta_nodes")
}

// An outage is no reason to rent: what exists is kept, and said.
func TestOutage(t *testing.T) {
	t.Parallel()
	for _, journal := range []string{"kept", "lost"} {
		t.Run(journal, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, 20)
			first := e.provision()
			if journal == "lost" {
				e.j.rows = nil
			}
			gone := map[uint32]bool{}
			for _, c := range e.f.contracts {
				if len(gone) < 3 {
					gone[c.Node] = true
				}
			}
			e.f.down = func(n uint32) bool { return gone[n] }
			e.f.silent = e.f.down
			results, err := e.provisioner().Provision(t.Context(), shape)
			require.NoError(t, err)
			failed := 0
			for i, r := range results {
				if r.Err != nil {
					failed++
					continue
				}
				require.Equal(t, first[i], r.Backend)
			}
			require.GreaterOrEqual(t, failed, 3)
			require.Equal(t, 9, e.f.made)
			require.Len(t, e.f.contracts, 9)
			steps, err := e.provisioner().Plan(t.Context(), shape)
			require.NoError(t, err)
			for _, s := range steps {
				require.Equal(t, backend.Keep, s.Action)
			}

			e.f.down, e.f.silent = nil, nil
			require.Equal(t, first, e.provision())
			require.Equal(t, 9, e.f.made)
		})
	}
}

func TestUnreachableAreReplacedOnDemand(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 20)
	e.provision()
	e.j.rows = nil
	var lost uint32
	for _, c := range e.f.contracts {
		if c.Project == "qsfs/demo/data2" {
			lost = c.Node
		}
	}
	e.f.down = func(n uint32) bool { return n == lost }
	e.f.silent = e.f.down
	e.o.ReplaceUnreachable = true
	results, err := e.provisioner().Provision(t.Context(), shape[6:7])
	require.NoError(t, err)
	require.NoError(t, results[0].Err)
	require.Equal(t, 10, e.f.made)
	require.Len(t, e.f.contracts, 10, "the old one goes on until it is cancelled")

	e.f.down, e.f.silent, e.o.ReplaceUnreachable = nil, nil, false
	again, err := e.provisioner().Provision(t.Context(), shape[6:7])
	require.NoError(t, err)
	require.Equal(t, results[0].Backend, again[0].Backend, "the older contract does not come back")
	held, err := e.provisioner().Find(t.Context())
	require.NoError(t, err)
	extra := 0
	for _, h := range held {
		if h.Extra {
			extra++
			require.Equal(t, lost, h.Contract.Node)
		}
	}
	require.Equal(t, 1, extra)
}

// However the SDK's process ends in the middle of a batch, the next call neither
// forgets a contract nor makes a second one.
func TestCrashInTheMiddle(t *testing.T) {
	t.Parallel()
	for at := 1; at <= 9; at++ {
		for _, made := range []bool{false, true} {
			for _, listed := range []bool{false, true} {
				t.Run(fmt.Sprint(at, made, listed), func(t *testing.T) {
					t.Parallel()
					e := newEnv(t, 20)
					e.f.index = func(grid.Contract) bool { return listed }
					e.f.crash = func(n int, _ grid.Request) (bool, bool) { return made, n == at }
					ctx, cancel := context.WithCancel(t.Context())
					e.o.Observe = func(p grid.Progress) {
						if e.f.asked >= at { // and the program itself ends there
							cancel()
						}
					}
					_, _ = e.provisioner().Provision(ctx, shape) // what it says is for a person
					cancel()
					e.o.Observe, e.f.crash = nil, nil
					e.provision()
					require.Len(t, e.f.contracts, 9)
					names := map[string]bool{}
					for _, c := range e.f.contracts {
						names[c.Project] = true
					}
					require.Len(t, names, 9)
				})
			}
		}
	}
}

// A deployment that the reference made bears no ids: it is taken over as it is.
func TestReferencesDeployment(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 20)
	for n := range uint32(9) {
		role := backend.Meta
		if n >= 4 {
			role = backend.Data
		}
		name := fmt.Sprintf("demo_13_%s_%d", role, n+1)
		e.f.make(grid.Request{Name: name, Project: "vm/" + name, Node: n + 1, Role: role, Size: grid.GiB, Password: "pw"})
	}
	e.f.make(grid.Request{Name: "other_13_data_1", Node: 1, Role: backend.Data})
	e.f.make(grid.Request{Name: "demo_14_data_1", Node: 1, Role: backend.Data})
	specs, err := e.provisioner().Wanted(t.Context(), 4, 6)
	require.NoError(t, err)
	require.Len(t, specs, 10)
	results, err := e.provisioner().Provision(t.Context(), specs)
	require.NoError(t, err)
	for _, r := range results {
		require.NoError(t, r.Err)
	}
	require.Equal(t, 12, e.f.made, "one is new")
	require.Equal(t, "data-c505", specs[4].ID)
	require.NoError(t, e.provisioner().Retire(t.Context(), "data-c505"))
	_, there := e.f.contracts[505]
	require.False(t, there)
	require.Len(t, e.f.contracts, 11)

	// The system knows them by the configuration's ids.
	known := results[5].Backend
	known.ID = "data1"
	e.o.Known = []backend.Backend{known}
	require.NoError(t, e.provisioner().Retire(t.Context(), "data1"))
	_, there = e.f.contracts[506]
	require.False(t, there)
}

// Where this machine reaches none of several new ones, it is this machine: they are
// kept, and used by the next call.
func TestNoneIsReached(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 20)
	e.f.silent = func(uint32) bool { return true }
	_, err := e.provisioner().Provision(t.Context(), shape)
	require.ErrorContains(t, err, "reaches none of them")
	made := e.f.made
	require.Len(t, e.f.contracts, made)
	require.Less(t, made, 9, "nothing more is rented")
	e.f.silent = nil
	e.provision()
	require.Equal(t, 9, e.f.made)
}

func TestMostMoney(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 20)
	e.o.MaxUSD = 0.2
	_, err := e.provisioner().Provision(t.Context(), shape)
	require.ErrorContains(t, err, "at most 0.20")
	require.Zero(t, e.f.made)
	require.Empty(t, e.j.rows)
}

// A daemon rents for so much, and what it has rented already counts.
func TestStandingLimit(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 20)
	e.o.Known = e.provision()
	e.o.MaxUSD = 0.11
	results, err := e.provisioner().Provision(t.Context(), []backend.Spec{{ID: "data5", Role: backend.Data}})
	require.NoError(t, err)
	require.NoError(t, results[0].Err)
	_, err = e.provisioner().Provision(t.Context(), []backend.Spec{{ID: "data6", Role: backend.Data}, {ID: "data7", Role: backend.Data}})
	require.ErrorContains(t, err, "0.15 USD, and at most 0.11")
	require.Equal(t, 10, e.f.made)
}

// A contract that was never made has no namespace; that hides no listed backend in its
// server's default one.
func TestListedInTheDefaultNamespace(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 20)
	e.o.Known = []backend.Backend{{ID: "data0", Role: backend.Data}}
	require.NoError(t, e.j.Save(t.Context(), grid.Row{Name: "demo_13_data_1", ID: "data1", Role: backend.Data, Node: 1, State: grid.Gone, Error: "refused"}))
	list, err := e.provisioner().List(t.Context())
	require.NoError(t, err)
	require.Equal(t, e.o.Known, list)
}

// What a configuration lists is counted, whoever runs it: nothing is rented beside it.
func TestListedBackendsCount(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 20)
	for _, s := range shape {
		e.o.Known = append(e.o.Known, backend.Backend{ID: s.ID, Role: s.Role, Namespace: "mine" + s.ID})
	}
	specs, err := e.provisioner().Wanted(t.Context(), 4, 5)
	require.NoError(t, err)
	require.Equal(t, shape, specs)
}

func TestRefusesNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "a_b", "a-b", "a b", "ä", "averyverylongname"} {
		_, err := grid.New(grid.Options{Deployment: name})
		require.ErrorIs(t, err, grid.ErrName, name)
	}
	e := newEnv(t, 1)
	e.j.busy = true
	_, err := e.provisioner().Provision(t.Context(), shape)
	require.ErrorIs(t, err, grid.ErrBusy)
}

// Whatever fails in whatever order, in the end each backend has one contract, and
// none is left over.
func TestRandomFaults(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		e := newEnv(t, 25)
		chance := func(p float64) bool { return rnd.Float64() < p }
		for range 6 {
			e.f.refuse = func(grid.Request) error {
				if chance(0.2) {
					return &grid.Error{Kind: grid.ErrRefused}
				}
				return nil
			}
			bad := map[uint32]bool{}
			for n := range uint32(26) {
				bad[n] = chance(0.15)
			}
			e.f.broken = func(n uint32) error {
				if bad[n] && chance(0.5) {
					return &grid.Error{Kind: grid.ErrNodeDown}
				}
				return nil
			}
			e.f.silent = func(n uint32) bool { return bad[n] }
			behind := chance(0.5)
			cut := e.f.next
			e.f.index = func(c grid.Contract) bool { return !behind || c.ID <= cut }
			e.f.crash = func(int, grid.Request) (bool, bool) { return chance(0.5), chance(0.1) }
			_, _ = e.provisioner().Provision(t.Context(), shape)
		}
		e.f.refuse, e.f.broken, e.f.silent, e.f.crash, e.f.index = nil, nil, nil, nil, nil
		results, err := e.provisioner().Provision(t.Context(), shape)
		require.NoError(t, err, "seed %d", seed)
		for _, r := range results {
			require.NoError(t, r.Err, "seed %d", seed)
		}
		ids := map[string]int{}
		for _, c := range e.f.contracts {
			ids[c.Project]++
		}
		require.Len(t, e.f.contracts, 9, "seed %d: %v", seed, ids)
		require.Len(t, ids, 9)
	}
}

// A backend that another program made and that is replaced keeps its id: the one in
// its place is found by it, and not rented again.
func TestReferencesBackendIsReplacedOnce(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 20)
	e.f.make(grid.Request{Name: "demo_13_data_1", Project: "vm/demo_13_data_1", Node: 1, Role: backend.Data, Size: grid.GiB, Password: "pw"})
	e.f.down = func(node uint32) bool { return node == 1 }
	e.o.ReplaceUnreachable = true
	spec := []backend.Spec{{ID: "data-c501", Role: backend.Data}}
	first, err := e.provisioner().Provision(t.Context(), spec)
	require.NoError(t, err)
	require.NoError(t, first[0].Err)
	require.Equal(t, 2, e.f.made)
	again, err := e.provisioner().Provision(t.Context(), spec)
	require.NoError(t, err)
	require.Equal(t, first[0].Backend, again[0].Backend)
	require.Equal(t, 2, e.f.made)
}

// What no contract could say of itself is not rented: it would not be found again.
func TestRefusesIDs(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 20)
	for _, s := range []backend.Spec{{ID: "x", Role: backend.Data}, {ID: "meta0", Role: backend.Data}, {ID: "data0", Role: "both"}, {ID: "data 0", Role: backend.Data}, {ID: "", Role: backend.Meta}} {
		results, err := e.provisioner().Provision(t.Context(), []backend.Spec{s, {ID: "data7", Role: backend.Data}})
		require.NoError(t, err)
		require.Error(t, results[0].Err, s)
		require.NoError(t, results[1].Err)
		_, err = e.provisioner().Plan(t.Context(), []backend.Spec{s})
		require.Error(t, err, s)
	}
	require.Equal(t, 1, e.f.made)
}

// Only what the journal knows to have been made and never used is given back because
// it does not work: of others nobody knows what they hold.
func TestBrokenIsNotCancelled(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 20)
	e.provision()
	e.f.broken = func(uint32) error { return &grid.Error{Kind: grid.ErrWorkload, Msg: "is paused"} }
	e.j.rows = nil // as on a new machine
	for range 2 {
		results, err := e.provisioner().Provision(t.Context(), shape)
		require.NoError(t, err)
		for _, r := range results {
			require.ErrorIs(t, r.Err, grid.ErrWorkload)
		}
	}
	require.Len(t, e.f.contracts, 9)
	require.Equal(t, 9, e.f.made)
}

// Another process that rents is waited for.
func TestTurnIsWaitedFor(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 20)
	e.o.Turn = time.Minute
	end, err := e.j.Begin(t.Context())
	require.NoError(t, err)
	done := make(chan []backend.Backend)
	p := e.provisioner()
	go func() {
		results, err := p.Provision(t.Context(), shape[:1])
		if err != nil {
			results = nil
		}
		var out []backend.Backend
		for _, r := range results {
			out = append(out, r.Backend)
		}
		done <- out
	}()
	require.Eventually(t, func() bool { return e.j.refused() > 3 }, 5*time.Second, time.Millisecond)
	end()
	require.Len(t, <-done, 1)

	end, err = e.j.Begin(t.Context())
	require.NoError(t, err)
	defer end()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = e.provisioner().Provision(ctx, shape)
	require.ErrorIs(t, err, context.Canceled)
}

// A backend may be asked for that is larger than the others.
func TestOwnSize(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 20)
	specs := []backend.Spec{{ID: "data0", Role: backend.Data, Size: 20*grid.GiB - 5}, {ID: "data1", Role: backend.Data, Size: 1}}
	p := e.provisioner()
	bill, err := p.Bill(t.Context(), specs)
	require.NoError(t, err)
	require.InDelta(t, 0.25, bill.USD, 1e-9)
	_, err = p.Provision(t.Context(), specs)
	require.NoError(t, err)
	sizes := map[string]int64{}
	for _, c := range e.f.contracts {
		sizes[c.Project] = c.q.Size
	}
	require.Equal(t, map[string]int64{"qsfs/demo/data0": 20 * grid.GiB, "qsfs/demo/data1": 5 * grid.GiB}, sizes)
	rows, err := p.Rows(t.Context())
	require.NoError(t, err)
	require.InDelta(t, bill.USD, rows[0].USD+rows[1].USD, 1e-9)
}

// What another account rented is not sought on this one's chain, and not forgotten.
func TestOtherAccountsRows(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 20)
	first := e.provision()
	rows := e.j.rows
	e.f = newFake(20)
	e.f.twin = 14
	e.o.Open = func(context.Context) (grid.Client, error) { return e.f, nil }
	e.o.Dialer = e.f
	_, err := e.provisioner().Find(t.Context())
	require.NoError(t, err)
	require.Equal(t, rows, e.j.rows)
	list, err := e.provisioner().List(t.Context())
	require.NoError(t, err)
	require.Equal(t, first, list)
}

// Without a size nothing is rented; what exists is used.
func TestNoSize(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 20)
	first := e.provision()
	e.o.DataSize = 0
	require.Equal(t, first, e.provision())
	results, err := e.provisioner().Provision(t.Context(), []backend.Spec{{ID: "data5", Role: backend.Data}})
	require.NoError(t, err)
	require.ErrorIs(t, results[0].Err, grid.ErrNoSize)
	_, err = e.provisioner().Bill(t.Context(), []backend.Spec{{ID: "data5", Role: backend.Data}})
	require.ErrorIs(t, err, grid.ErrNoSize)
	require.Equal(t, 9, e.f.made)
}
