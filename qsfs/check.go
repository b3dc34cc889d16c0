package qsfs

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/internal/boottime"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/store"
)

// checkWorkers is how many records are asked for at a time.
const checkWorkers = 16

// Check asks the metadata backends whether everything that the newest
// checkpoint names is there: head, manifest, and the record of every file, each
// on all four, with all shards placed on backends that are in use. No shard is
// read. With paths, of the mount or below the zdb root, only what holds these.
//
// Damage is in the report. The error tells that nothing could be looked at; it
// is never an answer about what exists.
func (s *System) Check(ctx context.Context, r client.CheckRequest) (*client.CheckReport, error) {
	if err := s.serving(); err != nil {
		return nil, err
	}
	began := boottime.Now()
	report := &client.CheckReport{Schema: client.SchemaVersion, Damage: []client.Damage{}}
	c := &checking{sys: s, report: report, down: s.downBackends()}
	err := c.run(ctx, r.Paths)
	report.Seconds = (boottime.Now() - began).Seconds()
	if err != nil {
		return report, fmt.Errorf("check: %w", err)
	}
	return report, nil
}

type checking struct {
	sys    *System
	report *client.CheckReport
	down   map[string]backend.State // by id, of backends that do not work
}

// downBackends lists backends that the last look found not to work.
func (s *System) downBackends() map[string]backend.State {
	order, health, _ := s.health.snapshot()
	down := map[string]backend.State{}
	for _, b := range order {
		if h, ok := health[b.ID]; ok && h.State != backend.Up && h.State != backend.Full {
			down[b.ID] = h.State
		}
	}
	return down
}

func (c *checking) run(ctx context.Context, paths []string) error {
	s := c.sys
	if len(paths) > 0 {
		return c.paths(ctx, paths)
	}
	records, err := s.checkRecords(ctx, false)
	if err != nil {
		return err
	}
	c.report.Damage = addDamage(c.report.Damage, records...)
	manifests, err := s.manifests(ctx)
	var unreadable *manifestError
	if err != nil && !errors.As(err, &unreadable) {
		return err
	}
	for _, t := range manifests {
		if err := c.done(c.look(ctx, t)); err != nil {
			return err
		}
	}
	return ordered(ctx, s.targets(ctx, ""), checkWorkers, c.look, c.done)
}

