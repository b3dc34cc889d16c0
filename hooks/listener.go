package hooks

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// ListenerOptions tunes a Listener. The zero value is ready for use.
type ListenerOptions struct {
	MaxConns    int           // connections at a time, further ones wait; zero means 64
	ReadTimeout time.Duration // for a request to arrive whole; zero means 10 s
	Logger      *slog.Logger  // nil discards
}

// Listener receives events over a unix socket, from [Client]s and from the
// reference's hook program, and gives them to a handler. Only root and the
// user of this process are heard. Where the handler's error matches
// [ErrUnavailable] a Client gets no answer, as if nobody listened.
type Listener struct {
	path    string
	handler HookHandler
	opts    ListenerOptions
	log     *slog.Logger
	ln      *net.UnixListener
	made    os.FileInfo // the socket that we made

	closing sync.Once
	closed  error
}

// ErrInUse says that another process listens on the socket.
var ErrInUse = errors.New("hooks: another process listens on this socket")

// Listen makes the socket at path with mode 0600, and its folder with 0700
// when it is missing. A folder that others may write to is refused. A socket
// that nobody listens on is replaced. Call Serve to receive events.
func Listen(path string, h HookHandler, o ListenerOptions) (*Listener, error) {
	if o.MaxConns <= 0 {
		o.MaxConns = 64
	}
	if o.ReadTimeout <= 0 {
		o.ReadTimeout = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Listener{path: path, handler: h, opts: o, log: o.Logger.With("component", "hooks")}
	if err := checkSocketPath(path); err != nil {
		return nil, err
	}
	if err := l.bind(); err != nil {
		return nil, fmt.Errorf("hooks: listen on %s: %w", path, err)
	}
	return l, nil
}

// bind makes the socket under another name and renames it, so that it is never
// seen with a wider mode, and a stale one is replaced in one step.
func (l *Listener) bind() error {
	dir := filepath.Dir(l.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	st, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if st.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("folder %s may be written by others (mode %v): use a private one", dir, st.Mode().Perm())
	}
	if err := l.checkFree(); err != nil {
		return err
	}
	temp := filepath.Join(dir, ".~")
	if len(temp) > maxSocketPath {
		return &SocketPathError{Path: temp}
	}
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return err
	}
	ln.SetUnlinkOnClose(false) // its name changes
	err = errors.Join(os.Chmod(temp, 0o600), os.Rename(temp, l.path))
	if err == nil {
		l.made, err = os.Lstat(l.path)
	}
	if err != nil {
		_, _ = ln.Close(), os.Remove(temp)
		return err
	}
	l.ln = ln
	return nil
}

// checkFree refuses a path that somebody listens on, or that is no socket.
func (l *Listener) checkFree() error {
	st, err := os.Lstat(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is no socket", l.path)
	}
	conn, err := net.DialTimeout("unix", l.path, dialTimeout)
	if err != nil {
		return nil // stale
	}
	_ = conn.Close()
	return ErrInUse
}

// Path is the socket's path.
func (l *Listener) Path() string { return l.path }

// Serve receives events until ctx ends or Close is called, then waits for the
// handlers that run, whose context has ended. It closes the listener, and is
// nil after such an end.
func (l *Listener) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	defer l.Close()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()

	slots := make(chan struct{}, l.opts.MaxConns)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := l.ln.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil { // out of descriptors, mostly: it passes
			<-slots
			l.log.Warn("accept failed", "err", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		serving.Go(func() {
			defer func() { <-slots }()
			l.serve(ctx, conn)
		})
	}
}

// serve handles one connection: one event.
func (l *Listener) serve(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	unblock := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer unblock()
	if err := checkPeer(conn); err != nil {
		l.log.Warn("hook connection refused", "err", err)
		return
	}
	if ctx.Err() != nil {
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(l.opts.ReadTimeout))
	args, line, err := readRequest(conn)
	if err == nil {
		err = l.handle(ctx, args)
	} else {
		l.log.Warn("hook message refused", "err", err)
	}
	if errors.Is(err, ErrUnavailable) && !line {
		return // no answer: the client does what it does without us
	}
	answer := encodeAnswer(err)
	if line {
		name := ""
		if len(args) > 0 {
			name = args[0]
		}
		answer = encodeAnswerLine(name, err)
	}
	_ = conn.SetWriteDeadline(time.Now().Add(l.opts.ReadTimeout))
	if _, err := conn.Write(answer); err != nil {
		l.log.Debug("hook answer not delivered", "err", err)
	}
}

func (l *Listener) handle(ctx context.Context, args []string) error {
	e, err := Parse(args)
	if err != nil {
		return err
	}
	return l.handler.HandleHook(ctx, e)
}

// Close stops receiving and removes the socket, unless another one has taken
// its place. Serve returns after the handlers that run.
func (l *Listener) Close() error {
	l.closing.Do(func() {
		if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.made) {
			l.closed = os.Remove(l.path)
		}
		l.closed = errors.Join(l.closed, l.ln.Close())
	})
	return l.closed
}
