package zstor

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor/record"
	"github.com/threefoldtech/quantumd/engine/zstor/seal"
	"github.com/threefoldtech/quantumd/engine/zstor/zstortest"
)

// realReader is how the real zstor reads four metadata values: sorted by index,
// the later backend wins, the first two indexes are joined, and a value that does
// not open ends its process.
func realReader(values [][]byte, key seal.Key) (*record.Record, error) {
	byIndex := map[int]record.Value{}
	for _, raw := range values {
		if len(raw) == 0 {
			continue
		}
		v, err := record.ParseValue(raw)
		if err != nil {
			continue
		}
		byIndex[v.Index] = v
	}
	var two []record.Value
	for i := range record.Values {
		if v, ok := byIndex[i]; ok && len(two) < 2 {
			two = append(two, v)
		}
	}
	if len(two) < 2 {
		return nil, nil
	}
	sealed, err := record.Join(two[0], two[1])
	if err != nil {
		return nil, err
	}
	plain, err := key.Open(sealed, nil)
	if err != nil {
		return nil, err
	}
	return record.Parse(plain)
}

func (r *rig) metaValues(key string) [][]byte {
	var out [][]byte
	for i := range r.meta {
		v, _ := r.m(i).Value([]byte(key))
		out = append(out, v)
	}
	return out
}

// Every mix of two writes over the four backends, seen with every subset of them
// down or emptied.
func TestReaderOverMixedGenerations(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, 3, 3, func(_ *Config, o *Options) { o.HedgeAfter = time.Second })
	old := r.mustStore(t, "/f", []byte("old content"))
	oldValues := r.metaValues(old.Key)
	fresh := r.mustStore(t, "/f", []byte("new content"))
	newValues := r.metaValues(old.Key)
	require.Greater(t, fresh.Generation, old.Generation)

	for mask := range 16 {
		for missing := range 16 {
			for _, how := range []string{"down", "absent", "damaged"} {
				name := fmt.Sprintf("new on %04b, %s on %04b", mask, how, missing)
				news, olds, gone := 0, 0, 0
				for i := range 4 {
					r.m(i).Fail(zstortest.None)
					value := oldValues[i]
					if mask&(1<<i) != 0 {
						value = newValues[i]
					}
					r.m(i).Put([]byte(old.Key), value)
					switch {
					case missing&(1<<i) == 0:
						if mask&(1<<i) != 0 {
							news++
						} else {
							olds++
						}
						continue
					case how == "down":
						r.m(i).Fail(zstortest.Down)
					case how == "absent":
						r.m(i).Drop([]byte(old.Key))
					default:
						r.m(i).Corrupt([]byte(old.Key))
					}
					gone++
				}
				obj, err := r.lookup(t.Context(), "/f", "", false)
				// Values of two writes may have one index; then they are no pair.
				switch {
				case news >= 2 && err == nil:
					require.Equal(t, fresh.Generation, obj.Generation, name)
					require.Equal(t, news, obj.MetaHolders, name)
				case olds >= 2:
					require.NoError(t, err, name)
					require.Equal(t, old.Generation, obj.Generation, name)
				case how == "absent" && gone >= 3:
					require.ErrorIs(t, err, ErrNotFound, name)
				case how == "down" && gone > 0:
					var un *UnavailableError
					require.ErrorAs(t, err, &un, name)
				default:
					require.ErrorIs(t, err, ErrDamaged, name)
				}
				require.False(t, news >= 2 && err != nil, name)
			}
		}
	}
}

// At every moment of an overwrite the real reader, asking all four, finds one of
// the two records whole; and so it does after every failure in between.
func TestOverwriteNeverMisleadsTheRealReader(t *testing.T) {
	t.Parallel()
	for round := range 4 {
		r := newRig(t, 2, 3, 3)
		first := r.mustStore(t, "/f", []byte("0"))
		moments := 0
		r.net.OnSet(func(b backend.Backend) {
			if b.Role != backend.Meta {
				return
			}
			moments++
			_, err := realReader(r.metaValues(first.Key), r.cfg.Key)
			assert.NoError(t, err, "round %d, moment %d", round, moments)
		})
		for i := range 6 {
			obj := r.mustStore(t, "/f", []byte(fmt.Sprint("content ", i)))
			rec, err := realReader(r.metaValues(first.Key), r.cfg.Key)
			require.NoError(t, err)
			require.NotNil(t, rec)
			require.Equal(t, obj.Checksum, rec.Checksum)
		}
		require.Equal(t, 24, moments)
	}
}

