package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/qsfs/ongrid"
)

// Service runs systems. Its calls may run side by side.
type Service struct {
	Dir  string
	Base *config.Config // what all systems have in common: the account, the network
	Open func(ctx context.Context, cfg *config.Config) (grid.Client, error)

	mu      sync.Mutex
	systems map[string]*system
}

// system is one file system that runs.
type system struct {
	*qsfs.System
	backends *grid.Provisioner
	stop     context.CancelFunc
	ended    chan error
}

// Order asks for a system.
type Order struct {
	Name     string   `json:"name"` // letters and digits
	Password string   `json:"password"`
	Farms    []uint64 `json:"farms"`
	Size     string   `json:"size"` // such as 1T
}

// errThere says that a name is taken.
var errThere = errors.New("there is a system of this name")

var errMissing = errors.New("there is no system of this name")

func (s *Service) open(ctx context.Context, o Order) (*system, *qsfs.Plan, error) {
	if err := grid.CheckName(o.Name); err != nil {
		return nil, nil, err
	}
	cfg := s.Base.Clone()
	size, err := config.ParseSize(o.Size)
	if err != nil {
		return nil, nil, err
	}
	cfg.DeploymentName, cfg.Password, cfg.Farms, cfg.TotalStorageSize = o.Name, config.Secret(o.Password), o.Farms, size
	dir := filepath.Join(s.Dir, o.Name)
	layout := qsfs.LayoutBelow(dir)
	p, err := ongrid.New(cfg, layout, ongrid.Options{Open: func(ctx context.Context) (grid.Client, error) { return s.Open(ctx, cfg) }})
	if err != nil {
		return nil, nil, err
	}
	sys, err := qsfs.Open(ctx, cfg, qsfs.WithLayout(layout), qsfs.WithProvisioner(p), qsfs.WithoutMount())
	if err != nil {
		return nil, nil, errors.Join(err, p.Close())
	}
	plan, err := sys.PlanDeploy(ctx)
	if err != nil {
		return nil, nil, errors.Join(err, p.Close())
	}
	return &system{System: sys, backends: p, ended: make(chan error, 1)}, plan, nil
}

// Quote tells what a system would cost, and where it would be. Nothing is rented.
func (s *Service) Quote(ctx context.Context, o Order) (*grid.Bill, error) {
	sys, plan, err := s.open(ctx, o)
	if err != nil {
		return nil, err
	}
	defer sys.backends.Close() //nolint:errcheck // nothing was asked for
	return sys.backends.Bill(ctx, plan.Specs())
}

// Create rents what a system needs and is not there yet, and runs it. After an error a
// second call goes on.
func (s *Service) Create(ctx context.Context, o Order) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.systems[o.Name] != nil {
		return errThere
	}
	sys, plan, err := s.open(ctx, o)
	if err != nil {
		return err
	}
	if _, err := sys.Deploy(ctx, plan); err != nil {
		return errors.Join(err, sys.backends.Close())
	}
	run, stop := context.WithCancel(context.Background()) // it outlives the call that made it
	sys.stop = stop
	go func() { sys.ended <- sys.Run(run) }()
	select {
	case <-sys.Ready():
	case err := <-sys.ended:
		stop()
		return errors.Join(err, sys.backends.Close())
	}
	if s.systems == nil {
		s.systems = map[string]*system{}
	}
	s.systems[o.Name] = sys
	return nil
}

// Get gives a system that runs.
func (s *Service) Get(name string) (*qsfs.System, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sys := s.systems[name]; sys != nil {
		return sys.System, nil
	}
	return nil, errMissing
}

// List names the systems.
func (s *Service) List() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := []string{}
	for n := range s.systems {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Destroy ends a system, cancels what it rented and deletes its files.
func (s *Service) Destroy(ctx context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	sys := s.systems[name]
	if sys == nil {
		return errMissing
	}
	if err := sys.end(); err != nil {
		return fmt.Errorf("%s did not end well, and nothing of it was removed: %w", name, err)
	}
	delete(s.systems, name)
	held, err := sys.backends.Find(ctx)
	if err != nil {
		return errors.Join(err, sys.backends.Close())
	}
	var contracts []uint64
	for _, h := range held {
		contracts = append(contracts, h.Contract.ID)
	}
	if err := errors.Join(sys.backends.Cancel(ctx, contracts...), sys.backends.Close()); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(s.Dir, name))
}

// end brings what was written to the backends and ends the system.
func (s *system) end() error {
	s.stop()
	return <-s.ended
}

// Close ends all systems; what they rented stays.
func (s *Service) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, sys := range s.systems {
		errs = append(errs, sys.end(), sys.backends.Close())
	}
	s.systems = nil
	return errors.Join(errs...)
}

// Handler serves the service. Whoever reaches it spends money: keep it on loopback,
// or behind what knows its users.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /systems", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.List(), nil) })
	mux.HandleFunc("GET /systems/{name}", func(w http.ResponseWriter, r *http.Request) {
		var st *client.Status
		sys, err := s.Get(r.PathValue("name"))
		if err == nil {
			st, err = sys.Status(r.Context())
		}
		answer(w, st, err)
	})
	mux.HandleFunc("POST /systems", func(w http.ResponseWriter, r *http.Request) {
		var o Order
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&o); err != nil {
			answer(w, nil, err)
			return
		}
		if r.URL.Query().Get("quote") != "" {
			bill, err := s.Quote(r.Context(), o)
			answer(w, bill, err)
			return
		}
		answer(w, o.Name, s.Create(r.Context(), o))
	})
	mux.HandleFunc("DELETE /systems/{name}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, r.PathValue("name"), s.Destroy(r.Context(), r.PathValue("name")))
	})
	return mux
}

func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	var hint interface{ Hint() string }
	switch {
	case errors.Is(err, errMissing):
		w.WriteHeader(http.StatusNotFound)
	case err != nil:
		w.WriteHeader(http.StatusConflict)
	}
	if err != nil {
		failure := map[string]string{"error": err.Error()}
		if errors.As(err, &hint) {
			failure["hint"] = hint.Hint()
		}
		v = failure
	}
	_ = json.NewEncoder(w).Encode(v) // who asked may have gone
}
