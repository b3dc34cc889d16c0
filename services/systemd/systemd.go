// Package systemd runs services with systemd: it writes unit files, and asks
// systemd over D-Bus to load, enable, start and stop them. It does not decide
// which services there are.
//
//	m := systemd.New(systemd.Options{Target: "qsfs.target"})
//	changes, err := m.Apply(ctx, list)
//	err = m.Start(ctx, "qsfs-zstor", "qsfs-zdb")
//
// Each service is enabled below the target and is part of it, so that a boot
// starts what is enabled, and stopping the target stops all in one transaction,
// in order. Several names in one `systemctl stop` would not: those are jobs of
// their own, which begin at once (measured with systemd 252).
//
// A folder below /run that a service writes, or is given as its RuntimeDir, is
// made before its start and stays when it ends, whichever service comes first.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/threefoldtech/quantumd/services"
)

// Options tunes a Manager. The zero value is ready for use.
type Options struct {
	Root   string // prefix of every path that is written, for tests and images; empty: /
	Target string // such as `qsfs.target`: made, and made to hold the services; empty: none

	// Dial connects to systemd; nil: over the system's bus, and by systemd's
	// own socket where there is no bus.
	Dial func(ctx context.Context) (Bus, error)
	// Journal runs journalctl with these arguments, until the context ends.
	Journal func(ctx context.Context, to io.Writer, args ...string) error
}

// Manager is a [services.ServiceManager] on systemd. Each of its calls makes a
// connection of its own.
type Manager struct {
	dir     string
	target  string
	dial    func(ctx context.Context) (Bus, error)
	journal func(ctx context.Context, to io.Writer, args ...string) error
}

var _ services.ServiceManager = (*Manager)(nil)

const (
	unitDir    = "etc/systemd/system"
	maxUnit    = 1 << 20 // bytes of a unit file that are read
	bootTarget = "multi-user.target"
)

// New gives a manager; nothing is touched.
func New(o Options) *Manager {
	if o.Root == "" {
		o.Root = "/"
	}
	if o.Dial == nil {
		o.Dial = Dial
	}
	if o.Journal == nil {
		o.Journal = journalctl
	}
	return &Manager{dir: filepath.Join(o.Root, unitDir), target: o.Target, dial: o.Dial, journal: o.Journal}
}

func unitName(service string) string { return service + ".service" }

func (m *Manager) file(name string) string { return filepath.Join(m.dir, unitName(name)) }

// readUnit gives the text of a unit file, empty when there is none.
func readUnit(path string) (string, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // read only
	b, err := io.ReadAll(io.LimitReader(f, maxUnit))
	return string(b), err
}

// installed reads the unit files of services, in the order of their start.
// Missing ones are left out with skip, else an error.
func (m *Manager) installed(names []string, skip bool) ([]services.Service, error) {
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
		list = append(list, services.Service{
			Name: n, After: unitsOf(text, "After="), Before: unitsOf(text, "Before="), Requires: unitsOf(text, "Requires="),
		})
	}
	return services.Order(list)
}

func namesOf(list []services.Service) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = s.Name
	}
	return out
}

// unitsOf reads from a unit file the services that its lines with a key name.
func unitsOf(unit, key string) []string {
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

// Installed lists the unit files that begin as ours do.
func (m *Manager) Installed(context.Context) ([]string, error) {
	names, err := m.ours(func(string) bool { return true })
	if err != nil {
		return nil, err
	}
	list, err := m.installed(names, true)
	return namesOf(list), err
}

// members are the services of ours that belong to the target.
func (m *Manager) members() ([]string, error) {
	return m.ours(func(text string) bool { return strings.Contains(text, "\nPartOf="+m.target+"\n") })
}

func (m *Manager) ours(fits func(text string) bool) ([]string, error) {
	return services.Marked(m.dir, ".service", func(name string) (string, error) { return readUnit(m.file(name)) }, fits)
}

// whole says whether the names are all the services of the target.
func (m *Manager) whole(names []string) (bool, error) {
	if m.target == "" {
		return false, nil
	}
	members, err := m.members()
	if err != nil || len(members) == 0 {
		return false, err
	}
	if _, err := os.Stat(filepath.Join(m.dir, m.target)); err != nil {
		return false, nil //nolint:nilerr // no target to stop
	}
	for _, n := range members {
		if !slices.Contains(names, n) {
			return false, nil
		}
	}
	return true, nil
}
