package sdkprocess

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/threefoldtech/quantumd/backend/grid"
)

// Main is the whole of a child: it serves on standard input and output, logs to
// standard error, and returns when the parent wants it to end or is gone. The process
// must end then. Signals that a terminal or a service manager sends to all processes
// are the parent's business.
func Main(open func(context.Context, Options) (grid.Client, error)) error {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	out := os.Stdout
	os.Stdout = os.Stderr // a library that prints must not speak to the parent
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	return Serve(context.Background(), os.Stdin, out, func(ctx context.Context, o Options) (grid.Client, error) {
		o.Logger = log
		return open(ctx, o)
	})
}

// Serve answers one Start with the client that open gives, until in ends. It does not
// wait for calls that run then: their end, which might give back contracts, is not
// for a process whose parent is gone. They end with ctx, or with the process.
func Serve(ctx context.Context, in io.Reader, out io.Writer, open func(context.Context, Options) (grid.Client, error)) error {
	s := &serving{out: out, cancel: map[uint64]context.CancelFunc{}}
	first, err := readFrame(in)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("grid SDK's process: %w", err)
	}
	if first.Open == nil {
		return errors.New("grid SDK's process: the first frame does not say which grid: this is not a command for people")
	}
	// The parent may go while the connection is made, which takes a minute at worst.
	frames := make(chan message)
	ended := make(chan error, 1)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			m, err := readFrame(in)
			if err != nil {
				ended <- err
				return
			}
			select {
			case frames <- m:
			case <-stop:
				return
			}
		}
	}()
	type opened struct {
		c   grid.Client
		err error
	}
	ready := make(chan opened, 1)
	go func() {
		c, err := open(ctx, first.Open.options())
		ready <- opened{c, err}
	}()
	select {
	case err := <-ended:
		return atEnd(err)
	case <-ctx.Done():
		return context.Cause(ctx)
	case x := <-ready:
		s.reply(message{ID: first.ID, Error: toWire(x.err)})
		if x.err != nil {
			return nil // told
		}
		s.client = x.c
	}
	defer func() {
		if !s.busy() {
			_ = s.client.Close() // the process ends
		}
	}()
	for {
		select {
		case m := <-frames:
			s.handle(ctx, m)
		case err := <-ended:
			return atEnd(err)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func atEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return fmt.Errorf("grid SDK's process: %w", err)
}

type serving struct {
	client grid.Client
	write  sync.Mutex
	out    io.Writer
	mu     sync.Mutex
	cancel map[uint64]context.CancelFunc // of calls that run
}

func (s *serving) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.cancel) > 0
}

func (s *serving) handle(ctx context.Context, m message) {
	s.mu.Lock()
	running := s.cancel[m.ID]
	s.mu.Unlock()
	if m.Cancel {
		if running != nil {
			running()
		}
		return
	}
	f := calls[m.Call]
	if f == nil || running != nil {
		s.reply(message{ID: m.ID, Error: toWire(fmt.Errorf("grid SDK's process: no call %.40q", m.Call))})
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	s.cancel[m.ID] = cancel
	s.mu.Unlock()
	go func() { // a panic here, or below, is what the process is for
		defer cancel()
		v, err := f(ctx, s.client, m.Args)
		answer := message{ID: m.ID, Error: toWire(err)}
		if v != nil {
			text, failed := json.Marshal(v)
			if failed != nil {
				answer.Error = toWire(failed)
			}
			answer.Result = text
		}
		s.mu.Lock()
		delete(s.cancel, m.ID)
		s.mu.Unlock()
		s.reply(answer)
	}()
}

// reply gives an answer, or at least an error in its place.
func (s *serving) reply(m message) {
	s.write.Lock()
	defer s.write.Unlock()
	if err := writeFrame(s.out, m); err != nil {
		_ = writeFrame(s.out, message{ID: m.ID, Error: toWire(err)}) // a parent that is gone shows by its end of the pipe
	}
}
