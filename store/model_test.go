package store

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// model is the queue as its documentation says, in memory.
type model struct {
	clock    *fakeClock
	retryMax time.Duration
	items    []*modelItem // in order of arrival
	done     map[string]string
}

type modelItem struct {
	Item
	tries  int
	ready  bool
	leased bool
	token  int64
	ends   time.Duration // of the lease
	next   time.Time     // of a failed one
}

func (m *model) find(path, version string) *modelItem {
	for _, it := range m.items {
		if it.Path == path && it.Version == version {
			return it
		}
	}
	return nil
}

func (m *model) enqueue(it Item) {
	if m.done[it.Path] == it.Version {
		return
	}
	if old := m.find(it.Path, it.Version); old != nil {
		old.Checkpoint = min(old.Checkpoint, it.Checkpoint)
		old.Priority = max(old.Priority, it.Priority)
		return
	}
	m.items = append(m.items, &modelItem{Item: it, ready: true})
}

func (m *model) promote() {
	for _, it := range m.items {
		switch {
		case it.leased && it.ends <= m.clock.mono:
			it.leased, it.ready = false, true
		case !it.leased && !it.ready:
			if latest := m.clock.wall.Add(m.retryMax); it.next.After(latest) {
				it.next = latest
			}
			it.ready = !it.next.After(m.clock.wall)
		}
	}
}

// best is what a claim must give; nil when nothing is claimable.
func (m *model) best() *modelItem {
	m.promote()
	var can []*modelItem
	for _, it := range m.items {
		if it.ready && !m.pathLeased(it.Path) {
			can = append(can, it)
		}
	}
	if len(can) == 0 {
		return nil
	}
	slices.SortStableFunc(can, func(a, b *modelItem) int {
		ra, _ := a.Kind.rank()
		rb, _ := b.Kind.rank()
		return cmp.Or(cmp.Compare(a.Checkpoint, b.Checkpoint), cmp.Compare(ra, rb), -cmp.Compare(a.Priority, b.Priority))
	})
	return can[0]
}

// owned is the item that a lease still is about, or nil.
func (m *model) owned(l Lease) *modelItem {
	it := m.find(l.Item.Path, l.Item.Version)
	if it == nil || it.token != l.token || (!it.leased && !it.ready) {
		return nil
	}
	return it
}

func (m *model) pathLeased(path string) bool {
	return slices.ContainsFunc(m.items, func(it *modelItem) bool { return it.leased && it.Path == path })
}

func (m *model) remove(it *modelItem) {
	m.items = slices.DeleteFunc(m.items, func(o *modelItem) bool { return o == it })
}

func TestQueueAgainstModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			runModel(t, rand.New(rand.NewPCG(seed, 1)), 200)
		})
	}
}

