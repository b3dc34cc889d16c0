package zstor

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor/record"
	"github.com/threefoldtech/quantumd/engine/zstor/seal"
	"github.com/threefoldtech/quantumd/engine/zstor/zstortest"
)

// rig is an engine over servers in memory.
type rig struct {
	*Engine
	net        *zstortest.Net
	data, meta []backend.Backend
}

func (r *rig) d(i int) *zstortest.Server { return r.net.At(r.data[i]) }
func (r *rig) m(i int) *zstortest.Server { return r.net.At(r.meta[i]) }

func testConfig(data, meta []backend.Backend, k, n int) Config {
	return Config{MinimalShards: k, ExpectedShards: n, Data: data, Meta: meta, Prefix: "test", Key: seal.Key{1, 2, 3}}
}

func newRig(t testing.TB, k, n, servers int, change ...func(*Config, *Options)) *rig {
	t.Helper()
	r := &rig{net: zstortest.New()}
	r.data, r.meta = r.net.Make(servers, min(servers, 3))
	cfg := testConfig(r.data, r.meta, k, n)
	opts := Options{Dialer: r.net, TempDir: t.TempDir(), Timeout: 300 * time.Millisecond, HedgeAfter: 20 * time.Millisecond}
	for _, c := range change {
		c(&cfg, &opts)
	}
	var err error
	r.Engine, err = Open(cfg, opts)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	return r
}

func randomBytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

func source(b []byte) Source { return Source{Reader: bytes.NewReader(b), Size: int64(len(b))} }

func (r *rig) mustStore(t testing.TB, path string, content []byte) Object {
	t.Helper()
	obj, err := r.Store(t.Context(), path, source(content))
	require.NoError(t, err)
	return obj
}

func (r *rig) mustGet(t testing.TB, path string, want []byte) Object {
	t.Helper()
	var out bytes.Buffer
	obj, err := r.Retrieve(t.Context(), path, &out)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, out.Bytes()), "content of %s differs: %d bytes, want %d", path, out.Len(), len(want))
	return obj
}

func TestStoreAndRetrieve(t *testing.T) {
	t.Parallel()
	sizes := []int{0, 1, 2, 27, 1024, snappyBlock, snappyBlock + 1, readBlock - 1, readBlock, readBlock + 1, 2*readBlock + 3}
	for _, shape := range [][2]int{{1, 2}, {2, 3}, {3, 5}, {5, 9}} {
		r := newRig(t, shape[0], shape[1], shape[1]+1)
		for _, size := range sizes {
			content := randomBytes(uint64(size), size)
			obj := r.mustStore(t, "/files/a", content)
			assert.Equal(t, int64(size), obj.Size)
			assert.Equal(t, metaFull, obj.MetaHolders)
			assert.False(t, obj.Degraded)
			got := r.mustGet(t, "/files/a", content)
			assert.Equal(t, obj.Checksum, got.Checksum)
			text := bytes.Repeat([]byte("all work and no play "), size/21+1)[:size]
			r.mustStore(t, "/files/b", text)
			r.mustGet(t, "/files/b", text)
		}
	}
}

func TestRetrieveFileShowsOnlyWholeContent(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, 3, 3)
	content := randomBytes(1, 3<<20)
	r.mustStore(t, "/f", content)
	dst := filepath.Join(t.TempDir(), "dst")
	require.NoError(t, os.WriteFile(dst, []byte("before"), 0o644))

	r.d(0).Fail(zstortest.Lie)
	r.d(1).Fail(zstortest.Lie)
	_, err := r.RetrieveFile(t.Context(), "/f", dst)
	var few *TooFewShardsError
	require.ErrorAs(t, err, &few)
	require.ErrorIs(t, err, ErrDamaged)
	kept, err := os.ReadFile(dst)
	require.NoError(t, err)
	require.Equal(t, "before", string(kept))

	r.d(0).Fail(zstortest.None)
	_, err = r.RetrieveFile(t.Context(), "/f", dst)
	require.NoError(t, err)
	got, err := os.ReadFile(dst)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got))
	st, err := os.Stat(dst)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode().Perm())
	files, err := os.ReadDir(filepath.Dir(dst))
	require.NoError(t, err)
	require.Len(t, files, 1, "a failed retrieve leaves no file behind")
}

