package sdkprocess

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/grid"
)

const (
	afterCancelDeploy = 40 * time.Second
	afterCancel       = 5 * time.Second
	writeTime         = 10 * time.Second // a child that does not read for so long is none
	closeTime         = 10 * time.Second
	maxLine           = 64 << 10
)

var errClosed = errors.New("grid SDK's process: closed")

// child is one running process.
type child struct {
	cmd   *exec.Cmd
	stdin *os.File
	write sync.Mutex

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan message

	word     string // the last of its standard error; look's, until gone
	panicked bool

	gone chan struct{} // closed when it was waited for
	err  error         // why, then
}

// start runs the program and gives it the options. Its environment has no secret.
func start(command []string, o Options, log *slog.Logger) (*child, error) {
	c := &child{waiting: map[uint64]chan message{}, gone: make(chan struct{})}
	c.cmd = exec.Command(command[0], command[1:]...) //nolint:gosec // who uses the package says which
	c.cmd.Env = clean(os.Environ(), o.Mnemonic)
	c.cmd.SysProcAttr = ownGroup()
	var files []*os.File // to be closed here once the child has its own
	pipe := func() (r, w *os.File, err error) {
		r, w, err = os.Pipe()
		if err == nil {
			files = append(files, r, w)
		}
		return r, w, err
	}
	in, stdin, err1 := pipe()
	stdout, out, err2 := pipe()
	stderr, said, err3 := pipe()
	if err := errors.Join(err1, err2, err3); err != nil {
		closeAll(files)
		return nil, err
	}
	c.stdin, c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = stdin, in, out, said
	if err := c.cmd.Start(); err != nil {
		closeAll(files)
		return nil, fmt.Errorf("grid SDK's process: %w", err)
	}
	closeAll([]*os.File{in, out, said})
	go c.look(stdout, stderr, forms(o.Mnemonic), log)
	return c, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // nothing was written
	}
}

// clean leaves out what the child must not find: it gets the mnemonic by its input.
func clean(environ []string, mnemonic backend.Secret) []string {
	var out []string
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		if name == "MNEMONIC" || name == "SENTRY_DSN" || mnemonic != "" && strings.Contains(value, mnemonic.Reveal()) {
			continue
		}
		out = append(out, e)
	}
	return out
}

// look reads what the child says until it ends, and waits for it.
func (c *child) look(stdout, stderr *os.File, secrets []string, log *slog.Logger) {
	var all sync.WaitGroup
	all.Go(func() { c.logLines(stderr, secrets, log) })
	in := bufio.NewReader(stdout)
	var bad error
	for {
		m, err := readFrame(in)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				bad = err
			}
			break
		}
		c.mu.Lock()
		ch := c.waiting[m.ID]
		delete(c.waiting, m.ID)
		c.mu.Unlock()
		m.Error.scrub(secrets, maxJoined)
		if ch != nil {
			ch <- m // it has room
		}
	}
	if bad != nil { // what comes after cannot be understood either
		c.kill()
	}
	all.Wait()
	closeAll([]*os.File{stdout, stderr})
	ended := c.cmd.Wait()
	c.write.Lock()
	_ = c.stdin.Close()
	c.write.Unlock()
	c.err = c.why(bad, ended)
	close(c.gone)
}

func (c *child) why(bad, ended error) error {
	if bad != nil {
		return bad
	}
	if ended == nil {
		ended = errors.New("it ended by itself")
	}
	if c.word != "" {
		return fmt.Errorf("%w: %s", ended, c.word)
	}
	return ended
}

func (c *child) kill() { _ = c.cmd.Process.Kill() } // it may have ended

// logLines logs the child's standard error, line by line, without the mnemonic.
func (c *child) logLines(r io.Reader, secrets []string, log *slog.Logger) {
	in := bufio.NewReaderSize(r, maxLine)
	for {
		text, err := in.ReadSlice('\n')
		long := false
		for errors.Is(err, bufio.ErrBufferFull) { // a part of it may have a part of a secret
			long = true
			_, err = in.ReadSlice('\n')
		}
		line := scrub(strings.TrimRight(string(text), "\r\n"), secrets)
		if long {
			line = fmt.Sprintf("a line of more than %d bytes", maxLine)
		}
		if line != "" {
			c.remember(line)
			logLine(log, line)
		}
		if err != nil {
			return
		}
	}
}

