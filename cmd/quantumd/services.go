package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/backend/local"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/services"
)

// installedServices lists our services that are installed, the system's own
// last: it comes after the backends.
func (a *app) installedServices(ctx context.Context) (services.ServiceManager, []services.Status, error) {
	m, err := a.manager()
	if err != nil {
		return nil, nil, err
	}
	names := []string{}
	if p := a.installedBackends(); p != nil {
		list, err := p.List(ctx)
		if err != nil {
			return nil, nil, err
		}
		for _, b := range list {
			names = append(names, local.ServicePrefix+b.ID)
		}
	}
	status, err := m.Status(ctx, append(names, qsfs.ComponentServices()...)...)
	if err != nil {
		return nil, nil, err
	}
	return m, slices.DeleteFunc(status, func(s services.Status) bool { return s.State == services.Missing }), nil
}

// installedBackends gives the local backends on system paths, which need no
// configuration to be found.
func (a *app) installedBackends() *local.Provisioner {
	dir := qsfs.SystemLayout(a.globals.Root, config.Default()).Backends
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return nil
	}
	p, err := a.local(dir)
	if err != nil {
		return nil
	}
	return p
}

// servicesInstalled says whether setup was run here.
func (a *app) servicesInstalled(ctx context.Context) bool {
	_, status, err := a.installedServices(ctx)
	return err == nil && len(status) > 0
}

// chosen turns the services that were asked for, by their name or their
// backend's, into installed ones. None given: those that all chooses.
func chosen(status []services.Status, asked []string, all bool) ([]string, error) {
	if len(status) == 0 {
		return nil, errNotInstalled
	}
	var names []string
	for _, s := range status {
		short := strings.TrimPrefix(s.Name, local.ServicePrefix)
		if len(asked) == 0 && (all || slices.Contains(qsfs.ComponentServices(), s.Name)) || slices.Contains(asked, s.Name) || slices.Contains(asked, short) {
			names = append(names, s.Name)
		}
	}
	for _, n := range asked {
		if !slices.Contains(names, n) && !slices.Contains(names, local.ServicePrefix+n) {
			return nil, fmt.Errorf("%q: %w", n, services.ErrNotFound)
		}
	}
	return names, nil
}

// notInstalledError says that setup was not run here.
type notInstalledError struct{}

var errNotInstalled = notInstalledError{}

func (notInstalledError) Error() string { return "nothing is installed here" }

// Hint names the remedy.
func (notInstalledError) Hint() string {
	return "`quantumd setup` installs the system that `quantumd deploy` has made; `quantumd up` runs without it"
}

// choose gives the manager, and the installed services that are asked for.
func (a *app) choose(ctx context.Context, asked []string, all bool) (services.ServiceManager, []string, error) {
	if err := a.noServicesBelowDir(); err != nil {
		return nil, nil, err
	}
	m, status, err := a.installedServices(ctx)
	if err != nil {
		return nil, nil, err
	}
	names, err := chosen(status, asked, all)
	return m, names, err
}

// noServicesBelowDir refuses the services' commands below a folder.
func (a *app) noServicesBelowDir() error {
	if a.globals.Dir == "" {
		return nil
	}
	return &usageError{errors.New("a system below --dir has no services; it runs with `quantumd up`")}
}

type startCmd struct {
	Services []string `arg:"" optional:"" name:"service" help:"Those to start; else all."`
}

// Run starts what setup installed, and returns when it is ready.
func (c *startCmd) Run(ctx context.Context, a *app) error {
	m, names, err := a.choose(ctx, c.Services, true)
	if err != nil {
		return err
	}
	if a.globals.DryRun {
		return a.done("would start %s", strings.Join(names, ", "))
	}
	if err := m.Start(ctx, names...); err != nil {
		return err
	}
	if err := qsfs.WaitServices(ctx, m, names...); err != nil {
		return err
	}
	return a.done("started: %s", strings.Join(names, ", "))
}

type stopCmd struct {
	Services []string      `arg:"" optional:"" name:"service" help:"Those to stop; else the system, and not its backends."`
	All      bool          `short:"a" help:"The local backends too."`
	Timeout  time.Duration `default:"10m" help:"How long to wait for the end."`
}