func TestNobodyAnsweredIsNotNotFound(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, 3, 3)
	_, err := r.Lookup(t.Context(), "/unknown")
	require.ErrorIs(t, err, ErrNotFound)
	_, found, err := r.Check(t.Context(), "/unknown")
	require.NoError(t, err)
	require.False(t, found)

	for down := 1; down <= 4; down++ {
		r.m(4 - down).Fail(zstortest.Down)
		_, err := r.Lookup(t.Context(), "/unknown")
		_, _, checkErr := r.Check(t.Context(), "/unknown")
		if down == 1 {
			require.ErrorIs(t, err, ErrNotFound)
			require.NoError(t, checkErr)
			continue
		}
		var un *UnavailableError
		require.ErrorAs(t, err, &un, "%d down", down)
		require.NotErrorIs(t, err, ErrNotFound)
		require.ErrorAs(t, checkErr, &un)
		require.NotEmpty(t, un.Hint())
	}
}

func TestMetadataBackendsDown(t *testing.T) {
	t.Parallel()
	for _, fault := range []zstortest.Fault{zstortest.Down, zstortest.Hang, zstortest.Cut, zstortest.Full, zstortest.ReadOnly} {
		for lost := range 4 {
			r := newRig(t, 2, 3, 3)
			r.m(lost).Fail(fault)
			content := randomBytes(7, 5000)
			obj := r.mustStore(t, "/f", content)
			require.True(t, obj.Degraded)
			require.Equal(t, 3, obj.MetaHolders)
			rep, err := r.VerifyObject(t.Context(), obj, VerifyOptions{})
			require.NoError(t, err)
			require.False(t, rep.Healthy())

			other := (lost + 1) % 4
			r.m(other).Fail(fault)
			sent := r.Stats().Sent
			_, err = r.Store(t.Context(), "/g", source(content))
			var un *UnavailableError
			require.ErrorAs(t, err, &un)
			if fault == zstortest.Down || fault == zstortest.Hang || fault == zstortest.Cut {
				require.Equal(t, sent, r.Stats().Sent, "nothing is sent when it cannot be committed")
			} else {
				for i := range r.data {
					require.Equal(t, 1, r.d(i).Len(), "shards of a failed store are taken back")
				}
			}
			r.m(lost).Fail(zstortest.None)
			r.m(other).Fail(zstortest.None)
			r.Reachable(r.meta[lost])
			r.Reachable(r.meta[other])
			_, err = r.Lookup(t.Context(), "/g")
			require.ErrorIs(t, err, ErrNotFound)

			rep, err = r.Rebuild(t.Context(), "/f", RebuildOptions{})
			require.NoError(t, err)
			require.True(t, rep.MetaWritten)
			require.Empty(t, rep.Rebuilt)
			rep, err = r.Verify(t.Context(), "/f", VerifyOptions{Deep: true})
			require.NoError(t, err)
			require.True(t, rep.Healthy(), "%+v", rep.Meta)
			r.mustGet(t, "/f", content)
		}
	}
}

func TestDataBackendFaultsAtStore(t *testing.T) {
	t.Parallel()
	for _, fault := range []zstortest.Fault{zstortest.Down, zstortest.Hang, zstortest.Cut, zstortest.Full, zstortest.ReadOnly} {
		for _, after := range []int{0, 1} {
			r := newRig(t, 2, 4, 6)
			r.d(0).FailAfter(after, fault)
			r.d(3).FailAfter(after, fault)
			content := randomBytes(9, 4<<20+5)
			obj := r.mustStore(t, "/f", content)
			used := map[string]bool{}
			for _, s := range obj.Shards {
				used[s.Backend.ID] = true
				assert.NotContains(t, []string{"d0", "d3"}, s.Backend.ID)
			}
			require.Len(t, used, 4)
			r.mustGet(t, "/f", content)

			r.d(1).Fail(fault)
			before := r.m(0).Sets()
			_, err := r.Store(t.Context(), "/g", source(content))
			require.ErrorIs(t, err, backend.ErrPlacement, "three of six cannot hold four shards")
			require.Equal(t, before, r.m(0).Sets())
		}
	}
}