// paths checks the files that hold what is at some paths.
func (c *checking) paths(ctx context.Context, paths []string) error {
	seen := map[string]bool{}
	for _, path := range paths {
		files, err := c.sys.filesBehind(ctx, path)
		if err != nil {
			return err
		}
		for _, f := range files.paths {
			if seen[f] {
				continue
			}
			seen[f] = true
			row, err := c.sys.store.File(ctx, f)
			if errors.Is(err, store.ErrNotFound) {
				c.report.Files++
				c.report.Pending++ // it is open, or was closed a moment ago
				continue
			}
			if err != nil {
				return err
			}
			for _, t := range c.sys.targetsOf(row) {
				if err := c.done(c.look(ctx, t)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// looked is what was found of one target.
type looked struct {
	pending, lost, unknown bool
	damage                 *client.Damage
}

// look asks for the record of one object.
func (c *checking) look(ctx context.Context, t target) looked {
	if t.pending {
		return c.waiting(t)
	}
	report, err := c.sys.engine.VerifyRecord(ctx, c.sys.objectPath(t.ref.Object))
	if isUnknown(err) {
		return looked{unknown: true, damage: &client.Damage{Path: t.path, What: "not known: too few metadata backends answer", Error: err.Error()}}
	}
	if err == nil && t.ref.Checksum != hex.EncodeToString(report.Object.Checksum[:]) {
		err = fmt.Errorf("%w: its object holds something else than the checkpoint names", zstor.ErrDamaged)
	}
	if err != nil {
		return c.sys.lostOr(ctx, t, err)
	}
	d := damageOf(t, report)
	for _, shard := range report.Shards {
		if state, ok := c.down[shard.Backend.ID]; ok && shard.State == zstor.NotAsked {
			d.Shards--
			d.What = joinWords(d.What, fmt.Sprintf("shard %d is on %s, which is %s", shard.Index, shard.Backend.ID, state))
		}
	}
	if d.What == "" {
		return looked{}
	}
	return looked{damage: d}
}

// waiting is for a file whose newest version is not stored: it is lost only
// where there is nothing left to store.
func (c *checking) waiting(t target) looked {
	file, err := c.sys.localCopy(*t.row)
	if err != nil || file == "" {
		return looked{pending: true}
	}
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		return looked{lost: true, damage: &client.Damage{Path: t.path, Lost: true, What: "it was never stored, and the file is gone"}}
	}
	return looked{pending: true}
}

// lostOr says whether a file whose object cannot be read is lost: not while it
// is here as it was stored.
func (s *System) lostOr(ctx context.Context, t target, cause error) looked {
	d := &client.Damage{Path: t.path, What: "its object is not on the backends any more", Error: cause.Error()}
	if errors.Is(cause, zstor.ErrDamaged) {
		d.What = "its object on the backends is damaged"
	}
	here, err := s.isHere(ctx, t)
	if err != nil {
		d.Error += "; " + err.Error()
	}
	if here {
		d.What += "; the file is still here"
		return looked{damage: d}
	}
	d.Lost = true
	return looked{lost: true, damage: d}
}

// isHere says whether the local file is what the target's object should hold.
func (s *System) isHere(ctx context.Context, t target) (bool, error) {
	row := t.row
	if row == nil {
		found, err := s.store.File(ctx, t.path)
		if err != nil { // a manifest is in no row: it can be made anew from what is known here
			_, isManifest := s.belowRoot(t.path)
			return isManifest && errors.Is(err, store.ErrNotFound), nil
		}
		row = &found
	}
	file, err := s.localCopy(*row)
	if err != nil || file == "" {
		return false, err
	}
	sum, length, err := fileChecksum(ctx, file)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if row.Kind != store.KindData {
		return err == nil, err // whatever changed in it, the next checkpoint stores it
	}
	return err == nil && length == t.ref.Length && sum == t.ref.Checksum, err
}

// damageOf tells what of an object is not as it should be; What is empty when
// nothing is wrong.
func damageOf(t target, report zstor.Report) *client.Damage {
	d := &client.Damage{Path: t.path, Key: report.Object.Key, Of: report.Object.N, Meta: report.Object.MetaHolders}
	for _, shard := range report.Shards {
		switch shard.State {
		case zstor.Good, zstor.NotAsked:
			d.Shards++
		case zstor.Stray:
			d.Shards++
			d.What = joinWords(d.What, fmt.Sprintf("shard %d is on %s, which is in use no more", shard.Index, shard.Backend.Address))
		default:
			d.What = joinWords(d.What, fmt.Sprintf("shard %d on %s is %s", shard.Index, shard.Backend.ID, shard.State))
		}
	}
	for _, m := range report.Meta {
		if m.State != zstor.Good {
			d.What = joinWords(d.What, fmt.Sprintf("its record on %s is %s", m.Backend.ID, m.State))
		}
	}
	return d
}

func joinWords(a, b string) string {
	switch {
	case a == "":
		return b
	case b == "":
		return a
	}
	return a + "; " + b
}

// done counts one look.
func (c *checking) done(l looked) error {
	r := c.report
	r.Files++
	switch {
	case l.pending:
		r.Pending++
	case l.lost:
		r.Lost++
	case l.unknown:
		r.Unknown++
	case l.damage != nil:
		r.Degraded++
	default:
		r.OK++
	}
	if l.damage != nil {
		r.Damage = addDamage(r.Damage, *l.damage)
	}
	if r.Files%1000 == 0 {
		c.sys.opts.observer(Progress{Op: "check", Step: "asking for records", Done: r.Files, Total: c.sys.objectCount(), Unit: "files"})
	}
	return nil
}

// integrityRoutes serves check, scrub and why.
func (s *System) integrityRoutes(mux *http.ServeMux) {
	mux.Handle("POST /v1/check", answer(func(r *http.Request) (any, error) {
		var in client.CheckRequest
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		return s.Check(r.Context(), in)
	}))
	mux.Handle("POST /v1/scrub", answer(func(r *http.Request) (any, error) {
		var in client.ScrubRequest
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		return s.Scrub(r.Context(), in)
	}))
	mux.Handle("GET /v1/why", answer(func(r *http.Request) (any, error) {
		return s.Why(r.Context(), r.URL.Query().Get("path"))
	}))
}

// maxRequest bounds the body of one request: thousands of paths.
const maxRequest = 4 << 20

func readJSON(r *http.Request, to any) error {
	if err := json.NewDecoder(io.LimitReader(r.Body, maxRequest)).Decode(to); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	return nil
}
