// Package zinit runs services with zinit: it writes service files and speaks
// with the daemon over its socket, in the line protocol up to 0.2.14 and in
// JSON-RPC since 0.2.15. It needs no zinit program. It does not decide which
// services there are, and it never shuts the machine down.
//
//	m := zinit.New(zinit.Options{})
//	changes, err := m.Apply(ctx, list)
//	err = m.Start(ctx, "qsfs-zstor", "quantumd")   // then m.WaitReady(ctx, …)
//
// # What differs from systemd
//
// zinit starts a service again 2 s after each end, for ever; one that ends
// again and again is [services.Starting], and its Detail says so. What zinit
// itself cannot start it never tries again, and a test that it cannot start it
// tries without a pause: so a shell, which can always be started, stands
// before each program. It also makes the runtime folder and the folder with the
// credentials, and clears a dead mount.
//
// zinit reads its folder when it starts, and a file once more only when the
// service is forgotten and monitored again: so does [Manager.Start] with what
// does not run.
//
// A service that comes after another one (After, Requires) zinit does not start,
// nor start again, while that one is not ready, and blocks it for ever if it
// does not know that one: names that are not installed are left out of the
// file, and put in when they are. Before only orders what this Manager starts
// and stops: a backend that fails must not keep the file system from starting.
//
// Since 0.2.15 a stop kills the process group half a second after SIGTERM. So
// [Manager.Stop] first runs StopExec, then sends SIGTERM and waits, and tells
// zinit to stop only what has ended; up to 0.2.14, where a stop never kills, it
// kills itself when the time is over. When the machine shuts down none of this
// happens: zinit stops its services alone, dependants first up to 0.2.14.
//
// zinit does not know sd_notify, nor a watchdog: a service with Notify needs a
// WaitExec.
package zinit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/internal/durable"
	"github.com/threefoldtech/quantumd/services"
)

// Options tunes a Manager. The zero value is ready for use.
type Options struct {
	Root   string       // prefix of every path that is written, and of the sockets; empty: /
	Dir    string       // the service files; empty: /etc/zinit below Root
	Socket string       // of the zinit; empty: the first that answers of services.ZinitSockets
	Logger *slog.Logger // nil discards
}

// Manager is a [services.ServiceManager] on zinit.
type Manager struct {
	root, dir string
	sockets   []string
	log       *slog.Logger

	mu    sync.Mutex
	found client // nil: not asked yet
	seen  map[string]*sight
}

var _ services.ServiceManager = (*Manager)(nil)

const (
	pollEvery = 25 * time.Millisecond
	killWait  = 5 * time.Second // for the kernel to end what was killed
)

// New gives a manager; nothing is touched.
func New(o Options) *Manager {
	if o.Root == "" {
		o.Root = "/"
	}
	if o.Dir == "" {
		o.Dir = filepath.Join(o.Root, "etc/zinit")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	m := &Manager{root: o.Root, dir: o.Dir, sockets: services.ZinitSockets(o.Root),
		log: o.Logger.With("component", "services"), seen: map[string]*sight{}}
	if o.Socket != "" {
		m.sockets = []string{o.Socket}
	}
	return m
}

// ReadyByCommand says that a service tells its readiness by its WaitExec alone.
func (m *Manager) ReadyByCommand() bool { return true }

// client gives the connection to the zinit that runs; its generation is asked
// for once.
func (m *Manager) client(ctx context.Context) (client, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.found != nil {
		return m.found, nil
	}
	var errs []error
	for _, s := range m.sockets {
		g, err := Probe(ctx, s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if g == JSONRPC {
			m.found = rpcClient{s}
		} else {
			m.found = lineClient{s}
		}
		return m.found, nil
	}
	return nil, errors.Join(ctx.Err(), &NotRunningError{Sockets: m.sockets, Err: errors.Join(errs...)})
}

func (m *Manager) file(name string) string { return filepath.Join(m.dir, name+".yaml") }

// credentials is the folder that a service finds its secrets in.
func (m *Manager) credentials(name string) string {
	return filepath.Join("/", m.root, "var/lib/quantumd/credentials", name)
}

// Plan compares the service files with what they should be.
func (m *Manager) Plan(_ context.Context, list []services.Service) ([]services.Change, error) {
	list, err := services.Order(list)
	if err != nil {
		return nil, err
	}
	o, err := m.others(list)
	if err != nil {
		return nil, err
	}
	changes := make([]services.Change, 0, len(list))
	for _, s := range list {
		d, err := m.describe(s, o)
		if err != nil {
			return nil, err
		}
		text, err := d.encode()
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", s.Name, err)
		}
		old, err := readFile(m.file(s.Name))
		if err != nil {
			return nil, err
		}
		changes = append(changes, services.Compare(s.Name, m.file(s.Name), text, old, old != ""))
	}
	return changes, nil
}

// others looks at what is installed, or will be with a list.
func (m *Manager) others(list []services.Service) (others, error) {
	before := map[string][]string{} // by the service that says so
	names, err := m.ours()
	if err != nil {
		return others{}, err
	}
	for _, n := range names {
		u, err := m.loadAny(n)
		if err != nil {
			return others{}, err
		}
		if u != nil {
			before[n] = u.Ours.Before
		}
	}
	for _, s := range list {
		before[s.Name] = s.Before
	}
	return others{
		known: func(name string) bool { _, listed := before[name]; return listed || m.there(name) },
		first: func(name string) bool {
			for _, names := range before {
				if slices.Contains(names, name) {
					return true
				}
			}
			return false
		},
	}, nil
}

// there says whether zinit knows a service, or will after its next start.
func (m *Manager) there(name string) bool {
	st, err := os.Lstat(m.file(name))
	return err == nil && st.Mode().IsRegular()
}

// Apply writes the service files that differ, 0644, for there is no secret in
// them. zinit starts what it finds in its folder with the machine.
func (m *Manager) Apply(ctx context.Context, list []services.Service) ([]services.Change, error) {
	changes, err := m.Plan(ctx, list)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return nil, err
	}
	for _, c := range changes {
		if c.Action == services.Keep {
			continue
		}
		if err := durable.WriteFile(c.Path, []byte(c.Text), 0o644); err != nil {
			return nil, fmt.Errorf("write service file %s: %w", c.Path, err)
		}
	}
	return changes, m.settle()
}

