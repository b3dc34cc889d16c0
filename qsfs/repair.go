package qsfs

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/crypto/blake2b"

	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/store"
)

// repairObject makes of one object what is missing or damaged, keeps what is
// good where it is, and completes its record to all four metadata backends.
// objectPath and plain are below the zdb root; plain is the path without
// version, for the real zstor's sake, or empty where the object has none.
//
// The record at the plain path names the same shards: after a change it is
// written anew, never rebuilt on its own, which would make every shard twice.
// An object that the backends no longer hold is stored again from the local
// file, if that still is what was stored. What is known of the file is brought
// up to date: verified when nothing is left to repair, else degraded or damaged.
//
// The report is that after the repair; an error says why something is left.
func (s *System) repairObject(ctx context.Context, objectPath, plain string, opts zstor.RebuildOptions) (zstor.Report, error) {
	if err := s.mayWrite(ctx); err != nil {
		return zstor.Report{}, err
	}
	report, err := s.objects.Rebuild(ctx, s.objectPath(objectPath), opts)
	row, rowErr := s.rowOf(ctx, objectPath, plain)
	if rowErr != nil {
		return report, errors.Join(err, rowErr)
	}
	if isLost(err) && row != nil {
		report, err = s.storeAgain(ctx, *row, err)
	}
	if err == nil && len(report.Rebuilt) > 0 {
		if ids := shardBackends(report.Object); ids != nil {
			err = s.store.SetPlacements(ctx, objectPath, ids)
		}
	}
	if row == nil {
		return report, err
	}
	if err == nil {
		s.refreshAlias(ctx, report, row.Path)
	}
	return report, errors.Join(err, s.noteKept(ctx, *row, report, err))
}

// mayWrite says whether this frontend holds its lease.
func (s *System) mayWrite(ctx context.Context) error {
	_, release, err := s.fence.Hold(ctx)
	if err == nil {
		release()
	}
	return err
}

// rowOf gives the row of a plain path if its newest version is this object.
func (s *System) rowOf(ctx context.Context, objectPath, plain string) (*store.File, error) {
	if plain == "" {
		return nil, nil
	}
	row, err := s.store.File(ctx, plain)
	if errors.Is(err, store.ErrNotFound) || err == nil && (row.ObjectPath != objectPath || row.State == store.FilePending) {
		return nil, nil
	}
	return &row, err
}

// refreshAlias has the plain path name the shards that the object has now.
// Nothing of ours reads it: a failure is only noted, and a later repair or scrub
// sees that it is behind.
func (s *System) refreshAlias(ctx context.Context, report zstor.Report, plain string) {
	if current, err := s.aliasCurrent(ctx, report, plain); err != nil || current {
		return // without an answer nothing can be written either
	}
	if _, err := s.engine.Alias(ctx, report.Object, s.objectPath(plain)); err != nil && ctx.Err() == nil {
		s.log.Debug("the plain path is not up to date", "path", plain, "err", err)
	}
}

// aliasCurrent says whether the record at the plain path is complete and names
// the shards of the object.
func (s *System) aliasCurrent(ctx context.Context, report zstor.Report, plain string) (bool, error) {
	if report.MetaWritten || len(report.Rebuilt) > 0 {
		return false, nil
	}
	alias, err := s.engine.Lookup(ctx, s.objectPath(plain))
	if errors.Is(err, zstor.ErrNotFound) || errors.Is(err, zstor.ErrDamaged) {
		return false, nil
	}
	return err == nil && !alias.Degraded && sameShards(alias, report.Object), err
}

// sameShards says whether two records name the same pieces of the same backends.
func sameShards(a, b zstor.Object) bool {
	if a.Checksum != b.Checksum || len(a.Shards) != len(b.Shards) {
		return false
	}
	for i, x := range a.Shards {
		y := b.Shards[i]
		if x.Index != y.Index || x.Backend.Address != y.Backend.Address || x.Backend.Namespace != y.Backend.Namespace || len(x.Keys) != len(y.Keys) {
			return false
		}
		for k := range x.Keys {
			if string(x.Keys[k]) != string(y.Keys[k]) {
				return false
			}
		}
	}
	return true
}

