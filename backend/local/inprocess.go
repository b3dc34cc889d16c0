package local

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"

	"github.com/threefoldtech/quantumd/engine/zdb/server"
)

// InProcess runs each zdb inside this process, until Close. A nil logger
// discards.
func InProcess(log *slog.Logger) Launcher {
	return &inProcess{log: log, servers: map[string]*running{}}
}

type inProcess struct {
	log *slog.Logger

	mu      sync.Mutex
	servers map[string]*running // by folder
}

type running struct {
	server *server.Server
	cancel context.CancelFunc
	done   chan struct{} // closed when Serve has ended
}

func (p *inProcess) running(i Instance) (int, bool) {
	p.mu.Lock()
	r := p.servers[i.Dir]
	p.mu.Unlock()
	if r == nil {
		return 0, false
	}
	select {
	case <-r.done: // it no longer listens
		return 0, false
	default:
		return os.Getpid(), true
	}
}

func (p *inProcess) start(ctx context.Context, i Instance) error {
	if err := p.stop(ctx, i); err != nil { // one that no longer listens still has the files
		p.warn("backend ended badly", i, err)
	}
	mode := server.User
	if i.sequential() {
		mode = server.Sequential
	}
	l, err := net.Listen("tcp", i.Address.String())
	if err != nil {
		return &PortError{Address: i.Address, Err: err}
	}
	s, err := server.Open(ctx, server.Options{DataDir: i.path("data"), IndexDir: i.path("index"), DataSize: dataSize,
		Mode: mode, AdminPassword: i.Admin, Instance: "tcp://" + i.Address.String(), Logger: p.log})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &running{server: s, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		if err := s.Serve(serving, l); err != nil && serving.Err() == nil {
			p.warn("backend ended", i, err)
		}
	}()
	p.mu.Lock()
	p.servers[i.Dir] = r
	p.mu.Unlock()
	return nil
}

func (p *inProcess) warn(message string, i Instance, err error) {
	if p.log != nil {
		p.log.Error(message, "backend", i.ID, "err", err)
	}
}

func (p *inProcess) stop(_ context.Context, i Instance) error {
	p.mu.Lock()
	r := p.servers[i.Dir]
	delete(p.servers, i.Dir)
	p.mu.Unlock()
	if r == nil {
		return nil
	}
	return r.end()
}

func (*inProcess) forget(context.Context, Instance) error { return nil }

func (r *running) end() error {
	r.cancel()
	<-r.done
	return r.server.Close()
}

func (p *inProcess) close() error {
	p.mu.Lock()
	servers := p.servers
	p.servers = map[string]*running{}
	p.mu.Unlock()
	var errs []error
	for _, r := range servers {
		errs = append(errs, r.end())
	}
	return errors.Join(errs...)
}