// remember keeps the line that tells best why the child ended: the first of a panic,
// or else the last that is not from its log.
func (c *child) remember(line string) {
	if c.panicked || strings.HasPrefix(line, "{") {
		return
	}
	c.word = line
	c.panicked = strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ")
}

func scrub(text string, secrets []string) string {
	for _, s := range secrets {
		text = strings.ReplaceAll(text, s, backend.Secret(s).String())
	}
	return text
}

// forms are how a mnemonic may be written in a log: as it was given, with single
// spaces, and each of them in JSON.
func forms(m backend.Secret) []string {
	var out []string
	for _, s := range []string{m.Reveal(), strings.Join(strings.Fields(m.Reveal()), " ")} {
		if s == "" {
			continue
		}
		text, err := json.Marshal(s)
		if err == nil {
			out = append(out, strings.Trim(string(text), `"`))
		}
		out = append(out, s)
	}
	return out
}

func logLine(log *slog.Logger, line string) {
	var fields map[string]any
	if json.Unmarshal([]byte(line), &fields) != nil {
		log.Warn("grid SDK's process", "line", line)
		return
	}
	level := slog.LevelInfo
	if text, ok := fields[slog.LevelKey].(string); ok {
		if level.UnmarshalText([]byte(text)) != nil {
			level = slog.LevelInfo
		}
	}
	attrs := []any{}
	for k, v := range fields {
		if k != slog.LevelKey && k != slog.MessageKey && k != slog.TimeKey {
			attrs = append(attrs, k, v)
		}
	}
	log.Log(context.Background(), level, fmt.Sprint(fields[slog.MessageKey]), attrs...)
}

// errUnsent: the child never got the call.
var errUnsent = errors.New("grid SDK's process does not read")

// do is one call. When ctx ends, the child has a while to answer nevertheless.
func (c *child) do(ctx context.Context, m message, wait time.Duration) (message, error) {
	ch := make(chan message, 1)
	c.mu.Lock()
	c.last++
	m.ID = c.last
	c.waiting[m.ID] = ch
	c.mu.Unlock()
	if err := c.send(m); err != nil {
		c.kill()
		return message{}, fmt.Errorf("%w: %w", errUnsent, err)
	}
	select {
	case answer := <-ch:
		return answer, nil
	case <-c.gone:
		return c.lost(ch)
	case <-ctx.Done():
	}
	if err := c.send(message{ID: m.ID, Cancel: true}); err == nil {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case answer := <-ch:
			return answer, nil
		case <-c.gone:
			return c.lost(ch)
		case <-timer.C:
		}
	}
	c.kill()
	<-c.gone
	return message{}, fmt.Errorf("%w; the grid SDK's process did not end its call and was killed", context.Cause(ctx))
}

// lost is for a child that is gone; its answer may have come just before.
func (c *child) lost(ch chan message) (message, error) {
	select {
	case answer := <-ch:
		return answer, nil
	default:
		return message{}, &grid.Error{Kind: grid.ErrCrashed, Msg: c.err.Error(),
			Remedy: "the next call starts it again; contracts that were made are on the chain, and `quantumd deploy` continues from them"}
	}
}

func (c *child) send(m message) error {
	c.write.Lock()
	defer c.write.Unlock()
	select {
	case <-c.gone:
		return os.ErrClosed
	default:
	}
	if err := c.stdin.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return err
	}
	return writeFrame(c.stdin, m)
}

// end lets it end by itself, or kills it.
func (c *child) end() {
	c.write.Lock()
	_ = c.stdin.Close() // again, perhaps
	c.write.Unlock()
	timer := time.NewTimer(closeTime)
	defer timer.Stop()
	select {
	case <-c.gone:
	case <-timer.C:
		c.kill()
		<-c.gone
	}
}
