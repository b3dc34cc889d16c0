package sdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/centrifuge/go-substrate-rpc-client/v4/types"
	substrate "github.com/threefoldtech/tfchain/clients/tfchain-client-go"
	proxytypes "github.com/threefoldtech/tfgrid-sdk-go/grid-proxy/pkg/types"
	"golang.org/x/sync/errgroup"

	"github.com/threefoldtech/quantumd/backend/grid"
)

const (
	nodeContract = "node"
	created      = "Created"
	gracePeriod  = "GracePeriod"
	maxPage      = 16 << 20 // bytes of one answer
)

// Contracts lists the account's node contracts by the proxy's index. The request is
// our own: the SDK's takes an error page for a listing, and fails as a whole on one
// contract of a kind that it does not know.
func (c *Client) Contracts(ctx context.Context) ([]grid.Contract, error) {
	seen := map[uint64]bool{}
	var out []grid.Contract
	for page := 1; page <= maxPages; page++ {
		list, err := again(ctx, c, func() ([]proxytypes.RawContract, error) { return c.contracts(ctx, page) })
		if err != nil {
			return nil, c.explain(ctx, err, grid.ErrNetwork)
		}
		for _, r := range list {
			if seen[uint64(r.ContractID)] || r.Type != nodeContract || r.TwinID != uint(c.plugin.TwinID) {
				continue
			}
			if r.State != created && r.State != gracePeriod {
				continue
			}
			seen[uint64(r.ContractID)] = true
			var d proxytypes.NodeContractDetails
			if err := json.Unmarshal(r.Details, &d); err != nil {
				return nil, problem(grid.ErrNetwork, fmt.Sprintf("contract %d of the grid proxy cannot be read: %v", r.ContractID, err))
			}
			name, project := names(d.DeploymentData)
			out = append(out, grid.Contract{ID: uint64(r.ContractID), Node: uint32(d.NodeID), Name: name, Project: project, //nolint:gosec // the chain's ids
				Grace: r.State == gracePeriod, Created: time.Unix(int64(r.CreatedAt), 0)}) //nolint:gosec // seconds
		}
		if len(list) < pageSize {
			return out, nil
		}
	}
	return nil, problem(grid.ErrNetwork, fmt.Sprintf("the grid proxy lists contracts without an end: more than %d pages", maxPages))
}

// names are those of a deployment's data; a contract that another program made may
// have none.
func names(data string) (name, project string) {
	d, err := ParseDeploymentData(data)
	if err != nil {
		return "", ""
	}
	return d.Name, d.ProjectName
}

// contracts asks each address in turn for one page.
func (c *Client) contracts(ctx context.Context, page int) ([]proxytypes.RawContract, error) {
	q := url.Values{
		"twin_id": {strconv.FormatUint(uint64(c.plugin.TwinID), 10)}, "type": {nodeContract}, "state": {created + "," + gracePeriod},
		"size": {strconv.Itoa(pageSize)}, "page": {strconv.Itoa(page)}, "sort_by": {"contract_id"},
	}
	var last error = problem(grid.ErrNetwork, "no address of a grid proxy")
	for _, base := range c.urls {
		var out []proxytypes.RawContract
		last = c.get(ctx, base+"contracts?"+q.Encode(), &out)
		if last == nil {
			return out, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return nil, last
}

func (c *Client) get(ctx context.Context, address string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close() //nolint:errcheck // read only
	text, err := io.ReadAll(io.LimitReader(res.Body, maxPage+1))
	switch {
	case err != nil:
		return &url.Error{Op: "Get", URL: address, Err: err}
	case res.StatusCode >= 500:
		return &url.Error{Op: "Get", URL: address, Err: errors.New(res.Status)}
	case res.StatusCode != http.StatusOK:
		return problem(grid.ErrNetwork, fmt.Sprintf("the grid proxy answered %s: %.200s", res.Status, text))
	case len(text) > maxPage:
		return problem(grid.ErrNetwork, fmt.Sprintf("the grid proxy's answer is longer than %d bytes", maxPage))
	}
	if err := json.Unmarshal(text, into); err != nil {
		return problem(grid.ErrNetwork, fmt.Sprintf("the grid proxy's answer cannot be read: %v", err))
	}
	return nil
}

// OnNode lists the account's contracts on a node as the chain has them.
func (c *Client) OnNode(ctx context.Context, node uint32) ([]grid.Contract, error) {
	of, ok := c.chain.(nodeContracts)
	if !ok {
		return nil, problem(grid.ErrNetwork, "this chain client does not list the contracts of a node")
	}
	ids, err := within(ctx, c, func() ([]types.U64, error) { return of.GetNodeContracts(node) })
	if err != nil {
		return nil, c.explain(ctx, err, grid.ErrNetwork)
	}
	all := make([]*substrate.Contract, len(ids))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, id := range ids {
		g.Go(func() error {
			var err error
			all[i], err = c.contract(ctx, uint64(id))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var out []grid.Contract
	for i, k := range all {
		if k == nil || uint32(k.TwinID) != c.plugin.TwinID || !k.ContractType.IsNodeContract {
			continue
		}
		name, project := names(k.ContractType.NodeContract.DeploymentData)
		out = append(out, grid.Contract{ID: uint64(ids[i]), Node: uint32(k.ContractType.NodeContract.Node), Name: name, Project: project, Grace: k.State.IsGracePeriod})
	}
	return out, nil
}

// contract is nil where the chain has none, or one that ended.
func (c *Client) contract(ctx context.Context, id uint64) (*substrate.Contract, error) {
	k, err := within(ctx, c, func() (ChainContract, error) { return c.chain.GetContract(id) })
	if errors.Is(err, substrate.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, c.explain(ctx, err, grid.ErrNetwork)
	}
	if k.Contract == nil || k.IsDeleted() {
		return nil, nil
	}
	return k.Contract, nil
}
