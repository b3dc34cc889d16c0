package store

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"

	"github.com/uptrace/bun"
)

// rowsPerStatement bounds the rows of one INSERT, and the rows that one page
// of an iteration holds in memory.
const rowsPerStatement = 1000

// DefaultTablePrefix begins the name of each table.
const DefaultTablePrefix = "qsfs_"

var prefixes = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]{0,40})?$`)

// base is what the queue and the tracking tables share: one database, one
// prefix, one writer at a time.
//
// Paths and versions may hold any byte, so statements with them bind their
// values: bun writes values into the statement's text and would replace what
// is not UTF-8. Tables without such values use bun's queries.
type base struct {
	db       *bun.DB
	prefix   string
	readOnly bool
	log      *slog.Logger
	clock    clock

	// writing holds one token: writers queue here, where waiting costs nothing,
	// rather than in SQLite, where it is polling.
	writing chan struct{}
}

// clock gives wall time for what is stored, and time since some start for
// durations inside the process.
type clock struct {
	wall func() time.Time
	mono func() time.Duration
}

func systemClock() clock {
	start := time.Now()
	return clock{wall: time.Now, mono: func() time.Duration { return time.Since(start) }}
}

func newBase(db *bun.DB, prefix string, log *slog.Logger, c clock) (*base, error) {
	if !prefixes.MatchString(prefix) {
		return nil, fmt.Errorf("store: table prefix %q: want letters, digits and underscores, at most 41", prefix)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &base{db: db, prefix: prefix, log: log.With("component", "store"), clock: c, writing: make(chan struct{}, 1)}, nil
}

// now is the wall time that is stored.
func (b *base) now() int64 { return b.clock.wall().UnixMilli() }

// q puts table names into a statement: {queue} is the queue's table.
func (b *base) q(statement string) string {
	return strings.NewReplacer("{", b.prefix, "}", "").Replace(statement)
}

// table is for bun's queries.
func (b *base) table(name string) bun.Ident { return bun.Ident(b.prefix + name) }

// update runs fn in a transaction. Its first statement must write, so that a
// database without _txlock=immediate does not refuse the upgrade of a reader.
func (b *base) update(ctx context.Context, fn func(tx bun.Tx) error) error {
	if b.readOnly {
		return ErrReadOnly
	}
	select {
	case b.writing <- struct{}{}:
		defer func() { <-b.writing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	tx, err := b.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		_ = tx.Rollback() // the first error is the one that tells
		return err
	}
	return tx.Commit()
}

// insertRows writes n rows of width values with statements of at most
// rowsPerStatement rows: head, the rows, tail.
func insertRows(ctx context.Context, tx *sql.Tx, head, tail string, n, width int, row func(i int, to []any) []any) error {
	one := "(" + strings.TrimSuffix(strings.Repeat("?,", width), ",") + ")"
	var full *sql.Stmt
	for at := 0; at < n; {
		rows := min(rowsPerStatement, n-at)
		args := make([]any, 0, rows*width)
		for i := range rows {
			args = row(at+i, args)
		}
		at += rows
		text := func() string {
			return head + strings.TrimSuffix(strings.Repeat(one+",", rows), ",") + tail
		}
		if rows < rowsPerStatement {
			if _, err := tx.ExecContext(ctx, text(), args...); err != nil {
				return err
			}
			continue
		}
		if full == nil {
			var err error
			if full, err = tx.PrepareContext(ctx, text()); err != nil {
				return err
			}
			defer full.Close()
		}
		if _, err := full.ExecContext(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// stamp turns a stored time into a time; zero stays zero.
func stamp(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// millis turns a time into what is stored.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// clip bounds a text that comes from elsewhere and makes it valid UTF-8.
func clip(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	return strings.ToValidUTF8(s, "?")
}
