package qsfs

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/hooks"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/qsfs/manifest"
	"github.com/threefoldtech/quantumd/store"
)

// besideZdb stands for a real zdb: it keeps its lock, appends, changes slots in
// place, and switches files as the real one does.
type besideZdb struct {
	t    *testing.T
	x    *externalSpace
	lock *os.File

	noHook bool
	before func() // between the order to jump and the switch
	after  func() // behind the hook, before the answer
}

func newBesideZdb(t *testing.T) *besideZdb {
	root := t.TempDir()
	x := &externalSpace{name: dataSpace, root: filepath.Join(root, "index"), log: slog.New(slog.DiscardHandler), stamps: map[uint32]stamp{},
		index: filepath.Join(root, "index", dataSpace), data: filepath.Join(root, "data", dataSpace)}
	for _, dir := range []string{x.index, x.data} {
		require.NoError(t, os.MkdirAll(dir, 0o700))
	}
	z := &besideZdb{t: t, x: x}
	x.admin = z
	z.start()
	return z
}

func (z *besideZdb) start() {
	lock, err := z.x.notRunning()
	require.NoError(z.t, err)
	require.NotNil(z.t, lock)
	z.lock = lock
	z.t.Cleanup(func() { _ = lock.Close() }) // stop may have
	require.NoError(z.t, z.x.starting(context.Background(), func(context.Context, string) error { return ErrLost }))
	if ids, _ := numbered(z.x.index, 'i'); len(ids) == 0 {
		z.pair(0)
	}
}

func (z *besideZdb) stop() { require.NoError(z.t, z.lock.Close()) }

func (z *besideZdb) pair(id uint32) {
	require.NoError(z.t, os.WriteFile(z.x.IndexPath(id), segment.AppendIndexHeader(nil, id, segment.Sequential), 0o600))
	require.NoError(z.t, os.WriteFile(z.x.DataPath(id), segment.AppendDataHeader(nil, id), 0o600))
}

func (z *besideZdb) active() uint32 {
	ids, err := numbered(z.x.index, 'i')
	require.NoError(z.t, err)
	return ids[len(ids)-1]
}

// set appends an entry.
func (z *besideZdb) set(payload string) {
	id := z.active()
	e := segment.IndexEntry{Key: segment.SeqKey(0), Length: uint32(len(payload)), DataFile: id}
	z.append(z.x.IndexPath(id), e.Append(nil))
	z.append(z.x.DataPath(id), []byte(payload))
}

func (z *besideZdb) append(path string, b []byte) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	require.NoError(z.t, err)
	_, err = f.Write(b)
	require.NoError(z.t, errors.Join(err, f.Close()))
}

// flag marks the first entry of an index file, in place.
func (z *besideZdb) flag(id uint32, value byte) {
	f, err := os.OpenFile(z.x.IndexPath(id), os.O_WRONLY, 0)
	require.NoError(z.t, err)
	_, err = f.WriteAt([]byte{value}, segment.IndexHeaderSize+segment.FlagsOffset)
	require.NoError(z.t, errors.Join(err, f.Close()))
}

func (z *besideZdb) Info(context.Context, string) (backend.NamespaceInfo, error) {
	files, err := z.x.Files()
	return backend.NamespaceInfo{NextID: files.Slots}, err
}

func (z *besideZdb) Jump(context.Context, string, backend.Secret) error {
	if z.before != nil {
		z.before()
	}
	id := z.active()
	z.pair(id + 1)
	if !z.noHook {
		if err := z.x.jumped(z.event(id)); err != nil {
			return err
		}
	}
	if z.after != nil {
		z.after()
	}
	return nil
}

func (z *besideZdb) event(closed uint32) hooks.Event {
	return hooks.Event{Kind: hooks.JumpIndex, Index: z.x.IndexPath(closed), NextIndex: z.x.IndexPath(closed + 1)}
}

// kept is what the backends hold.
type kept struct {
	t    *testing.T
	refs map[string]manifest.Ref
	text map[string][]byte
}

func newKept(t *testing.T) *kept {
	return &kept{t: t, refs: map[string]manifest.Ref{}, text: map[string][]byte{}}
}

func (k *kept) name(kind store.Kind, id uint32) string { return string(kind) + string(rune('0'+id)) }

