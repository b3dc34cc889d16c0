package store

import (
	"context"
	"time"

	"github.com/uptrace/bun"
)

// Contract is what is known of one contract on the grid. It is written before the
// contract is asked for; the states are the caller's.
type Contract struct {
	Name      string // unique
	Backend   string // the id of the backend
	Role      string // meta or data
	Node      uint32
	Farm      uint64
	Country   string
	Size      int64  // bytes
	Contract  uint64 // zero: not known
	State     string
	Address   string // IP:PORT, empty: not known
	Namespace string
	USD       float64 // a month
	Error     string
	Changed   time.Time // zero: now
}

type contractRow struct {
	Name      string `bun:",pk"`
	Backend   string
	Role      string
	Node      int64
	Farm      int64
	Country   string
	Size      int64
	Contract  int64
	State     string
	Address   string
	Namespace string
	USD       float64 `bun:"usd"`
	Error     string
	ChangedAt int64
}

// SaveContract writes a contract, over the one of its name.
func (s *Store) SaveContract(ctx context.Context, c Contract) error {
	row := contractRow{Name: c.Name, Backend: c.Backend, Role: c.Role, Node: int64(c.Node), Farm: int64(c.Farm), Country: c.Country,
		Size: c.Size, Contract: int64(c.Contract), State: c.State, Address: c.Address, Namespace: c.Namespace, USD: c.USD,
		Error: clip(c.Error, maxErrorText), ChangedAt: millis(c.Changed)}
	if row.ChangedAt == 0 {
		row.ChangedAt = s.now()
	}
	err := s.update(ctx, func(tx bun.Tx) error {
		_, err := tx.NewInsert().Model(&row).ModelTableExpr("?", s.table("contracts")).On("CONFLICT (name) DO UPDATE").Exec(ctx)
		return err
	})
	return note(err, "contract %s", c.Name)
}

// Contracts lists all contracts, the one that changed last at the end.
func (s *Store) Contracts(ctx context.Context) ([]Contract, error) {
	var rows []contractRow
	err := s.db.NewSelect().Model(&rows).ModelTableExpr("? AS ?TableAlias", s.table("contracts")).
		Column("name", "backend", "role", "node", "farm", "country", "size", "contract", "state", "address", "namespace", "usd", "error", "changed_at").
		OrderExpr("changed_at, name").Scan(ctx)
	if err != nil {
		return nil, note(err, "contracts")
	}
	out := make([]Contract, len(rows))
	for i, r := range rows {
		out[i] = Contract{Name: r.Name, Backend: r.Backend, Role: r.Role, Node: uint32(r.Node), Farm: uint64(r.Farm), Country: r.Country,
			Size: r.Size, Contract: uint64(r.Contract), State: r.State, Address: r.Address, Namespace: r.Namespace, USD: r.USD,
			Error: r.Error, Changed: stamp(r.ChangedAt)}
	}
	return out, nil
}
