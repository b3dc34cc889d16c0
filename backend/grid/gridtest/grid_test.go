package gridtest_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/backend/grid/gridtest"
	"github.com/threefoldtech/quantumd/engine/zdb"
)

const gib = 1 << 30

func requests(n int) []grid.Request {
	var out []grid.Request
	for i := range n {
		r := grid.Request{Name: fmt.Sprintf("demo_13_data_%d", i+1), Project: fmt.Sprintf("qsfs/demo/data%d", i), Node: uint32(i + 1), Role: backend.Data, Size: 10 * gib, Password: "hunter2"}
		if i%4 == 0 {
			r.Role = backend.Meta
		}
		out = append(out, r)
	}
	return out
}

// TestLife: what is deployed is a zdb that stores, and it is gone with its contract.
func TestLife(t *testing.T) {
	t.Parallel()
	g := gridtest.New(t)
	c, err := gridtest.Dial(t.Context(), g.URL())
	require.NoError(t, err)
	defer c.Close() //nolint:errcheck // nothing is written

	a, err := c.Account(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, gridtest.Twin, a.Twin)
	require.InDelta(t, 1000, a.TFT, 1e-9)

	list := requests(10)
	done, err := c.Deploy(t.Context(), list)
	require.NoError(t, err)
	require.Equal(t, gridtest.Counts{Created: 10, Alive: 10}, g.Counts())
	require.Equal(t, 2, g.Calls("BatchCreateContract"), "batches of eight")
	for i, d := range done {
		require.NoError(t, d.Err)
		z, err := c.Read(t.Context(), list[i].Node, d.Contract)
		require.NoError(t, err)
		require.Equal(t, list[i].Name, z.Name)
		require.Equal(t, list[i].Role, z.Role)
		require.Equal(t, list[i].Size, z.Size)
		require.Equal(t, fmt.Sprintf("13-%d-%s", d.Contract, list[i].Name), z.Namespace)
		conn, err := zdb.Dial(t.Context(), backend.Backend{Address: netip.AddrPortFrom(z.Addresses[0], z.Port), Namespace: z.Namespace, Password: "hunter2"}, zdb.Options{})
		require.NoError(t, err)
		info, err := conn.Info(t.Context())
		require.NoError(t, err)
		require.Equal(t, list[i].Role == backend.Data, info.Sequential)
		require.Equal(t, list[i].Size, info.Limit)
		require.True(t, info.Password)
		if !info.Sequential {
			_, err = conn.Set(t.Context(), []byte("key"), []byte("value"))
			require.NoError(t, err)
		}
		g.Stop(list[i].Node)
		_, err = conn.Info(t.Context())
		require.Error(t, err)
		require.NoError(t, g.Restart(list[i].Node))
		if !info.Sequential {
			v, err := conn.Get(t.Context(), []byte("key"))
			require.NoError(t, err)
			require.Equal(t, "value", string(v))
		}
		on, err := c.OnNode(t.Context(), list[i].Node)
		require.NoError(t, err)
		require.Len(t, on, 1)
		require.Equal(t, list[i].Project, on[0].Project)

		require.NoError(t, c.Cancel(t.Context(), d.Contract))
		_, err = conn.Info(t.Context())
		require.Error(t, err)
		require.NoError(t, conn.Close())
		_, err = c.Read(t.Context(), list[i].Node, d.Contract)
		require.ErrorIs(t, err, grid.ErrWorkload)
	}
	require.Equal(t, gridtest.Counts{Created: 10, Cancelled: 10}, g.Counts())
}
