package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func randomRef(r *rand.Rand, prefix string, id uint32) Ref {
	sum := make([]byte, 16)
	for i := range sum {
		sum[i] = byte(r.Uint32())
	}
	ref := Ref{Length: r.Int64N(1 << 32), Checksum: hex.EncodeToString(sum)}
	epoch, generation := 1+r.Uint32N(3), r.Uint32()
	if r.IntN(2) == 0 {
		generation = uint32(ref.Length)
	}
	switch r.IntN(12) {
	case 0:
		ref.Object = fmt.Sprintf("%s%d", prefix, id) // as an earlier system stored it
	case 1:
		ref.Object = fmt.Sprintf("old/place/%d", r.IntN(100))
	case 2:
		ref.Object = fmt.Sprintf("%s%d@0%d.%d", prefix, id, epoch, generation)
	case 3:
		ref.Object, ref.Length = fmt.Sprintf("%s%d@%d.%d", prefix, id+1, epoch, generation), 1<<40
	case 4:
		ref.Object = fmt.Sprintf("%s%d@%d.%d.1", prefix, id, epoch, generation)
	default:
		ref.Object = fmt.Sprintf("%s%d@%d.%d", prefix, id, epoch, generation)
	}
	return ref
}

func checkTable(t *testing.T, want map[uint32]Ref, got *Table) {
	t.Helper()
	require.Equal(t, want, maps.Collect(got.All()))
	require.True(t, slices.IsSorted(slices.Collect(func(yield func(uint32) bool) {
		for id := range got.All() {
			if !yield(id) {
				return
			}
		}
	})))
	require.Equal(t, len(want), got.count)
	var bytes int64
	for id, r := range want {
		bytes += r.Length
		n, ok := got.Length(id)
		require.True(t, ok)
		require.Equal(t, r.Length, n)
	}
	require.Equal(t, bytes, got.bytes)
	for _, n := range []uint32{0, 1, chunkRefs, 300, 700} {
		var lacking []uint32
		for id := range n {
			if _, ok := want[id]; !ok {
				lacking = append(lacking, id)
			}
		}
		require.Equal(t, lacking, slices.Collect(got.Lacking(n)), "below %d", n)
	}
}

// The table against a map: changes, snapshots, and what two of them differ in.
func TestRefTableAgainstModel(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	table, model := &Table{prefix: "data/zdbfs-data/d"}, map[uint32]Ref{}
	type saved struct {
		table *Table
		model map[uint32]Ref
	}
	var snapshots []saved
	for range 3000 {
		id := r.Uint32N(700)
		switch r.IntN(10) {
		case 0:
			table.Remove(id)
			delete(model, id)
		case 1:
			if r.IntN(20) == 0 {
				snapshots = append(snapshots, saved{table.Snapshot(), maps.Clone(model)})
			}
		default:
			ref := randomRef(r, table.prefix, id)
			require.NoError(t, table.Set(id, ref))
			model[id] = ref
		}
	}
	require.Error(t, table.Set(1, Ref{Object: "x", Checksum: "short"}))
	require.Error(t, table.Set(1, Ref{Checksum: model[0].Checksum}))
	checkTable(t, model, table)
	require.NotEmpty(t, snapshots)
	for _, s := range snapshots {
		checkTable(t, s.model, s.table)
		delta := map[uint32]Ref{}
		whole := maps.Clone(s.model)
		for id, ref := range model {
			if whole[id] = ref; s.model[id] != ref {
				delta[id] = ref
			}
		}
		checkTable(t, delta, table.Since(s.table))
		checkTable(t, whole, table.Since(s.table).Over(s.table))
	}
}

func TestManifestRoundTrip(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	m := &Manifest{Schema: Schema, Epoch: 7, Seq: 1 << 40, Created: time.Unix(1, 5).UTC(), Namespaces: map[string]*Namespace{}}
	want := map[string][2]map[uint32]Ref{}
	for _, name := range []string{"zdbfs-meta", "zdbfs-data", "odd name"} {
		ns := NewNamespace(name)
		ns.Slots, ns.Descriptor = 9, randomRef(r, "index/"+name+"/zdb-namespace", 0)
		kinds := [2]map[uint32]Ref{{}, {}}
		for range 500 {
			for k, table := range []*Table{ns.Index, ns.Data} {
				id := r.Uint32N(100_000)
				kinds[k][id] = randomRef(r, table.prefix, id)
				require.NoError(t, table.Set(id, kinds[k][id]))
			}
		}
		want[name] = kinds
		m.Namespaces[name] = ns
	}
	base := randomRef(r, "qsfs/manifest", 0)
	m.Base = &base
	var text bytes.Buffer
	require.NoError(t, m.Encode(&text))
	got, err := Decode(bytes.NewReader(text.Bytes()))
	require.NoError(t, err)
	for name, kinds := range want {
		ns := got.Namespaces[name]
		require.Equal(t, m.Namespaces[name].Slots, ns.Slots)
		require.Equal(t, m.Namespaces[name].Descriptor, ns.Descriptor)
		checkTable(t, kinds[0], ns.Index)
		checkTable(t, kinds[1], ns.Data)
	}
	require.Equal(t, []any{m.Epoch, m.Seq, m.Created, m.Base}, []any{got.Epoch, got.Seq, got.Created, got.Base})

	// What is cut, or goes on, is refused.
	for _, n := range []int{0, 7, 8, 100, text.Len() / 2, text.Len() - 1} {
		_, err := Decode(bytes.NewReader(text.Bytes()[:n]))
		require.ErrorIs(t, err, ErrFormat, n)
	}
	_, err = Decode(io.MultiReader(&text, bytes.NewReader([]byte{0})))
	require.ErrorIs(t, err, ErrFormat)
	_, err = Decode(bytes.NewReader([]byte(`{"schema":1,"namespaces":{}}`)))
	require.ErrorIs(t, err, ErrFormat)
}

