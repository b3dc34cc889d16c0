package main

import (
	"context"
	"errors"
)

// runZstor is the embedded zstor.
func runZstor(_ context.Context, a *app, _ []string) int {
	return a.fail(&usageError{errors.New("zstor: not there yet")})
}
