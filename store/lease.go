package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/uptrace/bun"
)

// Lease is the right to work on an item until a time. A worker that needs
// longer calls [RetryQueue.Extend]; one that dies loses the lease, and the item
// is claimed again.
type Lease struct {
	Item  Item
	Tries int       // failures so far
	Until time.Time // when the lease ends
	id    int64
	token int64
}

// Result is what became of an item.
type Result struct {
	ObjectPath string // the path under which it is stored
	Checksum   string // of its contents
}

const maxErrorText = 1000 // bytes of an error that are kept

// Claim gives the item that is needed most: of the lowest checkpoint, then by
// kind, priority and age. It is false when nothing may be claimed now. At most
// one version of a path is leased at a time.
func (q *RetryQueue) Claim(ctx context.Context, owner string, lease time.Duration) (Lease, bool, error) {
	if lease <= 0 {
		return Lease{}, false, fmt.Errorf("store: lease of %v", lease)
	}
	if at, err := q.nextAt(ctx); err != nil || at > 0 {
		return Lease{}, false, err // nothing to do: no transaction
	}
	var l Lease
	found := false
	err := q.updatePromoted(ctx, func(tx bun.Tx) error {
		now := q.now()
		l.token = rand.Int64N(1<<62) + 1
		l.Until = stamp(now + lease.Milliseconds())
		row := tx.Tx.QueryRowContext(ctx, q.q(`UPDATE {queue} SET
				ready = 0, leased = 1, token = ?, owner = ?, session = ?, lease_ms = ?, lease_until = ?
			WHERE id = (SELECT id FROM {queue} AS c WHERE ready = 1`+notBlocked+`
				ORDER BY checkpoint, rank, priority DESC, id LIMIT 1)
			RETURNING id, path, version, kind, source, checkpoint, size, priority, tries`),
			l.token, owner, q.session, lease.Milliseconds(), now+lease.Milliseconds())
		it := &l.Item
		err := row.Scan(&l.id, &it.Path, &it.Version, &it.Kind, &it.Source, &it.Checkpoint, &it.Size, &it.Priority, &l.Tries)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		found = err == nil
		if found {
			q.holdLease(l.token, lease)
		}
		return err
	})
	if err != nil || !found {
		return Lease{}, false, wrap("claim", err)
	}
	return l, true, nil
}

// notBlocked leaves out an item while another version of its path is leased:
// two uploads to one path at a time could end in the wrong order. A version
// that waits after a failure does not hold up the next one.
const notBlocked = `
	AND NOT EXISTS (SELECT 1 FROM {queue} AS o WHERE o.leased = 1 AND o.path = c.path)`

// updatePromoted runs fn in a transaction in which all items whose time has
// come are ready.
func (q *RetryQueue) updatePromoted(ctx context.Context, fn func(tx bun.Tx) error) error {
	ended := q.expired()
	err := q.update(ctx, func(tx bun.Tx) error {
		if err := q.promoteTx(ctx, tx, ended); err != nil {
			return err
		}
		return fn(tx)
	})
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, token := range ended {
		if q.leases[token] <= q.clock.mono() { // not extended meanwhile
			delete(q.leases, token)
		}
	}
	return nil
}

// promoteTx makes items ready whose time has come or whose lease has ended.
func (q *RetryQueue) promoteTx(ctx context.Context, tx bun.Tx, ended []int64) error {
	now := q.now()
	exec := func(s string, args ...any) error {
		_, err := tx.Tx.ExecContext(ctx, q.q(s), args...)
		return err
	}
	for _, token := range ended {
		if err := exec(`UPDATE {queue} SET leased = 0, ready = 1 WHERE leased = 1 AND token = ?`, token); err != nil {
			return err
		}
	}
	// Leases of other sessions end by wall time, at most their length from now.
	if err := exec(`UPDATE {queue} SET lease_until = ? + lease_ms WHERE leased = 1 AND session <> ? AND lease_until > ? + lease_ms`, now, q.session, now); err != nil {
		return err
	}
	if err := exec(`UPDATE {queue} SET leased = 0, ready = 1 WHERE leased = 1 AND session <> ? AND lease_until <= ?`, q.session, now); err != nil {
		return err
	}
	// A clock that was ahead when a delay was stored must not hold the item.
	latest := now + q.retryMax().Milliseconds()
	if err := exec(`UPDATE {queue} SET next_at = ? WHERE id IN
		(SELECT id FROM {queue} WHERE ready = 0 AND leased = 0 AND next_at > ? LIMIT ?)`, latest, latest, rowsPerStatement); err != nil {
		return err
	}
	// At most some at a time, the longest due first: after a night without
	// backends a million are.
	return exec(`UPDATE {queue} SET ready = 1 WHERE id IN
		(SELECT id FROM {queue} WHERE ready = 0 AND leased = 0 AND next_at <= ? ORDER BY next_at LIMIT ?)`, now, rowsPerStatement)
}

// holdLease remembers when a lease ends. It is called inside the transaction
// that gives the lease: a transaction that fails afterwards leaves an entry
// that ends without effect, while the other order could lose one.
func (q *RetryQueue) holdLease(token int64, d time.Duration) {
	q.mu.Lock()
	q.leases[token] = q.clock.mono() + d
	q.mu.Unlock()
}

// expired lists the leases of this session that have ended.
func (q *RetryQueue) expired() []int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	var tokens []int64
	now := q.clock.mono()
	for token, end := range q.leases {
		if end <= now {
			tokens = append(tokens, token)
		}
	}
	return tokens
}

