package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/local"
	"github.com/threefoldtech/quantumd/internal/durable"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/qsfs/ongrid"
)

type deployCmd struct {
	Local bool `help:"Backends on this machine, as processes that run on."`
	Query bool `short:"q" help:"List the backends that there are, and make none."`
	Meta  int  `default:"4" help:"With --local: metadata backends (always 4)."`
	Data  int  `default:"0" help:"With --local: data backends; 0: expected_shards."`
	Force bool `help:"Replace the installed configuration of another deployment."`

	ReplaceUnreachable bool `help:"On the grid: rent others where a node does not answer. The old contracts go on, and cost, until destroy --retired."`

	// What local started, for those who stop it again.
	backends *local.Provisioner
	started  []string
}

// Help shows examples.
func (deployCmd) Help() string {
	return `Idempotent: a second call completes what the first could not.
  quantumd deploy --local --dir /srv/backends
  quantumd deploy --config config.yaml --dry-run
On the ThreeFold Grid it shows nodes, prices and the balance, and asks before it rents.
What exists is never rented again, also while its node does not answer.
  MNEMONIC="…" NETWORK=main quantumd deploy --config config.yaml`
}

func (c *deployCmd) Run(ctx context.Context, a *app) error {
	if c.Query {
		return c.query(ctx, a)
	}
	if c.Local {
		cfg, p, err := c.local(ctx, a)
		if err != nil || cfg == nil {
			return err
		}
		return c.report(ctx, a, cfg, p)
	}
	return c.listed(ctx, a)
}

// target is where the effective configuration is installed.
func (a *app) target() string {
	if a.globals.Dir != "" {
		return filepath.Join(a.dir(), "config.yaml")
	}
	return filepath.Join(a.globals.Root, qsfs.SystemConfig)
}

// writeZstorConfig writes the real zstor's config, which holds the key: not
// where that came by the environment, for such secrets are not put into files.
func (a *app) writeZstorConfig(ctx context.Context, sys *qsfs.System, cfg *config.Config) error {
	for _, key := range []string{"mnemonic", "password", "encryption_key"} {
		if cfg.Source(key) == config.FromEnvironment {
			a.notef("no config for the real zstor was written: the key came by the environment")
			return nil
		}
	}
	path := cfg.ZstorConfigPath
	if a.globals.Dir != "" {
		path = filepath.Join(a.dir(), "zstor.toml")
	}
	return sys.WriteZstorConfig(ctx, path)
}

// local makes or completes backends on this machine, and the configuration
// that names them. A nil configuration: it was a dry run.
func (c *deployCmd) local(ctx context.Context, a *app) (*config.Config, *local.Provisioner, error) {
	if c.Meta != 0 && c.Meta != backend.MetaBackends {
		return nil, nil, &usageError{fmt.Errorf("--meta %d: metadata is spread over exactly %d backends", c.Meta, backend.MetaBackends)}
	}
	path := a.target()
	if a.globals.Config != "" {
		path = a.globals.Config
	}
	cfg, err := config.Load(path, a.configOptions(true)...)
	if errors.Is(err, config.ErrNoConfig) {
		cfg, err = config.Parse("", nil, a.configOptions(false)...)
	}
	if err != nil {
		return nil, nil, err
	}
	placed := cfg.Clone() // what is written down stays as it was given
	a.place(placed)
	layout := a.layout(placed)
	p, err := a.local(layout.Backends)
	if err != nil {
		return nil, nil, err
	}
	if c.Data != 0 && c.Data < cfg.ExpectedShards {
		return nil, nil, &usageError{fmt.Errorf("--data %d: fewer than expected_shards (%d)", c.Data, cfg.ExpectedShards)}
	}
	data := max(c.Data, cfg.ExpectedShards)
	known, err := cfg.BackendList()
	if err != nil {
		return nil, nil, err
	}
	sys, err := qsfs.Open(ctx, placed, qsfs.WithLayout(layout), qsfs.WithProvisioner(counted{p, data, known}), qsfs.WithLogger(a.logger()))
	if err != nil {
		return nil, nil, err
	}
	plan, err := sys.PlanDeploy(ctx)
	if err != nil {
		return nil, nil, err
	}
	if a.globals.DryRun {
		return nil, nil, a.printPlan(plan)
	}
	c.backends = p
	for _, step := range plan.Steps {
		if step.Action != backend.Keep {
			c.started = append(c.started, step.ID)
		}
	}
	if err := c.provisionLocal(ctx, a, cfg, placed, sys, plan); err != nil {
		return nil, nil, err
	}
	placed.Backends = cfg.Backends
	return placed, p, placed.Validate()
}