func TestOverwriteWithOneBackendMissing(t *testing.T) {
	t.Parallel()
	for missing := range 4 {
		r := newRig(t, 2, 3, 3)
		first := r.mustStore(t, "/f", []byte("before"))
		for round := range 5 {
			r.m(missing).Fail(zstortest.Down)
			obj := r.mustStore(t, "/f", []byte(fmt.Sprint("content ", round)))
			require.True(t, obj.Degraded)
			// It comes back with what it had: the real reader must not be misled.
			r.m(missing).Fail(zstortest.None)
			rec, err := realReader(r.metaValues(first.Key), r.cfg.Key)
			require.NoError(t, err, "%d missing, round %d", missing, round)
			require.Equal(t, obj.Checksum, rec.Checksum)
			got, err := r.Lookup(t.Context(), "/f")
			require.NoError(t, err)
			require.Equal(t, obj.Checksum, got.Checksum)
			rep, err := r.Rebuild(t.Context(), "/f", RebuildOptions{})
			require.NoError(t, err)
			require.Equal(t, 4, rep.Object.MetaHolders)
			last, err := record.ParseValue(r.metaValues(first.Key)[3])
			require.NoError(t, err)
			require.GreaterOrEqual(t, last.Index, 2, "the last backend keeps neither 0 nor 1")
		}
	}
}

// The last write of a plan must not make the planner forget what the missing
// backend comes back with: it then moved an index to where the old one wins.
func TestOverwriteWithChangingBackendsMissing(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, 3, 3)
	first := r.mustStore(t, "/f", []byte("before"))
	rnd := rand.New(rand.NewPCG(5, 6))
	for round := range 200 {
		missing, after := rnd.IntN(4), max(0, rnd.IntN(5)-2) // mostly from the start, or in the middle of the write
		r.m(missing).FailAfter(after, zstortest.Down)
		obj := r.mustStore(t, "/f", []byte(fmt.Sprint("content ", round)))
		r.m(missing).Fail(zstortest.None)
		rec, err := realReader(r.metaValues(first.Key), r.cfg.Key)
		require.NoError(t, err, "%d missing after %d calls, round %d", missing, after, round)
		require.Equal(t, obj.Checksum, rec.Checksum)
		_, err = r.Rebuild(t.Context(), "/f", RebuildOptions{})
		require.NoError(t, err)
		rec, err = realReader(r.metaValues(first.Key), r.cfg.Key)
		require.NoError(t, err)
		require.Equal(t, obj.Checksum, rec.Checksum)
	}
}

// A failed write puts back what was there.
func TestFailedOverwriteLeavesTheOldObject(t *testing.T) {
	t.Parallel()
	for a := range 4 {
		for b := range a {
			for after := 1; after <= 2; after++ { // the first call is the read of the state
				r := newRig(t, 2, 3, 3)
				content := []byte("the old content")
				old := r.mustStore(t, "/f", content)
				r.m(a).FailAfter(1, zstortest.ReadOnly)
				r.m(b).FailAfter(after, zstortest.ReadOnly)
				_, err := r.Store(t.Context(), "/f", source([]byte("the new content")))
				r.m(a).Fail(zstortest.None)
				r.m(b).Fail(zstortest.None)
				if err == nil {
					require.Equal(t, 2, after)
					continue // b took the write before it failed
				}
				r.mustGet(t, "/f", content)
				got, err := r.lookup(t.Context(), "/f", "", false)
				require.NoError(t, err)
				require.Equal(t, old.Generation, got.Generation)
				require.GreaterOrEqual(t, got.MetaHolders, 5-after, "one that took a write and refuses to take it back is left")
				for i := range r.data {
					require.Equal(t, 1, r.d(i).Len(), "shards of the failed store are gone, those of the old stay")
				}
			}
		}
	}
}

