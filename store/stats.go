package store

import (
	"context"
	"database/sql"
	"errors"
	"iter"
	"time"

	"github.com/uptrace/bun"
)

// Stats is the queue in numbers. Pending, Uploading and Failed do not overlap.
type Stats struct {
	Pending      int           // waiting for their first try
	Uploading    int           // leased
	Failed       int           // tried at least once, and waiting for the next try
	Stored       int           // paths whose last version is done
	BytesPending int64         // of all items that are not done
	OldestAge    time.Duration // age of the oldest item that is not done
}

// Stats gives the queue in numbers, in a time that does not grow with it.
func (q *RetryQueue) Stats(ctx context.Context) (Stats, error) {
	var s Stats
	var items, tried, leased, leasedTried int
	var oldest sql.NullInt64
	err := q.db.DB.QueryRowContext(ctx, q.q(`SELECT
		(SELECT n FROM {sums} WHERE name = 'items'),
		(SELECT n FROM {sums} WHERE name = 'tried'),
		(SELECT n FROM {sums} WHERE name = 'bytes'),
		(SELECT n FROM {sums} WHERE name = 'done'),
		(SELECT count(*) FROM {queue} WHERE leased = 1),
		(SELECT count(*) FROM {queue} WHERE leased = 1 AND tries > 0),
		(SELECT min(created_at) FROM {queue})`)).
		Scan(&items, &tried, &s.BytesPending, &s.Stored, &leased, &leasedTried, &oldest)
	if err != nil {
		return Stats{}, wrap("stats", err)
	}
	s.Uploading = leased
	s.Failed = tried - leasedTried
	s.Pending = items - s.Failed - s.Uploading
	if oldest.Valid {
		s.OldestAge = max(0, time.Duration(q.now()-oldest.Int64)*time.Millisecond)
	}
	return s, nil
}

// PendingFor counts the items of this checkpoint and of earlier ones that are
// not done: a cut is whole when all that it names is stored, and it names what
// earlier cuts named.
func (q *RetryQueue) PendingFor(ctx context.Context, checkpoint int64) (int, error) {
	var n int
	err := q.db.DB.QueryRowContext(ctx, q.q(`SELECT count(*) FROM {queue} WHERE checkpoint <= ?`), checkpoint).Scan(&n)
	return n, wrap("pending", err)
}

// ItemState is what happens to an item now.
type ItemState string

// The states of an item.
const (
	ItemPending   ItemState = "pending"   // not tried yet
	ItemUploading ItemState = "uploading" // leased
	ItemFailed    ItemState = "failed"    // tried, and waiting
)

// Entry is an item with what the queue knows of it.
type Entry struct {
	Item       Item
	ID         int64 // order of arrival
	State      ItemState
	Tries      int
	Created    time.Time
	NextTry    time.Time // of a failed item
	Owner      string    // of the lease
	LeaseUntil time.Time
	LastError  string
}

// Filter chooses entries. Its zero value chooses all.
type Filter struct {
	State      ItemState
	Kind       Kind
	Path       string
	Checkpoint int64 // this and earlier ones; zero: any
	Limit      int   // zero: none
}

// List goes through the entries in order of arrival. They are read page by
// page, so the caller may change the queue meanwhile.
func (q *RetryQueue) List(ctx context.Context, f Filter) iter.Seq2[Entry, error] {
	where := `id > ?`
	args := []any{int64(0)}
	add := func(condition string, arg ...any) { where += " AND " + condition; args = append(args, arg...) }
	switch f.State {
	case "":
	case ItemUploading:
		add(`leased = 1`)
	case ItemFailed:
		add(`leased = 0 AND tries > 0`)
	default:
		add(`leased = 0 AND tries = 0`)
	}
	if f.Kind != "" {
		add(`kind = ?`, string(f.Kind))
	}
	if f.Path != "" {
		add(`path = ?`, f.Path)
	}
	if f.Checkpoint != 0 {
		add(`checkpoint <= ?`, f.Checkpoint)
	}
	query := q.q(`SELECT id, path, version, kind, source, checkpoint, size, priority, created_at, tries,
		last_error, ready, next_at, leased, owner, lease_until FROM {queue} WHERE ` + where + ` ORDER BY id LIMIT ?`)
	next := func(last Entry, limit int) (*sql.Rows, error) {
		args[0] = last.ID
		return q.db.DB.QueryContext(ctx, query, append(args[:len(args):len(args)], limit)...)
	}
	return paged(f.Limit, next, scanEntry)
}

