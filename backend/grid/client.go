package grid

import (
	"context"
	"net/netip"
	"time"

	"github.com/threefoldtech/quantumd/backend"
)

// Client is the grid as the [Provisioner] needs it, for one account. Its
// implementation over tfgrid-sdk-go is backend/grid/tfgrid; this package and those
// who import it do without the SDK.
//
// Errors are [*Error] where the grid's answer is understood. None of them, nor
// anything that is logged, has the mnemonic in it.
type Client interface {
	// Account tells who pays.
	Account(ctx context.Context) (Account, error)
	// Nodes lists the nodes that fit, all pages of them, in no order.
	Nodes(ctx context.Context, f NodeFilter) ([]Node, error)
	// Contracts lists every contract of the account that costs or holds something:
	// created, and in grace period. Contracts of other kinds than node contracts
	// are left out.
	Contracts(ctx context.Context) ([]Contract, error)
	// OnNode lists the account's contracts on one node as the chain itself has them:
	// Contracts asks an index, which may be minutes behind.
	OnNode(ctx context.Context, node uint32) ([]Contract, error)
	// Deploy makes one contract with one zdb per request. There is one answer per
	// request, in order, also beside an error. An answer that has a contract is a
	// success, whatever else failed. One that has none and an error may have left a
	// contract behind: Contracts tells.
	Deploy(ctx context.Context, list []Request) ([]Deployed, error)
	// Read asks a contract's node for its zdb. Errors match [ErrNodeDown] where the
	// node gave no answer, and [ErrWorkload] where the zdb is not in order.
	Read(ctx context.Context, node uint32, contract uint64) (Zdb, error)
	// Cancel ends contracts; what they hold is lost. Those that are gone already are
	// no error.
	Cancel(ctx context.Context, contracts ...uint64) error
	// Price gives US dollars a month for a zdb of so many bytes, as the chain tells
	// it, before discounts.
	Price(ctx context.Context, size int64, certified bool) (float64, error)
	Close() error
}

// Account is a twin and its balance.
type Account struct {
	Twin     uint32  `json:"twin"`
	Address  string  `json:"address"` // SS58
	TFT      float64 `json:"tft"`     // free balance
	TFTPrice float64 `json:"tft_usd"` // US dollars, as the chain tells it
}

// NodeFilter says which nodes are wanted; a zero field asks for nothing.
type NodeFilter struct {
	IDs       []uint32 `json:"ids,omitempty"`
	Farms     []uint64 `json:"farms,omitempty"`
	FreeHDD   int64    `json:"free_hdd,omitempty"` // bytes; a zdb takes HDD only
	Features  []string `json:"features,omitempty"` // such as zdb and mycelium
	Certified bool     `json:"certified,omitempty"`
	// Up asks for nodes that are up, healthy, and not dedicated to others. Without it
	// the others are listed too.
	Up bool `json:"up,omitempty"`
}

// Node is a machine of the grid.
type Node struct {
	ID        uint32 `json:"id"`
	Farm      uint64 `json:"farm"`
	Country   string `json:"country"`
	FreeHDD   int64  `json:"free_hdd"` // bytes, over all of its disks
	Certified bool   `json:"certified"`
	Up        bool   `json:"up"`
}

// Contract is a node contract.
type Contract struct {
	ID      uint64    `json:"id"`
	Node    uint32    `json:"node"`
	Name    string    `json:"name"`    // of the deployment
	Project string    `json:"project"` // projectName: what Request.Project was
	Grace   bool      `json:"grace"`
	Created time.Time `json:"created"`
}

// Request asks for a contract with one zdb, which bears the contract's name.
type Request struct {
	Name     string         `json:"name"`
	Project  string         `json:"project"` // the SDK's solution type; on the chain, for all to read
	Node     uint32         `json:"node"`
	Role     backend.Role   `json:"role"` // meta: user mode; data: sequential mode
	Size     int64          `json:"size"` // bytes, a multiple of 1<<30
	Password backend.Secret `json:"-"`
}

// Deployed is what became of a Request.
type Deployed struct {
	Contract uint64 // zero: there is none
	Err      error
}

// Zdb is what a node says of a zdb that works.
type Zdb struct {
	Name      string       `json:"name"`
	Role      backend.Role `json:"role"`
	Namespace string       `json:"namespace"`
	Size      int64        `json:"size"` // bytes
	Addresses []netip.Addr `json:"addresses"`
	Port      uint16       `json:"port"`
}
