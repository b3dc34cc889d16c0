package qsfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/services"
)

// stale lists the services that an earlier setup installed and this one does
// not want: components that are embedded now, and local backends that are
// retired. Where no backends of this machine are in use, theirs are left alone.
func (s *System) stale(ctx context.Context, o SetupOptions, list []services.Service) ([]string, error) {
	installed, err := o.Manager.Installed(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(installed, func(name string) bool {
		wanted := slices.ContainsFunc(list, func(one services.Service) bool { return one.Name == name })
		component := isComponent(name)
		return wanted || !component && (o.Before == nil || !strings.HasPrefix(name, "qsfs-"))
	}), nil
}

// convergence has a machine run what was installed: it starts what does not
// run, restarts what runs something older, and nothing else.
type convergence struct {
	sys   *System
	o     SetupOptions
	list  []services.Service
	stale []string
}

func (c convergence) run(ctx context.Context, renewed []string, report *SetupReport) error {
	old, idle, err := c.look(ctx, renewed)
	if err != nil {
		return err
	}
	report.Restarted = append(report.Restarted, old...)
	if err := c.restartBackends(ctx, old); err != nil {
		return err
	}
	if err := c.stopComponents(ctx, old); err != nil {
		return err
	}
	if len(idle) > 0 && c.o.Release != nil {
		if err := c.o.Release(ctx, idle); err != nil {
			return fmt.Errorf("take over the local backends: %w", err)
		}
	}
	if err := c.serve(ctx); err != nil {
		return err
	}
	if len(c.stale) > 0 { // last: until then they are the way back
		if err := c.o.Manager.Remove(ctx, c.stale...); err != nil {
			return err
		}
	}
	if slices.Contains(old, ServiceName) {
		return nil
	}
	return c.reconfigure(ctx, report)
}

// plan says what run would restart and have read its configuration again, and
// changes nothing. Whether a key that was changed needs a restart only the daemon
// knows, which holds the older configuration.
func (c convergence) plan(ctx context.Context, report *SetupReport) error {
	var changed []string
	for _, it := range report.Programs {
		if it.Fetch {
			changed = append(changed, installedName(it.Name))
		}
	}
	if !c.o.packaged() && exists(c.o.program()) {
		same, err := sameContent(c.o.Program, c.o.program())
		if err != nil {
			return err
		}
		report.Replaced = !same
	}
	old, _, err := c.look(ctx, append(changed, renewed(report.Changes, c.list, c.o.program(), report.Replaced)...))
	if err != nil {
		return err
	}
	report.Restarted = append(report.Restarted, old...)
	if slices.Contains(old, ServiceName) {
		return nil
	}
	asking, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	st, err := client.New(c.sys.layout.ControlSocket()).Status(asking)
	if err != nil {
		return nil //nolint:nilerr // it does not run
	}
	file, err := os.Stat(c.sys.cfg.File())
	switch {
	case len(st.Configuration.Restart) > 0:
		report.Restarted = append(report.Restarted, ServiceName)
	case err == nil && !st.Configuration.Read.IsZero() && file.ModTime().After(st.Configuration.Read):
		report.Reloaded = append(report.Reloaded, ServiceName)
	}
	return nil
}

func (c convergence) names() []string {
	var names []string
	for _, one := range c.list {
		names = append(names, one.Name)
	}
	return names
}

// serve starts what does not run, and returns when the system serves.
func (c convergence) serve(ctx context.Context) error {
	if err := c.o.Manager.Start(ctx, c.names()...); err != nil {
		return err
	}
	if err := WaitServices(ctx, c.o.Manager, c.names()...); err != nil {
		return err
	}
	return c.sys.awaitServing(ctx)
}

// look finds which services run something older, and which backends none runs.
func (c convergence) look(ctx context.Context, renewed []string) (old, idle []string, err error) {
	status, err := c.o.Manager.Status(ctx, c.names()...)
	if err != nil {
		return nil, nil, err
	}
	for n, st := range status {
		runs := st.State == services.Active || st.State == services.Starting
		if runs && (slices.Contains(renewed, st.Name) || outdated(st, c.list[n].Exec[0])) {
			old = append(old, st.Name)
		}
		if st.State != services.Active && !isComponent(st.Name) {
			idle = append(idle, st.Name)
		}
	}
	return old, idle, nil
}

// awaitLimit bounds the wait for one backend after its restart.
const awaitLimit = time.Minute

// restartBackends restarts one after the other, so that the system goes on.
func (c convergence) restartBackends(ctx context.Context, old []string) error {
	for _, name := range old {
		if isComponent(name) {
			continue
		}
		if err := c.o.Manager.Restart(ctx, name); err != nil {
			return err
		}
		if err := WaitServices(ctx, c.o.Manager, name); err != nil {
			return err
		}
		if c.o.Await == nil {
			continue
		}
		waiting, cancel := context.WithTimeout(ctx, awaitLimit)
		err := c.o.Await(waiting, name)
		cancel()
		if err != nil {
			return fmt.Errorf("%s does not answer after its restart, and the others were left alone: %w", name, err)
		}
	}
	return nil
}

// stopComponents stops what is restarted or not wanted, dependants first, after
// what was written is on the backends, or drainLimit.
func (c convergence) stopComponents(ctx context.Context, old []string) error {
	var names []string
	for _, n := range slices.Concat(old, c.stale) {
		if isComponent(n) {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		return nil
	}
	draining, cancel := context.WithTimeout(ctx, drainLimit)
	defer cancel()
	// What cannot be brought there now is brought there after the restart.
	if err := Drain(draining, client.New(c.sys.layout.ControlSocket()), c.o.Observe); ctx.Err() != nil {
		return errors.Join(ctx.Err(), err)
	}
	err := c.o.Manager.Stop(ctx, names...)
	if services.Ended(err) && err != nil {
		c.sys.log.Warn("a service had to be killed", "err", err)
		return nil
	}
	return err
}

// reconfigure has a daemon that runs on read a configuration that was changed
// since it read it, and restarts it where that is not enough.
func (c convergence) reconfigure(ctx context.Context, report *SetupReport) error {
	cl := client.New(c.sys.layout.ControlSocket())
	st, err := cl.Status(ctx)
	if err != nil {
		return err
	}
	file, err := os.Stat(c.sys.cfg.File())
	if err != nil || st.Configuration.Read.IsZero() || !file.ModTime().After(st.Configuration.Read) && len(st.Configuration.Restart) == 0 {
		return nil //nolint:nilerr // no file: nothing that could have changed
	}
	if file.ModTime().After(st.Configuration.Read) {
		report.Reloaded = append(report.Reloaded, ServiceName)
		if err := c.o.Manager.Reload(ctx, ServiceName); err != nil {
			return err
		}
		if st, err = awaitReload(ctx, cl, file.ModTime()); err != nil {
			return err
		}
	}
	if len(st.Configuration.Restart) == 0 {
		return nil
	}
	report.Restarted = append(report.Restarted, ServiceName)
	if err := c.stopComponents(ctx, []string{ServiceName}); err != nil {
		return err
	}
	return c.serve(ctx)
}

// awaitReload returns when the daemon has read a configuration of a time or
// later.
func awaitReload(ctx context.Context, cl *client.Client, changed time.Time) (*client.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		st, err := cl.Status(ctx)
		if err != nil {
			return nil, err
		}
		if st.Configuration.Refused != "" {
			return nil, fmt.Errorf("the daemon refuses the configuration, and goes on with the older one: %s", st.Configuration.Refused)
		}
		if !st.Configuration.Read.Before(changed) {
			return st, nil
		}
		if !wait(ctx, 50*time.Millisecond) {
			return nil, fmt.Errorf("the daemon does not read its configuration again: %w", ctx.Err())
		}
	}
}
