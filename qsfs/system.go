// Package qsfs assembles a whole QSFS: a file system whose data survives lost
// machines and untrusted ones.
//
//	cfg, err := config.Load("qsfs.yaml", config.FromEnviron(os.Environ()))
//	sys, err := qsfs.Open(ctx, cfg, qsfs.Below("/srv/qsfs"))
//	plan, err := sys.PlanDeploy(ctx)
//	err = sys.Deploy(ctx, plan)
//	go sys.Run(ctx)
//	<-sys.Ready()
//	report, err := sys.Sync(ctx) // everything written so far is on the backends
//
// Files are written through the mount (cfg.QSFSMountpoint), or without one
// through [System.Tree]. Several Systems live in one process as long as each
// has folders of its own. Nothing here prints, exits, or touches signals,
// default loggers or registries.
//
// It holds wiring and order only; the work is done by the packages below it:
// engine/zdb keeps records, engine/zdbfs the tree, engine/zstor objects on the
// backends, store what is to be done.
package qsfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/static"
	"github.com/threefoldtech/quantumd/engine/zdb"
	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/engine/zdbfs/mount"
	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/hooks"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/qsfs/epoch"
	"github.com/threefoldtech/quantumd/qsfs/generation"
	"github.com/threefoldtech/quantumd/qsfs/pushgateway"
	"github.com/threefoldtech/quantumd/services"
	"github.com/threefoldtech/quantumd/store"
)

// System is one QSFS. It is safe for concurrent use. Make it with [Open].
type System struct {
	cfg    *config.Config
	layout Layout
	opts   options
	log    *slog.Logger

	ready       chan struct{}
	zdbMayStart chan struct{}
	readyOnce   sync.Once
	running     atomic.Bool

	// What follows is set by Run before Ready.
	store      *store.Store
	engine     *zstor.Engine
	objects    objects // moves whole files: the engine, or the daemon of the real zstor
	server     *server.Server
	spaces     []*space // metadata first
	tree       *tree.Tree
	fence      *epoch.Fence
	epochs     *epoch.Records
	check      *checkpointer
	health     *healthWatch
	fetching   fetcher
	replacing  *replacer
	scrubs     *scrubber
	mendLock   sync.Mutex           // one damaged file at a time
	mended     map[string]time.Time // when files were, in this run; under mendLock
	toMend     []localFile          // damage that the start found
	grownBad   atomic.Int64         // of them, files that grew
	setLock    sync.Mutex           // of the set of backends: one change at a time
	recordLock sync.Mutex           // of whole records that change: one writer at a time
	events     *eventGate

	changed *signal // told after each event
	meters  *meters
	recent  *snapshots
	live    atomic.Pointer[config.Config] // the configuration as reloaded

	reloading   sync.Mutex
	reloadNote  atomic.Pointer[reloadState]
	workers     *uploadWorkers
	healthPulse pulse
	probing     running
	web         atomic.Pointer[string]
	started     time.Time
	set         atomic.Pointer[generation.Set] // the backends in use

	mu      sync.Mutex
	mounted *mount.Mounted
	state   string

	fencedOnce sync.Once
	zdbBack    chan struct{} // room for one
}

type options struct {
	layout      *Layout
	provisioner backend.Provisioner
	hooks       hooks.HookHandler
	logger      *slog.Logger
	registerer  prometheus.Registerer
	observer    func(Progress)
	noMount     bool
	allowOther  bool
	lease       time.Duration
	dialer      backend.Dialer
	stop        func()
	events      func(hooks.HookHandler) hooks.HookHandler // tests put faults before the table of events
	drain       time.Duration
	beforeStep  func(backend, step string) error // tests crash there
	manager     services.ServiceManager
	programs    Programs
	stopZdbfs   func(context.Context) error
	version     string
	level       func(string)
	probe       func(context.Context) // a test's part of Alive
	pushAuto    string                // the pushgateway that auto asks for
	pushEvery   time.Duration
}

// Option changes a System.
type Option func(*options)

// Below keeps everything that the system owns below one folder, whatever paths
// the configuration names for the database and the zdb root.
func Below(dir string) Option {
	return func(o *options) { l := LayoutBelow(dir); o.layout = &l }
}

// WithLayout says where files are kept; without it, and without [Below], the
// system's own paths are used.
func WithLayout(l Layout) Option { return func(o *options) { o.layout = &l } }

// WithProvisioner chooses who makes and finds backends. Without it they are
// those that the configuration lists.
func WithProvisioner(p backend.Provisioner) Option { return func(o *options) { o.provisioner = p } }

// WithHooks has h see every event of the frontend's zdb, before the system
// itself. An error does what it does to a real zdb.
func WithHooks(h hooks.HookHandler) Option { return func(o *options) { o.hooks = h } }

// WithLogger logs to l; without it nothing is logged.
func WithLogger(l *slog.Logger) Option { return func(o *options) { o.logger = l } }

// WithRegisterer registers the system's metrics.
func WithRegisterer(r prometheus.Registerer) Option { return func(o *options) { o.registerer = r } }

// WithObserver is called with what long operations have done, from several
// goroutines.
func WithObserver(f func(Progress)) Option { return func(o *options) { o.observer = f } }

// WithoutMount serves the tree to this process only.
func WithoutMount() Option { return func(o *options) { o.noMount = true } }

// WithAllowOther lets users other than the one who mounts use the mount.
func WithAllowOther() Option { return func(o *options) { o.allowOther = true } }

// WithLease sets how long one look at the epochs is good for. Another frontend
// that takes over waits for its end. Zero: 30 s.
func WithLease(d time.Duration) Option { return func(o *options) { o.lease = d } }

