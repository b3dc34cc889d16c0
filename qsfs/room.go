package qsfs

import (
	"context"
	"syscall"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/qsfs/client"
)

// idLimit is how many ids a namespace of a zdb has.
const idLimit = 1 << 32

// roomStatus tells what may run out: space on this machine, and ids.
func (s *System) roomStatus(st *client.Status) error {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(s.layout.Root, &fs); err == nil {
		st.Disk = client.Disk{FreeBytes: int64(fs.Bavail) * int64(fs.Bsize), TotalBytes: int64(fs.Blocks) * int64(fs.Bsize)}
	}
	for _, p := range s.spaces {
		pairs, err := p.ns.Pairs()
		if err != nil {
			return err
		}
		st.Namespaces = append(st.Namespaces, client.Namespace{Name: p.name, IDs: int64(pairs.Slots), Limit: idLimit})
	}
	return nil
}

// redundancyStatus tells how many more backends may be lost. A backend that was
// replaced counts as lost as long as objects have something there only.
func (s *System) redundancyStatus(ctx context.Context, st *client.Status) error {
	counts, err := s.store.ObjectCounts(ctx)
	if err != nil {
		return err
	}
	lost := map[string]int{}
	known := map[string]bool{}
	var all, parts int64 // shards of objects: everywhere, and on lost backends
	for _, b := range st.Backends {
		known[b.ID] = true
		if b.Spare {
			continue
		}
		if b.State != string(backend.Up) && b.State != string(backend.Full) {
			lost[b.Role]++
			parts += counts[b.ID]
		}
	}
	for id, n := range counts {
		all += n
		if !known[id] && n > 0 {
			lost[string(backend.Data)]++
			parts += n
		}
	}
	k, n := s.cfg.MinShards, s.cfg.ExpectedShards
	data := redundancy(backend.Data, k, n, lost)
	if lost[string(backend.Data)] > 0 {
		unplaced := max(0, st.Queue.Stored-all/int64(n))
		data.Endangered = min(st.Queue.Stored, parts/int64(max(1, n-k-1))+unplaced)
	}
	meta := redundancy(backend.Meta, metaNeeded, backend.MetaBackends, lost)
	if meta.Tolerated < meta.Full {
		meta.Endangered = st.Queue.Stored // every record is on all four
	}
	st.Redundancy = append(st.Redundancy, data, meta)
	return nil
}

// metaNeeded metadata backends suffice to read a record.
const metaNeeded = 2

func redundancy(role backend.Role, needed, shards int, lost map[string]int) client.Redundancy {
	down := lost[string(role)]
	return client.Redundancy{Role: string(role), Needed: needed, Shards: shards, Down: down,
		Full: shards - needed, Tolerated: shards - needed - min(down, shards)}
}
