package gridtest_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/rs/zerolog"
	zlog "github.com/rs/zerolog/log"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/backend/grid/gridtest"
	"github.com/threefoldtech/quantumd/backend/grid/sdkprocess"
)

// TestMain lets the test's own binary be the SDK's process.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "grid-sdk" {
		if err := sdkprocess.Main(gridtest.Open); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0") // of the children: else each sleeps a second before it ends
	zlog.Logger = zerolog.Nop()                  // the SDK's own log, which goes to standard error
	os.Exit(m.Run())
}

func options(g *gridtest.Grid) sdkprocess.Options {
	return sdkprocess.Options{Mnemonic: gridtest.Mnemonic, Network: "dev", ProxyURL: g.URL()}
}

type opener func(t *testing.T, o sdkprocess.Options) (grid.Client, error)

func direct(t *testing.T, o sdkprocess.Options) (grid.Client, error) {
	return gridtest.Open(t.Context(), o)
}

func process(t *testing.T, o sdkprocess.Options) (grid.Client, error) {
	self, err := os.Executable()
	require.NoError(t, err)
	return sdkprocess.Start(t.Context(), []string{self, "grid-sdk"}, o)
}

// each runs a test with a client in this process and with one behind a child process,
// each on a grid of its own.
func each(t *testing.T, nodes []gridtest.Node, f func(t *testing.T, g *gridtest.Grid, c grid.Client)) {
	t.Parallel()
	for name, open := range map[string]opener{"direct": direct, "process": process} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := gridtest.New(t, nodes...)
			c, err := open(t, options(g))
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, c.Close()) })
			f(t, g, c)
		})
	}
}

func hint(t *testing.T, err error) {
	t.Helper()
	var known *grid.Error
	require.ErrorAs(t, err, &known)
	require.NotEmpty(t, known.Hint(), "%v", err)
}

func alive(list []grid.Deployed) int {
	return len(slices.DeleteFunc(slices.Clone(list), func(d grid.Deployed) bool { return d.Contract == 0 }))
}

// TestRefusals: nodes that refuse or fail cost nothing, and others of the batch live.
func TestRefusals(t *testing.T) {
	each(t, nil, func(t *testing.T, g *gridtest.Grid, c grid.Client) {
		g.Node(1, func(n *gridtest.Node) { n.Refuses = "twin not allowed" })
		g.Node(2, func(n *gridtest.Node) { n.Fails = "zdb did not start" })
		g.Node(3, func(n *gridtest.Node) { n.Disk = 5 * gib })
		g.Stop(4)
		done, err := c.Deploy(t.Context(), requests(6))
		require.NoError(t, err, "each request has its own error")
		for i, kind := range []error{grid.ErrRefused, grid.ErrWorkload, grid.ErrCapacity, grid.ErrNodeDown} {
			require.ErrorIs(t, done[i].Err, kind)
			require.Zero(t, done[i].Contract)
			hint(t, done[i].Err)
		}
		require.ErrorContains(t, done[0].Err, "twin not allowed")
		require.ErrorContains(t, done[1].Err, "zdb did not start")
		require.NotContains(t, done[1].Err.Error(), "twin not allowed", "not the others' errors")
		require.NoError(t, done[4].Err)
		require.NoError(t, done[5].Err)
		require.Equal(t, 2, alive(done))
		require.Equal(t, gridtest.Counts{Created: 6, Cancelled: 4, Alive: 2}, g.Counts())
	})
}

// TestInterrupted: what went before the interruption is there and has its contract.
func TestInterrupted(t *testing.T) {
	for _, at := range []int{0, 3} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			each(t, nil, func(t *testing.T, g *gridtest.Grid, c grid.Client) {
				g.InterruptBatch(at)
				list := requests(6)
				done, err := c.Deploy(t.Context(), list)
				require.ErrorIs(t, err, grid.ErrInterrupted)
				require.Equal(t, at, alive(done))
				require.Equal(t, gridtest.Counts{Created: at, Alive: at}, g.Counts())
				for i, d := range done {
					on, err := c.OnNode(t.Context(), list[i].Node)
					require.NoError(t, err)
					if d.Contract == 0 {
						require.ErrorIs(t, d.Err, grid.ErrInterrupted)
						hint(t, d.Err)
						require.Empty(t, on)
						continue
					}
					require.Equal(t, d.Contract, on[0].ID)
				}
			})
		})
	}
}

