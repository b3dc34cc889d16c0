package ongrid_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/backendtest"
	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/backend/grid/gridtest"
	"github.com/threefoldtech/quantumd/engine/zdb"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/qsfs/ongrid"
)

// The contract of every Provisioner, from a configuration and with the journal on
// disk. What needs single nodes is tested in backend/grid.
func TestConformance(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backendtest.Harness {
		g, layout := gridtest.New(t), qsfs.LayoutBelow(t.TempDir())
		cfg := config.Default()
		cfg.DeploymentName, cfg.Password, cfg.ZdbConnectionType, cfg.TotalStorageSize = "demo", "secretpassword", "any", 30*config.GiB
		return backendtest.Harness{
			Open: func(t *testing.T) backend.Provisioner {
				p, err := ongrid.New(cfg, layout, ongrid.Options{
					Open:  func(ctx context.Context) (grid.Client, error) { return gridtest.Dial(ctx, g.URL()) },
					Reach: time.Second, Settle: 200 * time.Millisecond, Pause: 5 * time.Millisecond,
				})
				require.NoError(t, err)
				t.Cleanup(func() { assert.NoError(t, p.Close()) })
				return p
			},
			Specs: qsfs.DefaultSpecs(2, 2), First: backend.Create, Owns: true,
			Dial: zdb.NewDialer(zdb.Options{PoolSize: 1, Timeout: 10 * time.Second}),
		}
	})
}
