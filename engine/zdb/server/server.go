package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/hooks"
)

// Server is a zdb on two folders. It is safe for concurrent use. Close ends it.
type Server struct {
	o      Options
	log    *slog.Logger
	disk   disk
	unlock func()
	id     uint32 // INFO's instance_id
	boot   time.Time

	ctx    context.Context // of hooks; ends when Close has waited long enough
	cancel context.CancelFunc
	reads  context.Context // of what readers wait for; ends when Close begins
	stop   context.CancelFunc
	tasks  sync.WaitGroup // hooks that nobody waits for, background work

	stats   stats
	hooklog hooklog

	admin sync.Mutex // one change to the set of namespaces at a time

	mu         sync.RWMutex
	namespaces map[string]*Namespace
	order      []string // as NSLIST shows them; "" is a free slot
	closed     bool
	ready      *readiness
	listeners  map[net.Listener]struct{}
	conns      map[*conn]struct{}
	serving    sync.WaitGroup
	closeOnce  sync.Once
	closeErr   error
}

type readiness struct {
	once sync.Once
	err  error
}

// closeGrace is how long Close waits for hooks that nobody else waits for.
const closeGrace = 5 * time.Second

// Open locks both folders, which it makes when they are absent, raises
// namespaces-init, and loads the default and all other namespaces. What was
// written but not yet in the index when the last server ended is replayed.
func Open(ctx context.Context, o Options) (*Server, error) {
	return open(ctx, o, systemDisk())
}

func open(ctx context.Context, o Options, d disk) (_ *Server, err error) {
	if o, err = o.withDefaults(); err != nil {
		return nil, err
	}
	unlock, err := lockRoots(o.IndexDir, o.DataDir)
	if err != nil {
		return nil, err
	}
	s := &Server{
		o: o, log: o.Logger, disk: d, unlock: unlock,
		id: 1 + rand.Uint32N(1<<30-1), boot: time.Now(),
		namespaces: map[string]*Namespace{}, ready: &readiness{},
		listeners: map[net.Listener]struct{}{}, conns: map[*conn]struct{}{},
	}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.reads, s.stop = context.WithCancel(s.ctx)
	if err := s.loadAll(ctx); err != nil {
		s.stop()
		s.cancel()
		for _, n := range s.namespaces {
			n.mu.Lock()
			n.closeFilesLocked()
			n.mu.Unlock()
		}
		s.tasks.Wait()
		unlock()
		return nil, err
	}
	s.tasks.Go(s.background)
	return s, nil
}

func lockRoots(index, data string) (func(), error) {
	for _, dir := range []string{index, data} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	a, err := os.Stat(index)
	if err != nil {
		return nil, err
	}
	b, err := os.Stat(data)
	if err != nil {
		return nil, err
	}
	if os.SameFile(a, b) {
		return nil, fmt.Errorf("%w: data and index folder are the same: %s", ErrOptions, data)
	}
	var held []*flock.Flock
	unlock := func() {
		for _, l := range held {
			_ = l.Close() // closing the file is what unlocks; nothing is left to do about an error
		}
	}
	for _, dir := range []string{index, data} {
		l := flock.New(filepath.Join(dir, ".lockfile"), flock.SetPermissions(0o600))
		ok, err := l.TryLock()
		if err == nil && !ok {
			err = &LockedError{Dir: dir}
		}
		if err != nil {
			unlock()
			return nil, err
		}
		held = append(held, l)
	}
	return unlock, nil
}

func (s *Server) loadAll(ctx context.Context) error {
	// Whatever the hook says, zdb goes on.
	_ = s.hook(ctx, hooks.Event{Kind: hooks.NamespacesInit, IndexRoot: s.o.IndexDir, DataRoot: s.o.DataDir})
	if err := s.finishDeletes(); err != nil {
		return err
	}
	names, err := s.folders()
	if err != nil {
		return err
	}
	for _, name := range append([]string{DefaultNamespace}, names...) {
		if err := s.loadNamespace(ctx, name); err != nil {
			return err
		}
	}
	d := s.namespaces[DefaultNamespace]
	if s.o.Protect {
		d.desc.Password, d.desc.Public = s.o.AdminPassword.Reveal(), true
	}
	if s.o.MaxSize > 0 {
		d.desc.MaxSize = uint64(s.o.MaxSize)
	}
	return nil
}

