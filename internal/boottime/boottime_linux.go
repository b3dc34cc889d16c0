// Package boottime measures spans of time on a clock that wall-clock jumps do
// not move and that goes on while the machine sleeps.
package boottime

import (
	"time"

	"golang.org/x/sys/unix"
)

// Now is the time since the machine started.
func Now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return time.Since(start) // the process's own clock: it stops in sleep, but never jumps
	}
	return time.Duration(ts.Nano())
}

var start = time.Now()