// TestPanic: the SDK panics where the chain does not give back a contract's id. Only
// the child dies, and the chain tells what was left.
func TestPanic(t *testing.T) {
	t.Parallel()
	g := gridtest.New(t)
	c, err := process(t, options(g))
	require.NoError(t, err)
	defer c.Close() //nolint:errcheck // a child ends
	g.LoseIDs(2)
	list := requests(4)
	done, err := c.Deploy(t.Context(), list)
	require.ErrorIs(t, err, grid.ErrCrashed)
	require.ErrorContains(t, err, "panic: runtime error: index out of range")
	hint(t, err)
	for _, d := range done {
		require.Zero(t, d.Contract)
		require.ErrorIs(t, d.Err, grid.ErrCrashed)
	}
	require.Equal(t, gridtest.Counts{Created: 4, Alive: 4}, g.Counts())

	left, err := c.Contracts(t.Context())
	require.NoError(t, err)
	require.Len(t, left, 4)
	var ids []uint64
	for i, r := range list {
		on, err := c.OnNode(t.Context(), r.Node)
		require.NoError(t, err)
		require.Equal(t, list[i].Name, on[0].Name)
		require.Equal(t, list[i].Project, on[0].Project)
		ids = append(ids, on[0].ID)
	}
	require.NoError(t, c.Cancel(t.Context(), ids...))
	require.Equal(t, gridtest.Counts{Created: 4, Cancelled: 4}, g.Counts())
}

// TestOrphans: the same at the first contract: no crash, nothing deployed, contracts
// that only the chain knows.
func TestOrphans(t *testing.T) {
	each(t, nil, func(t *testing.T, g *gridtest.Grid, c grid.Client) {
		g.LoseIDs(0)
		done, err := c.Deploy(t.Context(), requests(3))
		require.ErrorIs(t, err, grid.ErrInterrupted)
		require.Zero(t, alive(done))
		require.Equal(t, gridtest.Counts{Created: 3, Alive: 3}, g.Counts())
		left, err := c.Contracts(t.Context())
		require.NoError(t, err)
		require.Len(t, left, 3)
		_, err = c.Read(t.Context(), left[0].Node, left[0].ID)
		require.ErrorIs(t, err, grid.ErrWorkload, "the node knows nothing of it")
	})
}

// TestFunds: the SDK would deploy in spite of its own error.
func TestFunds(t *testing.T) {
	each(t, nil, func(t *testing.T, g *gridtest.Grid, c grid.Client) {
		g.SetTFT(1.99)
		done, err := c.Deploy(t.Context(), requests(2))
		require.ErrorIs(t, err, grid.ErrFunds)
		hint(t, err)
		require.ErrorIs(t, done[1].Err, grid.ErrFunds)
		require.Zero(t, g.Counts())
		require.Zero(t, g.Calls("BatchCreateContract"))

		// Between two batches.
		g.SetTFT(2)
		g.Watch(func(e gridtest.Event) {
			if e.Call == "BatchCreateContract" {
				g.SetTFT(1)
			}
		})
		done, err = c.Deploy(t.Context(), requests(10))
		require.ErrorIs(t, err, grid.ErrFunds)
		require.Equal(t, 8, alive(done))
		require.NoError(t, done[7].Err)
		require.ErrorIs(t, done[8].Err, grid.ErrFunds)
	})
}