// folders lists what the index root has beside the default namespace.
func (s *Server) folders() ([]string, error) {
	list, err := os.ReadDir(s.o.IndexDir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range list {
		if !e.IsDir() || e.Name() == DefaultNamespace {
			continue
		}
		if !s.isNamespace(e.Name()) {
			s.log.Warn("folder is no namespace", "path", filepath.Join(s.o.IndexDir, e.Name()))
			continue
		}
		names = append(names, e.Name())
	}
	return names, nil
}

func (s *Server) isNamespace(name string) bool {
	for _, file := range []string{segment.DescriptorName, segment.IndexName(0)} {
		if _, err := os.Stat(filepath.Join(s.o.IndexDir, name, file)); err == nil {
			return true
		}
	}
	return false
}

// loadNamespace loads a namespace, making its folders and first pair where
// they are absent.
func (s *Server) loadNamespace(ctx context.Context, name string) error {
	n := s.newNamespace(name)
	for _, dir := range []string{n.indexDir, n.dataDir} {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	err := n.load(ctx)
	if err == nil {
		err = n.checkpoint(ctx, checkpointOptions{})
	}
	if err == nil {
		err = errors.Join(s.disk.syncDir(s.o.IndexDir), s.disk.syncDir(s.o.DataDir))
	}
	if err != nil {
		n.mu.Lock()
		n.closeFilesLocked()
		n.mu.Unlock()
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.namespaces[name] = n
	if i := slices.Index(s.order, ""); i >= 0 {
		s.order[i] = name
	} else {
		s.order = append(s.order, name)
	}
	return nil
}

// Namespace finds a namespace by its name.
func (s *Server) Namespace(name string) (*Namespace, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n, ok := s.namespaces[name]
	return n, ok
}

// Namespaces lists all names: the default first, then as they were loaded.
func (s *Server) Namespaces() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.DeleteFunc(slices.Clone(s.order), func(name string) bool { return name == "" })
}

func (s *Server) all() []*Namespace {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := make([]*Namespace, 0, len(s.order))
	for _, name := range s.order {
		if n := s.namespaces[name]; n != nil {
			list = append(list, n)
		}
	}
	return list
}

func validName(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

const (
	maxName     = 128
	maxPassword = 63
)

// CreateNamespace makes a namespace, or gives the one of that name when its
// mode is the wanted one; another mode is backend.ErrMode. The other options
// of an existing namespace are left alone.
func (s *Server) CreateNamespace(ctx context.Context, name string, o NamespaceOptions) (*Namespace, error) {
	if !validName(name) || len(name) > maxName || len(o.Password) > maxPassword || o.MaxSize < 0 || o.Mode > Sequential {
		return nil, fmt.Errorf("%w: namespace %q", ErrOptions, name)
	}
	s.admin.Lock()
	defer s.admin.Unlock()
	mode := o.Mode
	if mode == 0 {
		mode = s.o.Mode
	}
	if n, ok := s.Namespace(name); ok {
		if mode != 0 && n.Mode() != mode {
			return nil, fmt.Errorf("%w: %q is in mode %v", backend.ErrMode, name, n.Mode())
		}
		return n, nil
	}
	if s.o.Mode != 0 && mode != s.o.Mode {
		return nil, fmt.Errorf("%w: the server is in mode %v", backend.ErrMode, s.o.Mode)
	}
	n, err := s.create(ctx, name)
	if err != nil {
		return nil, err
	}
	if mode != 0 && n.Mode() != mode {
		if err := n.setMode(mode); err != nil {
			return nil, err
		}
	}
	err = n.describe(func(d *segment.Descriptor) {
		d.Password, d.Public, d.MaxSize = o.Password.Reveal(), o.Public, uint64(o.MaxSize)
	})
	return n, err
}

// create makes and announces a namespace. admin is held.
func (s *Server) create(ctx context.Context, name string) (*Namespace, error) {
	s.mu.RLock()
	closed := s.closed
	s.mu.RUnlock()
	if closed {
		return nil, ErrClosed
	}
	if err := s.loadNamespace(ctx, name); err != nil {
		return nil, err
	}
	s.hookLater(hooks.Event{Kind: hooks.NamespaceCreated, Namespace: name})
	n, _ := s.Namespace(name)
	return n, nil
}

// DeleteNamespace removes a namespace and everything in it. The default one
// cannot be removed.
func (s *Server) DeleteNamespace(ctx context.Context, name string) error {
	s.admin.Lock()
	defer s.admin.Unlock()
	n, ok := s.Namespace(name)
	if !ok {
		return fmt.Errorf("%w: %q", ErrNoNamespace, name)
	}
	if name == DefaultNamespace {
		return fmt.Errorf("%w: the default namespace cannot be removed", ErrOptions)
	}
	if err := n.retire(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.namespaces, name)
	s.order[slices.Index(s.order, name)] = ""
	s.mu.Unlock()
	if err := os.Rename(n.dataDir, s.deleting(name)); err != nil {
		return err
	}
	if err := s.disk.syncDir(s.o.DataDir); err != nil {
		return err
	}
	if err := s.finishDelete(name); err != nil {
		return err
	}
	s.hookLater(hooks.Event{Kind: hooks.NamespaceDeleted, Namespace: name})
	return nil
}

// deleting is what the data folder of a namespace is called from the moment
// of its deletion. Open completes what a crash left.
func (s *Server) deleting(name string) string {
	return filepath.Join(s.o.DataDir, deletedPrefix+name)
}

const deletedPrefix = ".quantumd-deleted-"

func (s *Server) finishDeletes() error {
	list, err := os.ReadDir(s.o.DataDir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if name, ok := strings.CutPrefix(e.Name(), deletedPrefix); ok && validName(name) {
			if err := s.finishDelete(name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Server) finishDelete(name string) error {
	if err := os.RemoveAll(filepath.Join(s.o.IndexDir, name)); err != nil {
		return err
	}
	if err := s.disk.syncDir(s.o.IndexDir); err != nil {
		return err
	}
	return os.RemoveAll(s.deleting(name))
}

// Close raises close, ends all connections, makes everything durable, raises
// namespace-closing, and unlocks the folders. It is idempotent.
func (s *Server) Close() error {
	s.closeOnce.Do(func() { s.closeErr = s.close() })
	return s.closeErr
}

func (s *Server) close() error {
	_ = s.hook(s.ctx, hooks.Event{Kind: hooks.Close}) // logged; the end does not depend on it
	s.mu.Lock()
	s.closed = true
	for l := range s.listeners {
		l.Close() // Serve returns; there is nothing to save in a listener
	}
	for c := range s.conns {
		c.hangUp()
	}
	s.mu.Unlock()
	s.stop()
	patience := time.AfterFunc(closeGrace, s.cancel) // a hook that a command waits for
	s.serving.Wait()
	patience.Stop()
	s.admin.Lock()
	defer s.admin.Unlock()
	var errs []error
	for _, n := range s.all() {
		errs = append(errs, n.close())
	}
	s.waitTasks()
	s.unlock()
	return errors.Join(errs...)
}

// waitTasks waits for hooks, and ends them when they take too long.
func (s *Server) waitTasks() {
	t := time.AfterFunc(closeGrace, s.cancel)
	defer t.Stop()
	s.tasks.Wait()
	s.cancel()
}