func (k *kept) request() cutRequest {
	return cutRequest{
		copies: filepath.Join(k.t.TempDir(), "1-ns"),
		stored: func(kind store.Kind, id uint32) (manifest.Ref, bool) { r, ok := k.refs[k.name(kind, id)]; return r, ok },
		mend:   func(context.Context, uint32, manifest.Ref) error { return errors.New("there is nothing to mend") },
	}
}

// take stores what a cut lists, and commits it.
func (k *kept) take(x *externalSpace, r cutRequest, cut *cutFiles) {
	put := func(kind store.Kind, prefix byte, f cutFile) {
		source := r.copyOf(prefix, f.ID)
		if !f.Copied {
			source = x.DataPath(f.ID)
		}
		text, err := os.ReadFile(source)
		require.NoError(k.t, err)
		require.Len(k.t, text, int(f.Length))
		k.text[k.name(kind, f.ID)] = text
		k.refs[k.name(kind, f.ID)] = manifest.Ref{Object: "x", Length: f.Length, Checksum: checksum(text)}
	}
	for _, f := range cut.Data {
		put(store.KindData, 'd', f)
	}
	for _, f := range cut.Index {
		put(store.KindIndex, 'i', f)
	}
	x.Committed(cut)
}

func (k *kept) cut(z *besideZdb) *cutFiles {
	k.t.Helper()
	r := k.request()
	cut, err := z.x.Cut(k.t.Context(), r)
	require.NoError(k.t, err)
	k.take(z.x, r, cut)
	return cut
}

func ids(files []cutFile) []uint32 {
	out := []uint32{}
	for _, f := range files {
		out = append(out, f.ID)
	}
	return out
}

// What changes in place after the hook has ended belongs to the next cut, and
// an event that comes twice, late or early changes nothing.
func TestExternalCutIsOfOneMoment(t *testing.T) {
	t.Parallel()
	z, k := newBesideZdb(t), newKept(t)
	z.set("first")
	assert.Equal(t, []uint32{0}, ids(k.cut(z).Index))
	z.set("second")
	z.flag(0, 1)
	moment, err := os.ReadFile(z.x.IndexPath(0))
	require.NoError(t, err)
	z.before = func() { require.NoError(t, z.x.jumped(z.event(0))) } // an old one, from the spool
	z.after = func() {
		z.flag(0, 0)
		require.NoError(t, z.x.jumped(z.event(1))) // again
		require.NoError(t, z.x.jumped(z.event(0)))
	}
	cut := k.cut(z)
	assert.Equal(t, []uint32{0, 1}, ids(cut.Index))
	assert.Equal(t, []uint32{1}, ids(cut.Data))
	assert.EqualValues(t, 2, cut.Slots)
	assert.Equal(t, moment, k.text[k.name(store.KindIndex, 0)])
	z.before, z.after = nil, nil
	assert.Contains(t, ids(k.cut(z).Index), uint32(0), "changed after the hook")
}

// A zdb that closes a full file while the cut's jump is on its way: both belong
// to the cut.
func TestExternalCutTakesWhatWasClosedJustBefore(t *testing.T) {
	t.Parallel()
	z, k := newBesideZdb(t), newKept(t)
	z.set("first")
	z.before = func() {
		z.before = nil
		require.NoError(t, z.Jump(t.Context(), "", "")) // it was full
		z.set("second")
	}
	cut := k.cut(z)
	assert.Equal(t, []uint32{0, 1}, ids(cut.Index))
	assert.Equal(t, []uint32{0, 1}, ids(cut.Data))
}

// The real zdb loses sight of what it writes behind an empty pair: it is never
// told to jump from one.
func TestExternalNeverJumpsFromAnEmptyPair(t *testing.T) {
	t.Parallel()
	z, k := newBesideZdb(t), newKept(t)
	z.before = func() {
		_, entries, _, err := z.x.active()
		require.NoError(t, err)
		require.True(t, entries, "a jump from an empty pair")
	}
	k.cut(z)
	z.set("x")
	k.cut(z)
	require.EqualValues(t, 1, z.active())
	cut := k.cut(z)
	assert.Empty(t, cut.Data)
	z.flag(0, 1) // a deletion appends nothing
	assert.Contains(t, ids(k.cut(z).Index), uint32(0))
	require.EqualValues(t, 1, z.active())
}

