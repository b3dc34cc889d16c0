package sdkprocess

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/threefoldtech/quantumd/backend/grid"
)

// Client is a grid.Client whose work is done by a child process.
type Client struct {
	command []string
	o       Options
	log     *slog.Logger
	turn    chan struct{} // one token: who has it may look at the following
	child   *child        // nil: the next call starts one
	closed  bool
}

var _ grid.Client = (*Client)(nil)

// Start runs a program that calls Main, and waits until it is connected. ctx is for
// that alone. A password or mnemonic is in no argument and no variable of it.
func Start(ctx context.Context, command []string, o Options) (grid.Client, error) {
	if len(command) == 0 {
		return nil, errors.New("grid SDK's process: no command")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.AfterCancel <= 0 {
		o.AfterCancel = afterCancelDeploy
	}
	c := &Client{command: command, o: o, log: o.Logger, turn: make(chan struct{}, 1)}
	c.turn <- struct{}{}
	if _, err := c.running(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// running gives the child, a new one where the last has ended.
func (c *Client) running(ctx context.Context) (*child, error) {
	select {
	case <-c.turn:
		defer func() { c.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if c.closed {
		return nil, errClosed
	}
	if c.child != nil {
		select {
		case <-c.child.gone:
			c.log.Warn("the grid SDK's process has ended, another is started", "err", c.child.err)
			c.child = nil
		default:
			return c.child, nil
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	n, err := start(c.command, c.o, c.log)
	if err != nil {
		return nil, err
	}
	answer, err := n.do(ctx, message{Open: c.o.wire()}, 0)
	if err == nil {
		err = answer.Error.error()
	}
	if err != nil {
		n.end()
		return nil, err
	}
	c.child = n
	return n, nil
}

// call asks the child, and another one where the first did not even get the question.
func call[A, R any](ctx context.Context, c *Client, name string, args A, wait time.Duration) (R, error) {
	var out R
	text, err := json.Marshal(args)
	if err != nil {
		return out, err
	}
	if err := ctx.Err(); err != nil {
		return out, context.Cause(ctx)
	}
	for again := false; ; again = true {
		n, err := c.running(ctx)
		if err != nil {
			return out, err
		}
		m, err := n.do(ctx, message{Call: name, Args: text}, min(wait, c.o.AfterCancel))
		if errors.Is(err, errUnsent) && !again {
			<-n.gone
			continue
		}
		if err != nil {
			return out, err
		}
		if len(m.Result) > 0 {
			if err := json.Unmarshal(m.Result, &out); err != nil {
				return out, fmt.Errorf("grid SDK's process: an answer of %d bytes to %s cannot be read", len(m.Result), name)
			}
		}
		return out, m.Error.error()
	}
}

// Account is of grid.Client, as the following.
func (c *Client) Account(ctx context.Context) (grid.Account, error) {
	return call[any, grid.Account](ctx, c, "Account", nil, afterCancel)
}

// Nodes lists nodes.
func (c *Client) Nodes(ctx context.Context, f grid.NodeFilter) ([]grid.Node, error) {
	return call[grid.NodeFilter, []grid.Node](ctx, c, "Nodes", f, afterCancel)
}

// Contracts lists contracts by the index.
func (c *Client) Contracts(ctx context.Context) ([]grid.Contract, error) {
	return call[any, []grid.Contract](ctx, c, "Contracts", nil, afterCancel)
}

// OnNode lists contracts by the chain.
func (c *Client) OnNode(ctx context.Context, node uint32) ([]grid.Contract, error) {
	return call[uint32, []grid.Contract](ctx, c, "OnNode", node, afterCancel)
}

// Deploy makes contracts.
func (c *Client) Deploy(ctx context.Context, list []grid.Request) ([]grid.Deployed, error) {
	in := make([]request, len(list))
	for i, r := range list {
		in[i] = request{Request: r, Password: r.Password.Reveal()}
	}
	got, err := call[[]request, []deployed](ctx, c, "Deploy", in, c.o.AfterCancel)
	out := make([]grid.Deployed, len(list))
	for i := range out {
		switch {
		case i < len(got):
			out[i] = grid.Deployed{Contract: got[i].Contract, Err: got[i].Error.error()}
		case err != nil:
			out[i].Err = err
		default:
			out[i].Err = &grid.Error{Kind: grid.ErrCrashed, Msg: "it did not answer to this request"}
		}
	}
	return out, err
}

// Read asks a node.
func (c *Client) Read(ctx context.Context, node uint32, contract uint64) (grid.Zdb, error) {
	return call[where, grid.Zdb](ctx, c, "Read", where{node, contract}, afterCancel)
}

// Cancel ends contracts.
func (c *Client) Cancel(ctx context.Context, contracts ...uint64) error {
	_, err := call[[]uint64, any](ctx, c, "Cancel", contracts, afterCancel)
	return err
}

// Price asks for a price.
func (c *Client) Price(ctx context.Context, size int64, certified bool) (float64, error) {
	return call[priced, float64](ctx, c, "Price", priced{size, certified}, afterCancel)
}

// Close ends the child; calls that run fail.
func (c *Client) Close() error {
	<-c.turn
	defer func() { c.turn <- struct{}{} }()
	c.closed = true
	if c.child != nil {
		c.child.end()
		c.child = nil
	}
	return nil
}
