package qsfs

import (
	"context"
	"errors"
	"fmt"

	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/store"
)

// A store that found only three metadata backends is degraded: it survives one
// more loss, and counts as safe only when the fourth has its part too. Then it
// is completed, before anything else relies on it.

// complete brings the metadata of degraded files, and of the manifest that
// names them, to all four metadata backends.
func (s *System) complete(ctx context.Context) error {
	if s.fence.Fenced() != nil || s.fence.Released() {
		return nil
	}
	var errs []error
	completed := 0
	for f, err := range s.store.Files(ctx, store.FileFilter{State: store.FileDegraded}) {
		if err != nil {
			return err
		}
		if err := s.completeFile(ctx, f); err != nil {
			errs = append(errs, err)
			continue
		}
		completed++
	}
	if len(errs) > 0 || completed == 0 && !s.check.partial.Load() {
		return errors.Join(errs...)
	}
	if err := s.completeManifest(ctx); err != nil {
		return err
	}
	s.check.degraded.Store(false)
	s.check.partial.Store(false)
	s.log.Info("degraded files are complete", "files", completed)
	return nil
}

func (s *System) completeFile(ctx context.Context, f store.File) error {
	report, err := s.repairObject(ctx, f.ObjectPath, f.Path, zstor.RebuildOptions{LeaveUnreachable: true})
	return wholeOr(report, f.ObjectPath, err)
}

// completeObject makes an object whole that has no second name: what is there
// stays where it is.
func (s *System) completeObject(ctx context.Context, rel string) error {
	report, err := s.repairObject(ctx, rel, "", zstor.RebuildOptions{LeaveUnreachable: true})
	return wholeOr(report, rel, err)
}

func wholeOr(report zstor.Report, rel string, err error) error {
	if err != nil {
		return err
	}
	if report.Object.MetaHolders < len(report.Meta) || report.GoodShards() != report.Object.N {
		return fmt.Errorf("%s: %d metadata backends, %d of %d shards", rel, report.Object.MetaHolders, report.GoodShards(), report.Object.N)
	}
	return nil
}

// completeManifest completes what leads to the files: the newest manifest, its
// base, and the records before them.
func (s *System) completeManifest(ctx context.Context) error {
	manifests, err := s.manifests(ctx)
	if err != nil {
		return err
	}
	for _, m := range manifests {
		if err := s.completeObject(ctx, m.ref.Object); err != nil {
			return err
		}
	}
	_, err = s.checkRecords(ctx, true)
	return err
}
