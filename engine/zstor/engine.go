// Package zstor stores files as erasure-coded, encrypted objects on remote zdbs,
// in the format of zstor 0.4 (0-stor_v2), and gets them back.
//
//	eng, err := zstor.Open(cfg, zstor.Options{Dialer: dialer})
//	obj, err := eng.StoreFile(ctx, "/data/zdb/d17", "/data/zdb/d17")
//	obj, err = eng.RetrieveFile(ctx, "/data/zdb/d17", "/tmp/d17")
//
// A store is whole or an error: all shards are on data backends and the record
// is on all four metadata backends, or on exactly three ([Object.Degraded]).
// [Engine.Verify] asks the backends whether they still have what was sent,
// [Engine.Rebuild] makes anew what is missing, [Engine.PutRecord] keeps small
// sealed values of the caller whole on each metadata backend.
//
// It is not a daemon, watches nothing and repeats nothing by itself: the caller
// owns queues, retries and schedules. Backends are reached through
// [backend.Dialer] only.
package zstor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/threefoldtech/quantumd/backend"
)

// Options tunes an Engine. Dialer is required, zero values elsewhere work.
type Options struct {
	Dialer backend.Dialer

	// MemoryLimit bounds the buffers of all running operations together, in bytes;
	// zero means 512 MiB. Operations wait for room.
	MemoryLimit int64
	// SpillAbove is the size in bytes from which one object is buffered in an
	// unlinked, memory-mapped file of TempDir rather than in anonymous memory;
	// zero means an eighth of MemoryLimit.
	SpillAbove int64
	// TempDir is for such files; empty means os.TempDir.
	TempDir string
	// Timeout limits each single operation on a backend; zero means 30 s.
	Timeout time.Duration
	// HedgeAfter is how long a reader waits for progress before it asks another
	// backend as well; zero means 500 ms.
	HedgeAfter time.Duration
	// MaxObject bounds the size of an object when it is decompressed; zero means 64 GiB.
	MaxObject int64

	Logger   *slog.Logger // nil discards
	Observer func(Event)  // called at the end of each operation, by several goroutines; may be nil
}

// Event tells of one finished operation.
type Event struct {
	Op    string // store, retrieve, lookup, verify, rebuild, remove, alias
	Path  string // empty where only the key is known
	Key   string
	Bytes int64 // of the object
	Took  time.Duration
	Err   error
}

// Stats counts since Open.
type Stats struct {
	Sent, Fetched     uint64 // bytes to and from data backends, failed attempts included
	Stored, Skipped   uint64 // objects; skipped ones were unchanged
	Retrieved         uint64
	Rebuilt           uint64
	Failed            uint64 // operations that ended with an error other than ErrNotFound
	Sealed            uint64 // messages sealed with Config.Key; a key is good for 2^32
	Buffered          int64  // bytes of MemoryLimit in use now
	BufferedPeak      int64  // the most that was in use
	SpilledObjects    uint64
	ReplacedPlacement uint64 // shards that went elsewhere because a backend failed
}

// ErrClosed says that the Engine was closed.
var ErrClosed = errors.New("zstor: engine is closed")

// Engine is safe for concurrent use.
type Engine struct {
	opts  Options
	log   *slog.Logger
	mem   *memory
	conns *connections

	mu      sync.RWMutex
	cfg     Config
	closed  bool
	running sync.WaitGroup
	stop    context.CancelFunc // ends what runs
	stopped context.Context

	stats counters
	locks keyLocks // one writer of a record at a time
}

type counters struct {
	sent, fetched, stored, skipped, retrieved, rebuilt, failed, sealed, spilled, replaced atomic.Uint64
}

// Open checks cfg and makes an Engine. Backends are dialed when first needed, so
// that it succeeds with any number of them down.
func Open(cfg Config, opts Options) (*Engine, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if opts.Dialer == nil {
		return nil, errors.New("zstor: Options.Dialer is missing")
	}
	opts.fill()
	e := &Engine{opts: opts, log: opts.Logger, cfg: cfg.clone()}
	e.log = e.log.With("component", "zstor")
	e.mem = newMemory(opts.MemoryLimit, opts.SpillAbove, opts.TempDir)
	e.conns = newConnections(opts.Dialer, opts.Timeout, opts.HedgeAfter, e.log)
	e.stopped, e.stop = context.WithCancel(context.Background())
	return e, nil
}

