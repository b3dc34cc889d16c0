package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/threefoldtech/quantumd/backend/local"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/services"
)

// installedServices lists our services that are installed, in the order of
// their start.
func (a *app) installedServices(ctx context.Context) (services.ServiceManager, []services.Status, error) {
	m, err := a.manager()
	if err != nil {
		return nil, nil, err
	}
	names, err := m.Installed(ctx)
	if err != nil {
		return nil, nil, err
	}
	status, err := m.Status(ctx, names...)
	return m, status, err
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
			text := s.Detail
			if s.Restarts > 0 {
				text = strings.TrimSpace(fmt.Sprintf("started again %d times; %s", s.Restarts, text))
			}
			a.printf("%-16s %-9s %7s %s", s.Name, s.State, pid, strings.TrimSuffix(text, ";"))
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
