package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/qsfs/takeover"
	"github.com/threefoldtech/quantumd/services"
)

// older finds an installation of before; nil when there is none. Once this
// program's services are installed, services with such names are somebody else's.
func (a *app) older(ctx context.Context) (*takeover.Takeover, error) {
	if a.servicesInstalled(ctx) {
		return takeover.Begun(a.globals.Root)
	}
	return takeover.Find(a.globals.Root, services.DetectAt("/"+a.globals.Root))
}

// takeOver replaces an older installation by this one, with its data in place.
func (a *app) takeOver(ctx context.Context, t *takeover.Takeover, from string, force bool) (*qsfs.SetupReport, *config.Config, error) {
	plan, err := t.Derive()
	if err != nil {
		return nil, nil, err
	}
	text, err := plan.Config.Marshal()
	if err != nil {
		return nil, nil, err
	}
	if a.globals.DryRun {
		return nil, nil, a.printTakeover(t, plan)
	}
	for _, line := range takeoverLines(t, plan) {
		a.notef("%s", line)
	}
	if err := a.confirm("Take over this installation? Its file system is away for a moment; its data stays where it is.", ""); err != nil {
		return nil, nil, err
	}
	m, err := a.manager()
	if err != nil {
		return nil, nil, err
	}
	var report *qsfs.SetupReport
	var cfg *config.Config
	err = t.Run(ctx, takeover.Options{
		Manager: m, Config: text, Path: a.configPath(), Logf: a.notef,
		Fetch:   func(ctx context.Context) error { return a.bringBack(ctx, plan) },
		Prepare: func(ctx context.Context) error { return a.adopt(ctx, plan) },
		Install: func(ctx context.Context) (err error) {
			report, cfg, err = a.install(ctx, from, force, false)
			return err
		},
	})
	return report, cfg, err
}

// planned is the system that a takeover makes.
func (a *app) planned(ctx context.Context, plan *takeover.Plan) (*qsfs.System, error) {
	cfg := plan.Config.Clone()
	a.place(cfg)
	return qsfs.Open(ctx, cfg, qsfs.WithLayout(a.layout(cfg)), qsfs.WithLogger(a.logger()))
}

// bringBack has everything on the disk that the older programs may ask for.
func (a *app) bringBack(ctx context.Context, plan *takeover.Plan) error {
	sys, err := a.planned(ctx, plan)
	if err != nil {
		return err
	}
	r, err := sys.BringBack(ctx)
	if r != nil && r.Files > 0 {
		a.notef("%d data files (%s) are on the disk again", r.Files, size(r.Bytes))
	}
	if err != nil && r != nil {
		err = fmt.Errorf("%d files are left, such as %w", r.Left, err)
	}
	return err
}

// adopt asks the backends what they hold of the older installation's files.
func (a *app) adopt(ctx context.Context, plan *takeover.Plan) error {
	sys, err := a.planned(ctx, plan)
	if err != nil {
		return err
	}
	a.notef("asking the backends what they hold of its files")
	r, err := sys.Adopt(ctx, plan.ObjectRoot)
	if err != nil {
		return err
	}
	a.notef("%d closed data files: %d are on the backends (%d of them only there), %d are uploaded after the takeover", r.Files, r.Stored, r.Remote, r.Upload)
	if r.Mend > 0 {
		a.notef("%d files are damaged on this machine's disk; the good copy is brought back when it is needed", r.Mend)
	}
	if r.LostAt > 0 {
		a.notef("%d files are neither here nor on the backends, and were lost before: %s", r.LostAt, strings.Join(r.Lost, ", "))
	}
	return nil
}

// takeoverLines say what a takeover does.
func takeoverLines(t *takeover.Takeover, plan *takeover.Plan) []string {
	what := map[string]string{takeover.Scripts: "the shell scripts", takeover.Earlier: "an earlier quantumd"}[t.Era]
	var names []string
	for _, u := range t.Units {
		names = append(names, u.Name)
	}
	c := plan.Config
	lines := []string{
		fmt.Sprintf("an installation of %s is here: the services %s (%s)", what, strings.Join(names, ", "), t.Manager),
		fmt.Sprintf("its data stays in %s, and is mounted on %s again", t.Root, t.Mountpoint),
		fmt.Sprintf("its key, and its %d backends (%d of %d shards), are in %s", len(c.Backends), c.MinShards, c.ExpectedShards, t.Zstor),
		"its services are stopped, and removed once this program serves; what they were is kept for `quantumd upgrade --undo-takeover`",
	}
	if t.Step != "" {
		lines = append(lines, "an earlier takeover was interrupted, and goes on")
	}
	return append(lines, plan.Notes...)
}

func (a *app) printTakeover(t *takeover.Takeover, plan *takeover.Plan) error {
	type unit struct {
		Name string `json:"name"`
		Path string `json:"path"`
	}
	units := []unit{}
	for _, u := range t.Units {
		units = append(units, unit{u.Name, u.Path})
	}
	keys := []config.Shown{}
	for _, k := range plan.Config.Show() {
		if k.Source == config.FromFile {
			keys = append(keys, k)
		}
	}
	return a.print(struct {
		Schema     int            `json:"schema"`
		DryRun     bool           `json:"dry_run"`
		Era        string         `json:"era"`
		Units      []unit         `json:"units"`
		Root       string         `json:"root"`
		Mountpoint string         `json:"mountpoint"`
		Zstor      string         `json:"zstor"`
		Config     []config.Shown `json:"config"`
		Notes      []string       `json:"notes"`
	}{client.SchemaVersion, true, t.Era, units, t.Root, t.Mountpoint, t.Zstor, keys, plan.Notes}, func() {
		for _, line := range takeoverLines(t, plan) {
			a.printf("%s", line)
		}
		for _, k := range keys {
			a.printf("  %s: %v", k.Key, k.Value)
		}
		a.printf("nothing was changed")
	})
}

// drainBefore bounds the wait for the backends before the way back.
const drainBefore = 10 * time.Minute

// undoTakeover brings the older installation back.
func (a *app) undoTakeover(ctx context.Context) error {
	t, err := takeover.Taken(a.globals.Root)
	if err != nil {
		return err
	}
	if t == nil {
		return &usageError{errors.New("no older installation was taken over here")}
	}
	var names []string
	for _, u := range t.Units {
		names = append(names, u.Name)
	}
	if a.globals.DryRun {
		return a.done("would remove the services of this program, and bring back %s", strings.Join(names, ", "))
	}
	if err := a.confirm("Bring the older installation back?", ""); err != nil {
		return err
	}
	m, err := a.manager()
	if err != nil {
		return err
	}
	if a.servicesInstalled(ctx) { // what is on the backends can be read by whoever comes
		if err := (&draining{Timeout: drainBefore}).drain(ctx, a, nil); err != nil {
			return err
		}
	}
	plan, err := t.Derive()
	if err != nil {
		return err
	}
	fetch := func(ctx context.Context) error { return a.bringBack(ctx, plan) }
	if err := t.Undo(ctx, takeover.Options{Manager: m, Logf: a.notef, Fetch: fetch}); err != nil {
		return err
	}
	return a.done("the older services run again: %s", strings.Join(names, ", "))
}
