package monitor

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/threefoldtech/quantumd/engine/zstor/record"
)

// Client talks to a daemon, one connection per request. It is safe for concurrent
// use.
type Client struct{ socket string }

// NewClient makes a client of the unix socket at path.
func NewClient(path string) *Client { return &Client{socket: path} }

// RemoteError is what the daemon answered.
type RemoteError struct{ Message string }

func (e *RemoteError) Error() string { return "Zstor error: " + e.Message }

// Store asks for a store; see [Store].
func (c *Client) Store(ctx context.Context, r Store) error { _, err := c.do(ctx, r); return err }

// Retrieve asks for a file to be brought back.
func (c *Client) Retrieve(ctx context.Context, r Retrieve) error { _, err := c.do(ctx, r); return err }

// Rebuild asks for an object to be rebuilt.
func (c *Client) Rebuild(ctx context.Context, r Rebuild) error { _, err := c.do(ctx, r); return err }

// Check asks for the checksum of an object; false when the daemon knows none. The
// real daemon says so also when no metadata backend answered.
func (c *Client) Check(ctx context.Context, path string) (record.Checksum, bool, error) {
	resp, err := c.do(ctx, Check{Path: path})
	if err != nil || resp.Checksum == nil {
		return record.Checksum{}, false, err
	}
	return *resp.Checksum, true, nil
}

// do sends a request and waits for its response as long as ctx lasts: stores take
// their time.
func (c *Client) do(ctx context.Context, r Request) (Response, error) {
	frame, err := EncodeRequest(r)
	if err != nil {
		return Response{}, err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.socket)
	if err != nil {
		return Response{}, fmt.Errorf("zstor daemon: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })() // wakes a read
	if _, err := conn.Write(frame); err != nil {
		return Response{}, c.fault(ctx, "send", err)
	}
	body, err := ReadFrame(conn)
	if err != nil {
		return Response{}, c.fault(ctx, "response", err)
	}
	resp, err := ParseResponse(body)
	if err != nil {
		return Response{}, c.fault(ctx, "response", err)
	}
	if resp.Failed {
		return resp, &RemoteError{resp.Err}
	}
	return resp, nil
}

func (c *Client) fault(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return fmt.Errorf("zstor daemon at %s: %s: %w", c.socket, what, err)
}
