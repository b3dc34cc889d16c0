package sdk

import (
	"context"
	"errors"
	_ "github.com/cosmos/go-bip39"
	_ "github.com/rs/zerolog/log"
	_ "github.com/threefoldtech/tfchain/clients/tfchain-client-go"
	_ "github.com/threefoldtech/tfgrid-sdk-go/grid-proxy/pkg/client"
	_ "github.com/threefoldtech/tfgrid-sdk-go/rmb-sdk-go"
	_ "github.com/threefoldtech/zosbase/pkg/gridtypes"

	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/backend/grid/sdkprocess"
)

func Open(ctx context.Context, o sdkprocess.Options) (grid.Client, error) {
	return nil, errors.ErrUnsupported
}
