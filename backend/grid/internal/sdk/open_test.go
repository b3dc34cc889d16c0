package sdk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/centrifuge/go-substrate-rpc-client/v4/types"
	zlog "github.com/rs/zerolog/log"
	"github.com/stretchr/testify/require"
	substrate "github.com/threefoldtech/tfchain/clients/tfchain-client-go"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/backend/grid/sdkprocess"
)

const phrase backend.Secret = "legal winner thank year wave sausage worth useful legal winner thank yellow"

// nowhere is an address that the SDK takes and where nobody answers.
var nowhere = []string{"wss://127.0.0.1:1"}

// TestOpenContains runs the SDK's real constructor, as far as it comes without a
// network: what it does to the process is undone, and its telemetry has no address.
func TestOpenContains(t *testing.T) {
	t.Setenv("SENTRY_DSN", "https://key@example.org/1")
	var std, ours bytes.Buffer
	before := log.Writer()
	log.SetOutput(&std)
	defer log.SetOutput(before)
	after := zlog.Logger
	defer func() { zlog.Logger = after }()

	o := sdkprocess.Options{Mnemonic: phrase, Network: "main", SubstrateURLs: nowhere, Logger: slog.New(slog.NewTextHandler(&ours, nil))}
	_, err := Open(t.Context(), o)
	require.ErrorIs(t, err, grid.ErrNetwork)
	require.ErrorContains(t, err, "could not get substrate client")
	require.NotContains(t, err.Error(), "winner")

	log.Print("still heard")
	require.Contains(t, std.String(), "still heard")
	require.Empty(t, os.Getenv("SENTRY_DSN"))
	require.NotEmpty(t, SentryDSN)
	for network, dsn := range SentryDSN {
		require.Empty(t, dsn, network)
	}
	zlog.Error().Str("who", phrase.Reveal()).Msg("trouble with " + phrase.Reveal())
	zlog.Debug().Msg("a deployment with its passwords")
	require.Contains(t, ours.String(), `level=WARN msg="trouble with [hidden]"`)
	require.Contains(t, ours.String(), "who=[hidden]")
	require.NotContains(t, ours.String(), "passwords")
}

// TestOpenEnds: the SDK's constructor knows no context.
func TestOpenEnds(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	after := zlog.Logger
	_, err := Open(ctx, sdkprocess.Options{Mnemonic: phrase, Network: "dev", SubstrateURLs: nowhere})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	constructing.Lock() // until what was left to itself has ended
	zlog.Logger = after
	constructing.Unlock()
}

// TestLeak: the SDK does repeat a mnemonic in its errors, and Open does not.
func TestLeak(t *testing.T) {
	after := zlog.Logger
	defer func() { zlog.Logger = after }()
	const wrong = "legal winner thank year"
	_, raw := construct(wrong, []PluginOpt{WithNetwork("dev")}, slog.New(slog.DiscardHandler), newSecrets(wrong))
	require.ErrorContains(t, raw, wrong, "if this fails the SDK has improved")
	err := explain(t.Context(), raw, grid.ErrNetwork, newSecrets(wrong))
	require.NotContains(t, err.Error(), "winner")
	_, err = Open(t.Context(), sdkprocess.Options{Mnemonic: wrong, Network: "dev"})
	require.ErrorIs(t, err, grid.ErrMnemonic)
	require.NotContains(t, err.Error(), "winner")
}

// TestMnemonic: the list of words that the SDK checks against does not find two words
// that changed places.
func TestMnemonic(t *testing.T) {
	t.Parallel()
	got, err := Mnemonic("  " + phrase[:12] + "\n\t" + phrase[12:] + "\n")
	require.NoError(t, err)
	require.Equal(t, phrase, got)
	_, err = Mnemonic("winner legal thank year wave sausage worth useful legal winner thank yellow")
	require.ErrorIs(t, err, grid.ErrMnemonic)
	require.ErrorContains(t, err, "checksum")
	require.NotContains(t, err.Error(), "winner")
}

// TestRelay: the option that makes the SDK write to the chain is given to it only
// where somebody asked for it. The options are functions, so they are counted.
func TestRelay(t *testing.T) {
	t.Parallel()
	bare := len(options(sdkprocess.Options{Network: "main"}))
	require.Len(t, options(sdkprocess.Options{Network: "main", RelayURL: "wss://relay.example.org"}), bare+1)
	require.Equal(t, []string{"https://gridproxy.grid.tf/", "https://gridproxy.02.grid.tf/"}, proxies(sdkprocess.Options{Network: "main"}))
	require.Equal(t, []string{"p"}, proxies(sdkprocess.Options{Network: "main", ProxyURL: "p"}))
}

