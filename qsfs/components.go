package qsfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/threefoldtech/quantumd/engine/zdb"
	"github.com/threefoldtech/quantumd/qsfs/binaries"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/services"
)

// Names of the services of external components on a machine: zdb, zstor and
// zdbfs are those of older installations.
const (
	ZdbServiceName   = "qsfs-zdb"
	ZstorServiceName = "qsfs-zstor"
	ZdbfsServiceName = "qsfs-zdbfs"
)

// ComponentServices names the services that an installed system may have, in
// the order in which they start. Those of local backends come before them.
func ComponentServices() []string {
	return []string{ZstorServiceName, ServiceName, ZdbServiceName, ZdbfsServiceName}
}

func isComponent(service string) bool { return slices.Contains(ComponentServices(), service) }

// externalNames are the external components as [binaries.Table] names them.
func (s *System) externalNames() []string {
	var out []string
	for _, c := range []struct {
		kind config.EngineKind
		name string
	}{{s.cfg.Engine.Zdb, zdbService}, {s.cfg.Engine.Zstor, zstorService}, {s.cfg.Engine.Zdbfs, zdbfsService}} {
		if c.kind == config.External {
			out = append(out, c.name)
		}
	}
	return out
}

// planPrograms says which programs Setup would fetch.
func (s *System) planPrograms(ctx context.Context, o SetupOptions) ([]binaries.Item, error) {
	names := s.externalNames()
	switch {
	case len(names) == 0:
		return nil, nil
	case o.Binaries == nil:
		return nil, &MissingProgramError{Component: names[0]}
	}
	return o.Binaries.Plan(ctx, names...)
}

// installPrograms puts the programs of external components in place, and names
// the services whose program is another one now.
func (s *System) installPrograms(ctx context.Context, o SetupOptions, report *SetupReport) ([]string, error) {
	names := s.externalNames()
	if len(names) == 0 {
		return nil, nil
	}
	items, err := o.Binaries.Install(ctx, names...)
	if err != nil {
		return nil, err
	}
	report.Programs = items
	var changed []string
	for _, it := range items {
		if it.Changed {
			changed = append(changed, installedName(it.Name))
		}
	}
	return changed, nil
}

func installedName(component string) string {
	return map[string]string{zdbService: ZdbServiceName, zstorService: ZstorServiceName, zdbfsService: ZdbfsServiceName}[component]
}

// outdated says whether a service runs another file than the one that is
// installed: a setup that was interrupted may have put that in place.
func outdated(st services.Status, program string) bool {
	runs, err := os.Stat(fmt.Sprintf("/proc/%d/exe", st.PID))
	if st.PID == 0 || err != nil {
		return false
	}
	is, err := os.Stat(program)
	return err == nil && !os.SameFile(runs, is)
}

// drainLimit bounds what runs before a service is stopped, below its own limit.
const drainLimit = 9 * time.Minute

// componentServices describes the services of external components and the place
// of the daemon among them: zstor, daemon, zdb, zdbfs. zdb comes after the
// daemon, for its start asks that by its hooks, and is stopped before it.
//
// What is stopped first has everything brought to the backends before: zdbfs
// while all others serve; else zdb, by the end of the daemon that mounts: what
// that still has in memory can go nowhere without a zdb.
func (s *System) componentServices(o SetupOptions, program string, daemon services.Service) []services.Service {
	p := Programs{Hook: o.hook()}
	for name, into := range map[string]*string{zdbService: &p.Zdb, zstorService: &p.Zstor, zdbfsService: &p.Zdbfs} {
		*into = filepath.Join(o.Root, ProgramDir, name)
	}
	place := slices.Concat(o.Daemon, []string{"--log-level", "error"})
	ours := func(words ...string) []string { return slices.Concat([]string{program}, words, place) }
	seconds := func(d time.Duration) string { return fmt.Sprint(d) }
	out := []services.Service{daemon}
	for _, c := range s.ExternalServices(p) {
		component := c.Name
		c.Name, c.After = installedName(component), nil
		c.RuntimeDir = "qsfs" // whoever comes first makes the folder of the sockets
		switch component {
		case zstorService:
			c.Before = nil
			c.ReloadSignal, c.StopTimeout = syscall.SIGUSR1, 15*time.Minute
			out[0].After = append(out[0].After, c.Name)
			out = slices.Insert(out, 0, c)
			continue
		case zdbService:
			c.After = []string{ServiceName}
			c.Writable = append(c.Writable, s.layout.HookSpool()) // of its hooks
			c.WaitExec = ours("wait", "zdb", "--at", s.layout.ZdbSocket(), "--timeout", "4m30s")
			c.StopTimeout = 10 * time.Minute
			if s.cfg.Engine.Zdbfs != config.External {
				c.StopExec = ours("drain", "--timeout", seconds(drainLimit))
			}
		case zdbfsService:
			c.After = []string{ZdbServiceName}
			c.WaitExec = ours("wait", "mount", "--at", s.cfg.QSFSMountpoint, "--timeout", "4m30s")
			c.StopExec = ours("sync", "--timeout", seconds(drainLimit))
			c.StopTimeout = 10 * time.Minute
			c.Unconfined, c.RuntimeDir = false, ""
		}
		out = append(out, c)
	}
	return out
}

