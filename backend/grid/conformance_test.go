package grid_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/backendtest"
	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/backend/grid/gridtest"
	"github.com/threefoldtech/quantumd/engine/zdb"
)

// obstructed has every node refuse the backends of one id.
type obstructed struct {
	grid.Client
	mu  *sync.Mutex
	id  *string
	hit func(node uint32)
}

func (o obstructed) Deploy(ctx context.Context, list []grid.Request) ([]grid.Deployed, error) {
	o.mu.Lock()
	for _, q := range list {
		if *o.id != "" && strings.HasSuffix(q.Project, "/"+*o.id) {
			o.hit(q.Node)
		}
	}
	o.mu.Unlock()
	return o.Client.Deploy(ctx, list)
}

// The contract of every Provisioner, over a whole grid with the SDK inside.
func TestConformance(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backendtest.Harness {
		g, j := gridtest.New(t), new(memory)
		on := func(b backend.Backend) uint32 {
			for _, c := range g.Alive() {
				if strings.HasSuffix(b.Namespace, "-"+c.Name) {
					return c.Node
				}
			}
			t.Fatalf("no contract of %s", b)
			return 0
		}
		var mu sync.Mutex
		var victim string
		var refusing []uint32
		hit := func(node uint32) {
			refusing = append(refusing, node)
			g.Node(node, func(n *gridtest.Node) { n.Refuses = "no more free devices found" })
		}
		return backendtest.Harness{
			Open: func(t *testing.T) backend.Provisioner {
				p, err := grid.New(grid.Options{
					Deployment: "demo", Journal: j, Password: "secretpassword", MetaSize: grid.GiB, DataSize: 5 * grid.GiB, MaxRetries: 2, Connection: grid.Any,
					Choice: grid.Choice{Meta: []uint32{1, 2, 3, 4, 5, 6}, Data: []uint32{7, 8, 9, 10, 11, 12}}, // an outage takes one
					Open: func(ctx context.Context) (grid.Client, error) {
						c, err := gridtest.Dial(ctx, g.URL())
						return obstructed{c, &mu, &victim, hit}, err
					},
					Reach: 200 * time.Millisecond, Settle: 200 * time.Millisecond, Pause: 5 * time.Millisecond,
				})
				require.NoError(t, err)
				t.Cleanup(func() { assert.NoError(t, p.Close()) })
				return p
			},
			Specs: []backend.Spec{{ID: "meta0", Role: backend.Meta}, {ID: "data0", Role: backend.Data}, {ID: "data1", Role: backend.Data}, {ID: "meta1", Role: backend.Meta}},
			Dial:  zdb.NewDialer(zdb.Options{PoolSize: 1, Timeout: 10 * time.Second}),
			First: backend.Create, Owns: true,
			Kill:    func(_ *testing.T, b backend.Backend) { g.Stop(on(b)) },
			Restart: func(t *testing.T, b backend.Backend) { require.NoError(t, g.Restart(on(b))) },
			Obstruct: func(_ *testing.T, s backend.Spec) func() {
				mu.Lock()
				defer mu.Unlock()
				victim = s.ID
				return func() {
					mu.Lock()
					defer mu.Unlock()
					victim = ""
					for _, node := range refusing {
						g.Node(node, func(n *gridtest.Node) { n.Refuses = "" })
					}
				}
			},
			Limit: func(t *testing.T, b backend.Backend) {
				a := zdb.DialAdmin(b.Address.String(), "gridtest", zdb.Options{})
				defer a.Close() //nolint:errcheck // nothing is under way
				require.NoError(t, a.SetMaxSize(t.Context(), b.Namespace, 1<<20))
			},
		}
	})
}