// noteKept records how well a file's object is kept after a repair.
func (s *System) noteKept(ctx context.Context, row store.File, report zstor.Report, cause error) error {
	ctx = context.WithoutCancel(ctx)
	switch {
	case isLost(cause):
		return s.store.SetFileState(ctx, row.Path, row.Version, store.FileDamaged, cause)
	case cause != nil:
		return nil // nothing new is known
	case report.Object.MetaHolders < len(report.Meta):
		return s.store.SetFileState(ctx, row.Path, row.Version, store.FileDegraded, errDegraded)
	case report.GoodShards() < report.Object.N:
		return nil // some backends do not answer
	}
	if row.State != store.FileStored {
		if err := s.store.SetFileState(ctx, row.Path, row.Version, store.FileStored, nil); err != nil {
			return err
		}
	}
	return s.store.MarkVerified(ctx, row.Path, row.Version)
}

// isLost says whether an error tells that what is on the backends cannot be
// read any more, also when every backend answers again.
func isLost(err error) bool {
	var few *zstor.TooFewShardsError
	var silent *zstor.UnavailableError
	switch {
	case errors.As(err, &silent):
		return false // what the others said may be joined in
	case errors.As(err, &few):
		return few.Have+few.Unreachable < few.Need
	}
	return errors.Is(err, zstor.ErrNotFound) || errors.Is(err, zstor.ErrDamaged)
}

// storeAgain stores a local file in place of its lost object, if it still is
// exactly what was stored.
func (s *System) storeAgain(ctx context.Context, row store.File, lost error) (zstor.Report, error) {
	file, err := s.localCopy(row)
	if err != nil || file == "" {
		return zstor.Report{}, errors.Join(lost, err)
	}
	sum, length, err := fileChecksum(ctx, file)
	if errors.Is(err, os.ErrNotExist) || err == nil && (length != row.Length || sum != row.Checksum) {
		return zstor.Report{}, lost
	}
	if err != nil {
		return zstor.Report{}, errors.Join(lost, err)
	}
	obj, err := s.objects.StoreFile(ctx, s.objectPath(row.ObjectPath), file)
	if err != nil {
		return zstor.Report{}, errors.Join(lost, err)
	}
	if hex.EncodeToString(obj.Checksum[:]) != row.Checksum {
		return zstor.Report{}, fmt.Errorf("%s changed while it was stored again: %w", row.Path, lost)
	}
	report, err := s.engine.VerifyObject(ctx, obj, zstor.VerifyOptions{})
	report.MetaWritten = true
	for _, shard := range obj.Shards {
		report.Rebuilt = append(report.Rebuilt, shard.Index)
	}
	if err == nil {
		s.log.Warn("a lost object was stored again from the local file", "path", row.Path)
	}
	return report, err
}

// localCopy names the local file of a row; empty where the row is of none.
func (s *System) localCopy(row store.File) (string, error) {
	p := s.check.space(row.Namespace)
	if p == nil {
		return "", nil
	}
	switch row.Kind {
	case store.KindData:
		return p.ns.DataPath(uint32(row.FileID)), nil
	case store.KindIndex:
		return s.objectPath(p.indexPath(uint32(row.FileID))), nil
	case store.KindDescriptor:
		return p.ns.DescriptorPath(), nil
	}
	return "", nil
}

// fileChecksum gives the checksum that an object of this file would have, and
// the file's length.
func fileChecksum(ctx context.Context, path string) (sum string, length int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close() //nolint:errcheck // read only
	h, err := blake2b.New(16, nil)
	if err != nil {
		return "", 0, err
	}
	length, err = io.CopyBuffer(h, contextReader{ctx, f}, make([]byte, 256<<10))
	return hex.EncodeToString(h.Sum(nil)), length, err
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
