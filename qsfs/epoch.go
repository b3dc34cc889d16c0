package qsfs

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/internal/boottime"
	"github.com/threefoldtech/quantumd/internal/durable"
	"github.com/threefoldtech/quantumd/qsfs/manifest"
)

// At most one frontend writes. Each takes an epoch: a claim, a sealed record
// with the epoch's number in its key, on at least three of the four metadata
// backends. Three of four and three of four intersect, so of two frontends one
// sees the other. A frontend that has epoch n asks for n+1 again and again;
// each answer of three that there is none is a lease, counted from before it
// asked. Without a live lease it neither stores nor commits.

const (
	// quorum is how many metadata backends a claim, a lease and a head need.
	quorum = 3

	defaultLease = 30 * time.Second
	// leaseMargin is added to another frontend's lease when waiting for its end.
	leaseMargin = 10 * time.Second

	recordSchema = 1
	maxEpoch     = 1 << 32 // a sane end for a search
)

// ErrFenced says that another frontend has taken over: this one may read its
// local files, and nothing else.
var ErrFenced = errors.New("another frontend has taken over this file system: this one is read-only")

// HeldError says that another frontend runs, or ran a moment ago.
type HeldError struct {
	Epoch uint64
	Host  string
	Ago   time.Duration // since it last said that it lives
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("another frontend (epoch %d, on %s) was alive %s ago", e.Epoch, e.Host, e.Ago.Round(time.Second))
}

// Hint names the remedy.
func (e *HeldError) Hint() string {
	return "stop it there, or wait until it has been away for a minute, or take over with --force"
}

// NeedsRestoreError says that the backends hold the data of another frontend,
// and this one is empty.
type NeedsRestoreError struct{ Epoch uint64 }

func (e *NeedsRestoreError) Error() string {
	return fmt.Sprintf("the backends hold a file system written by another frontend (epoch %d), and this machine has none of it", e.Epoch)
}

// Hint names the remedy.
func (e *NeedsRestoreError) Hint() string {
	return "run `quantumd restore` first; it takes over and brings the tree here"
}

// claim is the record at …/epoch/<n>. It is never deleted.
type claim struct {
	Schema int           `json:"schema"`
	Epoch  uint64        `json:"epoch"`
	UUID   string        `json:"uuid"`
	Host   string        `json:"host"`
	Time   time.Time     `json:"time"`
	Lease  time.Duration `json:"lease"`
}

// alive is the record at …/alive/<n>/<uuid>, written anew with each lease.
type alive struct {
	Schema   int       `json:"schema"`
	Epoch    uint64    `json:"epoch"`
	UUID     string    `json:"uuid"`
	Time     time.Time `json:"time"`
	Released bool      `json:"released"` // a clean end: nothing is written after this
}

// head names the newest manifest of one epoch.
type head struct {
	Schema   int          `json:"schema"`
	Epoch    uint64       `json:"epoch"`
	UUID     string       `json:"uuid"`
	Seq      uint64       `json:"seq"`
	Created  time.Time    `json:"created"`
	Manifest manifest.Ref `json:"manifest"`
}

// identity is a frontend's own copy of its claim, in its zdb root.
type identity struct {
	Schema int           `json:"schema"`
	UUID   string        `json:"uuid"`
	Epoch  uint64        `json:"epoch"`
	Lease  time.Duration `json:"lease"`

	// The frontend that this one was restored from, whose head counts until this
	// one has committed something itself.
	ParentUUID  string `json:"parent_uuid,omitempty"`
	ParentEpoch uint64 `json:"parent_epoch,omitempty"`
}

func loadIdentity(path string) (*identity, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	id := new(identity)
	if err := json.Unmarshal(text, id); err != nil || id.Schema != recordSchema || id.Epoch == 0 || len(id.UUID) != 32 {
		return nil, fmt.Errorf("%s: not an identity that this version reads: %w", path, errors.Join(err, manifest.ErrFormat))
	}
	return id, nil
}

func (id *identity) save(path string) error {
	text, err := json.Marshal(id)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, text, 0o600)
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// keeper reads and writes whole sealed records on the metadata backends.
type keeper interface {
	put(ctx context.Context, key string, value []byte) (acks int, err error)
	get(ctx context.Context, key string) (answers, error)
}

// answers is what the metadata backends said about one key.
type answers struct {
	values [][]byte // those that have it, and could be opened
	absent int      // those that have not
	silent int      // those that did not answer
	broken int      // those whose value does not open with our key
	err    error    // what the silent ones said
}

// epochs reads and writes claims, heads and signs of life.
type epochs struct {
	keep   keeper
	prefix string
	host   string
	now    func() time.Time
}

