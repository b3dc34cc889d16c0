package grid

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/threefoldtech/quantumd/backend"
)

// The states of a Row.
const (
	Intended = "intended" // the contract is asked for, and may exist
	Made     = "made"     // there is a contract; its zdb is not known yet
	Ready    = "ready"    // the zdb answered as it should
	Replaced = "replaced" // another contract took its place; it goes on and costs
	Leaving  = "leaving"  // it is being cancelled
	Gone     = "gone"     // there is no contract, any more
)

// Row is what is known of one contract. It is written before the contract is asked
// for, so that a crash neither orphans nor doubles one. The namespace's password
// is the deployment's, and is not in it.
type Row struct {
	Name      string // of the contract; unique
	ID        string // of the backend
	Role      backend.Role
	Node      uint32
	Farm      uint64
	Country   string
	Size      int64  // bytes
	Contract  uint64 // zero: not known
	State     string
	Address   netip.AddrPort // once Ready
	Namespace string
	USD       float64 // a month
	Error     string  // why it failed
	Changed   time.Time
}

// Backend is that of a row that is ready.
func (r Row) Backend(password backend.Secret, group string) backend.Backend {
	return backend.Backend{ID: r.ID, Role: r.Role, Address: r.Address, Namespace: r.Namespace, Password: password, Group: group}
}

// Rows gives what a journal knows of contracts that are not gone.
func Rows(ctx context.Context, j Journal) ([]Row, error) {
	rows, err := j.Rows(ctx)
	return slices.DeleteFunc(rows, func(r Row) bool { return r.State == Gone }), err
}

// Journal keeps rows durably.
type Journal interface {
	// Begin takes the turn to rent or cancel, which one process has at a time; an
	// error that matches [ErrBusy] where another one has it. end gives it back.
	Begin(ctx context.Context) (end func(), err error)
	// Save writes a row over the one of its name.
	Save(ctx context.Context, r Row) error
	// Rows lists all rows, the oldest first.
	Rows(ctx context.Context) ([]Row, error)
}
