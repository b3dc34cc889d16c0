// Package sdkprocess runs the grid SDK in a process of its own.
package sdkprocess

import (
	"log/slog"
	"time"

	"github.com/threefoldtech/quantumd/backend"
)

// Options say which account of which network.
type Options struct {
	Mnemonic backend.Secret
	Network  string // main, test, qa or dev
	// The following are for private grids; empty: those of the network. RelayURL is
	// written to the chain, for all programs of the account, where it differs from
	// what stands there.
	RelayURL      string
	ProxyURL      string
	SubstrateURLs []string
	RMBTimeout    time.Duration // of one question to a node; zero: a minute
	Logger        *slog.Logger  // nil: nothing is logged
}
