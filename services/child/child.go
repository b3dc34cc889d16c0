// Package child runs services where no service manager does, as in a
// container: each service has a supervisor that starts it, starts it again
// when it ends, and stops it. It is not for machines that have systemd.
//
//	m, err := child.New(child.Options{Dir: dir})          // supervisors are goroutines of this process
//	m, err := child.New(child.Options{Dir: dir, Supervisor: []string{"/usr/local/bin/quantumd", "supervise"}})
//	changes, err := m.Apply(ctx, list)
//	err = m.Start(ctx, "zstor", "zdb")
//
// With Options.Supervisor each supervisor is a process in a session of its
// own, which outlives the program that started it: that command is run with
// two more arguments, the folder and the service's name, and must call
// [Supervise] with them, with a context that ends at SIGTERM.
//
// # Files
//
// All is in one folder, 0700, with one folder per service:
//
//	service.json  the definition
//	lock          locked (flock) while a supervisor lives; holds its process id
//	start         locked while somebody starts a supervisor
//	status.json   what the supervisor last did; written by it alone
//	log, log.1    what the service printed; log.1 is the older part
//
// The lock, not a process id, says whether a supervisor lives: ids are used
// again, and a dead process of a container may never be reaped.
package child

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"

	"github.com/threefoldtech/quantumd/services"
)

// Options tunes a Manager.
type Options struct {
	Dir        string       // where it keeps everything; needed
	Supervisor []string     // program and first arguments of a supervisor; nil: goroutines of this process
	Logger     *slog.Logger // nil discards
}

// Manager is a [services.ServiceManager] without a service manager.
type Manager struct {
	dir        string
	supervisor []string
	log        *slog.Logger

	mu     sync.Mutex
	closed bool
	own    map[string]*ownSupervisor
}

// ownSupervisor is a supervisor that is a goroutine of this process.
type ownSupervisor struct {
	stop context.CancelFunc
	done chan struct{}
}

var _ services.ServiceManager = (*Manager)(nil)

const (
	pollEvery   = 20 * time.Millisecond
	launchWait  = 10 * time.Second // for a supervisor to take its lock
	stopMargin  = 10 * time.Second // of a supervisor, beyond its service's deadline
	killWait    = 5 * time.Second  // for the kernel to end what was killed
	maxStateLen = 1 << 20          // bytes of a definition or a status that are read
)

// ErrClosed says that the Manager was closed.
var ErrClosed = errors.New("child: closed")

// New gives a manager that keeps its files in Options.Dir.
func New(o Options) (*Manager, error) {
	if o.Dir == "" {
		return nil, errors.New("child: no folder")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return &Manager{
		dir: dir, supervisor: slices.Clone(o.Supervisor), log: o.Logger.With("component", "services"),
		own: map[string]*ownSupervisor{},
	}, nil
}

// Close stops the services whose supervisors are goroutines of this process,
// and waits for them; the others go on.
func (m *Manager) Close() error {
	m.mu.Lock()
	m.closed = true
	own := make([]*ownSupervisor, 0, len(m.own))
	for _, s := range m.own {
		own = append(own, s)
	}
	m.mu.Unlock()
	for _, s := range own {
		s.stop()
	}
	for _, s := range own {
		<-s.done
	}
	return nil
}

func (m *Manager) home(name string) home { return home(filepath.Join(m.dir, name)) }

// Plan compares the definitions with what they should be.
func (m *Manager) Plan(_ context.Context, list []services.Service) ([]services.Change, error) {
	list, err := services.Order(list)
	if err != nil {
		return nil, err
	}
	var out []services.Change
	for _, s := range list {
		if err := s.Validate(); err != nil {
			return nil, err
		}
		text, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			return nil, err
		}
		h := m.home(s.Name)
		old, err := readBounded(h.definition())
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		out = append(out, services.Compare(s.Name, h.definition(), string(text)+"\n", string(old), err == nil))
	}
	return out, nil
}

// Apply writes the definitions that differ.
func (m *Manager) Apply(ctx context.Context, list []services.Service) ([]services.Change, error) {
	changes, err := m.Plan(ctx, list)
	if err != nil {
		return nil, err
	}
	for _, c := range changes {
		if c.Action == services.Keep {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(c.Path), 0o700); err != nil {
			return nil, err
		}
		if err := renameio.WriteFile(c.Path, []byte(c.Text), 0o600); err != nil {
			return nil, err
		}
	}
	return changes, nil
}

// Remove stops services and deletes their folders, logs included.
func (m *Manager) Remove(ctx context.Context, names ...string) error {
	for {
		known, err := m.known(names)
		if err != nil {
			return err
		}
		err = m.Stop(ctx, known...)
		if errors.Is(err, services.ErrNotFound) && ctx.Err() == nil {
			continue // somebody else removes it at this moment
		}
		if err != nil {
			return err
		}
		for _, n := range known {
			if err := os.RemoveAll(string(m.home(n))); err != nil {
				return err
			}
		}
		return nil
	}
}

