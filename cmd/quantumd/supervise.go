package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/threefoldtech/quantumd/services/child"
)

type superviseCmd struct{}

// Help says what it is for.
func (superviseCmd) Help() string {
	return `The one program of a container in which setup was run: starts every service in order, hands SIGHUP to each,
and at SIGTERM stops them in the opposite order.
  quantumd supervise`
}

// Run is a container's one program.
func (superviseCmd) Run(ctx context.Context, a *app) error {
	if err := a.noServicesBelowDir(); err != nil {
		return err
	}
	m, err := a.manager()
	if err != nil {
		return err
	}
	own, ok := m.(*child.Manager)
	if !ok {
		return &usageError{errors.New("a service manager runs here: it starts the services, also after a reboot")}
	}
	names, err := own.Installed(ctx)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return errNotInstalled
	}
	if a.globals.DryRun {
		return a.done("would run %s", strings.Join(names, ", "))
	}
	reload, done := onHangup()
	defer done()
	return own.Run(ctx, reload)
}

// onHangup gives a value for each SIGHUP.
func onHangup() (<-chan struct{}, func()) {
	signals, reload, ended := make(chan os.Signal, 1), make(chan struct{}, 1), make(chan struct{})
	signal.Notify(signals, syscall.SIGHUP)
	go func() {
		defer close(ended)
		for range signals {
			select {
			case reload <- struct{}{}:
			default: // one is waiting
			}
		}
	}()
	return reload, func() {
		signal.Stop(signals)
		close(signals)
		<-ended
	}
}

// ofOneService tells the arguments of a supervisor from those of the command.
func ofOneService(args []string) bool {
	return len(args) == 2 && !strings.HasPrefix(args[0], "-")
}

// runSupervise is the process behind a service where no service manager runs. It
// hands SIGHUP to the service as its reload signal.
func runSupervise(ctx context.Context, a *app, args []string) int {
	m, err := child.New(child.Options{Dir: args[0], Logger: a.logger()})
	if err != nil {
		return a.fail(err)
	}
	reload, done := onHangup()
	defer done()
	ctx, cancel := context.WithCancel(ctx)
	told := make(chan struct{})
	go func() {
		defer close(told)
		for {
			select {
			case <-ctx.Done():
				return
			case <-reload:
				if err := m.Reload(ctx, args[1]); err != nil {
					a.notef("%v", err)
				}
			}
		}
	}()
	err = child.Supervise(ctx, args[0], args[1], a.logger())
	cancel()
	<-told
	if err != nil {
		return a.fail(err)
	}
	return exitDone
}