// provisionLocal writes the key before the first backend is made, for without
// it nothing could be read back, and the addresses after the last.
func (c *deployCmd) provisionLocal(ctx context.Context, a *app, cfg, placed *config.Config, sys *qsfs.System, plan *qsfs.Plan) error {
	if cfg.EncryptionKey == "" && cfg.Mnemonic == "" {
		if here, err := c.backends.List(ctx); err != nil || len(here) > 0 {
			return errors.Join(err, &noKeyError{Dir: sys.Layout().Backends, Config: a.target()})
		}
		var key [32]byte
		_, _ = rand.Read(key[:]) // never fails
		cfg.EncryptionKey = config.Secret(hex.EncodeToString(key[:]))
		placed.EncryptionKey = cfg.EncryptionKey
	}
	if err := writeConfig(a.target(), cfg); err != nil {
		return err
	}
	list, err := sys.Deploy(ctx, plan)
	if err != nil {
		return err
	}
	cfg.Backends = asListed(list)
	if err := writeConfig(a.target(), cfg); err != nil {
		return err
	}
	return a.writeZstorConfig(ctx, sys, placed)
}

// noKeyError says that the key of backends that there are is not there.
type noKeyError struct{ Dir, Config string }

func (e *noKeyError) Error() string {
	return fmt.Sprintf("there are backends below %s already, and %s, which held their key, is gone or has none", e.Dir, e.Config)
}

// Hint names the remedy.
func (e *noKeyError) Hint() string {
	return "put the configuration back from your copy; without the key nothing on them can be read, and `quantumd destroy --local` removes them"
}

// counted asks for another number of data backends than the shards need.
type counted struct {
	*local.Provisioner
	data  int
	known []backend.Backend // that the configuration lists, there or lost
}

// Specs lists what to make: as many as are asked for, those that there are
// first, then new ones whose ids nobody had.
func (c counted) Specs() []backend.Spec {
	here, err := c.List(context.Background()) // reads files only
	retired, retiredErr := c.Retired()
	if err != nil || retiredErr != nil {
		return qsfs.DefaultSpecs(backend.MetaBackends, c.data) // Provision says what is wrong
	}
	var specs []backend.Spec
	for _, role := range []struct {
		role backend.Role
		want int
	}{{backend.Meta, backend.MetaBackends}, {backend.Data, c.data}} {
		specs = append(specs, specsOf(role.role, role.want, here, slices.Concat(retired, c.known))...)
	}
	return specs
}

func specsOf(role backend.Role, want int, here, gone []backend.Backend) []backend.Spec {
	var specs []backend.Spec
	had := map[string]bool{}
	for _, b := range gone {
		had[b.ID] = true
	}
	for _, b := range here {
		had[b.ID] = true
		if b.Role == role {
			specs = append(specs, backend.Spec{ID: b.ID, Role: role})
		}
	}
	for n := 0; len(specs) < want; n++ {
		if id := fmt.Sprintf("%s%d", role, n); !had[id] {
			specs = append(specs, backend.Spec{ID: id, Role: role})
		}
	}
	return specs
}

// listed reaches the backends that the configuration lists, and installs it.
func (c *deployCmd) listed(ctx context.Context, a *app) error {
	raw, err := config.Load(a.configPath(), a.configOptions(false)...)
	if err != nil {
		return err
	}
	cfg := raw.Clone()
	a.place(cfg)
	if err := cfg.Validate(); err != nil {
		return err
	}
	if ongrid.Uses(cfg) {
		return c.onGrid(ctx, a, raw, cfg)
	}
	if err := c.mayInstall(a, cfg); err != nil {
		return err
	}
	p, err := a.provisioner(cfg)
	if err != nil {
		return err
	}
	sys, err := qsfs.Open(ctx, cfg, qsfs.WithLayout(a.layout(cfg)), qsfs.WithProvisioner(p), qsfs.WithLogger(a.logger()))
	if err != nil {
		return err
	}
	plan, err := sys.PlanDeploy(ctx)
	if err != nil {
		return err
	}
	if a.globals.DryRun {
		return a.printPlan(plan)
	}
	if _, err := sys.Deploy(ctx, plan); err != nil {
		return err
	}
	if err := errors.Join(writeConfig(a.target(), raw), a.writeZstorConfig(ctx, sys, cfg)); err != nil {
		return err
	}
	return c.report(ctx, a, cfg, p)
}