// TestNames: one request that is not in order does not stop the others.
func TestNames(t *testing.T) {
	each(t, nil, func(t *testing.T, g *gridtest.Grid, c grid.Client) {
		list := requests(7)
		list[0].Name = "with-dash"
		list[1].Name = "a_name_of_37_characters_is_too_long__"
		list[2].Name = ""
		list[3].Size = 3*gib + 1
		list[4].Node = 999
		twice := list[5]
		done, err := c.Deploy(t.Context(), append(list, twice))
		require.NoError(t, err)
		for i, kind := range []error{grid.ErrName, grid.ErrName, grid.ErrName, grid.ErrWorkload, grid.ErrNetwork, nil, nil, grid.ErrName} {
			require.ErrorIs(t, done[i].Err, kind, "%d", i)
		}
		hint(t, done[0].Err)
		require.Equal(t, gridtest.Counts{Created: 2, Alive: 2}, g.Counts())
	})
}

// TestSameAgain: neither SDK nor chain keeps anybody from paying twice, unless every
// byte of the deployment is the same.
func TestSameAgain(t *testing.T) {
	each(t, nil, func(t *testing.T, g *gridtest.Grid, c grid.Client) {
		list := requests(1)
		_, err := c.Deploy(t.Context(), list)
		require.NoError(t, err)
		done, err := c.Deploy(t.Context(), list)
		require.ErrorIs(t, err, grid.ErrInterrupted, "the chain has this hash on this node")
		require.Zero(t, alive(done))
		list[0].Password = "another"
		done, err = c.Deploy(t.Context(), list)
		require.NoError(t, err)
		require.Equal(t, 1, alive(done))
		on, err := c.OnNode(t.Context(), 1)
		require.NoError(t, err)
		require.Len(t, on, 2)
	})
}

// TestRead: a zdb that is not in order is never taken for one that is.
func TestRead(t *testing.T) {
	each(t, nil, func(t *testing.T, g *gridtest.Grid, c grid.Client) {
		g.Node(1, func(n *gridtest.Node) { n.Addresses = []string{"2a02::1", "400::1", "300::1", "5ff::2"} })
		done, err := c.Deploy(t.Context(), requests(1))
		require.NoError(t, err)
		id := done[0].Contract
		z, err := c.Read(t.Context(), 1, id)
		require.NoError(t, err)
		require.Equal(t, []netip.Addr{netip.MustParseAddr("2a02::1"), netip.MustParseAddr("400::1"), netip.MustParseAddr("300::1"), netip.MustParseAddr("5ff::2")}, z.Addresses)
		require.Equal(t, backend.Meta, z.Role)

		read := func(kind error, text string) {
			t.Helper()
			_, err := c.Read(t.Context(), 1, id)
			require.ErrorIs(t, err, kind)
			require.ErrorContains(t, err, text)
			hint(t, err)
		}
		g.Node(1, func(n *gridtest.Node) { n.Paused = true })
		read(grid.ErrWorkload, `"paused"`)
		g.Node(1, func(n *gridtest.Node) { n.Paused, n.Broken = false, "disk died" })
		read(grid.ErrWorkload, "disk died")
		g.Node(1, func(n *gridtest.Node) { n.Broken = "" })
		g.Stop(1)
		read(grid.ErrNodeDown, "contract")
		require.NoError(t, g.Restart(1))
		g.RelayDown(true)
		read(grid.ErrNodeDown, "contract")
		g.RelayDown(false)
		_, err = c.Read(t.Context(), 1, id)
		require.NoError(t, err)
		_, err = c.Read(t.Context(), 2, id)
		require.ErrorIs(t, err, grid.ErrWorkload)
	})
}

