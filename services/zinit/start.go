package zinit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/threefoldtech/quantumd/services"
)

// ProgramError says that a program of a service cannot be run.
type ProgramError struct {
	Service, Path string
	Err           error
}

func (e *ProgramError) Error() string {
	return fmt.Sprintf("service %s: %s cannot be run: %v", e.Service, e.Path, e.Err)
}

func (e *ProgramError) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *ProgramError) Hint() string { return "`quantumd setup` puts the programs in place" }

// Start starts services, and those that they come after, for without these
// zinit would not start them. It keeps to the order itself; for what one of
// them comes after zinit waits, what says that it comes before is waited for
// here: until it is ready, or ends.
func (m *Manager) Start(ctx context.Context, names ...string) error {
	list, err := m.installed(names, false)
	if err != nil {
		return err
	}
	if list, err = m.withNeeded(list); err != nil {
		return err
	}
	c, err := m.client(ctx)
	if err != nil {
		return err
	}
	for n, u := range list {
		for _, first := range list[:n] {
			if !slices.Contains(first.Ours.Before, u.name) {
				continue
			}
			if err := m.awaitFirst(ctx, first); err != nil {
				return fmt.Errorf("start %s after %s: %w", u.name, first.name, err)
			}
		}
		if err := m.startOne(ctx, c, u); err != nil {
			return fmt.Errorf("start %s: %w", u.name, err)
		}
	}
	return nil
}

// withNeeded adds the services that zinit would wait for.
func (m *Manager) withNeeded(list []*unit) ([]*unit, error) {
	var names []string
	for _, u := range list {
		names = append(names, u.name)
	}
	for n := 0; n < len(names); n++ { // it grows
		u, err := m.loadAny(names[n])
		if err != nil {
			return nil, err
		}
		if u == nil {
			continue
		}
		for _, after := range u.After {
			if !slices.Contains(names, after) && services.CheckName(after) == nil && m.there(after) {
				names = append(names, after)
			}
		}
	}
	return m.installed(names, true)
}

// awaitFirst waits for one that only comes first: if it fails, the other one is
// started all the same.
func (m *Manager) awaitFirst(ctx context.Context, u *unit) error {
	wait, cancel := context.WithTimeout(ctx, u.Ours.StartTimeout)
	defer cancel()
	before := -1
	err := poll(wait, func() (bool, error) {
		list, err := m.Status(wait, u.name)
		if err != nil {
			return false, err
		}
		st := list[0]
		if before < 0 {
			before = st.Restarts
		}
		return st.State != services.Starting || st.Restarts > before, nil
	})
	if err != nil && ctx.Err() == nil && wait.Err() != nil {
		return nil
	}
	return err
}

// startOne has zinit run a service as its file says now.
func (m *Manager) startOne(ctx context.Context, c client, u *unit) error {
	st, err := c.status(ctx, u.name)
	if err != nil && !errors.Is(err, errUnknown) {
		return err
	}
	known := err == nil
	if known && st.up() && parseState(st.State).kind != kindFailure {
		return nil // runs, or is on its way
	}
	for _, p := range u.Ours.Programs {
		if err := runnable(p); err != nil {
			return &ProgramError{Service: u.name, Path: p, Err: err}
		}
	}
	m.unsee(u.name)
	if known { // what it remembers of the file may be older: it has to read it again
		if err := m.end(ctx, c, u); err != nil {
			return err
		}
		if err := c.forget(ctx, u.name); err != nil && !errors.Is(err, errUnknown) {
			return err
		}
	}
	err = c.monitor(ctx, u.name)
	if errors.Is(err, errMonitored) {
		return nil // by somebody else, at the same time
	}
	if errors.Is(err, errConfig) {
		return &fileError{err: err, path: m.file(u.name)}
	}
	return err
}

// fileError says that zinit takes no service from its folder.
type fileError struct {
	err  error
	path string
}

func (e *fileError) Error() string { return fmt.Sprintf("zinit does not take %s: %v", e.path, e.err) }
func (e *fileError) Unwrap() error { return e.err }

// Hint names the remedy.
func (e *fileError) Hint() string {
	return "see that zinit was started with this folder (`zinit init -c`; since 0.2.15 it is always /etc/zinit)"
}

func runnable(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st.IsDir() || st.Mode().Perm()&0o111 == 0 {
		return errors.New("not a program")
	}
	return nil
}

// Restart stops the services, then starts them.
func (m *Manager) Restart(ctx context.Context, names ...string) error {
	if err := m.Stop(ctx, names...); err != nil {
		return err
	}
	return m.Start(ctx, names...)
}

// Reload signals those that run.
func (m *Manager) Reload(ctx context.Context, names ...string) error {
	list, err := m.installed(names, false)
	if err != nil {
		return err
	}
	c, err := m.client(ctx)
	if err != nil {
		return err
	}
	for _, u := range list {
		if u.Ours.ReloadSignal == 0 {
			continue
		}
		st, err := c.status(ctx, u.name)
		if errors.Is(err, errUnknown) {
			continue
		}
		if err != nil {
			return err
		}
		if st.PID == 0 || parseState(st.State).kind != kindRunning {
			continue
		}
		signal := unix.SignalName(unix.Signal(u.Ours.ReloadSignal))
		if err := c.kill(ctx, u.name, signal); err != nil && !errors.Is(err, errDown) {
			return fmt.Errorf("reload %s: %w", u.name, err)
		}
	}
	return nil
}

// WaitReady looks until all services are active.
func (m *Manager) WaitReady(ctx context.Context, names ...string) error {
	if _, err := m.installed(names, false); err != nil {
		return err
	}
	return services.AwaitActive(ctx, pollEvery, func() ([]services.Status, error) {
		list, err := m.Status(ctx, names...)
		return list, errors.Join(err, endedBy(ctx, err))
	})
}

// poll calls done until it is true or an error, or ctx ends.
func poll(ctx context.Context, done func() (bool, error)) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return errors.Join(err, endedBy(ctx, err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// endedBy gives the end of ctx as the reason of an error of a connection.
func endedBy(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	return ctx.Err()
}
