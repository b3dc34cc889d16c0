package qsfs

import (
	"container/heap"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/internal/boottime"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/store"
)

// A scrub has the backends verify every shard on their side; a deep one reads
// and decodes them all, and local copies too. It goes on where it ended: how far
// it is stands in SQLite. One runs every scrub_interval, a deep one of a few
// random objects every day; both repair. One that a person asks for goes first.

// scrubKind tells apart what runs one beside the other's progress.
type scrubKind string

const (
	scrubAsked   scrubKind = "asked"
	scrubWhole   scrubKind = "whole"
	scrubNightly scrubKind = "nightly"
)

const (
	nightlyEvery  = 24 * time.Hour
	nightlySample = 32 // objects that are read deep each day

	// What an automatic scrub takes of the backends at most, unless it would not be
	// done in half of its interval; one that a person waits for takes eight times
	// as much.
	scrubBytes   = 32 << 20 // of shards, per second
	scrubObjects = 50       // per second
	askedFaster  = 8
	// scrubYield is how long each object waits for uploads to be done.
	scrubYield   = 2 * time.Second
	scrubWorkers = 4
	// scrubSave is how often the place where it is gets written down.
	scrubSave = 5 * time.Second
)

// scrubState is how far a scrub is; it is kept in SQLite.
type scrubState struct {
	Request client.ScrubRequest `json:"request"`
	Report  client.ScrubReport  `json:"report"`
	Cursor  string              `json:"cursor"`  // the last file that is done; empty: the manifests are next
	Heads   bool                `json:"heads"`   // records and manifests are done
	Seed    uint64              `json:"seed"`    // of the sample
	Rewrite []string            `json:"rewrite"` // files that cannot be repaired in place: a new checkpoint mends them
	Due     time.Time           `json:"due"`     // of the next one, when this one is done
}

func (st *scrubState) active() bool { return st.Report.Running }

// scrubber runs scrubs, one at a time.
type scrubber struct {
	sys *System
	log *slog.Logger

	mu     sync.Mutex
	states map[scrubKind]*scrubState // copies of what SQLite has
	shown  scrubKind                 // the one that runs, or ran last
	wake   *signal
	ended  *signal // told after each end
	stop   context.CancelFunc
}

func newScrubber(s *System) *scrubber {
	return &scrubber{sys: s, log: s.log.With("component", "scrub"), states: map[scrubKind]*scrubState{}, wake: newSignal(), ended: newSignal()}
}

func scrubKey(k scrubKind) string { return "scrub/" + string(k) }

// load reads what an earlier life left.
func (b *scrubber) load(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range []scrubKind{scrubWhole, scrubNightly, scrubAsked} {
		text, err := b.sys.store.GetState(ctx, scrubKey(k))
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		st := new(scrubState)
		if err := json.Unmarshal(text, st); err != nil {
			b.log.Warn("how far a scrub was is not readable; it begins anew", "kind", k, "err", err)
			continue
		}
		b.states[k] = st
		if shown := b.states[b.shown]; k != scrubNightly && (shown == nil || st.Report.Started.After(shown.Report.Started)) {
			b.shown = k
		}
	}
	return nil
}

func (b *scrubber) save(ctx context.Context, k scrubKind) {
	b.mu.Lock()
	st := b.states[k]
	text, err := json.Marshal(st)
	b.mu.Unlock()
	if err == nil {
		err = b.sys.store.SetState(context.WithoutCancel(ctx), scrubKey(k), text)
	}
	if err != nil {
		b.log.Warn("how far the scrub is could not be recorded", "err", err)
	}
}

// report gives the scrub that runs, else the last one; nil when none ever ran.
func (b *scrubber) report() *client.ScrubReport {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := b.states[b.shown]
	if st == nil || st.Report.Started.IsZero() {
		return nil
	}
	return st.copyReport()
}

func (st *scrubState) copyReport() *client.ScrubReport {
	r := st.Report
	r.Damage = append([]client.Damage{}, r.Damage...)
	return &r
}

// jittered gives a time within a tenth of d, so that many systems do not scrub at
// the same moment.
func jittered(d time.Duration) time.Duration { return d - d/10 + rand.N(d/5+1) }

func (b *scrubber) every(k scrubKind) time.Duration {
	whole := b.sys.settings().ScrubInterval.Std()
	if k == scrubNightly && whole != 0 {
		return nightlyEvery
	}
	return whole
}

// next gives what is to be run now, or how long there is nothing. A first
// automatic one comes after a full interval: what was just stored was verified.
func (b *scrubber) next() (kind scrubKind, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if st := b.states[scrubAsked]; st != nil && st.active() {
		return scrubAsked, 0
	}
	wait = time.Hour
	for _, k := range []scrubKind{scrubWhole, scrubNightly} {
		every := b.every(k)
		if every == 0 {
			continue // switched off
		}
		st := b.states[k]
		if st == nil {
			st = &scrubState{Due: time.Now().Add(jittered(every))}
			b.states[k] = st
		}
		if st.active() {
			return k, 0
		}
		left := time.Until(st.Due)
		if left > 2*every { // the clock was elsewhere when it was written
			st.Due = time.Now().Add(every)
			left = every
		}
		if left <= 0 {
			*st = scrubState{Request: client.ScrubRequest{Repair: true}}
			if k == scrubNightly {
				st.Request.Deep, st.Request.Sample = true, nightlySample
			}
			st.begin()
			return k, 0
		}
		wait = min(wait, left)
	}
	return "", wait
}

