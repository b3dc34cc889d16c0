package systemd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/threefoldtech/quantumd/internal/durable"
	"github.com/threefoldtech/quantumd/services"
)

// Plan compares the unit files with what they should be.
func (m *Manager) Plan(_ context.Context, list []services.Service) ([]services.Change, error) {
	list, err := services.Order(list)
	if err != nil {
		return nil, err
	}
	var changes []services.Change
	for _, s := range list {
		text, err := Render(s, m.target)
		if err != nil {
			return nil, err
		}
		c, err := compare(s.Name, m.file(s.Name), text)
		if err != nil {
			return nil, err
		}
		changes = append(changes, c)
	}
	if m.target == "" || len(list) == 0 {
		return changes, nil
	}
	c, err := compare(m.target, filepath.Join(m.dir, m.target), RenderTarget("QSFS"))
	return append(changes, c), err
}

func compare(name, path, text string) (services.Change, error) {
	old, err := readUnit(path)
	return services.Compare(name, path, text, old, old != ""), err
}

// Apply writes the unit files that differ, 0644 as systemd wants them, enables
// the services that are not, and has systemd read what it does not know yet. One
// that finds all in place changes nothing and asks for nothing to be changed.
func (m *Manager) Apply(ctx context.Context, list []services.Service) ([]services.Change, error) {
	changes, err := m.Plan(ctx, list)
	if err != nil || len(changes) == 0 {
		return nil, err
	}
	b, err := m.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return nil, err
	}
	written, err := m.write(ctx, b, changes)
	if err != nil {
		return nil, err
	}
	enabled, err := m.enable(ctx, b, changes)
	if err != nil {
		return nil, err
	}
	reload := written || enabled
	for _, c := range changes { // an Apply before may have ended half-way
		if reload {
			break
		}
		if reload, err = m.stale(ctx, b, c); err != nil {
			return nil, err
		}
	}
	if reload {
		if err := b.ReloadContext(ctx); err != nil {
			return nil, refused(ctx, "load the units", err)
		}
	}
	return changes, nil
}

func (m *Manager) write(ctx context.Context, b Bus, changes []services.Change) (written bool, err error) {
	for _, c := range changes {
		if c.Action == services.Keep {
			continue
		}
		if err := m.disown(ctx, b, c); err != nil {
			return written, err
		}
		if err := durable.WriteFile(c.Path, []byte(c.Text), 0o644); err != nil {
			return written, fmt.Errorf("write unit %s: %w", c.Path, err)
		}
		written = true
	}
	return written, nil
}

// disown takes away the links of a unit file that somebody else wrote, and that
// is replaced: its [Install] section named other targets.
func (m *Manager) disown(ctx context.Context, b Bus, c services.Change) error {
	if c.Action != services.Update {
		return nil
	}
	old, err := readUnit(c.Path)
	if err != nil || strings.HasPrefix(old, services.Mark) {
		return err
	}
	unit := filepath.Base(c.Path)
	if _, err := b.DisableUnitFilesContext(ctx, []string{unit}, false); err != nil {
		return refused(ctx, "disable "+unit, err)
	}
	return nil
}

// enable links those units that nothing starts with the machine yet.
func (m *Manager) enable(ctx context.Context, b Bus, changes []services.Change) (enabled bool, err error) {
	var missing []string
	for _, c := range changes {
		unit := filepath.Base(c.Path)
		if _, err := os.Lstat(filepath.Join(m.dir, m.wanting(unit)+".wants", unit)); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, unit)
		} else if err != nil {
			return false, err
		}
	}
	if len(missing) == 0 {
		return false, nil
	}
	// With force: what is there under the name, such as a link to nowhere, is ours.
	if _, _, err := b.EnableUnitFilesContext(ctx, missing, false, true); err != nil {
		return false, refused(ctx, "enable "+strings.Join(missing, ", "), err)
	}
	return true, nil
}

// wanting is the target that starts a unit.
func (m *Manager) wanting(unit string) string {
	if m.target == "" || unit == m.target {
		return bootTarget
	}
	return m.target
}

// stale says whether systemd does not know what is on disk of a unit.
func (m *Manager) stale(ctx context.Context, b Bus, c services.Change) (bool, error) {
	unit := filepath.Base(c.Path)
	p, err := b.GetAllPropertiesContext(ctx, unit)
	if err != nil {
		return false, refused(ctx, "look at "+unit, err)
	}
	if unit == m.target || m.target == "" {
		return properties(p).stale(), nil
	}
	wantedBy, _ := p["WantedBy"].([]string) // a new link makes no unit stale
	return properties(p).stale() || !slices.Contains(wantedBy, m.target), nil
}

// Remove stops and disables services and deletes their unit files, and the
// target with the last one. Nothing of them is left with systemd.
func (m *Manager) Remove(ctx context.Context, names ...string) error {
	list, err := m.installed(names, true)
	if err != nil {
		return err
	}
	last, err := m.targetIsLeft(list)
	if err != nil || len(list) == 0 && !last {
		return err
	}
	b, err := m.dial(ctx)
	if err != nil {
		return err
	}
	defer b.Close()
	stopped := m.stop(ctx, b, namesOf(list))
	if !services.Ended(stopped) {
		return stopped
	}
	var units []string
	for _, s := range slices.Backward(list) {
		units = append(units, unitName(s.Name))
	}
	if last {
		if err := m.stopped(ctx, b, m.target); err != nil {
			return err
		}
		units = append(units, m.target)
	}
	return errors.Join(stopped, m.forget(ctx, b, units))
}

// targetIsLeft says whether the target holds nothing but these services.
func (m *Manager) targetIsLeft(list []services.Service) (bool, error) {
	if m.target == "" {
		return false, nil
	}
	text, err := readUnit(filepath.Join(m.dir, m.target))
	if err != nil || !strings.HasPrefix(text, services.Mark) {
		return false, err
	}
	members, err := m.members()
	removed := namesOf(list)
	return !slices.ContainsFunc(members, func(n string) bool { return !slices.Contains(removed, n) }), err
}

// forget takes units that do not run from disk, and from systemd's memory.
func (m *Manager) forget(ctx context.Context, b Bus, units []string) error {
	if len(units) == 0 {
		return nil
	}
	if _, err := b.DisableUnitFilesContext(ctx, units, false); err != nil {
		left := slices.DeleteFunc(slices.Clone(units), func(u string) bool {
			_, err := os.Lstat(filepath.Join(m.dir, u))
			return errors.Is(err, fs.ErrNotExist)
		})
		if len(left) == len(units) {
			return refused(ctx, "disable "+strings.Join(units, ", "), err)
		}
		return m.forget(ctx, b, left) // somebody else removed the others at the same time
	}
	for _, u := range units {
		if err := os.Remove(filepath.Join(m.dir, u)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := durable.SyncDir(m.dir); err != nil {
		return err
	}
	if err := b.ReloadContext(ctx); err != nil {
		return refused(ctx, "load the units", err)
	}
	for _, u := range units { // failed ones stay in memory else
		if err := b.ResetFailedUnitContext(ctx, u); err != nil && !noSuchUnit(err) {
			return refused(ctx, "forget "+u, err)
		}
	}
	return nil
}
