package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/qsfs/durability"
	"github.com/threefoldtech/quantumd/qsfs/ongrid"
)

// grid makes the provisioner of a configuration for the grid. Nothing is asked of
// the grid before it has to be.
func (a *app) grid(cfg *config.Config, o ongrid.Options) (*grid.Provisioner, error) {
	o.Open = func(ctx context.Context) (grid.Client, error) { return a.openGrid(ctx, cfg) }
	o.Logger = a.logger()
	if o.Observe == nil {
		o.Observe = a.observeGrid
	}
	return ongrid.New(cfg, a.layout(cfg), o)
}

func (a *app) observeGrid(p grid.Progress) {
	switch {
	case a.globals.JSON:
	case p.Err != nil:
		a.notef("%s on node %d: %s: %v", p.ID, p.Node, p.Step, p.Err)
	default:
		a.notef("%s on node %d: %s", p.ID, p.Node, p.Step)
	}
}

// gridPlan is what a deploy on the grid would do.
type gridPlan struct {
	*qsfs.Plan
	Bill       *grid.Bill         `json:"bill"`
	Durability *durability.Report `json:"durability"` // with each farm as a group
}

// worth says what a deployment is worth with its farms as groups; nil where not all
// farms are known.
func worth(cfg *config.Config, bill *grid.Bill) *durability.Report {
	rates := durability.DefaultRates()
	rates.MaxPerDay = cfg.Replace.MaxPerDay
	set := func(role backend.Role) (s durability.Set, known bool) {
		known = len(bill.Farms[role]) > 0
		for farm, n := range bill.Farms[role] {
			s.Groups = append(s.Groups, durability.Group{Name: fmt.Sprintf("farm%d", farm), Backends: n})
			known = known && farm != 0
		}
		s.Supply = true
		return s, known
	}
	data, known := set(backend.Data)
	data.Needed, data.Total = cfg.MinShards, cfg.ExpectedShards
	data.RedundantGroups, data.RedundantNodes = cfg.RedundantGroups, cfg.RedundantNodes
	meta, alsoKnown := set(backend.Meta)
	if !known || !alsoKnown {
		return nil
	}
	r, err := durability.Evaluate(durability.Shape{Data: data, Meta: meta, Size: int64(cfg.TotalStorageSize), DataFile: int64(cfg.ZdbDataSize)}, rates)
	if err != nil {
		return nil
	}
	return &r
}

// onGrid rents what is missing, and writes the configuration that names it.
func (c *deployCmd) onGrid(ctx context.Context, a *app, raw, cfg *config.Config) error {
	if err := c.mayInstall(a, cfg); err != nil {
		return err
	}
	p, err := a.grid(cfg, ongrid.Options{ReplaceUnreachable: c.ReplaceUnreachable})
	if err != nil {
		return err
	}
	defer p.Close() //nolint:errcheck // nothing is under way
	sys, err := qsfs.Open(ctx, cfg, qsfs.WithLayout(a.layout(cfg)), qsfs.WithProvisioner(p), qsfs.WithLogger(a.logger()))
	if err != nil {
		return err
	}
	a.notef("asking the grid what there is")
	plan, err := sys.PlanDeploy(ctx)
	if err != nil {
		return err
	}
	bill, err := p.Bill(ctx, plan.Specs())
	if err != nil {
		return err
	}
	if len(bill.Items) > 0 {
		if err := grid.CheckLocal(grid.Connection(cfg.ZdbConnectionType)); err != nil && !a.globals.DryRun {
			return err
		} else if err != nil {
			bill.Warnings = append(bill.Warnings, err.Error()+": nothing can be rented from here")
		}
	}
	if a.globals.DryRun {
		return a.print(gridPlan{plan, bill, worth(cfg, bill)}, func() { a.printBill(cfg, plan, bill, a.printf) })
	}
	if err := c.agree(a, cfg, raw, plan, bill); err != nil {
		return err
	}
	list, err := sys.Deploy(ctx, plan)
	if err != nil {
		return err
	}
	raw.Backends, cfg.Backends = asListed(list), asListed(list)
	if err := errors.Join(writeConfig(a.target(), raw), a.writeZstorConfig(ctx, sys, cfg)); err != nil {
		return err
	}
	return c.report(ctx, a, cfg, p)
}

// asListed gives backends as a configuration lists them.
func asListed(list []backend.Backend) []config.Backend {
	var out []config.Backend
	for _, b := range list {
		out = append(out, config.Backend{ID: b.ID, Role: b.Role, Address: b.Address.String(), Namespace: b.Namespace, Password: b.Password, Group: b.Group, Spare: b.Spare})
	}
	return out
}

