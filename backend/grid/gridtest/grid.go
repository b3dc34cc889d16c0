package gridtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	substrate "github.com/threefoldtech/tfchain/clients/tfchain-client-go"

	"github.com/threefoldtech/quantumd/backend"
)

// Mnemonic is of the account that every grid has, with Twin. It is the one that all
// documents of BIP-39 show.
const Mnemonic backend.Secret = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"

// Twin is that account's.
const Twin = 13

// Node is a machine and what is the matter with it.
type Node struct {
	ID        uint32
	Farm      uint64
	Country   string
	HDD       int64 // bytes of all disks
	Disk      int64 // bytes of the largest disk; zero: HDD. A zdb must fit on one
	Certified bool
	Features  []string // nil: zdb, mycelium and others that nodes have
	RentedBy  uint32   // twin
	Dedicated bool

	Offline   bool     // the proxy knows that it is down; Stop makes it not answer
	Unhealthy bool     // as the proxy lists it
	Refuses   string   // it answers zos.deployment.deploy with this
	Fails     string   // its workloads end with this error
	Pending   int      // answers to zos.deployment.changes before a result; each costs the SDK 3 s or more
	Paused    bool     // its workloads are paused
	Broken    string   // its workloads are in error when they are read, with this
	Hangs     bool     // questions have no answer until who asks gives up
	Addresses []string // what it says its zdbs' addresses are; nil: 127.0.0.1
}

// Options describe a grid at its beginning.
type Options struct {
	Nodes    []Node        // nil: Nodes(20)
	TFT      float64       // of the account; zero: 1000
	TFTPrice uint32        // thousandths of a US dollar; zero: 10
	SUPrice  uint32        // 1e-7 US dollars for a storage unit and hour; zero: 50000
	Latency  time.Duration // of every answer
}

// Nodes makes n nodes, from 1, over five farms and four countries, with a TiB each.
func Nodes(n int) []Node {
	countries := []string{"Belgium", "Egypt", "Austria", "Canada"}
	out := make([]Node, n)
	for i := range out {
		farm := i % 5
		out[i] = Node{ID: uint32(i + 1), Farm: uint64(farm + 1), Country: countries[farm%len(countries)], HDD: 1 << 40, Certified: i%4 == 3} //nolint:gosec // small
	}
	return out
}

// Grid is a running double.
type Grid struct {
	dir     string
	server  *http.Server
	url     string
	serving chan struct{}
	done    chan struct{} // closed when the grid ends: hanging questions too

	mu      sync.Mutex
	nodes   map[uint32]*node
	chain   chain
	index   []Contract // what /contracts lists, while it lags
	lags    bool
	latency time.Duration
	changed chan struct{} // closed when latency is another
	faults  faults
	watch   func(Event)
	calls   map[string]int
}

// faults happen once, or as often as they say.
type faults struct {
	interrupt, loseIDs int // of the next batch, at this index plus one
	cancel             int // batches of cancels that fail
	proxy, proxyCode   int // answers of the proxy, and their status
	unverified         bool
	down               bool // the relay: no node answers
}

// Event is a call on the grid, told before it is answered and after its effect.
type Event struct {
	// Call is a method of the chain such as BatchCreateContract, or a function of a
	// node such as zos.deployment.deploy.
	Call string
	Node uint32 // of a node's function
}

