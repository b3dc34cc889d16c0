package qsfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sort"
	"syscall"
	"time"

	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/store"
)

// Evict drops local data files until at most keep bytes of them are left,
// those that were not read for longest first. Only files whose object was
// verified, with its metadata on all four backends, in a committed checkpoint,
// are dropped; never the open one. What is dropped is fetched again when it is
// read.
func (s *System) Evict(ctx context.Context, keep int64) (*client.EvictReport, error) {
	if err := s.serving(); err != nil {
		return nil, err
	}
	report := &client.EvictReport{Schema: client.SchemaVersion}
	candidates, total, err := s.evictable(ctx, report)
	if err != nil {
		return report, err
	}
	for _, c := range candidates {
		if total <= keep {
			break
		}
		freed, err := c.space.ns.DropData(c.id)
		if errors.Is(err, server.ErrInUse) || errors.Is(err, os.ErrNotExist) {
			report.Kept++
			continue
		}
		if err != nil {
			return report, fmt.Errorf("drop %s: %w", c.space.dataPath(c.id), err)
		}
		total -= freed
		s.meters.evictedFile(freed)
		report.Files++
		report.Bytes += c.length
		s.opts.observer(Progress{Op: "evict", Subject: c.space.dataPath(c.id), Done: report.Bytes, Unit: "bytes"})
	}
	return report, nil
}

type candidate struct {
	space  *space
	id     uint32
	length int64
	used   time.Time // last read, as far as the file system keeps it
}

// evictable lists what may be dropped, oldest first, and the bytes of all
// local data files.
func (s *System) evictable(ctx context.Context, report *client.EvictReport) ([]candidate, int64, error) {
	var out []candidate
	var total int64
	for _, p := range s.spaces {
		files, err := p.ns.Files()
		if err != nil {
			return nil, 0, err
		}
		for _, d := range files.Data {
			if !d.Present {
				continue
			}
			st, err := os.Stat(p.ns.DataPath(d.ID))
			if errors.Is(err, os.ErrNotExist) {
				continue // dropped meanwhile
			}
			if err != nil {
				return nil, 0, err
			}
			total += allocated(st)
			if files.HasOpen && files.Open == d.ID {
				report.Kept++
				continue
			}
			safe, err := s.safeToDrop(ctx, p, d.ID, d.Length)
			if err != nil {
				return nil, 0, err
			}
			if !safe {
				report.Kept++
				continue
			}
			out = append(out, candidate{p, d.ID, d.Length, lastUse(st)})
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].used.Before(out[j].used) })
	return out, total, nil
}

// safeToDrop says whether the object of a data file is verified, complete, of
// the file's length, and named by a committed checkpoint.
func (s *System) safeToDrop(ctx context.Context, p *space, id uint32, length int64) (bool, error) {
	ref, ok := p.stored(store.KindData, id)
	if !ok || ref.Length != length {
		return false, nil
	}
	row, err := s.store.File(ctx, p.dataPath(id))
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return row.State == store.FileStored && !row.VerifiedAt.IsZero() && row.ObjectPath == ref.Object &&
		row.Checkpoint <= int64(s.check.committedSeq.Load()), nil
}

// cacheBytes is the disk space of the local data files.
func (s *System) cacheBytes() (int64, error) {
	var total int64
	for _, p := range s.spaces {
		files, err := p.ns.Files()
		if err != nil {
			return 0, err
		}
		for _, d := range files.Data {
			if !d.Present {
				continue
			}
			if st, err := os.Stat(p.ns.DataPath(d.ID)); err == nil {
				total += allocated(st)
			}
		}
	}
	return total, nil
}

// cacheLimit is cache_size, or half of what is free where that is less.
func (s *System) cacheLimit(used int64) int64 {
	limit := int64(s.cfg.CacheSize)
	var fs syscall.Statfs_t
	if err := syscall.Statfs(s.layout.Root, &fs); err == nil {
		limit = min(limit, (int64(fs.Bavail)*int64(fs.Bsize)+used)/2)
	}
	return limit
}

// keepCache drops what is over the limit, until ctx ends.
func (s *System) keepCache(ctx context.Context) {
	for wait(ctx, 10*time.Second) {
		used, err := s.cacheBytes()
		if err == nil && used > s.cacheLimit(used) {
			_, err = s.Evict(ctx, s.cacheLimit(used)*9/10)
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, ErrNotReady) {
			s.log.Warn("the cache could not be cut to its limit", "err", err)
		}
	}
}
