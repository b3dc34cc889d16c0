// Command provisioning-service is a larger service that rents and runs file systems
// for others: several systems in one process, on one account of the ThreeFold Grid.
//
//	MNEMONIC="…" go run ./examples/provisioning-service -network main -dir /srv/systems
//	curl -X POST localhost:8080/systems -d '{"name": "backup1", "farms": [1, 2], "size": "1T"}'
//	curl localhost:8080/systems
//	curl -X DELETE localhost:8080/systems/backup1
//
// It asks nobody before it rents: POST with ?quote=1 first tells what it costs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/backend/grid/sdkprocess"
	"github.com/threefoldtech/quantumd/backend/grid/tfgrid"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == sdkWord { // the process that has the grid's SDK in it
		exit(sdkprocess.Main(tfgrid.Open))
	}
	exit(run())
}

const sdkWord = "grid-sdk"

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "provisioning-service:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run() error {
	dir := flag.String("dir", "systems", "where the systems keep their files")
	network := flag.String("network", "main", "main, test, qa or dev")
	listen := flag.String("listen", "127.0.0.1:8080", "IP:PORT of the service")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s := &Service{Dir: *dir, Base: config.Default(), Open: openSDK}
	s.Base.Network, s.Base.Mnemonic = *network, config.Secret(os.Getenv("MNEMONIC"))
	server := &http.Server{Addr: *listen, Handler: s.Handler(), ReadHeaderTimeout: time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		last, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err = server.Shutdown(last)
		<-ended
	}
	return errors.Join(err, s.Close())
}

// openSDK has the SDK run in a process of its own: it may crash.
func openSDK(ctx context.Context, cfg *config.Config) (grid.Client, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return sdkprocess.Start(ctx, []string{self, sdkWord}, sdkprocess.Options{Mnemonic: cfg.Mnemonic, Network: cfg.Network})
}
