package qsfs

import (
	"context"
	"errors"
	"time"

	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/qsfs/epoch"
)

// engineKeeper keeps whole records through the object engine.
type engineKeeper struct{ engine *zstor.Engine }

func (k engineKeeper) Put(ctx context.Context, key string, value []byte) (int, error) {
	return k.engine.PutRecord(ctx, key, value)
}

func (k engineKeeper) Get(ctx context.Context, key string) (epoch.Answers, error) {
	all, err := k.engine.GetRecord(ctx, key)
	if err != nil {
		return epoch.Answers{}, err
	}
	var a epoch.Answers
	var errs []error
	for _, one := range all {
		switch one.State {
		case zstor.HasValue:
			a.Values = append(a.Values, one.Value)
		case zstor.HasNone:
			a.Absent++
		case zstor.Undecryptable:
			a.Broken++
		default:
			a.Silent++
			errs = append(errs, one.Err)
		}
	}
	a.Err = errors.Join(errs...)
	return a, nil
}

// tellOfLease tells the caller of a wait for another frontend's lease.
func (s *System) tellOfLease(done, total time.Duration) {
	s.opts.observer(Progress{Op: "restore", Step: "waiting for the lease of the other frontend to end",
		Done: int64(done.Seconds()), Total: int64(total.Seconds()), Unit: "s"})
}