// readyByCommand is a service manager that does not know sd_notify, as zinit.
type readyByCommand interface {
	ReadyByCommand() bool
}

// waitDaemon is the command that ends when the daemon has come as far as it
// tells by sd_notify: it serves, or, where a zdb is started after it, takes hooks.
func (s *System) waitDaemon(o SetupOptions, program string) []string {
	words := []string{program, "wait"}
	if s.cfg.Engine.Zdb == config.External {
		words = append(words, "hooks", "--at", s.layout.HookSocket())
	}
	return slices.Concat(words, []string{"--timeout", "4m30s"}, o.Daemon, []string{"--log-level", "error"})
}

// WaitHooks returns when a daemon listens on its socket for hooks.
func WaitHooks(ctx context.Context, socket string) error {
	for {
		if err := dials(ctx, socket, startPatience); err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
	}
}

// writeDaemonConfig writes the config file of an external zstor, which is
// started before the daemon. While that runs, it does so itself.
func (s *System) writeDaemonConfig(ctx context.Context) error {
	if s.cfg.Engine.Zstor != config.External {
		return nil
	}
	asking, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	if _, err := client.New(s.layout.ControlSocket()).Status(asking); err == nil {
		if _, err := os.Stat(s.layout.Zstor); err == nil {
			return nil
		}
	}
	return s.WriteZstorConfig(ctx, s.layout.Zstor)
}

// ZdbMayStart is closed when an external zdb that somebody else runs is waited
// for: its hooks are answered from then on. A service manager is told that the
// daemon is ready at that moment, for it starts the zdb after it. Where nobody
// else runs a zdb it is never closed.
func (s *System) ZdbMayStart() <-chan struct{} { return s.zdbMayStart }

// WaitZdb returns when the zdb on a socket serves the namespaces of a file
// system.
func WaitZdb(ctx context.Context, socket string) error {
	admin := zdb.DialAdmin(socket, "", zdb.Options{Timeout: startPatience})
	defer admin.Close() //nolint:errcheck // only asked
	for {
		err := func() error {
			asking, cancel := context.WithTimeout(ctx, startPatience)
			defer cancel()
			if err := admin.Ping(asking); err != nil {
				return err
			}
			for _, name := range []string{metaSpace, dataSpace} {
				if _, err := admin.Info(asking, name); err != nil {
					return fmt.Errorf("namespace %s: %w", name, err)
				}
			}
			return nil
		}()
		if err == nil {
			return nil
		}
		if !wait(ctx, 50*time.Millisecond) {
			return fmt.Errorf("the zdb on %s does not serve: %w", socket, errors.Join(ctx.Err(), err))
		}
	}
}

// WaitZdbfs returns when an external zdbfs has mounted path.
func WaitZdbfs(ctx context.Context, path string) error {
	for !mountedAs(path, "fuse.zdbfs") {
		if !wait(ctx, 50*time.Millisecond) {
			return fmt.Errorf("zdbfs has not mounted %s: %w", path, ctx.Err())
		}
	}
	return nil
}
