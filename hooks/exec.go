package hooks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Exec runs a program for each event, with the arguments that zdb would give
// it. Events that zdb waits for are waited for; the others are started and
// owned: Close waits for them. Set the fields before the first event; an Exec
// must not be copied.
//
// Exit code 0 is success, anything else an [*ExitError]. What the program
// leaves running in the background does not count: it keeps nothing of ours
// open. The program runs in a session of its own, so that a signal to our
// process group does not reach it.
type Exec struct {
	Path       string        // the program
	Env        []string      // added to this process's environment
	Timeout    time.Duration // longest run; zero means 15 minutes
	MaxRunning int           // programs at a time that nobody waits for; zero means 16
	MaxWaiting int           // events that nobody waits for, running ones included; more are ErrBusy; zero means 1024
	Logger     *slog.Logger  // for failures that nobody waits for; nil discards

	mu      sync.Mutex
	closed  bool
	waiting int           // accepted, not ended
	slots   chan struct{} // running
	running sync.WaitGroup
}

// Bounds and defaults of Exec.
const (
	defaultTimeout    = 15 * time.Minute
	defaultMaxRunning = 16
	defaultMaxWaiting = 1024
	stderrTail        = 2048 // bytes of the program's last words
	pipeDelay         = 500 * time.Millisecond
)

// Errors of Exec and Listener.
var (
	// ErrClosed says that the handler was closed.
	ErrClosed = errors.New("hooks: closed")
	// ErrBusy says that too many events wait.
	ErrBusy = errors.New("hooks: too many events at a time")
)

// ExitError says how a hook program failed.
type ExitError struct {
	Path   string
	Event  Kind
	Code   int    // -1: ended by a signal
	Signal string // that ended it
	Stderr string // the last words, cut
}

func (e *ExitError) Error() string {
	how := fmt.Sprintf("exit code %d", e.Code)
	if e.Signal != "" {
		how = "signal " + e.Signal
	}
	if e.Stderr != "" {
		how += ": " + e.Stderr
	}
	return fmt.Sprintf("hook %s %s: %s", e.Path, e.Event, how)
}

// HandleHook runs the program. For an event that zdb does not wait for it
// returns once the program is accepted.
func (x *Exec) HandleHook(ctx context.Context, e Event) error {
	if err := x.enter(e.Kind); err != nil {
		return err
	}
	if e.Kind.Blocking() {
		defer x.leave(e.Kind)
		return x.run(ctx, e)
	}
	ctx = context.WithoutCancel(ctx) // the caller does not wait; Timeout ends it
	go func() {
		defer x.leave(e.Kind)
		x.slots <- struct{}{}
		defer func() { <-x.slots }()
		if err := x.run(ctx, e); err != nil {
			x.Logger.Warn("hook program failed", "event", string(e.Kind), "err", err)
		}
	}()
	return nil
}

func (x *Exec) enter(k Kind) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return ErrClosed
	}
	if x.slots == nil {
		n := x.MaxRunning
		if n <= 0 {
			n = defaultMaxRunning
		}
		x.slots = make(chan struct{}, n)
		if x.MaxWaiting <= 0 {
			x.MaxWaiting = defaultMaxWaiting
		}
		if x.Logger == nil {
			x.Logger = slog.New(slog.DiscardHandler)
		}
	}
	if !k.Blocking() {
		if x.waiting >= x.MaxWaiting {
			return ErrBusy
		}
		x.waiting++
	}
	x.running.Add(1)
	return nil
}

func (x *Exec) leave(k Kind) {
	if !k.Blocking() {
		x.mu.Lock()
		x.waiting--
		x.mu.Unlock()
	}
	x.running.Done()
}

func (x *Exec) run(ctx context.Context, e Event) error {
	timeout := x.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, x.Path, e.Args()...)
	cmd.Env = append(os.Environ(), x.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // the whole session's group
	cmd.WaitDelay = pipeDelay                                                            // a background program may keep stderr open
	var words tail
	cmd.Stderr = &words
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // the program itself ended with 0
	}
	if ctx.Err() != nil && err != nil {
		return fmt.Errorf("hook %s %s: %w", x.Path, e.Kind, ctx.Err())
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		out := &ExitError{Path: x.Path, Event: e.Kind, Code: exit.ExitCode(), Stderr: words.String()}
		if s, ok := exit.Sys().(syscall.WaitStatus); ok && s.Signaled() {
			out.Signal = s.Signal().String()
		}
		return out
	}
	if err != nil {
		return fmt.Errorf("hook %s %s: %w", x.Path, e.Kind, err)
	}
	return nil
}

// Close refuses further events and waits for the programs that run. They end
// by themselves or after Timeout.
func (x *Exec) Close() error {
	x.mu.Lock()
	x.closed = true
	x.mu.Unlock()
	x.running.Wait()
	return nil
}

// tail keeps the last bytes that are written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(p)
	if len(p) > stderrTail {
		p = p[len(p)-stderrTail:]
	}
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - stderrTail; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return n, nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(strings.TrimSpace(string(t.buf)), "?")
}
