//go:build !linux

package main

// monotonicMicros is the clock that systemd compares reloads by; there is none.
func monotonicMicros() int64 { return 0 }
