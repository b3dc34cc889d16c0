package sdk

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/grid"
)

// Read asks a contract's node for its zdb.
func (c *Client) Read(ctx context.Context, node uint32, contract uint64) (grid.Zdb, error) {
	n, err := c.nodeClient(ctx, node)
	if err != nil {
		return grid.Zdb{}, err
	}
	d, err := n.DeploymentGet(ctx, contract)
	if err != nil {
		kind := grid.ErrWorkload // it answers, and has none
		if errors.Is(err, context.DeadlineExceeded) {
			kind = grid.ErrNodeDown
		}
		return grid.Zdb{}, c.explain(ctx, fmt.Errorf("node %d, contract %d: %w", node, contract, err), kind)
	}
	z, err := zdbOf(d)
	if err != nil {
		return grid.Zdb{}, c.explain(ctx, fmt.Errorf("node %d, contract %d: %w", node, contract, err), grid.ErrWorkload)
	}
	return z, nil
}

// zdbOf finds the zdb of a deployment. The state is looked at first: a failed
// workload parses like one that works.
func zdbOf(d Deployment) (grid.Zdb, error) {
	for i := range d.Workloads {
		w := &d.Workloads[i]
		if w.Type != zdbType {
			continue
		}
		if w.Result.State != stateOk {
			return grid.Zdb{}, fmt.Errorf("%s is %q: %s", w.Name, w.Result.State, w.Result.Error)
		}
		z, err := ZDBFromWorkload(w)
		if err != nil {
			return grid.Zdb{}, err
		}
		return translated(z)
	}
	return grid.Zdb{}, errors.New("there is no zdb in the deployment")
}

func translated(z ZDB) (grid.Zdb, error) {
	if z.Namespace == "" || z.Port == 0 || z.Port > 65535 || z.SizeGB > 1<<32 {
		return grid.Zdb{}, fmt.Errorf("the node says namespace %q, port %d, %d GiB", z.Namespace, z.Port, z.SizeGB)
	}
	out := grid.Zdb{Name: z.Name, Role: backend.Data, Namespace: z.Namespace, Size: int64(z.SizeGB * gigabyte), Port: uint16(z.Port)} //nolint:gosec // checked
	switch z.Mode {
	case modeUser:
		out.Role = backend.Meta
	case modeSeq:
	default:
		return grid.Zdb{}, fmt.Errorf("the zdb's mode is %q", z.Mode)
	}
	for _, text := range z.IPs {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return grid.Zdb{}, fmt.Errorf("the node says address %q", text)
		}
		out.Addresses = append(out.Addresses, a.Unmap())
	}
	return out, nil
}
