// Package backend is the vocabulary of the remote zdbs that hold shards and
// metadata: what a [Backend] is, how a program talks to one ([Conn],
// [Dialer]), and how one is made, found and given back ([Provisioner]).
//
// Implementations live below: backend/local starts zdbs on this machine,
// backend/static uses zdbs that somebody else runs. backend/backendtest holds
// the tests that each of them passes.
package backend

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"time"
)

// Role says what a backend holds.
type Role string

const (
	Meta Role = "meta" // metadata records, in a user-mode namespace
	Data Role = "data" // shards, in a sequential-mode namespace
)

// MetaBackends is the number of metadata backends of a zstor: fixed by its
// 2+2 dispersal, so any two of them may be lost.
const MetaBackends = 4

// State is what is known about a backend that is in use.
type State string

const (
	Up        State = "up"
	Down      State = "down"
	Full      State = "full"
	Replacing State = "replacing"
	Retired   State = "retired"
)

// Secret is text that must not be shown. It prints, logs and marshals as
// `[hidden]`; use Reveal where the text itself is needed.
type Secret string

const hidden = "[hidden]"

// String hides the text.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString hides the text from %#v.
func (s Secret) GoString() string { return s.String() }

// LogValue hides the text from log/slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalJSON hides the text; a program that must keep it uses Reveal.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// Reveal gives the text itself.
func (s Secret) Reveal() string { return string(s) }

// Backend is one namespace on one zdb. Address is part of its identity: the
// metadata of every object names it.
type Backend struct {
	ID        string         `json:"id"`        // unique in a deployment, stable over restarts
	Role      Role           `json:"role"`      // meta or data
	Address   netip.AddrPort `json:"address"`   // an IP literal and a port, as zstor's records need it
	Namespace string         `json:"namespace"` // empty: the server's default namespace
	Password  Secret         `json:"-"`         // of the namespace
	Group     string         `json:"group,omitempty"`
	Spare     bool           `json:"spare,omitempty"`
}

// String names the backend without its password.
func (b Backend) String() string {
	return fmt.Sprintf("%s %s (%s, namespace %q)", b.Role, b.ID, b.Address, b.Namespace)
}

// Health is one look at a backend.
type Health struct {
	State   State
	Since   time.Time     // of State, as far as the observer knows
	Latency time.Duration // of the answer
	Used    int64         // bytes of live payloads
	Limit   int64         // bytes; zero: no limit
	Free    int64         // bytes on its disk
	Entries int64
	PID     int    // of a local backend's process
	Dir     string // of a local backend's files
	Err     error  // why it is not Up
}
