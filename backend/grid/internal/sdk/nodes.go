package sdk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	proxy "github.com/threefoldtech/tfgrid-sdk-go/grid-proxy/pkg/client"
	"github.com/threefoldtech/tfgrid-sdk-go/grid-proxy/pkg/types"

	"github.com/threefoldtech/quantumd/backend/grid"
)

const (
	pageSize  = 100
	maxPages  = 1000 // a listing that does not end is no listing
	idsInURL  = 100  // a request's address has a length
	tries     = 4
	firstWait = 200 * time.Millisecond
)

// again asks until there is an answer, a few times at most. An answer that is
// understood as meant is not asked for again; the SDK's own client does not tell
// which are.
func again[T any](ctx context.Context, c *Client, f func() (T, error)) (T, error) {
	wait := firstWait
	for try := 1; ; try++ {
		v, err := f()
		var known *grid.Error
		if err == nil || try == tries || ctx.Err() != nil || errors.As(err, &known) {
			return v, err
		}
		c.log.Debug("the grid proxy did not answer", "err", c.secrets.scrub(err.Error()), "next", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return v, context.Cause(ctx)
		}
		wait *= 3
	}
}

// Nodes lists the nodes that fit.
func (c *Client) Nodes(ctx context.Context, f grid.NodeFilter) ([]grid.Node, error) {
	ids := [][]uint32{nil}
	if len(f.IDs) > 0 {
		ids = slices.Collect(slices.Chunk(f.IDs, idsInURL))
	}
	var out []grid.Node
	for _, some := range ids {
		list, err := c.nodes(ctx, c.filter(f, some))
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	return out, nil
}

func (c *Client) filter(f grid.NodeFilter, ids []uint32) types.NodeFilter {
	q := types.NodeFilter{FarmIDs: f.Farms, Features: f.Features}
	for _, id := range ids {
		q.NodeIDs = append(q.NodeIDs, uint64(id))
	}
	if f.FreeHDD > 0 {
		free := uint64(f.FreeHDD)
		q.FreeHRU = &free
	}
	if f.Certified {
		certified := certifiedNode
		q.CertificationType = &certified
	}
	if f.Up {
		yes, twin := true, uint64(c.plugin.TwinID)
		q.Status, q.Healthy, q.AvailableFor = []string{nodeUp}, &yes, &twin
	}
	return q
}

const (
	nodeUp        = "up"
	certifiedNode = "Certified"
)

func (c *Client) nodes(ctx context.Context, q types.NodeFilter) ([]grid.Node, error) {
	seen := map[uint32]bool{} // pages shift while nodes come and go
	var out []grid.Node
	for page := uint64(1); page <= maxPages; page++ {
		list, err := again(ctx, c, func() ([]types.Node, error) {
			return within(ctx, c, func() ([]types.Node, error) {
				// One client each: it remembers which address answered, without a lock.
				ns, _, err := proxy.NewClient(slices.Clone(c.urls)...).Nodes(ctx, q, types.Limit{Size: pageSize, Page: page, SortBy: "node_id"})
				return ns, err
			})
		})
		if err != nil {
			return nil, c.explain(ctx, err, grid.ErrNetwork)
		}
		for _, n := range list {
			if id := uint32(n.NodeID); !seen[id] { //nolint:gosec // the chain's ids are 32 bits
				seen[id] = true
				out = append(out, c.node(n))
			}
		}
		if len(list) < pageSize {
			return out, nil
		}
	}
	return nil, problem(grid.ErrNetwork, fmt.Sprintf("the grid proxy lists nodes without an end: more than %d pages", maxPages))
}

func (c *Client) node(n types.Node) grid.Node {
	ours := n.RentedByTwinID == uint(c.plugin.TwinID)
	free := int64(0)
	if n.TotalResources.HRU > n.UsedResources.HRU {
		free = int64(n.TotalResources.HRU - n.UsedResources.HRU) //nolint:gosec // disks are smaller than 8 EiB
	}
	return grid.Node{
		ID: uint32(n.NodeID), Farm: uint64(n.FarmID), Country: n.Country, FreeHDD: free, //nolint:gosec // the chain's ids
		Certified: n.CertificationType == certifiedNode,
		Up:        n.Status == nodeUp && n.Healthy && (ours || !n.Rented && !n.Dedicated && !n.InDedicatedFarm),
	}
}
