// Package tfgrid opens the ThreeFold Grid through tfgrid-sdk-go: whoever imports it
// is compiled with the SDK, some 5 MB and 40 modules, unless the build tag nogrid is
// set. Then Open gives an error.
//
// The SDK silences the standard log, replaces zerolog's global logger, and can panic
// in a goroutine of its own. Open contains the first two; for the last, call it in a
// process of its own: backend/grid/sdkprocess.
//
//	err := sdkprocess.Main(tfgrid.Open)
package tfgrid

import "github.com/threefoldtech/quantumd/backend/grid/sdkprocess"

// Options say which account of which network.
type Options = sdkprocess.Options
