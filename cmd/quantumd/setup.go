package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/threefoldtech/quantumd/backend/local"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/services"
	"github.com/threefoldtech/quantumd/services/child"
	"github.com/threefoldtech/quantumd/services/systemd"
)

// manager gives the service manager of this machine: systemd, or supervision
// of our own where none runs.
func (a *app) manager() (services.ServiceManager, error) {
	root := a.globals.Root
	if services.DetectAt("/"+root) == services.Systemd {
		return systemd.New(systemd.Options{Root: root, Target: "qsfs.target"}), nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if installed := filepath.Join(root, "/usr/local/bin/quantumd"); fileExists(installed) {
		self = installed // the supervisor outlives this copy
	}
	dir := filepath.Join(root, "/var/lib/quantumd/services")
	m, err := child.New(child.Options{Dir: dir, Supervisor: []string{self, "supervise"}, Logger: a.logger()})
	if err != nil {
		return nil, &qsfs.PathError{Path: dir, Err: err}
	}
	return m, nil
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

type setupCmd struct{}

// Help says what it does.
func (setupCmd) Help() string {
	return `After ` + "`quantumd deploy`" + `, as root: puts the program in place, makes one service (and one for each
local backend), starts them, and returns when the file system is mounted. A second call changes nothing.`
}

func (setupCmd) Run(ctx context.Context, a *app) error {
	if a.globals.Dir != "" {
		return &usageError{errors.New("setup installs on system paths; a system below --dir runs with `quantumd up`")}
	}
	cfg, err := a.loadConfig(false)
	if errors.Is(err, config.ErrNoConfig) {
		return &codeError{code: exitUsage, err: fmt.Errorf("setup comes after deploy: %w", err)}
	}
	if err != nil {
		return err
	}
	m, err := a.manager()
	if err != nil {
		return err
	}
	p, err := a.provisioner(cfg)
	if err != nil {
		return err
	}
	sys, err := qsfs.Open(ctx, cfg, qsfs.WithLayout(a.layout(cfg)), qsfs.WithProvisioner(p), qsfs.WithLogger(a.logger()))
	if err != nil {
		return err
	}
	o, err := a.setupOptions(cfg, m)
	if err != nil {
		return err
	}
	if lp, ok := p.(*local.Provisioner); ok {
		o.Before = func(program string) ([]services.Service, error) { return lp.Services(program, "zdb") }
		o.Release = lp.Stop
	}
	report, err := sys.Setup(ctx, o)
	if err != nil {
		return err
	}
	return a.print(report, func() {
		for _, c := range report.Changes {
			a.printf("%-7s %s (%s)", c.Action, c.Name, c.Path)
		}
		for name := range o.Secrets {
			a.printf("%s, which came by the environment, is kept in a file of mode 0600 below %s", name, sys.Layout().State)
		}
		if a.globals.DryRun {
			a.printf("nothing was changed")
			return
		}
		a.printf("mounted on %s; see quantumd status", cfg.QSFSMountpoint)
	})
}

func (a *app) setupOptions(cfg *config.Config, m services.ServiceManager) (qsfs.SetupOptions, error) {
	self, err := os.Executable()
	if err != nil {
		return qsfs.SetupOptions{}, err
	}
	o := qsfs.SetupOptions{Manager: m, Root: a.globals.Root, Program: self, Hook: hookProgram, Secrets: map[string]string{}, DryRun: a.globals.DryRun}
	for name, text := range map[string]config.Secret{"mnemonic": cfg.Mnemonic, "password": cfg.Password, "encryption_key": cfg.EncryptionKey} {
		if cfg.Source(name) == config.FromEnvironment {
			o.Secrets[name] = text.Reveal()
		}
	}
	if a.globals.Root != "" {
		o.Daemon = []string{"--root", a.globals.Root}
	}
	if a.globals.Config != "" {
		abs, err := filepath.Abs(a.globals.Config)
		if err != nil {
			return o, err
		}
		o.Daemon = append(o.Daemon, "--config", abs)
	}
	return o, nil
}

type initCmd struct {
	Local   bool `help:"Backends on this machine."`
	Destroy bool `short:"d" help:"Destroy the local backends first."`
}

func (c *initCmd) Run(ctx context.Context, a *app) error {
	if c.Destroy {
		if err := (&destroyCmd{Local: true}).Run(ctx, a); err != nil {
			return err
		}
	}
	if err := (&deployCmd{Local: c.Local}).Run(ctx, a); err != nil {
		return err
	}
	return setupCmd{}.Run(ctx, a)
}

// installedServices lists the names of our services, dependants last.
func (a *app) installedServices(ctx context.Context) (services.ServiceManager, []services.Status, error) {
	m, err := a.manager()
	if err != nil {
		return nil, nil, err
	}
	names := []string{}
	if cfg, err := config.Load(a.configPath(), a.configOptions(true)...); err == nil {
		a.place(cfg)
		if lp := a.localBeside(cfg); lp != nil {
			list, err := lp.List(ctx)
			if err != nil {
				return nil, nil, err
			}
			for _, b := range list {
				names = append(names, local.ServicePrefix+b.ID)
			}
		}
	}
	status, err := m.Status(ctx, append(names, qsfs.ServiceName)...)
	return m, status, err
}

// servicesInstalled says whether setup was run here.
func (a *app) servicesInstalled(ctx context.Context) bool {
	if a.globals.Dir != "" {
		return false
	}
	_, status, err := a.installedServices(ctx)
	return err == nil && len(status) > 0 && status[len(status)-1].State != services.Missing
}

// stopServices stops the system's own service, where it is installed.
func (a *app) stopServices(ctx context.Context) error {
	if !a.servicesInstalled(ctx) {
		return nil
	}
	m, err := a.manager()
	if err != nil {
		return err
	}
	return m.Stop(ctx, qsfs.ServiceName)
}

type startCmd struct{}

// Run starts what setup installed.
func (startCmd) Run(ctx context.Context, a *app) error {
	m, status, err := a.installedServices(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, s := range status {
		if s.State != services.Missing {
			names = append(names, s.Name)
		}
	}
	if len(names) == 0 {
		return errors.New("nothing is installed here; `quantumd setup` does that, `quantumd up` runs without it")
	}
	if a.globals.DryRun {
		a.printf("would start %s", strings.Join(names, ", "))
		return nil
	}
	if err := m.Start(ctx, names...); err != nil {
		return err
	}
	return m.WaitReady(ctx, names...)
}

type servicesCmd struct{}

// Run lists the services.
func (servicesCmd) Run(ctx context.Context, a *app) error {
	_, status, err := a.installedServices(ctx)
	if err != nil {
		return err
	}
	return a.print(struct {
		Schema   int               `json:"schema"`
		Services []services.Status `json:"services"`
	}{1, status}, func() {
		for _, s := range status {
			a.printf("%-16s %-9s %d %s", s.Name, s.State, s.PID, s.Detail)
		}
	})
}

type uninstallCmd struct{}

// Run removes the services and programs, and keeps data and configuration.
func (uninstallCmd) Run(ctx context.Context, a *app) error {
	m, status, err := a.installedServices(ctx)
	if err != nil {
		return err
	}
	var names []string
	for i := len(status) - 1; i >= 0; i-- { // dependants first
		if status[i].State != services.Missing {
			names = append(names, status[i].Name)
		}
	}
	programs := []string{filepath.Join(a.globals.Root, "/usr/local/bin/quantumd-hook"), filepath.Join(a.globals.Root, "/usr/local/bin/quantumd")}
	if a.globals.DryRun {
		a.printf("would remove the services %s and the programs %s; data and configuration stay", strings.Join(names, ", "), strings.Join(programs, ", "))
		return nil
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
	return nil
}
