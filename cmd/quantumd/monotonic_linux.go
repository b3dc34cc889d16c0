package main

import "golang.org/x/sys/unix"

// monotonicMicros is the clock that systemd compares reloads by.
func monotonicMicros() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return ts.Nano() / 1000
}
