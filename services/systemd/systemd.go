// Package systemd runs services with systemd: it writes unit files and drives
// systemctl and journalctl. It does not decide which services there are.
//
//	m := systemd.New(systemd.Options{Target: "qsfs.target"})
//	changes, err := m.Apply(ctx, list)
//	err = m.Start(ctx, "qsfs-zstor", "qsfs-zdb")
//
// Services are stopped one after the other: `systemctl stop a b c` begins with
// all of them at a time, whatever their order (measured with systemd 252).
package systemd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/threefoldtech/quantumd/services"
)

// Runner runs a program and streams what it prints to stdout. An error holds
// what it printed to stderr.
type Runner interface {
	Run(ctx context.Context, stdout io.Writer, name string, args ...string) error
}

// Options tunes a Manager. The zero value is ready for use.
type Options struct {
	Root   string // prefix of every path that is written, for tests and images; empty: /
	Target string // such as `qsfs.target`: made, and made to hold the services; empty: none
	Runner Runner // nil runs real programs
}

// Manager is a [services.ServiceManager] on systemd.
type Manager struct {
	dir    string
	target string
	run    Runner
}

var _ services.ServiceManager = (*Manager)(nil)

const (
	unitDir    = "etc/systemd/system"
	maxUnit    = 1 << 20 // bytes of a unit file that are read
	pollReady  = 200 * time.Millisecond
	outputTail = 2000 // bytes of stderr in an error
)

// New gives a manager; nothing is touched.
func New(o Options) *Manager {
	if o.Root == "" {
		o.Root = "/"
	}
	if o.Runner == nil {
		o.Runner = programs{}
	}
	return &Manager{dir: filepath.Join(o.Root, unitDir), target: o.Target, run: o.Runner}
}

func (m *Manager) file(name string) string { return filepath.Join(m.dir, name+".service") }

// Plan compares the unit files with what they should be.
func (m *Manager) Plan(_ context.Context, list []services.Service) ([]services.Change, error) {
	list, err := services.Order(list)
	if err != nil {
		return nil, err
	}
	var changes []services.Change
	var members []string
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
		members = append(members, s.Name)
	}
	if m.target == "" {
		return changes, nil
	}
	c, err := m.planTarget(members)
	return append(changes, c), err
}

func (m *Manager) planTarget(members []string) (services.Change, error) {
	path := filepath.Join(m.dir, m.target)
	old, err := readUnit(path)
	if err != nil {
		return services.Change{}, err
	}
	for _, n := range wanted(old) { // services of an earlier Apply stay in it
		if !slices.Contains(members, n) {
			if _, err := os.Stat(m.file(n)); err == nil {
				members = append(members, n)
			}
		}
	}
	slices.Sort(members)
	return compare(m.target, path, RenderTarget("QSFS", members))
}

func wanted(unit string) []string {
	var out []string
	for line := range strings.Lines(unit) {
		if list, ok := strings.CutPrefix(strings.TrimSpace(line), "Wants="); ok {
			for _, w := range strings.Fields(list) {
				if n, ok := strings.CutSuffix(w, ".service"); ok && services.CheckName(n) == nil {
					out = append(out, n)
				}
			}
		}
	}
	return out
}

func compare(name, path, text string) (services.Change, error) {
	c := services.Change{Name: name, Path: path, Text: text, Action: services.Update}
	old, err := readUnit(path)
	switch {
	case err != nil:
		return c, err
	case old == text:
		c.Action = services.Keep
	case old == "":
		c.Action = services.Create
	}
	return c, nil
}

// readUnit gives the text of a unit file, empty when there is none.
func readUnit(path string) (string, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxUnit))
	return string(b), err
}

// Apply writes the unit files that differ, 0644 as systemd wants them, has
// systemd read them and enables the services.
func (m *Manager) Apply(ctx context.Context, list []services.Service) ([]services.Change, error) {
	changes, err := m.Plan(ctx, list)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return nil, err
	}
	var units []string
	for _, c := range changes {
		units = append(units, filepath.Base(c.Path))
		if c.Action == services.Keep {
			continue
		}
		if err := renameio.WriteFile(c.Path, []byte(c.Text), 0o644); err != nil {
			return nil, fmt.Errorf("write unit %s: %w", c.Path, err)
		}
	}
	if len(units) == 0 {
		return nil, nil
	}
	// Also when all files were kept: an Apply before may have ended here.
	if err := m.systemctl(ctx, "daemon-reload"); err != nil {
		return nil, err
	}
	return changes, m.systemctl(ctx, append([]string{"enable"}, units...)...)
}

