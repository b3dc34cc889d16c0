package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/qsfs/ongrid"
)

// offlineStatus shows what is known of a system that does not run; nothing
// where nothing ever ran.
func (a *app) offlineStatus(ctx context.Context) error {
	layout := qsfs.LayoutBelow(a.dir())
	if a.globals.Dir == "" {
		cfg, err := config.Load(a.configPath(), a.configOptions(true)...)
		if errors.Is(err, config.ErrNoConfig) {
			return nil
		}
		if err != nil {
			return err
		}
		a.place(cfg)
		layout = a.layout(cfg)
	}
	st, err := qsfs.OfflineStatus(ctx, layout)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return a.print(st, func() { printStatus(a, st) })
}

// size shows bytes with three digits.
func size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, u := float64(n)/1024, 0
	for v >= 1000 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	return fmt.Sprintf("%.3g %ciB", v, units[u])
}

type syncCmd struct {
	Timeout time.Duration `default:"0s" help:"Give up waiting after this long; the upload goes on. 0: wait."`
}

func (c *syncCmd) Run(ctx context.Context, a *app) error {
	cl := a.client()
	if a.globals.DryRun {
		st, err := cl.Status(ctx)
		if err != nil {
			return err
		}
		return a.done("would bring %s to the backends", size(st.LossWindow.Bytes))
	}
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	report, err := cl.Sync(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("not everything is on the backends after %s; the upload goes on (`quantumd status` shows how far)", c.Timeout)
	}
	if err != nil {
		return err
	}
	return a.print(report, func() {
		a.printf("safe: checkpoint %d; %d files, %s stored in %.1f s", report.Checkpoint, report.Files, size(report.Bytes), report.Seconds)
		if report.Degraded {
			a.printf("note: the metadata is on three of four backends")
		}
	})
}

type evictCmd struct {
	Keep config.Size `default:"0" help:"Bytes of local data files to keep."`
}

func (c *evictCmd) Run(ctx context.Context, a *app) error {
	cl := a.client()
	if a.globals.DryRun {
		st, err := cl.Status(ctx)
		if err != nil {
			return err
		}
		return a.done("would drop what is safe of %s", size(st.Cache.Bytes))
	}
	report, err := cl.Evict(ctx, int64(c.Keep))
	if err != nil {
		return err
	}
	return a.print(report, func() {
		a.printf("%d files, %s dropped; %d kept because they are not safe yet or open", report.Files, size(report.Bytes), report.Kept)
	})
}

type queueCmd struct {
	Ls    queueLsCmd    `cmd:"" help:"List them, with what was tried and what comes next."`
	Retry queueRetryCmd `cmd:"" help:"Try every failed upload now."`
}

type queueLsCmd struct {
	Limit int `default:"1000" help:"Most lines."`
}

func (c *queueLsCmd) Run(ctx context.Context, a *app) error {
	cl := a.client()
	list, err := cl.Queue(ctx, c.Limit)
	if err != nil {
		return err
	}
	return a.print(list, func() {
		for _, i := range list.Items {
			next := ""
			if !i.NextTry.IsZero() {
				next = fmt.Sprintf(", tried %d times, next in %s: %s", i.Tries, time.Until(i.NextTry).Round(time.Second), i.Error)
			}
			a.printf("%-9s %10s  %s%s", i.State, size(i.Bytes), i.Path, next)
		}
		a.printf("%d files", len(list.Items))
	})
}

type queueRetryCmd struct{}

func (queueRetryCmd) Run(ctx context.Context, a *app) error {
	cl := a.client()
	if a.globals.DryRun {
		return a.done("would try every failed upload now")
	}
	if err := cl.RetryQueue(ctx); err != nil {
		return err
	}
	return a.done("every failed upload is tried now")
}

type backendsCmd struct {
	Ls backendsLsCmd `cmd:"" help:"List them, with their state."`
}

type backendsLsCmd struct{}

// listedBackend is a backend and, on the grid, what the journal knows of its contract.
type listedBackend struct {
	client.Backend
	Contract *contractView `json:"contract,omitempty"`
}

type contractView struct {
	ID      uint64  `json:"id"`
	Node    uint32  `json:"node"`
	Farm    uint64  `json:"farm"`
	Country string  `json:"country"`
	Size    int64   `json:"size"` // bytes
	USD     float64 `json:"usd"`  // a month, when it was rented
}

func (c *contractView) String() string {
	if c == nil {
		return ""
	}
	return fmt.Sprintf("contract %d, node %d, farm %d, %s, %s, %.3f USD a month", c.ID, c.Node, c.Farm, c.Country, size(c.Size), c.USD)
}

