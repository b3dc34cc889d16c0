package sdk

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/grid"
)

const (
	// maxBatch bounds what a crash of the SDK can leave behind.
	maxBatch = 8
	// batchTime is for nodes that take minutes to report their addresses.
	batchTime = 10 * time.Minute
	// afterCancel is how long BatchDeploy has, once its context ended, to cancel what
	// it made.
	afterCancel = 30 * time.Second
)

// Deploy makes contracts in batches of at most eight.
func (c *Client) Deploy(ctx context.Context, list []grid.Request) ([]grid.Deployed, error) {
	out := make([]grid.Deployed, len(list))
	good := c.check(ctx, list, out)
	if len(good) == 0 {
		return out, context.Cause(ctx)
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return failed(out, good, err), err
	}
	defer unlock()
	var all []error
	for len(good) > 0 {
		n := min(maxBatch, len(good))
		// The SDK reports an account without money, and deploys all the same.
		if err := c.funds(ctx); err != nil {
			return failed(out, good, err), errors.Join(append(all, err)...)
		}
		err, abandoned := c.batch(ctx, list, good[:n], out)
		if err != nil {
			all = append(all, err)
		}
		if good = good[n:]; abandoned || ctx.Err() != nil {
			return failed(out, good, context.Cause(ctx)), errors.Join(all...)
		}
	}
	return out, errors.Join(all...)
}

func failed(out []grid.Deployed, which []int, err error) []grid.Deployed {
	for _, i := range which {
		out[i].Err = err
	}
	return out
}

func (c *Client) funds(ctx context.Context) error {
	has, err := c.balance(ctx)
	if err != nil {
		return err
	}
	if has < minTFT {
		return problem(grid.ErrFunds, fmt.Sprintf("it has %.2f, and needs %d at least", has, minTFT))
	}
	return nil
}

// check finds the requests that may go into a batch: one that is not in order would
// stop all of it before the chain, one whose node the chain does not know as well.
func (c *Client) check(ctx context.Context, list []grid.Request, out []grid.Deployed) []int {
	type key struct {
		node uint32
		name string
	}
	seen := map[key]bool{}
	var good []int
	for i, r := range list {
		k := key{r.Node, r.Name}
		switch d := c.wanted(r); {
		case seen[k]:
			// The SDK finds its contracts by node and name.
			out[i].Err = problem(grid.ErrName, fmt.Sprintf("%q twice on node %d", r.Name, r.Node))
			continue
		case r.Size <= 0 || r.Size%int64(gigabyte) != 0:
			out[i].Err = problem(grid.ErrWorkload, fmt.Sprintf("%d bytes is not a size in whole GiB", r.Size))
			continue
		default:
			if err := d.Validate(); err != nil {
				out[i].Err = c.explain(ctx, fmt.Errorf("%q: %w", r.Name, err), grid.ErrName)
				continue
			}
		}
		seen[k] = true
		if _, err := c.nodeClient(ctx, r.Node); err != nil {
			out[i].Err = err
			continue
		}
		good = append(good, i)
	}
	return good
}

func (c *Client) wanted(r grid.Request) *Workloads {
	mode := modeSeq
	if r.Role == backend.Meta {
		mode = modeUser
	}
	project := r.Project
	if project == "" {
		project = projects + r.Name
	}
	d := NewDeployment(r.Name, r.Node, project, nil, "", nil,
		[]ZDB{{Name: r.Name, Password: r.Password.Reveal(), SizeGB: uint64(r.Size) / gigabyte, Mode: mode}}, nil, nil, nil, nil) //nolint:gosec // checked: positive
	return &d
}

func (c *Client) nodeClient(ctx context.Context, node uint32) (*NodeClient, error) {
	n, err := within(ctx, c, func() (*NodeClient, error) { return c.plugin.NcPool.GetNodeClient(c.plugin.SubstrateConn, node) })
	if err != nil {
		return nil, c.explain(ctx, err, grid.ErrNetwork)
	}
	return n, nil
}

// batch is one extrinsic. What has a contract afterwards is there, whatever the SDK
// says beside it. Its error is what no request explains.
func (c *Client) batch(ctx context.Context, list []grid.Request, which []int, out []grid.Deployed) (left error, abandoned bool) {
	wanted := make([]*Workloads, len(which))
	for k, i := range which {
		c.secrets.add(list[i].Password)
		wanted[k] = c.wanted(list[i])
	}
	during, cancel := context.WithTimeout(ctx, batchTime)
	defer cancel()
	done := make(chan error, 1)
	c.calls.Add(1)
	go func() {
		defer c.calls.Done()
		done <- c.deployer.BatchDeploy(during, wanted)
	}()
	var err error
	select {
	case err = <-done:
	case <-during.Done():
		select {
		case err = <-done:
		case <-time.After(afterCancel):
			// What it works on belongs to it still.
			err := fmt.Errorf("the SDK did not end with its call: %w", context.Cause(during))
			failed(out, which, err)
			return err, true
		}
	}
	return c.sort(ctx, err, wanted, which, out), false
}

// sort gives each request that has no contract the errors that name it, or its
// node, and returns those that name none.
func (c *Client) sort(ctx context.Context, err error, wanted []*Workloads, which []int, out []grid.Deployed) error {
	var rest []error
	mine := make([][]error, len(which))
	for _, e := range leaves(err) {
		k := slices.IndexFunc(wanted, func(w *Workloads) bool { return w.ContractID == 0 && mentions(e.Error(), "workload", w.Name) })
		if k >= 0 {
			mine[k] = append(mine[k], e)
			continue
		}
		found := false
		for k, w := range wanted {
			if w.ContractID == 0 && mentions(e.Error(), "node", fmt.Sprint(w.NodeID)) {
				mine[k] = append(mine[k], e)
				found = true
			}
		}
		if !found {
			rest = append(rest, e)
		}
	}
	blamed := false // some request has no contract, and only what is left explains it
	for k, i := range which {
		switch {
		case wanted[k].ContractID != 0:
			out[i] = grid.Deployed{Contract: wanted[k].ContractID}
		case ctx.Err() != nil:
			out[i].Err = context.Cause(ctx)
		case len(mine[k]) > 0:
			out[i].Err = c.explain(ctx, errors.Join(mine[k]...), grid.ErrRefused)
		default:
			blamed = true
			why := errors.Join(rest...)
			if why == nil {
				why = errors.New("failed to create contracts: the SDK gave neither contract nor error")
			}
			out[i].Err = c.explain(ctx, why, grid.ErrInterrupted)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(rest) == 0 {
		return nil
	}
	why := errors.Join(rest...)
	if !blamed && !strings.Contains(why.Error(), "cancel") {
		c.log.Info("the SDK complains, though everything was deployed", "err", c.secrets.scrub(why.Error()))
		return nil
	}
	return c.explain(ctx, why, grid.ErrInterrupted)
}

// mentions says whether a text has `what name` in it, as words.
func mentions(text, what, name string) bool {
	return regexp.MustCompile(`\b` + what + ` ` + regexp.QuoteMeta(name) + `\b`).MatchString(text)
}
