// Package epoch sees to it that at most one frontend writes to a set of backends.
//
// Each takes an epoch: a Claim, a sealed record with the epoch's number in its
// key, on at least three of the four metadata backends. Three of four and three of
// four intersect, so of two frontends one sees the other. A frontend that has
// epoch n asks for n+1 again and again; each answer of three that there is none is
// a lease, counted from before it asked. Without a live lease it neither stores
// nor commits.
//
// Records.Take claims an epoch, Fence.Renew takes the lease, Fence.Hold gives the
// context that every write to the backends runs in. A Head, written with
// Records.Write, is the commit of a checkpoint (package qsfs/manifest).
//
// The package knows no engine: a Keeper reads and writes whole records. The
// records are JSON, and this project's own format; what they are sealed with is
// the Keeper's matter. It measures leases with the clock that goes on while a
// machine sleeps.
package epoch

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/threefoldtech/quantumd/internal/boottime"
)

const (
	// Quorum is how many metadata backends a claim, a lease and a head need.
	Quorum = 3

	// DefaultLease is how long an answer of three backends lasts.
	DefaultLease = 30 * time.Second
	// leaseMargin is added to another frontend's lease when waiting for its end.
	leaseMargin = 10 * time.Second

	// Schema is the newest schema of the records that this version reads, and what
	// it writes.
	Schema = 1

	maxEpoch = 1 << 32 // a sane end for a search
)

// Keeper reads and writes whole sealed records on the metadata backends. acks is
// how many have it; an error of Put counts where those are too few.
type Keeper interface {
	Put(ctx context.Context, key string, value []byte) (acks int, err error)
	Get(ctx context.Context, key string) (Answers, error)
}

// Answers is what the metadata backends said about one key.
type Answers struct {
	Values [][]byte // those that have it, and could be opened
	Absent int      // those that have not
	Silent int      // those that did not answer
	Broken int      // those whose value does not open with our key
	Err    error    // what the silent ones said
}

// Records reads and writes claims, heads and signs of life.
type Records struct {
	keep   Keeper
	prefix string
	host   string
	now    func() time.Time
}

// New gives the records below prefix that keep keeps. host is written into claims,
// for people.
func New(keep Keeper, prefix, host string) *Records {
	return &Records{keep: keep, prefix: prefix, host: host, now: time.Now}
}

// Get reads any of them: what each metadata backend says about a key.
func (e *Records) Get(ctx context.Context, key string) (Answers, error) { return e.keep.Get(ctx, key) }

// ClaimKey is where the claim of epoch n is.
func (e *Records) ClaimKey(n uint64) string { return fmt.Sprintf("/%s/qsfs/epoch/%d", e.prefix, n) }

// HeadKey is where the head of a frontend is.
func (e *Records) HeadKey(n uint64, uuid string) string {
	return fmt.Sprintf("/%s/qsfs/head/%d/%s", e.prefix, n, uuid)
}

// SignKey is where a frontend's sign of life is.
func (e *Records) SignKey(n uint64, uuid string) string {
	return fmt.Sprintf("/%s/qsfs/alive/%d/%s", e.prefix, n, uuid)
}

// ClaimAt gives the claim of epoch n; nil when there is none. Of two claims of
// one number the one with the higher uuid counts. An error is ErrWrongKey, a
// QuorumError, or the Keeper's.
func (e *Records) ClaimAt(ctx context.Context, n uint64) (*Claim, error) {
	a, err := e.keep.Get(ctx, e.ClaimKey(n))
	if err != nil {
		return nil, err
	}
	var best *Claim
	for _, v := range a.Values {
		c := new(Claim)
		if json.Unmarshal(v, c) == nil && c.Epoch == n && (best == nil || c.UUID > best.UUID) {
			best = c
		}
	}
	switch {
	case best != nil:
		return best, nil
	case a.Broken > 0:
		return nil, fmt.Errorf("epoch %d: the record on %d metadata backends does not open with this key: %w", n, a.Broken, ErrWrongKey)
	case a.Absent < Quorum:
		return nil, &QuorumError{What: "claims", Answered: a.Absent, Err: a.Err}
	}
	return nil, nil
}

// Highest finds the newest claim; nil when there is none. from is where to
// begin to look.
func (e *Records) Highest(ctx context.Context, from uint64) (*Claim, error) {
	var last *Claim
	for n := max(from, 1); n < maxEpoch; n++ {
		c, err := e.ClaimAt(ctx, n)
		if err != nil {
			return nil, err
		}
		if c == nil {
			return last, nil
		}
		last = c
	}
	return nil, fmt.Errorf("more than %d epochs", uint64(maxEpoch))
}

