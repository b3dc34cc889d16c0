package backend

import (
	"errors"
	"fmt"
	"net/netip"
)

// What a backend answered, told apart for the caller's decision.
var (
	ErrNotFound = errors.New("backend: not found")
	ErrFull     = errors.New("backend: no space left in the namespace")
	ErrLocked   = errors.New("backend: namespace is locked, frozen or read-only")
	ErrAccess   = errors.New("backend: access denied")
	ErrMode     = errors.New("backend: namespace is in the wrong mode")
)

// UnreachableError says that a backend gave no answer: it never means that
// what was asked for does not exist.
type UnreachableError struct {
	Address netip.AddrPort
	Err     error
}

func (e *UnreachableError) Error() string {
	if !e.Address.IsValid() { // a socket, which Err names
		return fmt.Sprintf("zdb does not answer: %v", e.Err)
	}
	return fmt.Sprintf("backend %s does not answer: %v", e.Address, e.Err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *UnreachableError) Hint() string {
	if !e.Address.IsValid() {
		return "check that the zdb runs: `quantumd services` lists it where it is one"
	}
	return fmt.Sprintf("check that the zdb at %s runs and can be reached from this machine", e.Address)
}
