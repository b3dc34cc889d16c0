package gridtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"strings"
	"time"

	"github.com/centrifuge/go-substrate-rpc-client/v4/types"
	substrate "github.com/threefoldtech/tfchain/clients/tfchain-client-go"
	proxy "github.com/threefoldtech/tfgrid-sdk-go/grid-proxy/pkg/client"
	"github.com/threefoldtech/tfgrid-sdk-go/rmb-sdk-go"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/backend/grid/internal/sdk"
	"github.com/threefoldtech/quantumd/backend/grid/sdkprocess"
)

// Dial gives a client of the grid at url, for the account that every grid has.
func Dial(ctx context.Context, url string) (grid.Client, error) {
	return Open(ctx, sdkprocess.Options{Mnemonic: Mnemonic, Network: "dev", ProxyURL: url})
}

// Open is tfgrid.Open for the grid at o.ProxyURL: it checks and answers what that
// one does.
func Open(ctx context.Context, o sdkprocess.Options) (grid.Client, error) {
	phrase, err := sdk.Mnemonic(o.Mnemonic)
	if err != nil {
		return nil, err
	}
	if err := sdk.CheckNetwork(o.Network); err != nil {
		return nil, err
	}
	p, err := plugin(ctx, phrase, o)
	if err != nil {
		return nil, sdk.Explain(ctx, err, phrase)
	}
	return sdk.New(sdk.Parts{Plugin: p, ProxyURLs: []string{o.ProxyURL}, Mnemonic: phrase, Logger: o.Logger}), nil
}

