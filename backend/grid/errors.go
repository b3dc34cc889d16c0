package grid

import "errors"

// What the grid answered, told apart for the caller's decision.
var (
	ErrFunds    = errors.New("grid: the account has not enough TFT")
	ErrNetwork  = errors.New("grid: the network does not answer, or is another one")
	ErrMnemonic = errors.New("grid: the mnemonic is not valid, or of no account on this network")
	ErrNodeDown = errors.New("grid: the node does not answer")
	ErrCapacity = errors.New("grid: the node has no room")
	ErrWorkload = errors.New("grid: the zdb is not in order")
	ErrRefused  = errors.New("grid: the node refused")
	ErrName     = errors.New("grid: not a name that the grid takes")
	ErrBusy     = errors.New("grid: another process rents or cancels at this moment")
	// ErrUnverified: the grid wants to know who owns an account before it sells.
	ErrUnverified = errors.New("grid: the account is not verified")
	// ErrInterrupted: the chain stopped in the middle of a batch. Which contracts it
	// made before, it knows itself.
	ErrInterrupted = errors.New("grid: the chain did not make the contract")
	ErrCrashed     = errors.New("grid: the SDK's process ended in the middle of a call")
)

// Error is an answer of chain, relay, proxy or node. It holds no secret.
type Error struct {
	Kind   error  // one of the Err values
	Msg    string // what was answered
	Remedy string
}

func (e *Error) Error() string {
	if e.Msg == "" {
		return e.Kind.Error()
	}
	return e.Kind.Error() + ": " + e.Msg
}

func (e *Error) Unwrap() error { return e.Kind }

// Hint names the remedy.
func (e *Error) Hint() string { return e.Remedy }
