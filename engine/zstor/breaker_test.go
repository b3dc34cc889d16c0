package zstor

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor/zstortest"
)

// slowRig has the time limits of production; tests run in a synctest bubble.
func slowRig(t testing.TB, k, n, servers int) *rig {
	return newRig(t, k, n, servers, func(_ *Config, o *Options) { o.Timeout, o.HedgeAfter = 0, 0 })
}

func (r *rig) breaker(t testing.TB, b backend.Backend) BackendStats {
	t.Helper()
	for _, s := range r.Backends() {
		if s.Backend.ID == b.ID {
			return s
		}
	}
	t.Fatalf("no backend %s", b.ID)
	return BackendStats{}
}

// bubble runs f under synctest; the rig is closed inside.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Parallel()
	synctest.Test(t, f)
}

// One data backend that hangs, as one that was stopped does, costs one time limit;
// then stores choose others at once.
func TestHangingDataBackendIsPassedOver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := slowRig(t, 2, 3, 4)
		r.d(1).Fail(zstortest.Hang)
		began := time.Now()
		for i := range 50 {
			obj := r.mustStore(t, "/f", randomBytes(uint64(i), 1000))
			for _, s := range obj.Shards {
				assert.NotEqual(t, r.data[1].ID, s.Backend.ID)
			}
			time.Sleep(20 * time.Second) // longer than the memory of a single failure, with the next store
		}
		waited := time.Since(began) - 50*20*time.Second
		assert.Less(t, waited, 60*time.Second, "50 stores over 17 minutes wait for the dead one in all")
		assert.Equal(t, BreakerOpen, r.breaker(t, r.data[1]).Breaker)
		assert.ErrorIs(t, r.breaker(t, r.data[1]).Err, context.DeadlineExceeded)
	})
}

// With exactly n data backends a store cannot succeed: it says why, at once, and
// sends nothing.
func TestTooFewWithOpenBreaker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := slowRig(t, 2, 3, 3)
		r.d(1).Fail(zstortest.Hang)
		_, err := r.Store(t.Context(), "/f", source(randomBytes(1, 1000)))
		require.ErrorIs(t, err, backend.ErrPlacement)
		sent := r.Stats().Sent
		began := time.Now()
		for range 1000 {
			_, err = r.Store(t.Context(), "/f", source(randomBytes(1, 1000)))
			require.ErrorIs(t, err, backend.ErrPlacement)
			require.ErrorIs(t, err, ErrBreakerOpen)
			require.ErrorContains(t, err, "1 of 3 data backends do not answer")
			require.ErrorContains(t, err, "data d1 (10.0.1.1:9900")
			var silent *backend.UnreachableError
			require.ErrorAs(t, err, &silent)
		}
		assert.Less(t, time.Since(began), 2*time.Second, "a thousand pending files do not each wait")
		assert.Equal(t, sent, r.Stats().Sent, "nothing is sent in vain")

		r.d(1).Fail(zstortest.None)
		time.Sleep(breakerLongest)
		r.mustStore(t, "/f", randomBytes(1, 1000))
	})
}

// A metadata backend whose breaker is open counts as one that does not answer: the
// store is degraded, and nothing is read as absent.
func TestOpenMetadataBreakerIsDegraded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := slowRig(t, 2, 3, 3)
		before := r.mustStore(t, "/before", []byte("before"))
		require.False(t, before.Degraded)
		r.m(2).Fail(zstortest.Hang)
		for i := range 20 {
			obj := r.mustStore(t, "/f", randomBytes(uint64(i), 100))
			require.True(t, obj.Degraded)
			require.Equal(t, 3, obj.MetaHolders)
		}
		require.Equal(t, BreakerOpen, r.breaker(t, r.meta[2]).Breaker)
		began := time.Now()
		for i := range 20 {
			r.mustStore(t, "/f", randomBytes(uint64(i), 100))
			r.mustGet(t, "/before", []byte("before"))
		}
		assert.Less(t, time.Since(began), 2*time.Second)

		// With two more away nothing is known, and that is no ErrNotFound.
		r.m(0).Fail(zstortest.Hang)
		r.m(1).Fail(zstortest.Hang)
		for range 5 {
			_, err := r.Lookup(t.Context(), "/never")
			var silent *UnavailableError
			require.ErrorAs(t, err, &silent)
			require.NotErrorIs(t, err, ErrNotFound)
		}
		rep, err := r.Verify(t.Context(), "/before", VerifyOptions{})
		require.Error(t, err)
		require.Empty(t, rep.Shards)
	})
}

