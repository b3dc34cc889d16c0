package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/uptrace/bun"
)

// lookAgain bounds a Wait without a look, for what other processes did and for
// clocks that were set.
const lookAgain = time.Minute

// Wait returns when an item may be claimed. It is the context's error, or
// [ErrClosed]. Another worker may be faster: the Claim that follows may find
// nothing.
func (q *RetryQueue) Wait(ctx context.Context) error {
	for {
		wake, err := q.wakeup() // before the look: nothing is missed between
		if err != nil {
			return err
		}
		d, err := q.nextAt(ctx)
		if err != nil || d <= 0 {
			return err
		}
		timer := time.NewTimer(min(d, lookAgain))
		select {
		case <-wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

func (q *RetryQueue) wakeup() (<-chan struct{}, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil, ErrClosed
	}
	return q.wake, nil
}

// signal wakes every Wait.
func (q *RetryQueue) signal() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		close(q.wake)
		q.wake = make(chan struct{})
	}
}

// shut ends every Wait for good.
func (q *RetryQueue) shut() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		close(q.wake)
	}
}

// nextAt is the time until something may be claimable: zero for now, lookAgain
// for never.
func (q *RetryQueue) nextAt(ctx context.Context) (time.Duration, error) {
	next, ahead, err := q.look(ctx)
	if err == nil && ahead && !q.readOnly {
		// The clock was set back: what it said then is cut to what it may be.
		if err = q.updatePromoted(ctx, func(bun.Tx) error { return nil }); err == nil {
			next, _, err = q.look(ctx)
		}
	}
	return next, err
}

// look is nextAt as the database says it; ahead tells of a time further ahead
// than any that would be stored now.
func (q *RetryQueue) look(ctx context.Context) (next time.Duration, ahead bool, err error) {
	var ready bool
	var first, last, foreign sql.NullInt64
	var lateLease bool
	now := q.now()
	err = q.db.DB.QueryRowContext(ctx, q.q(`SELECT
		EXISTS (SELECT 1 FROM {queue} AS c WHERE ready = 1`+notBlocked+`),
		(SELECT min(next_at) FROM {queue} WHERE ready = 0 AND leased = 0),
		(SELECT max(next_at) FROM {queue} WHERE ready = 0 AND leased = 0),
		(SELECT min(lease_until) FROM {queue} WHERE leased = 1 AND session <> ?),
		EXISTS (SELECT 1 FROM {queue} WHERE leased = 1 AND session <> ? AND lease_until > ? + lease_ms)`),
		q.session, q.session, now).Scan(&ready, &first, &last, &foreign, &lateLease)
	if err != nil {
		return 0, false, err
	}
	ahead = lateLease || last.Valid && last.Int64 > now+q.retryMax().Milliseconds()
	if ready {
		return 0, ahead, nil
	}
	next = lookAgain
	for _, at := range []sql.NullInt64{first, foreign} {
		if at.Valid {
			next = min(next, time.Duration(at.Int64-now)*time.Millisecond)
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	mono := q.clock.mono()
	for _, end := range q.leases {
		next = min(next, end-mono)
	}
	return max(next, 0), ahead, nil
}
