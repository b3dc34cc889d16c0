package qsfs

import (
	"cmp"
	"context"
	"strings"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// reloadable are the keys that change while the system runs. Others take
// effect at the next start.
var reloadable = map[string]func(to, from *config.Config){
	"retry_interval":  func(to, from *config.Config) { to.RetryInterval = from.RetryInterval },
	"zdb_rotate_time": func(to, from *config.Config) { to.ZdbRotateTime = from.ZdbRotateTime },
	"cache_size":      func(to, from *config.Config) { to.CacheSize = from.CacheSize },
	"upload_workers":  func(to, from *config.Config) { to.UploadWorkers = from.UploadWorkers },
	"scrub_interval":  func(to, from *config.Config) { to.ScrubInterval = from.ScrubInterval },
	"replace":         func(to, from *config.Config) { to.Replace = from.Replace },
	"log_level":       func(to, from *config.Config) { to.LogLevel = from.LogLevel },
	"metrics":         func(to, from *config.Config) { to.Metrics.Pushgateway = from.Metrics.Pushgateway },
}

// ReloadReport says what a reload changed.
type ReloadReport struct {
	Changed []string // keys that are in effect now
	Restart []string // keys that were changed, and take effect at the next start
}

// Reload takes over a configuration while the system runs: load reads it, and
// what it cannot read, or what is not valid, changes nothing. Status tells of a
// configuration that was refused, and of keys that wait for the next start.
func (s *System) Reload(ctx context.Context, load func() (*config.Config, error)) (*ReloadReport, error) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	if err := s.serving(); err != nil {
		return nil, err
	}
	next, err := load()
	if err == nil {
		err = next.Validate()
	}
	if err != nil {
		s.reloadNote.Store(&reloadState{read: s.configRead(), refused: firstLine(err)})
		s.log.Error("the configuration was refused, and nothing changed", "err", err)
		s.happened(ctx, eventConfig, "", "the configuration was refused, and nothing changed: %v", err)
		return nil, err
	}
	report := s.takeOver(next)
	s.reloadNote.Store(&reloadState{read: next.Read(), restart: report.Restart})
	s.log.Info("the configuration was loaded again", "changed", report.Changed, "restart", report.Restart)
	s.happened(ctx, eventConfig, "", "the configuration was loaded again; changed: %s; at the next start: %s", words(report.Changed), words(report.Restart))
	return report, nil
}

func words(list []string) string { return cmp.Or(strings.Join(list, ", "), "nothing") }

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// reloadState is what status tells of the last reload.
type reloadState struct {
	read    time.Time // the configuration that is in effect
	refused string
	restart []string
}

// takeOver puts what may change now into effect.
func (s *System) takeOver(next *config.Config) *ReloadReport {
	old := s.settings()
	live := old.Clone()
	report := &ReloadReport{}
	for _, key := range config.Keys() {
		if config.Same(key, old, next) {
			continue
		}
		change, ok := reloadable[key]
		if !ok {
			report.Restart = append(report.Restart, key)
			continue
		}
		change(live, next)
		if !config.Same(key, live, old) {
			report.Changed = append(report.Changed, key)
		}
		if !config.Same(key, live, next) {
			report.Restart = append(report.Restart, key) // a part of it
		}
	}
	s.live.Store(live)
	s.store.Queue().SetRetryInterval(live.RetryInterval.Std())
	s.workers.set(live.UploadWorkers)
	if s.opts.level != nil {
		s.opts.level(live.LogLevel)
	}
	return report
}

// configRead is when the configuration that is in effect was read.
func (s *System) configRead() time.Time {
	if r := s.reloadNote.Load(); r != nil {
		return r.read
	}
	return s.cfg.Read()
}

// reloadStatus tells of what the last reload left to do.
func (s *System) reloadStatus(st *client.Status) {
	st.Configuration = client.Configuration{Read: s.configRead(), Restart: []string{}}
	r := s.reloadNote.Load()
	if r != nil && len(r.restart) > 0 {
		st.Configuration.Restart = r.restart
	}
	if r != nil {
		st.Configuration.Refused = r.refused
	}
	switch {
	case r == nil:
	case r.refused != "":
		statusNote(st, "the configuration was loaded again and refused, the old one is in effect: %s", r.refused)
	case len(r.restart) > 0:
		statusNote(st, "changed in the configuration, in effect at the next start: %s", strings.Join(r.restart, ", "))
	}
}

// uploadWorkers are the running uploaders; their number may change.
type uploadWorkers struct {
	start func(ctx, idle context.Context, number int)

	mu    sync.Mutex
	ctx   context.Context // of their work
	stops []context.CancelFunc
	ended bool
	work  sync.WaitGroup
}

// set has n of them work. Those that are too many end after what they do now.
func (w *uploadWorkers) set(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return
	}
	for len(w.stops) > n {
		last := len(w.stops) - 1
		w.stops[last]()
		w.stops = w.stops[:last]
	}
	for len(w.stops) < n {
		idle, stop := context.WithCancel(w.ctx)
		number := len(w.stops)
		w.stops = append(w.stops, stop)
		w.work.Go(func() { w.start(w.ctx, idle, number) })
	}
}

// end waits for all of them, whose context has ended.
func (w *uploadWorkers) end() {
	w.mu.Lock()
	w.ended = true
	for _, stop := range w.stops {
		stop()
	}
	w.mu.Unlock()
	w.work.Wait()
}
