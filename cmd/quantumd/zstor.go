package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/threefoldtech/quantumd/engine/zdb"
	zstorcli "github.com/threefoldtech/quantumd/engine/zstor/cli"
)

// runZstor is the embedded zstor. Its daemon reads its config again at SIGUSR1.
func runZstor(ctx context.Context, a *app, args []string) int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	defer signal.Stop(signals)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reload := make(chan struct{})
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-signals:
			}
			select {
			case reload <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return zstorcli.RunReloading(ctx, args, a.stdout, a.stderr, zdb.NewDialer(zdb.Options{Logger: a.logger()}), reload)
}
