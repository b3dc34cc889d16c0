package sdk

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	substrate "github.com/threefoldtech/tfchain/clients/tfchain-client-go"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/grid"
)

// secrets are texts that must not get out.
type secrets struct {
	mu   sync.Mutex
	list []string
}

func newSecrets(s ...backend.Secret) *secrets {
	x := &secrets{}
	for _, one := range s {
		x.add(one)
	}
	return x
}

func (x *secrets) add(s backend.Secret) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if t := s.Reveal(); t != "" && !slices.Contains(x.list, t) {
		x.list = append(x.list, t)
	}
}

func (x *secrets) scrub(text string) string {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, s := range x.list {
		text = strings.ReplaceAll(text, s, backend.Secret(s).String())
	}
	return text
}

// signs are parts of what chain, relay, proxy and nodes say, in the order in which
// they are looked for.
var signs = []struct {
	text string
	kind error
}{
	{"min fee is 2 tft", grid.ErrFunds},
	{"InsufficientBalance", grid.ErrFunds},
	{"Inability to pay some fees", grid.ErrFunds},
	{"account balance too low", grid.ErrFunds},
	{"is not verified", grid.ErrUnverified},
	{"only verified users", grid.ErrUnverified},
	{"no twin associated", grid.ErrMnemonic},
	{substrate.ErrAccountNotFound.Error(), grid.ErrMnemonic},
	{"error getting identity", grid.ErrMnemonic},
	{"account with", grid.ErrMnemonic}, // of another key type
	{"name is invalid", grid.ErrName},
	{"no more free devices found", grid.ErrCapacity},
	{"failed to satisfy required capacity", grid.ErrCapacity},
	{"couldn't allocate device", grid.ErrCapacity},
	{"not have enough resources", grid.ErrCapacity},
	{"waiting for deployment", grid.ErrWorkload}, // it answers, without a result
	{"failed with error", grid.ErrWorkload},
	{"is deleted", grid.ErrWorkload},
	{"is paused", grid.ErrWorkload},
	{"was not updated", grid.ErrWorkload},
	{"failed to create contracts", grid.ErrInterrupted},
	{"context deadline exceeded", grid.ErrNodeDown}, // the question's own time
	{"timed out", grid.ErrNodeDown},
	{"error sending deployment", grid.ErrRefused},
	{"could not get substrate client", grid.ErrNetwork},
	{"could not create rmb client", grid.ErrNetwork},
	{"rmb proxy server", grid.ErrNetwork},
}

// remedies by kind.
var remedies = map[error]string{
	grid.ErrFunds:       "send TFT to the account: `quantumd deploy --dry-run` shows its address and what is missing",
	grid.ErrNetwork:     "check `network` (main, test, qa or dev) and this machine's way to the internet, then try again",
	grid.ErrMnemonic:    "check the mnemonic and `network`: an account of one network is unknown on the others",
	grid.ErrUnverified:  "verify the account at https://dashboard.grid.tf",
	grid.ErrNodeDown:    "try again later; a node that does not answer still has what it holds",
	grid.ErrCapacity:    "another node is needed: leave this one out with `exclude_nodes`",
	grid.ErrWorkload:    "another node is needed: leave this one out with `exclude_nodes`",
	grid.ErrRefused:     "another node is needed: leave this one out with `exclude_nodes`",
	grid.ErrName:        "use letters and digits, and at most 36 characters for deployment, twin, role and node together",
	grid.ErrInterrupted: "try again: what the chain did make is found there",
}

// explain makes a grid.Error of an error: of the kind that its text tells, or else
// of the one given. The end of ctx stays what it is.
func (c *Client) explain(ctx context.Context, err error, kind error) error {
	return explain(ctx, err, kind, c.secrets)
}

func explain(ctx context.Context, err error, kind error, x *secrets) error {
	var known *grid.Error
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &known):
		return err
	}
	text := x.scrub(strings.TrimSpace(err.Error()))
	for _, s := range signs {
		if s.kind == grid.ErrNodeDown && kind == grid.ErrNetwork {
			continue // nobody asked a node
		}
		if strings.Contains(text, s.text) {
			kind = s.kind
			break
		}
	}
	return &grid.Error{Kind: kind, Msg: short(text), Remedy: remedies[kind]}
}

// short is for whole pages that servers in between answer with.
func short(text string) string {
	const most = 1000
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

func problem(kind error, msg string) error {
	return &grid.Error{Kind: kind, Msg: msg, Remedy: remedies[kind]}
}

// leaves are the single errors of a lump.
func leaves(err error) []error {
	if err == nil {
		return nil
	}
	var lump interface{ WrappedErrors() []error }
	if !errors.As(err, &lump) {
		return []error{err}
	}
	var out []error
	for _, e := range lump.WrappedErrors() {
		out = append(out, leaves(e)...)
	}
	return out
}

// Explain is what Open does with an error of the SDK: a grid.Error without the
// mnemonic.
func Explain(ctx context.Context, err error, mnemonic backend.Secret) error {
	return explain(ctx, err, grid.ErrNetwork, newSecrets(mnemonic))
}