func TestExternalHookMissing(t *testing.T) {
	t.Parallel()
	z, k := newBesideZdb(t), newKept(t)
	z.set("x")
	z.noHook = true
	var missing *HookMissingError
	_, err := z.x.Cut(t.Context(), k.request())
	require.ErrorAs(t, err, &missing)
	assert.Contains(t, missing.Hint(), "--hook")
}

// A zdb that was stopped: its open pair is stored too. It goes on with that pair,
// which then is stored again, whole.
func TestExternalStoppedZdb(t *testing.T) {
	t.Parallel()
	z, k := newBesideZdb(t), newKept(t)
	z.set("first")
	k.cut(z)
	z.set("second")
	z.stop()
	r := k.request()
	cut, err := z.x.Cut(t.Context(), r)
	require.NoError(t, err)
	assert.Equal(t, []uint32{1}, ids(cut.Data))
	assert.Contains(t, ids(cut.Index), uint32(1))
	z.start()
	require.EqualValues(t, 1, z.active())
	z.set("third") // before the copies are uploaded
	k.take(z.x, r, cut)
	assert.NotContains(t, string(k.text[k.name(store.KindData, 1)]), "third")
	cut = k.cut(z)
	assert.Equal(t, []uint32{1}, ids(cut.Data), "it grew")
	assert.Contains(t, ids(cut.Index), uint32(1))
	assert.Contains(t, string(k.text[k.name(store.KindData, 1)]), "secondthird")

	// With an empty pair at its end: it is removed before zdb starts.
	require.EqualValues(t, 2, z.active())
	z.stop()
	assert.Empty(t, k.cut(z).Data)
	z.start()
	require.EqualValues(t, 1, z.active())
}

// What differs from what was stored is mended, and never stored over it.
func TestExternalDamageIsNotStored(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(path string) error{
		"shorter":           func(path string) error { return os.Truncate(path, segment.DataHeaderSize+2) },
		"grown and changed": func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("x"), 100), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			z, k := newBesideZdb(t), newKept(t)
			z.set("first")
			k.cut(z)
			require.NoError(t, harm(z.x.DataPath(0)))
			z.set("second")
			r := k.request()
			_, err := z.x.Cut(t.Context(), r)
			require.ErrorContains(t, err, "nothing to mend")
			copies, err := filepath.Glob(r.copies + "*")
			require.NoError(t, err)
			assert.Empty(t, copies)
			var mended []uint32
			r.mend = func(_ context.Context, id uint32, _ manifest.Ref) error {
				mended = append(mended, id)
				return nil
			}
			cut, err := z.x.Cut(t.Context(), r)
			require.NoError(t, err)
			assert.Equal(t, []uint32{0}, mended)
			assert.Contains(t, ids(cut.Data), uint32(1))
		})
	}
}

// Which index files are clean is found again after a start, without a word of
// the zdb.
func TestExternalFindsWhatIsClean(t *testing.T) {
	t.Parallel()
	z, k := newBesideZdb(t), newKept(t)
	for range 4 {
		z.set("x")
		k.cut(z)
	}
	old := time.Now().Add(-time.Hour)
	for id := range uint32(4) {
		require.NoError(t, os.Chtimes(z.x.IndexPath(id), old, old))
	}
	z.x.stamps = map[uint32]stamp{} // another life of the daemon
	z.flag(2, 1)                    // unseen
	z.set("x")
	assert.Equal(t, []uint32{2, 4}, ids(k.cut(z).Index))
}

