package epoch

import (
	"errors"
	"fmt"
	"time"

	"github.com/threefoldtech/quantumd/backend"
)

// ErrFenced says that another frontend has taken over: this one may read its
// local files, and nothing else.
var ErrFenced = errors.New("another frontend has taken over this file system: this one is read-only")

// HeldError says that another frontend runs, or ran a moment ago.
type HeldError struct {
	Epoch uint64
	Host  string
	Ago   time.Duration // since it last said that it lives
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("another frontend (epoch %d, on %s) was alive %s ago", e.Epoch, e.Host, e.Ago.Round(time.Second))
}

// Hint names the remedy.
func (e *HeldError) Hint() string {
	return "stop it there, or wait until it has been away for a minute, or take over with --force"
}

// NeedsRestoreError says that the backends hold the data of another frontend,
// and this one is empty.
type NeedsRestoreError struct{ Epoch uint64 }

func (e *NeedsRestoreError) Error() string {
	return fmt.Sprintf("the backends hold a file system written by another frontend (epoch %d), and this machine has none of it", e.Epoch)
}

// Hint names the remedy.
func (e *NeedsRestoreError) Hint() string {
	return "run `quantumd restore` first; it takes over and brings the tree here"
}

// ErrWrongKey says that what is on the backends was sealed with another key.
var ErrWrongKey = errors.New("wrong encryption key, or wrong password or mnemonic")

// QuorumError says that too few metadata backends answered to be sure.
type QuorumError struct {
	What     string
	Answered int
	Err      error
}

func (e *QuorumError) Error() string {
	return fmt.Sprintf("%d of %d metadata backends answered about %s, %d are needed: %v", e.Answered, backend.MetaBackends, e.What, Quorum, e.Err)
}

func (e *QuorumError) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *QuorumError) Hint() string {
	return "check the network and the metadata backends (`quantumd backends ls`), then try again"
}

// ErrReleased says that the epoch was given back: nothing is written any more.
var ErrReleased = errors.New("this frontend has ended")