// TestSilent: a node that takes questions and does not answer is down, after the
// time that a question has.
func TestSilent(t *testing.T) {
	t.Parallel()
	g := gridtest.New(t)
	o := options(g)
	o.RMBTimeout = 50 * time.Millisecond
	c, err := direct(t, o)
	require.NoError(t, err)
	defer c.Close() //nolint:errcheck // nothing is written
	g.Node(1, func(n *gridtest.Node) { n.Hangs = true })
	_, err = c.Read(t.Context(), 1, 1)
	require.ErrorIs(t, err, grid.ErrNodeDown)
	done, err := c.Deploy(t.Context(), requests(1))
	require.NoError(t, err)
	require.ErrorIs(t, done[0].Err, grid.ErrNodeDown)
	require.Equal(t, gridtest.Counts{Created: 1, Cancelled: 1}, g.Counts())
}

// TestCancelledDeploy: what is on its way when the caller gives up is given back.
func TestCancelledDeploy(t *testing.T) {
	each(t, nil, func(t *testing.T, g *gridtest.Grid, c grid.Client) {
		ctx, cancel := context.WithCancel(t.Context())
		g.Node(2, func(n *gridtest.Node) { n.Pending = 1000 })
		g.Watch(func(e gridtest.Event) {
			if e.Call == "zos.deployment.changes" && e.Node == 2 {
				cancel()
			}
		})
		done, err := c.Deploy(ctx, requests(3))
		require.ErrorIs(t, err, context.Canceled)
		for _, d := range done {
			require.True(t, d.Contract != 0 || d.Err != nil)
		}
		require.Zero(t, done[1].Contract)
		require.ErrorIs(t, done[1].Err, context.Canceled)
		require.Equal(t, alive(done), g.Counts().Alive, "no contract without an answer")
		_, err = c.Account(t.Context())
		require.NoError(t, err)
	})
}

// TestPending: a node may take its time.
func TestPending(t *testing.T) {
	each(t, nil, func(t *testing.T, g *gridtest.Grid, c grid.Client) {
		g.Node(1, func(n *gridtest.Node) { n.Pending = 1 })
		done, err := c.Deploy(t.Context(), requests(1))
		require.NoError(t, err)
		require.Equal(t, 1, alive(done))
	})
}

// TestUncancelled: contracts of failed workloads that could not be cancelled are
// an error of the whole, for somebody has to look for them.
func TestUncancelled(t *testing.T) {
	each(t, nil, func(t *testing.T, g *gridtest.Grid, c grid.Client) {
		for id := range uint32(2) {
			g.Node(id+1, func(n *gridtest.Node) { n.Fails = "no" })
		}
		g.FailCancels(1)
		done, err := c.Deploy(t.Context(), requests(3))
		require.ErrorContains(t, err, "failed to cancel failed contracts")
		require.Equal(t, 1, alive(done))
		require.ErrorIs(t, done[0].Err, grid.ErrWorkload)
		require.Equal(t, gridtest.Counts{Created: 3, Alive: 3}, g.Counts())
	})
}

// TestCancel: what is gone is left out of a batch that is all or nothing.
func TestCancel(t *testing.T) {
	each(t, nil, func(t *testing.T, g *gridtest.Grid, c grid.Client) {
		done, err := c.Deploy(t.Context(), requests(6))
		require.NoError(t, err)
		var ids []uint64
		for _, d := range done {
			ids = append(ids, d.Contract)
		}
		require.NoError(t, c.Cancel(t.Context()))
		require.NoError(t, c.Cancel(t.Context(), ids[0]))
		g.SetGrace(true, ids[1])
		require.NoError(t, c.Cancel(t.Context(), 0, ids[0], ids[1], ids[2], ids[2], 77777))
		require.Equal(t, gridtest.Counts{Created: 6, Cancelled: 3, Alive: 3}, g.Counts())
		require.Equal(t, 2, g.Calls("BatchCancelContract"))

		other := g.AddContract(gridtest.Contract{Twin: 99, Node: 1})
		require.ErrorIs(t, c.Cancel(t.Context(), ids[3], other), grid.ErrRefused)
		require.Equal(t, 4, g.Counts().Alive, "neither")

		g.FailCancels(1)
		require.NoError(t, c.Cancel(t.Context(), ids[3:]...))
		require.Equal(t, 3, g.Calls("EnsureContractCanceled"))
		require.Equal(t, 1, g.Counts().Alive, "the other account's")
	})
}

