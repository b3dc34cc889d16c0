package ongrid

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"path/filepath"
	"sync"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/store"
)

// JournalPath is where the journal of contracts is: a database of its own, for
// `deploy` works while the daemon has the other one.
func JournalPath(l qsfs.Layout) string { return filepath.Join(l.State, "grid.db") }

// Rows lists what the journal of a layout knows of contracts that are not gone; nothing
// where there is no journal.
func Rows(ctx context.Context, l qsfs.Layout) ([]grid.Row, error) {
	return grid.Rows(ctx, &journal{path: JournalPath(l)})
}

// journal keeps rows in SQLite. Between turns the file is closed.
type journal struct {
	path string

	mu sync.Mutex
	db *store.Store // of the turn
}

var _ grid.Journal = (*journal)(nil)

// Begin opens the database, which one process at a time can.
func (j *journal) Begin(ctx context.Context) (func(), error) {
	db, err := store.Open(ctx, j.path, store.Options{Durable: true})
	if errors.Is(err, store.ErrLocked) {
		return nil, &grid.Error{Kind: grid.ErrBusy, Remedy: "wait until it has ended, then run the same command again"}
	}
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	j.db = db
	j.mu.Unlock()
	return func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.db = nil
		_ = db.Close() // each row is durable already
	}, nil
}

var errNoTurn = errors.New("the journal is written outside of a turn")

// Save writes a row. It is durable when this returns.
func (j *journal) Save(ctx context.Context, r grid.Row) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.db == nil {
		return errNoTurn
	}
	c := store.Contract{Name: r.Name, Backend: r.ID, Role: string(r.Role), Node: r.Node, Farm: r.Farm, Country: r.Country, Size: r.Size,
		Contract: r.Contract, State: r.State, Namespace: r.Namespace, USD: r.USD, Error: r.Error, Changed: r.Changed}
	if r.Address.IsValid() {
		c.Address = r.Address.String()
	}
	return j.db.SaveContract(ctx, c)
}

// Rows lists what is known; nothing where there is no journal.
func (j *journal) Rows(ctx context.Context) ([]grid.Row, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	db := j.db
	if db == nil {
		var err error
		db, err = j.look(ctx)
		if db == nil || err != nil {
			return nil, err
		}
		defer db.Close() //nolint:errcheck // nothing was written
	}
	list, err := db.Contracts(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]grid.Row, len(list))
	for i, c := range list {
		address, _ := netip.ParseAddrPort(c.Address) // empty: not known
		out[i] = grid.Row{Name: c.Name, ID: c.Backend, Role: backend.Role(c.Role), Node: c.Node, Farm: c.Farm, Country: c.Country, Size: c.Size,
			Contract: c.Contract, State: c.State, Address: address, Namespace: c.Namespace, USD: c.USD, Error: c.Error, Changed: c.Changed}
	}
	return out, nil
}

// look opens the journal beside whoever has the turn; nil where there is none. One
// of an older version is brought up to date.
func (j *journal) look(ctx context.Context) (*store.Store, error) {
	db, err := store.Open(ctx, j.path, store.Options{ReadOnly: true})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		return db, nil
	}
	if again, err := store.Open(ctx, j.path, store.Options{Durable: true}); err == nil {
		return again, nil
	}
	return nil, err
}
