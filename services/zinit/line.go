package zinit

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// lineClient speaks the line protocol: one request per connection, a line of
// words; the answer is one JSON object up to the end of the connection. Only
// logs come as plain lines.
type lineClient struct{ socket string }

func (c lineClient) call(ctx context.Context, words ...string) (json.RawMessage, error) {
	ctx, cancel := limited(ctx)
	defer cancel()
	conn, end, err := dial(ctx, c.socket)
	if err != nil {
		return nil, err
	}
	defer end()
	if _, err := io.WriteString(conn, quoteAll(words)+"\n"); err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(io.LimitReader(conn, maxAnswer+1))
	if err != nil {
		return nil, err
	}
	return parseLineAnswer(answer)
}

// parseLineAnswer reads an answer of the line protocol.
func parseLineAnswer(answer []byte) (json.RawMessage, error) {
	if len(answer) > maxAnswer {
		return nil, fmt.Errorf("zinit: an answer of more than %d bytes", maxAnswer)
	}
	var envelope struct {
		State string          `json:"state"`
		Body  json.RawMessage `json:"body"`
	}
	if err := json.Unmarshal(answer, &envelope); err != nil {
		return nil, fmt.Errorf("zinit: answer: %w", err)
	}
	switch envelope.State {
	case "ok":
		return envelope.Body, nil
	case "error":
		var text string
		if err := json.Unmarshal(envelope.Body, &text); err != nil {
			return nil, fmt.Errorf("zinit: answer: %w", err)
		}
		return nil, lineRefusal(text)
	}
	return nil, fmt.Errorf("zinit: answer with the state %.20q", envelope.State)
}

func lineRefusal(text string) error {
	e := &refusal{text: text[:min(len(text), maxState)]}
	switch {
	case strings.HasPrefix(text, "service name ") && strings.HasSuffix(text, " unknown"):
		e.kind = errUnknown
	case strings.HasSuffix(text, " already monitored"):
		e.kind = errMonitored
	case strings.HasSuffix(text, " is up"):
		e.kind = errUp
	case strings.HasSuffix(text, " is down"):
		e.kind = errDown
	case text == "failed to load service config":
		e.kind = errConfig
	}
	return e
}

func (c lineClient) list(ctx context.Context) (map[string]string, error) {
	body, err := c.call(ctx, "list")
	if err != nil {
		return nil, err
	}
	return parseList(body)
}

func (c lineClient) status(ctx context.Context, name string) (status, error) {
	body, err := c.call(ctx, "status", name)
	if err != nil {
		return status{}, err
	}
	return parseStatus(body, name)
}

func (c lineClient) do(ctx context.Context, words ...string) error {
	_, err := c.call(ctx, words...)
	return err
}

func (c lineClient) start(ctx context.Context, name string) error { return c.do(ctx, "start", name) }
func (c lineClient) stop(ctx context.Context, name string) error  { return c.do(ctx, "stop", name) }
func (c lineClient) monitor(ctx context.Context, name string) error {
	return c.do(ctx, "monitor", name)
}
func (c lineClient) forget(ctx context.Context, name string) error { return c.do(ctx, "forget", name) }
func (c lineClient) kill(ctx context.Context, name, signal string) error {
	return c.do(ctx, "kill", name, signal)
}

func (c lineClient) lines(ctx context.Context, name string) ([]string, error) {
	ctx, cancel := limited(ctx)
	defer cancel()
	conn, end, err := dial(ctx, c.socket)
	if err != nil {
		return nil, err
	}
	defer end()
	if _, err := io.WriteString(conn, "log snapshot\n"); err != nil {
		return nil, err
	}
	var out []string
	err = eachLine(io.LimitReader(conn, maxLogs), func(line string) error {
		if of(line, name) {
			out = append(out, line)
		}
		return nil
	})
	return out, err
}

// eachLine calls f for each line; of one that is too long the end is left out.
func eachLine(r io.Reader, f func(line string) error) error {
	b := bufio.NewReaderSize(r, 64<<10)
	var line []byte
	for {
		part, more, err := b.ReadLine()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		line = append(line, part[:min(len(part), maxLogLine-len(line))]...)
		if more {
			continue
		}
		if err := f(string(line)); err != nil {
			return err
		}
		line = line[:0]
	}
}

const (
	replayQuiet = 150 * time.Millisecond // without a line: what was printed before has come
	replayLimit = 2 * time.Second
)

// follow asks for the lines from now on, before which zinit repeats its memory
// and does not say where that ends: a pause does.
func (c lineClient) follow(ctx context.Context, name string, old func([]string) error, line func(string) error) error {
	conn, end, err := dial(ctx, c.socket)
	if err != nil {
		return err
	}
	defer end()
	if _, err := io.WriteString(conn, "log\n"); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines, ended := make(chan string), make(chan error, 1)
	go func() {
		ended <- eachLine(conn, func(l string) error {
			select {
			case lines <- l:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	err = replay(ctx, name, lines, ended, old, line)
	cancel()
	end() // ends the reader
	return err
}

func replay(ctx context.Context, name string, lines <-chan string, ended <-chan error, old func([]string) error, line func(string) error) error {
	var before []string
	quiet, limit := time.NewTimer(replayQuiet), time.NewTimer(replayLimit)
	defer quiet.Stop()
	defer limit.Stop()
	replaying := true
	begin := func() error { replaying = false; return old(before) }
	for {
		var err error
		select {
		case l := <-lines:
			switch {
			case replaying:
				quiet.Reset(replayQuiet)
				if of(l, name) {
					before = append(before, l)
				}
			case of(l, name):
				err = line(l)
			}
		case <-quiet.C:
			if replaying {
				err = begin()
			}
		case <-limit.C:
			if replaying {
				err = begin()
			}
		case err = <-ended:
			if err == nil {
				err = io.ErrUnexpectedEOF // it goes on until the zinit ends
			}
			if replaying {
				err = errors.Join(begin(), err)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}
