// Package hooks is the vocabulary of zdb's events: what a zdb tells when it
// rotates a file, misses one, or starts and stops, and what may be done about
// it. A [HookHandler] receives events in process; [Exec] runs an external
// program with zdb's arguments; [Client] and [Listener] carry events over a
// unix socket, so that a program started by a real zdb reaches the daemon.
//
// The events, their arguments and which of them zdb waits for are those of
// 0-db 2.0.7.
package hooks

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Kind names an event as zdb spells it in the first argument of a hook.
type Kind string

// The events of zdb.
const (
	NamespacesInit    Kind = "namespaces-init"    // before anything is loaded
	Ready             Kind = "ready"              // loaded and listening, before serving; an error stops the server
	NamespaceCreated  Kind = "namespace-created"  // after NSNEW
	NamespaceUpdated  Kind = "namespace-updated"  // after NSSET rewrote the descriptor
	NamespaceDeleted  Kind = "namespace-deleted"  // after NSDEL removed the folders
	NamespaceReloaded Kind = "namespace-reloaded" // after RELOAD
	JumpIndex         Kind = "jump-index"         // the index was switched; no error empties the dirty list
	JumpData          Kind = "jump-data"          // the data file was switched
	MissingData       Kind = "missing-data"       // a read needs a data file that is not there; no error: try once more
	Close             Kind = "close"              // a clean stop begins
	NamespaceClosing  Kind = "namespace-closing"  // the process ends, once per namespace
	Crash             Kind = "crash"              // the process crashed
)

// Event is one call of zdb's hook. Which fields are set depends on Kind; the
// others are empty. File and folder names are as zdb gives them: its root, the
// namespace and `i5` or `d5`, relative when its root is.
type Event struct {
	Kind      Kind
	Instance  string // `tcp://127.0.0.1:9900` or `unix:///run/zdb.sock`
	Namespace string // namespace-*

	IndexRoot string // namespaces-init
	DataRoot  string // namespaces-init

	Index     string   // jump-index: the file that was closed; namespace-closing: the active one
	NextIndex string   // jump-index
	Data      string   // jump-data: the file that was closed; missing-data; namespace-closing
	NextData  string   // jump-data
	Dirty     []uint32 // jump-index, namespace-closing: ids of index files changed in place
}

// ErrEvent says that a hook was called with arguments that zdb never gives.
var ErrEvent = errors.New("hooks: malformed event")

// arity is the number of arguments behind the instance of each event.
var arity = map[Kind]int{
	NamespacesInit: 2, Ready: 0, NamespaceCreated: 1, NamespaceUpdated: 1, NamespaceDeleted: 1,
	NamespaceReloaded: 1, JumpIndex: 3, JumpData: 2, MissingData: 1, Close: 0, NamespaceClosing: 4, Crash: 0,
}

// Parse reads the arguments of a hook call without the program's name:
// event, instance, then what the event carries. Errors match [ErrEvent].
func Parse(args []string) (Event, error) {
	if len(args) < 2 {
		return Event{}, fmt.Errorf("%w: %d arguments, want an event and an instance", ErrEvent, len(args))
	}
	e := Event{Kind: Kind(args[0]), Instance: args[1]}
	rest := args[2:]
	n, known := arity[e.Kind]
	if !known {
		return Event{}, fmt.Errorf("%w: unknown event %q", ErrEvent, args[0])
	}
	if len(rest) != n {
		return Event{}, fmt.Errorf("%w: %s has %d arguments, want %d", ErrEvent, e.Kind, len(rest), n)
	}
	var err error
	switch e.Kind {
	case NamespacesInit:
		e.IndexRoot, e.DataRoot = rest[0], rest[1]
	case NamespaceCreated, NamespaceUpdated, NamespaceDeleted, NamespaceReloaded:
		e.Namespace = rest[0]
	case JumpIndex:
		e.Index, e.NextIndex = rest[0], rest[1]
		e.Dirty, err = parseDirty(rest[2])
	case JumpData:
		e.Data, e.NextData = rest[0], rest[1]
	case MissingData:
		e.Data = rest[0]
	case NamespaceClosing:
		e.Namespace, e.Index, e.Data = rest[0], rest[1], rest[2]
		e.Dirty, err = parseDirty(rest[3])
	}
	return e, err
}

// Args gives the arguments that [Parse] reads back to the same event.
func (e Event) Args() []string {
	args := []string{string(e.Kind), e.Instance}
	switch e.Kind {
	case NamespacesInit:
		args = append(args, e.IndexRoot, e.DataRoot)
	case NamespaceCreated, NamespaceUpdated, NamespaceDeleted, NamespaceReloaded:
		args = append(args, e.Namespace)
	case JumpIndex:
		args = append(args, e.Index, e.NextIndex, formatDirty(e.Dirty))
	case JumpData:
		args = append(args, e.Data, e.NextData)
	case MissingData:
		args = append(args, e.Data)
	case NamespaceClosing:
		args = append(args, e.Namespace, e.Index, e.Data, formatDirty(e.Dirty))
	}
	return args
}

// Blocking says whether zdb stands still until the hook of this event ended.
func (k Kind) Blocking() bool {
	switch k {
	case NamespacesInit, Ready, JumpIndex, MissingData, Close:
		return true
	}
	return false
}

func parseDirty(s string) ([]uint32, error) {
	var ids []uint32
	for _, f := range strings.Fields(s) {
		id, err := strconv.ParseUint(f, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%w: dirty list %q", ErrEvent, s)
		}
		ids = append(ids, uint32(id))
	}
	return ids, nil
}

func formatDirty(ids []uint32) string {
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = strconv.FormatUint(uint64(id), 10)
	}
	return strings.Join(words, " ")
}
