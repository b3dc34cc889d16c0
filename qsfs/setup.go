package qsfs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"github.com/threefoldtech/quantumd/internal/durable"
	"github.com/threefoldtech/quantumd/qsfs/binaries"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/services"
	"github.com/threefoldtech/quantumd/store"
)

// ServiceName is the name of the system's own service.
const ServiceName = "quantumd"

// SetupOptions says how a system is installed.
type SetupOptions struct {
	Manager services.ServiceManager
	Root    string // put before system paths; empty: /
	Program string // the file that is put in place as quantumd; that of a package is run from where it lies
	Hook    []byte // the program quantumd-hook; nil: a link to quantumd

	// Before are services that have to run first, and say so: local backends. Their
	// programs are replaced by the installed one. Release is given the names of
	// those that no service runs, and ends what runs of them outside of one.
	Before  func(program string) ([]services.Service, error)
	Release func(ctx context.Context, names []string) error
	// Await returns when a service of Before does its work: they are restarted one
	// after the other. Nil: a service that runs does.
	Await func(ctx context.Context, name string) error
	// Observe is told of the drain before a restart; it may be nil.
	Observe func(Progress)

	// After are services that are none of ours, which the daemon starts after and
	// stops before: backends of an older installation.
	After []string
	// Secrets came by the environment: name (mnemonic, password,
	// encryption_key) to text. They are kept in files of mode 0600.
	Secrets map[string]string
	// Daemon are more arguments for the daemon.
	Daemon []string
	// Binaries brings the programs of external components, if there are any.
	Binaries *binaries.Installer
	DryRun   bool
}

// SetupReport says what was installed.
type SetupReport struct {
	Schema  int               `json:"schema"`
	Changes []services.Change `json:"changes"`
	// Restarted ran something older; Reloaded had only to read its configuration.
	Restarted []string `json:"restarted"`
	Reloaded  []string `json:"reloaded"`
	Replaced  bool     `json:"replaced"` // the program was another one before
	Files     []string `json:"files"`    // put in place, or already there

	Programs []binaries.Item `json:"programs,omitempty"` // of external components
}

// ProgramDir is where programs are installed, below a root.
const ProgramDir = "/usr/local/bin"

// Setup installs the program and its services on this machine, and returns
// when the system serves. It is idempotent.
func (s *System) Setup(ctx context.Context, o SetupOptions) (*SetupReport, error) {
	report := &SetupReport{Schema: client.SchemaVersion, Restarted: []string{}, Reloaded: []string{}}
	program := o.program()
	list, err := s.serviceList(o, program)
	if err != nil {
		return nil, err
	}
	if report.Changes, err = o.Manager.Plan(ctx, list); err != nil {
		return nil, err
	}
	report.Files = []string{program, o.hook()}
	stale, err := s.stale(ctx, o, list)
	if err != nil {
		return nil, err
	}
	for _, name := range stale {
		report.Changes = append(report.Changes, services.Change{Name: name, Action: services.Delete})
	}
	if err := s.readableDatabase(ctx); err != nil {
		return nil, err
	}
	if report.Programs, err = s.planPrograms(ctx, o); err != nil {
		return report, err
	}
	if o.DryRun {
		return report, convergence{sys: s, o: o, list: list, stale: stale}.plan(ctx, report)
	}
	changed, err := s.installPrograms(ctx, o, report)
	if err != nil {
		return report, err
	}
	replaced, err := s.installFiles(o, report.Files)
	report.Replaced = replaced
	if err != nil {
		return report, err
	}
	if err := s.protectMountpoint(o); err != nil {
		return report, err
	}
	if err := s.writeDaemonConfig(ctx); err != nil {
		return report, err
	}
	if _, err := o.Manager.Apply(ctx, list); err != nil {
		return report, err
	}
	c := convergence{sys: s, o: o, list: list, stale: stale}
	return report, c.run(ctx, append(changed, renewed(report.Changes, list, program, replaced)...), report)
}