func (e *epochs) claimKey(n uint64) string { return fmt.Sprintf("/%s/qsfs/epoch/%d", e.prefix, n) }
func (e *epochs) headKey(n uint64, uuid string) string {
	return fmt.Sprintf("/%s/qsfs/head/%d/%s", e.prefix, n, uuid)
}
func (e *epochs) aliveKey(n uint64, uuid string) string {
	return fmt.Sprintf("/%s/qsfs/alive/%d/%s", e.prefix, n, uuid)
}

// claimAt gives the claim of epoch n; nil when there is none. Of two claims of
// one number the one with the higher uuid counts.
func (e *epochs) claimAt(ctx context.Context, n uint64) (*claim, error) {
	a, err := e.keep.get(ctx, e.claimKey(n))
	if err != nil {
		return nil, err
	}
	var best *claim
	for _, v := range a.values {
		c := new(claim)
		if json.Unmarshal(v, c) == nil && c.Epoch == n && (best == nil || c.UUID > best.UUID) {
			best = c
		}
	}
	switch {
	case best != nil:
		return best, nil
	case a.broken > 0:
		return nil, fmt.Errorf("epoch %d: the record on %d metadata backends does not open with this key: %w", n, a.broken, ErrWrongKey)
	case a.absent < quorum:
		return nil, &QuorumError{What: "claims", Answered: a.absent, Err: a.err}
	}
	return nil, nil
}

// ErrWrongKey says that what is on the backends was sealed with another key.
var ErrWrongKey = errors.New("wrong encryption key, or wrong password or mnemonic")

// QuorumError says that too few metadata backends answered to be sure.
type QuorumError struct {
	What     string
	Answered int
	Err      error
}

func (e *QuorumError) Error() string {
	return fmt.Sprintf("%d of %d metadata backends answered about %s, %d are needed: %v", e.Answered, backend.MetaBackends, e.What, quorum, e.Err)
}

func (e *QuorumError) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *QuorumError) Hint() string {
	return "check the network and the metadata backends (`quantumd backends ls`), then try again"
}

