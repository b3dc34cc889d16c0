package store

import (
	"context"
	"time"

	"github.com/uptrace/bun"
)

// Replacement is one lost backend and what is being done about it: the row of a
// saga that goes on where it was after a crash.
type Replacement struct {
	ID         int64 // zero: a new one
	Backend    string
	Role       string // meta or data
	Successor  string // the backend that takes its place
	Step       string // the caller's
	Ended      bool   // the step is the last one
	Reason     string
	Started    time.Time // zero: now
	Changed    time.Time // when the step began; zero: now
	Objects    int64     // that had something on it
	Rebuilt    int64     // of them
	Bytes      int64     // of shards that were written
	Error      string
	NextTry    time.Time
	Generation int64  // of the set of backends that it made
	Cursor     string // where the rebuild is; the caller's
}

type replacementRow struct {
	ID         int64 `bun:",pk,autoincrement"`
	Backend    string
	Role       string
	Successor  string
	Step       string
	Ended      bool
	Reason     string
	StartedAt  int64
	ChangedAt  int64
	Objects    int64
	Rebuilt    int64
	Bytes      int64
	Error      string
	NextAt     int64
	Generation int64
	Position   string
}

func (r *replacementRow) replacement() Replacement {
	return Replacement{ID: r.ID, Backend: r.Backend, Role: r.Role, Successor: r.Successor, Step: r.Step, Ended: r.Ended, Reason: r.Reason,
		Started: stamp(r.StartedAt), Changed: stamp(r.ChangedAt), Objects: r.Objects, Rebuilt: r.Rebuilt, Bytes: r.Bytes,
		Error: r.Error, NextTry: stamp(r.NextAt), Generation: r.Generation, Cursor: r.Position}
}

// SaveReplacement writes a replacement, over the one of the same id, or as a
// new one when its id is zero, and gives its id. An id that is not there is
// [ErrNotFound].
func (s *Store) SaveReplacement(ctx context.Context, r Replacement) (int64, error) {
	row := replacementRow{ID: r.ID, Backend: r.Backend, Role: r.Role, Successor: r.Successor, Step: r.Step, Ended: r.Ended,
		Reason: clip(r.Reason, maxErrorText), StartedAt: millis(r.Started), ChangedAt: millis(r.Changed), Objects: r.Objects, Rebuilt: r.Rebuilt,
		Bytes: r.Bytes, Error: clip(r.Error, maxErrorText), NextAt: millis(r.NextTry), Generation: r.Generation, Position: r.Cursor}
	for _, at := range []*int64{&row.StartedAt, &row.ChangedAt} {
		if *at == 0 {
			*at = s.now()
		}
	}
	err := s.update(ctx, func(tx bun.Tx) error {
		if row.ID == 0 {
			_, err := tx.NewInsert().Model(&row).ModelTableExpr("?", s.table("replacements")).Exec(ctx)
			return err
		}
		res, err := tx.NewUpdate().Model(&row).ModelTableExpr("? AS ?TableAlias", s.table("replacements")).WherePK().Exec(ctx)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 1 {
			return err
		}
		return ErrNotFound
	})
	return row.ID, note(err, "replacement %d of %s", r.ID, r.Backend)
}

// Replacements lists replacements, the newest first: those that have not ended,
// or all; limit zero means no limit.
func (s *Store) Replacements(ctx context.Context, openOnly bool, limit int) ([]Replacement, error) {
	var rows []replacementRow
	q := s.db.NewSelect().Model(&rows).ModelTableExpr("? AS ?TableAlias", s.table("replacements")).
		Column("id", "backend", "role", "successor", "step", "ended", "reason", "started_at", "changed_at", "objects", "rebuilt",
			"bytes", "error", "next_at", "generation", "position").OrderExpr("id DESC")
	if openOnly {
		q = q.Where("ended = 0")
	}
	if limit > 0 {
		q = q.Limit(int64(limit))
	}
	if err := q.Scan(ctx); err != nil {
		return nil, note(err, "replacements")
	}
	out := make([]Replacement, len(rows))
	for i := range rows {
		out[i] = rows[i].replacement()
	}
	return out, nil
}
