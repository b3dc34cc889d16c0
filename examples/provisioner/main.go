// Command provisioner has a Provisioner of its own: one that wraps another and
// puts its backends into racks, so that shards are spread over them and a whole
// rack may be lost: `go run ./examples/provisioner`.
package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/local"
	"github.com/threefoldtech/quantumd/engine/zstor/seal"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// racks changes what it is asked for, and leaves the rest to the Provisioner
// that it embeds.
type racks struct {
	backend.Provisioner
	names []string
}

// Provision asks for each backend in its rack: data0 in the first, data1 in the
// second, and so on. A Spec that names its group keeps it.
func (r racks) Provision(ctx context.Context, specs []backend.Spec) ([]backend.Result, error) {
	placed := make([]backend.Spec, len(specs))
	for i, s := range specs {
		if s.Group == "" && s.Role == backend.Data {
			s.Group = r.names[int(s.ID[len(s.ID)-1]-'0')%len(r.names)]
		}
		placed[i] = s
	}
	results, err := r.Provisioner.Provision(ctx, placed)
	for i := range results {
		results[i].Spec = specs[i] // a Result answers the question as it was asked
	}
	return results, err
}

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "provisioner:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "provisioner-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // temporary
	inside := local.New(filepath.Join(dir, "backends"), local.InProcess(nil))
	defer inside.Close() //nolint:errcheck // they are temporary too

	cfg := config.Default()
	cfg.MinShards, cfg.ExpectedShards, cfg.RedundantGroups = 4, 6, 1 // of six shards in three racks, two may go with their rack
	key := seal.NewKey()
	cfg.EncryptionKey = config.Secret(hex.EncodeToString(key[:]))
	sys, err := qsfs.Open(ctx, cfg, qsfs.Below(dir), qsfs.WithProvisioner(racks{inside, []string{"north", "east", "south"}}))
	if err != nil {
		return err
	}
	plan, err := sys.PlanDeploy(ctx)
	if err != nil {
		return err
	}
	list, err := sys.Deploy(ctx, plan)
	for _, b := range list {
		fmt.Fprintln(out, b.ID, b.Group)
	}
	return err
}