func (st *scrubState) begin() {
	st.Seed = rand.Uint64()
	st.Report = client.ScrubReport{Schema: client.SchemaVersion, Deep: st.Request.Deep, Started: time.Now().UTC(), Running: true, Damage: []client.Damage{}}
}

// run scrubs whenever it is time, until ctx ends.
func (b *scrubber) run(ctx context.Context) {
	for ctx.Err() == nil {
		woken := b.wake.next()
		kind, pause := b.next()
		if kind == "" {
			b.saveNew(ctx)
			select {
			case <-ctx.Done():
			case <-woken:
			case <-time.After(pause):
			}
			continue
		}
		if err := b.scrub(ctx, kind); err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
			b.log.Warn("the scrub pauses", "err", err)
			b.note(kind, err)
			select {
			case <-ctx.Done():
			case <-woken:
			case <-time.After(jittered(time.Minute)):
			}
		}
	}
}

// saveNew keeps the times of first scrubs: a system that is restarted often is
// scrubbed too.
func (b *scrubber) saveNew(ctx context.Context) {
	b.mu.Lock()
	var fresh []scrubKind
	for k, st := range b.states {
		if st.Report.Started.IsZero() {
			fresh = append(fresh, k)
		}
	}
	b.mu.Unlock()
	for _, k := range fresh {
		if _, err := b.sys.store.GetState(ctx, scrubKey(k)); errors.Is(err, store.ErrNotFound) {
			b.save(ctx, k)
		}
	}
}

// note keeps why a scrub does not go on.
func (b *scrubber) note(k scrubKind, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if st := b.states[k]; st != nil {
		st.Report.Error = err.Error()
	}
	b.ended.tell()
}

// ask begins a scrub that somebody asked for; one of the same kind that runs
// already is joined.
func (b *scrubber) ask(r client.ScrubRequest) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if st := b.states[scrubAsked]; st != nil && st.active() {
		if st.Request != r {
			return &ScrubRunsError{Done: st.Report.Objects, Total: st.Report.Total}
		}
		st.Report.Error = ""
	} else {
		st := &scrubState{Request: r}
		st.begin()
		b.states[scrubAsked] = st
	}
	if b.stop != nil && b.shown != scrubAsked {
		b.stop() // an automatic one waits meanwhile
	}
	b.wake.tell()
	return nil
}

// ScrubRunsError says that a scrub with other options runs.
type ScrubRunsError struct{ Done, Total int64 }

func (e *ScrubRunsError) Error() string {
	return fmt.Sprintf("a scrub with other options runs already: %d of about %d objects are done", e.Done, e.Total)
}

// Hint names the remedy.
func (e *ScrubRunsError) Hint() string {
	return "wait for its end: `quantumd status` shows how far it is"
}

// Scrub has the backends verify the shards of every object, or of a sample, and
// returns when that is done; with Deep everything is read and decoded, local
// files too; with Repair what is missing or damaged is made anew. When the caller
// gives up it goes on, also after a restart.
func (s *System) Scrub(ctx context.Context, r client.ScrubRequest) (*client.ScrubReport, error) {
	if err := s.serving(); err != nil {
		return nil, err
	}
	if r.Sample < 0 || r.Sample > maxSample {
		return nil, fmt.Errorf("scrub: a sample of %d objects: want at most %d", r.Sample, maxSample)
	}
	if r.Repair {
		if err := s.fence.Fenced(); err != nil {
			return nil, err
		}
	}
	b := s.scrubs
	if err := b.ask(r); err != nil {
		return nil, err
	}
	for {
		ended := b.ended.next()
		b.mu.Lock()
		report := b.states[scrubAsked].copyReport()
		b.mu.Unlock()
		if !report.Running {
			return report, nil
		}
		if report.Error != "" {
			return report, fmt.Errorf("scrub: %s; it goes on when that is over", report.Error)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-ended:
		}
	}
}

// scrub runs one to its end, or until it has to pause.
func (b *scrubber) scrub(ctx context.Context, k scrubKind) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	b.mu.Lock()
	st := b.states[k]
	b.stop, b.shown = cancel, k
	st.Report.Error = ""
	if asked := b.states[scrubAsked]; k != scrubAsked && asked != nil && asked.active() {
		cancel() // it was asked for in this moment
	}
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.stop = nil
		b.mu.Unlock()
		b.save(ctx, k)
		b.ended.tell()
		b.sys.changed.tell()
	}()
	b.save(ctx, k)
	r := &scrubRun{b: b, sys: b.sys, kind: k, st: st, began: boottime.Now(), before: st.Report.Seconds, saved: boottime.Now()}
	r.pace = b.pace(k, st.Request)
	if err := r.run(ctx); err != nil {
		return err
	}
	b.mu.Lock()
	st.Report.Running, st.Cursor, st.Heads = false, "", false
	st.Due = time.Now().Add(jittered(max(b.every(k), time.Minute)))
	report := st.copyReport()
	b.mu.Unlock()
	b.tell(ctx, k, report)
	return nil
}