func (o *Options) fill() {
	if o.MemoryLimit <= 0 {
		o.MemoryLimit = 512 << 20
	}
	if o.SpillAbove <= 0 {
		o.SpillAbove = o.MemoryLimit / 8
	}
	if o.TempDir == "" {
		o.TempDir = os.TempDir()
	}
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	if o.HedgeAfter <= 0 {
		o.HedgeAfter = 500 * time.Millisecond
	}
	if o.MaxObject <= 0 {
		o.MaxObject = 64 << 30
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// Close ends what is running, waits for it, and closes all connections.
func (e *Engine) Close() error {
	e.mu.Lock()
	already := e.closed
	e.closed = true
	e.mu.Unlock()
	e.stop()
	e.running.Wait()
	if already {
		return nil
	}
	return e.conns.close()
}

// Config returns the config in use.
func (e *Engine) Config() Config {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.cfg.clone()
}

// Reload uses cfg from the next operation on. What runs ends with the config that
// it began with. Objects stay where they are: rebuild those that name backends
// which left, and complete those whose metadata backends changed. Prefix, Root
// and Key name and seal what is stored already; they cannot change.
func (e *Engine) Reload(ctx context.Context, cfg Config) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		return ErrClosed
	case cfg.Prefix != e.cfg.Prefix, cfg.cleanRoot() != e.cfg.cleanRoot(), cfg.Key != e.cfg.Key:
		return &ConfigError{Field: "Prefix, Root, Key", Err: "differ from those in use, under which objects are stored",
			Remedy: "open a second engine with the new ones and store the objects there"}
	}
	e.cfg = cfg.clone()
	e.conns.keepOnly(append(append([]backend.Backend(nil), cfg.Data...), cfg.Meta...))
	return nil
}

// Stats gives the counters.
func (e *Engine) Stats() Stats {
	used, peak := e.mem.usage()
	return Stats{
		Sent: e.stats.sent.Load(), Fetched: e.stats.fetched.Load(),
		Stored: e.stats.stored.Load(), Skipped: e.stats.skipped.Load(),
		Retrieved: e.stats.retrieved.Load(), Rebuilt: e.stats.rebuilt.Load(),
		Failed: e.stats.failed.Load(), Sealed: e.stats.sealed.Load(),
		Buffered: used, BufferedPeak: peak,
		SpilledObjects: e.stats.spilled.Load(), ReplacedPlacement: e.stats.replaced.Load(),
	}
}

// op is one running operation: its config and what it must tell at the end.
type op struct {
	*Engine
	cfg   Config
	event Event
	began time.Time
	end   func()
}

// begin registers an operation; the returned context also ends with the Engine.
func (e *Engine) begin(ctx context.Context, name, path, key string) (context.Context, *op, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.closed {
		return ctx, nil, ErrClosed
	}
	o := &op{Engine: e, cfg: e.cfg, began: time.Now(), event: Event{Op: name, Path: path, Key: key}}
	switch {
	case key != "":
		if !e.cfg.isObjectKey(key) {
			return ctx, nil, fmt.Errorf("zstor: %q is no object key: want %s and 32 hexadecimal digits", key, e.cfg.keyPrefix())
		}
	case path != "" || name != "":
		var err error
		if o.event.Key, err = e.cfg.ObjectKey(path); err != nil {
			return ctx, nil, err
		}
	}
	e.running.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	unlink := context.AfterFunc(e.stopped, cancel)
	o.end = func() {
		unlink()
		cancel()
		e.running.Done()
	}
	return ctx, o, nil
}

// finish ends an operation that began. It is deferred with the result in errp.
func (o *op) finish(errp *error) {
	o.event.Err = *errp
	if *errp != nil && !errors.Is(*errp, ErrNotFound) {
		o.stats.failed.Add(1)
		if o.event.Path != "" {
			*errp = fmt.Errorf("%s %s: %w", o.event.Op, o.event.Path, *errp)
		} else if o.event.Key != "" {
			*errp = fmt.Errorf("%s %s: %w", o.event.Op, o.event.Key, *errp)
		}
	}
	o.event.Took = time.Since(o.began)
	o.end()
	if o.opts.Observer != nil && o.event.Op != "" {
		o.opts.Observer(o.event)
	}
}
