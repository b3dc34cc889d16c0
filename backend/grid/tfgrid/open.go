//go:build !nogrid

// Package tfgrid opens the ThreeFold Grid through tfgrid-sdk-go.
package tfgrid

import (
	"context"

	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/backend/grid/internal/sdk"
	"github.com/threefoldtech/quantumd/backend/grid/sdkprocess"
)

// Options say which account of which network.
type Options = sdkprocess.Options

// Open connects to the grid.
func Open(ctx context.Context, o Options) (grid.Client, error) { return sdk.Open(ctx, o) }
