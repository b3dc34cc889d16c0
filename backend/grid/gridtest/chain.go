package gridtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	substrate "github.com/threefoldtech/tfchain/clients/tfchain-client-go"

	"github.com/threefoldtech/quantumd/backend/grid/internal/sdk"
)

// The states of a contract, as the proxy writes them.
const (
	Created = "Created"
	Grace   = "GracePeriod"
	Deleted = "Deleted"
)

// Contract is one of the chain's, also when it has ended.
type Contract struct {
	ID      uint64
	Twin    uint32
	Node    uint32
	Kind    string // node, name, rent, or one that the SDK does not know
	State   string
	Data    string // the deployment's, as it was written to the chain
	Name    string // in Data
	Project string // in Data
	Hash    string
	Created time.Time
}

type account struct {
	twin uint32
	tft  float64
}

type chain struct {
	accounts  map[string]*account // by address
	contracts map[uint64]*Contract
	last      uint64
	tftPrice  uint32
	suPrice   uint32
}

func newChain(o Options) chain {
	return chain{accounts: map[string]*account{}, contracts: map[uint64]*Contract{}, last: 500,
		tftPrice: or(o.TFTPrice, 10), suPrice: or(o.SUPrice, 50000)}
}

// list is in order of ids.
func (c *chain) list() []Contract {
	out := make([]Contract, 0, len(c.contracts))
	for _, id := range slices.Sorted(maps.Keys(c.contracts)) {
		out = append(out, *c.contracts[id])
	}
	return out
}

func (c *chain) add(k Contract) *Contract {
	c.last++
	k.ID, k.State, k.Created = c.last, Created, time.Now()
	if d, err := sdk.ParseDeploymentData(k.Data); err == nil {
		k.Name, k.Project = d.Name, d.ProjectName
	}
	c.contracts[k.ID] = &k
	return &k
}

// Counts are of contracts of nodes, over the life of a grid.
type Counts struct{ Created, Cancelled, Alive int }

// Counts tells what was bought.
func (g *Grid) Counts() Counts {
	var n Counts
	for _, k := range g.Contracts() {
		if k.Kind != nodeKind {
			continue
		}
		n.Created++
		if k.State == Deleted {
			n.Cancelled++
		} else {
			n.Alive++
		}
	}
	return n
}

// Contracts are all that there ever were, in order.
func (g *Grid) Contracts() []Contract {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.chain.list()
}

// Alive are the contracts that cost something.
func (g *Grid) Alive() []Contract {
	return slices.DeleteFunc(g.Contracts(), func(k Contract) bool { return k.State == Deleted })
}

// AddContract puts one on the chain that no node knows of: of another kind, or of
// another account, or an orphan.
func (g *Grid) AddContract(k Contract) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	k.Twin, k.Kind = or(k.Twin, Twin), or(k.Kind, nodeKind)
	return g.chain.add(k).ID
}

// SetGrace puts contracts into their grace period, or out of it.
func (g *Grid) SetGrace(yes bool, ids ...uint64) {
	g.set(func() {
		for _, id := range ids {
			g.chain.contracts[id].State = Created
			if yes {
				g.chain.contracts[id].State = Grace
			}
		}
	})
}

const (
	nodeKind = "node"
	rentKind = "rent"
	nameKind = "name"
)

// The chain's methods on the wire: the arguments of all of them, and their answers.
type (
	chainCall struct {
		Address   string                              `json:"address,omitempty"`
		Key       []byte                              `json:"key,omitempty"`
		ID        uint64                              `json:"id,omitempty"`
		Contracts []uint64                            `json:"contracts,omitempty"`
		New       []substrate.BatchCreateContractData `json:"new,omitempty"`
	}
	chainAnswer struct {
		Error     string    `json:"error,omitempty"`
		NotFound  bool      `json:"not_found,omitempty"`  // substrate.ErrNotFound
		NoAccount bool      `json:"no_account,omitempty"` // substrate.ErrAccountNotFound
		Units     int64     `json:"units,omitempty"`      // of TFT
		N         uint64    `json:"n,omitempty"`
		Index     *int      `json:"index,omitempty"`
		IDs       []uint64  `json:"ids,omitempty"`
		Contract  *Contract `json:"contract,omitempty"`
	}
)

func refused(format string, args ...any) chainAnswer {
	return chainAnswer{Error: fmt.Sprintf(format, args...)}
}

