package main

import (
	"context"

	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/backend/grid/tfgrid"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// gridSDK reaches the grid; tests put a grid of their own in its place.
var gridSDK = tfgrid.Open

// openGrid reaches the grid for the account of a configuration.
func (a *app) openGrid(ctx context.Context, cfg *config.Config) (grid.Client, error) {
	o := tfgrid.Options{Mnemonic: cfg.Mnemonic, Network: cfg.Network, RelayURL: cfg.RelayURL, ProxyURL: cfg.ProxyURL,
		RMBTimeout: cfg.RMBTimeout.Std(), Logger: a.logger()}
	if cfg.SubstrateURL != "" {
		o.SubstrateURLs = []string{cfg.SubstrateURL}
	}
	return gridSDK(ctx, o)
}
