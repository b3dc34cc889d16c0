package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/uptrace/bun"
)

// Kind says what a file is to the QSFS.
type Kind string

// The kinds, in the order in which items of one checkpoint are claimed: what
// an index names is stored before the index.
const (
	KindDescriptor Kind = "descriptor" // zdb-namespace
	KindData       Kind = "data"       // d0, d1 …
	KindIndex      Kind = "index"      // i0, i1 … or a copy of one
	KindManifest   Kind = "manifest"   // of a checkpoint
)

func (k Kind) rank() (int, bool) {
	switch k {
	case KindDescriptor:
		return 0, true
	case KindData:
		return 1, true
	case KindIndex:
		return 2, true
	case KindManifest:
		return 3, true
	}
	return 0, false
}

// Item is one version of one file that has to reach the backends. Path and
// Version together are its identity.
type Item struct {
	Path       string // the file's name in the QSFS; any bytes
	Version    string // what tells its contents apart: `length:checksum` or `epoch.generation`
	Kind       Kind
	Source     string // local file to read; may be a copy of Path
	Checkpoint int64  // the cut that needs it; lower ones go first
	Size       int64  // bytes
	Priority   int    // higher goes first, within a checkpoint and kind
}

// Defaults of the queue.
const (
	DefaultRetryInterval = 10 * time.Minute
	DefaultRetryMin      = 5 * time.Second
)

// RetryQueue holds the items that are not stored yet, and forgets none: an
// item that fails is tried again, after a time that doubles up to the retry
// interval, until it is done. It is safe for concurrent use; several processes
// may share one, although only calls of the same process wake its [RetryQueue.Wait].
//
// It is bounded in everything but its length, for a list of what is not safe
// yet must not drop anything: it lives on disk, a claim takes one item, a
// listing holds one page, an error's text and the log of failures end at a
// size, and one path and version is in it once. What enters it is bounded by
// what is on disk: one item per file.
//
// The order is that of need: the checkpoint that has waited longest first,
// within it what others build on, then what came first. New items never go
// before those of an earlier checkpoint, so that nothing waits for ever;
// Stats.OldestAge tells how long the oldest one has.
type RetryQueue struct {
	*base
	retryMin time.Duration
	longest  atomic.Int64 // delay between two tries, ns
	session  string       // of this RetryQueue; leases carry it

	mu     sync.Mutex
	wake   chan struct{}           // closed and replaced when something may be claimable
	closed bool                    // of the store
	leases map[int64]time.Duration // token → end on the monotonic clock
}

// QueueOption tunes [NewRetryQueue].
type QueueOption func(*queueOptions)

type queueOptions struct {
	prefix             string
	retryMin, retryMax time.Duration
	exclusive          bool
	log                *slog.Logger
	clock              clock
}

// WithTablePrefix sets what the table names begin with; letters, digits and
// underscores. Queues with different prefixes share a database without seeing
// each other. The default is [DefaultTablePrefix].
func WithTablePrefix(prefix string) QueueOption { return func(o *queueOptions) { o.prefix = prefix } }

// WithRetry sets the delay after a first failure and the longest delay. Zero
// keeps the default.
func WithRetry(first, longest time.Duration) QueueOption {
	return func(o *queueOptions) { o.retryMin, o.retryMax = first, longest }
}

// WithExclusive states that no other process uses this queue, so that every
// lease that it holds is of a process that is gone: they are given back at once.
func WithExclusive() QueueOption { return func(o *queueOptions) { o.exclusive = true } }

// WithLogger sets the logger; the default discards.
func WithLogger(l *slog.Logger) QueueOption { return func(o *queueOptions) { o.log = l } }

// NewRetryQueue makes or finds a queue in db, which stays the caller's. The
// database should be opened with WAL and a busy_timeout, as [Open] does it.
// A database of a newer program gives a [*NewerSchemaError].
func NewRetryQueue(ctx context.Context, db *bun.DB, opts ...QueueOption) (*RetryQueue, error) {
	o := queueOptions{prefix: DefaultTablePrefix, clock: systemClock()}
	for _, opt := range opts {
		opt(&o)
	}
	b, err := newBase(db, o.prefix, o.log, o.clock)
	if err != nil {
		return nil, err
	}
	if err := b.migrate(ctx, len(migrations)); err != nil {
		return nil, err
	}
	q := newQueue(b, o.retryMin, o.retryMax)
	if o.exclusive {
		err = q.releaseAll(ctx)
	}
	return q, err
}

func newQueue(b *base, first, longest time.Duration) *RetryQueue {
	if longest <= 0 {
		longest = DefaultRetryInterval
	}
	if first <= 0 {
		first = DefaultRetryMin
	}
	q := &RetryQueue{
		base: b, retryMin: first, session: rand.Text(),
		wake: make(chan struct{}), leases: map[int64]time.Duration{},
	}
	q.longest.Store(int64(longest))
	return q
}

