package sdkprocess

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/grid"
)

// opening is Options on the wire: with the mnemonic, which else hides.
type opening struct {
	Mnemonic      string        `json:"mnemonic"`
	Network       string        `json:"network"`
	RelayURL      string        `json:"relay_url,omitempty"`
	ProxyURL      string        `json:"proxy_url,omitempty"`
	SubstrateURLs []string      `json:"substrate_urls,omitempty"`
	RMBTimeout    time.Duration `json:"rmb_timeout,omitempty"`
}

func (o Options) wire() *opening {
	return &opening{Mnemonic: o.Mnemonic.Reveal(), Network: o.Network, RelayURL: o.RelayURL, ProxyURL: o.ProxyURL, SubstrateURLs: o.SubstrateURLs, RMBTimeout: o.RMBTimeout}
}

func (o *opening) options() Options {
	return Options{Mnemonic: backend.Secret(o.Mnemonic), Network: o.Network, RelayURL: o.RelayURL, ProxyURL: o.ProxyURL, SubstrateURLs: o.SubstrateURLs, RMBTimeout: o.RMBTimeout}
}

type (
	// request is a grid.Request with its password, which else hides.
	request struct {
		grid.Request
		Password string `json:"password"`
	}
	deployed struct {
		Contract uint64     `json:"contract,omitempty"`
		Error    *wireError `json:"error,omitempty"`
	}
	where struct {
		Node     uint32 `json:"node"`
		Contract uint64 `json:"contract"`
	}
	priced struct {
		Size      int64 `json:"size"`
		Certified bool  `json:"certified"`
	}
)

// kinds have names on the wire.
var kinds = map[string]error{
	"funds": grid.ErrFunds, "network": grid.ErrNetwork, "mnemonic": grid.ErrMnemonic, "node-down": grid.ErrNodeDown,
	"capacity": grid.ErrCapacity, "workload": grid.ErrWorkload, "refused": grid.ErrRefused, "name": grid.ErrName, "busy": grid.ErrBusy,
	"unverified": grid.ErrUnverified, "interrupted": grid.ErrInterrupted, "crashed": grid.ErrCrashed,
}

// wireError keeps of an error what callers decide on: its text, its kind, the end of
// a context, and the same of each of several that were joined.
type wireError struct {
	Text    string       `json:"text"`
	Kind    string       `json:"kind,omitempty"` // of a grid.Error, with Msg and Remedy
	Msg     string       `json:"msg,omitempty"`
	Remedy  string       `json:"remedy,omitempty"`
	Context string       `json:"context,omitempty"` // canceled or deadline
	Joined  []*wireError `json:"joined,omitempty"`
}

const maxJoined = 4 // levels of joined errors; deeper ones are text

func toWire(err error) *wireError { return toWireLevel(err, maxJoined) }

func toWireLevel(err error, levels int) *wireError {
	if err == nil {
		return nil
	}
	w := &wireError{Text: err.Error()}
	if many, ok := err.(interface{ Unwrap() []error }); ok && levels > 0 { //nolint:errorlint // this level's own
		for _, e := range many.Unwrap() {
			w.Joined = append(w.Joined, toWireLevel(e, levels-1))
		}
		return w
	}
	var known *grid.Error
	switch {
	case errors.As(err, &known):
		w.Msg, w.Remedy = known.Msg, known.Remedy
		for name, kind := range kinds {
			if errors.Is(known.Kind, kind) {
				w.Kind = name
			}
		}
	case errors.Is(err, context.Canceled):
		w.Context = "canceled"
	case errors.Is(err, context.DeadlineExceeded):
		w.Context = "deadline"
	}
	return w
}

// scrub is for an error that should have no secret, and may.
func (w *wireError) scrub(secrets []string, levels int) {
	if w == nil {
		return
	}
	w.Text, w.Msg, w.Remedy = scrub(w.Text, secrets), scrub(w.Msg, secrets), scrub(w.Remedy, secrets)
	if levels == 0 {
		w.Joined = nil
	}
	for _, j := range w.Joined {
		j.scrub(secrets, levels-1)
	}
}

// said is an error of the other side: its text, and what it is.
type said struct {
	text string
	is   []error
}

func (s *said) Error() string   { return s.text }
func (s *said) Unwrap() []error { return s.is }

func (w *wireError) error() error {
	if w == nil {
		return nil
	}
	if len(w.Joined) > 0 {
		s := &said{text: w.Text}
		for _, j := range w.Joined {
			if e := j.error(); e != nil {
				s.is = append(s.is, e)
			}
		}
		return s
	}
	var is error
	switch {
	case kinds[w.Kind] != nil:
		is = &grid.Error{Kind: kinds[w.Kind], Msg: w.Msg, Remedy: w.Remedy}
	case w.Context == "canceled":
		is = context.Canceled
	case w.Context == "deadline":
		is = context.DeadlineExceeded
	default:
		return errors.New(w.Text)
	}
	if is.Error() == w.Text {
		return is
	}
	return &said{text: w.Text, is: []error{is}}
}

// calls are what a child can be asked.
var calls = map[string]func(ctx context.Context, c grid.Client, args json.RawMessage) (any, error){
	"Account":   func(ctx context.Context, c grid.Client, _ json.RawMessage) (any, error) { return c.Account(ctx) },
	"Contracts": func(ctx context.Context, c grid.Client, _ json.RawMessage) (any, error) { return c.Contracts(ctx) },
	"Nodes":     with(func(ctx context.Context, c grid.Client, f grid.NodeFilter) (any, error) { return c.Nodes(ctx, f) }),
	"OnNode":    with(func(ctx context.Context, c grid.Client, node uint32) (any, error) { return c.OnNode(ctx, node) }),
	"Read":      with(func(ctx context.Context, c grid.Client, w where) (any, error) { return c.Read(ctx, w.Node, w.Contract) }),
	"Cancel":    with(func(ctx context.Context, c grid.Client, ids []uint64) (any, error) { return nil, c.Cancel(ctx, ids...) }),
	"Price": with(func(ctx context.Context, c grid.Client, p priced) (any, error) {
		return c.Price(ctx, p.Size, p.Certified)
	}),
	"Deploy": with(func(ctx context.Context, c grid.Client, list []request) (any, error) {
		in := make([]grid.Request, len(list))
		for i, r := range list {
			in[i] = r.Request
			in[i].Password = backend.Secret(r.Password)
		}
		done, err := c.Deploy(ctx, in)
		out := make([]deployed, len(done))
		for i, d := range done {
			out[i] = deployed{Contract: d.Contract, Error: toWire(d.Err)}
		}
		return out, err
	}),
}

func with[A any](f func(context.Context, grid.Client, A) (any, error)) func(context.Context, grid.Client, json.RawMessage) (any, error) {
	return func(ctx context.Context, c grid.Client, raw json.RawMessage) (any, error) {
		var args A
		if err := json.Unmarshal(raw, &args); err != nil {
			return nil, fmt.Errorf("arguments of %d bytes cannot be read", len(raw)) // they may be secret
		}
		return f(ctx, c, args)
	}
}