// mayInstall refuses to replace the configuration of another deployment.
func (c *deployCmd) mayInstall(a *app, cfg *config.Config) error {
	if c.Force || sameFile(a.configPath(), a.target()) {
		return nil
	}
	old, err := config.Load(a.target(), config.TolerateUnknown())
	if errors.Is(err, config.ErrNoConfig) {
		return nil
	}
	if err != nil {
		return err
	}
	oldKey, oldErr := old.Key()
	if oldErr != nil { // its key may come by the environment, as the new one's does
		if old, err = config.Load(a.target(), a.configOptions(true)...); err != nil {
			return err
		}
		oldKey, oldErr = old.Key()
	}
	newKey, err := cfg.Key()
	if err != nil {
		return err
	}
	if oldErr == nil && bytes.Equal(oldKey, newKey) && (old.DeploymentName == "" || old.DeploymentName == cfg.DeploymentName) {
		return nil
	}
	return &usageError{fmt.Errorf("%s is the configuration of another deployment; move it away, or replace it with --force", a.target())}
}

func sameFile(x, y string) bool {
	a, errA := os.Stat(x)
	b, errB := os.Stat(y)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// writeConfig installs the effective configuration, 0600, whole or not at all.
func writeConfig(path string, cfg *config.Config) error {
	text, err := cfg.Marshal()
	if err != nil {
		return err
	}
	text = append([]byte("# The effective configuration, written by `quantumd deploy`. Keep it secret, and keep a\n# copy off this machine: without the key in it nothing can be read back.\n"), text...)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return &qsfs.PathError{Path: filepath.Dir(path), Err: err}
	}
	if err := durable.WriteFile(path, text, 0o600); err != nil {
		return &qsfs.PathError{Path: path, Err: err}
	}
	return nil
}

func (a *app) printPlan(plan *qsfs.Plan) error {
	return a.print(plan, func() {
		for _, s := range plan.Steps {
			a.printf("%-7s %-5s %-8s %s", s.Action, s.Role, s.ID, s.Detail)
		}
		a.printf("%d of %d backends would be made or started", plan.Changes(), len(plan.Steps))
	})
}

type deployReport struct {
	Schema   int               `json:"schema"`
	Config   string            `json:"config"`
	Backends []backend.Backend `json:"backends"`
}

func (c *deployCmd) report(ctx context.Context, a *app, cfg *config.Config, p backend.Provisioner) error {
	list, err := p.List(ctx)
	if err != nil {
		return err
	}
	return a.print(deployReport{client.SchemaVersion, a.target(), some(list)}, func() {
		a.printf("%d backends are up; any %d of %d data backends suffice to read", len(list), cfg.MinShards, cfg.ExpectedShards)
		a.printf("configuration: %s (keep a copy off this machine: it holds the key)", a.target())
		if a.globals.Dir != "" {
			a.printf("next: quantumd up -c %s --dir FRONTEND --mount MOUNTPOINT", a.target())
		} else {
			a.printf("next: quantumd setup")
		}
	})
}