// known picks the names that have a definition.
func (m *Manager) known(names []string) ([]string, error) {
	var known []string
	for _, n := range names {
		if err := services.CheckName(n); err != nil {
			return nil, err
		}
		if _, err := os.Lstat(m.home(n).definition()); err == nil {
			known = append(known, n)
		}
	}
	return known, nil
}

// installed reads definitions, sorted as they start.
func (m *Manager) installed(names []string) ([]services.Service, error) {
	var list []services.Service
	for _, n := range names {
		s, err := m.home(n).load()
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return services.Order(list)
}

// Start starts services one after the other; each waits until those that it
// comes after are ready, when they run.
func (m *Manager) Start(ctx context.Context, names ...string) error {
	list, err := m.installed(names)
	if err != nil {
		return err
	}
	for _, s := range services.Resolved(list) {
		if err := m.waitBefore(ctx, s); err != nil {
			return fmt.Errorf("start %s: %w", s.Name, err)
		}
		if err := m.start(ctx, s.Name); err != nil {
			return fmt.Errorf("start %s: %w", s.Name, err)
		}
	}
	return nil
}

func (m *Manager) waitBefore(ctx context.Context, s services.Service) error {
	for _, n := range slices.Concat(s.After, s.Requires) {
		before, err := m.home(n).load()
		if errors.Is(err, services.ErrNotFound) {
			continue // as with systemd: an order, not a need
		}
		if err != nil {
			return err
		}
		if alive, err := m.home(n).supervised(); err != nil || !alive {
			if err != nil {
				return err
			}
			continue
		}
		wait, cancel := context.WithTimeout(ctx, before.WithDefaults().StartTimeout)
		err = m.WaitReady(wait, n)
		cancel()
		if err != nil {
			return fmt.Errorf("%s is not ready: %w", n, err)
		}
	}
	return nil
}

func (m *Manager) start(ctx context.Context, name string) error {
	h := m.home(name)
	// One at a time, whatever process it is of: a second supervisor would wait for
	// the first one's lock, and start again what somebody stops at that moment.
	turn := flock.New(h.file("start"), flock.SetPermissions(0o600))
	if ok, err := turn.TryLockContext(ctx, pollEvery); !ok {
		return err
	}
	defer turn.Close() //nolint:errcheck // nothing is written to it
	if alive, err := h.supervised(); err != nil || alive {
		return err
	}
	gone := make(chan error, 1) // the supervisor ended before it took its lock
	if len(m.supervisor) > 0 {
		if err := m.launch(h, name, gone); err != nil {
			return err
		}
	} else if err := m.launchOwn(name, gone); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, launchWait)
	defer cancel()
	return poll(wait, func() (bool, error) {
		select {
		case err := <-gone:
			return false, fmt.Errorf("supervisor ended: %w", err)
		default:
			return h.supervised()
		}
	})
}

// launch starts a supervisor process that outlives this one.
func (m *Manager) launch(h home, name string, gone chan<- error) error {
	log, err := h.openLog()
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own
	cmd := exec.Command(m.supervisor[0], slices.Concat(m.supervisor[1:], []string{m.dir, name})...)
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	// Nobody waits for this goroutine: it only takes the exit code of a process
	// that may live longer than we do.
	go func() {
		err := cmd.Wait()
		if err == nil {
			err = errors.New("exit code 0")
		}
		gone <- err
	}()
	return nil
}