// highest finds the newest claim; nil when there is none. from is where to
// begin to look.
func (e *epochs) highest(ctx context.Context, from uint64) (*claim, error) {
	var last *claim
	for n := max(from, 1); n < maxEpoch; n++ {
		c, err := e.claimAt(ctx, n)
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

// lastSign reads when the owner of a claim last said that it lives.
func (e *epochs) lastSign(ctx context.Context, c *claim) (alive, error) {
	a, err := e.keep.get(ctx, e.aliveKey(c.Epoch, c.UUID))
	if err != nil {
		return alive{}, err
	}
	best := alive{Time: c.Time}
	for _, v := range a.values {
		var s alive
		if json.Unmarshal(v, &s) == nil && s.Epoch == c.Epoch && s.UUID == c.UUID && (s.Time.After(best.Time) || s.Released) {
			best = s
		}
	}
	return best, nil
}

// take claims the epoch after the newest one, waits until whoever had that one
// has lost its lease, and sees that nobody else claimed meanwhile.
func (e *epochs) take(ctx context.Context, lease time.Duration, force bool, progress func(Progress)) (*identity, error) {
	last, err := e.highest(ctx, 1)
	if err != nil {
		return nil, err
	}
	id := &identity{Schema: recordSchema, UUID: newUUID(), Epoch: 1, Lease: lease}
	var wait time.Duration
	if last != nil {
		sign, err := e.lastSign(ctx, last)
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
	if err := e.write(ctx, e.claimKey(id.Epoch), claim{Schema: recordSchema, Epoch: id.Epoch, UUID: id.UUID, Host: e.host, Time: e.now(), Lease: lease}, force); err != nil {
		return nil, fmt.Errorf("claim epoch %d: %w", id.Epoch, err)
	}
	if err := pause(ctx, wait, progress); err != nil {
		return nil, err
	}
	won, err := e.claimAt(ctx, id.Epoch)
	if err != nil {
		return nil, err
	}
	if won == nil || won.UUID != id.UUID {
		return nil, &HeldError{Epoch: id.Epoch, Host: hostOf(won)}
	}
	return id, nil
}

func hostOf(c *claim) string {
	if c == nil {
		return "an unknown machine"
	}
	return c.Host
}

// pause waits for another frontend's lease to end, and says so.
func pause(ctx context.Context, d time.Duration, progress func(Progress)) error {
	if d == 0 {
		return nil
	}
	end := time.NewTimer(d)
	defer end.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	began := boottime.Now()
	for {
		progress(Progress{Op: "restore", Step: "waiting for the lease of the other frontend to end",
			Done: int64((boottime.Now() - began).Seconds()), Total: int64(d.Seconds()), Unit: "s"})
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-end.C:
			return nil
		}
	}
}

// write puts a record on at least three metadata backends, on two with force.
func (e *epochs) write(ctx context.Context, key string, v any, force bool) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	need := quorum
	if force {
		need = 2
	}
	acks, err := e.keep.put(ctx, key, text)
	if acks < need {
		return &QuorumError{What: "a write", Answered: acks, Err: err}
	}
	return nil
}

// newestHead finds the newest head below and including epoch n. Nil: nothing
// was ever committed.
func (e *epochs) newestHead(ctx context.Context, n uint64) (*head, error) {
	for ; n > 0; n-- {
		c, err := e.claimAt(ctx, n)
		if err != nil {
			return nil, err
		}
		if c == nil {
			continue
		}
		h, err := e.headOf(ctx, c.Epoch, c.UUID)
		if err != nil || h != nil {
			return h, err
		}
	}
	return nil, nil
}

// headOf gives the newest head of one frontend; nil when it never committed.
func (e *epochs) headOf(ctx context.Context, n uint64, uuid string) (*head, error) {
	a, err := e.keep.get(ctx, e.headKey(n, uuid))
	if err != nil {
		return nil, err
	}
	var best *head
	for _, v := range a.values {
		h := new(head)
		if json.Unmarshal(v, h) == nil && h.Epoch == n && h.UUID == uuid && (best == nil || h.Seq > best.Seq) {
			best = h
		}
	}
	switch {
	case best != nil && best.Schema > recordSchema:
		return nil, fmt.Errorf("the head of epoch %d has schema %d, this version knows %d: use a newer quantumd", n, best.Schema, recordSchema)
	case best != nil && len(a.values)+a.absent < 2, best == nil && a.absent < quorum:
		return nil, &QuorumError{What: "heads", Answered: len(a.values) + a.absent, Err: a.err}
	}
	return best, nil
}

// fence is the lease of a running frontend.
type fence struct {
	epochs *epochs
	id     identity

	signing sync.Mutex // one sign of life at a time: the last word stays the last

	mu       sync.Mutex
	until    time.Duration // boot time at which the lease ends
	fenced   error
	released bool
	lost     chan struct{} // closed when fenced
}

func newFence(e *epochs, id identity) *fence {
	return &fence{epochs: e, id: id, lost: make(chan struct{})}
}

// renew asks whether there is a higher claim, and takes a lease when there is
// none. It also leaves a sign of life.
func (f *fence) renew(ctx context.Context) error {
	began := boottime.Now()
	higher, err := f.epochs.claimAt(ctx, f.id.Epoch+1)
	if err != nil {
		return err
	}
	if higher == nil {
		own, err := f.epochs.claimAt(ctx, f.id.Epoch)
		if err != nil {
			return err
		}
		if own == nil || own.UUID != f.id.UUID {
			higher = own
		}
		if own == nil {
			higher = &claim{Epoch: f.id.Epoch, Host: "an unknown machine"}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if higher != nil {
		if f.fenced == nil {
			f.fenced = fmt.Errorf("%w (epoch %d on %s)", ErrFenced, higher.Epoch, higher.Host)
			close(f.lost)
		}
		return f.fenced
	}
	f.until = began + f.id.Lease
	return nil
}

// errReleased says that the epoch was given back: nothing is written any more.
var errReleased = errors.New("this frontend has ended")

// sign leaves a sign of life.
func (f *fence) sign(ctx context.Context) error {
	f.signing.Lock()
	defer f.signing.Unlock()
	if f.isReleased() {
		return errReleased
	}
	return f.writeSign(ctx, false)
}

// release gives the epoch back: from here on nothing is written, so that who
// takes over need not wait.
func (f *fence) release(ctx context.Context) error {
	f.signing.Lock()
	defer f.signing.Unlock()
	f.mu.Lock()
	f.released = true
	f.mu.Unlock()
	return f.writeSign(ctx, true)
}

func (f *fence) writeSign(ctx context.Context, released bool) error {
	return f.epochs.write(ctx, f.epochs.aliveKey(f.id.Epoch, f.id.UUID),
		alive{Schema: recordSchema, Epoch: f.id.Epoch, UUID: f.id.UUID, Time: f.epochs.now(), Released: released}, true)
}

func (f *fence) isReleased() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.released
}

// hold gives a context that ends with the lease, or says why there is none.
// Every write to the backends runs in one.
func (f *fence) hold(ctx context.Context) (context.Context, context.CancelFunc, error) {
	left, err := f.left()
	if err == nil && left <= 0 {
		if err = f.renew(ctx); err == nil {
			left, err = f.left()
		}
	}
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, left)
	return ctx, cancel, nil
}

func (f *fence) left() (time.Duration, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.released {
		return 0, errReleased
	}
	return f.until - boottime.Now(), f.fenced
}

// isFenced says whether another frontend has taken over, and which.
func (f *fence) isFenced() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fenced
}
