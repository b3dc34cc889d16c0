package qsfs

import (
	"context"

	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/hooks"
	"github.com/threefoldtech/quantumd/store"
)

// BeforeStep is asked before a replacement's next step is recorded: an error is
// a crash between what was done and its record.
func BeforeStep(f func(backend, step string) error) Option {
	return func(o *options) { o.beforeStep = f }
}

// Engine is the object engine of a running system.
func Engine(s *System) *zstor.Engine { return s.engine }

// Rows gives what is known of each file.
func Rows(ctx context.Context, s *System) (rows []store.File, err error) {
	for f, err := range s.store.Files(ctx, store.FileFilter{}) {
		if err != nil {
			return nil, err
		}
		rows = append(rows, f)
	}
	return rows, nil
}

// ObjectPath is the path of an object for the engine.
func ObjectPath(s *System, rel string) string { return s.objectPath(rel) }

// ManifestPath is the newest manifest's, below the zdb root.
func ManifestPath(ctx context.Context, s *System) (string, error) {
	h, err := s.ownHead(ctx)
	if err != nil {
		return "", err
	}
	return h.Manifest.Object, nil
}

// HeadKey is where the newest head is.
func HeadKey(s *System) string {
	return s.epochs.HeadKey(s.fence.Identity().Epoch, s.fence.Identity().UUID)
}

// WithEventFaults puts f before the table of events.
func WithEventFaults(f func(hooks.HookHandler) hooks.HookHandler) Option {
	return func(o *options) { o.events = f }
}

// OpenPlainEngine gives an engine over the backends of a system that does not
// run, with the names that the reference uses: its configuration has no root.
func OpenPlainEngine(ctx context.Context, s *System) (*zstor.Engine, error) {
	given, err := s.configured(ctx)
	if err != nil {
		return nil, err
	}
	c, err := s.zstorConfig(given.List())
	if err != nil {
		return nil, err
	}
	c.Root = ""
	return zstor.Open(c, zstor.Options{Dialer: s.opts.dialer})
}

// Store is the database of a running system.
func Store(s *System) *store.Store { return s.store }

// SettleHint verifies one hint of an earlier program.
func SettleHint(ctx context.Context, s *System, h store.Legacy) error {
	_, err := s.settleHint(ctx, h, s.legacyRoots())
	return err
}

// Confirm has the backends say how well an object is kept.
func Confirm(ctx context.Context, s *System, obj zstor.Object) (zstor.Object, error) {
	return s.confirm(ctx, obj)
}
