//go:build !linux

package zinit_test

import "testing"

// beginReal starts a real zinit, which there is on Linux only.
func (w world) beginReal(t *testing.T, _ string) { t.Skip("zinit runs on Linux") }