// some gives an empty list for none: programs that read JSON want no null.
func some[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// query lists the backends that there are.
func (c *deployCmd) query(ctx context.Context, a *app) error {
	var list []backend.Backend
	if c.Local {
		p, err := a.local(a.layout(config.Default()).Backends)
		if err != nil {
			return err
		}
		if list, err = p.List(ctx); err != nil {
			return err
		}
	} else {
		cfg, err := a.loadConfig(true)
		if err != nil {
			return err
		}
		if ongrid.Uses(cfg) {
			return a.gridQuery(ctx, cfg)
		}
		p, err := a.provisioner(cfg)
		if err != nil {
			return err
		}
		if list, err = p.List(ctx); err != nil {
			return err
		}
	}
	return a.print(deployReport{client.SchemaVersion, a.configPath(), some(list)}, func() {
		for _, b := range list {
			a.printf("%-8s %-5s %-22s %s", b.ID, b.Role, b.Address, b.Namespace)
		}
		a.printf("%d backends", len(list))
	})
}

type destroyCmd struct {
	Local   bool   `help:"The backends on this machine."`
	Force   bool   `help:"Also when something that was written is not on the backends."`
	Retired bool   `help:"On the grid: only contracts that are in no use any more."`
	Name    string `placeholder:"NAME" help:"On the grid, with --yes: the name that would have to be typed."`
}

// Help shows examples.
func (destroyCmd) Help() string {
	return `  quantumd destroy --local --dir /srv/backends --dry-run
  quantumd destroy --local --dir /srv/backends --yes
  quantumd destroy --retired
  quantumd destroy --name DEPLOYMENT --yes`
}

func (c *destroyCmd) Run(ctx context.Context, a *app) error {
	if !c.Local {
		cfg, err := a.loadConfig(true)
		if err != nil && !errors.Is(err, config.ErrNoConfig) {
			return err
		}
		if err != nil || !ongrid.Uses(cfg) {
			return &usageError{errors.New("give --local for backends on this machine; zdbs that you run yourself are yours to remove, and for the grid mnemonic, network and deployment_name have to be set")}
		}
		return c.onGrid(ctx, a, cfg)
	}
	cfg, err := config.Load(a.target(), a.configOptions(true)...)
	if errors.Is(err, config.ErrNoConfig) {
		cfg, err = config.Default(), nil
	}
	if err != nil {
		return err
	}
	a.place(cfg)
	layout := a.layout(cfg)
	if st, err := os.Stat(layout.Backends); errors.Is(err, fs.ErrNotExist) || err == nil && !st.IsDir() {
		return fmt.Errorf("there are no local backends below %s", layout.Backends)
	}
	p, err := a.local(layout.Backends)
	if err != nil {
		return err
	}
	if err := c.mayDestroy(ctx, a, layout); err != nil {
		return err
	}
	list, err := p.List(ctx)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return fmt.Errorf("there are no local backends below %s", layout.Backends)
	}
	ids := make([]string, len(list))
	for i, b := range list {
		ids[i] = b.ID
		a.notef("%s %s at %s and everything that it holds", b.Role, b.ID, b.Address)
	}
	if a.globals.DryRun {
		return a.done("%d backends would be destroyed", len(list))
	}
	if err := a.confirm(fmt.Sprintf("Destroy these %d backends?", len(list)), ""); err != nil {
		return err
	}
	if err := p.Retire(ctx, ids...); err != nil {
		return err
	}
	if err := a.setAside(layout); err != nil {
		return err
	}
	return a.done("%d backends destroyed", len(list))
}

// setAside moves what a frontend has out of the way of a new system, once its
// backends are destroyed.
func (a *app) setAside(layout qsfs.Layout) error {
	aside, err := qsfs.SetAside(layout)
	if err != nil {
		return fmt.Errorf("the backends are destroyed; what the frontend has is in the way of a new system: %w", err)
	}
	if aside != "" {
		a.notef("what the frontend had is kept in %s; remove it when it is not needed", aside)
	}
	return nil
}

// mayDestroy refuses while the system of these folders runs or is installed,
// or holds what the backends do not.
func (c *destroyCmd) mayDestroy(ctx context.Context, a *app, layout qsfs.Layout) error {
	if err := a.mustNotRun(ctx, layout); err != nil {
		return err
	}
	if a.globals.Dir == "" && a.servicesInstalled(ctx) {
		return &installedError{}
	}
	unsynced, err := qsfs.Unsynced(ctx, layout)
	switch {
	case c.Force && err != nil:
		a.notef("what is only here cannot be told (%v); --force goes on", err)
	case err != nil:
		return fmt.Errorf("what is only here cannot be told: %w", err)
	case c.Force && unsynced.Bytes > 0:
		a.notef("%v, and are lost", unsynced)
	case unsynced.Bytes > 0:
		return unsynced
	}
	return nil
}

// installedError says that services use the backends.
type installedError struct{}

func (*installedError) Error() string { return "the backends run as services of the installed system" }

// Hint names the remedy.
func (*installedError) Hint() string {
	return "run `quantumd uninstall` first; it keeps data and configuration"
}