// call is one method of the chain; g.mu is held.
func (g *Grid) call(method string, in chainCall) chainAnswer {
	c := &g.chain
	who := c.accounts[in.Address]
	switch method {
	case "GetTFTPrice":
		return chainAnswer{N: uint64(c.tftPrice)}
	case "GetPricingPolicy":
		return chainAnswer{N: uint64(c.suPrice)}
	case "GetNodeTwin":
		if g.nodes[uint32(in.ID)] == nil { //nolint:gosec // it was one
			return chainAnswer{NotFound: true}
		}
		return chainAnswer{N: in.ID + nodeTwins}
	case "GetContract":
		k := c.contracts[in.ID]
		if k == nil || k.State == Deleted {
			return chainAnswer{NotFound: true}
		}
		same := *k
		return chainAnswer{Contract: &same}
	case "GetNodeContracts":
		var out chainAnswer
		for _, k := range c.list() {
			if uint64(k.Node) == in.ID && k.Kind == nodeKind && k.State != Deleted {
				out.IDs = append(out.IDs, k.ID)
			}
		}
		return out
	case "GetContractIDByNameRegistration":
		return chainAnswer{NotFound: true}
	}
	if who == nil {
		return chainAnswer{NoAccount: true}
	}
	switch method {
	case "GetBalance":
		return chainAnswer{Units: int64(math.Round(who.tft * 1e7))}
	case "GetAccount":
		return chainAnswer{}
	case "GetTwin":
		if who.twin == 0 {
			return chainAnswer{NotFound: true}
		}
		return chainAnswer{N: uint64(who.twin)}
	case "Verified":
		if g.faults.unverified {
			return chainAnswer{}
		}
		return chainAnswer{N: 1}
	case "BatchCreateContract":
		return g.create(who, in.New)
	case "BatchCancelContract":
		return g.cancelAll(who, in.Contracts)
	case "EnsureContractCanceled":
		return g.cancelAll(who, []uint64{in.ID})
	}
	return refused("gridtest: there is no method %s", method)
}

const nodeTwins = 1000 // a node's twin is its id and this

// create is Utility.batch: what went before the first that fails, stays.
func (g *Grid) create(who *account, list []substrate.BatchCreateContractData) chainAnswer {
	stop, lose := g.faults.interrupt-1, g.faults.loseIDs-1
	g.faults.interrupt, g.faults.loseIDs = 0, 0
	var out chainAnswer
	for i, n := range list {
		if i == stop || g.nodes[n.Node] == nil || !g.chain.unique(n) {
			at := i
			out.Index, out.Error = &at, "failed to create contracts" // as the SDK says it
			break
		}
		out.IDs = append(out.IDs, g.chain.add(Contract{Twin: who.twin, Node: n.Node, Kind: nodeKind, Data: n.Body, Hash: n.Hash}).ID)
	}
	if lose >= 0 && lose < len(list) && out.Index == nil {
		return chainAnswer{Index: &lose, Error: "object not found: contract not found"}
	}
	return out
}

// unique: the chain takes no two contracts on a node with one hash.
func (c *chain) unique(n substrate.BatchCreateContractData) bool {
	for _, k := range c.contracts {
		if k.State != Deleted && k.Node == n.Node && k.Hash == n.Hash {
			return false
		}
	}
	return true
}

// cancelAll is Utility.batch_all: all or nothing.
func (g *Grid) cancelAll(who *account, ids []uint64) chainAnswer {
	if g.faults.cancel > 0 && len(ids) > 1 {
		g.faults.cancel--
		return refused("failed to cancel contracts: gridtest was told to fail")
	}
	for _, id := range ids {
		k := g.chain.contracts[id]
		if k == nil || k.State == Deleted {
			return refused("failed to cancel contracts: ContractNotExists")
		}
		if k.Twin != who.twin {
			return refused("failed to cancel contracts: TwinNotAuthorizedToCancelContract")
		}
	}
	var all []error
	for _, id := range ids {
		k := g.chain.contracts[id]
		k.State = Deleted
		if n := g.nodes[k.Node]; n != nil {
			all = append(all, n.remove(id))
		}
	}
	if err := errors.Join(all...); err != nil {
		return refused("gridtest: %v", err)
	}
	return chainAnswer{}
}

// dataOf is what the chain has for a deployment, as the SDK writes it.
func dataOf(name, project string) string {
	text, err := json.Marshal(struct {
		Version     int    `json:"version"`
		Type        string `json:"type"`
		Name        string `json:"name"`
		ProjectName string `json:"projectName"`
	}{3, "vm", name, project})
	if err != nil {
		panic(err) // strings and a number
	}
	return strings.TrimSpace(string(text))
}