// TestContracts: all pages, both states, and nothing that is not ours or is of a kind
// that the SDK stumbles over.
func TestContracts(t *testing.T) {
	each(t, nil, func(t *testing.T, g *gridtest.Grid, c grid.Client) {
		var want []uint64
		for range 250 {
			want = append(want, g.AddContract(gridtest.Contract{Node: 1, Data: `{"name":"n","projectName":"p"}`}))
			g.AddContract(gridtest.Contract{Kind: "service"})
			g.AddContract(gridtest.Contract{Kind: "rent", Node: 1})
			g.AddContract(gridtest.Contract{Twin: 99, Node: 1})
		}
		odd := g.AddContract(gridtest.Contract{Node: 1, Data: "not JSON"})
		want = append(want, odd)
		g.SetGrace(true, want[7])
		require.NoError(t, c.Cancel(t.Context(), want[8]))
		want = slices.Delete(want, 8, 9)
		list, err := c.Contracts(t.Context())
		require.NoError(t, err)
		var ids []uint64
		for _, k := range list {
			ids = append(ids, k.ID)
			require.Equal(t, k.ID == want[7], k.Grace)
			if k.ID != odd {
				require.Equal(t, "n", k.Name)
				require.Equal(t, "p", k.Project)
			}
			require.WithinDuration(t, time.Now(), k.Created, time.Minute)
		}
		require.Equal(t, want, ids)
		on, err := c.OnNode(t.Context(), 1)
		require.NoError(t, err)
		require.Len(t, on, len(want))
	})
}

// TestLag: the index may be behind; the chain is not.
func TestLag(t *testing.T) {
	each(t, nil, func(t *testing.T, g *gridtest.Grid, c grid.Client) {
		g.Lag(true)
		_, err := c.Deploy(t.Context(), requests(2))
		require.NoError(t, err)
		list, err := c.Contracts(t.Context())
		require.NoError(t, err)
		require.Empty(t, list)
		on, err := c.OnNode(t.Context(), 2)
		require.NoError(t, err)
		require.Len(t, on, 1)
		g.Lag(false)
		list, err = c.Contracts(t.Context())
		require.NoError(t, err)
		require.Len(t, list, 2)
	})
}

// TestProxyErrors: an error page is no listing, and what passes is asked for again.
func TestProxyErrors(t *testing.T) {
	each(t, nil, func(t *testing.T, g *gridtest.Grid, c grid.Client) {
		g.FailProxy(2, 502)
		list, err := c.Nodes(t.Context(), grid.NodeFilter{})
		require.NoError(t, err)
		require.Len(t, list, 20)
		g.FailProxy(1, 503)
		_, err = c.Contracts(t.Context())
		require.NoError(t, err)

		g.FailProxy(1, 400)
		_, err = c.Contracts(t.Context())
		require.ErrorIs(t, err, grid.ErrNetwork)
		require.ErrorContains(t, err, "Bad Request")
		hint(t, err)
		_, err = c.Nodes(t.Context(), grid.NodeFilter{Features: []string{"no such"}})
		require.ErrorIs(t, err, grid.ErrNetwork)
		require.ErrorContains(t, err, "not a valid node feature")
	})
}

