package qsfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/internal/boottime"
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
	total, err := s.cacheBytes()
	if err != nil {
		return report, err
	}
	kept := 0
	for after := (candidate{nr: -1}); total > keep; {
		page, unsafe := s.leastUsed(after)
		report.Kept = unsafe + kept
		if len(page) == 0 {
			break
		}
		for _, c := range page {
			if total <= keep {
				break
			}
			freed, err := s.dropLocal(ctx, c)
			if err != nil {
				return report, fmt.Errorf("drop %s: %w", c.space.dataPath(c.id), err)
			}
			if freed == 0 {
				kept++
				continue
			}
			total -= freed
			s.meters.evictedFile(freed)
			report.Files++
			report.Bytes += c.size
			s.opts.observer(Progress{Op: "evict", Subject: c.space.dataPath(c.id), Done: report.Bytes, Unit: "bytes"})
		}
		after = page[len(page)-1]
		report.Kept = unsafe + kept
	}
	for _, p := range s.spaces {
		if pairs, err := p.ns.Pairs(); err == nil && pairs.HasOpen {
			report.Kept++
		}
	}
	return report, nil
}

// dropLocal drops one file, if it is safe and nobody reads it. It gives the
// bytes that this freed: none when the file stays.
func (s *System) dropLocal(ctx context.Context, c candidate) (int64, error) {
	safe, err := s.safeToDrop(ctx, c.space, c.id, c.size)
	if err != nil || !safe {
		return 0, err
	}
	freed, err := c.space.ns.DropData(c.id)
	switch {
	case errors.Is(err, server.ErrInUse):
		return 0, nil
	case errors.Is(err, os.ErrNotExist): // somebody else did it
		freed, err = 0, nil
	case err != nil:
		return 0, err
	}
	c.space.local.drop(c.id)
	return max(freed, 1), err
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
		total += p.local.total()
		pairs, err := p.ns.Pairs()
		if err != nil {
			return 0, err
		}
		if !pairs.HasOpen {
			continue
		}
		if st, err := os.Stat(p.ns.DataPath(pairs.Open)); err == nil {
			total += allocated(st)
		}
	}
	return total, nil
}

// cacheLimit is cache_size, or half of what is free where that is less.
func (s *System) cacheLimit(used int64) int64 {
	limit := int64(s.settings().CacheSize)
	var fs syscall.Statfs_t
	if err := syscall.Statfs(s.layout.Root, &fs); err == nil {
		limit = min(limit, (int64(fs.Bavail)*int64(fs.Bsize)+used)/2)
	}
	return limit
}

// recount is how often local files are counted anew, for what others did to
// their folders, and recountPause the time between pages of them.
const (
	recount      = time.Hour
	recountPause = 100 * time.Millisecond
)

// keepCache drops what is over the limit, until ctx ends.
func (s *System) keepCache(ctx context.Context) {
	counted := boottime.Now()
	for wait(ctx, 10*time.Second) {
		var err error
		if boottime.Now()-counted > recount {
			for _, p := range s.spaces {
				err = errors.Join(err, p.countLocal(ctx, recountPause))
			}
			counted = boottime.Now()
		}
		used, cacheErr := s.cacheBytes()
		if err = errors.Join(err, cacheErr); err == nil && used > s.cacheLimit(used) {
			_, err = s.Evict(ctx, s.cacheLimit(used)*9/10)
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, ErrNotReady) {
			s.log.Warn("the cache could not be cut to its limit", "err", err)
		}
	}
}
