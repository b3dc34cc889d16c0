package zinit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"time"

	"github.com/threefoldtech/quantumd/services"
)

// client speaks with a zinit. Errors that a caller decides on are the sentinels
// below; each call has its own connection.
type client interface {
	list(ctx context.Context) (map[string]string, error)
	status(ctx context.Context, name string) (status, error)
	start(ctx context.Context, name string) error
	stop(ctx context.Context, name string) error
	monitor(ctx context.Context, name string) error
	forget(ctx context.Context, name string) error
	kill(ctx context.Context, name, signal string) error
	// lines gives what the services printed last, each as zinit marks it.
	lines(ctx context.Context, name string) ([]string, error)
	// follow calls old once, with what lines would give, and line for each later
	// one, until ctx ends or one of them fails.
	follow(ctx context.Context, name string, old func([]string) error, line func(string) error) error
}

// status is one look of a zinit at a service.
type status struct {
	Name   string            `json:"name"`
	PID    uint32            `json:"pid"` // zero: none
	State  string            `json:"state"`
	Target string            `json:"target"` // Up, Down
	After  map[string]string `json:"after"`
}

func (s status) up() bool { return s.Target == "Up" }

var (
	errUnknown   = errors.New("unknown to zinit")
	errMonitored = errors.New("monitored already")
	errUp        = errors.New("is up")
	errDown      = errors.New("is down")
	errConfig    = errors.New("its service file cannot be loaded")
)

// refusal is an error that a zinit answered.
type refusal struct {
	kind error // one of the above; nil: another one
	text string
}

func (e *refusal) Error() string { return "zinit: " + e.text }
func (e *refusal) Unwrap() error { return e.kind }

// Generation is the language of a zinit.
type Generation string

// The generations.
const (
	LineProtocol Generation = "line protocol" // up to 0.2.14
	JSONRPC      Generation = "JSON-RPC"      // since 0.2.15
)

// NotRunningError says that no zinit answers.
type NotRunningError struct {
	Sockets []string
	Err     error
}

func (e *NotRunningError) Error() string {
	return fmt.Sprintf("no zinit answers on %v: %v", e.Sockets, e.Err)
}

func (e *NotRunningError) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *NotRunningError) Hint() string {
	return "see that zinit runs: its socket file stays behind when it ends"
}

const (
	callLimit  = 30 * time.Second // of an answer; a stop since 0.2.15 takes 2 s
	probeLimit = 2 * time.Second
	maxAnswer  = 4 << 20
	maxLogs    = 64 << 20 // 2000 lines of any length
	maxLogLine = 1 << 20
	maxProbe   = 1 << 20
)

// dial connects to a zinit that root or this user runs. The connection ends
// with ctx.
func dial(ctx context.Context, socket string) (net.Conn, func(), error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, nil, err
	}
	if !services.TrustedPeer(conn) {
		return nil, nil, errors.Join(fmt.Errorf("zinit: neither root nor this user listens on %s", socket), conn.Close())
	}
	if t, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(t); err != nil {
			return nil, nil, errors.Join(err, conn.Close())
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return conn, func() { stop(); _ = conn.Close() }, nil // every answer was read by then
}

// Probe says which generation listens on a socket.
func Probe(ctx context.Context, socket string) (Generation, error) {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	conn, end, err := dial(ctx, socket)
	if err != nil {
		return "", err
	}
	defer end()
	if _, err := io.WriteString(conn, "list\n"); err != nil {
		return "", err
	}
	return parseProbe(io.LimitReader(conn, maxProbe))
}

// parseProbe reads the first JSON object of the answer to `list`.
func parseProbe(r io.Reader) (Generation, error) {
	var answer struct {
		State   string `json:"state"`
		Version string `json:"jsonrpc"`
	}
	if err := json.NewDecoder(r).Decode(&answer); err != nil {
		return "", fmt.Errorf("zinit: the answer to a probe: %w", err)
	}
	switch {
	case answer.Version == "2.0":
		return JSONRPC, nil
	case answer.State == "ok" || answer.State == "error":
		return LineProtocol, nil
	}
	return "", errors.New("zinit: something else answers")
}

// limited gives a context that ends in time, if the caller's does not.
func limited(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, callLimit)
}

// parseStatus reads the body of a status answer.
func parseStatus(body []byte, name string) (status, error) {
	var st status
	if err := json.Unmarshal(body, &st); err != nil {
		return st, fmt.Errorf("zinit: status of %s: %w", name, err)
	}
	switch {
	case st.Name != name:
		return st, fmt.Errorf("zinit: asked about %s, and told about another one", name)
	case st.PID > math.MaxInt32:
		return st, fmt.Errorf("zinit: status of %s: process %d", name, st.PID)
	case st.Target != "Up" && st.Target != "Down":
		return st, fmt.Errorf("zinit: status of %s: target %.20q", name, st.Target)
	}
	return st, nil
}

func parseList(body []byte) (map[string]string, error) {
	var out map[string]string
	if err := json.Unmarshal(body, &out); err != nil {
		return nil, fmt.Errorf("zinit: list: %w", err)
	}
	return out, nil
}
