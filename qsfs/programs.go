package qsfs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb"
	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/engine/zstor/remote"
	"github.com/threefoldtech/quantumd/hooks"
	"github.com/threefoldtech/quantumd/internal/durable"
	"github.com/threefoldtech/quantumd/internal/glob"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/services"
)

// Programs are the real programs of external components, as absolute paths; of
// embedded ones they are not looked at.
type Programs struct {
	Zdb, Zstor, Zdbfs string
	Hook              string // quantumd-hook, which an external zdb runs
}

// Names of the services of external components.
const (
	zdbService   = "zdb"
	zstorService = "zstor"
	zdbfsService = "zdbfs"
)

// WithPrograms has the system start external components, and stop them at the
// end: with m, which runs them again when they end. Without it somebody else
// runs them (see [System.ExternalServices]), and the system waits for them.
func WithPrograms(m services.ServiceManager, p Programs) Option {
	return func(o *options) { o.manager, o.programs = m, p }
}

// WithStopZdbfs has stop called when another frontend has taken over and an
// external zdbfs is run by somebody else: it is to end that, for what it writes
// is stored nowhere.
func WithStopZdbfs(stop func(context.Context) error) Option {
	return func(o *options) { o.stopZdbfs = stop }
}

// tempSpace is the namespace where a zdbfs keeps blocks of files that are
// written at random places; tempPassword is the one that it expects there.
const (
	tempSpace    = "zdbfs-temp"
	tempPassword = "hello"
)

// ZdbSocket is where an external zdb listens: a folder of mode 0700 lets nobody
// else in, so it needs no password, which would stand in its arguments.
func (l Layout) ZdbSocket() string { return socketPath(l.Run, "zdb.sock") }

// ExternalServices are the services of external components in the order in
// which they start; the daemon itself comes before zdbfs. A real zdb does not
// get `--rotate`: the daemon closes files, and a switch that comes just before
// one of its own would leave an empty pair, whose first id the real zdb does not
// find.
func (s *System) ExternalServices(p Programs) []services.Service {
	var out []services.Service
	l := s.layout
	if s.cfg.Engine.Zstor == config.External {
		out = append(out, services.Service{Name: zstorService, Description: "zstor of a QSFS",
			Exec:     []string{p.Zstor, "--log_file", filepath.Join(l.Logs, "zstor.log"), "-c", l.Zstor, "monitor"},
			Dir:      l.State,
			Writable: []string{l.Root, l.State, l.Logs, filepath.Dir(l.ZstorSocket())}})
	}
	if s.cfg.Engine.Zdb == config.External {
		command := []string{p.Zdb, "--data", l.DataDir(), "--index", l.IndexDir(), "--socket", l.ZdbSocket()}
		if mode, err := s.zdbMode(); err != nil || mode == server.Sequential { // an unreadable folder zdb tells of itself
			command = append(command, "--mode", "seq")
		}
		out = append(out, services.Service{Name: zdbService, Description: "zdb of a QSFS",
			Exec: append(command, "--datasize", strconv.FormatInt(int64(s.cfg.ZdbDataSize), 10), "--sync", "--hook", p.Hook),
			Env:  []string{hooks.SocketEnv + "=" + l.HookSocket()}, // beside it the daemon leaves the rest
			// Its hooks tell the daemon that it ends: they are not to be killed with it.
			Kill: services.KillProcess, SuccessExit: []int{143, 130}, StopTimeout: time.Minute,
			Writable: []string{l.DataDir(), l.IndexDir(), filepath.Dir(l.ZdbSocket())}})
	}
	if s.cfg.Engine.Zdbfs == config.External {
		o := fmt.Sprintf("unix=%s,size=%d,fsname=quantumd,subtype=zdbfs", l.ZdbSocket(), s.treeSize())
		if s.opts.allowOther {
			o += ",allow_other"
		}
		out = append(out, services.Service{Name: zdbfsService, Description: "zdbfs of a QSFS", After: []string{zdbService},
			Exec: []string{p.Zdbfs, "-o", o, s.cfg.QSFSMountpoint}, Mountpoint: s.cfg.QSFSMountpoint, StopTimeout: time.Minute, Unconfined: true})
	}
	return out
}