// agree asks before money is spent; and whether lost backends are to be replaced
// later without asking.
func (c *deployCmd) agree(a *app, cfg, raw *config.Config, plan *qsfs.Plan, bill *grid.Bill) error {
	if len(bill.Items) == 0 {
		return nil
	}
	a.printBill(cfg, plan, bill, a.notef)
	if err := a.confirm(fmt.Sprintf("Rent these %d backends for %.2f USD a month?", len(bill.Items), bill.USD), ""); err != nil {
		return err
	}
	if a.globals.Yes || raw.Replace.Enabled != "auto" {
		return nil
	}
	most := bill.Dearest * float64(max(1, raw.Replace.MaxPerDay))
	if a.confirm(fmt.Sprintf("Replace lost backends later by itself, for at most %.2f USD a month more?", most), "") == nil {
		raw.Replace.Enabled, raw.Replace.MaxCostPerMonth = "true", fmt.Sprintf("%.2f", most)
	}
	return nil
}

func (a *app) printBill(cfg *config.Config, plan *qsfs.Plan, bill *grid.Bill, say func(string, ...any)) {
	for _, s := range plan.Steps {
		say("%-7s %-5s %-10s %s", s.Action, s.Role, s.ID, s.Detail)
	}
	for _, w := range bill.Warnings {
		say("warning: %s", w)
	}
	if r := worth(cfg, bill); r != nil {
		say("data: %s", r.Data.Words)
		say("metadata: %s", r.Meta.Words)
		say("nothing is lost within a year with %.1f nines, each farm taken as one group; `quantumd plan` has the model", r.Both.Year.Nines)
	}
	if bill.Silent > 0 {
		say("%d backends exist and their nodes do not answer: nothing is rented in their place", bill.Silent)
	}
	balance := fmt.Sprintf("%.1f TFT (%.2f USD)", bill.Account.TFT, bill.Account.TFT*bill.Account.TFTPrice)
	if len(bill.Items) == 0 {
		say("nothing to rent; %d contracts are there; the balance is %s", bill.Held, balance)
		return
	}
	say("%d backends to rent: %.2f USD a month; the balance is %s, which pays for %.1f months of these", len(bill.Items), bill.USD, balance, bill.Months)
	say("a replacement of one costs at most %.2f USD a month more", bill.Dearest)
}

// gridQuery lists what the account pays for.
func (a *app) gridQuery(ctx context.Context, cfg *config.Config) error {
	p, err := a.grid(cfg, ongrid.Options{})
	if err != nil {
		return err
	}
	defer p.Close() //nolint:errcheck // nothing is under way
	held, err := p.Find(ctx)
	if err != nil {
		return err
	}
	return a.printHeld(held)
}

// heldView is a contract as it is shown.
type heldView struct {
	ID       string       `json:"id"`
	Role     backend.Role `json:"role"`
	Contract uint64       `json:"contract"`
	Node     uint32       `json:"node"`
	Address  string       `json:"address,omitempty"`
	State    string       `json:"state"`
}

func (a *app) printHeld(held []grid.Held) error {
	views := []heldView{}
	for _, h := range held {
		v := heldView{ID: h.ID, Role: h.Role, Contract: h.Contract.ID, Node: h.Contract.Node, State: "works"}
		if h.Backend.Address.IsValid() {
			v.Address = h.Backend.Address.String()
		}
		switch {
		case h.Extra:
			v.State = "another one is in use"
		case h.Err != nil:
			v.State = h.Err.Error()
		case h.Contract.Grace:
			v.State = "in grace period: the account is out of funds"
		}
		views = append(views, v)
	}
	return a.print(struct {
		Schema   int        `json:"schema"`
		Backends []heldView `json:"backends"`
	}{client.SchemaVersion, views}, func() {
		for _, v := range views {
			a.printf("%-10s %-5s contract %-8d node %-6d %-28s %s", v.ID, v.Role, v.Contract, v.Node, v.Address, v.State)
		}
		a.printf("%d contracts", len(views))
	})
}