// A shard whose backend fails must not go where the loss of one group would take
// too many: the store fails rather than promise what it cannot keep.
func TestReplacementKeepsTheRedundancy(t *testing.T) {
	t.Parallel()
	for _, down := range [][]int{{0}, {0, 2}, {0, 1}} { // g0 has 0, 2, 4, g1 has 1, 3, 5
		r := newRig(t, 2, 4, 6, func(c *Config, _ *Options) {
			for i := range c.Data {
				c.Data[i].Group = fmt.Sprint("g", i%2)
			}
			c.RedundantGroups = 1
		})
		for _, i := range down {
			r.d(i).Fail(zstortest.Full)
		}
		obj, err := r.Store(t.Context(), "/f", source(randomBytes(1, 1000)))
		if len(down) == 2 && down[1] == 2 {
			require.ErrorIs(t, err, backend.ErrPlacement)
			require.Zero(t, r.d(1).Len()+r.d(3).Len()+r.d(4).Len()+r.d(5).Len(), "what was written is taken back")
			continue
		}
		require.NoError(t, err)
		groups := map[string]int{}
		for _, s := range obj.Shards {
			groups[s.Backend.Group]++
		}
		require.Equal(t, map[string]int{"g0": 2, "g1": 2}, groups)
	}
}

// Content that opens and is not what the record says, is not shown.
func TestContentIsComparedWithItsRecord(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, 3, 3)
	obj := r.mustStore(t, "/f", []byte("content"))
	dst := filepath.Join(t.TempDir(), "dst")
	wrong := obj
	wrong.Checksum[0] ^= 1
	require.ErrorIs(t, r.RetrieveObjectFile(t.Context(), wrong, dst), ErrDamaged)
	wrong = obj
	wrong.Size++
	require.ErrorIs(t, r.RetrieveObjectFile(t.Context(), wrong, dst), ErrDamaged)
	wrong.Size = obj.Size - 1
	require.ErrorIs(t, r.RetrieveObjectFile(t.Context(), wrong, dst), ErrDamaged)
	require.NoFileExists(t, dst)
	require.NoError(t, r.RetrieveObjectFile(t.Context(), obj, dst))
}

