//go:build !linux

// Package boottime measures spans of time on a clock that wall-clock jumps do
// not move.
package boottime

import "time"

// Now is the time since the process started.
func Now() time.Duration { return time.Since(start) }

var start = time.Now()
