package zstor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor/record"
)

// Whole records are small values of the caller, sealed with Config.Key under their
// own key name and kept whole on each metadata backend: any one of them gives the
// value. The real zstor does not look at keys outside /prefix/meta/.

// RecordKey is the key of a whole record: /prefix/qsfs/name.
func (c *Config) RecordKey(name string) string { return "/" + c.Prefix + "/qsfs/" + name }

// AnswerState is what one metadata backend says of a whole record.
type AnswerState string

const (
	HasValue      AnswerState = "value"
	HasNone       AnswerState = "absent"
	NoAnswer      AnswerState = "unreachable"
	Undecryptable AnswerState = "undecryptable" // another key, another key name, or damage
)

// Answer is one metadata backend's.
type Answer struct {
	Backend backend.Backend
	State   AnswerState
	Value   []byte
	Err     error
}

// Answers are those of all four, in config order.
type Answers []Answer

// Answered counts those that told a value or its absence; one that does not open
// is neither.
func (a Answers) Answered() int { return a.count(HasValue) + a.count(HasNone) }

// Values counts those that gave a value.
func (a Answers) Values() int { return a.count(HasValue) }

func (a Answers) count(s AnswerState) int {
	n := 0
	for _, x := range a {
		if x.State == s {
			n++
		}
	}
	return n
}

// Keys is what one metadata backend lists.
type Keys struct {
	Backend backend.Backend
	Names   []string // full keys
	Err     error    // the list is not complete
}

func (o *op) checkRecordKey(key string) error {
	if own := o.cfg.RecordKey(""); !strings.HasPrefix(key, own) || len(key) == len(own) || len(key) > 255 {
		return fmt.Errorf("zstor: %q is no key of a whole record: want %s and a name, at most 255 bytes", key, own)
	}
	return nil
}

// PutRecord writes value under key, which RecordKey made, to all metadata backends
// at the same time, and tells how many took it. err joins what the others said; it
// is nil when all four did. The caller knows how many it needs.
func (e *Engine) PutRecord(ctx context.Context, key string, value []byte) (acks int, err error) {
	ctx, o, err := e.begin(ctx, "", "", "")
	if err != nil {
		return 0, err
	}
	defer o.end()
	if err := o.checkRecordKey(key); err != nil {
		return 0, err
	}
	sealed := o.cfg.Key.Seal(value, []byte(key))
	o.stats.sealed.Add(1)
	if len(sealed) > record.MaxValue {
		return 0, fmt.Errorf("zstor: record %s of %d bytes: at most %d", key, len(value), record.MaxValue-len(sealed)+len(value))
	}
	return o.onEachMeta(ctx, func(ctx context.Context, c backend.Conn) error {
		_, err := c.Set(ctx, []byte(key), sealed)
		return err
	})
}

// DeleteRecord deletes key from all metadata backends and tells how many have it
// no more. err joins what the others said.
func (e *Engine) DeleteRecord(ctx context.Context, key string) (acks int, err error) {
	ctx, o, err := e.begin(ctx, "", "", "")
	if err != nil {
		return 0, err
	}
	defer o.end()
	if err := o.checkRecordKey(key); err != nil {
		return 0, err
	}
	return o.onEachMeta(ctx, func(ctx context.Context, c backend.Conn) error {
		if err := c.Delete(ctx, []byte(key)); err != nil && !errors.Is(err, backend.ErrNotFound) {
			return err
		}
		return nil
	})
}

// onEachMeta runs f on all metadata backends at the same time. Once three have taken
// it, one that is silent is waited for only a while.
func (o *op) onEachMeta(ctx context.Context, f func(context.Context, backend.Conn) error) (acks int, err error) {
	errs := make([]error, len(o.cfg.Meta))
	o.askEach(ctx, func(ctx context.Context, i int, b backend.Backend) bool {
		if err := o.conns.use(ctx, b, f); err != nil {
			errs[i] = fmt.Errorf("%s: %w", b, err)
		}
		return errs[i] == nil
	})
	for _, err := range errs {
		if err == nil {
			acks++
		}
	}
	return acks, errors.Join(errs...)
}

// askEach runs ask for all metadata backends side by side, which says whether it was
// answered, and waits for all; but when three were, for the last one only a while.
func (o *op) askEach(ctx context.Context, ask func(ctx context.Context, i int, b backend.Backend) bool) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	answered := make(chan bool, len(o.cfg.Meta)) // room for all: sending never blocks
	var asking sync.WaitGroup
	defer asking.Wait() // before cancel(nil)
	for i, b := range o.cfg.Meta {
		asking.Go(func() { answered <- ask(ctx, i, b) })
	}
	good := 0
	var late <-chan time.Time
	for range o.cfg.Meta {
		select {
		case ok := <-answered:
			if ok {
				good++
			}
		case <-late:
			cancel(errLate)
			return
		}
		if good >= metaCommit && late == nil {
			timer := time.NewTimer(4 * o.opts.HedgeAfter)
			defer timer.Stop()
			late = timer.C
		}
	}
}

// GetRecord asks all metadata backends for key and gives each one's answer. It
// waits for all of them, up to Options.Timeout or the end of ctx, but for the last
// one only four times Options.HedgeAfter. The error tells only of a key that is none
// or an Engine that is closed.
func (e *Engine) GetRecord(ctx context.Context, key string) (Answers, error) {
	ctx, o, err := e.begin(ctx, "", "", "")
	if err != nil {
		return nil, err
	}
	defer o.end()
	if err := o.checkRecordKey(key); err != nil {
		return nil, err
	}
	answers := make(Answers, len(o.cfg.Meta))
	o.askEach(ctx, func(ctx context.Context, i int, b backend.Backend) bool {
		answers[i] = o.askRecord(ctx, b, key)
		return answers[i].State != NoAnswer
	})
	return answers, nil
}

func (o *op) askRecord(ctx context.Context, b backend.Backend, key string) Answer {
	a := Answer{Backend: b}
	var sealed []byte
	a.Err = o.conns.use(ctx, b, func(ctx context.Context, c backend.Conn) error {
		var err error
		sealed, err = c.Get(ctx, []byte(key))
		return err
	})
	switch {
	case errors.Is(a.Err, backend.ErrNotFound):
		a.State, a.Err = HasNone, nil
	case a.Err != nil:
		a.State = NoAnswer
	default:
		a.State = HasValue
		if a.Value, a.Err = o.cfg.Key.Open(sealed, []byte(key)); a.Err != nil {
			a.State = Undecryptable
		}
	}
	return a
}

// ListRecords lists keys that begin with prefix, itself beginning with
// RecordKey(""), on each metadata backend. It walks all their keys.
func (e *Engine) ListRecords(ctx context.Context, prefix string) ([]Keys, error) {
	ctx, o, err := e.begin(ctx, "", "", "")
	if err != nil {
		return nil, err
	}
	defer o.end()
	if own := o.cfg.RecordKey(""); !strings.HasPrefix(prefix, own) {
		return nil, fmt.Errorf("zstor: %q: whole records begin with %s", prefix, own)
	}
	out := make([]Keys, len(o.cfg.Meta))
	errs := o.scanAll(ctx, func(i int, e backend.Entry) { // one goroutine per i
		if strings.HasPrefix(string(e.Key), prefix) {
			out[i].Names = append(out[i].Names, string(e.Key))
		}
	})
	for i := range out {
		out[i].Backend, out[i].Err = o.cfg.Meta[i], errs[i]
	}
	return out, nil
}
