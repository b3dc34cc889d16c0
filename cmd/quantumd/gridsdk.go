package main

import (
	"context"
	"os"

	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/backend/grid/sdkprocess"
	"github.com/threefoldtech/quantumd/backend/grid/tfgrid"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// gridSDKCommand is a hidden command, not for people: the process that has the grid's
// SDK in it, which may crash.
const gridSDKCommand = "grid-sdk"

// gridSDK reaches the grid, in that process; tests put a grid of their own in its
// place.
var gridSDK = tfgrid.Open

func runGridSDK(a *app) int {
	if err := sdkprocess.Main(gridSDK); err != nil {
		return a.fail(err)
	}
	return exitDone
}

// openGrid reaches the grid for the account of a configuration.
func (a *app) openGrid(ctx context.Context, cfg *config.Config) (grid.Client, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	o := sdkprocess.Options{Mnemonic: cfg.Mnemonic, Network: cfg.Network, RelayURL: cfg.RelayURL, ProxyURL: cfg.ProxyURL,
		RMBTimeout: cfg.RMBTimeout.Std(), Logger: a.logger()}
	if cfg.SubstrateURL != "" {
		o.SubstrateURLs = []string{cfg.SubstrateURL}
	}
	return sdkprocess.Start(ctx, []string{self, gridSDKCommand}, o)
}