// tell records the end of a scrub for people: of those that found something, or
// that a person asked for.
func (b *scrubber) tell(ctx context.Context, k scrubKind, r *client.ScrubReport) {
	b.log.Info("scrub done", "kind", k, "objects", r.Objects, "damaged", r.Damaged, "repaired", r.Repaired, "lost", r.Lost, "unknown", r.Unknown)
	if k == scrubNightly && r.Damaged+r.Lost == 0 {
		return
	}
	b.sys.happened(ctx, eventScrub, "", "%d objects looked at: %d good, %d damaged, %d of them repaired, %d lost, %d not known",
		r.Objects, r.Good, r.Damaged, r.Repaired, r.Lost, r.Unknown)
}

// pacer keeps a scrub below what it may take of the backends.
type pacer struct {
	bytes, objects float64 // per second
	next           time.Duration
}

func (b *scrubber) pace(k scrubKind, r client.ScrubRequest) *pacer {
	p := &pacer{bytes: scrubBytes, objects: scrubObjects}
	if k == scrubAsked {
		p.bytes, p.objects = p.bytes*askedFaster, p.objects*askedFaster
	}
	if every := b.every(k); every > 0 && r.Sample == 0 {
		count := float64(b.sys.objectCount())
		p.objects = max(p.objects, count/(every.Seconds()/2))
		n, k := float64(b.sys.cfg.ExpectedShards), float64(b.sys.cfg.MinShards)
		p.bytes = max(p.bytes, count*float64(b.sys.cfg.ZdbDataSize)*n/k/(every.Seconds()/2))
	}
	return p
}

// took accounts for what one object took, and gives how long the next one waits.
func (p *pacer) took(bytes int64) {
	now := boottime.Now()
	p.next = max(p.next, now) + time.Duration(max(1/p.objects, float64(bytes)/p.bytes)*float64(time.Second))
}

// maxSample bounds the memory of a sample.
const maxSample = 100_000

// sample gives so many files, evenly chosen by a seed, in order of paths.
func (s *System) sample(ctx context.Context, n int, seed uint64) (map[string]bool, error) {
	h := &sampleHeap{}
	for f, err := range s.store.Files(ctx, store.FileFilter{}) {
		if err != nil {
			return nil, err
		}
		sum := fnv.New64a()
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], seed)
		_, _ = sum.Write(b[:])
		_, _ = sum.Write([]byte(f.Path)) // hash.Hash: never fails
		heap.Push(h, sampled{mix(sum.Sum64()), f.Path})
		if h.Len() > n {
			heap.Pop(h)
		}
	}
	out := make(map[string]bool, h.Len())
	for _, v := range *h {
		out[v.path] = true
	}
	return out, nil
}

// mix spreads a hash whose last bytes decide little (splitmix64's finish).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

type sampled struct {
	rank uint64
	path string
}

// sampleHeap has the highest rank first: what is pushed out keeps the lowest.
type sampleHeap []sampled

func (h sampleHeap) Len() int           { return len(h) }
func (h sampleHeap) Less(i, j int) bool { return h[i].rank > h[j].rank }
func (h sampleHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *sampleHeap) Push(v any)        { *h = append(*h, v.(sampled)) }
func (h *sampleHeap) Pop() any {
	old := *h
	v := old[len(old)-1]
	*h = old[:len(old)-1]
	return v
}

// chosen leaves out of seq what is not in the sample; nil: nothing.
func chosen(seq iter.Seq2[target, error], sample map[string]bool) iter.Seq2[target, error] {
	if sample == nil {
		return seq
	}
	return func(yield func(target, error) bool) {
		for t, err := range seq {
			if (err != nil || sample[t.path]) && !yield(t, err) {
				return
			}
		}
	}
}

func checksumOf(sum [16]byte) string { return hex.EncodeToString(sum[:]) }

// scrubStatus tells of the scrub that runs, or ran last.
func (s *System) scrubStatus(st *client.Status) {
	r := s.scrubs.report()
	if st.Scrub = r; r == nil {
		return
	}
	if (r.Lost > 0 || r.Damaged > r.Repaired) && st.State == client.StateOK {
		st.State = client.StateDegraded
	}
	if r.Lost > 0 {
		statusNote(st, "the last scrub found %d objects lost (`quantumd check` lists them)", r.Lost)
	}
	if n := r.Damaged - r.Repaired; n > 0 {
		statusNote(st, "the last scrub found %d damaged objects that are not repaired (`quantumd scrub --repair` does)", n)
	}
	if r.Running && r.Error != "" {
		statusNote(st, "the scrub pauses: %s", r.Error)
	}
}
