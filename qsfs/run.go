package qsfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/engine/zdbfs/mount"
	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
	"github.com/threefoldtech/quantumd/hooks"
	"github.com/threefoldtech/quantumd/internal/boottime"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/store"
)

// Run brings the system up and keeps it up until ctx ends; then it unmounts,
// brings what was written to the backends (see [WithDrainTime]), and ends
// clean; with [ErrFenced] where another frontend has taken over. [System.Ready] is closed in between. It runs once.
//
// What it starts it stops in the opposite order: mount, tree, checkpoints and
// uploads, zdb, object engine, store. A backend that is away is no reason not
// to start, but for the very first start, which takes the epoch.
func (s *System) Run(ctx context.Context) (err error) {
	if !s.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	var stops stopStack
	defer func() {
		err = errors.Join(err, stops.run())
		s.mu.Lock()
		if s.state != client.StateFenced {
			s.state = "stopped"
		}
		s.mu.Unlock()
	}()
	if err := s.start(ctx, &stops); errors.Is(err, errNoZdbYet) {
		return s.fence.Fenced()
	} else if err != nil {
		s.setState(client.StateFailed)
		return err
	}
	s.setState(client.StateOK)
	s.readyOnce.Do(func() { close(s.ready) })
	select {
	case <-ctx.Done():
	case <-s.unmounted():
		err = errors.New("the file system was unmounted from outside")
	}
	return errors.Join(err, s.drain(ctx))
}

// stopStack is what has to be stopped, the last first.
type stopStack []func() error

func (s *stopStack) push(f func() error) { *s = append(*s, f) }

func (s *stopStack) run() error {
	var errs []error
	for i := len(*s) - 1; i >= 0; i-- {
		errs = append(errs, (*s)[i]())
	}
	*s = nil
	return errors.Join(errs...)
}

func (s *System) start(ctx context.Context, stops *stopStack) error {
	for _, step := range []struct {
		name string
		do   func(context.Context, *stopStack) error
	}{
		{"folders", s.startFolders},
		{"metrics", s.startMetrics},
		{"hook socket", s.startHookSocket},
		{"mountpoint", s.startMountpoint},
		{"control", s.startControl},
		{"store", s.startStore},
		{"object engine", s.startEngine},
		{"epoch", s.startEpoch},
		{"reconcile", s.startSpaces},
		{"events", s.startEvents},
		{"zstor", s.startZstor},
		{"zdb", s.startServer},
		{"local files", s.startLocal},
		{"file system", s.startTree},
		{"uploads", s.startWork},
		{"mount", s.startMount},
	} {
		began := boottime.Now()
		if err := step.do(ctx, stops); err != nil {
			return fmt.Errorf("start %s: %w", step.name, err)
		}
		s.log.Debug("started", "step", step.name, "took", boottime.Now()-began)
	}
	return nil
}

// startFolders makes the folders and locks them against a second process.
func (s *System) startFolders(_ context.Context, stops *stopStack) error {
	if err := s.layout.make(); err != nil {
		return err
	}
	return s.lock(stops)
}

func (s *System) lock(stops *stopStack) error {
	lock := flock.New(s.layout.lockFile(), flock.SetPermissions(0o600))
	got, err := lock.TryLock()
	if err != nil {
		return &PathError{Path: s.layout.lockFile(), Err: err}
	}
	if !got {
		return &InUseError{Path: s.layout.State}
	}
	stops.push(lock.Close)
	return nil
}

func (s *System) startStore(ctx context.Context, stops *stopStack) error {
	if err := s.clearLegacyPlace(ctx); err != nil {
		return err
	}
	db, err := store.Open(ctx, s.layout.Database, store.Options{RetryInterval: s.cfg.RetryInterval.Std(), Logger: s.log})
	if err != nil {
		return err
	}
	s.store = db
	stops.push(db.Close)
	if r := db.Replaced(); r != nil {
		s.log.Warn("the database was damaged and is rebuilt from the files and the backends", "err", r)
	}
	return s.importLegacy(ctx)
}

func (s *System) startEngine(ctx context.Context, stops *stopStack) error {
	engine, err := s.openEngine(ctx)
	if err != nil {
		return err
	}
	s.engine = engine
	stops.push(engine.Close)
	return s.openObjects()
}

func (s *System) startServer(ctx context.Context, stops *stopStack) error {
	if s.cfg.Engine.Zdb == config.External {
		return s.startExternalZdb(ctx, stops)
	}
	mode, err := s.zdbMode()
	if err != nil {
		return err
	}
	zdb, err := server.Open(ctx, server.Options{
		DataDir: s.layout.DataDir(), IndexDir: s.layout.IndexDir(), DataSize: int64(s.cfg.ZdbDataSize),
		Mode: mode, Hooks: hooks.Chain(s.opts.hooks, s.HookHandler()), Instance: "quantumd", KeepDirty: true, Mend: s.mendPath, Logger: s.log,
	})
	if err != nil {
		return err
	}
	s.server = zdb
	stops.push(zdb.Close)
	for _, p := range s.spaces {
		ns, err := zdb.CreateNamespace(ctx, p.name, server.NamespaceOptions{Mode: server.Sequential})
		if err != nil {
			return err
		}
		p.ns, p.records = embeddedSpace{ns}, records{ns, s.beforeChange}
		if err := p.countLocal(ctx, 0); err != nil {
			return err
		}
	}
	s.events.open()
	return nil
}

