package qsfs

import (
	"context"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/qsfs/client"
)

// A scrape waits this long for a new look at the system, and takes the last one
// otherwise; a look that is older than staleAfter is no longer shown.
const (
	scrapePatience = time.Second
	scrapeMaxAge   = time.Second
	staleAfter     = 2 * time.Minute
)

// states are the values of the label of qsfs_state.
var states = []string{client.StateStarting, client.StateOK, client.StateDegraded, client.StateFailed, client.StateFenced, "stopped"}

// backendStates are the values of the label state of qsfs_backend_state.
var backendStates = []backend.State{backend.Up, backend.Down, backend.Full, backend.Replacing, backend.Retired}

// replaceSteps are the steps of a replacement that is under way.
var replaceSteps = []string{client.ReplaceGrace, client.ReplaceProvision, client.ReplaceReload, client.ReplaceRebuild, client.ReplaceVerify,
	client.ReplaceRetire, client.ReplaceFailed}

type gauge struct {
	name, help string
	value      func(*client.Status) float64
}

// gauges have one value each.
var gauges = []gauge{
	{"qsfs_loss_window_bytes", "Bytes that would be lost with this machine now.", func(s *client.Status) float64 { return float64(s.LossWindow.Bytes) }},
	{"qsfs_loss_window_seconds", "Age of the oldest byte that is not on the backends.", func(s *client.Status) float64 { return s.LossWindow.Seconds }},
	{"qsfs_queue_pending_files", "Files that wait for their upload.", func(s *client.Status) float64 { return float64(s.Queue.Pending) }},
	{"qsfs_queue_uploading_files", "Files that are being uploaded.", func(s *client.Status) float64 { return float64(s.Queue.Uploading) }},
	{"qsfs_queue_failed_files", "Files whose upload failed and is tried again.", func(s *client.Status) float64 { return float64(s.Queue.Failed) }},
	{"qsfs_queue_stored_files", "Files whose newest version is on the backends.", func(s *client.Status) float64 { return float64(s.Queue.Stored) }},
	{"qsfs_queue_pending_bytes", "Bytes that are not on the backends yet, in closed files.", func(s *client.Status) float64 { return float64(s.Queue.BytesPending) }},
	{"qsfs_queue_oldest_seconds", "Age of the oldest file in the queue.", func(s *client.Status) float64 { return s.Queue.OldestSeconds }},
	{"qsfs_cache_bytes", "Disk space of local data files.", func(s *client.Status) float64 { return float64(s.Cache.Bytes) }},
	{"qsfs_cache_limit_bytes", "Most disk space of local data files.", func(s *client.Status) float64 { return float64(s.Cache.Limit) }},
	{"qsfs_disk_free_bytes", "Free space of the file system with the frontend's files.", func(s *client.Status) float64 { return float64(s.Disk.FreeBytes) }},
	{"qsfs_disk_size_bytes", "Size of the file system with the frontend's files.", func(s *client.Status) float64 { return float64(s.Disk.TotalBytes) }},
	{"qsfs_checkpoint_seq", "Number of the newest committed checkpoint.", func(s *client.Status) float64 { return float64(s.Checkpoint.Seq) }},
	{"qsfs_checkpoint_age_seconds", "Time since a checkpoint was committed in this run; zero before the first.", func(s *client.Status) float64 { return s.Checkpoint.AgeSeconds }},
	{"qsfs_epoch", "Epoch of this frontend.", func(s *client.Status) float64 { return float64(s.Epoch) }},
	{"qsfs_generation", "Number of the set of backends.", func(s *client.Status) float64 { return float64(s.Generation) }},
	{"qsfs_garbage_bytes", "Bytes of data files that no record needs any more.", func(s *client.Status) float64 { return float64(s.GarbageBytes) }},
	{"qsfs_mounted", "Whether the tree is mounted.", func(s *client.Status) float64 { return oneIf(s.Mount.Mounted) }},
	{"qsfs_notes", "Things that are to be told of this system: the notes of its status.", func(s *client.Status) float64 { return float64(len(s.Notes)) }},
	// The reference's names.
	{"healthy_file_configs", "Files on the backends of which no part is on a backend that does not work, at least.", func(s *client.Status) float64 { return healthyFiles(s) }},
	{"unhealthy_file_configs", "Files on the backends of which a part may be on a backend that does not work, at most.", func(s *client.Status) float64 { return float64(s.Queue.Stored) - healthyFiles(s) }},
	{"zstor_last_scrape_time", "Unix time of the look at the system that these values are from.", nil},
}

