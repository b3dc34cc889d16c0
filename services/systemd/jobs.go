package systemd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/services"
)

// verb is a kind of job.
type verb struct {
	name  string
	queue func(b Bus, ctx context.Context, unit, mode string, ch chan<- string) (int, error)
	over  func(state services.State) bool // what a job whose result nobody told has come to
}

var (
	starting = verb{"start", Bus.StartUnitContext, func(s services.State) bool { return s == services.Active }}
	stopping = verb{"stop", Bus.StopUnitContext, func(s services.State) bool {
		return s == services.Inactive || s == services.Failed || s == services.Missing
	}}
	reloading = verb{"reload", Bus.ReloadUnitContext, func(s services.State) bool { return s == services.Active }}
)

const (
	jobLook  = 2 * time.Second // between looks at a job whose end was not told
	jobLooks = 15              // without an answer, then systemd is given up
)

// job has systemd do something about a unit, and gives the result when that is
// over, however long it takes. When the context ends, systemd goes on with it.
func (m *Manager) job(ctx context.Context, b Bus, v verb, unit string) (string, error) {
	ch := make(chan string, 1) // whoever tells does not wait for us
	id, err := v.queue(b, ctx, unit, "replace", ch)
	if err != nil {
		return "", refused(ctx, v.name+" "+unit, err)
	}
	// The end is told by a signal, which a restart of systemd or of the bus can
	// swallow: so the job itself is looked for too.
	tick := time.NewTicker(jobLook)
	defer tick.Stop()
	silent := 0
	for {
		select {
		case result := <-ch:
			return result, nil
		case <-ctx.Done():
			return "", ctx.Err()
		case <-tick.C:
		}
		gone, result, err := m.lookForJob(ctx, v, unit, id)
		switch {
		case err == nil && gone:
			select {
			case told := <-ch: // between
				return told, nil
			default:
				return result, nil
			}
		case err == nil:
			silent = 0
		default:
			if silent++; silent >= jobLooks {
				return "", err
			}
		}
	}
}

// lookForJob says whether a unit's job is over, and how the unit is then. It
// has its own connection, for the other may be dead.
func (m *Manager) lookForJob(ctx context.Context, v verb, unit string, id int) (gone bool, result string, err error) {
	b, err := m.dial(ctx)
	if err != nil {
		return false, "", err
	}
	defer b.Close()
	p, err := b.GetAllPropertiesContext(ctx, unit)
	if err != nil {
		return false, "", err
	}
	if number(jobID(p)) == id {
		return false, "", nil
	}
	if v.over(properties(p).state()) {
		return true, "done", nil
	}
	return true, "failed", nil
}

// jobID gives the number of the job that a unit waits for.
func jobID(p map[string]any) any {
	if pair, ok := p["Job"].([]any); ok && len(pair) > 0 {
		return pair[0]
	}
	return nil
}

// begin gives installed services in the order of their start, and a connection
// to do something about them; none where there are no names.
func (m *Manager) begin(ctx context.Context, names []string) ([]services.Service, Bus, error) {
	list, err := m.installed(names, false)
	if err != nil || len(list) == 0 {
		return nil, nil, err
	}
	b, err := m.dial(ctx)
	return list, b, err
}

// Start starts services one after the other, and then the target when all that
// belongs to it runs.
func (m *Manager) Start(ctx context.Context, names ...string) error {
	list, b, err := m.begin(ctx, names)
	if err != nil || b == nil {
		return err
	}
	defer b.Close()
	for _, s := range list {
		result, err := m.job(ctx, b, starting, unitName(s.Name))
		if err != nil {
			return err
		}
		if err := m.started(ctx, b, s, result); err != nil {
			return err
		}
	}
	return m.startTarget(ctx, b)
}

// started gives the error of a start's result.
func (m *Manager) started(ctx context.Context, b Bus, s services.Service, result string) error {
	switch result {
	case "done":
		return nil
	case "dependency":
		var errs []error
		for _, n := range s.Requires {
			if st, err := look(ctx, b, n); err == nil && st.State != services.Active {
				errs = append(errs, &services.FailedError{Status: st})
			}
		}
		return errors.Join(append(errs, &JobError{Verb: "start", Name: s.Name, Result: result})...)
	case "failed", "timeout":
		st, err := look(ctx, b, s.Name)
		if err != nil {
			return err
		}
		if st.Detail == "" {
			st.Detail = result
		}
		if st.State != services.Failed {
			st.Detail = "its start failed (" + st.Detail + "), and is tried again"
		}
		return &services.FailedError{Status: st}
	}
	return &JobError{Verb: "start", Name: s.Name, Result: result}
}

