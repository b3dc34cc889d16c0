package child

import (
	"context"
	"errors"
)

// Run starts every installed service in order and returns, after it has stopped
// them in the opposite order, when ctx ends: what a container runs as its one
// program. Whenever reload gives a value, each service is sent its ReloadSignal;
// nil for none. Where one does not get ready for another to follow, all are
// stopped, and the error says so.
func (m *Manager) Run(ctx context.Context, reload <-chan struct{}) error {
	names, err := m.Installed(ctx)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return ErrNothingInstalled
	}
	started := make(chan error, 1)
	starting, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { started <- m.Start(starting, names...) }()
	for running := true; running; {
		select {
		case err := <-started:
			if err != nil && ctx.Err() == nil {
				return errors.Join(err, m.Stop(context.WithoutCancel(ctx), names...))
			}
			started = nil
		case <-reload:
			if err := m.Reload(ctx, names...); err != nil {
				m.log.Warn("not all services were told to reload", "err", err)
			}
		case <-ctx.Done():
			running = false
		}
	}
	if started != nil {
		<-started // its context has ended
	}
	return m.Stop(context.WithoutCancel(ctx), names...)
}

// ErrNothingInstalled says that there is no service to run.
var ErrNothingInstalled = errors.New("child: no service is installed")
