package zinit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/internal/proc"
	"github.com/threefoldtech/quantumd/services"
)

// sight is what a Manager saw of a service: zinit counts nothing, and tells no
// times.
type sight struct {
	state    services.State
	since    time.Time
	pid      int // of the process that runs, or of the last one that ended
	restarts int
	exit     int
}

func (m *Manager) unsee(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.seen, name)
}

// ended notes that a service was stopped just now.
func (m *Manager) ended(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seen[name] == nil {
		m.seen[name] = &sight{}
	}
	m.seen[name].state, m.seen[name].since = services.Inactive, time.Now()
}

// Status asks zinit. Restarts counts what zinit's log still tells when a service
// is looked at first, and what is seen from then on; Since of one that does not
// run is known to the Manager that stopped it.
func (m *Manager) Status(ctx context.Context, names ...string) ([]services.Status, error) {
	out := make([]services.Status, 0, len(names))
	for _, n := range names {
		if err := services.CheckName(n); err != nil {
			return nil, err
		}
		st, err := m.look(ctx, n)
		if err != nil {
			return nil, err
		}
		out = append(out, st)
	}
	return out, nil
}

func (m *Manager) look(ctx context.Context, name string) (services.Status, error) {
	out := services.Status{Name: name, State: services.Missing}
	u, err := m.load(name)
	if err != nil {
		if _, gone := os.Lstat(m.file(name)); gone != nil {
			return out, err
		}
		out.Detail = err.Error() // a damaged file hides no service that runs
	} else if u == nil {
		return out, nil
	}
	c, err := m.client(ctx)
	if err != nil {
		return out, err
	}
	out.Enabled = true
	st, err := c.status(ctx, name)
	if errors.Is(err, errUnknown) {
		out.State = services.Inactive
		m.note(ctx, c, &out, state{}, nil)
		return out, nil
	}
	if err != nil {
		return out, err
	}
	s := parseState(st.State)
	out.PID = int(st.PID)
	describe(&out, st, s)
	var success []int
	if u != nil {
		success = u.Ours.SuccessExit
	}
	m.note(ctx, c, &out, s, success)
	return out, nil
}

// describe turns what zinit says into what services say.
func describe(out *services.Status, st status, s state) {
	if !st.up() {
		out.State = services.Inactive
		if st.PID != 0 {
			out.State = services.Stopping
		}
		return
	}
	switch s.kind {
	case kindRunning:
		out.State = services.Active
	case kindBlocked:
		out.State, out.Detail = services.Starting, "waits for "+unready(st.After)
	case kindSuccess, kindError:
		out.State, out.Detail = services.Starting, endText(s)+"; zinit starts it again, every 2 s"
	case kindFailure:
		out.State, out.Detail = services.Failed, "zinit could not run it, and does not try again"
	case kindTestFailure:
		out.State, out.Detail = services.Failed, "zinit cannot run its test"
	case kindSpawned:
		out.State = services.Starting
	default:
		out.State = services.Starting
		if s.kind == kindUnknown && s.text != string(kindUnknown) {
			out.Detail = "zinit says " + s.text
		}
	}
}

// unready names those that are not ready of what a service comes after.
func unready(after map[string]string) string {
	var list []string
	for n, text := range after {
		if k := parseState(text).kind; k != kindRunning && k != kindSuccess && services.CheckName(n) == nil {
			list = append(list, fmt.Sprintf("%s (%s)", n, parseState(text).text))
		}
	}
	if len(list) == 0 {
		return "others"
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

func endText(s state) string {
	switch {
	case s.signal != "":
		return "ended by " + s.signal
	case s.kind == kindError && s.code < 0:
		return s.text
	}
	return fmt.Sprintf("ended with exit code %d", s.code)
}

// note adds what is known from before, and keeps what is seen now.
func (m *Manager) note(ctx context.Context, c client, out *services.Status, s state, success []int) {
	m.mu.Lock()
	v := m.seen[out.Name]
	m.mu.Unlock()
	fresh := v == nil
	if fresh {
		v = &sight{}
		if lines, err := c.lines(ctx, out.Name); err == nil {
			v.restarts = max(0, starts(lines, out.Name)-1)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen[out.Name] = v
	another := out.PID != 0 && v.pid != 0 && out.PID != v.pid
	if another || out.PID == 0 && s.pid != 0 && v.pid != 0 && s.pid != v.pid {
		v.restarts++
	}
	if last := max(out.PID, s.pid); last != 0 {
		v.pid = last
	}
	if s.kind == kindError && s.code >= 0 && !slices.Contains(success, s.code) {
		v.exit = s.code
	}
	if v.state != out.State || another {
		v.state, v.since = out.State, time.Now()
		if fresh { // it is so since an unknown time, or since its process began
			v.since = proc.Began(out.PID)
		}
	}
	out.Since, out.Restarts, out.ExitCode = v.since, v.restarts, v.exit
}
