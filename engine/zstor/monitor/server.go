package monitor

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/engine/zstor/record"
)

// Handler does what clients ask for. It is called by several goroutines. The
// context is the server's and ends when that stops, not with the answer. A client
// that goes away is not noticed, because it may close its sending half at once.
type Handler interface {
	Store(ctx context.Context, r Store) error
	Retrieve(ctx context.Context, r Retrieve) error
	Rebuild(ctx context.Context, r Rebuild) error
	// Check gives the checksum of the object, and false when there is none.
	Check(ctx context.Context, path string) (record.Checksum, bool, error)
}

// Options tunes a Server. The zero value works.
type Options struct {
	// MaxClients bounds the requests that are handled at a time; zero means 64.
	// More connections wait.
	MaxClients int
	// ReadTimeout is how long a client may take to send its request; zero means 10 s.
	ReadTimeout time.Duration
	Logger      *slog.Logger // nil discards
}

// Server answers requests.
type Server struct {
	h    Handler
	opts Options
	log  *slog.Logger
}

// NewServer makes a server of h.
func NewServer(h Handler, opts Options) *Server {
	if opts.MaxClients <= 0 {
		opts.MaxClients = 64
	}
	if opts.ReadTimeout <= 0 {
		opts.ReadTimeout = 10 * time.Second
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{h: h, opts: opts, log: opts.Logger.With("component", "zstor-monitor")}
}

// Serve answers clients of l until ctx ends, closes l, waits for what runs, whose
// context has ended, and returns nil; or the error of l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	var clients sync.WaitGroup
	defer clients.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // wakes Accept
	defer func() {
		if stop() {
			_ = l.Close() // Accept failed: nothing is left to lose
		}
	}()
	slots := make(chan struct{}, s.opts.MaxClients)
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			_ = conn.Close() // stopping
			return nil
		}
		clients.Go(func() {
			defer func() { <-slots }()
			s.serve(ctx, conn)
		})
	}
}

func (s *Server) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })() // wakes a read at stop
	_ = conn.SetReadDeadline(time.Now().Add(s.opts.ReadTimeout))
	body, err := ReadFrame(conn)
	if err != nil {
		s.log.Error("request not read", "err", err)
		return
	}
	req, err := ParseRequest(body)
	if err != nil {
		s.log.Error("request not understood", "err", err)
		return
	}
	resp := s.handle(ctx, req)
	_ = conn.SetWriteDeadline(time.Now().Add(s.opts.ReadTimeout))
	if _, err := conn.Write(EncodeResponse(resp)); err != nil {
		s.log.Warn("response not sent", "err", err)
	}
}

func (s *Server) handle(ctx context.Context, req Request) Response {
	var err error
	switch r := req.(type) {
	case Store:
		err = s.h.Store(ctx, r)
	case Retrieve:
		err = s.h.Retrieve(ctx, r)
	case Rebuild:
		if (r.File == "") == (r.Key == "") && r.Metadata == nil {
			err = errors.New("error during accessing local storage for Either `file` or `key` argument must be set: invalid input parameter")
			break
		}
		err = s.h.Rebuild(ctx, r)
	case Check:
		sum, found, checkErr := s.h.Check(ctx, r.Path)
		if err = checkErr; err == nil && found {
			return Response{Checksum: &sum}
		}
	}
	if err != nil {
		return Response{Failed: true, Err: err.Error()}
	}
	return Response{}
}
