package qsfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/store"
)

// startControl serves the control protocol of qsfs/client on the private
// socket. The folder (0700) and the socket (0600) keep others out.
func (s *System) startControl(ctx context.Context, stops *stopStack) error {
	path := s.layout.ControlSocket()
	l, err := listenUnix(path)
	if err != nil {
		return err
	}
	requests, cancel := context.WithCancel(context.WithoutCancel(ctx))
	srv := &http.Server{Handler: s.controlMux(), ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return requests }}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("the control socket is gone", "err", err)
		}
	}()
	stops.push(func() error {
		cancel()
		err := srv.Close()
		<-ended
		return err
	})
	return nil
}

// listenUnix listens on a socket of mode 0600, in place of one that nobody
// listens on any more. The lock on the system's folders is held: no other
// daemon of this system can be behind it.
func listenUnix(path string) (net.Listener, error) {
	if st, err := os.Lstat(filepath.Dir(path)); err != nil {
		return nil, &PathError{Path: path, Err: err}
	} else if sys, ok := st.Sys().(*syscall.Stat_t); !st.IsDir() || st.Mode().Perm()&0o077 != 0 || (ok && int(sys.Uid) != os.Geteuid()) {
		return nil, &PathError{Path: filepath.Dir(path), Err: errors.New("the folder of the sockets must be this user's own, with mode 0700")}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, &PathError{Path: path, Err: err}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, &PathError{Path: path, Err: err}
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(&PathError{Path: path, Err: err}, l.Close())
	}
	return l, nil
}

func (s *System) controlMux() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /v1/status", answer(func(r *http.Request) (any, error) { return s.Status(r.Context()) }))
	mux.Handle("POST /v1/sync", answer(func(r *http.Request) (any, error) { return s.Sync(r.Context()) }))
	mux.Handle("POST /v1/evict", answer(func(r *http.Request) (any, error) {
		var in client.EvictRequest
		if err := json.NewDecoder(io.LimitReader(r.Body, 4096)).Decode(&in); err != nil {
			return nil, fmt.Errorf("request: %w", err)
		}
		return s.Evict(r.Context(), in.Keep)
	}))
	mux.Handle("GET /v1/queue", answer(func(r *http.Request) (any, error) {
		limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
		if err != nil || limit <= 0 {
			limit = 1000
		}
		return s.Queue(r.Context(), min(limit, 100_000))
	}))
	mux.Handle("POST /v1/queue/retry", answer(func(r *http.Request) (any, error) { return nil, s.RetryNow(r.Context()) }))
	s.eventRoutes(mux)
	s.replaceRoutes(mux)
	s.integrityRoutes(mux)
	mux.Handle("POST /v1/stop", answer(func(*http.Request) (any, error) {
		if s.opts.stop == nil {
			return nil, errors.New("this system cannot be stopped from outside: end the program that runs it")
		}
		s.opts.stop()
		return nil, nil
	}))
	return mux
}

// answer turns a result into JSON, and an error into a Failure.
func answer(f func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, err := f(r)
		w.Header().Set("Content-Type", "application/json")
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			v = failure(err)
		}
		_ = json.NewEncoder(w).Encode(v) // the caller may be gone
	})
}

func failure(err error) client.Failure {
	f := client.Failure{Schema: client.SchemaVersion, Kind: client.KindFailed, Error: err.Error()}
	var unavailable *zstor.UnavailableError
	var quorum *QuorumError
	switch {
	case errors.Is(err, ErrFenced):
		f.Kind = client.KindFenced
	case errors.Is(err, context.DeadlineExceeded):
		f.Kind = client.KindTimeout
	case errors.As(err, &unavailable), errors.As(err, &quorum):
		f.Kind = client.KindDegraded
	}
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		f.Hint = h.Hint()
	}
	return f
}

// Sync is the barrier: it returns when everything written before the call is
// on the backends, verified, and named by a committed checkpoint. It fails
// with [ErrFenced] where this frontend may no longer write, and with the
// context's error where the backends do not take it in time; the upload goes
// on behind it.
func (s *System) Sync(ctx context.Context) (*client.SyncReport, error) {
	if err := s.serving(); err != nil {
		return nil, err
	}
	if _, err := s.store.Queue().RetryNow(ctx); err != nil { // who waits does not wait for the end of a pause
		return nil, fmt.Errorf("sync: %w", err)
	}
	report, err := s.check.sync(ctx)
	if err != nil {
		return nil, fmt.Errorf("sync: %w", err)
	}
	return &report, nil
}

// Queue lists files on their way to the backends, at most limit.
func (s *System) Queue(ctx context.Context, limit int) (*client.QueueList, error) {
	if err := s.serving(); err != nil {
		return nil, err
	}
	out := &client.QueueList{Schema: client.SchemaVersion, Items: []client.QueueItem{}}
	for e, err := range s.store.Queue().List(ctx, store.Filter{Limit: limit}) {
		if err != nil {
			return nil, err
		}
		out.Items = append(out.Items, client.QueueItem{Path: e.Item.Path, Kind: string(e.Item.Kind), State: string(e.State),
			Bytes: e.Item.Size, Tries: e.Tries, NextTry: e.NextTry, Error: e.LastError})
	}
	return out, nil
}

// RetryNow has every waiting upload tried at once.
func (s *System) RetryNow(ctx context.Context) error {
	if err := s.serving(); err != nil {
		return err
	}
	_, err := s.store.Queue().RetryNow(ctx)
	return err
}