// Remove stops and disables services and deletes their unit files.
func (m *Manager) Remove(ctx context.Context, names ...string) error {
	list, err := m.installed(ctx, names, true)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return nil
	}
	for _, name := range slices.Backward(list) {
		if err := m.systemctl(ctx, "disable", "--now", name+".service"); err != nil {
			return err
		}
		if err := os.Remove(m.file(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := m.shrinkTarget(ctx); err != nil {
		return err
	}
	if err := m.systemctl(ctx, "daemon-reload"); err != nil {
		return err
	}
	for _, name := range list {
		_ = m.systemctl(ctx, "reset-failed", name+".service") // it is an error when it had not failed
	}
	return nil
}

// shrinkTarget takes removed services out of the target, and the target away
// with the last one.
func (m *Manager) shrinkTarget(ctx context.Context) error {
	if m.target == "" {
		return nil
	}
	c, err := m.planTarget(nil)
	if err != nil || c.Action == services.Create {
		return err
	}
	if len(wanted(c.Text)) > 0 {
		return renameio.WriteFile(c.Path, []byte(c.Text), 0o644)
	}
	if err := m.systemctl(ctx, "disable", m.target); err != nil {
		return err
	}
	return os.Remove(c.Path)
}

// installed checks names and sorts them as they start. Missing ones are left
// out with skip, else an error.
func (m *Manager) installed(_ context.Context, names []string, skip bool) ([]string, error) {
	var list []services.Service
	for _, n := range names {
		if err := services.CheckName(n); err != nil {
			return nil, err
		}
		text, err := readUnit(m.file(n))
		if err != nil {
			return nil, err
		}
		if text == "" {
			if skip {
				continue
			}
			return nil, fmt.Errorf("%w: %s", services.ErrNotFound, n)
		}
		list = append(list, services.Service{Name: n, After: units(text, "After="), Before: units(text, "Before=")})
	}
	list, err := services.Order(list)
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = s.Name
	}
	return out, err
}

// units reads from a unit file the services that its lines with a key name.
func units(unit, key string) []string {
	var out []string
	for line := range strings.Lines(unit) {
		if words, ok := strings.CutPrefix(line, key); ok {
			for _, w := range strings.Fields(words) {
				if n, ok := strings.CutSuffix(w, ".service"); ok {
					out = append(out, n)
				}
			}
		}
	}
	return out
}

// Start starts services one after the other.
func (m *Manager) Start(ctx context.Context, names ...string) error {
	list, err := m.installed(ctx, names, false)
	if err != nil {
		return err
	}
	for _, n := range list {
		if err := m.systemctl(ctx, "start", n+".service"); err != nil {
			return errors.Join(fmt.Errorf("start %s: %w", n, err), m.failure(ctx, n))
		}
	}
	return nil
}

// failure gives what is known about a service that has failed, or nil.
func (m *Manager) failure(ctx context.Context, name string) error {
	st, err := m.Status(ctx, name)
	if err != nil || st[0].State != services.Failed {
		return err
	}
	return &services.FailedError{Status: st[0]}
}

// Stop stops services one after the other, the last started first.
func (m *Manager) Stop(ctx context.Context, names ...string) error {
	list, err := m.installed(ctx, names, false)
	if err != nil {
		return err
	}
	for _, n := range slices.Backward(list) {
		if err := m.systemctl(ctx, "stop", n+".service"); err != nil {
			return fmt.Errorf("stop %s: %w", n, err)
		}
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

// Reload has systemd run ExecReload of those that are active.
func (m *Manager) Reload(ctx context.Context, names ...string) error {
	list, err := m.installed(ctx, names, false)
	if err != nil {
		return err
	}
	for _, n := range list {
		text, err := readUnit(m.file(n))
		if err != nil {
			return err
		}
		st, err := m.Status(ctx, n)
		if err != nil {
			return err
		}
		if st[0].State != services.Active || !strings.Contains(text, "\nExecReload=") {
			continue
		}
		if err := m.systemctl(ctx, "reload", n+".service"); err != nil {
			return fmt.Errorf("reload %s: %w", n, err)
		}
	}
	return nil
}

// Installed lists the unit files that begin as ours do.
func (m *Manager) Installed(ctx context.Context) ([]string, error) {
	entries, err := os.ReadDir(m.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		n, ok := strings.CutSuffix(e.Name(), ".service")
		if !ok || !e.Type().IsRegular() || services.CheckName(n) != nil {
			continue
		}
		text, err := readUnit(m.file(n))
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(text, mark) {
			names = append(names, n)
		}
	}
	return m.installed(ctx, names, true)
}

// properties of a unit that Status asks for.
const properties = "Id,LoadState,ActiveState,SubState,UnitFileState,MainPID,NRestarts,ExecMainStatus,Result,StateChangeTimestamp"

// Status asks systemd.
func (m *Manager) Status(ctx context.Context, names ...string) ([]services.Status, error) {
	out := make([]services.Status, 0, len(names))
	for _, n := range names {
		if err := services.CheckName(n); err != nil {
			return nil, err
		}
		var b bytes.Buffer
		err := m.run.Run(ctx, &b, "systemctl", "show", "--timestamp=unix", "--property="+properties, "--", n+".service")
		if err != nil {
			return nil, err
		}
		out = append(out, parseShow(n, b.String()))
	}
	return out, nil
}

// parseShow reads the key=value lines of systemctl show.
func parseShow(name, text string) services.Status {
	p := map[string]string{}
	for line := range strings.Lines(text) {
		k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		p[k] = v
	}
	number := func(key string) int {
		n, _ := strconv.Atoi(p[key]) // absent: zero
		return n
	}
	st := services.Status{
		Name: name, Enabled: p["UnitFileState"] == "enabled", PID: number("MainPID"),
		Restarts: number("NRestarts"), ExitCode: number("ExecMainStatus"),
	}
	if sec, err := strconv.ParseInt(strings.TrimPrefix(p["StateChangeTimestamp"], "@"), 10, 64); err == nil && sec > 0 {
		st.Since = time.Unix(sec, 0)
	}
	if r := p["Result"]; r != "" && r != "success" {
		st.Detail = r
	}
	switch {
	case p["LoadState"] == "not-found":
		st.State = services.Missing
	case p["ActiveState"] == "active", p["ActiveState"] == "reloading", p["ActiveState"] == "refreshing":
		st.State = services.Active
	case p["ActiveState"] == "activating": // auto-restart is one of its sub-states
		st.State = services.Starting
	case p["ActiveState"] == "deactivating":
		st.State = services.Stopping
	case p["ActiveState"] == "failed":
		st.State = services.Failed
	default:
		st.State = services.Inactive
	}
	return st
}

// Logs asks the journal.
func (m *Manager) Logs(ctx context.Context, name string, o services.LogOptions, to io.Writer) error {
	if _, err := m.installed(ctx, []string{name}, false); err != nil {
		return err
	}
	lines := o.Lines
	if lines <= 0 {
		lines = 100
	}
	args := []string{"--unit=" + name + ".service", "--lines=" + strconv.Itoa(lines), "--output=short-iso", "--no-pager", "--quiet"}
	if o.Follow {
		args = append(args, "--follow")
	}
	err := m.run.Run(ctx, to, "journalctl", args...)
	if o.Follow && ctx.Err() != nil {
		return nil // the way to end it
	}
	return err
}

// WaitReady looks until all services are active.
func (m *Manager) WaitReady(ctx context.Context, names ...string) error {
	if _, err := m.installed(ctx, names, false); err != nil {
		return err
	}
	return poll(ctx, pollReady, func() (bool, error) {
		list, err := m.Status(ctx, names...)
		if err != nil {
			return false, err
		}
		return services.AllActive(list)
	})
}

func poll(ctx context.Context, every time.Duration, done func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *Manager) systemctl(ctx context.Context, args ...string) error {
	return m.run.Run(ctx, io.Discard, "systemctl", args...)
}

// programs is the Runner that runs them.
type programs struct{}

func (programs) Run(ctx context.Context, stdout io.Writer, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0")
	cmd.WaitDelay = time.Second
	var words bytes.Buffer
	cmd.Stdout, cmd.Stderr = stdout, &words
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(words.String())
		if len(text) > outputTail {
			text = text[len(text)-outputTail:]
		}
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, text)
	}
	return nil
}
