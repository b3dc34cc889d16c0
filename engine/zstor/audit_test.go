package zstor

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/engine/zstor/zstortest"
)

// An audit trusts nobody's word: a backend that answers with other bytes than it
// was sent is found although it says that its checksum is right.
func TestAuditFindsALiar(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, 4, 6)
	content := randomBytes(3, 5<<20)
	obj := r.mustStore(t, "/f", content)
	liar := r.net.At(obj.Shards[1].Backend)
	liar.Fail(zstortest.Lie)
	rep, err := r.Verify(t.Context(), "/f", VerifyOptions{Deep: true})
	require.NoError(t, err)
	require.True(t, rep.Healthy(), "it says that all is well")

	rep, err = r.Audit(t.Context(), "/f")
	require.NoError(t, err)
	assert.Equal(t, Damaged, rep.Shards[1].State)
	assert.Equal(t, 3, rep.GoodShards())
	require.ErrorIs(t, rep.Shards[1].Err, ErrDamaged)

	liar.Fail(zstortest.None)
	sent := r.Stats().Sent
	rep, err = r.Rebuild(t.Context(), "/f", RebuildOptions{Bad: []int{1}})
	require.NoError(t, err)
	assert.Equal(t, []int{1}, rep.Rebuilt)
	assert.EqualValues(t, obj.Shards[1].Length, r.Stats().Sent-sent)
	for _, i := range []int{0, 2, 3} {
		assert.Equal(t, obj.Shards[i], rep.Object.Shards[i], "good shards stay")
	}
	rep, err = r.Audit(t.Context(), "/f")
	require.NoError(t, err)
	assert.True(t, rep.Healthy())
	r.mustGet(t, "/f", content)
}

func TestAuditOfWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, 3, 3)
	_, err := r.Audit(t.Context(), "/f")
	require.ErrorIs(t, err, ErrNotFound)
	obj := r.mustStore(t, "/f", randomBytes(3, 3000))
	for _, s := range obj.Shards[:2] {
		r.net.At(s.Backend).Drop(s.Keys[0])
	}
	rep, err := r.Audit(t.Context(), "/f")
	require.NoError(t, err)
	assert.False(t, rep.Readable())
	assert.Equal(t, Missing, rep.Shards[0].State)
}

// A rebuild that leaves shards which may come back alone makes only those anew
// that are known to be gone, and keeps the others in the record.
func TestRebuildLeavesUnreachable(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, 4, 6)
	content := randomBytes(3, 3<<20)
	obj := r.mustStore(t, "/f", content)
	away, gone := obj.Shards[0], obj.Shards[2]
	r.net.At(away.Backend).Fail(zstortest.Down)
	r.net.At(gone.Backend).Clear()
	rep, err := r.Rebuild(t.Context(), "/f", RebuildOptions{LeaveUnreachable: true})
	require.NoError(t, err)
	assert.Equal(t, []int{2}, rep.Rebuilt)
	assert.Equal(t, away.Keys, rep.Object.Shards[0].Keys)
	assert.Equal(t, Unreachable, rep.Shards[0].State)

	// Only what may come back is missing: nothing is written.
	sent := r.Stats().Sent
	rep, err = r.Rebuild(t.Context(), "/f", RebuildOptions{LeaveUnreachable: true})
	require.NoError(t, err)
	assert.Empty(t, rep.Rebuilt)
	assert.False(t, rep.MetaWritten)
	assert.Equal(t, sent, r.Stats().Sent)

	r.net.At(away.Backend).Fail(zstortest.None)
	r.Reachable(away.Backend)
	rep, err = r.Verify(t.Context(), "/f", VerifyOptions{Deep: true})
	require.NoError(t, err)
	assert.True(t, rep.Healthy(), "it came back with what it held")
	r.mustGet(t, "/f", content)
}

// A look at a record asks no data backend, and tells which metadata backend lacks
// it.
func TestVerifyRecord(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, 3, 3)
	obj := r.mustStore(t, "/f", randomBytes(3, 3000))
	for i := range r.data {
		r.d(i).Fail(zstortest.Down)
	}
	rep, err := r.VerifyRecord(t.Context(), "/f")
	require.NoError(t, err)
	assert.Equal(t, 4, rep.Object.MetaHolders)
	require.Len(t, rep.Shards, 3)
	assert.Equal(t, NotAsked, rep.Shards[0].State)
	assert.Zero(t, rep.GoodShards())
	r.m(3).Drop([]byte(obj.Key))
	rep, err = r.VerifyRecord(t.Context(), "/f")
	require.NoError(t, err)
	assert.Equal(t, Missing, rep.Meta[3].State)
	assert.True(t, rep.Object.Degraded)
}