func (m *Manager) launchOwn(name string, gone chan<- error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	if _, runs := m.own[name]; runs {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &ownSupervisor{stop: cancel, done: make(chan struct{})}
	m.own[name] = s
	go func() {
		err := Supervise(ctx, m.dir, name, m.log)
		cancel()
		m.mu.Lock()
		delete(m.own, name)
		m.mu.Unlock()
		close(s.done)
		if err == nil {
			err = errors.New("stopped")
		}
		gone <- err
	}()
	return nil
}

// Stop stops services one after the other, the last started first; before them
// those that require them.
func (m *Manager) Stop(ctx context.Context, names ...string) error {
	list, err := m.withDependants(names)
	if err != nil {
		return err
	}
	for _, s := range slices.Backward(list) {
		if err := m.stop(ctx, s); err != nil {
			return fmt.Errorf("stop %s: %w", s.Name, err)
		}
	}
	return nil
}

func (m *Manager) stop(ctx context.Context, s services.Service) error {
	m.mu.Lock()
	own := m.own[s.Name]
	m.mu.Unlock()
	if own != nil {
		own.stop()
		select {
		case <-own.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	h := m.home(s.Name)
	pid, err := h.supervisorPID(ctx)
	if err != nil {
		return err
	}
	s = s.WithDefaults()
	if pid == 0 {
		return h.endOrphan(ctx, s, func() { services.RunStopExec(context.Background(), s, m.log) })
	}
	if pid == os.Getpid() {
		return errors.New("another Manager of this process supervises it")
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	limit := s.StopTimeout + stopMargin
	if len(s.StopExec) > 0 {
		limit += s.StopTimeout
	}
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ended := func() (bool, error) {
		alive, err := h.supervised()
		if err != nil || !alive {
			return err == nil, err
		}
		owner, err := h.owner()
		return owner != 0 && owner != pid, ignoreMissing(err) // somebody else's start came after the end
	}
	err = poll(wait, ended)
	if err == nil || ctx.Err() != nil {
		return err
	}
	m.log.Warn("supervisor did not stop and is killed", "service", s.Name, "pid", pid)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	wait, cancel = context.WithTimeout(ctx, killWait)
	defer cancel()
	if err := poll(wait, ended); err != nil {
		return err
	}
	return h.endOrphan(ctx, s, nil)
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) { // removed by somebody else, at the same time
		return nil
	}
	return err
}

// withDependants adds to installed services those that run and require one of
// them, sorted as they start.
func (m *Manager) withDependants(names []string) ([]services.Service, error) {
	if _, err := m.installed(names); err != nil {
		return nil, err
	}
	all, err := m.all()
	if err != nil {
		// One damaged definition keeps no other service from being stopped.
		m.log.Warn("dependants are not known", "err", err)
		return m.installed(names)
	}
	wanted := map[string]bool{}
	for _, n := range names {
		wanted[n] = true
	}
	var list []services.Service
	for _, s := range all { // what is required comes first
		if !wanted[s.Name] && slices.ContainsFunc(s.Requires, func(n string) bool { return wanted[n] }) {
			runs, err := m.home(s.Name).supervised()
			if err != nil {
				return nil, err
			}
			wanted[s.Name] = runs
		}
		if wanted[s.Name] {
			list = append(list, s)
		}
	}
	return list, nil
}

// all reads every definition, sorted as they start.
func (m *Manager) all() ([]services.Service, error) {
	entries, err := os.ReadDir(m.dir)
	if errors.Is(err, os.ErrNotExist) { // nothing was ever installed
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if services.CheckName(e.Name()) != nil {
			continue
		}
		if _, err := os.Lstat(m.home(e.Name()).definition()); err == nil {
			names = append(names, e.Name())
		}
	}
	return m.installed(names)
}

// Restart stops the services and what requires them, then starts them all.
func (m *Manager) Restart(ctx context.Context, names ...string) error {
	list, err := m.withDependants(names)
	if err != nil {
		return err
	}
	var again []string
	for _, s := range list {
		again = append(again, s.Name)
	}
	if err := m.Stop(ctx, again...); err != nil {
		return err
	}
	return m.Start(ctx, again...)
}

// Reload signals those that run.
func (m *Manager) Reload(ctx context.Context, names ...string) error {
	list, err := m.installed(names)
	if err != nil {
		return err
	}
	for _, s := range list {
		st, err := m.Status(ctx, s.Name)
		if err != nil {
			return err
		}
		if s.ReloadSignal == 0 || st[0].State != services.Active || st[0].PID == 0 {
			continue
		}
		if err := syscall.Kill(st[0].PID, s.ReloadSignal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("reload %s: %w", s.Name, err)
		}
	}
	return nil
}

// Installed lists the folders with a definition.
func (m *Manager) Installed(context.Context) ([]string, error) {
	list, err := m.all()
	var names []string
	for _, s := range list {
		names = append(names, s.Name)
	}
	return names, err
}

// Status reads what the supervisors did last.
func (m *Manager) Status(_ context.Context, names ...string) ([]services.Status, error) {
	out := make([]services.Status, 0, len(names))
	for _, n := range names {
		if err := services.CheckName(n); err != nil {
			return nil, err
		}
		st, err := m.home(n).status(n)
		if err != nil {
			return nil, err
		}
		out = append(out, st)
	}
	return out, nil
}

// WaitReady looks until all services are active.
func (m *Manager) WaitReady(ctx context.Context, names ...string) error {
	if _, err := m.installed(names); err != nil {
		return err
	}
	return services.AwaitActive(ctx, pollEvery, func() ([]services.Status, error) { return m.Status(ctx, names...) })
}

// Logs gives the last lines of the service's log.
func (m *Manager) Logs(ctx context.Context, name string, o services.LogOptions, to io.Writer) error {
	h := m.home(name)
	if _, err := h.load(); err != nil {
		return err
	}
	if o.Lines <= 0 {
		o.Lines = 100
	}
	return h.copyLog(ctx, o, to)
}

// poll calls done until it is true or an error, or ctx ends.
func poll(ctx context.Context, done func() (bool, error)) error {
	tick := time.NewTicker(pollEvery)
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
