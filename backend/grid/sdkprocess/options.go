// Package sdkprocess runs the grid SDK in a process of its own. The SDK can panic in
// a goroutine that nobody can recover; then that process ends, and not one that holds
// data. It is also where the SDK's telemetry, its log and its memory stay.
//
// Start gives a grid.Client whose calls go through the standard input and output of
// a program; Main is that program. Neither this package nor who uses Start is
// compiled with the SDK:
//
//	c, err := sdkprocess.Start(ctx, []string{self, "grid-sdk"}, sdkprocess.Options{Mnemonic: m, Network: "main"})
//	…
//	func gridSDK() error { return sdkprocess.Main(tfgrid.Open) } // of self, when asked for grid-sdk
//
// The mnemonic goes through the pipe, never through arguments or environment.
//
// # When things end
//
// A child that dies in the middle of a call gives grid.ErrCrashed; the next call
// starts another. A call whose context ends is told to the child, which has a while
// to give back what it just made; then it is killed. A child whose parent is gone
// ends at once, without giving anything back: another parent may know of it already.
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
	// AfterCancel is how long a Deploy has, once its context ended, to give back what
	// it made before its process is killed; zero: 40 s. Other calls have 5 s at most. It
	// is for Start alone.
	AfterCancel time.Duration
	Logger      *slog.Logger // nil: nothing is logged
}