// startProgram has the service manager start one external component. Without a
// manager somebody else does.
func (s *System) startProgram(ctx context.Context, name string, stops *stopStack) error {
	m := s.opts.manager
	if m == nil {
		return nil
	}
	for _, one := range s.ExternalServices(s.opts.programs) {
		if one.Name != name {
			continue
		}
		if err := checkProgram(name, one.Exec[0]); err != nil {
			return err
		}
		one.After = nil // it is started in order
		if err := os.MkdirAll(s.layout.Logs, 0o700); err != nil {
			return &PathError{Path: s.layout.Logs, Err: err}
		}
		if _, err := m.Apply(ctx, []services.Service{one}); err != nil {
			return err
		}
		if err := m.Start(ctx, name); err != nil {
			return err
		}
		stops.push(func() error { return s.stopProgram(ctx, name) })
	}
	return nil
}

func (s *System) stopProgram(ctx context.Context, name string) error {
	if s.opts.manager == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	return s.opts.manager.Stop(ctx, name)
}

// MissingProgramError says that an external component has no program here.
type MissingProgramError struct {
	Component, Path string
	Err             error
}

func (e *MissingProgramError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("engine.%s is external, and no %s is found", e.Component, e.Component)
	}
	return fmt.Sprintf("engine.%s is external, and %s cannot be run: %v", e.Component, e.Path, e.Err)
}

func (e *MissingProgramError) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *MissingProgramError) Hint() string {
	return fmt.Sprintf("`quantumd setup` brings %[1]s to system paths; `quantumd up` takes it from PATH or %[2]s_BIN; or write `engine: embedded`", e.Component, strings.ToUpper(e.Component))
}

func checkProgram(component, path string) error {
	if path == "" {
		return &MissingProgramError{Component: component}
	}
	st, err := os.Stat(path)
	if err == nil && (st.IsDir() || st.Mode().Perm()&0o111 == 0) {
		err = errors.New("not a program")
	}
	if err != nil {
		return &MissingProgramError{component, path, err}
	}
	return nil
}

// startZstor starts the daemon of an external zstor. A store waits for it in the
// queue, so that nothing here does.
func (s *System) startZstor(ctx context.Context, stops *stopStack) error {
	if s.cfg.Engine.Zstor != config.External {
		return nil
	}
	if err := s.sweepLandings(); err != nil {
		return err
	}
	if err := s.startProgram(ctx, zstorService, stops); err != nil {
		return err
	}
	if err := dials(ctx, s.layout.ZstorSocket(), startPatience); err != nil {
		s.log.Warn("the zstor daemon does not answer yet; uploads wait for it", "socket", s.layout.ZstorSocket(), "err", err)
	}
	if r, ok := s.objects.(*remote.Remote); ok && s.opts.manager == nil {
		s.tellZstor(ctx, r, stops)
	}
	return nil
}

// tellZstor has a zstor daemon that ran before this one read its config file
// again, as soon as it listens: the set of backends may be another one since.
func (s *System) tellZstor(ctx context.Context, r *remote.Remote, stops *stopStack) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for r.Tell(ctx) != nil {
			if !wait(ctx, time.Second) {
				return
			}
		}
	}()
	stops.push(func() error {
		cancel()
		<-done
		return nil
	})
}

// dials returns when somebody listens on a socket.
func dials(ctx context.Context, socket string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var d net.Dialer
	for {
		c, err := d.DialContext(ctx, "unix", socket)
		if err == nil {
			return c.Close()
		}
		if !wait(ctx, 50*time.Millisecond) {
			return err
		}
	}
}