func runModel(t *testing.T, rnd *rand.Rand, steps int) {
	ctx := t.Context()
	path, c := tempDB(t), newFakeClock()
	o := Options{RetryMin: time.Second, RetryInterval: time.Minute}
	s := openFake(t, path, o, c)
	m := &model{clock: c, retryMax: o.RetryInterval, done: map[string]string{}}
	var leases []Lease // also lost ones
	kinds := []Kind{KindIndex, KindData, KindDescriptor, KindManifest}
	pick := func() (Lease, *modelItem) {
		if len(leases) == 0 {
			return Lease{}, nil
		}
		l := leases[rnd.IntN(len(leases))]
		return l, m.owned(l)
	}
	// agree compares an outcome with the model's and says whether it was one.
	agree := func(it *modelItem, err error) bool {
		t.Helper()
		if it == nil {
			require.ErrorIs(t, err, ErrLeaseLost)
			return false
		}
		require.NoError(t, err)
		return true
	}
	for range steps {
		switch rnd.IntN(13) {
		case 0, 1:
			var batch []Item
			for range 1 + rnd.IntN(3) {
				it := Item{
					Path: fmt.Sprintf("p%d\xff", rnd.IntN(12)), Version: fmt.Sprint(rnd.IntN(3)), Kind: kinds[rnd.IntN(4)],
					Checkpoint: int64(rnd.IntN(4)), Size: int64(rnd.IntN(100)), Priority: rnd.IntN(3),
				}
				batch = append(batch, it)
				m.enqueue(it)
			}
			require.NoError(t, s.Queue().Enqueue(ctx, batch...))
		case 2, 3, 4:
			d := time.Duration(1+rnd.IntN(30)) * time.Second
			l, ok, err := s.Queue().Claim(ctx, "w", d)
			require.NoError(t, err)
			want := m.best()
			require.Equal(t, want != nil, ok)
			if ok {
				require.Equal(t, want.Item, l.Item)
				require.Equal(t, want.tries, l.Tries)
				want.ready, want.leased, want.token, want.ends = false, true, l.token, c.mono+d
				leases = append(leases, l)
			}
		case 5, 6:
			if l, _ := pick(); l.token != 0 {
				// Done counts also when the lease ended and the item waits.
				it := m.find(l.Item.Path, l.Item.Version)
				if it != nil && it.token != l.token {
					it = nil
				}
				if agree(it, s.Queue().Done(ctx, l, Result{ObjectPath: "o", Checksum: "c"})) {
					m.remove(it)
					m.done[it.Path] = it.Version
				}
			}
		case 7:
			if l, it := pick(); l.token != 0 && agree(it, s.Queue().Fail(ctx, l, errors.New("no"))) {
				it.leased, it.ready, it.tries = false, false, it.tries+1
				e := entryOf(t, s.Queue(), it.Item)
				require.Equal(t, ItemFailed, e.State)
				full := min(o.RetryMin<<min(l.Tries, 10), o.RetryInterval)
				require.LessOrEqual(t, e.NextTry.Sub(c.wall), full)
				require.GreaterOrEqual(t, e.NextTry.Sub(c.wall), full/2-time.Millisecond)
				it.next = e.NextTry
			}
		case 8:
			if l, it := pick(); l.token != 0 && agree(it, s.Queue().Release(ctx, l)) {
				it.leased, it.ready = false, true
			}
		case 9:
			if l, it := pick(); l.token != 0 {
				if it != nil && !it.leased && m.pathLeased(it.Path) {
					it = nil // another version was claimed meanwhile
				}
				_, err := s.Queue().Extend(ctx, l, 20*time.Second)
				if agree(it, err) {
					it.leased, it.ready, it.ends = true, false, c.mono+20*time.Second
				}
			}
		case 10:
			c.pass(time.Duration(rnd.IntN(20000)) * time.Millisecond)
		case 11:
			c.jump(time.Duration(rnd.IntN(7200)-3600) * time.Second)
		case 12: // crash
			require.NoError(t, s.Close())
			s = openFake(t, path, o, c)
			for _, it := range m.items {
				if it.leased {
					it.leased, it.ready = false, true
				}
			}
		}
		checkSums(t, s)
	}
	// Nothing is given up: all that is left can be done.
	for range len(m.items) {
		for m.best() == nil {
			claimNone(t, s.Queue())
			c.pass(time.Minute)
		}
		l := claim(t, s.Queue())
		it := m.best()
		require.Equal(t, it.Item, l.Item)
		require.NoError(t, s.MarkStored(ctx, l.Item.Path, l.Item.Version, Stored{ObjectPath: "o", Checksum: "c", State: FileStored}))
		m.remove(it)
	}
	st, err := s.Queue().Stats(ctx)
	require.NoError(t, err)
	require.Zero(t, st.Pending+st.Failed+st.Uploading)
}

func entryOf(t *testing.T, q *RetryQueue, it Item) Entry {
	t.Helper()
	for _, e := range entries(t, q, Filter{Path: it.Path}) {
		if e.Item.Version == it.Version {
			return e
		}
	}
	t.Fatalf("%+v is not in the queue", it)
	return Entry{}
}
