package hooks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// DefaultSocket is where the daemon listens on a machine with one system.
const DefaultSocket = "/run/qsfs/hook.sock"

// Where a hook program finds the daemon's socket: zdb gives its hook neither
// arguments of ours nor, under most service managers, an environment.
const (
	SocketEnv  = "QUANTUMD_HOOK_SOCKET"
	SocketFile = "quantumd-hook.socket" // beside the program; holds the path
)

// FindSocket gives the path of the daemon's socket: of the environment, of the
// file beside the program, or the default.
func FindSocket(getenv func(string) string, program string) (string, error) {
	if path := getenv(SocketEnv); path != "" {
		return path, nil
	}
	f, err := os.Open(filepath.Join(filepath.Dir(program), SocketFile))
	if errors.Is(err, os.ErrNotExist) {
		return DefaultSocket, nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return "", err
	}
	path := strings.TrimRight(string(text), "\r\n")
	if path == "" {
		return "", fmt.Errorf("hooks: %s is empty", f.Name())
	}
	return path, nil
}

// Relay hands a hook call to h and gives the exit code for zdb, with the
// reason when something went wrong. When the daemon is down, an event whose
// outcome changes nothing in zdb ends with 0: the daemon finds the files when
// it is back. The others end with 1, so that zdb keeps its dirty list, fails
// the read, or does not start.
func Relay(ctx context.Context, h HookHandler, args []string) (code int, reason error) {
	e, err := Parse(args)
	if err != nil {
		return 1, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience(e.Kind))
	defer cancel()
	err = h.HandleHook(ctx, e)
	switch {
	case err == nil:
		return 0, nil
	case errors.Is(err, ErrUnavailable) && !e.Kind.Decides():
		return 0, fmt.Errorf("%s not delivered: %w", e.Kind, err)
	}
	return 1, fmt.Errorf("%s: %w", e.Kind, err)
}

// Decides says whether zdb does something else when the hook of this event
// fails.
func (k Kind) Decides() bool {
	switch k {
	case Ready, JumpIndex, MissingData:
		return true
	}
	return false
}

// patience is how long zdb may be made to wait: it serves nobody meanwhile.
func patience(k Kind) time.Duration {
	switch k {
	case MissingData:
		return 15 * time.Minute // a download of a whole data file
	case Close:
		return 5 * time.Minute // the last upload
	case NamespacesInit, Ready, JumpIndex:
		return time.Minute
	}
	return 10 * time.Second
}
