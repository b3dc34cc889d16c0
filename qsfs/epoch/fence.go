package epoch

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/internal/boottime"
)

// Fence is the lease of a running frontend. It is safe for concurrent use.
type Fence struct {
	records *Records
	id      Identity

	signing sync.Mutex // one sign of life at a time: the last word stays the last

	mu       sync.Mutex
	until    time.Duration // boot time at which the lease ends
	fenced   error
	released bool
	lost     chan struct{} // closed when fenced
}

// NewFence gives a fence without a lease: Renew takes the first one.
func NewFence(e *Records, id Identity) *Fence {
	return &Fence{records: e, id: id, lost: make(chan struct{})}
}

// Identity is the frontend's own claim.
func (f *Fence) Identity() Identity { return f.id }

// Lost is closed when another frontend has taken over.
func (f *Fence) Lost() <-chan struct{} { return f.lost }

// Renew asks whether there is a higher claim, and takes a lease when there is
// none. The error is a QuorumError where that is not known, ErrFenced where there
// is one: for good.
func (f *Fence) Renew(ctx context.Context) error {
	began := boottime.Now()
	higher, err := f.records.ClaimAt(ctx, f.id.Epoch+1)
	if err != nil {
		return err
	}
	if higher == nil {
		own, err := f.records.ClaimAt(ctx, f.id.Epoch)
		if err != nil {
			return err
		}
		if own == nil || own.UUID != f.id.UUID {
			higher = own
		}
		if own == nil {
			higher = &Claim{Epoch: f.id.Epoch, Host: "an unknown machine"}
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

// Sign leaves a sign of life.
func (f *Fence) Sign(ctx context.Context) error {
	f.signing.Lock()
	defer f.signing.Unlock()
	if f.Released() {
		return ErrReleased
	}
	return f.writeSign(ctx, false)
}

// Release gives the epoch back: from here on nothing is written, so that who
// takes over need not wait.
func (f *Fence) Release(ctx context.Context) error {
	f.signing.Lock()
	defer f.signing.Unlock()
	f.mu.Lock()
	f.released = true
	f.mu.Unlock()
	return f.writeSign(ctx, true)
}

func (f *Fence) writeSign(ctx context.Context, released bool) error {
	return f.records.Write(ctx, f.records.SignKey(f.id.Epoch, f.id.UUID),
		Sign{Schema: Schema, Epoch: f.id.Epoch, UUID: f.id.UUID, Time: f.records.now(), Released: released}, true)
}

// Released says whether the epoch was given back.
func (f *Fence) Released() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.released
}

// Hold gives a context that ends with the lease, or says why there is none.
// Every write to the backends runs in one; the caller calls the function when it
// has ended.
func (f *Fence) Hold(ctx context.Context) (context.Context, context.CancelFunc, error) {
	left, err := f.left()
	if err == nil && left <= 0 {
		if err = f.Renew(ctx); err == nil {
			left, err = f.left()
		}
	}
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, left)
	return ctx, cancel, nil
}

func (f *Fence) left() (time.Duration, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.released {
		return 0, ErrReleased
	}
	return f.until - boottime.Now(), f.fenced
}

// Fenced says whether another frontend has taken over, and which: nil, or an
// error that is ErrFenced.
func (f *Fence) Fenced() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fenced
}
