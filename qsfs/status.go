package qsfs

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/internal/boottime"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/epoch"
)

// Status looks at the system. It asks nobody: what it tells of the backends is
// what the last look at them found.
func (s *System) Status(ctx context.Context) (*client.Status, error) {
	st := &client.Status{Schema: client.SchemaVersion, State: s.stateNow(), PID: os.Getpid(), Notes: []string{},
		Backends: []client.Backend{}, Replacements: []client.Replacement{}, Namespaces: []client.Namespace{}, Redundancy: []client.Redundancy{},
		Started: s.started, Dashboard: s.servedAt(), Mount: client.Mount{Path: s.cfg.QSFSMountpoint}}
	st.Services = []client.Service{{Name: "quantumd", State: st.State}}
	if err := s.serving(); err != nil {
		return st, nil // nothing more is known yet
	}
	st.Mount.Mounted = s.isMounted()
	if s.opts.noMount {
		st.Mount.Path = ""
	}
	st.Epoch = s.fence.Identity().Epoch
	st.Generation = s.generation(ctx)
	if err := s.queueStatus(ctx, st); err != nil {
		return nil, err
	}
	if err := s.replacementStatus(ctx, st); err != nil {
		return nil, err
	}
	s.backendStatus(st)
	s.cacheStatus(st)
	s.checkpointStatus(st)
	s.scrubStatus(st)
	s.promiseNotes(st)
	if err := s.roomStatus(st); err != nil {
		return nil, err
	}
	if err := s.redundancyStatus(ctx, st); err != nil {
		return nil, err
	}
	ruleNotes(st)
	s.stateNotes(ctx, st)
	s.reloadStatus(st)
	return st, s.lossWindow(st)
}

func (s *System) stateNow() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// generation is the number of the set of backends: one until a backend is
// replaced.
func (s *System) generation(ctx context.Context) int {
	g, err := s.store.LatestGeneration(ctx)
	if err != nil {
		return 1
	}
	return int(g.Number)
}

func (s *System) queueStatus(ctx context.Context, st *client.Status) error {
	q, err := s.store.Queue().Stats(ctx)
	if err != nil {
		return err
	}
	st.Queue = queueOf(q)
	if q.Failed > 0 {
		statusNote(st, "%d files could not be stored yet; they are tried again (`quantumd queue ls` shows why)", q.Failed)
	}
	t := s.engine.Stats()
	st.Transfer = client.Transfer{SentBytes: int64(t.Sent), FetchedBytes: int64(t.Fetched), FetchedFileBytes: s.fetching.bytes.Load()}
	return nil
}

func (s *System) backendStatus(st *client.Status) {
	order, health, leased := s.health.snapshot()
	breakers := map[string]zstor.BackendStats{}
	for _, k := range s.engine.Backends() {
		breakers[k.Backend.ID] = k
	}
	g := s.current()
	for _, b := range order {
		h := health[b.ID]
		_, inSet := g.Find(b.ID)
		entry := client.Backend{ID: b.ID, Role: string(b.Role), Address: b.Address.String(), Namespace: b.Namespace,
			Group: b.Group, State: string(h.State), Since: h.Since, PID: h.PID, Dir: h.Dir, Spare: b.Spare && !inSet, Relieved: b.Spare && inSet,
			LatencySeconds: h.Latency.Seconds(), UsedBytes: h.Used, LimitBytes: h.Limit, FreeBytes: h.Free, Entries: h.Entries}
		if k := breakers[b.ID]; k.Breaker != zstor.BreakerClosed {
			entry.Breaker, entry.BreakerFailures = string(k.Breaker), k.Failures
		} else {
			entry.BreakerFailures = k.Failures
		}
		if h.Err != nil {
			entry.Error = h.Err.Error()
		}
		st.Backends = append(st.Backends, entry)
	}
	if !leased && len(order) > 0 && s.fence.Fenced() == nil {
		statusNote(st, "uploads pause: fewer than %d metadata backends answer", epoch.Quorum)
	}
	if err := s.fence.Fenced(); err != nil {
		st.State = client.StateFenced
		statusNote(st, "%v", err)
	} else if len(st.Notes) > 0 && st.State == client.StateOK {
		st.State = client.StateDegraded
	}
	if oneHost(order) {
		statusNote(st, "all backends are on one machine: they do not protect against losing it")
	}
}

// oneHost says whether all backends have one address: then they are lost
// together.
func oneHost(list []backend.Backend) bool {
	for _, b := range list {
		if b.Address.Addr() != list[0].Address.Addr() {
			return false
		}
	}
	return len(list) > 0
}

func (s *System) cacheStatus(st *client.Status) {
	used, err := s.cacheBytes()
	if err != nil {
		statusNote(st, "the cache cannot be measured: %v", err)
		return
	}
	st.Cache = client.Cache{Bytes: used, Limit: s.cacheLimit(used)}
}

func (s *System) checkpointStatus(st *client.Status) {
	c := s.check
	st.Checkpoint.Seq = c.committedSeq.Load()
	if at := c.committedAt.Load(); at != 0 {
		st.Checkpoint.AgeSeconds = (boottime.Now() - time.Duration(at)).Seconds()
	}
	if c.degraded.Load() {
		degraded(st, "the newest checkpoint has metadata on three of four backends")
	}
}

// lossWindow counts what no committed checkpoint holds.
func (s *System) lossWindow(st *client.Status) error {
	st.LossWindow.Seconds = s.unsafeFor().Seconds()
	for _, p := range s.spaces {
		n, err := p.unsafe()
		if err != nil {
			return err
		}
		st.LossWindow.Bytes += n
	}
	if st.LossWindow.Bytes == 0 {
		st.LossWindow.Seconds = 0
	}
	return nil
}

func statusNote(st *client.Status, format string, args ...any) {
	st.Notes = append(st.Notes, fmt.Sprintf(format, args...))
}
