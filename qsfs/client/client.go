package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"syscall"
	"time"
)

// ErrNotRunning says that no system listens on the socket.
var ErrNotRunning = errors.New("quantumd is not running here")

// Error is a failure that the running system reported.
type Error struct {
	Kind string
	Msg  string
	Fix  string
}

func (e *Error) Error() string { return e.Msg }

// Hint names the remedy.
func (e *Error) Hint() string { return e.Fix }

// maxAnswer bounds one answer: a listing of a long queue is a few MiB.
const maxAnswer = 64 << 20

// Client talks to one running system. It is safe for concurrent use.
type Client struct {
	socket string
	http   *http.Client
}

// New makes a client of the system whose control socket this is. It connects
// at each call.
func New(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Status looks at the system.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	out := new(Status)
	return out, c.call(ctx, http.MethodGet, "/v1/status", nil, out)
}

// Sync returns when everything written before the call is on the backends.
func (c *Client) Sync(ctx context.Context) (*SyncReport, error) {
	out := new(SyncReport)
	return out, c.call(ctx, http.MethodPost, "/v1/sync", nil, out)
}

// Evict drops local data files that are safe, oldest first, until at most keep
// bytes of them are left.
func (c *Client) Evict(ctx context.Context, keep int64) (*EvictReport, error) {
	out := new(EvictReport)
	return out, c.call(ctx, http.MethodPost, "/v1/evict", EvictRequest{Keep: keep}, out)
}

// EvictRequest is the body of an evict call.
type EvictRequest struct {
	Keep int64 `json:"keep"`
}

// Queue lists the files on their way to the backends, at most limit.
func (c *Client) Queue(ctx context.Context, limit int) (*QueueList, error) {
	out := new(QueueList)
	return out, c.call(ctx, http.MethodGet, fmt.Sprintf("/v1/queue?limit=%d", limit), nil, out)
}

// RetryQueue has every waiting upload tried now.
func (c *Client) RetryQueue(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/queue/retry", nil, nil)
}

// Events lists what happened, the newest first, at most limit; with a subject
// only what concerns it.
func (c *Client) Events(ctx context.Context, subject string, limit int) (*EventList, error) {
	out := new(EventList)
	q := url.Values{"subject": {subject}, "limit": {strconv.Itoa(limit)}}
	return out, c.call(ctx, http.MethodGet, "/v1/events?"+q.Encode(), nil, out)
}

// Check asks whether everything is on the backends, as the metadata says.
func (c *Client) Check(ctx context.Context, r CheckRequest) (*CheckReport, error) {
	out := new(CheckReport)
	return out, c.call(ctx, http.MethodPost, "/v1/check", r, out)
}

// Scrub has the backends verify what they hold, and returns when that is done.
func (c *Client) Scrub(ctx context.Context, r ScrubRequest) (*ScrubReport, error) {
	out := new(ScrubReport)
	return out, c.call(ctx, http.MethodPost, "/v1/scrub", r, out)
}

// Why explains where the content of one path is.
func (c *Client) Why(ctx context.Context, path string) (*Why, error) {
	out := new(Why)
	return out, c.call(ctx, http.MethodGet, "/v1/why?"+url.Values{"path": {path}}.Encode(), nil, out)
}

// Replace replaces backends, and returns when that is done. The work goes on
// when the caller does not wait for it.
func (c *Client) Replace(ctx context.Context, r ReplaceRequest) (*ReplaceReport, error) {
	out := new(ReplaceReport)
	return out, c.call(ctx, http.MethodPost, "/v1/replace", r, out)
}

// Stop asks the system to end as if it had received SIGTERM.
func (c *Client) Stop(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/stop", nil, nil)
}

// WaitReady returns when the system serves, or with the context's error.
func (c *Client) WaitReady(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := c.Status(ctx)
		switch {
		case err == nil && s.State == StateFailed:
			return &Error{Kind: KindFailed, Msg: "the system failed to start"}
		case err == nil && s.State != StateStarting:
			return nil
		case err != nil && !errors.Is(err, ErrNotRunning):
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("control %s: %w", path, err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://quantumd"+path, body)
	if err != nil {
		return fmt.Errorf("control %s: %w", path, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.dialError(ctx, path, err)
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("control %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		var f Failure
		if json.Unmarshal(data, &f) != nil || f.Error == "" {
			return fmt.Errorf("control %s: %s", path, resp.Status)
		}
		return &Error{Kind: f.Kind, Msg: f.Error, Fix: f.Hint}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("control %s: answer: %w", path, err)
	}
	return nil
}

func (c *Client) dialError(ctx context.Context, path string, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w (no answer at %s)", ErrNotRunning, c.socket)
	}
	return fmt.Errorf("control %s: %w", path, err)
}
