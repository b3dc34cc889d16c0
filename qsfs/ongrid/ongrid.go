// Package ongrid rents the backends of a system on the ThreeFold Grid: it joins a
// configuration, a journal in SQLite and backend/grid. It does not import the
// grid's SDK: Options.Open says how the grid is reached, such as by
// backend/grid/tfgrid.
//
//	p, err := ongrid.New(cfg, layout, ongrid.Options{Open: open})
//	sys, err := qsfs.Open(ctx, cfg, qsfs.WithLayout(layout), qsfs.WithProvisioner(p))
//	plan, err := sys.PlanDeploy(ctx)           // rents nothing
//	bill, err := p.Bill(ctx, plan.Specs())     // where, and what it costs
//	list, err := sys.Deploy(ctx, plan)
package ongrid

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// Options of a provisioner. Open must be given.
type Options struct {
	Open               func(ctx context.Context) (grid.Client, error)
	ReplaceUnreachable bool // rent others where a node does not answer
	// Standing is for a daemon, which nobody asks and which rents once in months: what
	// is rented is bounded by replace.max_cost_per_month, and the connection to the
	// grid ends after each call.
	Standing bool
	Observe  func(grid.Progress) // may be nil
	Dialer   backend.Dialer      // nil: over TCP
	Reach    time.Duration       // see grid.Options; zero: its default
	Settle   time.Duration
	Pause    time.Duration
	Logger   *slog.Logger
}

// Uses says whether a configuration is one for the grid: it has what it takes to
// rent. One that only lists backends is not.
func Uses(cfg *config.Config) bool {
	return cfg.Mnemonic != "" && cfg.DeploymentName != "" && cfg.Network != ""
}

// New makes the provisioner of a configuration. Backends that the configuration
// lists are used without asking the grid.
func New(cfg *config.Config, layout qsfs.Layout, o Options) (*grid.Provisioner, error) {
	known, err := cfg.BackendList()
	if err != nil {
		return nil, err
	}
	meta, data, err := Sizes(cfg)
	if err != nil {
		return nil, err
	}
	g := grid.Options{
		Deployment: cfg.DeploymentName, Open: o.Open, Journal: &journal{path: JournalPath(layout)}, Known: known,
		Password: cfg.Password, MetaSize: meta, DataSize: data,
		Choice:     grid.Choice{Farms: cfg.Farms, Meta: cfg.MetaNodes, Data: cfg.DataNodes, Exclude: cfg.ExcludeNodes, Certified: cfg.CertifiedNodes},
		Connection: grid.Connection(cfg.ZdbConnectionType), FarmGroups: cfg.RedundantGroups > 0, MaxRetries: cfg.MaxDeploymentRetries,
		ReplaceUnreachable: o.ReplaceUnreachable, Observe: o.Observe, Dialer: o.Dialer, Reach: o.Reach, Settle: o.Settle, Pause: o.Pause, Logger: o.Logger,
	}
	if g.Hangup = o.Standing; o.Standing {
		if g.MaxUSD, err = monthly(cfg); err != nil {
			return nil, err
		}
	}
	return grid.New(g)
}

// monthly is replace.max_cost_per_month, in US dollars; zero: no bound.
func monthly(cfg *config.Config) (float64, error) {
	if cfg.Replace.MaxCostPerMonth == "" {
		return 0, nil
	}
	usd, err := strconv.ParseFloat(cfg.Replace.MaxCostPerMonth, 64)
	if err != nil || !(usd > 0) || math.IsInf(usd, 1) {
		return 0, fmt.Errorf("replace.max_cost_per_month: %q is not an amount in US dollars", cfg.Replace.MaxCostPerMonth)
	}
	return usd, nil
}

// Sizes gives how much each metadata and each data backend has, in bytes and whole
// GiB: data_size, or total_storage_size over min_shards; meta_size, or more where
// the number of files asks for it. Where neither says how much data there is to be,
// the error is grid.ErrNoSize, or, where the configuration lists its backends, data
// is zero: then none can be rented.
func Sizes(cfg *config.Config) (meta, data int64, err error) {
	const up = grid.GiB - 1
	data = (int64(cfg.DataSize) + up) / grid.GiB * grid.GiB
	total := int64(cfg.TotalStorageSize)
	switch {
	case data == 0 && total == 0 && len(cfg.Backends) == 0:
		return 0, 0, grid.ErrNoSize
	case data == 0 && total > 0:
		data = max(grid.GiB, grid.DataSize(total, cfg.MinShards))
	}
	total = cmp.Or(total, data*int64(cfg.MinShards))
	meta = max((int64(cfg.MetaSize)+up)/grid.GiB*grid.GiB, grid.MetaSize(total, int64(cfg.ZdbDataSize), cfg.MinShards, cfg.ExpectedShards))
	return meta, data, nil
}
