package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/binaries"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// installer brings the programs of external components to this machine. from is
// a folder or mirror; empty: each from its own URL.
func (a *app) installer(cfg *config.Config, from string, bars *progress) (*binaries.Installer, error) {
	lock, err := filepath.Abs(binaries.LockPath(a.configPath()))
	if err != nil {
		return nil, err
	}
	if from != "" {
		if from, err = binaries.ParseFrom(from); err != nil {
			return nil, &usageError{fmt.Errorf("--from: %w", err)}
		}
	}
	pinned := map[string]binaries.Source{}
	for name, b := range cfg.Binaries {
		pinned[name] = binaries.Source{URL: b.URL, SHA256: b.SHA256}
	}
	return binaries.New(binaries.Options{
		Dir: filepath.Join(a.globals.Root, qsfs.ProgramDir), Lock: lock, From: from, Pinned: pinned, Logger: a.logger(),
		Confirm: func(_ context.Context, list []binaries.Trust) error {
			bars.pause()
			for _, line := range trustLines(list) {
				a.notef("%s", line)
			}
			return a.confirm(fmt.Sprintf("%s from there will run as root on this machine. Trust the hashes above from now on (%s)?", several(len(list), "program", "programs"), lock), "")
		},
		Progress: func(p binaries.Progress) {
			if p.Step == "fetch" {
				bars.observe(qsfs.Progress{Op: "setup", Step: "fetch " + p.Name, Done: p.Done, Total: p.Total, Unit: "bytes"})
			}
		},
	})
}

func several(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// trustLines show what is about to be trusted.
func trustLines(list []binaries.Trust) []string {
	var out []string
	for _, t := range list {
		out = append(out, fmt.Sprintf("%s %s, %s, from %s", t.Name, either(t.Version, "(the version that the configuration names)"), size(t.Size), t.URL), "  SHA-256 "+t.SHA256)
	}
	return out
}

type binariesCmd struct {
	From string `placeholder:"DIR|URL" help:"Look at this folder or mirror, not at the makers' releases."`
}

// Help shows examples.
func (binariesCmd) Help() string {
	return `The programs of external components: what is wanted, what is installed, and whether it is what was
trusted. setup fetches them where engine says external; the hashes come from the configuration or from the lock
file beside it.
  quantumd binaries
  quantumd binaries --json
  quantumd setup --from /media/usb          # files zdb, zstor, zdbfs, and SHA256SUMS if there is one`
}

// Run lists them.
func (c *binariesCmd) Run(ctx context.Context, a *app) error {
	cfg, err := a.loadConfig(true)
	if errors.Is(err, config.ErrNoConfig) {
		cfg, err = config.Default(), nil
	}
	if err != nil {
		return err
	}
	in, err := a.installer(cfg, c.From, a.progress())
	if err != nil {
		return err
	}
	items, err := in.List(ctx)
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, e := range externalComponents(cfg) {
		used[e.name] = true
	}
	type row struct {
		binaries.Item
		Used bool `json:"used"` // the configuration says external
	}
	rows := []row{}
	for _, it := range items {
		rows = append(rows, row{it, used[it.Name]})
	}
	return a.print(struct {
		Schema   int   `json:"schema"`
		Programs []row `json:"programs"`
	}{client.SchemaVersion, rows}, func() {
		a.printf("%-6s %-10s %-10s %-9s %-8s %s", "NAME", "WANTED", "INSTALLED", "STATE", "ENGINE", "SHA-256")
		for _, r := range rows {
			engine := string(config.Embedded)
			if r.Used {
				engine = string(config.External)
			}
			a.printf("%-6s %-10s %-10s %-9s %-8s %s", r.Name, either(r.Wanted, "any"), either(r.Version, "-"), r.State, engine, either(r.Found, "-"))
		}
	})
}

// printPrograms says what was done, or would be, about programs.
func (a *app) printPrograms(items []binaries.Item) {
	for _, it := range items {
		switch {
		case it.Changed:
			a.printf("fetched %s %s (%s)", it.Name, either(it.Version, it.Wanted), it.Path)
		case it.Problem != "" && a.globals.DryRun:
			a.printf("missing %s: %s", it.Name, it.Problem)
		case it.Fetch && a.globals.DryRun:
			a.printf("fetch   %s %s from %s (%s)", it.Name, it.Wanted, it.URL, either(it.SHA256, "not trusted yet: its hash will be shown"))
		default:
			a.printf("keep    %s %s (%s)", it.Name, it.Wanted, it.Path)
		}
	}
}

// removable gives what takes away the programs that setup fetched.
func (a *app) removable(cfg *config.Config) (*binaries.Installer, error) {
	cfg = cfg.Clone()
	for name, b := range cfg.Binaries { // one that is wrong must not keep the rest here
		if _, err := binaries.New(binaries.Options{Dir: "/", Lock: "/", Pinned: map[string]binaries.Source{name: {URL: b.URL, SHA256: b.SHA256}}}); err != nil {
			delete(cfg.Binaries, name)
		}
	}
	return a.installer(cfg, "", a.progress())
}

type drainCmd struct {
	Timeout time.Duration `default:"9m" help:"How long to wait."`
}

// Run is what runs before an external zdb is stopped, where the daemon has the
// mount: the daemon ends, with all that it holds in memory brought to the zdb and
// to the backends. Its service manager starts it again, unless it is to be
// stopped as well, and it waits for the zdb. Without a zdb that serves there is
// nothing that could be brought anywhere.
func (c *drainCmd) Run(ctx context.Context, a *app) error {
	layout := qsfs.SystemLayout(a.globals.Root, config.Default())
	asking, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := qsfs.WaitZdb(asking, layout.ZdbSocket()); err != nil {
		return nil //nolint:nilerr // as the comment says
	}
	if _, err := a.client().Status(asking); errors.Is(err, client.ErrNotRunning) {
		return nil
	}
	return (&draining{Timeout: c.Timeout}).stopRunning(ctx, a)
}

// waitAt waits for one external component, at its socket or mountpoint. ok is
// false where what is asked for is not outside of the daemon.
func (a *app) waitAt(ctx context.Context, what, at string) (ok bool, err error) {
	if what == "ready" {
		return false, nil
	}
	if at == "" {
		cfg, err := config.Load(a.configPath(), a.configOptions(true)...)
		if err != nil {
			return false, nil //nolint:nilerr // the daemon, which runs with it, knows
		}
		a.place(cfg)
		switch {
		case what == "zdb" && cfg.Engine.Zdb == config.External:
			at = a.layout(cfg).ZdbSocket()
		case what == "mount" && cfg.Engine.Zdbfs == config.External:
			at = cfg.QSFSMountpoint
		case what == "hooks":
			at = a.layout(cfg).HookSocket()
		default:
			return false, nil
		}
	}
	switch what {
	case "zdb":
		return true, qsfs.WaitZdb(ctx, at)
	case "hooks":
		return true, qsfs.WaitHooks(ctx, at)
	}
	return true, qsfs.WaitZdbfs(ctx, at)
}

// stopZdbfs is what a fenced daemon does about a zdbfs that is a service: what
// that takes is stored nowhere.
func (a *app) stopZdbfs(ctx context.Context) error {
	m, err := a.manager()
	if err != nil {
		return err
	}
	list, err := m.Installed(ctx)
	if err != nil || !slices.Contains(list, qsfs.ZdbfsServiceName) {
		return err
	}
	return m.Stop(ctx, qsfs.ZdbfsServiceName)
}
