package hooks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// Client carries events to a [Listener]. Each event is one connection, so a
// Client needs no closing and is safe for concurrent use.
type Client struct {
	Socket string // path of the listener's socket
}

// ErrUnavailable says that an event may not have reached a handler: nobody
// listens, or the connection broke before the answer.
var ErrUnavailable = errors.New("hooks: the daemon does not answer")

const dialTimeout = 5 * time.Second

// HandleHook sends the event and waits for what became of it, until ctx ends.
// Errors are a [*RemoteError] where the handler failed, else they match
// [ErrUnavailable], or are a [*SocketPathError].
func (c *Client) HandleHook(ctx context.Context, e Event) error {
	if err := checkSocketPath(c.Socket); err != nil {
		return err
	}
	request, err := encodeRequest(e.Args())
	if err != nil {
		return err
	}
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "unix", c.Socket)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })() // ends what waits below
	answer, err := exchange(conn, request)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrUnavailable, e.Kind, err)
	}
	return answer
}

// exchange reads the answer also when the request could not be written whole:
// the listener may have refused it, and said why.
func exchange(conn net.Conn, request []byte) (answer, err error) {
	_, writeErr := conn.Write(request)
	answer, err = readAnswer(conn)
	if err != nil && writeErr != nil {
		err = writeErr
	}
	return answer, err
}

// maxSocketPath is the longest path that a sockaddr_un holds, without its NUL.
const maxSocketPath = 107

// SocketPathError says that a socket's path is too long for the system.
type SocketPathError struct {
	Path string
}

func (e *SocketPathError) Error() string {
	return fmt.Sprintf("hooks: socket path of %d bytes, at most %d are possible: %s", len(e.Path), maxSocketPath, e.Path)
}

// Hint names the remedy.
func (e *SocketPathError) Hint() string {
	return "use a shorter private folder, such as one below /run"
}

func checkSocketPath(path string) error {
	if path == "" {
		return errors.New("hooks: no socket path")
	}
	if len(path) > maxSocketPath {
		return &SocketPathError{Path: path}
	}
	return nil
}
