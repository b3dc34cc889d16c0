package store

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/uptrace/bun"
)

// Generation is one numbered set of backends. Backends is JSON of the caller's;
// it must hold no secret.
type Generation struct {
	Number   int64
	Created  time.Time // zero: now
	Reason   string
	Backends json.RawMessage
}

type generationRow struct {
	Number    int64 `bun:",pk"`
	CreatedAt int64
	Reason    string
	Backends  []byte
}

// SaveGeneration records a set of backends. The same number with the same set
// changes nothing; a number at or below the newest known is [ErrStale]
// otherwise: an older set never wins.
func (s *Store) SaveGeneration(ctx context.Context, g Generation) error {
	if !json.Valid(g.Backends) {
		return note(fmt.Errorf("backends are not JSON"), "generation %d", g.Number)
	}
	created := millis(g.Created)
	if created == 0 {
		created = s.now()
	}
	err := s.update(ctx, func(tx bun.Tx) error {
		r, err := tx.Tx.ExecContext(ctx, s.q(`INSERT INTO {generations} (number, created_at, reason, backends)
			SELECT ?,?,?,? WHERE NOT EXISTS (SELECT 1 FROM {generations} WHERE number >= ?)`),
			g.Number, created, clip(g.Reason, maxErrorText), []byte(g.Backends), g.Number)
		if err != nil {
			return err
		}
		if n, err := r.RowsAffected(); err != nil || n == 1 {
			return err
		}
		var have []byte
		err = tx.Tx.QueryRowContext(ctx, s.q(`SELECT coalesce((SELECT backends FROM {generations} WHERE number = ?), '')`), g.Number).Scan(&have)
		if err == nil && !bytes.Equal(have, g.Backends) {
			err = ErrStale
		}
		return err
	})
	return note(err, "generation %d", g.Number)
}

// LatestGeneration gives the newest set of backends, or [ErrNotFound].
func (s *Store) LatestGeneration(ctx context.Context) (Generation, error) {
	all, err := s.generations(ctx, 1)
	if err == nil && len(all) == 0 {
		err = note(ErrNotFound, "latest generation")
	}
	if err != nil {
		return Generation{}, err
	}
	return all[0], nil
}

// Generations lists all sets of backends, the newest first.
func (s *Store) Generations(ctx context.Context) ([]Generation, error) { return s.generations(ctx, 0) }

func (s *Store) generations(ctx context.Context, limit int) ([]Generation, error) {
	var rows []generationRow
	q := s.db.NewSelect().Model(&rows).ModelTableExpr("? AS ?TableAlias", s.table("generations")).
		Column("number", "created_at", "reason", "backends").OrderExpr("number DESC")
	if limit > 0 {
		q = q.Limit(int64(limit))
	}
	if err := q.Scan(ctx); err != nil {
		return nil, note(err, "generations")
	}
	out := make([]Generation, len(rows))
	for i, r := range rows {
		out[i] = Generation{Number: r.Number, Created: stamp(r.CreatedAt), Reason: r.Reason, Backends: r.Backends}
	}
	return out, nil
}

// BackendState is what is known about one backend. Info is JSON of the
// caller's; it must hold no secret.
type BackendState struct {
	ID         string
	Role       string // meta or data
	State      string // up, down, full, replacing, retired
	Since      time.Time
	Generation int64 // the set that brought it in
	Info       json.RawMessage
}

type backendRow struct {
	ID         string `bun:",pk"`
	Role       string
	State      string
	Since      int64
	Generation int64
	Info       []byte
}

// UpsertBackends writes rows, all or none, over what was known of the same ids.
func (s *Store) UpsertBackends(ctx context.Context, backends ...BackendState) error {
	if len(backends) == 0 {
		return nil
	}
	rows := make([]backendRow, len(backends))
	for i, b := range backends {
		info := []byte(b.Info)
		if len(info) == 0 {
			info = []byte("null")
		}
		rows[i] = backendRow{ID: b.ID, Role: b.Role, State: b.State, Since: millis(b.Since), Generation: b.Generation, Info: info}
	}
	err := s.update(ctx, func(tx bun.Tx) error {
		_, err := tx.NewInsert().Model(&rows).ModelTableExpr("?", s.table("backends")).
			On("CONFLICT (id) DO UPDATE").Set("role = excluded.role").Set("state = excluded.state").Set("since = excluded.since").
			Set("generation = excluded.generation").Set("info = excluded.info").Exec(ctx)
		return err
	})
	return note(err, "upsert %d backends", len(backends))
}

// Backends lists what is known about backends, by id.
func (s *Store) Backends(ctx context.Context) ([]BackendState, error) {
	var rows []backendRow
	err := s.db.NewSelect().Model(&rows).ModelTableExpr("? AS ?TableAlias", s.table("backends")).
		Column("id", "role", "state", "since", "generation", "info").OrderExpr("id").Scan(ctx)
	if err != nil {
		return nil, note(err, "backends")
	}
	out := make([]BackendState, len(rows))
	for i, r := range rows {
		out[i] = BackendState{ID: r.ID, Role: r.Role, State: r.State, Since: stamp(r.Since), Generation: r.Generation, Info: r.Info}
	}
	return out, nil
}