// settle brings the files of all our services in line with what is installed
// now, so that none waits for ever for one that is not.
func (m *Manager) settle() error {
	names, err := m.ours()
	if err != nil {
		return err
	}
	o, err := m.others(nil)
	if err != nil {
		return err
	}
	for _, n := range names {
		u, err := m.loadAny(n)
		if err != nil {
			return err
		}
		if u == nil || !u.ours {
			continue
		}
		after, limit := u.After, u.ShutdownTimeout
		u.settle(n, o)
		if slices.Equal(after, u.After) && limit == u.ShutdownTimeout {
			continue
		}
		text, err := u.encode()
		if err != nil {
			return err
		}
		if err := durable.WriteFile(m.file(n), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write service file %s: %w", m.file(n), err)
		}
	}
	return nil
}

// unit is an installed service.
type unit struct {
	definition
	name string
	ours bool // written by us
}

// load reads a service file; nil when there is none.
func (m *Manager) load(name string) (*unit, error) {
	if err := services.CheckName(name); err != nil {
		return nil, err
	}
	text, err := readFile(m.file(name))
	if err != nil || text == "" {
		return nil, err
	}
	if !strings.HasPrefix(text, services.Mark) {
		return &unit{definition: parseForeign(text), name: name}, nil
	}
	d, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("service file %s: %w", m.file(name), err)
	}
	return &unit{definition: d, name: name, ours: true}, nil
}

// loadAny is load where a file of ours that somebody damaged must not be in the
// way: it counts as one that somebody else wrote.
func (m *Manager) loadAny(name string) (*unit, error) {
	u, err := m.load(name)
	if err == nil || services.CheckName(name) != nil {
		return u, err
	}
	text, failed := readFile(m.file(name))
	if failed != nil {
		return nil, failed
	}
	m.log.Warn("a service file is damaged", "service", name, "err", err)
	return &unit{definition: parseForeign(text), name: name}, nil
}

// installed reads services, sorted as they start. Missing ones are left out
// with any, and damaged ones are taken; else both are errors.
func (m *Manager) installed(names []string, any bool) ([]*unit, error) {
	byName := map[string]*unit{}
	var list []services.Service
	read := m.load
	if any {
		read = m.loadAny
	}
	for _, n := range names {
		u, err := read(n)
		if err != nil {
			return nil, err
		}
		if u == nil {
			if any {
				continue
			}
			return nil, fmt.Errorf("%w: %s", services.ErrNotFound, n)
		}
		if byName[n] != nil {
			continue
		}
		byName[n] = u
		list = append(list, services.Service{Name: n, After: u.Ours.After, Before: u.Ours.Before})
	}
	list, err := services.Order(list)
	out := make([]*unit, len(list))
	for i, s := range list {
		out[i] = byName[s.Name]
	}
	return out, err
}

// ours names the files that begin as ours do.
func (m *Manager) ours() ([]string, error) {
	return services.Marked(m.dir, ".yaml", func(name string) (string, error) { return readFile(m.file(name)) }, func(string) bool { return true })
}

// Installed lists the service files that begin as ours do.
func (m *Manager) Installed(context.Context) ([]string, error) {
	names, err := m.ours()
	if err != nil {
		return nil, err
	}
	list, err := m.installed(names, true)
	names = nil
	for _, u := range list {
		names = append(names, u.name)
	}
	return names, err
}

// Remove stops services, has zinit forget them, and deletes their files.
func (m *Manager) Remove(ctx context.Context, names ...string) error {
	list, err := m.installed(names, true)
	if err != nil || len(list) == 0 {
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
		if err := c.forget(ctx, u.name); err != nil && !errors.Is(err, errUnknown) {
			return fmt.Errorf("remove %s: %w", u.name, err)
		}
		if err := os.Remove(m.file(u.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if u.Ours.Credentials == m.credentials(u.name) { // and no other folder
			if err := os.RemoveAll(u.Ours.Credentials); err != nil {
				return err
			}
			_ = os.Remove(filepath.Dir(u.Ours.Credentials)) // not empty: of other services
		}
		m.unsee(u.name)
	}
	return errors.Join(durable.SyncDir(m.dir), m.settle())
}