// SetRetryInterval changes the longest delay between two tries, also of items
// that wait already.
func (q *RetryQueue) SetRetryInterval(longest time.Duration) {
	if longest <= 0 {
		longest = DefaultRetryInterval
	}
	if q.longest.Swap(int64(longest)) != int64(longest) {
		q.signal()
	}
}

func (q *RetryQueue) retryMax() time.Duration { return time.Duration(q.longest.Load()) }

// releaseAll gives back the leases of other sessions.
func (q *RetryQueue) releaseAll(ctx context.Context) error {
	return q.update(ctx, func(tx bun.Tx) error {
		_, err := tx.Tx.ExecContext(ctx, q.q(`UPDATE {queue} SET leased = 0, ready = 1 WHERE leased = 1 AND session <> ?`), q.session)
		return err
	})
}

// Enqueue adds items, all of them or none. An item that is in the queue, or
// whose version was the last of its path to be done, changes nothing but a
// lower checkpoint or a higher priority.
func (q *RetryQueue) Enqueue(ctx context.Context, items ...Item) error {
	if len(items) == 0 {
		return nil
	}
	if err := checkItems(items); err != nil {
		return err
	}
	err := q.update(ctx, func(tx bun.Tx) error { return q.enqueueTx(ctx, tx, items) })
	if err != nil {
		return fmt.Errorf("enqueue %d items: %w", len(items), err)
	}
	q.signal()
	return nil
}

var errItem = errors.New("store: item without path or version, of unknown kind or of negative size")

func checkItems(items []Item) error {
	for _, it := range items {
		if _, ok := it.Kind.rank(); !ok || it.Path == "" || it.Version == "" || it.Size < 0 {
			return fmt.Errorf("%w: path %q, version %q, kind %q, size %d", errItem, it.Path, it.Version, it.Kind, it.Size)
		}
		if temporary(it.Path) || temporary(it.Source) {
			return fmt.Errorf("%w: %q", ErrTemporary, it.Path)
		}
	}
	return nil
}

// temporary says whether a path leads through a folder zdbfs-temp.
func temporary(path string) bool {
	return strings.HasPrefix(path, tempSpace+"/") || strings.Contains(path, "/"+tempSpace+"/")
}

const tempSpace = "zdbfs-temp"

func (q *RetryQueue) enqueueTx(ctx context.Context, tx bun.Tx, items []Item) error {
	const columns = 9
	now := q.now()
	head := q.q(`INSERT INTO {queue} (path, version, kind, rank, source, checkpoint, size, priority, created_at)
		SELECT v.* FROM (VALUES `)
	// WHERE is needed: without it SQLite reads ON as a join's condition.
	tail := q.q(`) AS v WHERE NOT EXISTS (SELECT 1 FROM {done} AS d WHERE d.path = v.column1 AND d.version = v.column2)
		ON CONFLICT (path, version) DO UPDATE SET
			checkpoint = min(checkpoint, excluded.checkpoint), priority = max(priority, excluded.priority)
			WHERE excluded.checkpoint < checkpoint OR excluded.priority > priority`)
	return insertRows(ctx, tx.Tx, head, tail, len(items), columns, func(i int, to []any) []any {
		it := &items[i]
		rank, _ := it.Kind.rank()
		return append(to, it.Path, it.Version, string(it.Kind), rank, it.Source, it.Checkpoint, it.Size, it.Priority, now)
	})
}

// ForgetKind removes all items of a kind: of copies that are
// gone, at a start. Some are removed at a time, so that others find room.
func (q *RetryQueue) ForgetKind(ctx context.Context, kind Kind) error {
	for n := int64(rowsPerStatement); n == rowsPerStatement; {
		err := q.update(ctx, func(tx bun.Tx) error {
			r, err := tx.Tx.ExecContext(ctx, q.q(`DELETE FROM {queue} WHERE id IN (SELECT id FROM {queue} WHERE kind = ? ORDER BY id LIMIT ?)`), string(kind), rowsPerStatement)
			if err != nil {
				return err
			}
			n, err = r.RowsAffected()
			return err
		})
		if err != nil {
			return wrap("forget "+string(kind), err)
		}
	}
	q.signal()
	return nil
}

// Forget removes one version of a path from the queue and from what is known
// to be done: for a version that has been overtaken, or one that must be
// uploaded again. Whether there was one is the first result.
func (q *RetryQueue) Forget(ctx context.Context, path, version string) (bool, error) {
	var n int64
	err := q.update(ctx, func(tx bun.Tx) error {
		for _, s := range []string{
			`DELETE FROM {queue} WHERE path = ? AND version = ?`,
			`DELETE FROM {done} WHERE path = ? AND version = ?`,
		} {
			r, err := tx.Tx.ExecContext(ctx, q.q(s), path, version)
			if err != nil {
				return err
			}
			k, err := r.RowsAffected()
			if err != nil {
				return err
			}
			n += k
		}
		return nil
	})
	if err == nil {
		q.signal() // another version of the path may wait for this one
	}
	return n > 0, err
}
