package zinit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/threefoldtech/quantumd/services"
)

// Stop stops services one after the other, the last started first.
func (m *Manager) Stop(ctx context.Context, names ...string) error {
	list, err := m.installed(names, false)
	if err != nil {
		return err
	}
	c, err := m.client(ctx)
	if err != nil {
		return err
	}
	for _, u := range slices.Backward(list) {
		if err := m.stopOne(ctx, c, u); err != nil {
			return fmt.Errorf("stop %s: %w", u.name, err)
		}
	}
	return nil
}

func (m *Manager) stopOne(ctx context.Context, c client, u *unit) error {
	st, err := c.status(ctx, u.name)
	if errors.Is(err, errUnknown) {
		return nil
	}
	if err != nil {
		return err
	}
	if !st.up() && st.PID == 0 {
		return nil
	}
	if st.PID != 0 && st.up() && parseState(st.State).kind == kindRunning { // else there is nothing to drain, and nobody who could
		m.stopExec(ctx, u)
		if err := ctx.Err(); err != nil {
			return err // it was not stopped yet, and goes on
		}
	}
	if err := m.end(ctx, c, u); err != nil {
		return err
	}
	if err := services.ClearDeadMount(u.Ours.Mountpoint); err != nil { // the next start tries again
		m.log.Warn("after a stop", "service", u.name, "err", err)
	}
	return nil
}

// end ends a service: the target is down and no process is there when it
// returns. SIGKILL comes after the service's time, and not before.
func (m *Manager) end(ctx context.Context, c client, u *unit) error {
	st, err := c.status(ctx, u.name)
	if err != nil {
		return ignore(err, errUnknown)
	}
	late := time.Now().Add(u.Ours.StopTimeout)
	first := int(st.PID)
	local := first != 0 && m.sameProcesses(ctx)
	if _, early := c.(rpcClient); early && first != 0 && st.up() {
		// This one kills half a second after it was told to stop: it is told when
		// the process has ended by itself, and before it starts it again, 2 s later.
		if err := m.term(ctx, c, u, first, late); err != nil {
			return err
		}
	}
	if err := c.stop(ctx, u.name); err != nil {
		return ignore(err, errUnknown)
	}
	gone := func() (bool, error) {
		st, err := c.status(ctx, u.name)
		if errors.Is(err, errUnknown) {
			return true, nil
		}
		return st.PID == 0, err
	}
	if err := m.within(ctx, time.Until(late), gone); err != nil {
		if !errors.Is(err, errLate) {
			return err
		}
		m.log.Warn("a service does not end and is killed", "service", u.name)
		if err := c.kill(ctx, u.name, "SIGKILL"); err != nil && !errors.Is(err, errDown) {
			return err
		}
		if err := m.within(ctx, killWait, gone); err != nil {
			return fmt.Errorf("it was killed, and does not end: %w", err)
		}
	}
	if local && services.KillMode(u.Ours.Kill) != services.KillProcess {
		_ = syscall.Kill(-first, syscall.SIGKILL) // what it left behind in its group, if anything
	}
	m.ended(u.name)
	return nil
}

// term asks a process to end, and kills it when it is late.
func (m *Manager) term(ctx context.Context, c client, u *unit, pid int, late time.Time) error {
	other := func() (bool, error) {
		st, err := c.status(ctx, u.name)
		if errors.Is(err, errUnknown) {
			return true, nil
		}
		return int(st.PID) != pid, err
	}
	if err := c.kill(ctx, u.name, "SIGTERM"); err != nil {
		return ignore(err, errDown, errUnknown)
	}
	err := m.within(ctx, time.Until(late), other)
	if !errors.Is(err, errLate) {
		return err
	}
	m.log.Warn("a service does not end and is killed", "service", u.name)
	if err := c.kill(ctx, u.name, "SIGKILL"); err != nil {
		return ignore(err, errDown, errUnknown)
	}
	return m.within(ctx, killWait, other)
}

// ignore turns some errors into none.
func ignore(err error, some ...error) error {
	for _, s := range some {
		if errors.Is(err, s) {
			return nil
		}
	}
	return err
}

// errLate says that a time is over, while the caller's is not.
var errLate = errors.New("not in time")

func (m *Manager) within(ctx context.Context, d time.Duration, done func() (bool, error)) error {
	wait, cancel := context.WithTimeout(ctx, max(d, pollEvery))
	defer cancel()
	err := poll(wait, done)
	if err != nil && wait.Err() != nil && ctx.Err() == nil {
		return errLate
	}
	return err
}

// stopExec runs what is to run before the signal.
func (m *Manager) stopExec(ctx context.Context, u *unit) {
	s := services.Service{Name: u.name, StopExec: u.Ours.StopExec, StopTimeout: u.Ours.StopTimeout}
	for k, v := range u.Env {
		s.Env = append(s.Env, k+"="+v)
	}
	services.RunStopExec(ctx, s, m.log)
}

// sameProcesses says whether the process ids that zinit tells are those that
// this process sees: only then may it signal them itself.
func (m *Manager) sameProcesses(ctx context.Context) bool {
	c, err := m.client(ctx)
	if err != nil {
		return false
	}
	socket := ""
	switch c := c.(type) {
	case lineClient:
		socket = c.socket
	case rpcClient:
		socket = c.socket
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	conn, end, err := dial(ctx, socket)
	if err != nil {
		return false
	}
	defer end()
	pid := services.PeerPID(conn)
	if pid == 0 {
		return false
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		return false
	}
	ours, err := os.Readlink("/proc/self/ns/pid")
	return err == nil && ours == theirs
}