// priceList is a chain with prices alone.
type priceList struct{ SubstrateExt }

func (priceList) GetTFTPrice() (types.U32, error) { return 17, nil }
func (priceList) GetPricingPolicy(uint32) (substrate.PricingPolicy, error) {
	return substrate.PricingPolicy{SU: substrate.Policy{Value: 50000}}, nil
}

// TestPrice: where the SDK's calculator does not cut the size down, ours gives the
// same, once its result is brought to dollars; where it does, ours is not zero.
func TestPrice(t *testing.T) {
	t.Parallel()
	c := &Client{chain: onlyPrices{}}
	sdks := NewCalculator(priceList{}, nil)
	for _, certified := range []bool{false, true} {
		for _, units := range []int64{1, 2, 7} {
			ours, err := c.Price(t.Context(), units*1200<<30, certified)
			require.NoError(t, err)
			theirs, err := sdks.CalculateCost(0, 0, units*1200, 0, false, certified)
			require.NoError(t, err)
			require.InEpsilon(t, ours, theirs*17*1000/1e7, 1e-12)
		}
	}
	theirs, err := sdks.CalculateCost(0, 0, 1199, 0, false, false)
	require.NoError(t, err)
	require.Zero(t, theirs)
	ours, err := c.Price(t.Context(), 1199<<30, false)
	require.NoError(t, err)
	require.InDelta(t, 3.6, ours, 0.01)
}

type onlyPrices struct{ chain }

func (onlyPrices) GetPricingPolicy(id uint32) (substrate.PricingPolicy, error) {
	return priceList{}.GetPricingPolicy(id)
}

// TestExplain: what chain, relay, proxy and nodes say, and what we make of it.
func TestExplain(t *testing.T) {
	t.Parallel()
	for text, kind := range map[string]error{
		"account contains 1.000000 tft, min fee is 2 tft":                                                                     grid.ErrFunds,
		"failed to create contracts: Invalid Transaction: Inability to pay some fees (e.g. account balance too low)":          grid.ErrFunds,
		"failed to get twin for the given mnemonic/seed x: no twin associated with the account":                               grid.ErrMnemonic,
		"could not validate substrate account: failed to get account with the given mnemonics: account not found":             grid.ErrMnemonic,
		"found an account with ed25519 key type and the same mnemonics":                                                       grid.ErrMnemonic,
		"only verified users can deploy, please visit https://dashboard.grid.tf/: user with twin id 5 is not verified":        grid.ErrUnverified,
		"could not get substrate client: error connecting to substrate at 'wss://x': dial tcp: i/o timeout":                   grid.ErrNetwork,
		"could not create rmb client: failed to connect to any relay":                                                         grid.ErrNetwork,
		"error waiting deployment on node 1: workload a within deployment 5 failed with error: no more free devices found":    grid.ErrCapacity,
		"error waiting deployment on node 1: workload a within deployment 5 failed with error: failed to start zdb container": grid.ErrWorkload,
		"error waiting deployment on node 1: waiting for deployment 5 timed out":                                              grid.ErrWorkload,
		"error sending deployment with contract id 5 to node 1: context deadline exceeded":                                    grid.ErrNodeDown,
		"error sending deployment with contract id 5 to node 1: twin not authorized":                                          grid.ErrRefused,
		"deployment name is invalid: name cannot exceed 36 characters":                                                        grid.ErrName,
		"failed to create contracts": grid.ErrInterrupted,
		"something new":              grid.ErrRefused,
	} {
		err := explain(t.Context(), fmt.Errorf("wrapped: %w", errors.New(text)), grid.ErrRefused, newSecrets())
		require.ErrorIs(t, err, kind, text)
		var known *grid.Error
		require.ErrorAs(t, err, &known)
		require.NotEmpty(t, known.Hint(), text)
	}
	long := explain(t.Context(), errors.New(string(bytes.Repeat([]byte("€"), 1<<16))), grid.ErrNetwork, newSecrets())
	require.Less(t, len(long.Error()), 2000)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Equal(t, context.Canceled, explain(ctx, errors.New("x"), grid.ErrNetwork, newSecrets()))
}
