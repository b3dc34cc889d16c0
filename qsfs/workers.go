package qsfs

import (
	"context"
	"sync"
)

// workers run a bounded number of jobs at a time; the first error ends them.
type workers struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	room   chan struct{}
	all    sync.WaitGroup
}

func newWorkers(ctx context.Context, n int) *workers {
	w := &workers{room: make(chan struct{}, max(1, n))}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	return w
}

// do runs a job when there is room for it.
func (w *workers) do(job func(context.Context) error) error {
	select {
	case w.room <- struct{}{}:
	case <-w.ctx.Done():
		return context.Cause(w.ctx)
	}
	w.all.Go(func() {
		defer func() { <-w.room }()
		if err := job(w.ctx); err != nil {
			w.cancel(err)
		}
	})
	return nil
}

// wait returns when all jobs ended.
func (w *workers) wait() error {
	w.all.Wait()
	err := context.Cause(w.ctx)
	w.cancel(nil)
	return err
}