func scanEntry(rows *sql.Rows) (Entry, error) {
	var e Entry
	var created, next, until int64
	var ready, leased bool
	it := &e.Item
	err := rows.Scan(&e.ID, &it.Path, &it.Version, &it.Kind, &it.Source, &it.Checkpoint, &it.Size, &it.Priority, &created,
		&e.Tries, &e.LastError, &ready, &next, &leased, &e.Owner, &until)
	e.Created = stamp(created)
	switch {
	case leased:
		e.State, e.LeaseUntil = ItemUploading, stamp(until)
	case e.Tries > 0:
		e.State, e.NextTry, e.Owner = ItemFailed, stamp(next), ""
	default:
		e.State, e.Owner = ItemPending, ""
	}
	return e, err
}

// paged goes through pages of rows, each begun behind the last row of the one
// before. No statement is open while the caller works.
func paged[T any](limit int, next func(last T, limit int) (*sql.Rows, error), scan func(*sql.Rows) (T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var last, zero T
		for given := 0; limit == 0 || given < limit; {
			want := rowsPerStatement
			if limit > 0 {
				want = min(want, limit-given)
			}
			page, err := readPage(want, func() (*sql.Rows, error) { return next(last, want) }, scan)
			if err != nil {
				yield(zero, err)
				return
			}
			for _, v := range page {
				if !yield(v, nil) {
					return
				}
			}
			if len(page) < want {
				return
			}
			given += len(page)
			last = page[len(page)-1]
		}
	}
}

func readPage[T any](size int, query func() (*sql.Rows, error), scan func(*sql.Rows) (T, error)) ([]T, error) {
	rows, err := query()
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	page := make([]T, 0, size)
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		page = append(page, v)
	}
	return page, errors.Join(rows.Err(), rows.Close())
}

// RetryNow makes failed items claimable at once: of the paths given, or all.
// It gives their number.
func (q *RetryQueue) RetryNow(ctx context.Context, paths ...string) (int, error) {
	var n int
	var err error
	if len(paths) == 0 {
		n, err = q.retryAll(ctx)
	} else {
		n, err = q.retryPaths(ctx, paths)
	}
	if err == nil {
		q.signal()
	}
	return n, wrap("retry now", err)
}

const retryNow = `UPDATE {queue} SET ready = 1, next_at = 0 WHERE ready = 0 AND leased = 0`

func (q *RetryQueue) retryPaths(ctx context.Context, paths []string) (n int, err error) {
	err = q.update(ctx, func(tx bun.Tx) error {
		for _, p := range paths {
			r, err := tx.Tx.ExecContext(ctx, q.q(retryNow+` AND path = ?`), p)
			if err != nil {
				return err
			}
			k, err := r.RowsAffected()
			if err != nil {
				return err
			}
			n += int(k)
		}
		return nil
	})
	return n, err
}

// retryAll goes through the queue once, some items at a time: a million must not
// keep everybody else from writing.
func (q *RetryQueue) retryAll(ctx context.Context) (n int, err error) {
	for last := int64(0); ; {
		var ids []int64
		err := q.update(ctx, func(tx bun.Tx) error {
			rows, err := tx.Tx.QueryContext(ctx, q.q(retryNow+` AND id IN
				(SELECT id FROM {queue} WHERE ready = 0 AND leased = 0 AND id > ? ORDER BY id LIMIT ?) RETURNING id`), last, rowsPerStatement)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var id int64
				if err := rows.Scan(&id); err != nil {
					return err
				}
				ids = append(ids, id)
			}
			return rows.Err()
		})
		if err != nil {
			return n, err
		}
		for _, id := range ids {
			last = max(last, id)
		}
		if n += len(ids); len(ids) < rowsPerStatement {
			return n, nil
		}
		q.signal()
	}
}
