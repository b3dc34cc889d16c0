package qsfs

import (
	"context"
	"errors"

	"github.com/threefoldtech/quantumd/engine/zstor"
)

// engineKeeper keeps whole records through the object engine.
type engineKeeper struct{ engine *zstor.Engine }

func (k engineKeeper) put(ctx context.Context, key string, value []byte) (int, error) {
	return k.engine.PutRecord(ctx, key, value)
}

func (k engineKeeper) get(ctx context.Context, key string) (answers, error) {
	all, err := k.engine.GetRecord(ctx, key)
	if err != nil {
		return answers{}, err
	}
	var a answers
	var errs []error
	for _, one := range all {
		switch one.State {
		case zstor.HasValue:
			a.values = append(a.values, one.Value)
		case zstor.HasNone:
			a.absent++
		case zstor.Undecryptable:
			a.broken++
		default:
			a.silent++
			errs = append(errs, one.Err)
		}
	}
	a.err = errors.Join(errs...)
	return a, nil
}
