// Package treetest has records in memory that fail and crash on demand, and
// the tests that every implementation of tree.Records has to pass.
//
//	m := treetest.New()             // give it to tree.Open as Meta or Data
//	m.SetFail(func(ctx context.Context, op treetest.Op) error { … })
//	m = m.Crash(keep)               // what a new process finds
//	treetest.Conformance(t, open)   // for an implementation of one's own
package treetest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/threefoldtech/quantumd/backend"
)

// Op is a call to records, for Memory.SetFail.
type Op struct {
	Call string // get, insert, update, delete, sync
	ID   uint64 // of get, update, delete
	Size int    // of the value
}

// Memory is a namespace in sequential mode, in memory. As in zdb an update
// uses up a number, and a deletion does not.
type Memory struct {
	// Limit is the most bytes of live values; zero: no limit.
	Limit int64

	mu     sync.Mutex
	fail   func(ctx context.Context, op Op) error
	next   uint64
	values map[uint64][]byte
	used   int64
	base   map[uint64][]byte // as of the last sync
	first  uint64            // next, as of the last sync
	log    []entry           // since the last sync
	calls  map[string]int
}

type entry struct {
	call  string
	id    uint64
	value []byte
}

// New makes an empty namespace.
func New() *Memory {
	return &Memory{values: map[uint64][]byte{}, base: map[uint64][]byte{}, calls: map[string]int{}}
}

const maxValue = 8 << 20

func (m *Memory) before(ctx context.Context, op Op) error {
	m.mu.Lock()
	m.calls[op.Call]++
	fail := m.fail
	m.mu.Unlock()
	if op.Size > maxValue {
		return fmt.Errorf("treetest: value of %d bytes", op.Size)
	}
	if fail != nil {
		return fail(ctx, op)
	}
	return nil
}

// SetFail has fail asked before each call: it may fail the call, or wait. Nil
// ends that.
func (m *Memory) SetFail(fail func(ctx context.Context, op Op) error) {
	m.mu.Lock()
	m.fail = fail
	m.mu.Unlock()
}

// Get implements tree.Records.
func (m *Memory) Get(ctx context.Context, id uint64) ([]byte, error) {
	if err := m.before(ctx, Op{Call: "get", ID: id}); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.values[id]
	if !ok {
		return nil, fmt.Errorf("treetest: record %d: %w", id, backend.ErrNotFound)
	}
	return bytes.Clone(v), nil
}

// Exists says whether a record is there.
func (m *Memory) Exists(_ context.Context, id uint64) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.values[id]
	return ok, nil
}

// Insert implements tree.Records.
func (m *Memory) Insert(ctx context.Context, value []byte) (uint64, error) {
	if err := m.before(ctx, Op{Call: "insert", Size: len(value)}); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Limit > 0 && m.used+int64(len(value)) > m.Limit {
		return 0, backend.ErrFull
	}
	id := m.next
	m.applyLocked(entry{"insert", id, bytes.Clone(value)})
	return id, nil
}

// Update implements tree.Records.
func (m *Memory) Update(ctx context.Context, id uint64, value []byte) error {
	if err := m.before(ctx, Op{"update", id, len(value)}); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old, ok := m.values[id]
	if !ok {
		return fmt.Errorf("treetest: record %d: %w", id, backend.ErrNotFound)
	}
	if bytes.Equal(old, value) {
		return nil
	}
	if m.Limit > 0 && m.used+int64(len(value)-len(old)) > m.Limit {
		return backend.ErrFull
	}
	m.applyLocked(entry{"update", id, bytes.Clone(value)})
	return nil
}

// Delete implements tree.Records.
func (m *Memory) Delete(ctx context.Context, id uint64) error {
	if err := m.before(ctx, Op{Call: "delete", ID: id}); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.values[id]; !ok {
		return fmt.Errorf("treetest: record %d: %w", id, backend.ErrNotFound)
	}
	m.applyLocked(entry{"delete", id, nil})
	return nil
}

func (m *Memory) applyLocked(e entry) {
	m.log = append(m.log, e)
	m.used += int64(len(e.value) - len(m.values[e.id]))
	replay(m.values, &m.next, e)
}

func replay(values map[uint64][]byte, next *uint64, e entry) {
	switch e.call {
	case "insert":
		values[e.id] = e.value
		*next++
	case "update":
		values[e.id] = e.value
		*next++
	case "delete":
		delete(values, e.id)
	}
}

// Sync implements tree.Records.
func (m *Memory) Sync(ctx context.Context) error {
	if err := m.before(ctx, Op{Call: "sync"}); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.log {
		replay(m.base, &m.first, e)
	}
	m.log = nil
	return nil
}

// Stats implements tree.Records.
func (m *Memory) Stats() (entries, used, limit int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int64(len(m.values)), m.used, m.Limit
}

// Unsynced is the number of operations since the last sync.
func (m *Memory) Unsynced() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.log)
}

// Calls counts the calls of one kind so far.
func (m *Memory) Calls(call string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls[call]
}

// EachID implements tree.Lister.
func (m *Memory) EachID(_ context.Context, fn func(id uint64) error) error {
	m.mu.Lock()
	ids := slices.Sorted(maps.Keys(m.values))
	m.mu.Unlock()
	for _, id := range ids {
		if err := fn(id); err != nil {
			return err
		}
	}
	return nil
}

// Crash returns what is found after a crash that kept the first keep of the
// operations since the last sync. m itself stays.
func (m *Memory) Crash(keep int) *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.crashLocked(keep)
}

// CrashBoth crashes two namespaces at one moment. keep chooses how many of n
// operations since the last sync are kept, 0 to n.
func CrashBoth(meta, data *Memory, keep func(n int) int) (afterMeta, afterData *Memory) {
	meta.mu.Lock()
	defer meta.mu.Unlock()
	data.mu.Lock()
	defer data.mu.Unlock()
	return meta.crashLocked(keep(len(meta.log))), data.crashLocked(keep(len(data.log)))
}

func (m *Memory) crashLocked(keep int) *Memory {
	out := New()
	out.Limit, out.values, out.next = m.Limit, maps.Clone(m.base), m.first
	for _, e := range m.log[:min(keep, len(m.log))] {
		replay(out.values, &out.next, e)
	}
	for _, v := range out.values {
		out.used += int64(len(v))
	}
	out.base, out.first = maps.Clone(out.values), out.next
	return out
}

// Load makes a namespace of given records. next is the number of the next one.
func Load(values map[uint64][]byte, next uint64) *Memory {
	m := New()
	m.values, m.next = maps.Clone(values), next
	for _, v := range values {
		m.used += int64(len(v))
	}
	m.base, m.first = maps.Clone(values), next
	return m
}