// The time for which a breaker is open grows to a minute; in between one probe at a
// time asks, however many operations come.
func TestBreakerGrowsAndProbesOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		net := zstortest.New()
		data, _ := net.Make(1, 1)
		probes := &counting{Net: net}
		c := newConnections(probes, 30*time.Second, 500*time.Millisecond, slog.New(slog.DiscardHandler))
		defer func() { assert.NoError(t, c.close()) }()
		net.At(data[0]).Fail(zstortest.Down)
		get := func() error {
			return c.use(t.Context(), data[0], func(ctx context.Context, k backend.Conn) error {
				_, err := k.Get(ctx, []byte("x"))
				return err
			})
		}
		for i := range breakerFailures {
			assert.False(t, c.isOpen(data[0]), i)
			require.Error(t, get())
			require.Error(t, get(), "the same moment counts once")
			time.Sleep(600 * time.Millisecond)
		}
		require.True(t, c.isOpen(data[0]))
		var gaps []time.Duration
		last := time.Now()
		for range 4000 { // 10 minutes, ten at a time
			before := probes.infos()
			var asking sync.WaitGroup
			for range 10 {
				asking.Go(func() { assert.ErrorIs(t, get(), ErrBreakerOpen) })
			}
			asking.Wait()
			if n := probes.infos() - before; n > 0 {
				assert.Equal(t, 1, n, "one probe")
				gaps = append(gaps, time.Since(last))
				last = time.Now()
			}
			time.Sleep(150 * time.Millisecond)
		}
		require.Greater(t, len(gaps), 10)
		assert.Less(t, gaps[0], 2*time.Second)
		for _, g := range gaps[8:] {
			assert.GreaterOrEqual(t, g, breakerLongest/2)
			assert.LessOrEqual(t, g, breakerLongest+time.Second)
		}
		assert.Less(t, len(gaps), 25)

		// It comes back: the next probe finds out, and who waits for it goes on.
		net.At(data[0]).Fail(zstortest.None)
		time.Sleep(breakerLongest)
		require.ErrorIs(t, get(), backend.ErrNotFound)
		assert.False(t, c.isOpen(data[0]))
		assert.Zero(t, c.backendStats(data)[0].Failures)
	})
}

// Somebody else's success closes a breaker at once; once only, where the backend
// then still does not answer.
func TestReachableClosesAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := slowRig(t, 2, 3, 3)
		r.d(0).Fail(zstortest.Hang)
		_, err := r.Store(t.Context(), "/f", source([]byte("x")))
		require.Error(t, err)
		require.Equal(t, BreakerOpen, r.breaker(t, r.data[0]).Breaker)

		r.Reachable(r.data[0]) // it is wrong
		require.Equal(t, BreakerClosed, r.breaker(t, r.data[0]).Breaker)
		_, err = r.Store(t.Context(), "/f", source([]byte("x")))
		require.Error(t, err)
		require.Equal(t, BreakerOpen, r.breaker(t, r.data[0]).Breaker)
		r.Reachable(r.data[0])
		require.Equal(t, BreakerOpen, r.breaker(t, r.data[0]).Breaker, "it was wrong a moment ago")

		r.d(0).Fail(zstortest.None)
		time.Sleep(breakerLongest)
		r.mustStore(t, "/f", []byte("x"))
		r.d(0).Fail(zstortest.Hang)
		_, err = r.Store(t.Context(), "/f", source([]byte("y")))
		require.Error(t, err)
		r.d(0).Fail(zstortest.None)
		r.Reachable(r.data[0])
		r.mustStore(t, "/f", []byte("y"))
	})
}

// A caller that gives up says nothing of the backend.
func TestCancelledOperationsDoNotOpen(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := slowRig(t, 2, 3, 3)
		r.d(0).Fail(zstortest.Hang)
		for range 10 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := r.Store(ctx, "/f", source([]byte("x")))
			cancel()
			require.True(t, errors.Is(err, context.DeadlineExceeded), err)
		}
		assert.Equal(t, BreakerClosed, r.breaker(t, r.data[0]).Breaker)
	})
}

// One metadata backend that hangs does not keep whole records: claims and heads.
func TestRecordsDoNotWaitForOne(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := slowRig(t, 2, 3, 3)
		cfg := r.Config()
		key := cfg.RecordKey("head/1")
		r.m(1).Fail(zstortest.Hang)
		began := time.Now()
		acks, err := r.PutRecord(t.Context(), key, []byte("v"))
		require.Error(t, err)
		require.Equal(t, 3, acks)
		a, err := r.GetRecord(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, 3, a.Values())
		require.Equal(t, NoAnswer, a[1].State)
		assert.Less(t, time.Since(began), 5*time.Second)
	})
}

// counting counts probes.
type counting struct {
	*zstortest.Net
	mu sync.Mutex
	n  int
}

func (c *counting) infos() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

func (c *counting) Dial(ctx context.Context, b backend.Backend) (backend.Conn, error) {
	k, err := c.Net.Dial(ctx, b)
	return &countingConn{k, c}, err
}

type countingConn struct {
	backend.Conn
	c *counting
}

func (k *countingConn) Info(ctx context.Context) (backend.NamespaceInfo, error) {
	k.c.mu.Lock()
	k.c.n++
	k.c.mu.Unlock()
	return k.Conn.Info(ctx)
}