func FuzzDecodeManifest(f *testing.F) {
	m := &Manifest{Epoch: 1, Namespaces: map[string]*Namespace{"a": NewNamespace("a")}}
	r := rand.New(rand.NewPCG(5, 6))
	for id := range uint32(20) {
		if err := m.Namespaces["a"].Data.Set(id*id, randomRef(r, "data/a/d", id*id)); err != nil {
			f.Fatal(err)
		}
	}
	var text bytes.Buffer
	if err := m.Encode(&text); err != nil {
		f.Fatal(err)
	}
	f.Add(text.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Decode(bytes.NewReader(data))
		if err != nil {
			return
		}
		var again bytes.Buffer
		require.NoError(t, m.Encode(&again))
		m2, err := Decode(&again)
		require.NoError(t, err)
		require.Equal(t, m.Files(), m2.Files())
		for name, ns := range m.Namespaces {
			for _, table := range []*Table{ns.Index, ns.Data} {
				for _, ref := range table.All() {
					require.NoError(t, ref.Check())
				}
			}
			require.Equal(t, maps.Collect(ns.Data.All()), maps.Collect(m2.Namespaces[name].Data.All()))
		}
	})
}

// BenchmarkManifest writes and reads the manifest of a million files.
func BenchmarkManifest(b *testing.B) {
	const pairs = 500_000
	r := rand.New(rand.NewPCG(11, 12))
	m := &Manifest{Epoch: 1, Seq: 1, Namespaces: map[string]*Namespace{"zdbfs-data": NewNamespace("zdbfs-data")}}
	ns := m.Namespaces["zdbfs-data"]
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for id := range uint32(pairs) {
		var sum [16]byte
		binary.LittleEndian.PutUint64(sum[:], r.Uint64())
		binary.LittleEndian.PutUint64(sum[8:], r.Uint64())
		ns.Data.put(id, compactRef{sum, 64<<20 - id%1000, 1, 64<<20 - id%1000})
		ns.Index.put(id, compactRef{sum, 20_000 + id%1000, 1, id})
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	perFile := float64(after.HeapAlloc-before.HeapAlloc) / (2 * pairs)
	var text bytes.Buffer
	if err := m.Encode(&text); err != nil {
		b.Fatal(err)
	}
	b.Run("encode", func(b *testing.B) {
		b.SetBytes(int64(text.Len()))
		for b.Loop() {
			if err := m.Encode(io.Discard); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(text.Len())/(2*pairs), "B/file")
		b.ReportMetric(perFile, "B-memory/file")
	})
	b.Run("decode", func(b *testing.B) {
		b.SetBytes(int64(text.Len()))
		for b.Loop() {
			if _, err := Decode(bytes.NewReader(text.Bytes())); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("delta", func(b *testing.B) { // of one changed file
		base := &Manifest{Namespaces: map[string]*Namespace{"zdbfs-data": ns.Snapshot()}}
		ns.Data.put(7, compactRef{epoch: 1})
		for b.Loop() {
			if d := m.Since(base, Ref{}); d.Files() != 2 {
				b.Fatal(d.Files())
			}
		}
	})
}

// What is on the backends is read by every later version: the bytes stay.
func TestFormatStays(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(7, 8))
	m := &Manifest{Schema: Schema, Epoch: 7, Seq: 9, Created: time.Unix(1, 5).UTC(), Namespaces: map[string]*Namespace{}}
	for _, name := range []string{"zdbfs-meta", "zdbfs-data"} {
		ns := NewNamespace(name)
		ns.Slots, ns.Descriptor = 9, randomRef(r, "index/"+name+"/zdb-namespace", 0)
		for range 200 {
			for _, table := range []*Table{ns.Index, ns.Data} {
				id := r.Uint32N(1000)
				require.NoError(t, table.Set(id, randomRef(r, table.prefix, id)))
			}
		}
		m.Namespaces[name] = ns
	}
	base := randomRef(r, "qsfs/manifest", 0)
	m.Base = &base
	var text bytes.Buffer
	require.NoError(t, m.Encode(&text))
	require.Equal(t, 25967, text.Len())
	require.Equal(t, "bca3177eeb0e9adae6afaa7126f741466a0a5cce909c3f5e0db63053ebc94e39", fmt.Sprintf("%x", sha256.Sum256(text.Bytes())))
}
