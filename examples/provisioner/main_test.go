package main

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/backendtest"
	"github.com/threefoldtech/quantumd/backend/local"
	"github.com/threefoldtech/quantumd/engine/zdb"
	"github.com/threefoldtech/quantumd/qsfs"
)

func TestProvisioner(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out))
	for _, line := range []string{"data0 north", "data1 east", "data2 south", "data3 north", "data5 south"} {
		assert.Contains(t, out.String(), line+"\n")
	}
}

// An own Provisioner is tested like those of the project.
func TestConformance(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backendtest.Harness {
		dir := filepath.Join(t.TempDir(), "backends")
		return backendtest.Harness{
			Open: func(t *testing.T) backend.Provisioner {
				inside := local.New(dir, local.InProcess(nil))
				t.Cleanup(func() { assert.NoError(t, inside.Close()) })
				return racks{inside, []string{"north", "east"}}
			},
			Specs: qsfs.DefaultSpecs(1, 2), First: backend.Create, Owns: true,
			Dial: zdb.NewDialer(zdb.Options{PoolSize: 1, Timeout: 10 * time.Second}),
		}
	})
}