// sweepLandings removes what a zstor daemon put down for a request that was
// given up: files named like objects beside the data files.
func (s *System) sweepLandings() error {
	for _, name := range []string{metaSpace, dataSpace} {
		for _, dir := range []string{filepath.Join(s.layout.DataDir(), name), filepath.Join(s.layout.IndexDir(), name)} {
			found, err := filepath.Glob(filepath.Join(glob.Escape(dir), "*@*.*"))
			if err != nil {
				return err
			}
			for _, path := range found {
				if err := durable.RemoveIfThere(path); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// startExternalZdb starts the zdb, or waits for the one that somebody else
// starts, and makes the namespaces.
func (s *System) startExternalZdb(ctx context.Context, stops *stopStack) error {
	admin := zdb.DialAdmin(s.layout.ZdbSocket(), "", zdb.Options{Timeout: 5 * time.Minute, Logger: s.log})
	stops.push(admin.Close)
	for _, p := range s.spaces {
		p.ns = s.newExternalSpace(p.name, admin)
	}
	s.events.open()
	if err := s.startProgram(ctx, zdbService, stops); err != nil {
		return err
	}
	if s.opts.manager == nil {
		close(s.zdbMayStart)
	}
	if err := s.awaitZdb(ctx, admin); err != nil {
		return err
	}
	for _, p := range s.spaces {
		if err := zdb.EnsureNamespace(ctx, admin, zdb.NamespaceSpec{Name: p.name, Sequential: true}); err != nil {
			return fmt.Errorf("namespace %s: %w", p.name, err)
		}
		conn := zdb.DialAddress(s.layout.ZdbSocket(), p.name, "", zdb.Options{Logger: s.log})
		stops.push(conn.Close)
		p.records = connRecords{conn, s.beforeChange}
		if err := p.countLocal(ctx, 0); err != nil {
			return err
		}
	}
	if s.cfg.Engine.Zdbfs != config.External {
		return nil
	}
	// It is no part of what is stored: a restore makes it anew.
	return zdb.EnsureNamespace(ctx, admin, zdb.NamespaceSpec{Name: tempSpace, Sequential: true, Password: backend.Secret(tempPassword)})
}

// awaitZdb returns when the zdb serves. One that this system started has a
// minute; one of somebody else's may come when it will, and needs this daemon
// for its ready hook.
func (s *System) awaitZdb(ctx context.Context, admin *zdb.Admin) error {
	said := false
	for began := time.Now(); ; {
		asking, cancel := context.WithTimeout(ctx, startPatience)
		err := admin.Ping(asking)
		cancel()
		if err == nil {
			return nil
		}
		if s.opts.manager != nil && time.Since(began) > time.Minute {
			return fmt.Errorf("zdb does not serve: %w", err)
		}
		if !said && time.Since(began) > startPatience {
			said = true
			s.log.Warn("waiting for zdb", "socket", s.layout.ZdbSocket(), "err", err)
		}
		if s.opts.manager == nil && s.fence.Fenced() != nil {
			s.setState(client.StateFenced) // its ready hook is refused: it will not come
		}
		if !wait(ctx, 50*time.Millisecond) {
			if s.opts.manager == nil {
				return errNoZdbYet
			}
			return errors.Join(ctx.Err(), err)
		}
	}
}

// errNoZdbYet says that a system was stopped while it waited for the zdb of
// somebody else: it holds nothing, and this is a clean end.
var errNoZdbYet = errors.New("stopped before zdb came")

// externalEvent handles what only a zdb in another process tells.
func (s *System) externalEvent(ctx context.Context, e hooks.Event) error {
	if s.cfg.Engine.Zdb != config.External {
		return nil
	}
	switch e.Kind {
	case hooks.NamespacesInit:
		var errs []error
		for _, p := range s.spaces {
			errs = append(errs, p.ns.(*externalSpace).starting(ctx, s.fetching.fetch))
		}
		return errors.Join(errs...)
	case hooks.JumpIndex:
		p, _, err := s.eventFile(e.Index, "i", s.layout.IndexDir())
		if err != nil || p == nil {
			return err
		}
		return p.ns.(*externalSpace).jumped(e)
	case hooks.NamespaceClosing:
		if s.check.space(e.Namespace) != nil {
			s.check.soonIf()
		}
	}
	return nil
}
