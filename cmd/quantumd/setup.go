package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/local"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/qsfs/takeover"
	"github.com/threefoldtech/quantumd/services"
	"github.com/threefoldtech/quantumd/services/child"
	"github.com/threefoldtech/quantumd/services/systemd"
	"github.com/threefoldtech/quantumd/services/zinit"
)

// secretVariables are those of the environment that hold a secret. What this
// command needs of them it has read already.
var secretVariables = []string{"MNEMONIC", "PASSWORD", "QUANTUMD_MNEMONIC", "QUANTUMD_PASSWORD", "QUANTUMD_ENCRYPTION_KEY", "QUANTUMD_BACKENDS"}

// manager gives the service manager of this machine: systemd, zinit, or
// supervision of our own where none runs.
func (a *app) manager() (services.ServiceManager, error) {
	root := a.globals.Root
	switch services.DetectAt("/" + root) {
	case services.Systemd:
		return systemd.New(systemd.Options{Root: root, Target: "qsfs.target"}), nil
	case services.Zinit:
		return zinit.New(zinit.Options{Root: root, Logger: a.logger()}), nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if installed := qsfs.ProgramPath(root, self); fileExists(installed) {
		self = installed // the supervisor outlives this copy
	}
	dir := filepath.Join(root, "/var/lib/quantumd/services")
	for _, name := range secretVariables {
		_ = os.Unsetenv(name) // supervisors inherit what is here; services get secrets as credentials
	}
	defer missingFolders(dir)() // child.New makes them; what needs them makes them again
	m, err := child.New(child.Options{Dir: dir, Supervisor: []string{self, "supervise"}, Logger: a.logger()})
	if err != nil {
		return nil, &qsfs.PathError{Path: dir, Err: err}
	}
	return m, nil
}

// missingFolders gives what removes those folders of a path that are not there
// now, should they be there, and empty, then.
func missingFolders(path string) (undo func()) {
	var missing []string
	for ; !fileExists(path) && path != filepath.Dir(path); path = filepath.Dir(path) {
		missing = append(missing, path)
	}
	return func() {
		for _, p := range missing { // the innermost first
			_ = os.Remove(p) // not empty: somebody else's by now
		}
	}
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

type setupCmd struct {
	From  string `placeholder:"DIR|URL" help:"Take the programs of external components from this folder or mirror."`
	Force bool   `help:"Install although the doctor finds problems."`
}

// Help says what it does.
func (setupCmd) Help() string {
	return `After ` + "`quantumd deploy`" + `, as root: puts the program in place, makes one service (and one for each
local backend), starts them, and returns when the file system is mounted. A second call changes nothing.

Where engine says external, zdb, zstor and zdbfs are fetched, verified and run as services too. Without internet
a folder or mirror has them, as NAME or NAME-VERSION-ARCH, with SHA256SUMS if you like:
  quantumd setup --from /media/usb
  quantumd setup --from https://mirror.example/qsfs`
}

func (c setupCmd) Run(ctx context.Context, a *app) error {
	report, cfg, err := a.setup(ctx, c.From, c.Force, false)
	if err != nil {
		return err
	}
	return a.printSetup(report, cfg)
}

func (a *app) printSetup(report *qsfs.SetupReport, cfg *config.Config) error {
	if report == nil {
		return nil // all is said: a takeover's dry run
	}
	return a.print(report, func() {
		for _, c := range report.Changes {
			a.printf("%-7s %s%s", c.Action, c.Name, inBrackets(c.Path))
		}
		a.printPrograms(report.Programs)
		for _, name := range report.Reloaded {
			a.printf("reload  %s", name)
		}
		for _, name := range report.Restarted {
			a.printf("restart %s", name)
		}
		if a.globals.DryRun {
			a.printf("nothing was changed")
			return
		}
		a.printf("mounted on %s; see quantumd status", cfg.QSFSMountpoint)
	})
}

func inBrackets(path string) string {
	if path == "" {
		return ""
	}
	return " (" + path + ")"
}

// setup installs the system and returns when it is mounted; an older installation
// is taken over. The doctor is asked before, unless it is forced; tolerate warns
// of keys that this version does not know.
func (a *app) setup(ctx context.Context, from string, force, tolerate bool) (*qsfs.SetupReport, *config.Config, error) {
	if a.globals.Dir != "" {
		return nil, nil, &usageError{errors.New("setup installs on system paths; a system below --dir runs with `quantumd up`")}
	}
	older, err := a.older(ctx)
	if err != nil {
		return nil, nil, err
	}
	if older != nil {
		return a.takeOver(ctx, older, from, force)
	}
	return a.install(ctx, from, force, tolerate)
}

func (a *app) install(ctx context.Context, from string, force, tolerate bool) (*qsfs.SetupReport, *config.Config, error) {
	cfg, err := a.loadConfig(tolerate)
	if errors.Is(err, config.ErrNoConfig) {
		return nil, nil, &codeError{code: exitUsage, err: fmt.Errorf("setup comes after deploy: %w", err)}
	}
	if err != nil {
		return nil, nil, err
	}
	if !force {
		if err := a.ready(ctx, cfg, a.layout(cfg)); err != nil {
			return nil, nil, err
		}
	}
	m, err := a.manager()
	if err != nil {
		return nil, nil, err
	}
	p, err := a.provisioner(cfg)
	if err != nil {
		return nil, nil, err
	}
	opts := []qsfs.Option{qsfs.WithLayout(a.layout(cfg)), qsfs.WithProvisioner(p), qsfs.WithLogger(a.logger())}
	if os.Geteuid() == 0 {
		opts = append(opts, qsfs.WithAllowOther()) // as the daemon: of an external zdbfs
	}
	sys, err := qsfs.Open(ctx, cfg, opts...)
	if err != nil {
		return nil, nil, err
	}
	o, err := a.setupOptions(cfg, m)
	if err != nil {
		return nil, nil, err
	}
	bars := a.progress()
	defer bars.end()
	if o.Binaries, err = a.installer(cfg, from, bars); err != nil {
		return nil, nil, err
	}
	if lp, ok := p.(*local.Provisioner); ok {
		o.Before = func(program string) ([]services.Service, error) { return lp.Services(qsfs.ServiceName, program, "zdb") }
		o.Release = func(ctx context.Context, names []string) error {
			for i, n := range names {
				names[i] = strings.TrimPrefix(n, local.ServicePrefix)
			}
			if len(names) == 0 {
				return nil
			}
			return lp.Stop(ctx, names...)
		}
		o.Await = func(ctx context.Context, name string) error {
			return awaitBackend(ctx, lp, strings.TrimPrefix(name, local.ServicePrefix))
		}
	}
	o.Observe = bars.observe
	report, err := sys.Setup(ctx, o)
	if err == nil && !a.globals.DryRun {
		for name := range o.Secrets {
			a.notef("%s, which came by the environment, is kept in a file of mode 0600 below %s", name, sys.Layout().State)
		}
	}
	return report, cfg, err
}

// awaitBackend returns when a backend that was restarted does its work. It has
// its port a moment before it tells that it is the one who has it, so that one
// look may find the port taken.
func awaitBackend(ctx context.Context, p *local.Provisioner, id string) error {
	for {
		err := p.Start(ctx, id)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (a *app) setupOptions(cfg *config.Config, m services.ServiceManager) (qsfs.SetupOptions, error) {
	self, err := os.Executable()
	if err != nil {
		return qsfs.SetupOptions{}, err
	}
	o := qsfs.SetupOptions{Manager: m, Root: a.globals.Root, Program: self, Hook: hookProgram, Secrets: map[string]string{}, DryRun: a.globals.DryRun,
		After: takeover.LocalBackends(a.globals.Root, services.DetectAt("/"+a.globals.Root))}
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
	if a.globals.Dir != "" {
		return &usageError{errors.New("init installs on system paths; below --dir use `quantumd up`")}
	}
	if c.Destroy {
		if err := (&destroyCmd{Local: true}).Run(ctx, a); err != nil {
			return err
		}
	}
	if err := (&deployCmd{Local: c.Local, Meta: backend.MetaBackends}).Run(ctx, a); err != nil {
		return err
	}
	err := setupCmd{}.Run(ctx, a)
	if a.globals.DryRun && errors.Is(err, config.ErrNoConfig) {
		return a.done("setup would install what deploy has made")
	}
	return err
}