// Run ends the system and waits until it is gone. Local backends that services
// run go on.
func (c *stopCmd) Run(ctx context.Context, a *app) error {
	if a.globals.Dir != "" || !a.servicesInstalled(ctx) {
		if len(c.Services) > 0 || c.All {
			return errors.Join(a.noServicesBelowDir(), errNotInstalled)
		}
		return c.stopRunning(ctx, a)
	}
	m, names, err := a.choose(ctx, c.Services, c.All)
	if err != nil {
		return err
	}
	if a.globals.DryRun {
		return a.done("would stop %s", strings.Join(names, ", "))
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if err := m.Stop(ctx, names...); err != nil {
		return err
	}
	if err := a.mustNotRun(ctx, qsfs.SystemLayout(a.globals.Root, config.Default())); err == nil || !slices.Contains(names, qsfs.ServiceName) {
		return a.done("stopped: %s", strings.Join(names, ", "))
	}
	return c.stopRunning(ctx, a) // `quantumd up` in a terminal, beside the stopped service
}

// stopRunning ends a system that runs in a terminal.
func (c *stopCmd) stopRunning(ctx context.Context, a *app) error {
	cl := a.client()
	if a.globals.DryRun {
		if _, err := cl.Status(ctx); err != nil {
			return err
		}
		return a.done("would stop the system after bringing what was written to the backends")
	}
	if err := cl.Stop(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := cl.Status(ctx); errors.Is(err, client.ErrNotRunning) {
			return a.done("stopped")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the system has not ended within %s; it goes on", c.Timeout)
		case <-tick.C:
		}
	}
}

type restartCmd struct {
	Services []string `arg:"" optional:"" name:"service" help:"Those to restart; else the system, and not its backends."`
	All      bool     `short:"a" help:"The local backends too."`
}

// Run is stop and start.
func (c *restartCmd) Run(ctx context.Context, a *app) error {
	m, names, err := a.choose(ctx, c.Services, c.All)
	if err != nil {
		return err
	}
	if a.globals.DryRun {
		return a.done("would restart %s", strings.Join(names, ", "))
	}
	if err := m.Restart(ctx, names...); err != nil {
		return err
	}
	if err := qsfs.WaitServices(ctx, m, names...); err != nil {
		return err
	}
	return a.done("restarted: %s", strings.Join(names, ", "))
}

type servicesCmd struct{}

// Run lists the services.
func (servicesCmd) Run(ctx context.Context, a *app) error {
	if err := a.noServicesBelowDir(); err != nil {
		return err
	}
	_, status, err := a.installedServices(ctx)
	if err != nil {
		return err
	}
	return a.print(struct {
		Schema   int               `json:"schema"`
		Services []services.Status `json:"services"`
	}{client.SchemaVersion, some(status)}, func() {
		for _, s := range status {
			pid := "-"
			if s.PID != 0 {
				pid = fmt.Sprint(s.PID)
			}
			a.printf("%-16s %-9s %7s %s", s.Name, s.State, pid, s.Detail)
		}
		a.printf("%d services", len(status))
	})
}

type logsCmd struct {
	Service string `arg:"" optional:"" default:"quantumd" help:"Whose log."`
	Follow  bool   `short:"f" help:"Go on as lines come."`
	Lines   int    `short:"n" default:"100" help:"How many of the last lines."`
}

// Run shows what a service printed.
func (c *logsCmd) Run(ctx context.Context, a *app) error {
	m, names, err := a.choose(ctx, []string{c.Service}, false)
	if err != nil {
		return err
	}
	return m.Logs(ctx, names[0], services.LogOptions{Lines: c.Lines, Follow: c.Follow}, a.stdout)
}

type uninstallCmd struct{}

// Run removes the services and programs, and keeps data and configuration.
func (uninstallCmd) Run(ctx context.Context, a *app) error {
	if err := a.noServicesBelowDir(); err != nil {
		return err
	}
	m, status, err := a.installedServices(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, s := range slices.Backward(status) { // dependants first
		names = append(names, s.Name)
	}
	programs := []string{filepath.Join(a.globals.Root, "/usr/local/bin/quantumd-hook"), filepath.Join(a.globals.Root, "/usr/local/bin/quantumd")}
	programs = slices.DeleteFunc(programs, func(p string) bool { return !fileExists(p) })
	if len(names)+len(programs) == 0 {
		return errNotInstalled
	}
	if a.globals.DryRun {
		return a.done("would remove the services %s and the programs %s; data and configuration stay", strings.Join(names, ", "), strings.Join(programs, ", "))
	}
	if err := a.confirm("Remove the services and programs? Data and configuration stay.", ""); err != nil {
		return err
	}
	if err := m.Remove(ctx, names...); err != nil {
		return err
	}
	for _, p := range programs {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return &qsfs.PathError{Path: p, Err: err}
		}
	}
	if _, err := a.removeBinaries(ctx); err != nil {
		return err
	}
	return a.done("removed; data and configuration stay")
}