func (s *System) startTree(ctx context.Context, stops *stopStack) error {
	if s.externalFS() {
		return nil
	}
	meta, data := s.spaces[0], s.spaces[1]
	t, err := s.openTree(ctx, tree.Options{
		Meta: meta.records, Data: data.records,
		Size: s.treeSize(), MemoryLimit: int64(s.cfg.MemoryLimit) / 4,
		UID: uint32(os.Getuid()), GID: uint32(os.Getgid()),
		Committed: s.check.committedCut.Load, Logger: s.log,
	})
	if err != nil {
		return err
	}
	s.tree = t
	stops.push(func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		return t.Close(ctx)
	})
	return nil
}

// beforeChange is asked before each change of a record: a fenced frontend is
// read-only.
func (s *System) beforeChange() error {
	if err := s.fence.Fenced(); err != nil {
		return fmt.Errorf("%w: %w", syscall.EROFS, err)
	}
	s.check.dirty.touch()
	return nil
}

// treeSize is what statfs shows: the configured size, or what the data
// backends hold in all.
func (s *System) treeSize() int64 {
	if s.cfg.TotalStorageSize > 0 {
		return int64(s.cfg.TotalStorageSize)
	}
	return 1 << 40
}

// startWork starts what runs beside: uploads, checkpoints, the look at the
// backends, the cache.
func (s *System) startWork(ctx context.Context, stops *stopStack) error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var work sync.WaitGroup
	s.workers = &uploadWorkers{ctx: ctx, start: func(ctx, idle context.Context, i int) {
		u := &uploader{sys: s, log: s.log.With("component", "upload"), name: fmt.Sprintf("worker-%d", i)}
		u.run(ctx, idle)
	}}
	s.workers.set(s.cfg.UploadWorkers)
	work.Go(func() { s.check.run(ctx) })
	work.Go(func() { s.health.run(ctx) })
	work.Go(func() { s.replacing.run(ctx) })
	work.Go(func() { s.keepCache(ctx) })
	if s.externalFS() {
		work.Go(func() { s.wakeZdbfs(ctx) })
	}
	work.Go(func() { s.scrubs.run(ctx) })
	work.Go(func() { s.mendFound(ctx) })
	work.Go(func() { s.verifyLegacy(ctx) })
	stops.push(func() error {
		cancel()
		s.workers.end()
		work.Wait()
		return nil
	})
	return s.startPush(ctx, stops)
}

// startMountpoint sees that the mount will find its place, before anything is
// taken or begun.
func (s *System) startMountpoint(context.Context, *stopStack) error {
	if s.opts.noMount {
		return nil
	}
	path := s.cfg.QSFSMountpoint
	if s.externalFS() && mountedAs(path, "fuse.zdbfs") {
		return nil // that of an earlier life, or of a service
	}
	if err := mount.CleanDead(path); err != nil {
		return err
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return &PathError{Path: path, Err: err}
	}
	return mount.CheckMountpoint(path)
}

func (s *System) startMount(ctx context.Context, stops *stopStack) error {
	if s.opts.noMount {
		return nil
	}
	if s.externalFS() {
		return s.mountExternal(ctx, stops)
	}
	m, err := mount.Mount(ctx, s.tree, mount.Options{Path: s.cfg.QSFSMountpoint, AllowOther: s.opts.allowOther, FSName: "quantumd", Logger: s.log})
	if err != nil {
		return err
	}
	s.setMounted(m)
	stops.push(func() error { return s.unmount(ctx) })
	return nil
}

func (s *System) unmount(ctx context.Context) error {
	if s.externalFS() {
		return s.unmountExternal(ctx)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	m := s.setMounted(nil)
	if m == nil {
		return nil
	}
	return m.Unmount(ctx)
}

// setMounted gives what was mounted before.
func (s *System) setMounted(m *mount.Mounted) *mount.Mounted {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.mounted
	s.mounted = m
	return old
}

func (s *System) isMounted() bool {
	if s.externalFS() {
		return mountedAs(s.cfg.QSFSMountpoint, "fuse.zdbfs")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mounted != nil
}

// unmounted is closed when the mount is gone without our doing; without a
// mount it never is.
func (s *System) unmounted() <-chan struct{} {
	gone := make(chan struct{})
	if m := s.mounted; m != nil {
		go func() { // ends with the mount, which Run always ends
			m.Wait()
			close(gone)
		}()
	}
	return gone
}

// drain unmounts and brings what was written to the backends, as long as the
// drain time lasts.
func (s *System) drain(ctx context.Context) error {
	err := s.unmount(ctx)
	if fenced := s.fence.Fenced(); fenced != nil {
		return errors.Join(err, fenced)
	}
	if s.opts.drain < 0 {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), s.opts.drain, errDrainTime)
	defer cancel()
	s.opts.observer(Progress{Op: "stop", Step: "bringing what was written to the backends"})
	_, syncErr := s.check.sync(ctx)
	if syncErr != nil {
		syncErr = fmt.Errorf("not everything is on the backends; it is kept here and stored at the next start: %w", syncErr)
	} else {
		syncErr = s.fence.Release(ctx)
	}
	return errors.Join(err, syncErr)
}

var errDrainTime = errors.New("the time for a clean stop is over")

// clearStaging removes copies of index files that an earlier life left.
func (s *System) clearStaging() error {
	entries, err := os.ReadDir(s.layout.staging())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Remove(filepath.Join(s.layout.staging(), e.Name())); err != nil {
			return err
		}
	}
	return nil
}
