package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

type upCmd struct {
	Local       bool          `help:"With backends on this machine: made when missing, started, and stopped at the end."`
	Mount       string        `placeholder:"DIR" help:"Where to mount. Else qsfs_mountpoint, or DIR/mnt with --dir."`
	NoMount     bool          `help:"Serve without a mount."`
	AllowOther  bool          `help:"Let other users use the mount."`
	StopTimeout time.Duration `default:"5m" help:"How long the end may take to bring what was written to the backends."`
	Lease       time.Duration `hidden:"" default:"0s" help:"Lease of the epoch; shorter ones are for demonstrations."`
}

// Help shows examples.
func (upCmd) Help() string {
	return `Everything in one process tree, below one folder:
  quantumd up --local --dir /srv/q --mount /mnt/q
With backends that run already:
  quantumd up -c config.yaml --dir /srv/q --mount /mnt/q`
}

func (c *upCmd) Run(ctx context.Context, a *app) error {
	if a.globals.Dir == "" && os.Geteuid() != 0 && a.globals.Root == "" {
		home := a.stateHome()
		if !filepath.IsAbs(home) {
			return &usageError{errors.New("there is no home folder to keep a system in: name a folder with --dir")}
		}
		a.globals.Dir = filepath.Join(home, "quantumd")
	}
	if err := a.mustNotRun(ctx, a.layout(config.Default())); err != nil {
		return err
	}
	if a.globals.DryRun {
		return c.dryRun(ctx, a)
	}
	cfg, stopBackends, err := c.prepare(ctx, a)
	if err != nil {
		return errors.Join(err, stopBackends())
	}
	if c.Mount != "" {
		if cfg.QSFSMountpoint, err = filepath.Abs(c.Mount); err != nil {
			return errors.Join(err, stopBackends())
		}
	}
	r := &runner{app: a, cfg: cfg, noMount: c.NoMount, allowOther: c.AllowOther, lease: c.Lease, drain: c.StopTimeout, children: true}
	return errors.Join(r.run(ctx), stopBackends())
}

func (a *app) stateHome() string {
	if s := a.getenv("XDG_STATE_HOME"); s != "" {
		return s
	}
	return filepath.Join(a.getenv("HOME"), ".local", "state")
}

// prepare gives the configuration and what stops, with --local, those backends
// that were not running before.
func (c *upCmd) prepare(ctx context.Context, a *app) (*config.Config, func() error, error) {
	if !c.Local {
		cfg, err := a.loadConfig(true)
		return cfg, func() error { return nil }, err
	}
	d := deployCmd{Local: true}
	cfg, _, err := d.local(ctx, a)
	return cfg, func() error {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if len(d.started) == 0 {
			return nil // all of them ran before
		}
		return d.backends.Stop(stopping, d.started...)
	}, err
}

// dryRun says what would be begun.
func (c *upCmd) dryRun(ctx context.Context, a *app) error {
	if c.Local {
		_, _, err := (&deployCmd{Local: true}).local(ctx, a)
		return err
	}
	cfg, err := a.loadConfig(true)
	if err != nil {
		return err
	}
	where := c.Mount
	if where == "" {
		where = cfg.QSFSMountpoint
	}
	return a.done("would run the system of %s, mounted on %s", a.configPath(), where)
}

type daemonCmd struct{}

// Help shows examples.
func (daemonCmd) Help() string {
	return `Runs until SIGTERM; the service that setup made does just this.
  quantumd
  RETRY_INTERVAL=5m quantumd`
}

func (daemonCmd) Run(ctx context.Context, a *app) error {
	cfg, err := a.loadConfig(true)
	if err != nil {
		return err
	}
	if a.globals.DryRun {
		return a.done("would run the system of %s, mounted on %s", a.configPath(), cfg.QSFSMountpoint)
	}
	r := &runner{app: a, cfg: cfg, drain: 5 * time.Minute, allowOther: os.Geteuid() == 0}
	return r.run(ctx)
}