// scrubGauges are those of the newest scrub.
var scrubGauges = []struct {
	name, help string
	value      func(*client.ScrubReport) float64
}{
	{"qsfs_scrub_running", "Whether a scrub is under way.", func(r *client.ScrubReport) float64 { return oneIf(r.Running) }},
	{"qsfs_scrub_start_time_seconds", "Unix time at which the newest scrub began.", func(r *client.ScrubReport) float64 { return float64(r.Started.Unix()) }},
	{"qsfs_scrub_duration_seconds", "How long the newest scrub took, or takes already.", func(r *client.ScrubReport) float64 { return r.Seconds }},
	{"qsfs_scrub_objects", "Objects that the newest scrub has looked at.", func(r *client.ScrubReport) float64 { return float64(r.Objects) }},
	{"qsfs_scrub_wanted_objects", "Objects that the newest scrub is to look at; zero: not known.", func(r *client.ScrubReport) float64 { return float64(r.Total) }},
	{"qsfs_scrub_good_objects", "Objects that are whole, as the newest scrub found.", func(r *client.ScrubReport) float64 { return float64(r.Good) }},
	{"qsfs_scrub_damaged_objects", "Objects that are damaged and can be repaired, as the newest scrub found.", func(r *client.ScrubReport) float64 { return float64(r.Damaged) }},
	{"qsfs_scrub_repaired_objects", "Objects that the newest scrub has repaired.", func(r *client.ScrubReport) float64 { return float64(r.Repaired) }},
	{"qsfs_scrub_unknown_objects", "Objects of which too few backends answered, as the newest scrub found.", func(r *client.ScrubReport) float64 { return float64(r.Unknown) }},
	{"qsfs_scrub_lost_objects", "Objects that cannot be read any more, as the newest scrub found.", func(r *client.ScrubReport) float64 { return float64(r.Lost) }},
}

// families have labels of their own.
var families = []struct {
	name, help string
	labels     []string
}{
	{"qsfs_state", "State of the system: 1 for the one that it is in.", []string{"state"}},
	{"qsfs_build_info", "The program: always 1.", []string{"version", "goversion"}},
	{"qsfs_start_time_seconds", "Unix time at which the system was started.", nil},
	{"qsfs_status_age_seconds", "Age of the look at the system that these values are from; without one, time since the start.", nil},
	{"qsfs_backend_up", "Whether a backend works.", []string{"backend", "role", "address"}},
	{"qsfs_backend_breaker_open", "Whether a backend is not asked, because it gave no answer again and again.", []string{"backend", "role", "address"}},
	{"qsfs_backend_state", "State of a backend: 1 for the one that it is in.", []string{"backend", "role", "address", "state"}},
	{"qsfs_backend_state_start_time_seconds", "Unix time since which a backend is in its state.", []string{"backend", "role", "address"}},
	{"qsfs_backend_latency_seconds", "Time of a backend's last answer.", []string{"backend", "role", "address"}},
	{"qsfs_backend_used_bytes", "Bytes that a backend's namespace holds.", []string{"backend", "role", "address"}},
	{"qsfs_backend_limit_bytes", "Most bytes that a backend's namespace may hold; zero: no limit.", []string{"backend", "role", "address"}},
	{"qsfs_backend_free_bytes", "Free bytes on a backend's disk.", []string{"backend", "role", "address"}},
	{"qsfs_backend_entries", "Entries of a backend's namespace.", []string{"backend", "role", "address"}},
	{"qsfs_tolerated_losses", "How many more backends of a role may be lost before content is, in the worst case.", []string{"role"}},
	{"qsfs_tolerated_losses_when_all_work", "How many backends of a role may be lost where all work.", []string{"role"}},
	{"qsfs_endangered_objects", "Objects that may have one part more than is needed, or fewer: at most so many.", []string{"role"}},
	{"qsfs_ids_used", "Record ids of a namespace that are used up; there are 2^32.", []string{"namespace"}},
	{"qsfs_ids_limit", "Record ids that a namespace has.", []string{"namespace"}},
	{"qsfs_replacements", "Replacements of backends that are at a step now.", []string{"step"}},
	{"qsfs_replacement_objects", "Objects that a replacement has to make anew.", []string{"backend"}},
	{"qsfs_replacement_rebuilt_objects", "Objects that a replacement has made anew.", []string{"backend"}},
	{"qsfs_replacement_written_bytes", "Bytes of shards that a replacement has written.", []string{"backend"}},
	{"qsfs_replacement_step_start_time_seconds", "Unix time at which the step of a replacement began.", []string{"backend", "step"}},
	{"qsfs_memory_buffered_bytes", "Bytes in buffers of uploads and downloads.", nil},
	{"qsfs_memory_limit_bytes", "What memory_limit allows.", nil},
	{"qsfs_tree_dirty_bytes", "Bytes that the tree has in memory and not in a file yet.", nil},
	{"qsfs_tree_cached_bytes", "Bytes of blocks, inodes and folders that the tree has in memory.", nil},
	{"qsfs_backend_sent_bytes_total", "Bytes of shards sent to backends.", nil},
	{"qsfs_backend_fetched_bytes_total", "Bytes of shards fetched from backends.", nil},
	{"qsfs_fetched_file_bytes_total", "Bytes of data files that were brought back.", nil},
	{"qsfs_key_messages_total", "Messages sealed with the encryption key in this run; a key is good for 2^32.", nil},
	{"last_retry_run_time", "Unix time at which the last round of uploads or checkpoints ended; zero: none yet.", nil},
	{"zstor_backend_status", "Whether a backend works.", []string{"address", "backend_type", "namespace"}},
}