func TestRetrieveWithFaultyDataBackends(t *testing.T) {
	t.Parallel()
	content := randomBytes(11, 4<<20+7)
	for _, fault := range []zstortest.Fault{zstortest.Down, zstortest.Hang, zstortest.Cut, zstortest.Lie, zstortest.Short} {
		r := newRig(t, 2, 4, 4, func(_ *Config, o *Options) { o.Timeout = time.Minute })
		obj := r.mustStore(t, "/f", content)
		for a := range 4 {
			for b := range a {
				r.d(a).FailAfter(1, fault)
				r.d(b).Fail(fault)
				r.mustGet(t, "/f", content)
				r.d(a).Fail(zstortest.None)
				r.d(b).Fail(zstortest.None)
			}
		}
		for i := range 3 {
			r.d(i).Fail(fault)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		err := r.RetrieveObject(ctx, obj, &bytes.Buffer{})
		cancel()
		require.Error(t, err)
		require.NotErrorIs(t, err, ErrNotFound)
	}
}

// A reader that waits for a slow backend although k others answered makes every
// read as slow as the slowest machine.
func TestRetrieveDoesNotWaitForTheSlowest(t *testing.T) {
	t.Parallel()
	r := newRig(t, 3, 5, 5, func(_ *Config, o *Options) { o.Timeout = time.Hour })
	content := randomBytes(12, 1<<20)
	obj := r.mustStore(t, "/f", content)
	for _, s := range obj.Shards[:2] {
		r.net.At(s.Backend).SetLatency(time.Hour)
	}
	r.mustGet(t, "/f", content)
	r.m(0).SetLatency(time.Hour)
	r.m(1).SetLatency(time.Hour)
	r.mustGet(t, "/f", content)
}

func TestVerifyAndRebuild(t *testing.T) {
	t.Parallel()
	content := randomBytes(13, 4<<20+9)
	type damage struct {
		name  string
		do    func(r *rig, s Shard)
		deep  bool // only found by a deep look
		state PartState
	}
	for _, d := range []damage{
		{"missing piece", func(r *rig, s Shard) { r.net.At(s.Backend).Drop(s.Keys[1]) }, false, Missing},
		{"another payload", func(r *rig, s Shard) { r.net.At(s.Backend).Put(s.Keys[0], []byte("other")) }, false, Damaged},
		{"another payload of the same length", func(r *rig, s Shard) {
			r.net.At(s.Backend).Put(s.Keys[0], make([]byte, PieceSize))
		}, false, Damaged},
		{"bit rot", func(r *rig, s Shard) { r.net.At(s.Backend).Corrupt(s.Keys[0]) }, true, Damaged},
		{"down", func(r *rig, s Shard) { r.net.At(s.Backend).Fail(zstortest.Down) }, false, Unreachable},
		{"emptied", func(r *rig, s Shard) { r.net.At(s.Backend).Clear() }, false, Missing},
	} {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, 2, 4, 6)
			obj := r.mustStore(t, "/f", content)
			rep, err := r.VerifyObject(t.Context(), obj, VerifyOptions{Deep: true})
			require.NoError(t, err)
			require.True(t, rep.Healthy())
			for _, s := range obj.Shards[1:3] {
				d.do(r, s)
			}
			rep, err = r.Verify(t.Context(), "/f", VerifyOptions{})
			require.NoError(t, err)
			require.Equal(t, d.deep, rep.Healthy())
			rep, err = r.Verify(t.Context(), "/f", VerifyOptions{Deep: true})
			require.NoError(t, err)
			require.False(t, rep.Healthy())
			require.True(t, rep.Readable())
			require.Equal(t, []PartState{Good, d.state, d.state, Good},
				[]PartState{rep.Shards[0].State, rep.Shards[1].State, rep.Shards[2].State, rep.Shards[3].State})

			rep, err = r.Rebuild(t.Context(), "/f", RebuildOptions{Deep: true})
			require.NoError(t, err)
			require.ElementsMatch(t, []int{1, 2}, rep.Rebuilt, "only what is bad is made anew")
			require.True(t, rep.Healthy(), "%+v", rep)
			require.Equal(t, obj.Shards[0].Keys, rep.Object.Shards[0].Keys)
			places := map[string]bool{}
			for i, s := range rep.Object.Shards {
				places[s.Backend.ID] = true
				require.Equal(t, obj.Shards[i].Checksum, s.Checksum, "shards come out identical")
			}
			require.Len(t, places, 4)
			rep, err = r.Verify(t.Context(), "/f", VerifyOptions{Deep: true})
			require.NoError(t, err)
			require.True(t, rep.Healthy())
			r.mustGet(t, "/f", content)

			rep, err = r.Rebuild(t.Context(), "/f", RebuildOptions{Deep: true})
			require.NoError(t, err)
			require.Empty(t, rep.Rebuilt)
			require.False(t, rep.MetaWritten, "nothing is written where nothing is wrong")
		})
	}
}

// The real zstor rebuilds with the numbers of the config and destroys the object.
func TestRebuildKeepsTheNumbersOfTheRecord(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, 3, 8)
	content := randomBytes(14, 100_000)
	obj := r.mustStore(t, "/f", content)
	cfg := r.Config()
	cfg.MinimalShards, cfg.ExpectedShards = 5, 8
	require.NoError(t, r.Reload(t.Context(), cfg))
	r.net.At(obj.Shards[0].Backend).Clear()
	rep, err := r.Rebuild(t.Context(), "/f", RebuildOptions{})
	require.NoError(t, err)
	require.Equal(t, []int{0}, rep.Rebuilt)
	require.Equal(t, 2, rep.Object.K)
	require.Equal(t, 3, rep.Object.N)
	r.mustGet(t, "/f", content)
}

