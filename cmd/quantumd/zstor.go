package main

import (
	"context"

	"github.com/threefoldtech/quantumd/engine/zdb"
	zstorcli "github.com/threefoldtech/quantumd/engine/zstor/cli"
)

// runZstor is the embedded zstor.
func runZstor(ctx context.Context, a *app, args []string) int {
	return zstorcli.Run(ctx, args, a.stdout, a.stderr, zdb.NewDialer(zdb.Options{Logger: a.logger()}))
}