// New starts a grid that ends with the test.
func New(t testing.TB, nodes ...Node) *Grid {
	t.Helper()
	dir, err := os.MkdirTemp("", "gridtest")
	if err != nil {
		t.Fatal(err)
	}
	g, err := Start(dir, Options{Nodes: nodes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(g.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return g
}

// Start runs a grid whose zdbs have their files below dir.
func Start(dir string, o Options) (*Grid, error) {
	if o.Nodes == nil {
		o.Nodes = Nodes(20)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := &Grid{dir: dir, url: "http://" + l.Addr().String() + "/", serving: make(chan struct{}), done: make(chan struct{}),
		nodes: map[uint32]*node{}, latency: o.Latency, changed: make(chan struct{}), calls: map[string]int{}}
	g.chain = newChain(o)
	for _, n := range o.Nodes {
		g.nodes[n.ID] = &node{Node: n, dir: filepath.Join(dir, fmt.Sprint(n.ID)), deployments: map[uint64]*deployment{}}
	}
	id, err := identity(Mnemonic)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	g.chain.accounts[id.Address()] = &account{twin: Twin, tft: or(o.TFT, 1000)}
	g.server = &http.Server{Handler: g.handler(), ReadHeaderTimeout: time.Minute}
	go func() {
		defer close(g.serving)
		_ = g.server.Serve(l) // until Close
	}()
	return g, nil
}

func identity(m backend.Secret) (substrate.Identity, error) {
	return substrate.NewIdentityFromSr25519Phrase(m.Reveal())
}

func or[T comparable](v, other T) T {
	var zero T
	if v == zero {
		return other
	}
	return v
}

// URL is where Dial and Open find the grid, in this process or in another.
func (g *Grid) URL() string { return g.url }

// Close ends the grid with all of its zdbs.
func (g *Grid) Close() error {
	close(g.done)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := g.server.Shutdown(ctx)
	if err != nil {
		err = g.server.Close()
	}
	<-g.serving
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, n := range g.nodes {
		err = errors.Join(err, n.close())
	}
	return err
}

// Node changes a node.
func (g *Grid) Node(id uint32, change func(*Node)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change(&g.nodes[id].Node)
}

// AddNode adds one.
func (g *Grid) AddNode(n Node) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.nodes[n.ID] = &node{Node: n, dir: filepath.Join(g.dir, fmt.Sprint(n.ID)), deployments: map[uint64]*deployment{}}
}

// Stop is an outage: the nodes answer no question, and their zdbs none either. What
// they hold stays. The proxy does not notice: see Node.Offline.
func (g *Grid) Stop(ids ...uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, id := range ids {
		g.nodes[id].stop()
	}
}

// Restart ends an outage.
func (g *Grid) Restart(ids ...uint32) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []error
	for _, id := range ids {
		all = append(all, g.nodes[id].restart())
	}
	return errors.Join(all...)
}

// RelayDown makes no node answer any question; their zdbs work.
func (g *Grid) RelayDown(down bool) { g.set(func() { g.faults.down = down }) }

// InterruptBatch makes the chain stop the next batch of contracts at index i.
func (g *Grid) InterruptBatch(i int) { g.set(func() { g.faults.interrupt = i + 1 }) }

// LoseIDs makes the chain create all contracts of the next batch, and reading back
// the id of the i-th fail. The SDK panics for i above zero, and leaves all contracts
// to themselves for zero.
func (g *Grid) LoseIDs(i int) { g.set(func() { g.faults.loseIDs = i + 1 }) }

// FailCancels makes the next n batches of cancels fail as a whole.
func (g *Grid) FailCancels(n int) { g.set(func() { g.faults.cancel = n }) }

// FailProxy makes the proxy answer the next n requests with a status.
func (g *Grid) FailProxy(n, status int) {
	g.set(func() { g.faults.proxy, g.faults.proxyCode = n, status })
}

// Unverified makes accounts unverified.
func (g *Grid) Unverified(yes bool) { g.set(func() { g.faults.unverified = yes }) }

// Watch calls f for every call, before its answer: f may end who waits for it.
func (g *Grid) Watch(f func(Event)) { g.set(func() { g.watch = f }) }

// Calls tells how often a method of the chain, a function of nodes, or a path of
// the proxy was called.
func (g *Grid) Calls(name string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.calls[name]
}

// Lag stops the proxy's index of contracts: it lists what was there, until Lag(false).
func (g *Grid) Lag(yes bool) {
	g.set(func() {
		g.index, g.lags = nil, yes
		if yes {
			g.index = g.chain.list()
		}
	})
}

// SetLatency makes every answer slow. Those that wait already are given now.
func (g *Grid) SetLatency(d time.Duration) {
	g.set(func() {
		g.latency = d
		close(g.changed)
		g.changed = make(chan struct{})
	})
}

// SetTFT changes the account's balance.
func (g *Grid) SetTFT(tft float64) {
	g.set(func() {
		for _, a := range g.chain.accounts {
			if a.twin == Twin {
				a.tft = tft
			}
		}
	})
}

// AddAccount adds an account of another mnemonic.
func (g *Grid) AddAccount(m backend.Secret, twin uint32, tft float64) error {
	id, err := identity(m)
	if err != nil {
		return err
	}
	g.set(func() { g.chain.accounts[id.Address()] = &account{twin: twin, tft: tft} })
	return nil
}

func (g *Grid) set(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}
