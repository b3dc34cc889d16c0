package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

type uninstallCmd struct {
	Force   bool          `help:"Also when something that was written is not on the backends."`
	Purge   bool          `help:"Data, state and configuration too, and what local backends hold."`
	Name    string        `placeholder:"NAME" help:"With --purge and --yes: the name that would have to be typed."`
	Timeout time.Duration `default:"10m" help:"How long to wait for what was written to be on the backends."`
}

// Help says what goes and what stays.
func (uninstallCmd) Help() string {
	return `Removes services, programs, sockets, secrets that setup has stored, and the mountpoint that it
has made. Configuration (the key is in it), state, logs and the frontend's data stay, and the
backends' as well; setup brings all of it back. Refused while something that was written is
not on the backends.

  quantumd uninstall --dry-run
  quantumd uninstall --purge`
}

func (c *uninstallCmd) Run(ctx context.Context, a *app) error {
	if err := a.noServicesBelowDir(); err != nil {
		return err
	}
	m, err := a.manager()
	if err != nil {
		return err
	}
	cfg, err := a.configOrDefaults()
	if err != nil {
		a.notef("the configuration cannot be read, its defaults count: %v", err)
	}
	p := a.progress()
	defer p.end()
	o := qsfs.UninstallOptions{Manager: m, Root: a.globals.Root, Layout: a.layout(cfg), Mountpoint: cfg.QSFSMountpoint,
		Observe: p.observe, Patience: c.Timeout, Force: c.Force, Purge: c.Purge, DryRun: true}
	plan, err := qsfs.Uninstall(ctx, o)
	if err != nil {
		return err
	}
	if len(plan.Services)+len(plan.Files) == 0 {
		return errNotInstalled
	}
	if a.globals.DryRun {
		return a.print(plan, func() { a.uninstallPlan(plan) })
	}
	if err := c.mayUninstall(a, cfg, plan); err != nil {
		return err
	}
	if o.Binaries, err = a.removable(cfg); err != nil {
		return err
	}
	o.DryRun = false
	report, err := qsfs.Uninstall(ctx, o)
	if err != nil {
		return err
	}
	return a.print(report, func() {
		a.printf("removed: %s", strings.Join(append(report.Services, report.Files...), ", "))
		if len(report.Kept) > 0 {
			a.printf("data and configuration stay: %s", strings.Join(report.Kept, ", "))
		}
	})
}

func (a *app) uninstallPlan(r *qsfs.UninstallReport) {
	for _, s := range r.Services {
		a.printf("stop and remove the service %s", s)
	}
	for _, f := range r.Files {
		a.printf("remove %s", f)
	}
	for _, f := range r.Kept {
		a.printf("keep   %s", f)
	}
	a.printf("nothing was changed")
}

// mayUninstall asks. What is lost for good needs a name.
func (c *uninstallCmd) mayUninstall(a *app, cfg *config.Config, plan *qsfs.UninstallReport) error {
	if !c.Purge {
		return a.confirm("Remove the services and programs? Data and configuration stay.", "")
	}
	name := cfg.DeploymentName
	if name == "" {
		name = cfg.QSFSMountpoint
	}
	for _, f := range plan.Files {
		a.notef("%s is deleted", f)
	}
	if a.globals.Yes {
		if c.Name == name {
			return nil
		}
		return &usageError{fmt.Errorf("--purge deletes data and keys for good: give --name %s as well", name)}
	}
	return a.confirm("Delete all of this, with the key? Without a copy of the configuration nothing on the backends can be read again.", name)
}
