package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// draining is what stop and restart have in common.
type draining struct {
	All     bool          `short:"a" help:"The local backends too."`
	Timeout time.Duration `default:"10m" help:"How long to wait, first for what was written to be on the backends, then for the end."`
	NoDrain bool          `help:"Do not wait for what was written: what is not on the backends comes there after the next start."`
}

// drain brings what was written to the backends while the system goes on. What
// cannot be brought there is said, and is no reason not to stop: it is on this
// machine's disk.
func (d *draining) drain(ctx context.Context, a *app, names []string) error {
	if d.NoDrain || len(names) > 0 && !slices.ContainsFunc(qsfs.ComponentServices(), func(n string) bool { return slices.Contains(names, n) }) {
		return nil
	}
	p := a.progress()
	defer p.end()
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	err := qsfs.Drain(ctx, a.client(), p.observe)
	switch {
	case err == nil, errors.Is(err, client.ErrNotRunning):
		return nil
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("not stopped: %w", err)
	}
	a.notef("not everything is on the backends (%v); the stop goes on", err)
	return nil
}

type stopCmd struct {
	Services []string `arg:"" optional:"" name:"service" help:"Those to stop; else the system, and not its backends."`
	draining
}

// Help says what the exit code tells.
func (stopCmd) Help() string {
	return `Waits until what was written is on the backends, with progress, then ends the system.
Exit code 0: stopped, all is on the backends. 3: stopped, something is only on this
machine, and comes to the backends after the next start. 1: not stopped.

  quantumd stop --timeout 2m`
}

// Run ends the system and waits until it is gone. Local backends that services
// run go on.
func (c *stopCmd) Run(ctx context.Context, a *app) error {
	if a.globals.Dir != "" || !a.servicesInstalled(ctx) {
		if len(c.Services) > 0 || c.All {
			return errors.Join(a.noServicesBelowDir(), errNotInstalled)
		}
		if !a.globals.DryRun {
			if err := c.drain(ctx, a, nil); err != nil {
				return err
			}
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
	if err := c.drain(ctx, a, names); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if err := m.Stop(ctx, names...); err != nil {
		return err
	}
	if !slices.Contains(names, qsfs.ServiceName) {
		return a.done("stopped: %s", strings.Join(names, ", "))
	}
	if err := a.mustNotRun(ctx, qsfs.SystemLayout(a.globals.Root, config.Default())); err != nil {
		return c.stopRunning(ctx, a) // `quantumd up` in a terminal, beside the stopped service
	}
	return a.stopped(ctx, "stopped: "+strings.Join(names, ", "))
}

// stopRunning ends a system that runs in a terminal.
func (c *draining) stopRunning(ctx context.Context, a *app) error {
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
			return a.stopped(ctx, "stopped")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the system has not ended within %s; it goes on", c.Timeout)
		case <-tick.C:
		}
	}
}

// stopped reports the end, and by the exit code whether all is safe.
func (a *app) stopped(ctx context.Context, text string) error {
	cfg, _ := a.configOrDefaults() // the place of the files is what counts
	unsynced, err := qsfs.Unsynced(ctx, a.layout(cfg))
	if err == nil && unsynced.Bytes == 0 {
		return a.done("%s", text)
	}
	if err == nil {
		err = fmt.Errorf("%s; %d data files (%s), such as %s, are only on this machine, and come to the backends after the next start", text, unsynced.Files, size(unsynced.Bytes), strings.Join(unsynced.Paths, ", "))
	} else {
		err = fmt.Errorf("%s; whether all is on the backends cannot be told: %w", text, err)
	}
	return &codeError{code: exitDegraded, err: err}
}

type restartCmd struct {
	Services []string `arg:"" optional:"" name:"service" help:"Those to restart; else the system, and not its backends."`
	draining
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
	if err := c.drain(ctx, a, names); err != nil {
		return err
	}
	if err := m.Restart(ctx, names...); err != nil {
		return err
	}
	if err := qsfs.WaitServices(ctx, m, names...); err != nil {
		return err
	}
	return a.done("restarted: %s", strings.Join(names, ", "))
}
