package qsfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"

	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/services"
)

// ServiceName is the name of the system's own service.
const ServiceName = "quantumd"

// SetupOptions says how a system is installed.
type SetupOptions struct {
	Manager services.ServiceManager
	Root    string // put before system paths; empty: /
	Program string // the file that is put in place as quantumd
	Hook    []byte // the program quantumd-hook; nil: a link to quantumd

	// Before are services that have to run first: local backends. Their
	// programs are replaced by the installed one. Release ends what runs of them
	// already.
	Before  func(program string) ([]services.Service, error)
	Release func(context.Context) error

	// Secrets came by the environment: name (mnemonic, password,
	// encryption_key) to text. They are kept in files of mode 0600.
	Secrets map[string]string
	// Daemon are more arguments for the daemon.
	Daemon []string
	DryRun bool
}

// SetupReport says what was installed.
type SetupReport struct {
	Schema  int               `json:"schema"`
	Changes []services.Change `json:"changes"`
	Files   []string          `json:"files"` // put in place, or already there
}

// binDir is where programs are installed.
const binDir = "/usr/local/bin"

// Setup installs the program and its services on this machine, and returns
// when the system serves. It is idempotent.
func (s *System) Setup(ctx context.Context, o SetupOptions) (*SetupReport, error) {
	report := &SetupReport{Schema: client.SchemaVersion}
	program := filepath.Join(o.Root, binDir, "quantumd")
	list, err := s.serviceList(o, program)
	if err != nil {
		return nil, err
	}
	if report.Changes, err = o.Manager.Plan(ctx, list); err != nil {
		return nil, err
	}
	report.Files = []string{program, filepath.Join(o.Root, binDir, "quantumd-hook")}
	if o.DryRun {
		return report, nil
	}
	if err := s.installFiles(o, report.Files); err != nil {
		return report, err
	}
	if _, err := o.Manager.Apply(ctx, list); err != nil {
		return report, err
	}
	return report, s.startServices(ctx, o, list)
}

func (s *System) serviceList(o SetupOptions, program string) ([]services.Service, error) {
	var list []services.Service
	var names []string
	if o.Before != nil {
		before, err := o.Before(program)
		if err != nil {
			return nil, err
		}
		list = append(list, before...)
		for _, b := range before {
			names = append(names, b.Name)
		}
	}
	daemon := services.Service{
		Name: ServiceName, Description: "QSFS", Exec: append([]string{program, "daemon"}, o.Daemon...),
		After: names, Notify: true, Mountpoint: s.cfg.QSFSMountpoint, RuntimeDir: "qsfs",
		Writable:     []string{s.layout.Root, s.layout.State, s.layout.Run, filepath.Dir(s.layout.Database)},
		StartTimeout: 5 * time.Minute, StopTimeout: 10 * time.Minute,
	}
	for name := range o.Secrets {
		daemon.Credentials = append(daemon.Credentials, services.Credential{Name: name, Path: s.secretPath(name)})
	}
	return append(list, daemon), nil
}

func (s *System) secretPath(name string) string {
	return filepath.Join(s.layout.State, "secrets", name)
}

func (s *System) installFiles(o SetupOptions, files []string) error {
	if err := s.layout.make(); err != nil {
		return err
	}
	for _, dir := range []string{filepath.Join(o.Root, binDir), s.cfg.QSFSMountpoint} {
		if _, err := os.Stat(dir); err == nil {
			continue // also a mountpoint that is in use
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return &PathError{Path: dir, Err: err}
		}
	}
	if err := copyProgram(o.Program, files[0]); err != nil {
		return err
	}
	if err := installHook(o.Hook, files[0], files[1]); err != nil {
		return err
	}
	for name, text := range o.Secrets {
		path := s.secretPath(name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return &PathError{Path: path, Err: err}
		}
		if err := renameio.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			return &PathError{Path: path, Err: err}
		}
	}
	return nil
}

// copyProgram puts a program in place, also over one that runs.
func copyProgram(from, to string) error {
	if a, err := os.Stat(from); err == nil {
		if b, err := os.Stat(to); err == nil && os.SameFile(a, b) {
			return nil
		}
	}
	in, err := os.Open(from)
	if err != nil {
		return &PathError{Path: from, Err: err}
	}
	defer in.Close() //nolint:errcheck // read only
	out, err := renameio.NewPendingFile(to, renameio.WithPermissions(0o755), renameio.IgnoreUmask())
	if err != nil {
		return &PathError{Path: to, Err: err}
	}
	defer out.Cleanup() //nolint:errcheck // nothing is left after the rename
	if _, err := io.Copy(out, in); err != nil {
		return &PathError{Path: to, Err: err}
	}
	if err := out.CloseAtomicallyReplace(); err != nil {
		return &PathError{Path: to, Err: err}
	}
	return nil
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

// startServices starts what does not run yet; what runs with an older program
// or another definition is started again.
func (s *System) startServices(ctx context.Context, o SetupOptions, list []services.Service) error {
	var names []string
	for _, one := range list {
		names = append(names, one.Name)
	}
	status, err := o.Manager.Status(ctx, names...)
	if err != nil {
		return err
	}
	anyRuns := false
	for _, st := range status {
		anyRuns = anyRuns || st.State == services.Active || st.State == services.Starting
	}
	if !anyRuns && o.Release != nil {
		if err := o.Release(ctx); err != nil {
			return fmt.Errorf("take over the local backends: %w", err)
		}
	}
	if err := o.Manager.Start(ctx, names...); err != nil {
		return err
	}
	if err := o.Manager.WaitReady(ctx, names...); err != nil {
		return err
	}
	return s.awaitServing(ctx)
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