// collector shows the status, and what was counted, as metrics. It keeps
// nothing of backends: those that are gone leave.
type collector struct {
	sys   *System
	descs map[string]*prometheus.Desc
}

func newCollector(s *System) *collector {
	c := &collector{sys: s, descs: map[string]*prometheus.Desc{}}
	labels := prometheus.Labels{"deployment": deploymentLabel(s.cfg)}
	for _, g := range gauges {
		c.descs[g.name] = prometheus.NewDesc(g.name, g.help, nil, labels)
	}
	for _, g := range scrubGauges {
		c.descs[g.name] = prometheus.NewDesc(g.name, g.help, nil, labels)
	}
	for _, f := range families {
		c.descs[f.name] = prometheus.NewDesc(f.name, f.help, f.labels, labels)
	}
	return c
}

// Describe sends every description.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
	for _, m := range c.sys.meters.collectors() {
		m.Describe(ch)
	}
}

// Collect shows the newest look at the system. It waits for nobody: where a
// new look takes long it shows the last one, and for how long it has been that.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	out := &metrics{c.descs, ch}
	s := c.sys
	for _, m := range s.meters.collectors() {
		m.Collect(ch)
	}
	out.gauge("qsfs_build_info", 1, s.opts.version, runtime.Version())
	out.gauge("qsfs_start_time_seconds", float64(s.started.UnixMilli())/1000)
	out.gauge("last_retry_run_time", float64(s.meters.cycle.Load()/1000))
	ctx, cancel := context.WithTimeout(context.Background(), scrapePatience)
	defer cancel()
	st, age, err := s.recent.get(ctx, scrapeMaxAge)
	if err != nil || st == nil {
		if st == nil {
			age = time.Since(s.started)
		}
	}
	out.gauge("qsfs_status_age_seconds", age.Seconds())
	if st == nil || age > staleAfter {
		out.state(s.stateNow()) // what is not known is not shown
		return
	}
	out.state(st.State)
	if s.serving() != nil {
		return
	}
	out.status(st)
	out.gauge("zstor_last_scrape_time", float64(time.Now().Add(-age).Unix()))
	out.memory(s)
}

// metrics sends values of one scrape.
type metrics struct {
	descs map[string]*prometheus.Desc
	ch    chan<- prometheus.Metric
}

func (m *metrics) gauge(name string, v float64, labels ...string) {
	m.ch <- prometheus.MustNewConstMetric(m.descs[name], prometheus.GaugeValue, v, labels...)
}

func (m *metrics) counter(name string, v float64) {
	m.ch <- prometheus.MustNewConstMetric(m.descs[name], prometheus.CounterValue, v)
}

func (m *metrics) state(now string) {
	for _, state := range states {
		m.gauge("qsfs_state", oneIf(state == now), state)
	}
}

