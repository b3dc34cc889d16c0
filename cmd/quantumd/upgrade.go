package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/binaries"
)

type upgradeCmd struct {
	UndoTakeover bool `help:"Bring back the older installation that was taken over."`

	From string `placeholder:"DIR|URL" help:"Take the programs of external components from this folder or mirror."`
}

// Help says what it does.
func (upgradeCmd) Help() string {
	return `Run the new program with it: it checks the installed configuration, takes the place of the older
program, which is kept beside it as quantumd.old, and restarts what runs that: local backends one
after the other, then the daemon, after what was written is on the backends. Should it not serve,
the older program is put back and started.

An installation of the shell scripts, or of an earlier quantumd, is taken over: its data stays where
it is, its services are stopped and, once this one serves, removed; what they were is kept below
/var/lib/quantumd/takeover, and --undo-takeover brings them back.

  ./quantumd upgrade --dry-run
  ./quantumd upgrade`
}

func (c upgradeCmd) Run(ctx context.Context, a *app) error {
	if err := a.noServicesBelowDir(); err != nil {
		return err
	}
	if c.UndoTakeover {
		return a.undoTakeover(ctx)
	}
	older, err := a.older(ctx)
	if err != nil {
		return err
	}
	if older == nil && !a.servicesInstalled(ctx) {
		return errNotInstalled
	}
	report, cfg, err := a.setup(ctx, c.From, false, true)
	if err != nil && older == nil && report != nil && report.Replaced {
		return errors.Join(fmt.Errorf("the new version does not serve: %w", err), a.wayBack(ctx))
	}
	if err != nil {
		return err
	}
	return a.printSetup(report, cfg)
}

// wayBack puts the older program back and has it set up what it knows.
func (a *app) wayBack(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	program := qsfs.ProgramPath(a.globals.Root, self)
	if err := os.Rename(program+binaries.OldSuffix, program); err != nil {
		return fmt.Errorf("the older program cannot be put back: %w", err)
	}
	a.notef("the older program is put back and started")
	args := []string{"setup", "--force", "--yes"}
	if a.globals.Root != "" {
		args = append(args, "--root", a.globals.Root)
	}
	if a.globals.Config != "" {
		args = append(args, "--config", a.globals.Config)
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), program, args...) // a Ctrl-C must not leave nothing running
	cmd.Env = a.environ
	cmd.Stdout, cmd.Stderr = a.stderr, a.stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the older program is in place, and does not serve either: %w", err)
	}
	a.notef("the older program serves again")
	return nil
}