func (backendsLsCmd) Run(ctx context.Context, a *app) error {
	cl := a.client()
	st, err := cl.Status(ctx)
	if err != nil {
		return err
	}
	contracts := a.contracts(ctx)
	list := []listedBackend{}
	for _, b := range st.Backends {
		list = append(list, listedBackend{b, contracts[b.Address+" "+b.Namespace]})
	}
	return a.print(struct {
		Schema   int             `json:"schema"`
		Backends []listedBackend `json:"backends"`
	}{client.SchemaVersion, list}, func() {
		for _, b := range list {
			a.printf("%-8s %-5s %-22s %-8s %-10s %s", b.ID, b.Role, b.Address, b.State, b.Group, strings.TrimSpace(b.Error+" "+b.Contract.String()))
		}
	})
}

// contracts gives those of rented backends, by address and namespace, as the journal
// has them: neither the grid nor the mnemonic is needed.
func (a *app) contracts(ctx context.Context) map[string]*contractView {
	rows, err := ongrid.Rows(ctx, a.layout(config.Default()))
	if err != nil {
		a.notef("what the journal knows of the contracts cannot be read: %v", err)
	}
	out := map[string]*contractView{}
	for _, r := range rows {
		out[r.Address.String()+" "+r.Namespace] = &contractView{r.Contract, r.Node, r.Farm, r.Country, r.Size, r.USD}
	}
	return out
}

type restoreCmd struct {
	Force bool          `help:"Take over from a frontend that was alive a moment ago."`
	Lease time.Duration `hidden:"" default:"0s"`
}

// Help shows examples.
func (restoreCmd) Help() string {
	return `On a new machine, with the configuration of the lost one: on system paths, where it ends
installed and mounted, or below a folder.
  quantumd restore -c config.yaml
  quantumd restore -c config.yaml --dir /srv/q`
}

func (c *restoreCmd) Run(ctx context.Context, a *app) error {
	cfg, err := a.loadConfig(true)
	if err != nil {
		return err
	}
	if err := c.mayInstall(ctx, a, cfg); err != nil {
		return err
	}
	if err := a.findOnGrid(ctx, cfg); err != nil {
		return err
	}
	p, err := a.provisioner(cfg)
	if err != nil {
		return err
	}
	layout := a.layout(cfg)
	if a.globals.DryRun { // the object engine needs a folder, and nothing is to be changed
		if layout.State, err = os.MkdirTemp("", "quantumd-dry-run-"); err != nil {
			return err
		}
		defer os.RemoveAll(layout.State) //nolint:errcheck // a temporary folder
	}
	bars := a.progress()
	sys, err := qsfs.Open(ctx, cfg, qsfs.WithLayout(layout), qsfs.WithProvisioner(p), qsfs.WithLogger(a.logger()),
		qsfs.WithObserver(bars.observe), qsfs.WithLease(c.Lease))
	if err != nil {
		return err
	}
	report, err := sys.Restore(ctx, qsfs.RestoreOptions{Force: c.Force, DryRun: a.globals.DryRun})
	bars.end()
	if err != nil {
		return err
	}
	if !a.globals.DryRun && a.globals.Dir == "" {
		if err := c.install(ctx, a, cfg); err != nil {
			return fmt.Errorf("the tree is here, and its service is not: %w", err)
		}
	}
	return a.print(report, func() {
		a.printf("checkpoint %d of %s: %d index files (%s) are here, %d data files (%s) come as they are read",
			report.Checkpoint, report.Created, report.IndexFiles, size(report.IndexBytes), report.DataFiles, size(report.DataBytes))
		switch {
		case a.globals.DryRun:
			a.printf("nothing was changed")
		case a.globals.Dir != "":
			a.printf("next: quantumd up -c %s --dir %s --mount MOUNTPOINT", a.configPath(), a.globals.Dir)
		default:
			a.printf("mounted on %s; see quantumd status", cfg.QSFSMountpoint)
		}
	})
}

// mayInstall finds out before anything is taken over whether the restored
// system could be installed.
func (c *restoreCmd) mayInstall(ctx context.Context, a *app, cfg *config.Config) error {
	if a.globals.Dir != "" {
		return nil
	}
	if err := a.mustNotRun(ctx, a.layout(cfg)); err != nil {
		return err
	}
	return (&deployCmd{}).mayInstall(a, cfg)
}

// install makes a restored system on system paths this machine's own: its
// configuration, its service, its mount.
func (c *restoreCmd) install(ctx context.Context, a *app, cfg *config.Config) error {
	raw, err := config.Load(a.configPath(), a.configOptions(true)...)
	if err != nil {
		return err
	}
	found := len(raw.Backends) == 0 && len(cfg.Backends) > 0
	if found {
		raw.Backends = cfg.Backends
	}
	if found || !sameFile(a.configPath(), a.target()) {
		if err := writeConfig(a.target(), raw); err != nil {
			return err
		}
	}
	installed := *a
	installed.globals.Config = ""
	installed.environ = append(slices.Clone(a.environ), "QUANTUMD_CONFIG=")
	_, _, err = installed.setup(ctx, "", false, false)
	return err
}