// TestNodes: every page, and each filter as the proxy has it.
func TestNodes(t *testing.T) {
	nodes := gridtest.Nodes(250)
	nodes[0].Offline = true
	nodes[1].Unhealthy = true
	nodes[2].RentedBy = 99
	nodes[3].RentedBy, nodes[3].Dedicated = gridtest.Twin, true
	nodes[4].Dedicated = true
	nodes[5].HDD = 1 << 30
	nodes[6].Features = []string{"zdb"}
	each(t, nodes, func(t *testing.T, g *gridtest.Grid, c grid.Client) {
		ids := func(f grid.NodeFilter) []uint32 {
			t.Helper()
			list, err := c.Nodes(t.Context(), f)
			require.NoError(t, err)
			var out []uint32
			for _, n := range list {
				out = append(out, n.ID)
			}
			return out
		}
		require.Len(t, ids(grid.NodeFilter{}), 250)
		up := ids(grid.NodeFilter{Up: true})
		require.Len(t, up, 246)
		for _, id := range []uint32{1, 2, 3, 5} {
			require.NotContains(t, up, id)
		}
		require.Contains(t, up, uint32(4), "rented by ourselves")
		require.Equal(t, []uint32{2, 6}, ids(grid.NodeFilter{IDs: []uint32{6, 2}}))
		many := make([]uint32, 230)
		for i := range many {
			many[i] = uint32(i + 1)
		}
		require.Len(t, ids(grid.NodeFilter{IDs: many}), 230)
		require.Len(t, ids(grid.NodeFilter{Farms: []uint64{2, 3}}), 100)
		require.NotContains(t, ids(grid.NodeFilter{FreeHDD: 1<<30 + 1}), uint32(6))
		require.NotContains(t, ids(grid.NodeFilter{Features: []string{"zdb", "mycelium"}}), uint32(7))
		require.Len(t, ids(grid.NodeFilter{Certified: true}), 62)

		_, err := c.Deploy(t.Context(), []grid.Request{{Name: "a", Node: 10, Size: 24 * gib, Role: backend.Data}})
		require.NoError(t, err)
		list, err := c.Nodes(t.Context(), grid.NodeFilter{IDs: []uint32{10, 1, 3, 8}})
		require.NoError(t, err)
		require.Equal(t, []grid.Node{
			{ID: 1, Farm: 1, Country: "Belgium", FreeHDD: 1 << 40},
			{ID: 3, Farm: 3, Country: "Austria", FreeHDD: 1 << 40},
			{ID: 8, Farm: 3, Country: "Austria", FreeHDD: 1 << 40, Certified: true, Up: true},
			{ID: 10, Farm: 5, Country: "Belgium", FreeHDD: 1<<40 - 24*gib, Up: true},
		}, list)
	})
}

// TestMoney: prices and balances in their units.
func TestMoney(t *testing.T) {
	each(t, nil, func(t *testing.T, g *gridtest.Grid, c grid.Client) {
		a, err := c.Account(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 13, a.Twin)
		require.InDelta(t, 0.010, a.TFTPrice, 1e-12)
		require.Regexp(t, "^5[1-9A-HJ-NP-Za-km-z]{47}$", a.Address)
		usd, err := c.Price(t.Context(), 1200*gib, false)
		require.NoError(t, err)
		require.InDelta(t, 0.005*24*30, usd, 1e-9)
		usd, err = c.Price(t.Context(), 12*gib, true)
		require.NoError(t, err)
		require.InDelta(t, 0.005*24*30/100*1.25, usd, 1e-9)
	})
}