// Extend makes a lease end d from now. It is [ErrLeaseLost] when the item has
// been given to another worker or is done.
func (q *RetryQueue) Extend(ctx context.Context, l Lease, d time.Duration) (Lease, error) {
	if d <= 0 {
		return l, fmt.Errorf("store: lease of %v", d)
	}
	until := q.now() + d.Milliseconds()
	// Until it is claimed again, an ended lease can be taken up again.
	err := q.update(ctx, func(tx bun.Tx) error {
		r, err := tx.Tx.ExecContext(ctx, q.q(`UPDATE {queue} AS c SET leased = 1, ready = 0, session = ?, lease_ms = ?, lease_until = ?
			WHERE id = ? AND token = ? AND (leased = 1 OR ready = 1`+notBlocked+`)`), q.session, d.Milliseconds(), until, l.id, l.token)
		if err := one(r, err); err != nil {
			return err
		}
		q.holdLease(l.token, d)
		return nil
	})
	if err != nil {
		return l, wrap("extend", err)
	}
	l.Until = stamp(until)
	return l, nil
}

// Done takes the item out of the queue for good. It is [ErrLeaseLost] when
// another worker has it or had it done first. With a [Store], MarkStored does
// this and more.
func (q *RetryQueue) Done(ctx context.Context, l Lease, r Result) error {
	err := q.update(ctx, func(tx bun.Tx) error {
		n, err := tx.Tx.ExecContext(ctx, q.q(`DELETE FROM {queue} WHERE id = ? AND token = ?`), l.id, l.token)
		if err := one(n, err); err != nil {
			return err
		}
		return q.recordDoneTx(ctx, tx, l.Item.Path, l.Item.Version, r)
	})
	if err == nil || errors.Is(err, ErrLeaseLost) {
		q.dropLease(l.token)
	}
	if err == nil {
		q.signal()
	}
	return wrap("done", err)
}

func (q *RetryQueue) recordDoneTx(ctx context.Context, tx bun.Tx, path, version string, r Result) error {
	_, err := tx.Tx.ExecContext(ctx, q.q(`INSERT INTO {done} (path, version, object_path, checksum, done_at) VALUES (?,?,?,?,?)
		ON CONFLICT (path) DO UPDATE SET version = excluded.version, object_path = excluded.object_path,
			checksum = excluded.checksum, done_at = excluded.done_at`),
		path, version, r.ObjectPath, r.Checksum, q.now())
	return err
}

// Fail gives the item back after a failure. It is claimed again after a delay
// that doubles with each failure, up to the retry interval; a part of it is
// random, so that many failures do not come back at once. The text of cause is
// kept, so it must hold no secret.
func (q *RetryQueue) Fail(ctx context.Context, l Lease, cause error) error {
	text := "unknown"
	if cause != nil {
		text = clip(cause.Error(), maxErrorText)
	}
	next := q.now() + q.delay(l.Tries+1).Milliseconds()
	err := q.update(ctx, func(tx bun.Tx) error {
		r, err := tx.Tx.ExecContext(ctx, q.q(`UPDATE {queue} SET leased = 0, ready = 0, next_at = ?, tries = tries + 1, last_error = ?
			WHERE id = ? AND token = ? AND (leased = 1 OR ready = 1)`), next, text, l.id, l.token)
		if err := one(r, err); err != nil {
			return err
		}
		_, err = tx.Tx.ExecContext(ctx, q.q(`UPDATE {files} SET tries = tries + 1, last_error = ? WHERE path = ? AND version = ?`),
			text, l.Item.Path, l.Item.Version)
		if err != nil {
			return err
		}
		return q.recordFailureTx(ctx, tx.Tx, l.Item.Path, l.Item.Version, text)
	})
	return q.gaveBack(l, "fail", err)
}

// delay is the time between a number of failures and the next try: between
// half of the doubled delay and all of it.
func (q *RetryQueue) delay(tries int) time.Duration {
	longest := q.retryMax()
	d := q.retryMin
	for i := 1; i < tries && d < longest; i++ {
		d *= 2
	}
	d = min(d, longest)
	return d/2 + rand.N(d/2+1)
}

// Release gives the item back as it was, without counting a failure: for a
// worker that stops.
func (q *RetryQueue) Release(ctx context.Context, l Lease) error {
	err := q.update(ctx, func(tx bun.Tx) error {
		r, err := tx.Tx.ExecContext(ctx, q.q(`UPDATE {queue} SET leased = 0, ready = 1 WHERE id = ? AND token = ? AND (leased = 1 OR ready = 1)`), l.id, l.token)
		return one(r, err)
	})
	return q.gaveBack(l, "release", err)
}

func (q *RetryQueue) gaveBack(l Lease, op string, err error) error {
	if err == nil || errors.Is(err, ErrLeaseLost) {
		q.dropLease(l.token)
	}
	if err == nil {
		q.signal()
	}
	return wrap(op, err)
}

func (q *RetryQueue) dropLease(token int64) {
	q.mu.Lock()
	delete(q.leases, token)
	q.mu.Unlock()
}

// one turns "no row" into ErrLeaseLost.
func one(r sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, err := r.RowsAffected()
	if err == nil && n == 0 {
		err = ErrLeaseLost
	}
	return err
}

func wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("queue: %s: %w", op, err)
}
