// Command storefile stores one file on local zdbs, any three shards of five,
// takes two of them away, and gets it back: the object engine alone, without a
// file system.
//
//	go run ./examples/storefile FILE COPY
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/local"
	"github.com/threefoldtech/quantumd/engine/zdb"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/engine/zstor/seal"
	"github.com/threefoldtech/quantumd/qsfs"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "storefile:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 2 {
		return fmt.Errorf("want FILE and COPY")
	}
	dir, err := os.MkdirTemp("", "storefile-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // temporary

	// Four backends for metadata, five for shards, inside this process.
	zdbs := local.New(filepath.Join(dir, "backends"), local.InProcess(nil))
	defer zdbs.Close() //nolint:errcheck // they are temporary too
	results, err := zdbs.Provision(ctx, qsfs.DefaultSpecs(backend.MetaBackends, 5))
	if err != nil {
		return err
	}
	cfg := zstor.Config{MinimalShards: 3, ExpectedShards: 5, Prefix: "example", Key: seal.NewKey()}
	for _, r := range results {
		if r.Err != nil {
			return r.Err
		}
		if r.Backend.Role == backend.Meta {
			cfg.Meta = append(cfg.Meta, r.Backend)
		} else {
			cfg.Data = append(cfg.Data, r.Backend)
		}
	}
	engine, err := zstor.Open(cfg, zstor.Options{Dialer: zdb.NewDialer(zdb.Options{Timeout: 10 * time.Second})})
	if err != nil {
		return err
	}
	defer engine.Close() //nolint:errcheck // what it stored was acknowledged

	object, err := engine.StoreFile(ctx, "/letters/first", args[0])
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "stored %d bytes as %d shards, any %d of which suffice\n", object.Size, object.N, object.K)
	if err := zdbs.Stop(ctx, "data1", "data4"); err != nil {
		return err
	}
	if _, err := engine.RetrieveFile(ctx, "/letters/first", args[1]); err != nil {
		return err
	}
	fmt.Fprintf(out, "two backends are gone; the copy is in %s\n", args[1])
	return nil
}
