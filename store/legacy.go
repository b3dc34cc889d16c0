package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/uptrace/bun"
)

// LegacyState says what became of a hint.
type LegacyState string

// The states of a hint.
const (
	LegacyHint     LegacyState = "hint"     // not looked at yet: counts for nothing
	LegacyVerified LegacyState = "verified" // the backends hold an object with this checksum
	LegacyFalse    LegacyState = "false"    // they do not, or it is of no use
)

// Legacy is what an earlier program noted of a file: that it had been stored
// with this content. It may be false.
type Legacy struct {
	Path     string // absolute
	Checksum string // BLAKE2b-128, hex
	Source   string // the file that said so
	State    LegacyState
	Reason   string // why it is false
}

// AddLegacy adds hints, all or none. One that is known with the same checksum
// keeps its state: an import may be repeated.
func (s *Store) AddLegacy(ctx context.Context, hints ...Legacy) error {
	if len(hints) == 0 {
		return nil
	}
	err := s.update(ctx, func(tx bun.Tx) error {
		// A statement must not name a path twice; the last line of one counts.
		last := make(map[string]int, len(hints))
		for i, h := range hints {
			last[h.Path] = i
		}
		once := hints[:0:0]
		for i, h := range hints {
			if last[h.Path] == i {
				once = append(once, h)
			}
		}
		head := s.q(`INSERT INTO {legacy} (path, checksum, source, state, reason) SELECT v.* FROM (VALUES `)
		tail := s.q(`) AS v WHERE true ON CONFLICT (path) DO UPDATE SET checksum = excluded.checksum, source = excluded.source,
			state = excluded.state, reason = excluded.reason WHERE {legacy}.checksum <> excluded.checksum`)
		return insertRows(ctx, tx.Tx, head, tail, len(once), 5, func(i int, to []any) []any {
			h := once[i]
			return append(to, h.Path, h.Checksum, h.Source, string(LegacyHint), "")
		})
	})
	return note(err, "add %d hints", len(hints))
}

// LegacyFor gives the hint about a path, or [ErrNotFound].
func (s *Store) LegacyFor(ctx context.Context, path string) (Legacy, error) {
	list, err := s.legacy(ctx, `path = ?`, path, 1)
	if err == nil && len(list) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Legacy{}, note(err, "hint about %q", path)
	}
	return list[0], nil
}

// LegacyHints gives up to limit hints of a state behind a path, in the order of
// paths.
func (s *Store) LegacyHints(ctx context.Context, state LegacyState, after string, limit int) ([]Legacy, error) {
	list, err := s.legacy(ctx, `state = '`+string(state)+`' AND path > ?`, after, limit)
	return list, note(err, "hints")
}

func (s *Store) legacy(ctx context.Context, where, arg string, limit int) ([]Legacy, error) {
	rows, err := s.db.DB.QueryContext(ctx, s.q(`SELECT path, checksum, source, state, reason FROM {legacy} WHERE `+where+` ORDER BY path LIMIT ?`), arg, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []Legacy
	for rows.Next() {
		var h Legacy
		if err := rows.Scan(&h.Path, &h.Checksum, &h.Source, &h.State, &h.Reason); err != nil {
			return nil, err
		}
		list = append(list, h)
	}
	return list, rows.Err()
}

// SetLegacy records what became of a hint, if it still has this checksum.
func (s *Store) SetLegacy(ctx context.Context, path, checksum string, state LegacyState, reason error) error {
	text := ""
	if reason != nil {
		text = clip(reason.Error(), maxErrorText)
	}
	err := s.update(ctx, func(tx bun.Tx) error {
		_, err := tx.Tx.ExecContext(ctx, s.q(`UPDATE {legacy} SET state = ?, reason = ? WHERE path = ? AND checksum = ?`), string(state), text, path, checksum)
		return err
	})
	return note(err, "hint about %q", path)
}

// LegacyCounts counts hints by state.
func (s *Store) LegacyCounts(ctx context.Context) (map[LegacyState]int64, error) {
	rows, err := s.db.DB.QueryContext(ctx, s.q(`SELECT state, count(*) FROM {legacy} GROUP BY state`))
	if err != nil {
		return nil, note(err, "count hints")
	}
	defer rows.Close()
	counts := map[LegacyState]int64{}
	for rows.Next() {
		var state LegacyState
		var n int64
		if err := rows.Scan(&state, &n); err != nil {
			return nil, note(err, "count hints")
		}
		counts[state] = n
	}
	return counts, note(rows.Err(), "count hints")
}

// LegacyReport says what an import found.
type LegacyReport struct {
	Entries int64    // hints read, repeated ones included
	Skipped int64    // malformed lines or rows
	Why     []string // of the first of them
}

const maxSkippedTold = 20

func (r *LegacyReport) skip(where string, why error) {
	r.Skipped++
	if len(r.Why) < maxSkippedTold {
		r.Why = append(r.Why, fmt.Sprintf("%s: %v", where, why))
	}
}

var errLegacyEntry = errors.New("want an absolute path and 32 hex digits")

// ImportLegacy reads hints from a copy that [CopyLegacy] made; source is what
// they are said to come from. What is malformed is skipped and reported.
func (s *Store) ImportLegacy(ctx context.Context, f LegacyFile) (LegacyReport, error) {
	var r LegacyReport
	batch := make([]Legacy, 0, legacyBatch)
	flush := func() error {
		err := s.AddLegacy(ctx, batch...)
		batch = batch[:0]
		return err
	}
	err := f.read(ctx, &r, func(path, checksum string) error {
		r.Entries++
		batch = append(batch, Legacy{Path: path, Checksum: checksum, Source: f.Origin})
		if len(batch) == legacyBatch {
			return flush()
		}
		return nil
	})
	if err == nil {
		err = flush()
	}
	return r, note(err, "import %s", f.Origin)
}

const legacyBatch = 1000