// readableDatabase refuses to install a program that is older than the one that
// wrote the database, before anything is stopped: it would not start.
func (s *System) readableDatabase(ctx context.Context) error {
	db, err := store.Open(ctx, s.layout.Database, store.Options{ReadOnly: true})
	var newer *store.NewerSchemaError
	if errors.As(err, &newer) {
		return fmt.Errorf("%s: %w; nothing was changed", s.layout.Database, err)
	}
	if err != nil {
		return nil //nolint:nilerr // missing, or damaged: the start tells, and makes a new one
	}
	return db.Close()
}

// renewed lists the services that run, if they do, something older than what is
// installed now: another definition, or the program where that was replaced. A zdb
// and a zdbfs that are programs of their own go on, and so does their mount.
func renewed(changes []services.Change, list []services.Service, program string, replaced bool) []string {
	var names []string
	for _, c := range changes {
		runs := slices.ContainsFunc(list, func(s services.Service) bool { return s.Name == c.Name && s.Exec[0] == program })
		if replaced && runs || c.Action == services.Update {
			names = append(names, c.Name)
		}
	}
	return names
}

func (s *System) serviceList(o SetupOptions, program string) ([]services.Service, error) {
	var list []services.Service
	if o.Before != nil {
		before, err := o.Before(program)
		if err != nil {
			return nil, err
		}
		list = append(list, before...)
	}
	daemon := services.Service{
		Name: ServiceName, Description: "QSFS", Exec: append([]string{program, "daemon"}, o.Daemon...),
		Notify: true, RuntimeDir: "qsfs",
		Writable:     []string{s.layout.Root, s.layout.State, s.layout.Run, filepath.Dir(s.layout.Database)},
		StartTimeout: 5 * time.Minute, StopTimeout: 10 * time.Minute,
		ReloadSignal: syscall.SIGHUP, Watchdog: watchdogTime,
		After: slices.Clone(o.After),
	}
	if m, ok := o.Manager.(readyByCommand); ok && m.ReadyByCommand() {
		daemon.WaitExec = s.waitDaemon(o, program)
	}
	if s.cfg.Engine.Zdbfs != config.External {
		daemon.Mountpoint = s.cfg.QSFSMountpoint
	} else if o.Before != nil { // confined then, and it makes a service of each new local backend
		daemon.Writable = append(daemon.Writable, filepath.Join("/", o.Root, "etc/systemd/system"))
	}
	if s.cfg.Engine.Zstor == config.External {
		daemon.Writable = append(daemon.Writable, filepath.Dir(s.layout.Zstor))
	}
	for name := range o.Secrets {
		daemon.Credentials = append(daemon.Credentials, services.Credential{Name: name, Path: s.secretPath(name)})
	}
	return append(list, s.componentServices(o, program, daemon)...), nil
}

// watchdogTime is longer than any disk should stand still.
const watchdogTime = 3 * time.Minute

func (s *System) secretPath(name string) string {
	return filepath.Join(s.layout.Secrets(), name)
}

// installFiles puts folders, programs and secrets in place, and says whether the
// program was another one before.
func (s *System) installFiles(o SetupOptions, files []string) (replaced bool, err error) {
	if err := s.layout.make(); err != nil {
		return false, err
	}
	for _, dir := range []string{filepath.Dir(files[0]), s.cfg.QSFSMountpoint} {
		// A mountpoint may be in use, or dead: the start clears that.
		if _, err := os.Stat(dir); err == nil || errors.Is(err, syscall.ENOTCONN) {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return false, &PathError{Path: dir, Err: err}
		}
		if dir == s.cfg.QSFSMountpoint { // for Uninstall
			if err := renameio.WriteFile(s.layout.madeMountpoint(), []byte(dir), 0o600); err != nil {
				return false, &PathError{Path: dir, Err: err}
			}
		}
	}
	if len(s.externalNames()) > 0 { // what confined services write has to be there before they start
		for _, dir := range []string{s.layout.Logs, s.layout.HookSpool(), filepath.Dir(s.layout.Zstor)} {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return false, &PathError{Path: dir, Err: err}
			}
		}
	}
	if o.packaged() {
		return false, s.installSecrets(o)
	}
	if replaced, err = copyProgram(o.Program, files[0]); err != nil {
		return false, err
	}
	if err := installHook(o.Hook, files[0], files[1]); err != nil {
		return replaced, err
	}
	return replaced, s.installSecrets(o)
}

