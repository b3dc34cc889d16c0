package sdk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/threefoldtech/quantumd/backend/grid"
)

const (
	maxCancel = 100 // contracts in one transaction
	gone      = "ContractNotExists"
)

// Cancel ends contracts. The chain's batch is all or nothing, so those that are gone
// are left out, and where it fails nevertheless each contract is on its own.
func (c *Client) Cancel(ctx context.Context, contracts ...uint64) error {
	there, err := c.there(ctx, contracts)
	if err != nil {
		return err
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	var all []error
	for some := range slices.Chunk(there, maxCancel) {
		err := c.run(ctx, func() error { return c.chain.BatchCancelContract(c.plugin.Identity, some) })
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		c.log.Info("contracts cannot be cancelled together", "err", c.secrets.scrub(err.Error()))
		for _, id := range some {
			if err := c.cancelOne(ctx, id); err != nil {
				all = append(all, err)
			}
		}
	}
	return errors.Join(all...)
}

func (c *Client) run(ctx context.Context, f func() error) error {
	_, err := within(ctx, c, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

func (c *Client) cancelOne(ctx context.Context, id uint64) error {
	k, err := c.contract(ctx, id)
	if err != nil || k == nil {
		return err
	}
	err = c.run(ctx, func() error { return c.chain.EnsureContractCanceled(c.plugin.Identity, id) })
	if err != nil && strings.Contains(err.Error(), gone) {
		return nil
	}
	if err != nil {
		return c.explain(ctx, fmt.Errorf("contract %d: %w", id, err), grid.ErrNetwork)
	}
	return nil
}

// there are the contracts that exist. One of another account would fail a batch.
func (c *Client) there(ctx context.Context, contracts []uint64) ([]uint64, error) {
	var out []uint64
	for _, id := range contracts {
		if id == 0 || slices.Contains(out, id) {
			continue
		}
		k, err := c.contract(ctx, id)
		if err != nil {
			return nil, err
		}
		if k == nil {
			continue
		}
		if uint32(k.TwinID) != c.plugin.TwinID {
			return nil, problem(grid.ErrRefused, fmt.Sprintf("contract %d is of twin %d, not of this account", id, k.TwinID))
		}
		out = append(out, id)
	}
	return out, nil
}
