package zinit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// rpcClient speaks JSON-RPC 2.0: one object per line both ways. Answers may
// come in another order than requests, and calls of the server between them.
type rpcClient struct{ socket string }

type rpcRequest struct {
	Version string `json:"jsonrpc"`
	ID      int    `json:"id"`
	Method  string `json:"method"`
	Params  []any  `json:"params"`
}

type rpcAnswer struct {
	Version string          `json:"jsonrpc"`
	ID      *int64          `json:"id"`
	Result  json.RawMessage `json:"result"`
	Error   *rpcError       `json:"error"`

	Method string `json:"method"` // of a call of the server
	Params struct {
		Subscription json.RawMessage `json:"subscription"`
		Result       json.RawMessage `json:"result"`
	} `json:"params"`
}

type rpcError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// The error codes that are decided on.
const (
	codeNotFound  = -32000
	codeMonitored = -32001
	codeUp        = -32002
	codeDown      = -32003
	codeConfig    = -32005
)

func (e *rpcError) refusal() error {
	r := &refusal{text: e.Message[:min(len(e.Message), maxState)]}
	switch e.Code {
	case codeNotFound:
		r.kind = errUnknown
	case codeMonitored:
		r.kind = errMonitored
	case codeUp:
		r.kind = errUp
	case codeDown:
		r.kind = errDown
	case codeConfig:
		r.kind = errConfig
	default:
		r.text = fmt.Sprintf("%s (code %d)", r.text, e.Code)
	}
	return r
}

// parseRPC reads one line of a server.
func parseRPC(line []byte) (rpcAnswer, error) {
	var a rpcAnswer
	if err := json.Unmarshal(line, &a); err != nil {
		return a, fmt.Errorf("zinit: answer: %w", err)
	}
	if a.Version != "2.0" {
		return a, errors.New("zinit: answer: not JSON-RPC 2.0")
	}
	if a.ID == nil && a.Method == "" && a.Error != nil {
		return a, a.Error.refusal() // it did not understand what we said
	}
	return a, nil
}

func (c rpcClient) call(ctx context.Context, limit int64, method string, params ...any) (json.RawMessage, error) {
	ctx, cancel := limited(ctx)
	defer cancel()
	conn, end, err := dial(ctx, c.socket)
	if err != nil {
		return nil, err
	}
	defer end()
	if err := send(conn, 1, method, params); err != nil {
		return nil, err
	}
	return awaitAnswer(bufio.NewReader(io.LimitReader(conn, limit)), 1, nil)
}

func send(w io.Writer, id int, method string, params []any) error {
	if params == nil {
		params = []any{}
	}
	b, err := json.Marshal(rpcRequest{Version: "2.0", ID: id, Method: method, Params: params})
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// awaitAnswer reads until the answer to a request comes. Other answers, and
// calls, are given to other.
func awaitAnswer(r *bufio.Reader, id int64, other func(rpcAnswer)) (json.RawMessage, error) {
	for {
		a, err := readAnswer(r)
		if err != nil {
			return nil, err
		}
		if a.ID == nil || *a.ID != id {
			if other != nil {
				other(a)
			}
			continue
		}
		if a.Error != nil {
			return nil, a.Error.refusal()
		}
		return a.Result, nil
	}
}

func readAnswer(r *bufio.Reader) (rpcAnswer, error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return rpcAnswer{}, fmt.Errorf("zinit: answer: %w", err)
	}
	return parseRPC(line)
}

func (c rpcClient) list(ctx context.Context) (map[string]string, error) {
	body, err := c.call(ctx, maxAnswer, "service_list")
	if err != nil {
		return nil, err
	}
	return parseList(body)
}

func (c rpcClient) status(ctx context.Context, name string) (status, error) {
	body, err := c.call(ctx, maxAnswer, "service_status", name)
	if err != nil {
		return status{}, err
	}
	return parseStatus(body, name)
}

func (c rpcClient) do(ctx context.Context, method string, params ...any) error {
	_, err := c.call(ctx, maxAnswer, method, params...)
	return err
}

func (c rpcClient) start(ctx context.Context, name string) error {
	return c.do(ctx, "service_start", name)
}
func (c rpcClient) stop(ctx context.Context, name string) error {
	return c.do(ctx, "service_stop", name)
}
func (c rpcClient) monitor(ctx context.Context, name string) error {
	return c.do(ctx, "service_monitor", name)
}
func (c rpcClient) forget(ctx context.Context, name string) error {
	return c.do(ctx, "service_forget", name)
}
func (c rpcClient) kill(ctx context.Context, name, signal string) error {
	return c.do(ctx, "service_kill", name, signal)
}

func (c rpcClient) lines(ctx context.Context, name string) ([]string, error) {
	body, err := c.call(ctx, maxLogs, "stream_currentLogs", name)
	if err != nil {
		return nil, err
	}
	return parseLogs(body, name)
}

// parseLogs reads the lines of a service's log.
func parseLogs(body []byte, name string) ([]string, error) {
	var all []string
	if err := json.Unmarshal(body, &all); err != nil {
		return nil, fmt.Errorf("zinit: log: %w", err)
	}
	var out []string
	for _, l := range all {
		for line := range strings.SplitSeq(l, "\n") {
			if of(line, name) {
				out = append(out, line)
			}
		}
	}
	return out, nil
}

// follow subscribes, then asks for what came before: what the subscription
// brings until that answer is in it.
func (c rpcClient) follow(ctx context.Context, name string, old func([]string) error, line func(string) error) error {
	conn, end, err := dial(ctx, c.socket)
	if err != nil {
		return err
	}
	defer end()
	r := bufio.NewReader(&perLine{r: conn})
	if err := send(conn, 1, "stream_subscribeLogs", []any{name}); err != nil {
		return err
	}
	subscription, err := awaitAnswer(r, 1, nil)
	if err != nil {
		return err
	}
	if err := send(conn, 2, "stream_currentLogs", []any{name}); err != nil {
		return err
	}
	body, err := awaitAnswer(r, 2, nil)
	if err != nil {
		return err
	}
	before, err := parseLogs(body, name)
	if err != nil {
		return err
	}
	if err := old(before); err != nil {
		return err
	}
	for {
		a, err := readAnswer(r)
		if err != nil {
			return errors.Join(ctx.Err(), err)
		}
		if a.Method != "stream_subscribeLogs" || !bytes.Equal(a.Params.Subscription, subscription) {
			continue
		}
		var text string
		if err := json.Unmarshal(a.Params.Result, &text); err != nil {
			return fmt.Errorf("zinit: log: %w", err)
		}
		if of(text, name) {
			if err := line(text); err != nil {
				return err
			}
		}
	}
}

// perLine bounds each line of a stream that has no end.
type perLine struct {
	r    io.Reader
	seen int
}

var errLongLine = errors.New("zinit: a line without an end")

func (p *perLine) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if at := bytes.LastIndexByte(b[:n], '\n'); at >= 0 {
		p.seen = n - at - 1
	} else {
		p.seen += n
	}
	if p.seen > maxLogs {
		return 0, errLongLine
	}
	return n, err
}
