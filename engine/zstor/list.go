package zstor

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/bits"
	"strings"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor/record"
)

// List walks all metadata backends that answer and gives every object key once.
// One that cannot be walked to its end gives an error instead, and the others'
// keys still come; the listing is complete when at most one does so, because a
// committed record is on three. Keys are gathered first: about 50 bytes each.
func (e *Engine) List(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		ctx, o, err := e.begin(ctx, "", "", "")
		if err != nil {
			yield(Entry{}, err)
			return
		}
		defer o.finish(new(error))
		l := &listing{prefix: o.cfg.keyPrefix(), seen: map[record.Checksum]sighting{}}
		errs := o.scanAll(ctx, l.add)
		for sum, s := range l.seen {
			entry := Entry{Key: l.prefix + hex.EncodeToString(sum[:]), Created: time.Unix(int64(s.created), 0), Holders: bits.OnesCount8(s.holders)}
			if !yield(entry, nil) {
				return
			}
		}
		for i, err := range errs {
			if err != nil && !yield(Entry{}, fmt.Errorf("list %s: %w", o.cfg.Meta[i], err)) {
				return
			}
		}
	}
}

type sighting struct {
	created uint32
	holders uint8
}

type listing struct {
	prefix string
	mu     sync.Mutex
	seen   map[record.Checksum]sighting
}

func (l *listing) add(i int, e backend.Entry) {
	h, ok := strings.CutPrefix(string(e.Key), l.prefix)
	if !ok || strings.ToLower(h) != h {
		return
	}
	raw, err := hex.DecodeString(h)
	if err != nil || len(raw) != len(record.Checksum{}) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.seen[record.Checksum(raw)]
	s.holders |= 1 << i
	s.created = max(s.created, e.Timestamp)
	l.seen[record.Checksum(raw)] = s
}

// scanAll walks the metadata backends side by side; errors are in config order.
func (o *op) scanAll(ctx context.Context, add func(i int, e backend.Entry)) []error {
	errs := make([]error, len(o.cfg.Meta))
	var walking sync.WaitGroup
	for i, b := range o.cfg.Meta {
		walking.Go(func() { errs[i] = o.scan(ctx, b, func(e backend.Entry) { add(i, e) }) })
	}
	walking.Wait()
	return errs
}

// scan walks one backend. A cursor that does not move would never end.
func (o *op) scan(ctx context.Context, b backend.Backend, add func(backend.Entry)) error {
	var cursor []byte
	for {
		var page []backend.Entry
		var next []byte
		end := false
		err := o.conns.use(ctx, b, func(ctx context.Context, c backend.Conn) error {
			var err error
			page, next, err = c.Scan(ctx, cursor)
			if errors.Is(err, io.EOF) {
				end, err = true, nil
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, e := range page {
			add(e)
		}
		if end {
			return nil
		}
		if len(next) == 0 || string(next) == string(cursor) {
			return fmt.Errorf("%w: the cursor of the listing does not move", ErrDamaged)
		}
		cursor = next
	}
}