func TestEvacuateAndReplaceMetadata(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, 4, 7)
	content := randomBytes(15, 300_000)
	obj := r.mustStore(t, "/f", content)
	cfg := r.Config()
	leaving := obj.Shards[2].Backend
	cfg.Data = nil
	for _, b := range r.data {
		if b.ID != leaving.ID {
			cfg.Data = append(cfg.Data, b)
		}
	}
	fresh := cfg.Meta[1]
	fresh.ID, fresh.Namespace = "m9", "meta-9"
	r.net.Add(fresh)
	cfg.Meta[1] = fresh
	require.NoError(t, r.Reload(t.Context(), cfg))

	rep, err := r.Verify(t.Context(), "/f", VerifyOptions{})
	require.NoError(t, err)
	require.False(t, rep.Healthy())
	require.Equal(t, Stray, rep.Shards[2].State)
	rep, err = r.Rebuild(t.Context(), "/f", RebuildOptions{Evacuate: true})
	require.NoError(t, err)
	require.Equal(t, []int{2}, rep.Rebuilt)
	require.True(t, rep.Healthy(), "%+v", rep)
	r.net.At(leaving).Clear()
	r.mustGet(t, "/f", content)

	cfg.Prefix = "other"
	var bad *ConfigError
	require.ErrorAs(t, r.Reload(t.Context(), cfg), &bad)
}

func TestAliasAndRemove(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, 3, 3)
	content := randomBytes(16, 10_000)
	obj := r.mustStore(t, "/f@1.2", content)
	alias, err := r.Alias(t.Context(), obj, "/f")
	require.NoError(t, err)
	require.NotEqual(t, obj.Key, alias.Key)
	r.mustGet(t, "/f", content)
	require.Equal(t, 1, r.d(0).Len(), "an alias stores no shards")

	require.NoError(t, r.RemoveRecord(t.Context(), "/f"))
	_, err = r.Lookup(t.Context(), "/f")
	require.ErrorIs(t, err, ErrNotFound)
	r.mustGet(t, "/f@1.2", content)

	r.m(0).Fail(zstortest.Down)
	r.m(1).Fail(zstortest.Down)
	_, err = r.Remove(t.Context(), "/f@1.2")
	require.Error(t, err)
	require.Equal(t, 1, r.d(0).Len(), "no shard goes while the record may be readable")
	r.m(0).Fail(zstortest.None)
	r.m(1).Fail(zstortest.None)
	// The record is left on m0 and m1, which is enough to read it and to go on.
	r.mustGet(t, "/f@1.2", content)
	r.d(2).Fail(zstortest.Down)
	gone, err := r.Remove(t.Context(), "/f@1.2")
	require.NoError(t, err)
	require.Len(t, gone.Left, 1)
	require.Equal(t, Unreachable, gone.Left[0].State)
	require.Zero(t, r.d(0).Len())
	_, err = r.Lookup(t.Context(), "/f@1.2")
	require.ErrorIs(t, err, ErrNotFound)
	r.d(2).Fail(zstortest.None)
	left, err := r.RemoveShards(t.Context(), gone.Object)
	require.NoError(t, err)
	require.Empty(t, left)
	require.Zero(t, r.d(2).Len())
}

func TestList(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, 3, 3)
	want := map[string]bool{}
	for i := range 10 {
		obj := r.mustStore(t, "/f"+string(rune('a'+i)), []byte{byte(i)})
		want[obj.Key] = true
	}
	_, err := r.PutRecord(t.Context(), r.cfg.RecordKey("head/1"), []byte("x"))
	require.NoError(t, err)
	r.m(2).Clear()
	got := map[string]bool{}
	for e, err := range r.List(t.Context()) {
		require.NoError(t, err)
		require.Equal(t, 3, e.Holders)
		require.False(t, got[e.Key])
		require.False(t, e.Created.IsZero())
		got[e.Key] = true
		_, err := r.LookupKey(t.Context(), e.Key)
		require.NoError(t, err)
	}
	require.Equal(t, want, got)

	r.m(1).FailAfter(1, zstortest.Down)
	n, faults := 0, 0
	for _, err := range r.List(t.Context()) {
		if err != nil {
			faults++
		} else {
			n++
		}
	}
	require.Equal(t, 10, n)
	require.Equal(t, 1, faults)
}

