package qsfs

import (
	"context"
	"fmt"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/qsfs/client"
)

// degraded tells of something that is not as it should be, and lowers the state
// of a system that was well until now.
func degraded(st *client.Status, format string, args ...any) {
	statusNote(st, format, args...)
	if st.State == client.StateOK {
		st.State = client.StateDegraded
	}
}

// noteRules are the notes that follow from what a status says otherwise. Each
// gives a sentence, or nothing.
var noteRules = []struct {
	name string
	tell func(*client.Status) string
}{
	{"data backends down", func(st *client.Status) string {
		n := countBackends(st, backend.Data, false, backend.Down, backend.Replacing)
		r := redundancyOf(st, backend.Data)
		if n == 0 || r == nil {
			return ""
		}
		return fmt.Sprintf("%s not work; data stays readable while %d of %d shards are", backendsDo(n, "data"), r.Needed, r.Shards)
	}},
	{"metadata backends down", func(st *client.Status) string {
		n := countBackends(st, backend.Meta, false, backend.Down, backend.Replacing)
		if n == 0 {
			return ""
		}
		return fmt.Sprintf("%d of %d metadata backends do not work; two are enough to read, three to store", n, backend.MetaBackends)
	}},
	{"backends full", func(st *client.Status) string {
		n := countBackends(st, backend.Data, false, backend.Full) + countBackends(st, backend.Meta, false, backend.Full)
		if n == 0 {
			return ""
		}
		return fmt.Sprintf("%d backends are full: what they hold can be read, nothing more is stored there; enlarge them, or `quantumd replace`", n)
	}},
	{"spares down", func(st *client.Status) string {
		n := countBackends(st, backend.Data, true, backend.Down, backend.Full) + countBackends(st, backend.Meta, true, backend.Down, backend.Full)
		if n == 0 {
			return ""
		}
		return fmt.Sprintf("%d spare backends do not work: they cannot replace a lost one", n)
	}},
	{"data at its limit", func(st *client.Status) string { return limitNote(redundancyOf(st, backend.Data), "data") }},
	{"metadata at its limit", func(st *client.Status) string { return limitNote(redundancyOf(st, backend.Meta), "metadata") }},
	{"disk almost full", func(st *client.Status) string {
		if st.Disk.TotalBytes == 0 || st.Disk.FreeBytes >= max(st.Disk.TotalBytes/50, min(1<<30, st.Disk.TotalBytes/20)) {
			return ""
		}
		return fmt.Sprintf("the disk of the frontend has %d MiB left: free some space, or writes will fail (`quantumd evict` drops what is safe)", st.Disk.FreeBytes>>20)
	}},
	{"cache over its limit", func(st *client.Status) string {
		if st.Cache.Limit <= 0 || st.Cache.Bytes <= st.Cache.Limit+st.Cache.Limit/10 {
			return ""
		}
		return fmt.Sprintf("the cache is %d MiB over its limit: what is not safe on the backends is not dropped", (st.Cache.Bytes-st.Cache.Limit)>>20)
	}},
	{"ids", func(st *client.Status) string {
		for _, n := range st.Namespaces {
			if n.Limit > 0 && n.IDs > n.Limit/2 {
				return fmt.Sprintf("%d %% of the record ids of %s are used up: at the end nothing more can be written; plan a move to fresh namespaces", n.IDs*100/n.Limit, n.Name)
			}
		}
		return ""
	}},
}

func limitNote(r *client.Redundancy, what string) string {
	switch {
	case r == nil || r.Down == 0 || r.Tolerated > 0:
		return ""
	case r.Tolerated == 0:
		return fmt.Sprintf("with one more lost %s backend, content is lost: replace what is lost now (`quantumd replace --failed`)", what)
	}
	return fmt.Sprintf("%d %s backends are lost, and %d may be: some content may be out of reach until one of them is back", r.Down, what, r.Full)
}

func backendsDo(n int, what string) string {
	if n == 1 {
		return fmt.Sprintf("1 %s backend does", what)
	}
	return fmt.Sprintf("%d %s backends do", n, what)
}

func countBackends(st *client.Status, role backend.Role, spare bool, states ...backend.State) int {
	n := 0
	for _, b := range st.Backends {
		for _, state := range states {
			if b.Relieved && state == backend.Full {
				continue // as it is meant to be
			}
			if b.Role == string(role) && b.Spare == spare && b.State == string(state) {
				n++
			}
		}
	}
	return n
}

func redundancyOf(st *client.Status, role backend.Role) *client.Redundancy {
	for i := range st.Redundancy {
		if st.Redundancy[i].Role == string(role) {
			return &st.Redundancy[i]
		}
	}
	return nil
}

// stateNotes tells of what only the system itself knows.
func (s *System) stateNotes(ctx context.Context, st *client.Status) {
	if s.check.unreconciled.Load() {
		degraded(st, "what is on the backends is not known yet: nothing is committed until the metadata backends have told")
	}
	if n, why := s.meters.checkpointsLost.Load(), s.meters.checkpointError.Load(); n > 0 && why != nil {
		degraded(st, "the last %d checkpoints failed, a restore would give an older state: %s", n, *why)
	}
	if some, err := s.check.anyDegraded(ctx); err != nil {
		degraded(st, "the database cannot tell which files are degraded: %v", err)
	} else if some && !s.check.degraded.Load() {
		degraded(st, "some files have their metadata on three of four backends: they are completed when all four answer, and kept here until then")
	}
	if r := s.store.Replaced(); r != nil {
		statusNote(st, "the database was damaged and was filled again from the files and the backends; the damaged one is kept at %s", r.Path)
	}
	if !s.opts.noMount && !st.Mount.Mounted {
		degraded(st, "the tree is not mounted on %s", s.cfg.QSFSMountpoint)
	}
}

// ruleNotes adds the notes of noteRules.
func ruleNotes(st *client.Status) {
	for _, r := range noteRules {
		if text := r.tell(st); text != "" {
			degraded(st, "%s", text)
		}
	}
}
