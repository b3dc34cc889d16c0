package sdk

import (
	"context"
	"log/slog"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/centrifuge/go-substrate-rpc-client/v4/types"
	substrate "github.com/threefoldtech/tfchain/clients/tfchain-client-go"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/grid"
)

// What is used of the SDK's clients, so that a double needs no more.
type (
	// chain is a strict subset of SubstrateExt.
	chain interface {
		GetBalance(id substrate.Identity) (substrate.Balance, error)
		GetTFTPrice() (types.U32, error)
		GetPricingPolicy(id uint32) (substrate.PricingPolicy, error)
		GetContract(id uint64) (ChainContract, error)
		BatchCancelContract(id substrate.Identity, contracts []uint64) error
		EnsureContractCanceled(id substrate.Identity, contract uint64) error
	}
	// nodeContracts is what the SDK's own chain has beside SubstrateExt.
	nodeContracts interface {
		GetNodeContracts(node uint32) ([]types.U64, error)
	}
	// batchDeployer is a DeploymentDeployer.
	batchDeployer interface {
		BatchDeploy(ctx context.Context, list []*Workloads) error
	}
)

// Parts is what a Client is made of.
type Parts struct {
	Plugin    *PluginClient // every field that BatchDeploy and NodeClients need
	ProxyURLs []string      // one after the other is asked
	Mnemonic  backend.Secret
	Close     func()       // of what Plugin holds; nil: nothing
	Logger    *slog.Logger // nil: discard
}

// Client is a grid.Client. What writes to the chain runs one at a time: the SDK
// numbers transactions without a lock.
type Client struct {
	plugin   *PluginClient
	chain    chain
	deployer batchDeployer
	urls     []string
	http     *http.Client
	log      *slog.Logger
	secrets  *secrets
	close    func()

	write  chan struct{} // holds one token: who has it may write
	calls  sync.WaitGroup
	closed sync.Once
}

var _ grid.Client = (*Client)(nil)

// New makes a Client of parts that are connected.
func New(p Parts) *Client {
	if p.Logger == nil {
		p.Logger = slog.New(slog.DiscardHandler)
	}
	if p.Close == nil {
		p.Close = func() {}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = 20 * time.Second
	deployer := NewDeploymentDeployer(p.Plugin)
	c := &Client{
		plugin: p.Plugin, chain: p.Plugin.SubstrateConn, deployer: &deployer,
		urls: withSlash(p.ProxyURLs), http: &http.Client{Transport: transport, Timeout: time.Minute},
		log: p.Logger, secrets: newSecrets(p.Mnemonic), close: p.Close, write: make(chan struct{}, 1),
	}
	c.write <- struct{}{}
	return c
}

func withSlash(urls []string) []string {
	urls = slices.Clone(urls)
	for i, u := range urls {
		urls[i] = strings.TrimRight(u, "/") + "/"
	}
	return urls
}

// waitAtEnd bounds how long Close waits for calls that the SDK does not end with
// their contexts.
const waitAtEnd = 5 * time.Second

// Close ends the connections. Calls that run fail.
func (c *Client) Close() error {
	c.closed.Do(func() {
		c.close()
		c.http.CloseIdleConnections()
		ended := make(chan struct{})
		go func() { c.calls.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(waitAtEnd):
			c.log.Warn("calls to the grid did not end with their connection")
		}
	})
	return nil
}

// within runs f, which does not know of contexts, and leaves it to itself when ctx
// ends before it.
func within[T any](ctx context.Context, c *Client, f func() (T, error)) (T, error) {
	type answer struct {
		v   T
		err error
	}
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	done := make(chan answer, 1)
	c.calls.Add(1)
	go func() {
		defer c.calls.Done()
		v, err := f()
		done <- answer{v, err}
	}()
	select {
	case a := <-done:
		return a.v, a.err
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
}

// lock waits for the right to write to the chain.
func (c *Client) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case <-c.write:
		return func() { c.write <- struct{}{} }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

const (
	tft    = 1e7 // units of the chain
	minTFT = 2   // what an account must have before the SDK lets it do anything
)

// Account tells who pays.
func (c *Client) Account(ctx context.Context) (grid.Account, error) {
	a := grid.Account{Twin: c.plugin.TwinID, Address: c.plugin.Identity.Address()}
	var err error
	if a.TFT, err = c.balance(ctx); err != nil {
		return grid.Account{}, err
	}
	price, err := within(ctx, c, c.chain.GetTFTPrice)
	if err != nil {
		return grid.Account{}, c.explain(ctx, err, grid.ErrNetwork)
	}
	a.TFTPrice = float64(price) / 1000 // the chain has thousandths of a US dollar
	return a, nil
}

func (c *Client) balance(ctx context.Context) (float64, error) {
	b, err := within(ctx, c, func() (substrate.Balance, error) { return c.chain.GetBalance(c.plugin.Identity) })
	if err != nil {
		return 0, c.explain(ctx, err, grid.ErrNetwork)
	}
	if b.Free.Int == nil {
		return 0, nil
	}
	f, _ := new(big.Rat).SetFrac(b.Free.Int, big.NewInt(tft)).Float64()
	return f, nil
}

// Price reads the pricing policy itself. The SDK's calculator cuts sizes down to
// multiples of 1200 GiB, so that a smaller zdb costs nothing, and its result is in
// no unit: it divides by the price of TFT and by a thousand.
func (c *Client) Price(ctx context.Context, size int64, certified bool) (float64, error) {
	p, err := within(ctx, c, func() (substrate.PricingPolicy, error) { return c.chain.GetPricingPolicy(pricingPolicy) })
	if err != nil {
		return 0, c.explain(ctx, err, grid.ErrNetwork)
	}
	const (
		hddPerSU = 1200 * gigabyte // a storage unit
		dollars  = 1e7             // units of the policy, for an hour
		hours    = 24 * 30
	)
	usd := float64(size) / float64(hddPerSU) * float64(p.SU.Value) / dollars * hours
	if certified {
		usd *= 1.25
	}
	return usd, nil
}

const pricingPolicy = 1 // the one that every farm has