// runner runs one system in the foreground.
type runner struct {
	app        *app
	cfg        *config.Config
	noMount    bool
	allowOther bool
	lease      time.Duration
	drain      time.Duration
	children   bool // external components run as children of this process
}

func (r *runner) run(ctx context.Context) error {
	a := r.app
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	p, err := a.provisioner(r.cfg)
	if err != nil {
		return err
	}
	bars := a.progress()
	defer bars.end()
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	opts := []qsfs.Option{qsfs.WithLayout(a.layout(r.cfg)), qsfs.WithProvisioner(p), qsfs.WithLogger(a.logger()),
		qsfs.WithObserver(bars.observe), qsfs.WithRegisterer(registry), qsfs.WithVersion(version()),
		qsfs.WithLogLevel(a.setLevel), qsfs.WithStop(stop), qsfs.WithLease(r.lease), qsfs.WithDrainTime(r.drain)}
	if r.children {
		external, err := a.external(r.cfg, a.layout(r.cfg))
		if err != nil {
			return err
		}
		opts = append(opts, external...)
	} else {
		opts = append(opts, qsfs.WithStopZdbfs(a.stopZdbfs))
	}
	if r.noMount {
		opts = append(opts, qsfs.WithoutMount())
	}
	if r.allowOther {
		opts = append(opts, qsfs.WithAllowOther())
	}
	sys, err := qsfs.Open(ctx, r.cfg, opts...)
	if err != nil {
		return err
	}
	closeWeb := r.serveWeb(sys, registry)
	ended := make(chan error, 1)
	go func() { ended <- sys.Run(ctx) }()
	select {
	case err := <-ended:
		return errors.Join(err, closeWeb())
	case <-sys.Ready():
	case <-sys.ZdbMayStart(): // a service manager starts it once it was told
	}
	told := make(chan struct{})
	go func() {
		defer close(told)
		newNotifier(a, sys, r.reload, stop).run(ctx)
	}()
	greeted := make(chan struct{})
	go func() {
		defer close(greeted)
		select {
		case <-sys.Ready():
			r.greet(sys)
		case <-ctx.Done():
		}
	}()
	err = <-ended
	stop()
	<-told
	<-greeted
	return errors.Join(err, closeWeb())
}

// reload reads the configuration again, as it was read at the start.
func (r *runner) reload() (*config.Config, error) {
	cfg, err := r.app.loadConfig(true)
	if err == nil {
		cfg.QSFSMountpoint = r.cfg.QSFSMountpoint // perhaps of --mount
	}
	return cfg, err
}

// greet says where everything is.
func (r *runner) greet(sys *qsfs.System) {
	a := r.app
	where := "mounted on " + r.cfg.QSFSMountpoint
	if r.noMount {
		where = "up, without a mount"
	}
	flags := ""
	if a.globals.Dir != "" {
		flags = " --dir " + a.globals.Dir
	}
	a.notef("%s", where)
	a.notef("status: quantumd status%s", flags)
	a.notef("sync:   quantumd sync%s", flags)
	a.notef("stop:   Ctrl-C, or quantumd stop%s", flags)
}

type waitCmd struct {
	What    string        `arg:"" optional:"" enum:"ready,mount,zdb,hooks" default:"ready" help:"What to wait for: ready, mount, zdb or hooks."`
	Timeout time.Duration `default:"5m" help:"How long to wait."`
	At      string        `hidden:"" help:"Socket or mountpoint of an external component."`
}

// Run returns when the system serves.
func (c *waitCmd) Run(ctx context.Context, a *app) error {
	cl := a.client()
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if outside, err := a.waitAt(ctx, c.What, c.At); outside || err != nil {
		return err
	}
	if err := cl.WaitReady(ctx); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("%s: not within %s; `quantumd status` tells why", c.What, c.Timeout)
		}
		return err
	}
	return nil
}

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(a *app) error {
	return a.print(map[string]any{"schema": 1, "version": version()}, func() { a.printf("quantumd %s", strings.TrimSpace(version())) })
}
