package local

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/threefoldtech/quantumd/services"
)

// ServicePrefix begins the name of each backend's service.
const ServicePrefix = "qsfs-"

// ServiceName is the name of a backend's service.
func ServiceName(id string) string { return ServicePrefix + id }

// Services describes the backends below the folder as services of a service
// manager, each to be started before the service `before`. program and args
// stand before zdb's own arguments, as in [Command].
func (p *Provisioner) Services(before, program string, args ...string) ([]services.Service, error) {
	instances, err := loadAll(p.dir)
	if err != nil {
		return nil, err
	}
	var out []services.Service
	for _, i := range instances {
		out = append(out, i.service(before, program, args))
	}
	return out, nil
}

func (i Instance) service(before, program string, args []string) services.Service {
	return services.Service{
		Name:        ServiceName(i.ID),
		Description: "QSFS local backend " + i.ID,
		Exec:        slices.Concat([]string{program}, args, zdbArgs(i)),
		Dir:         i.Dir,
		Before:      []string{before},
		Writable:    []string{i.Dir},
		SuccessExit: []int{130, 143}, // zdb ends so after a signal
	}
}

// AsServices runs each zdb as a service of m, which starts it with the machine,
// and before the service `before`: the way of an installed system. One that
// [Command] has started is seen, and can be stopped, but not started again so.
func AsServices(m services.ServiceManager, before, program string, args ...string) Launcher {
	return &asServices{command: command{path: program, args: args}, manager: m, before: before}
}

type asServices struct {
	command // knows processes by their pid files, whoever started them
	manager services.ServiceManager
	before  string
}

// start returns when the zdb has written its pid file, or has failed.
func (l *asServices) start(ctx context.Context, i Instance) error {
	name := ServiceName(i.ID)
	if _, err := l.manager.Apply(ctx, []services.Service{i.service(l.before, l.path, l.args)}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := l.manager.Start(ctx, name); err != nil {
		return err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for first := -1; ; {
		if _, runs := l.running(i); runs {
			return nil
		}
		list, err := l.manager.Status(ctx, name)
		if err != nil {
			return err
		}
		if first < 0 {
			first = list[0].Restarts // of an earlier life
		}
		if list[0].State == services.Failed || list[0].Restarts > first+1 {
			return &services.FailedError{Status: list[0]}
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("service %s does not come up (%s)", name, list[0].State), ctx.Err())
		case <-tick.C:
		}
	}
}

// stop stops the service, and what runs outside of it.
func (l *asServices) stop(ctx context.Context, i Instance) error {
	err := l.manager.Stop(ctx, ServiceName(i.ID))
	if err != nil && !errors.Is(err, services.ErrNotFound) {
		return err
	}
	return l.command.stop(ctx, i)
}

// forget removes the service of a backend that is retired.
func (l *asServices) forget(ctx context.Context, i Instance) error {
	return l.manager.Remove(ctx, ServiceName(i.ID))
}