// findOnGrid lists in a configuration the backends that the account has: a new
// machine knows nothing but the mnemonic, the password and the name.
func (a *app) findOnGrid(ctx context.Context, cfg *config.Config) error {
	if len(cfg.Backends) > 0 || !ongrid.Uses(cfg) {
		return nil
	}
	p, err := a.grid(cfg, ongrid.Options{})
	if err != nil {
		return err
	}
	defer p.Close() //nolint:errcheck // nothing is under way
	a.notef("asking the grid for the backends of %s", cfg.DeploymentName)
	held, err := p.Find(ctx)
	if err != nil {
		return err
	}
	var found []backend.Backend
	var silent []string
	for _, h := range held {
		switch {
		case h.Extra:
		case h.Err != nil:
			silent = append(silent, fmt.Sprintf("%s (node %d: %v)", h.ID, h.Contract.Node, h.Err))
		default:
			found = append(found, h.Backend)
		}
	}
	if len(silent) > 0 {
		a.notef("these exist and do not answer, which the record on the others may make up for: %s", strings.Join(silent, ", "))
	}
	if len(found) == 0 {
		return &codeError{code: exitFailed, err: fmt.Errorf("the account has no backends of %q on the network %s: check deployment_name, network and mnemonic", cfg.DeploymentName, cfg.Network)}
	}
	cfg.Backends = asListed(found)
	return nil
}

// onGrid gives contracts back.
func (c *destroyCmd) onGrid(ctx context.Context, a *app, cfg *config.Config) error {
	layout := a.layout(cfg)
	if !c.Retired {
		if err := c.mayDestroy(ctx, a, layout); err != nil {
			return err
		}
	}
	p, err := a.grid(cfg, ongrid.Options{})
	if err != nil {
		return err
	}
	defer p.Close() //nolint:errcheck // nothing is under way
	held, err := p.Find(ctx)
	if err != nil {
		return err
	}
	if c.Retired {
		if held, err = a.retired(ctx, cfg, held); err != nil {
			return err
		}
	}
	if len(held) == 0 {
		return a.done("there are no such backends of %s on the grid", cfg.DeploymentName)
	}
	var contracts []uint64
	for _, h := range held {
		contracts = append(contracts, h.Contract.ID)
		a.notef("%s: contract %d on node %d, and everything that it holds", h.ID, h.Contract.ID, h.Contract.Node)
	}
	if a.globals.DryRun {
		return a.done("%d contracts would be cancelled", len(held))
	}
	if err := c.sure(a, cfg, len(held)); err != nil {
		return err
	}
	if err := p.Cancel(ctx, contracts...); err != nil {
		return err
	}
	if c.Retired {
		return a.done("%d contracts cancelled", len(held))
	}
	if err := a.setAside(layout); err != nil {
		return err
	}
	return a.done("%d contracts cancelled", len(held))
}

// sure asks for the deployment's name.
func (c *destroyCmd) sure(a *app, cfg *config.Config, n int) error {
	if !a.globals.Yes {
		return a.confirm(fmt.Sprintf("Cancel %d contracts? What they hold is lost for good.", n), cfg.DeploymentName)
	}
	if c.Name != cfg.DeploymentName {
		return &usageError{fmt.Errorf("--yes alone does not destroy what is on the grid: give --name %s as well", cfg.DeploymentName)}
	}
	return nil
}

// retired picks the contracts that no set of backends names.
func (a *app) retired(ctx context.Context, cfg *config.Config, held []grid.Held) ([]grid.Held, error) {
	found := cfg.Clone()
	if len(found.Backends) == 0 {
		for _, h := range held {
			if h.Err == nil && !h.Extra {
				found.Backends = append(found.Backends, asListed([]backend.Backend{h.Backend})...)
			}
		}
	}
	sys, err := qsfs.Open(ctx, found, qsfs.WithLayout(a.layout(cfg)), qsfs.WithLogger(a.logger()))
	if err != nil {
		return nil, err
	}
	used, err := sys.Named(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := ongrid.Rows(ctx, a.layout(cfg))
	if err != nil {
		return nil, err
	}
	lately := func(h grid.Held) bool { // a replacement may be under way
		i := slices.IndexFunc(rows, func(r grid.Row) bool { return r.Contract == h.Contract.ID })
		return i >= 0 && rows[i].State != grid.Replaced && time.Since(rows[i].Changed) < 24*time.Hour
	}
	var out []grid.Held
	for _, h := range held {
		named := slices.ContainsFunc(used, func(b backend.Backend) bool { return b.Namespace == h.Namespace })
		switch {
		case named:
		case !h.Extra && lately(h):
			a.notef("%s (contract %d) was rented lately, and is left alone: it may be taking another one's place", h.ID, h.Contract.ID)
		default:
			out = append(out, h)
		}
	}
	return out, nil
}
