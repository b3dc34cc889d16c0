// Command hookhandler runs a whole file system inside this process, with a
// handler of its own that sees each event of the database: here it prints them,
// as an audit would.
//
//	go run ./examples/hookhandler
package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"

	"github.com/threefoldtech/quantumd/backend/local"
	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
	"github.com/threefoldtech/quantumd/engine/zstor/seal"
	"github.com/threefoldtech/quantumd/hooks"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "hookhandler:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "hookhandler-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // temporary
	backends := local.New(filepath.Join(dir, "backends"), local.InProcess(nil))
	defer backends.Close() //nolint:errcheck // they are temporary too

	cfg := config.Default()
	cfg.MinShards, cfg.ExpectedShards = 2, 3
	key := seal.NewKey()
	cfg.EncryptionKey = config.Secret(hex.EncodeToString(key[:]))

	// A handler is called from several goroutines. What an error of it does
	// depends on the event: see hooks.HookHandler.
	audit := log.New(out, "event ", 0)
	handler := hooks.HandlerFunc(func(_ context.Context, e hooks.Event) error {
		audit.Println(e.Kind, e.Data)
		return nil
	})
	sys, err := qsfs.Open(ctx, cfg, qsfs.Below(dir), qsfs.WithProvisioner(backends), qsfs.WithHooks(handler), qsfs.WithoutMount())
	if err != nil {
		return err
	}
	plan, err := sys.PlanDeploy(ctx)
	if err != nil {
		return err
	}
	if _, err := sys.Deploy(ctx, plan); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		defer cancel()
		ended <- sys.Run(ctx)
	}()
	select {
	case <-sys.Ready():
		_, err = sys.Tree().Mkdir(ctx, tree.Root, "letters", tree.NewNode{Mode: 0o755})
	case <-ctx.Done(): // it could not start; Run says why
	}
	cancel() // Run closes the files and brings them to the backends, which is what the events tell of
	return errors.Join(err, <-ended)
}