// TestOpen: an account that cannot be used is told apart, without its mnemonic.
func TestOpen(t *testing.T) {
	t.Parallel()
	const other backend.Secret = "legal winner thank year wave sausage worth useful legal winner thank yellow"
	cases := map[string]struct {
		change func(t *testing.T, g *gridtest.Grid, o *sdkprocess.Options)
		kind   error
	}{
		"none": {func(_ *testing.T, _ *gridtest.Grid, o *sdkprocess.Options) { o.Mnemonic = " " }, grid.ErrMnemonic},
		"typo": {func(_ *testing.T, _ *gridtest.Grid, o *sdkprocess.Options) { o.Mnemonic += "t" }, grid.ErrMnemonic},
		"checksum": {func(_ *testing.T, _ *gridtest.Grid, o *sdkprocess.Options) {
			o.Mnemonic = o.Mnemonic[:len(o.Mnemonic)-5] + "above"
		}, grid.ErrMnemonic},
		"elsewhere": {func(_ *testing.T, _ *gridtest.Grid, o *sdkprocess.Options) { o.Mnemonic = other }, grid.ErrMnemonic},
		"no twin": {func(t *testing.T, g *gridtest.Grid, o *sdkprocess.Options) {
			o.Mnemonic = other
			require.NoError(t, g.AddAccount(other, 0, 100))
		}, grid.ErrMnemonic},
		"poor":       {func(_ *testing.T, g *gridtest.Grid, _ *sdkprocess.Options) { g.SetTFT(1) }, grid.ErrFunds},
		"unverified": {func(_ *testing.T, g *gridtest.Grid, _ *sdkprocess.Options) { g.Unverified(true) }, grid.ErrUnverified},
		"network":    {func(_ *testing.T, _ *gridtest.Grid, o *sdkprocess.Options) { o.Network = "moon" }, grid.ErrNetwork},
		"silence":    {func(_ *testing.T, _ *gridtest.Grid, o *sdkprocess.Options) { o.ProxyURL = "http://127.0.0.1:1/" }, grid.ErrNetwork},
		"proxy":      {func(_ *testing.T, g *gridtest.Grid, _ *sdkprocess.Options) { g.FailProxy(1, 500) }, grid.ErrNetwork},
	}
	for name, x := range cases {
		for how, open := range map[string]opener{"direct": direct, "process": process} {
			t.Run(name+" "+how, func(t *testing.T) {
				t.Parallel()
				g := gridtest.New(t)
				o := options(g)
				x.change(t, g, &o)
				_, err := open(t, o)
				require.ErrorIs(t, err, x.kind)
				hint(t, err)
				require.NotContains(t, err.Error(), "abandon")
				require.NotContains(t, err.Error(), "winner")
			})
		}
	}
	t.Run("second account", func(t *testing.T) {
		t.Parallel()
		g := gridtest.New(t)
		require.NoError(t, g.AddAccount(other, 14, 5))
		o := options(g)
		o.Mnemonic = "\n " + backend.Secret(other[:5]) + " \t" + other[5:] + "\n" // as files have it
		c, err := direct(t, o)
		require.NoError(t, err)
		defer c.Close() //nolint:errcheck // nothing is written
		a, err := c.Account(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 14, a.Twin)
		require.InDelta(t, 5, a.TFT, 1e-9)
	})
}

// TestPatience: no call outlives its context, though the SDK does not look at it.
func TestPatience(t *testing.T) {
	each(t, nil, func(t *testing.T, g *gridtest.Grid, c grid.Client) {
		for name, f := range map[string]func(context.Context) error{
			"account":   func(ctx context.Context) error { _, err := c.Account(ctx); return err },
			"nodes":     func(ctx context.Context) error { _, err := c.Nodes(ctx, grid.NodeFilter{}); return err },
			"contracts": func(ctx context.Context) error { _, err := c.Contracts(ctx); return err },
			"on node":   func(ctx context.Context) error { _, err := c.OnNode(ctx, 1); return err },
			"read":      func(ctx context.Context) error { _, err := c.Read(ctx, 1, 1); return err },
			"price":     func(ctx context.Context) error { _, err := c.Price(ctx, 1, false); return err },
			"cancel":    func(ctx context.Context) error { return c.Cancel(ctx, 1) },
			"deploy":    func(ctx context.Context) error { _, err := c.Deploy(ctx, requests(1)); return err },
		} {
			g.SetLatency(time.Hour)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			began := time.Now()
			err := f(ctx)
			cancel()
			require.Error(t, err, name)
			require.True(t, context.Cause(ctx) != nil && time.Since(began) < 4*time.Second, "%s: %v after %s", name, err, time.Since(began))
			over, cancel := context.WithCancel(t.Context())
			cancel()
			require.ErrorIs(t, f(over), context.Canceled, name)
		}
		g.SetLatency(0)
		_, err := c.Account(t.Context())
		require.NoError(t, err)
		require.Zero(t, g.Counts())
	})
}