// installSecrets keeps what came by the environment for the service.
func (s *System) installSecrets(o SetupOptions) error {
	for name, text := range o.Secrets {
		path := s.secretPath(name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return &PathError{Path: path, Err: err}
		}
		if err := durable.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			return &PathError{Path: path, Err: err}
		}
	}
	return nil
}

// copyProgram puts a program in place, also over one that runs, and says
// whether there was another one.
func copyProgram(from, to string) (replaced bool, err error) {
	old, err := os.Stat(to)
	if err == nil {
		same, err := sameContent(from, to)
		if err != nil || same && old.Mode().Perm() == 0o755 {
			return false, err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return false, &PathError{Path: to, Err: err}
	}
	in, err := os.Open(from)
	if err != nil {
		return false, &PathError{Path: from, Err: err}
	}
	defer in.Close() //nolint:errcheck // read only
	out, err := renameio.NewPendingFile(to, renameio.WithPermissions(0o755), renameio.IgnoreUmask())
	if err != nil {
		return false, &PathError{Path: to, Err: err}
	}
	defer out.Cleanup() //nolint:errcheck // nothing is left after the rename
	if _, err := io.Copy(out, in); err != nil {
		return false, &PathError{Path: to, Err: err}
	}
	if old != nil { // the way back
		if err := binaries.KeepOld(to); err != nil {
			return false, &PathError{Path: to + binaries.OldSuffix, Err: err}
		}
	}
	if err := out.CloseAtomicallyReplace(); err != nil {
		return false, &PathError{Path: to, Err: err}
	}
	return old != nil, nil
}

func sameContent(x, y string) (bool, error) {
	var sums [2][sha256.Size]byte
	for i, path := range []string{x, y} {
		f, err := os.Open(path)
		if err != nil {
			return false, &PathError{Path: path, Err: err}
		}
		h := sha256.New()
		_, err = io.Copy(h, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return false, &PathError{Path: path, Err: err}
		}
		h.Sum(sums[i][:0])
	}
	return sums[0] == sums[1], nil
}

func installHook(hook []byte, program, to string) error {
	if hook != nil {
		if err := renameio.WriteFile(to, hook, 0o755, renameio.IgnoreUmask()); err != nil {
			return &PathError{Path: to, Err: err}
		}
		return nil
	}
	if err := renameio.Symlink(filepath.Base(program), to); err != nil {
		return &PathError{Path: to, Err: err}
	}
	return nil
}

// hopeless is how many times a service may end unexpectedly while its start is
// waited for: managers start it again for ever, and the one who waits wants to
// know.
const hopeless = 2

// WaitServices returns when all services are active; a [*services.FailedError]
// when one has failed, or ends again and again.
func WaitServices(ctx context.Context, m services.ServiceManager, names ...string) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	before := map[string]int{} // restarts of an earlier life
	for {
		list, err := m.Status(ctx, names...)
		if err != nil {
			return err
		}
		ready := true
		for _, st := range list {
			first, known := before[st.Name]
			if !known || st.Restarts < first {
				before[st.Name], first = st.Restarts, st.Restarts
			}
			if st.State == services.Missing {
				return fmt.Errorf("%w: %s", services.ErrNotFound, st.Name)
			}
			if st.State == services.Failed || st.State != services.Active && st.Restarts-first >= hopeless {
				return &services.FailedError{Status: st}
			}
			ready = ready && st.State == services.Active
		}
		if ready {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// awaitServing returns when the daemon answers on its control socket.
func (s *System) awaitServing(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	err := client.New(s.layout.ControlSocket()).WaitReady(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("the service was started, but does not serve: see `quantumd status` and its log")
	}
	return err
}
