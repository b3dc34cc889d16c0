//go:build embedhook

package main

import _ "embed"

// hookProgram is the small quantumd-hook, built before this program.
//
//go:embed quantumd-hook
var hookProgram []byte
