//go:build nogrid

package tfgrid

import (
	"context"

	"github.com/threefoldtech/quantumd/backend/grid"
)

// Built says whether the SDK is in this program.
const Built = false

// Open says that the SDK is not there.
func Open(context.Context, Options) (grid.Client, error) {
	return nil, &grid.Error{Kind: grid.ErrNetwork, Msg: "this program was built without the grid (tag nogrid)",
		Remedy: "install a build with it (`make build` without TAGS=nogrid), list zdbs of your own under `backends`, or use `quantumd deploy --local`"}
}