// WithDialer reaches backends through d; for tests that put faults between.
func WithDialer(d backend.Dialer) Option { return func(o *options) { o.dialer = d } }

// WithStop is what the control protocol's stop calls; usually it cancels the
// context of Run.
func WithStop(f func()) Option { return func(o *options) { o.stop = f } }

// WithDrainTime bounds how long Run may take after its context ended to bring
// what was written to the backends. Zero: five minutes; negative: not at all.
func WithDrainTime(d time.Duration) Option { return func(o *options) { o.drain = d } }

// WithVersion names the program in metrics.
func WithVersion(v string) Option { return func(o *options) { o.version = v } }

// WithLogLevel is called with log_level when a reload changes it.
func WithLogLevel(f func(level string)) Option { return func(o *options) { o.level = f } }

// WithPushgateway changes which pushgateway `metrics.pushgateway: auto` asks
// for, and the pause between two pushes. Empty and zero: http://127.0.0.1:9091,
// and 15 s.
func WithPushgateway(auto string, every time.Duration) Option {
	return func(o *options) {
		if auto != "" {
			o.pushAuto = auto
		}
		if every > 0 {
			o.pushEvery = every
		}
	}
}

// ErrRunning says that Run was called a second time.
var ErrRunning = errors.New("qsfs: the system runs already")

// ErrNotReady says that the system does not run yet, or no longer.
var ErrNotReady = errors.New("qsfs: the system is not running")

// Open checks the configuration and makes a System. It starts nothing and
// touches no file.
func Open(_ context.Context, cfg *config.Config, opts ...Option) (*System, error) {
	o := options{observer: func(Progress) {}, lease: epoch.DefaultLease, drain: 5 * time.Minute, pushAuto: pushgateway.DefaultAddress, pushEvery: pushgateway.DefaultEvery}
	for _, f := range opts {
		f(&o)
	}
	if err := checkMix(cfg); err != nil {
		return nil, err
	}
	if o.logger == nil {
		o.logger = slog.New(slog.DiscardHandler)
	}
	if o.lease <= 0 {
		o.lease = epoch.DefaultLease
	}
	if o.layout == nil {
		l := SystemLayout("", cfg)
		o.layout = &l
	}
	if o.dialer == nil {
		o.dialer = zdb.NewDialer(zdb.Options{PoolSize: 2, Logger: o.logger})
	}
	s := &System{cfg: cfg, layout: *o.layout, opts: o, log: o.logger, ready: make(chan struct{}), zdbMayStart: make(chan struct{}), changed: newSignal(), zdbBack: make(chan struct{}, 1), state: "starting"}
	s.meters = newMeters(deploymentLabel(cfg))
	s.recent = &snapshots{look: s.Status, failed: s.meters.statusFailed.Inc}
	s.started = time.Now()
	s.events = s.newEvents()
	if o.provisioner == nil {
		list, err := cfg.BackendList()
		if err != nil {
			return nil, err
		}
		s.opts.provisioner = static.New(list, o.logger)
	}
	return s, nil
}

// Config gives the configuration in use.
func (s *System) Config() *config.Config { return s.cfg }

// Layout says where the system keeps its files.
func (s *System) Layout() Layout { return s.layout }

// Ready is closed when the system serves.
func (s *System) Ready() <-chan struct{} { return s.ready }

// Tree is the file system itself, for programs that need no mount. It is nil
// before Ready.
func (s *System) Tree() *tree.Tree {
	select {
	case <-s.ready:
		return s.tree
	default:
		return nil
	}
}

// serving gives ErrNotReady before Ready and after the end.
func (s *System) serving() error {
	select {
	case <-s.ready:
	default:
		return ErrNotReady
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == "stopped" {
		return ErrNotReady
	}
	return nil
}

func (s *System) setState(state string) {
	s.mu.Lock()
	s.state = state
	s.mu.Unlock()
}

// zstorConfig derives the engine's configuration from ours and the backends.
func (s *System) zstorConfig(backends []backend.Backend) (zstor.Config, error) {
	key, err := s.sealKey()
	if err != nil {
		return zstor.Config{}, err
	}
	c := zstor.Config{
		Key:           key,
		MinimalShards: s.cfg.MinShards, ExpectedShards: s.cfg.ExpectedShards,
		RedundantGroups: s.cfg.RedundantGroups, RedundantNodes: s.cfg.RedundantNodes,
		Prefix: s.cfg.Prefix(), Root: s.layout.Root,
	}
	for _, b := range backends {
		switch {
		case b.Role == backend.Data:
			c.Data = append(c.Data, b)
		case !b.Spare:
			c.Meta = append(c.Meta, b)
		}
	}
	if len(c.Meta) != backend.MetaBackends || len(c.Data) < c.ExpectedShards {
		return c, &MissingBackendsError{Meta: len(c.Meta), Data: len(c.Data), WantData: c.ExpectedShards}
	}
	return c, nil
}

// MissingBackendsError says that there are not enough backends to begin.
type MissingBackendsError struct{ Meta, Data, WantData int }

func (e *MissingBackendsError) Error() string {
	return fmt.Sprintf("not enough backends: %d of %d for metadata, %d of %d for data", e.Meta, backend.MetaBackends, e.Data, e.WantData)
}

// Hint names the remedy.
func (e *MissingBackendsError) Hint() string {
	return "run `quantumd deploy` (with --local for backends on this machine), or list them under backends in the configuration"
}

func (s *System) newEpochs(e *zstor.Engine) *epoch.Records {
	host, err := os.Hostname()
	if err != nil {
		host = "an unnamed machine"
	}
	return epoch.New(engineKeeper{e}, s.cfg.Prefix(), host)
}
