package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/uptrace/bun"
)

// CheckpointState is how far a checkpoint is.
type CheckpointState string

// The states of a checkpoint.
const (
	CheckpointOpen      CheckpointState = "open"      // cut, not yet on the backends
	CheckpointCommitted CheckpointState = "committed" // its head is written
	CheckpointReplaced  CheckpointState = "replaced"  // a later one was committed first
)

// Checkpoint is one consistent cut of the tree.
type Checkpoint struct {
	Seq       int64
	Epoch     int64
	State     CheckpointState
	Created   time.Time // zero: now
	Committed time.Time
	Manifest  string // object path of its manifest
}

type checkpointRow struct {
	Seq         int64 `bun:",pk"`
	Epoch       int64
	State       CheckpointState
	CreatedAt   int64
	CommittedAt int64
	Manifest    string
}

func (r checkpointRow) checkpoint() Checkpoint {
	return Checkpoint{Seq: r.Seq, Epoch: r.Epoch, State: r.State, Created: stamp(r.CreatedAt), Committed: stamp(r.CommittedAt), Manifest: r.Manifest}
}

// BeginCheckpoint records a cut, the items that it needs and the files that it
// names (see [Store.TrackFiles]), in one transaction. Items and files without a checkpoint get its
// number. A second call for an open checkpoint adds to it; for a committed one
// it is [ErrCommitted].
func (s *Store) BeginCheckpoint(ctx context.Context, c Checkpoint, items []Item, files []File) error {
	if err := checkItems(items); err != nil {
		return err
	}
	items, files = numbered(c.Seq, items, files)
	created := millis(c.Created)
	if created == 0 {
		created = s.now()
	}
	err := s.update(ctx, func(tx bun.Tx) error {
		r, err := tx.Tx.ExecContext(ctx, s.q(`INSERT INTO {checkpoints} (seq, epoch, state, created_at, committed_at, manifest)
			VALUES (?,?,?,?,0,?) ON CONFLICT (seq) DO UPDATE SET manifest = excluded.manifest WHERE state = 'open' AND epoch = excluded.epoch`),
			c.Seq, c.Epoch, string(CheckpointOpen), created, c.Manifest)
		if err := one(r, err); errors.Is(err, ErrLeaseLost) {
			return ErrCommitted
		} else if err != nil {
			return err
		}
		if err := s.trackFilesTx(ctx, tx, files); err != nil {
			return err
		}
		return s.queue.enqueueTx(ctx, tx, items)
	})
	if err == nil {
		s.queue.signal()
	}
	return note(err, "begin checkpoint %d", c.Seq)
}

func numbered(seq int64, items []Item, files []File) ([]Item, []File) {
	items, files = append([]Item(nil), items...), append([]File(nil), files...)
	for i := range items {
		if items[i].Checkpoint == 0 {
			items[i].Checkpoint = seq
		}
	}
	for i := range files {
		if files[i].Checkpoint == 0 {
			files[i].Checkpoint = seq
		}
	}
	return items, files
}

// SetManifest records where the manifest of an open checkpoint is stored.
func (s *Store) SetManifest(ctx context.Context, seq int64, objectPath string) error {
	err := s.update(ctx, func(tx bun.Tx) error {
		r, err := tx.Tx.ExecContext(ctx, s.q(`UPDATE {checkpoints} SET manifest = ? WHERE seq = ? AND state = 'open'`), objectPath, seq)
		return s.checkpointErr(ctx, tx, seq, one(r, err))
	})
	return note(err, "manifest of checkpoint %d", seq)
}

// CommitCheckpoint records that the head of a checkpoint is written. It
// succeeds once: afterwards it is [ErrCommitted], also for earlier checkpoints,
// which this one replaces. While items of it or of earlier ones are not stored
// it is a [*PendingError].
func (s *Store) CommitCheckpoint(ctx context.Context, seq int64) error {
	err := s.update(ctx, func(tx bun.Tx) error {
		r, err := tx.Tx.ExecContext(ctx, s.q(`UPDATE {checkpoints} SET state = 'committed', committed_at = ? WHERE seq = ? AND state = 'open'`), s.now(), seq)
		if err := s.checkpointErr(ctx, tx, seq, one(r, err)); err != nil {
			return err
		}
		var n int
		if err := tx.Tx.QueryRowContext(ctx, s.q(`SELECT count(*) FROM {queue} WHERE checkpoint <= ?`), seq).Scan(&n); err != nil {
			return err
		}
		if n > 0 {
			return &PendingError{Seq: seq, Pending: n}
		}
		_, err = tx.Tx.ExecContext(ctx, s.q(`UPDATE {checkpoints} SET state = 'replaced' WHERE seq < ? AND state = 'open'`), seq)
		if err != nil {
			return err
		}
		if _, err = tx.Tx.ExecContext(ctx, s.q(`DELETE FROM {unsettled} WHERE checkpoint <= ?`), seq); err != nil {
			return err
		}
		return s.forgetObjectsTx(ctx, tx.Tx, `retired > 0 AND retired <= ?`, seq)
	})
	return note(err, "commit checkpoint %d", seq)
}

// checkpointErr tells why no open checkpoint had this number.
func (s *Store) checkpointErr(ctx context.Context, tx bun.Tx, seq int64, err error) error {
	if !errors.Is(err, ErrLeaseLost) {
		return err
	}
	var state string
	err = tx.Tx.QueryRowContext(ctx, s.q(`SELECT state FROM {checkpoints} WHERE seq = ?`), seq).Scan(&state)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	if err != nil {
		return err
	}
	return ErrCommitted
}

// OpenCheckpoints lists the checkpoints that are not committed, the oldest
// first.
func (s *Store) OpenCheckpoints(ctx context.Context) ([]Checkpoint, error) {
	return s.checkpoints(ctx, func(q *bun.SelectQuery) *bun.SelectQuery {
		return q.Where("state = ?", CheckpointOpen).OrderExpr("seq")
	})
}

// LatestCommitted gives the newest committed checkpoint, or [ErrNotFound].
func (s *Store) LatestCommitted(ctx context.Context) (Checkpoint, error) {
	found, err := s.checkpoints(ctx, func(q *bun.SelectQuery) *bun.SelectQuery {
		return q.Where("state = ?", CheckpointCommitted).OrderExpr("seq DESC").Limit(1)
	})
	if err == nil && len(found) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Checkpoint{}, note(err, "latest checkpoint")
	}
	return found[0], nil
}

// LatestCheckpoint gives the checkpoint with the highest number, whatever its
// state, or [ErrNotFound].
func (s *Store) LatestCheckpoint(ctx context.Context) (Checkpoint, error) {
	found, err := s.checkpoints(ctx, func(q *bun.SelectQuery) *bun.SelectQuery { return q.OrderExpr("seq DESC").Limit(1) })
	if err == nil && len(found) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Checkpoint{}, note(err, "latest checkpoint")
	}
	return found[0], nil
}

func (s *Store) checkpoints(ctx context.Context, choose func(*bun.SelectQuery) *bun.SelectQuery) ([]Checkpoint, error) {
	var rows []checkpointRow
	err := choose(s.db.NewSelect().Model(&rows).ModelTableExpr("? AS ?TableAlias", s.table("checkpoints"))).
		Column("seq", "epoch", "state", "created_at", "committed_at", "manifest").Scan(ctx)
	if err != nil {
		return nil, note(err, "checkpoints")
	}
	out := make([]Checkpoint, len(rows))
	for i, r := range rows {
		out[i] = r.checkpoint()
	}
	return out, nil
}
