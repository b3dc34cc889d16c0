package qsfs

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/qsfs/manifest"
)

// ErrLost says that a data file is neither here nor on the backends.
var ErrLost = errors.New("the data file is not here, and was never stored")

// fetcher brings dropped data files back. The zdb asks once per file, however
// many readers wait.
type fetcher struct {
	sys   *System
	bytes atomic.Int64 // of the files that were brought back
}

func (f *fetcher) fetch(ctx context.Context, path string) error {
	s := f.sys
	p, id, err := s.dataFile(path)
	if err != nil {
		return err
	}
	if p == nil || p.ns == nil {
		return fmt.Errorf("%s: %w", path, ErrLost)
	}
	if err := s.reconcile(ctx); err != nil {
		return err
	}
	ref, ok := s.refOf(ctx, p, id)
	if !ok && s.hinted(ctx, p, id) {
		ref, ok = s.refOf(ctx, p, id)
	}
	if !ok {
		return fmt.Errorf("%s: %w", p.dataPath(id), ErrLost)
	}
	if err := s.retrieve(ctx, ref, p.ns.DataPath(id)); err != nil {
		s.log.Error("a data file could not be fetched", "path", p.dataPath(id), "err", err)
		return err
	}
	p.local.set(id, ref.Length, time.Now())
	f.bytes.Add(ref.Length)
	s.log.Debug("data file fetched", "path", p.dataPath(id), "bytes", ref.Length)
	return nil
}

// retrieve brings an object to dst, if it is the one that ref names. A read does
// not wait for the daemon of an external zstor to come back: the embedded engine
// reads as well.
func (s *System) retrieve(ctx context.Context, ref manifest.Ref, dst string) error {
	obj, err := s.engine.Lookup(ctx, s.objectPath(ref.Object))
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(obj.Checksum[:]); got != ref.Checksum {
		return fmt.Errorf("%s: its object has the checksum %s, the checkpoint names %s: %w", ref.Object, got, ref.Checksum, zstor.ErrDamaged)
	}
	if !s.health.allAnswer(obj) { // the daemon waits for each of them, and zdb stands still meanwhile
		return s.engine.RetrieveObjectFile(ctx, obj, dst)
	}
	err = s.objects.RetrieveObjectFile(ctx, obj, dst)
	if err != nil && ctx.Err() == nil && s.objects != objects(s.engine) {
		s.log.Warn("the zstor daemon did not bring a file; it is fetched without it", "path", ref.Object, "err", err)
		err = s.engine.RetrieveObjectFile(ctx, obj, dst)
	}
	return err
}