func TestPlansOfAllLayouts(t *testing.T) {
	t.Parallel()
	var layouts [][4]int
	for a := range 4 {
		for b := range 4 {
			for c := range 4 {
				for d := range 4 {
					if a != b && a != c && a != d && b != c && b != d && c != d {
						layouts = append(layouts, [4]int{a, b, c, d})
					}
				}
			}
		}
	}
	require.Len(t, layouts, 24)
	for _, old := range layouts {
		for missing := -1; missing < 4; missing++ {
			var s slots
			for i := range s {
				s[i] = slot{write: 1, index: old[i], writable: i != missing}
			}
			name := fmt.Sprintf("old %v, %d missing", old, missing)
			steps := s.plan()
			seen := map[int]bool{}
			for n, st := range steps {
				require.NotEqual(t, missing, st.backend, name)
				require.False(t, seen[st.index], name)
				seen[st.index] = true
				s[st.backend].write, s[st.backend].index = newWrite, st.index
				if missing < 0 {
					require.True(t, s.consistent(), "%s: step %d of %v", name, n, steps)
				}
			}
			if missing < 0 {
				require.Len(t, steps, 4, name)
				require.GreaterOrEqual(t, s[3].index, 2, name)
				continue
			}
			require.Len(t, steps, 3, name)
			// The last backend's 0 or 1 cannot be beaten by a later one.
			if missing != 3 || old[3] >= 2 {
				require.True(t, s.consistent(), "%s: ends with %+v", name, s)
			}
			// It comes back, and the record is completed.
			s[missing].writable = true
			for _, st := range s.plan() {
				s[st.backend].write, s[st.backend].index = newWrite, st.index
			}
			require.True(t, s.consistent(), name)
			require.GreaterOrEqual(t, s[3].index, 2, "%s: repaired to %+v", name, s)
			require.Empty(t, s.plan(), name)
		}
	}
}

// Records keep their length over rewrites: the real reader fails on two lengths.
func TestRecordsKeepTheirLength(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, 3, 3)
	length := 0
	for i, n := range []int{0, 1, 100, 70_000, 3 << 20} {
		obj := r.mustStore(t, "/f", randomBytes(uint64(i), n))
		for _, v := range r.metaValues(obj.Key) {
			if length == 0 {
				length = len(v)
			}
			require.Len(t, v, length)
		}
	}
}

// Over records of the real zstor too, whose length is any.
func TestRewriteOfARealRecordKeepsItsLengthWhereItFits(t *testing.T) {
	t.Parallel()
	for valueLen := 400; valueLen < 408; valueLen++ {
		r := newRig(t, 2, 3, 3)
		key, err := r.cfg.ObjectKey("/f")
		require.NoError(t, err)
		plainLen := record.SealedLenFor(valueLen) - seal.Overhead
		values, err := record.Split(r.cfg.Key.Seal(make([]byte, plainLen), nil))
		require.NoError(t, err)
		for i, v := range values {
			r.m(i).Put([]byte(key), v.Encode())
			require.Len(t, v.Encode(), valueLen)
		}
		r.mustStore(t, "/f", []byte("x"))
		for _, v := range r.metaValues(key) {
			require.Len(t, v, valueLen)
		}
	}
}

// A metadata write that was not answered may have happened. When it and another
// one could make the record readable, its shards must stay.
func TestUncertainMetadataKeepsShards(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, 3, 3)
	for i := range 2 {
		r.m(i).Script(zstortest.None, zstortest.Cut, zstortest.Down) // the write happens, its answer is lost
	}
	content := []byte("content")
	_, err := r.Store(t.Context(), "/f", source(content))
	require.Error(t, err)
	for i := range 4 {
		r.m(i).Fail(zstortest.None)
	}
	_, err = r.Lookup(t.Context(), "/f")
	if errors.Is(err, ErrNotFound) {
		t.Fatal("two of four hold the record")
	}
	r.mustGet(t, "/f", content)
}
