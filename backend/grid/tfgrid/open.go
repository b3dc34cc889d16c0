//go:build !nogrid

package tfgrid

import (
	"context"

	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/backend/grid/internal/sdk"
)

// Built says whether the SDK is in this program.
const Built = true

// Open connects to chain, relay and proxy, which takes a minute at worst. The
// mnemonic is checked before anybody is asked. No error has it in its text.
func Open(ctx context.Context, o Options) (grid.Client, error) { return sdk.Open(ctx, o) }