// LastSign reads when the owner of a claim last said that it lives.
func (e *Records) LastSign(ctx context.Context, c *Claim) (Sign, error) {
	a, err := e.keep.Get(ctx, e.SignKey(c.Epoch, c.UUID))
	if err != nil {
		return Sign{}, err
	}
	best := Sign{Time: c.Time}
	for _, v := range a.Values {
		var s Sign
		if json.Unmarshal(v, &s) == nil && s.Epoch == c.Epoch && s.UUID == c.UUID && (s.Time.After(best.Time) || s.Released) {
			best = s
		}
	}
	return best, nil
}

// Take claims the epoch after the newest one, waits until whoever had that one
// has lost its lease, and sees that nobody else claimed meanwhile. It calls waiting
// each second of that. One that lives is a HeldError, but with force.
func (e *Records) Take(ctx context.Context, lease time.Duration, force bool, waiting func(done, total time.Duration)) (*Identity, error) {
	last, err := e.Highest(ctx, 1)
	if err != nil {
		return nil, err
	}
	id := &Identity{Schema: Schema, UUID: newUUID(), Epoch: 1, Lease: lease}
	var wait time.Duration
	if last != nil {
		sign, err := e.LastSign(ctx, last)
		if err != nil {
			return nil, err
		}
		ago := e.now().Sub(sign.Time)
		if !sign.Released && !force && ago < 2*last.Lease {
			return nil, &HeldError{Epoch: last.Epoch, Host: last.Host, Ago: ago}
		}
		if !sign.Released {
			wait = last.Lease + min(leaseMargin, last.Lease)
		}
		id.Epoch = last.Epoch + 1
	}
	if err := e.Write(ctx, e.ClaimKey(id.Epoch), Claim{Schema: Schema, Epoch: id.Epoch, UUID: id.UUID, Host: e.host, Time: e.now(), Lease: lease}, force); err != nil {
		return nil, fmt.Errorf("claim epoch %d: %w", id.Epoch, err)
	}
	if err := pause(ctx, wait, waiting); err != nil {
		return nil, err
	}
	won, err := e.ClaimAt(ctx, id.Epoch)
	if err != nil {
		return nil, err
	}
	if won == nil || won.UUID != id.UUID {
		return nil, &HeldError{Epoch: id.Epoch, Host: hostOf(won)}
	}
	return id, nil
}

func hostOf(c *Claim) string {
	if c == nil {
		return "an unknown machine"
	}
	return c.Host
}

// pause waits for another frontend's lease to end, and says so.
func pause(ctx context.Context, d time.Duration, waiting func(done, total time.Duration)) error {
	if d == 0 {
		return nil
	}
	end := time.NewTimer(d)
	defer end.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	began := boottime.Now()
	for {
		waiting(boottime.Now()-began, d)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-end.C:
			return nil
		}
	}
}

// Write puts a record on at least three metadata backends, on two with force.
func (e *Records) Write(ctx context.Context, key string, v any, force bool) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	need := Quorum
	if force {
		need = 2
	}
	acks, err := e.keep.Put(ctx, key, text)
	if acks < need {
		return &QuorumError{What: "a write", Answered: acks, Err: err}
	}
	return nil
}

// NewestHead finds the newest head below and including epoch n. Nil: nothing
// was ever committed.
func (e *Records) NewestHead(ctx context.Context, n uint64) (*Head, error) {
	for ; n > 0; n-- {
		c, err := e.ClaimAt(ctx, n)
		if err != nil {
			return nil, err
		}
		if c == nil {
			continue
		}
		h, err := e.HeadOf(ctx, c.Epoch, c.UUID)
		if err != nil || h != nil {
			return h, err
		}
	}
	return nil, nil
}

// HeadOf gives the newest head of one frontend; nil when it never committed.
func (e *Records) HeadOf(ctx context.Context, n uint64, uuid string) (*Head, error) {
	a, err := e.keep.Get(ctx, e.HeadKey(n, uuid))
	if err != nil {
		return nil, err
	}
	var best *Head
	for _, v := range a.Values {
		h := new(Head)
		if json.Unmarshal(v, h) == nil && h.Epoch == n && h.UUID == uuid && (best == nil || h.Seq > best.Seq) {
			best = h
		}
	}
	switch {
	case best != nil && best.Schema > Schema:
		return nil, fmt.Errorf("the head of epoch %d has schema %d, this version knows %d: use a newer quantumd", n, best.Schema, Schema)
	case best != nil && len(a.Values)+a.Absent < 2, best == nil && a.Absent < Quorum:
		return nil, &QuorumError{What: "heads", Answered: len(a.Values) + a.Absent, Err: a.Err}
	}
	return best, nil
}
