package epoch

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fourBackends keeps records in memory, on four backends of which some may be
// down or sealed with another key.
type fourBackends struct {
	mu     sync.Mutex
	values [4]map[string][]byte
	down   [4]bool
	broken bool
	before func(key string) // called before each write
}

func (m *fourBackends) Put(_ context.Context, key string, value []byte) (int, error) {
	if m.before != nil {
		m.before(key)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	acks := 0
	for i := range m.values {
		if m.down[i] {
			continue
		}
		if m.values[i] == nil {
			m.values[i] = map[string][]byte{}
		}
		m.values[i][key] = value
		acks++
	}
	return acks, nil
}

func (m *fourBackends) Get(_ context.Context, key string) (Answers, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var a Answers
	for i := range m.values {
		v, ok := m.values[i][key]
		switch {
		case m.down[i]:
			a.Silent++
		case !ok:
			a.Absent++
		case m.broken:
			a.Broken++
		default:
			a.Values = append(a.Values, v)
		}
	}
	return a, nil
}

func newTestEpochs(m *fourBackends) *Records {
	return New(m, "p", "here")
}

func quiet(_, _ time.Duration) {}

func TestTakeNumbersAndHolds(t *testing.T) {
	t.Parallel()
	m := &fourBackends{}
	e := newTestEpochs(m)
	first, err := e.Take(t.Context(), time.Millisecond, false, quiet)
	require.NoError(t, err)
	assert.EqualValues(t, 1, first.Epoch)

	f := NewFence(e, *first)
	f.id.Lease = time.Hour
	require.NoError(t, f.Renew(t.Context()))
	_, cancel, err := f.Hold(t.Context())
	require.NoError(t, err)
	cancel()

	second, err := e.Take(t.Context(), time.Millisecond, true, quiet)
	require.NoError(t, err)
	assert.EqualValues(t, 2, second.Epoch)
	require.ErrorIs(t, f.Renew(t.Context()), ErrFenced)
	_, _, err = f.Hold(t.Context())
	require.ErrorIs(t, err, ErrFenced, "also while the lease would last")
	select {
	case <-f.lost:
	default:
		t.Fatal("nobody was told")
	}
}

func TestTakeRefusesOneThatLives(t *testing.T) {
	t.Parallel()
	m := &fourBackends{}
	e := newTestEpochs(m)
	id, err := e.Take(t.Context(), time.Hour, false, quiet)
	require.NoError(t, err)
	require.NoError(t, NewFence(e, *id).Sign(t.Context()))
	var held *HeldError
	_, err = e.Take(t.Context(), time.Hour, false, quiet)
	require.ErrorAs(t, err, &held)
	assert.EqualValues(t, 1, held.Epoch)
}

// Three of four are needed to claim and to know that nobody else has.
func TestQuorum(t *testing.T) {
	t.Parallel()
	for down := range 5 {
		m := &fourBackends{}
		e := newTestEpochs(m)
		for i := range down {
			m.down[i] = true
		}
		_, err := e.Take(t.Context(), time.Millisecond, false, quiet)
		if down <= 1 {
			require.NoError(t, err, "%d down", down)
			continue
		}
		var quorum *QuorumError
		require.ErrorAs(t, err, &quorum, "%d down", down)
		assert.NotEmpty(t, quorum.Hint())
	}
}

// Nobody who has another key takes what is there for nothing.
func TestWrongKeyIsNoAbsence(t *testing.T) {
	t.Parallel()
	m := &fourBackends{}
	e := newTestEpochs(m)
	_, err := e.Take(t.Context(), time.Millisecond, false, quiet)
	require.NoError(t, err)
	m.broken = true
	_, err = e.Take(t.Context(), time.Millisecond, true, quiet)
	require.ErrorIs(t, err, ErrWrongKey)
}

// The last word stays the last: a sign of life that was under way when the
// frontend ended must not overwrite that it has. It did, and whoever restored
// after a clean stop was told that the old frontend lives.
func TestReleaseIsTheLastWord(t *testing.T) {
	t.Parallel()
	m := &fourBackends{}
	e := newTestEpochs(m)
	id, err := e.Take(t.Context(), time.Hour, false, quiet)
	require.NoError(t, err)
	f := NewFence(e, *id)
	require.NoError(t, f.Renew(t.Context()))

	writing, proceed := make(chan struct{}), make(chan struct{})
	var once sync.Once
	m.before = func(string) {
		once.Do(func() {
			close(writing)
			<-proceed
		})
	}
	signed, released := make(chan error, 1), make(chan error, 1)
	go func() { signed <- f.Sign(t.Context()) }()
	<-writing
	go func() { released <- f.Release(t.Context()) }()
	close(proceed)
	require.NoError(t, <-signed)
	require.NoError(t, <-released)
	require.ErrorIs(t, f.Sign(t.Context()), ErrReleased)
	_, _, err = f.Hold(t.Context())
	require.True(t, errors.Is(err, ErrReleased), "nothing is written after it")

	next, err := e.Take(t.Context(), time.Hour, false, quiet) // without a wait of an hour
	require.NoError(t, err)
	assert.EqualValues(t, 2, next.Epoch)
}