func TestWholeRecords(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, 3, 3)
	cfg := r.Config()
	a, b := cfg.RecordKey("epoch/1"), cfg.RecordKey("epoch/2")
	acks, err := r.PutRecord(t.Context(), a, []byte("one"))
	require.NoError(t, err)
	require.Equal(t, 4, acks)
	r.m(1).Fail(zstortest.Down)
	acks, err = r.PutRecord(t.Context(), b, []byte("two"))
	require.Error(t, err)
	require.Equal(t, 3, acks)
	r.m(1).Fail(zstortest.None)
	// A value moved under another name does not open there.
	raw, _ := r.m(0).Value([]byte(a))
	r.m(0).Put([]byte(b), raw)
	r.m(2).Fail(zstortest.Down)
	answers, err := r.GetRecord(t.Context(), b)
	require.NoError(t, err)
	var states []AnswerState
	for _, x := range answers {
		states = append(states, x.State)
	}
	require.Equal(t, []AnswerState{Undecryptable, HasNone, NoAnswer, HasValue}, states)
	require.Equal(t, "two", string(answers[3].Value))
	require.Equal(t, 2, answers.Answered())
	r.m(2).Fail(zstortest.None)

	lists, err := r.ListRecords(t.Context(), cfg.RecordKey("epoch/"))
	require.NoError(t, err)
	require.Equal(t, []string{a}, lists[1].Names)
	require.Equal(t, []string{a, b}, lists[3].Names)
	acks, err = r.DeleteRecord(t.Context(), a)
	require.NoError(t, err)
	require.Equal(t, 4, acks)
	_, err = r.PutRecord(t.Context(), "/test/meta/x", nil)
	require.Error(t, err)
}

func TestSkipUnchanged(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, 3, 3)
	content := randomBytes(17, 50_000)
	first := r.mustStore(t, "/f", content)
	again, err := r.StoreWith(t.Context(), "/f", source(content), StoreOptions{SkipUnchanged: true})
	require.NoError(t, err)
	require.True(t, again.Unchanged)
	require.Equal(t, first.Shards[0].Keys, again.Shards[0].Keys)
	require.Equal(t, 1, r.d(0).Len())

	r.m(3).Drop([]byte(first.Key))
	again, err = r.StoreWith(t.Context(), "/f", source(content), StoreOptions{SkipUnchanged: true})
	require.NoError(t, err)
	require.False(t, again.Unchanged, "a record on three backends is no reason to send nothing")
}

func TestDataKeysAreFresh(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, 3, 3)
	a := r.mustStore(t, "/a", []byte("same"))
	b := r.mustStore(t, "/b", []byte("same"))
	require.NotEqual(t, a.DataKey.Hex(), b.DataKey.Hex())
	require.NotEqual(t, r.Config().Key.Hex(), a.DataKey.Hex())
	require.NotEqual(t, a.Shards[0].Checksum, b.Shards[0].Checksum)
}

func TestReadsRecordsOfAnotherKeyAsDamage(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, 3, 3)
	r.mustStore(t, "/f", []byte("content"))
	cfg := r.Config()
	cfg.Key = seal.Key{9}
	other, err := Open(cfg, Options{Dialer: r.net, Timeout: time.Second})
	require.NoError(t, err)
	defer other.Close()
	_, err = other.Lookup(t.Context(), "/f")
	require.ErrorIs(t, err, ErrDamaged)
	require.NotErrorIs(t, err, ErrNotFound)
}

func TestClose(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, 3, 3, func(_ *Config, o *Options) { o.Timeout = time.Hour })
	r.d(0).Fail(zstortest.Hang)
	result := make(chan error, 1)
	go func() {
		_, err := r.Store(context.Background(), "/f", source([]byte("x")))
		result <- err
	}()
	require.Eventually(t, func() bool { return r.d(1).Sets() > 0 && r.d(2).Sets() > 0 }, 5*time.Second, time.Millisecond)
	require.NoError(t, r.Close())
	require.Error(t, <-result)
	require.NoError(t, r.Close())
	_, err := r.Lookup(context.Background(), "/f")
	require.ErrorIs(t, err, ErrClosed)
}

func TestSourceThatShrinks(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, 3, 3)
	_, err := r.Store(t.Context(), "/f", Source{Reader: bytes.NewReader(make([]byte, 10)), Size: 11})
	require.ErrorContains(t, err, "changed")
	require.Zero(t, r.d(0).Len())
}

func TestCRCIsThatOfZdb(t *testing.T) {
	require.Equal(t, uint32(0x74d8f77b), record.CRC([]byte("world")))
	require.Equal(t, uint32(0xc288cab2), record.CRC([]byte("1")))
	require.Zero(t, record.CRC(nil))
}