// Random lives: whatever happens, what a commit holds is what a zdb would read.
func TestExternalRandomLives(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		z, k := newBesideZdb(t), newKept(t)
		running := true
		for range 60 {
			switch n := rng.IntN(10); {
			case n < 4 && running:
				z.set("payload")
			case n < 6 && running:
				if id := uint32(rng.IntN(int(z.active()) + 1)); sizeOf(t, z.x.IndexPath(id)) > segment.IndexHeaderSize {
					z.flag(id, byte(rng.IntN(2)))
				}
			case n < 7 && running:
				if sizeOf(t, z.x.IndexPath(z.active())) > segment.IndexHeaderSize {
					require.NoError(t, z.Jump(t.Context(), "", "")) // it was full
					z.set("payload")
				}
			case n < 8:
				if running {
					z.stop()
				} else {
					z.start()
				}
				running = !running
			default:
				cut := k.cut(z)
				files, err := z.x.Files()
				require.NoError(t, err)
				for _, f := range files.Data {
					name := k.name(store.KindData, f.ID)
					here, err := os.ReadFile(z.x.DataPath(f.ID))
					require.NoError(t, err)
					require.Equal(t, here, k.text[name], "seed %d, d%d", seed, f.ID)
				}
				for _, f := range files.Index {
					here, err := os.ReadFile(z.x.IndexPath(f.ID))
					require.NoError(t, err)
					require.Equal(t, here, k.text[k.name(store.KindIndex, f.ID)], "seed %d, i%d", seed, f.ID)
				}
				require.Equal(t, files.Slots, cut.Slots)
				pairs, err := z.x.Pairs()
				require.NoError(t, err)
				require.Equal(t, files.Slots, pairs.Slots)
				require.Equal(t, files.HasOpen, pairs.HasOpen)
				require.Len(t, files.Data, int(pairs.Count))
				if rng.IntN(3) == 0 {
					z.x.stamps = map[uint32]stamp{}
				}
			}
		}
	}
}

func sizeOf(t *testing.T, path string) int64 {
	st, err := os.Stat(path)
	require.NoError(t, err)
	return st.Size()
}

// A zdb that starts goes on with the highest pair that has entries: its data
// file, and that of an empty pair behind it, are not dropped.
func TestExternalDropsNoFileThatZdbGoesOnWith(t *testing.T) {
	t.Parallel()
	z, k := newBesideZdb(t), newKept(t)
	for range 3 {
		z.set("x")
		k.cut(z)
	}
	for id, want := range map[uint32]error{3: server.ErrInUse, 2: server.ErrInUse, 9: server.ErrInUse} {
		_, err := z.x.DropData(id)
		require.ErrorIs(t, err, want, "%d", id)
	}
	_, err := z.x.DropData(1)
	require.NoError(t, err)
	_, err = z.x.DropData(1)
	require.ErrorIs(t, err, os.ErrNotExist)

	// One that is missing all the same is brought before zdb looks at it.
	require.NoError(t, os.Remove(z.x.DataPath(2)))
	z.stop()
	var asked []string
	require.NoError(t, z.x.starting(t.Context(), func(_ context.Context, path string) error {
		asked = append(asked, path)
		return os.WriteFile(path, []byte("brought"), 0o600)
	}))
	assert.Equal(t, []string{z.x.DataPath(2)}, asked)
	require.EqualValues(t, 2, z.active())
}

func TestMixes(t *testing.T) {
	t.Parallel()
	const em, ex = config.Embedded, config.External
	for _, c := range []struct {
		engine config.Engine
		works  bool
		broken []string
	}{
		{config.Engine{Zdb: em, Zstor: em, Zdbfs: em}, true, nil},
		{config.Engine{Zdb: ex, Zstor: em, Zdbfs: em}, true, []string{"fsync", "space"}},
		{config.Engine{Zdb: em, Zstor: ex, Zdbfs: em}, true, []string{"leases", "repair", "verified shards"}},
		{config.Engine{Zdb: ex, Zstor: ex, Zdbfs: em}, true, []string{"fsync", "leases", "repair", "space", "verified shards"}},
		{config.Engine{Zdb: ex, Zstor: ex, Zdbfs: ex}, true, []string{"consistent checkpoints", "fencing", "fsync", "leases", "loss window", "repair", "space", "sync", "verified shards"}},
		{config.Engine{Zdb: em, Zstor: ex, Zdbfs: ex}, false, nil},
		{config.Engine{Zdb: em, Zstor: em, Zdbfs: ex}, false, nil},
	} {
		cfg := config.Default()
		cfg.Engine = c.engine
		err := checkMix(cfg)
		if !c.works {
			var bad *config.Error
			require.ErrorAs(t, err, &bad, "%+v", c.engine)
			assert.NotEmpty(t, bad.Remedy)
			continue
		}
		require.NoError(t, err)
		var broken []string
		for _, p := range Promises(c.engine) {
			assert.NotEmpty(t, p.Text)
			if !p.Holds {
				broken = append(broken, p.Name)
			}
		}
		assert.ElementsMatch(t, c.broken, broken, "%+v", c.engine)
	}
}
