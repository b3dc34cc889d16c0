package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/uptrace/bun"
)

// Event is one thing that happened, for people: in `status`, the dashboard and
// `why`. The newest Options.MaxEvents are kept.
type Event struct {
	ID      int64     // set by AddEvent; grows
	Time    time.Time // zero: now
	Kind    string
	Subject string // a path, a backend's id …
	Message string // without secrets
}

type eventRow struct {
	ID      int64 `bun:",pk,autoincrement"`
	At      int64
	Kind    string
	Subject string
	Message string
}

// AddEvent records an event and drops those that are too many.
func (s *Store) AddEvent(ctx context.Context, e Event) error {
	row := eventRow{At: millis(e.Time), Kind: clip(e.Kind, 100), Subject: clip(e.Subject, maxErrorText), Message: clip(e.Message, 4*maxErrorText)}
	if row.At == 0 {
		row.At = s.now()
	}
	err := s.update(ctx, func(tx bun.Tx) error {
		if _, err := tx.NewInsert().Model(&row).ModelTableExpr("?", s.table("events")).Exec(ctx); err != nil {
			return err
		}
		_, err := tx.Tx.ExecContext(ctx, s.q(`DELETE FROM {events} WHERE id <= ?`), row.ID-int64(s.maxEvents))
		return err
	})
	return note(err, "event %s", e.Kind)
}

// Events gives the newest events, the newest first; limit zero means all.
// With a subject, only those about it.
func (s *Store) Events(ctx context.Context, subject string, limit int) ([]Event, error) {
	var rows []eventRow
	q := s.db.NewSelect().Model(&rows).ModelTableExpr("? AS ?TableAlias", s.table("events")).
		Column("id", "at", "kind", "subject", "message").OrderExpr("id DESC")
	if subject != "" {
		q = q.Where("subject = ?", clip(subject, maxErrorText))
	}
	if limit > 0 {
		q = q.Limit(int64(limit))
	}
	if err := q.Scan(ctx); err != nil {
		return nil, note(err, "events")
	}
	out := make([]Event, len(rows))
	for i, r := range rows {
		out[i] = Event{ID: r.ID, Time: stamp(r.At), Kind: r.Kind, Subject: r.Subject, Message: r.Message}
	}
	return out, nil
}

// GetState gives the value of a key, or [ErrNotFound].
func (s *Store) GetState(ctx context.Context, key string) ([]byte, error) {
	var value []byte
	err := s.db.DB.QueryRowContext(ctx, s.q(`SELECT value FROM {state} WHERE key = ?`), key).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	return value, note(err, "state %q", key)
}

// SetState remembers a value under a key; nil forgets it.
func (s *Store) SetState(ctx context.Context, key string, value []byte) error {
	err := s.update(ctx, func(tx bun.Tx) error {
		if value == nil {
			_, err := tx.Tx.ExecContext(ctx, s.q(`DELETE FROM {state} WHERE key = ?`), key)
			return err
		}
		_, err := tx.Tx.ExecContext(ctx, s.q(`INSERT INTO {state} (key, value) VALUES (?,?)
			ON CONFLICT (key) DO UPDATE SET value = excluded.value`), key, value)
		return err
	})
	return note(err, "state %q", key)
}

// States gives all keys that begin with prefix, and their values.
func (s *Store) States(ctx context.Context, prefix string) (map[string][]byte, error) {
	rows, err := s.db.DB.QueryContext(ctx, s.q(`SELECT key, value FROM {state} WHERE substr(key, 1, length(?)) = ?`), prefix, prefix)
	if err != nil {
		return nil, note(err, "states")
	}
	defer rows.Close()
	out := map[string][]byte{}
	for rows.Next() {
		var key string
		var value []byte
		if err := rows.Scan(&key, &value); err != nil {
			return nil, note(err, "states")
		}
		out[key] = value
	}
	return out, note(rows.Err(), "states")
}
