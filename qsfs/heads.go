package qsfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/epoch"
	"github.com/threefoldtech/quantumd/qsfs/generation"
)

// The small records that are whole on each metadata backend: claims, heads, the
// set of backends. Three are enough to write one; here it is seen that the
// fourth gets it too.

// wholeRecord is one of them: how to tell which of two values counts.
type wholeRecord struct {
	name string
	key  string
	// better says whether a counts over b; both were read with our key.
	better func(a, b []byte) bool
}

// wholeRecords lists what a restore reads first.
func (s *System) wholeRecords() []wholeRecord {
	id := s.fence.Identity()
	var out []wholeRecord
	for n := uint64(1); n <= id.Epoch; n++ {
		out = append(out, wholeRecord{fmt.Sprintf("claim of epoch %d", n), s.epochs.ClaimKey(n), betterBy(func(c epoch.Claim) string { return c.UUID })})
	}
	seq := betterBy(func(h epoch.Head) uint64 { return h.Seq })
	out = append(out, wholeRecord{fmt.Sprintf("head of epoch %d", id.Epoch), s.epochs.HeadKey(id.Epoch, id.UUID), seq})
	if id.ParentEpoch != 0 {
		out = append(out, wholeRecord{fmt.Sprintf("head of epoch %d", id.ParentEpoch), s.epochs.HeadKey(id.ParentEpoch, id.ParentUUID), seq})
	}
	return append(out, wholeRecord{"set of backends", s.generationKey(), betterBy(func(g generation.Set) int { return g.Number })})
}

func betterBy[T any, O interface{ ~string | ~uint64 | ~int }](order func(T) O) func(a, b []byte) bool {
	return func(a, b []byte) bool {
		var x, y T
		if json.Unmarshal(a, &x) != nil {
			return false
		}
		return json.Unmarshal(b, &y) != nil || order(x) > order(y)
	}
}

// checkRecords looks at each whole record, and with repair completes those that
// are not on every metadata backend. A record that nobody has, and one that
// cannot be known, are no damage that can be repaired here.
func (s *System) checkRecords(ctx context.Context, repair bool) ([]client.Damage, error) {
	var damage []client.Damage
	for _, r := range s.wholeRecords() {
		d, err := s.checkRecord(ctx, r, repair)
		if err != nil {
			return damage, fmt.Errorf("%s: %w", r.name, err)
		}
		if d != nil {
			damage = append(damage, *d)
		}
	}
	return damage, nil
}

func (s *System) checkRecord(ctx context.Context, r wholeRecord, repair bool) (*client.Damage, error) {
	// Nobody writes a newer head between the look and the repair.
	s.recordLock.Lock()
	defer s.recordLock.Unlock()
	all, err := s.engine.GetRecord(ctx, r.key)
	if err != nil {
		return nil, err
	}
	best, holders := r.newest(all)
	if best == nil && all.Answered() == 0 {
		return nil, &QuorumError{What: r.name, Err: answerErrors(all)}
	}
	if best == nil && all.Answered() >= epoch.Quorum || holders == len(all) {
		return nil, nil // it was never written, or is everywhere
	}
	d := &client.Damage{Path: "qsfs/" + r.name, Key: r.key, Meta: holders,
		What: fmt.Sprintf("the %s is on %d of %d metadata backends", r.name, holders, len(all))}
	if best == nil {
		d.Error = answerErrors(all).Error()
		return d, nil
	}
	if repair && all.Answered() < epoch.Quorum {
		d.Error = (&QuorumError{What: r.name, Answered: all.Answered(), Err: answerErrors(all)}).Error()
		return d, nil // a newer one may be on those that are silent
	}
	if repair {
		err := s.completeRecord(ctx, r.key, best)
		if d.Repaired = err == nil; err != nil {
			d.Error = err.Error()
		}
	}
	return d, nil
}

// completeRecord writes a record to all metadata backends. The caller holds
// System.recordLock.
func (s *System) completeRecord(ctx context.Context, key string, value []byte) error {
	holding, release, err := s.fence.Hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	acks, err := s.engine.PutRecord(holding, key, value)
	if err == nil && acks < backend.MetaBackends {
		err = &QuorumError{What: "a write", Answered: acks}
	}
	return err
}

// newest gives the value that counts, and how many hold it.
func (r wholeRecord) newest(all zstor.Answers) (best []byte, holders int) {
	for _, a := range all {
		if a.State == zstor.HasValue && (best == nil || r.better(a.Value, best)) {
			best = a.Value
		}
	}
	for _, a := range all {
		if a.State == zstor.HasValue && string(a.Value) == string(best) {
			holders++
		}
	}
	return best, holders
}

func answerErrors(all zstor.Answers) error {
	var errs []error
	for _, a := range all {
		if a.Err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a.Backend, a.Err))
		}
	}
	return errors.Join(errs...)
}