// startTarget has the target say that its services run. It starts the enabled
// ones that do not, so it waits until there are none.
func (m *Manager) startTarget(ctx context.Context, b Bus) error {
	if m.target == "" {
		return nil
	}
	members, err := m.members()
	if err != nil {
		return err
	}
	for _, n := range members {
		st, err := look(ctx, b, n)
		if err != nil {
			return err
		}
		if st.State != services.Active {
			return nil
		}
	}
	if text, err := readUnit(filepath.Join(m.dir, m.target)); err != nil || text == "" {
		return err
	}
	p, err := b.GetAllPropertiesContext(ctx, m.target)
	if err != nil {
		return refused(ctx, "look at "+m.target, err)
	}
	if st := properties(p).state(); st == services.Active || st == services.Missing {
		return nil
	}
	result, err := m.job(ctx, b, starting, m.target)
	if err == nil && result != "done" {
		err = &JobError{Verb: "start", Name: m.target, Result: result}
	}
	return err
}

// Stop stops services, the last started first, and returns when they have
// ended: all of the target at once, in one transaction, which goes on if this
// process ends; others one after the other. A [*services.FailedError] tells of
// one that had to be killed after its StopTimeout; the others are stopped
// nevertheless.
func (m *Manager) Stop(ctx context.Context, names ...string) error {
	list, b, err := m.begin(ctx, names)
	if err != nil || b == nil {
		return err
	}
	defer b.Close()
	return m.stop(ctx, b, namesOf(list))
}

// stop takes names in the order of their start.
func (m *Manager) stop(ctx context.Context, b Bus, names []string) error {
	before := make([]services.Status, len(names))
	for i, n := range names {
		var err error
		if before[i], err = look(ctx, b, n); err != nil {
			return err
		}
	}
	all, err := m.whole(names)
	if err != nil {
		return err
	}
	if all {
		if err := m.stopped(ctx, b, m.target); err != nil {
			return err
		}
	}
	var killed []error
	for i, n := range slices.Backward(names) {
		if before[i].State == services.Missing { // written, but never loaded
			continue
		}
		if err := m.stopped(ctx, b, unitName(n)); err != nil {
			return err
		}
		if st, err := look(ctx, b, n); err != nil {
			return err
		} else if st.State == services.Failed && st.Detail == "timeout" && before[i].State != services.Failed {
			st.Detail = "it did not end within its time, and was killed"
			killed = append(killed, &services.FailedError{Status: st})
		}
	}
	return errors.Join(killed...)
}

func (m *Manager) stopped(ctx context.Context, b Bus, unit string) error {
	result, err := m.job(ctx, b, stopping, unit)
	if noSuchUnit(err) {
		return nil
	}
	if err == nil && result != "done" {
		err = &JobError{Verb: "stop", Name: strings.TrimSuffix(unit, ".service"), Result: result}
	}
	return err
}

// Restart stops the services, then starts them, also those that had to be killed.
func (m *Manager) Restart(ctx context.Context, names ...string) error {
	err := m.Stop(ctx, names...)
	if !services.Ended(err) {
		return err
	}
	return errors.Join(err, m.Start(ctx, names...))
}

// Reload has systemd run ExecReload of those that are active.
func (m *Manager) Reload(ctx context.Context, names ...string) error {
	list, b, err := m.begin(ctx, names)
	if err != nil || b == nil {
		return err
	}
	defer b.Close()
	for _, s := range list {
		text, err := readUnit(m.file(s.Name))
		if err != nil {
			return err
		}
		st, err := look(ctx, b, s.Name)
		if err != nil {
			return err
		}
		if st.State != services.Active || !strings.Contains(text, "\nExecReload=") {
			continue
		}
		result, err := m.job(ctx, b, reloading, unitName(s.Name))
		if err != nil {
			return err
		}
		if result != "done" && result != "skipped" { // skipped: it has ended meanwhile
			return fmt.Errorf("the service goes on as it was: %w", &JobError{Verb: "reload", Name: s.Name, Result: result})
		}
	}
	return nil
}
