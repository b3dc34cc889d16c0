package hooks

import (
	"context"
	"errors"
)

// HookHandler reacts to the events of a zdb. It is safe for concurrent use.
//
// What an error does depends on the event: of ready it stops the server, of
// jump-index it keeps the dirty list for the next time, of missing-data it
// fails the read. Of every other event it is logged and changes nothing.
// Events may come twice, out of order, or not at all.
type HookHandler interface {
	HandleHook(ctx context.Context, e Event) error
}

// HandlerFunc is a function that is a [HookHandler].
type HandlerFunc func(ctx context.Context, e Event) error

// HandleHook calls f.
func (f HandlerFunc) HandleHook(ctx context.Context, e Event) error { return f(ctx, e) }

// Chain calls every handler in order for each event, also after one failed,
// and joins their errors. Nil handlers are left out.
func Chain(handlers ...HookHandler) HookHandler {
	return HandlerFunc(func(ctx context.Context, e Event) error {
		var errs []error
		for _, h := range handlers {
			if h != nil {
				errs = append(errs, h.HandleHook(ctx, e))
			}
		}
		return errors.Join(errs...)
	})
}