// plugin is what NewTFPluginClient does, with its errors, in its order.
func plugin(ctx context.Context, phrase backend.Secret, o sdkprocess.Options) (*sdk.PluginClient, error) {
	id, err := identity(phrase)
	if err != nil {
		return nil, fmt.Errorf("error getting identity using '%s'", phrase.Reveal()) // as the SDK has it: the caller must not pass it on
	}
	url := strings.TrimRight(o.ProxyURL, "/") + "/"
	c := &remoteChain{url: url, address: id.Address()}
	if _, err := c.call("GetAccount", chainCall{}); err != nil {
		if errors.Is(err, substrate.ErrAccountNotFound) {
			return nil, fmt.Errorf("could not validate substrate account: failed to get account with the given mnemonics: %w", err)
		}
		return nil, fmt.Errorf("could not get substrate client: %w", err)
	}
	b, err := c.GetBalance(id)
	if err != nil {
		return nil, err
	}
	if b.Free.Cmp(big.NewInt(2e7)) < 0 {
		return nil, fmt.Errorf("account contains %f tft, min fee is 2 tft", float64(b.Free.Int64())/1e7)
	}
	twin, err := c.GetTwinByPubKey(id.PublicKey())
	if errors.Is(err, substrate.ErrNotFound) {
		return nil, fmt.Errorf("no twin associated with the account with the given mnemonic/seed: %w", err)
	}
	if err != nil {
		return nil, err
	}
	if a, err := c.call("Verified", chainCall{}); err != nil {
		return nil, err
	} else if a.N == 0 {
		return nil, fmt.Errorf("only verified users can deploy, please visit https://dashboard.grid.tf/ to verify your account: user with twin id %d is not verified", twin)
	}
	px := proxy.NewClient(url)
	if err := px.Ping(); err != nil {
		return nil, fmt.Errorf("could not validate rmb proxy server: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	wait := o.RMBTimeout
	if wait <= 0 {
		wait = 30 * time.Second
	}
	p := &sdk.PluginClient{TwinID: twin, Identity: id, Network: o.Network, RMBTimeout: wait, SubstrateConn: c, GridProxyClient: px, RMB: &bus{url: url, twin: twin}}
	p.NcPool = sdk.NewNodeClientPool(p.RMB, wait)
	p.State = sdk.NewState(p.NcPool, c)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Logger.Debug("a grid of gridtest", "url", url)
	return p, nil
}

// remoteChain is the chain's client. What it does not override is not used.
type remoteChain struct {
	sdk.SubstrateExt
	url     string
	address string
}

func post(ctx context.Context, url string, in, out any) error {
	text, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(text))
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close() //nolint:errcheck // read only
	if text, err = io.ReadAll(io.LimitReader(res.Body, 16<<20)); err != nil {
		return err
	}
	return json.Unmarshal(text, out)
}

func (c *remoteChain) call(method string, in chainCall) (chainAnswer, error) {
	in.Address = c.address
	var out chainAnswer
	// The SDK's chain has no contexts.
	if err := post(context.Background(), c.url+"chain/"+method, in, &out); err != nil {
		return out, err
	}
	switch {
	case out.NotFound:
		return out, substrate.ErrNotFound
	case out.NoAccount:
		return out, substrate.ErrAccountNotFound
	case out.Error != "":
		return out, errors.New(out.Error)
	}
	return out, nil
}

func (c *remoteChain) Close() {}

func (c *remoteChain) GetBalance(substrate.Identity) (substrate.Balance, error) {
	a, err := c.call("GetBalance", chainCall{})
	return substrate.Balance{Free: types.NewU128(*big.NewInt(a.Units))}, err
}

func (c *remoteChain) GetTFTPrice() (types.U32, error) {
	a, err := c.call("GetTFTPrice", chainCall{})
	return types.U32(a.N), err //nolint:gosec // it was one
}

func (c *remoteChain) GetPricingPolicy(uint32) (substrate.PricingPolicy, error) {
	a, err := c.call("GetPricingPolicy", chainCall{})
	return substrate.PricingPolicy{ID: 1, Name: "gridtest", SU: substrate.Policy{Value: types.U32(a.N)}}, err //nolint:gosec // it was one
}

func (c *remoteChain) GetTwinByPubKey(pk []byte) (uint32, error) {
	a, err := c.call("GetTwin", chainCall{Key: pk})
	return uint32(a.N), err //nolint:gosec // it was one
}

func (c *remoteChain) GetNodeTwin(id uint32) (uint32, error) {
	a, err := c.call("GetNodeTwin", chainCall{ID: uint64(id)})
	return uint32(a.N), err //nolint:gosec // it was one
}

func (c *remoteChain) GetContract(id uint64) (sdk.ChainContract, error) {
	a, err := c.call("GetContract", chainCall{ID: id})
	if err != nil || a.Contract == nil {
		return sdk.ChainContract{}, err
	}
	k := &substrate.Contract{ContractID: types.U64(id), TwinID: types.U32(a.Contract.Twin),
		State: substrate.ContractState{IsCreated: a.Contract.State == Created, IsGracePeriod: a.Contract.State == Grace}}
	switch a.Contract.Kind {
	case nodeKind:
		k.ContractType.IsNodeContract = true
		k.ContractType.NodeContract = substrate.NodeContract{Node: types.U32(a.Contract.Node), DeploymentHash: substrate.NewHexHash(a.Contract.Hash), DeploymentData: a.Contract.Data}
	case rentKind:
		k.ContractType.IsRentContract = true
	default:
		k.ContractType.IsNameContract = true
	}
	return sdk.ChainContract{Contract: k}, nil
}

// GetNodeContracts is not of SubstrateExt, but the SDK's own chain has it.
func (c *remoteChain) GetNodeContracts(node uint32) ([]types.U64, error) {
	a, err := c.call("GetNodeContracts", chainCall{ID: uint64(node)})
	out := make([]types.U64, len(a.IDs))
	for i, id := range a.IDs {
		out[i] = types.U64(id)
	}
	return out, err
}

func (c *remoteChain) GetContractIDByNameRegistration(string) (uint64, error) {
	a, err := c.call("GetContractIDByNameRegistration", chainCall{})
	return a.N, err
}

func (c *remoteChain) BatchCreateContract(_ substrate.Identity, list []substrate.BatchCreateContractData) ([]uint64, *int, error) {
	a, err := c.call("BatchCreateContract", chainCall{New: list})
	return a.IDs, a.Index, err
}

func (c *remoteChain) BatchCancelContract(_ substrate.Identity, ids []uint64) error {
	_, err := c.call("BatchCancelContract", chainCall{Contracts: ids})
	return err
}

func (c *remoteChain) EnsureContractCanceled(_ substrate.Identity, id uint64) error {
	if id == 0 {
		return nil
	}
	_, err := c.call("EnsureContractCanceled", chainCall{ID: id})
	return err
}

// bus is the relay's client.
type bus struct {
	url  string
	twin uint32
}

var _ rmb.Client = (*bus)(nil)

// Call goes through JSON both ways, as the real one does. Where a node gives no
// answer it ends as the real one does after its time, but at once.
func (b *bus) Call(ctx context.Context, twin uint32, fn string, data, result any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	var a answer
	if err := post(ctx, b.url+"rmb", question{From: b.twin, To: twin, Fn: fn, Data: text}, &a); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	switch {
	case a.Silent:
		return context.DeadlineExceeded
	case a.Error != "":
		return errors.New(a.Error)
	case result == nil:
		return nil
	}
	return json.Unmarshal(a.Result, result)
}