func (m *metrics) status(st *client.Status) {
	for _, g := range gauges {
		if g.value != nil {
			m.gauge(g.name, g.value(st))
		}
	}
	seen := map[[3]string]bool{} // one that comes twice would cost the whole scrape
	for _, b := range st.Backends {
		id, place := [3]string{b.ID, b.Role, b.Address}, [3]string{b.Address, b.Role, "/" + b.Namespace}
		if !seen[id] && !seen[place] {
			m.backend(b)
		}
		seen[id], seen[place] = true, true
	}
	for _, r := range st.Redundancy {
		m.gauge("qsfs_tolerated_losses", float64(r.Tolerated), r.Role)
		m.gauge("qsfs_tolerated_losses_when_all_work", float64(r.Full), r.Role)
		m.gauge("qsfs_endangered_objects", float64(r.Endangered), r.Role)
	}
	for _, n := range st.Namespaces {
		m.gauge("qsfs_ids_used", float64(n.IDs), n.Name)
		m.gauge("qsfs_ids_limit", float64(n.Limit), n.Name)
	}
	m.replacements(st.Replacements)
	if st.Scrub != nil {
		for _, g := range scrubGauges {
			m.gauge(g.name, g.value(st.Scrub))
		}
	}
	m.counter("qsfs_backend_sent_bytes_total", float64(st.Transfer.SentBytes))
	m.counter("qsfs_backend_fetched_bytes_total", float64(st.Transfer.FetchedBytes))
	m.counter("qsfs_fetched_file_bytes_total", float64(st.Transfer.FetchedFileBytes))
}

func (m *metrics) backend(b client.Backend) {
	up := oneIf(b.State == string(backend.Up))
	labels := []string{b.ID, b.Role, b.Address}
	m.gauge("qsfs_backend_up", up, labels...)
	m.gauge("qsfs_backend_breaker_open", oneIf(b.Breaker != ""), labels...)
	m.gauge("zstor_backend_status", up, b.Address, b.Role, b.Namespace)
	for _, state := range backendStates {
		m.gauge("qsfs_backend_state", oneIf(b.State == string(state)), append(labels[:3:3], string(state))...)
	}
	m.gauge("qsfs_backend_state_start_time_seconds", float64(b.Since.UnixMilli())/1000, labels...)
	if up == 0 && b.State != string(backend.Full) {
		return // nothing is known of the rest
	}
	m.gauge("qsfs_backend_latency_seconds", b.LatencySeconds, labels...)
	m.gauge("qsfs_backend_used_bytes", float64(b.UsedBytes), labels...)
	m.gauge("qsfs_backend_limit_bytes", float64(b.LimitBytes), labels...)
	m.gauge("qsfs_backend_free_bytes", float64(b.FreeBytes), labels...)
	m.gauge("qsfs_backend_entries", float64(b.Entries), labels...)
}

// replacements shows how many are at each step, and of those under way how far
// they are. A backend can be lost twice: only its newest one counts.
func (m *metrics) replacements(list []client.Replacement) {
	at := map[string]int{}
	seen := map[string]bool{}
	for _, r := range list {
		if r.Step == client.ReplaceDone || r.Step == client.ReplaceCancelled || seen[r.Backend] {
			continue
		}
		seen[r.Backend] = true
		at[r.Step]++
		m.gauge("qsfs_replacement_objects", float64(r.Objects), r.Backend)
		m.gauge("qsfs_replacement_rebuilt_objects", float64(r.Rebuilt), r.Backend)
		m.gauge("qsfs_replacement_written_bytes", float64(r.Bytes), r.Backend)
		m.gauge("qsfs_replacement_step_start_time_seconds", float64(r.Changed.Unix()), r.Backend, r.Step)
	}
	for _, step := range replaceSteps {
		m.gauge("qsfs_replacements", float64(at[step]), step)
	}
}

func (m *metrics) memory(s *System) {
	e := s.engine.Stats()
	m.gauge("qsfs_memory_buffered_bytes", float64(e.Buffered))
	m.gauge("qsfs_memory_limit_bytes", float64(s.cfg.MemoryLimit))
	m.counter("qsfs_key_messages_total", float64(e.Sealed))
	if s.tree == nil {
		return // another program's
	}
	u := s.tree.Usage()
	m.gauge("qsfs_tree_dirty_bytes", float64(u.DirtyBytes))
	m.gauge("qsfs_tree_cached_bytes", float64(u.CacheBytes+u.MetaBytes))
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// healthyFiles is how many files have no part on a backend that does not work,
// in the worst case: all while all data backends work, none otherwise.
func healthyFiles(st *client.Status) float64 {
	for _, r := range st.Redundancy {
		if r.Role == string(backend.Data) && r.Down > 0 {
			return 0
		}
	}
	return float64(st.Queue.Stored)
}

// startMetrics registers the collector, where a registerer is given, for as
// long as the system runs, its start included.
func (s *System) startMetrics(_ context.Context, stops *stopStack) error {
	stops.push(func() error {
		s.recent.wait()
		return nil
	})
	if s.opts.registerer == nil {
		return nil
	}
	c := newCollector(s)
	if err := s.opts.registerer.Register(c); err != nil {
		return err
	}
	stops.push(func() error {
		s.opts.registerer.Unregister(c)
		return nil
	})
	return nil
}
