package qsfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/hooks"
)

// externalSpace is a namespace of a zdb in another process, the real one: its
// files are seen from outside, and it is told by NSJUMP to go on to the next
// pair. What a checkpoint needs of index files, which change in place, is copied
// inside the hook of that jump, for which zdb stands still.
//
// It trusts no dirty list: an event may be lost while this daemon is down. An
// index file is clean if it was not modified since the copy that is stored was
// made; after a start that is found out by its checksum.
type externalSpace struct {
	name  string
	root  string // index root, which holds the lock of zdb
	index string // folder of the namespace
	data  string
	admin jumper
	log   *slog.Logger

	mu     sync.Mutex
	stamps map[uint32]stamp // index files that are stored as they were then
	jump   *jumping         // a cut that waits for its jump

	trimmed uint32 // the highest file that trim has looked at

	top   sync.Mutex
	high  uint32 // the highest pair when it was looked for
	below uint64 // entries of all pairs below it
	under int64  // length of the index file just below it
}

// jumper asks the zdb, and has it go on to its next pair; *zdb.Admin.
type jumper interface {
	Info(ctx context.Context, name string) (backend.NamespaceInfo, error)
	Jump(ctx context.Context, name string, password backend.Secret) error
}

// stamp tells one state of an index file from another.
type stamp struct {
	length int64
	mod    int64 // ns
}

func stampOf(st os.FileInfo) stamp { return stamp{st.Size(), st.ModTime().UnixNano()} }

// settled is how old a modification has to be for its time to tell the next one
// apart: the clock of file systems ticks.
const settled = time.Second

func (s *System) newExternalSpace(name string, admin jumper) *externalSpace {
	return &externalSpace{name: name, root: s.layout.IndexDir(), admin: admin, log: s.log.With("namespace", name), stamps: map[uint32]stamp{},
		index: filepath.Join(s.layout.IndexDir(), name), data: filepath.Join(s.layout.DataDir(), name)}
}

func (x *externalSpace) DataPath(id uint32) string {
	return filepath.Join(x.data, segment.DataName(id))
}
func (x *externalSpace) IndexPath(id uint32) string {
	return filepath.Join(x.index, segment.IndexName(id))
}
func (x *externalSpace) DescriptorPath() string {
	return filepath.Join(x.index, segment.DescriptorName)
}

// active gives the highest pair, and whether it has entries. ok is false where
// there is none.
func (x *externalSpace) active() (id uint32, entries, ok bool, err error) {
	x.top.Lock()
	defer x.top.Unlock()
	length, ok, err := x.climb()
	return x.high, length > segment.IndexHeaderSize, ok, err
}

// activeNow is active, where zdb itself tells whether the pair has entries: our
// own zdb writes them to the index file later.
func (x *externalSpace) activeNow(ctx context.Context) (id uint32, entries, ok bool, err error) {
	info, err := x.admin.Info(ctx, x.name)
	if err != nil {
		return 0, false, false, err
	}
	x.top.Lock()
	defer x.top.Unlock()
	_, ok, err = x.climb()
	return x.high, info.NextID > x.below, ok, err
}

// climb finds the highest pair from the one that was the highest before, and
// gives the length of its index file. The folder is read only where that is gone,
// or the pair below it grew: a zdb that starts removes an empty pair and goes on
// with that one.
func (x *externalSpace) climb() (length int64, ok bool, err error) {
	st, err := os.Stat(x.IndexPath(x.high))
	if err == nil && x.high > 0 {
		var under os.FileInfo
		if under, err = os.Stat(x.IndexPath(x.high - 1)); err == nil && under.Size() != x.under {
			err = fs.ErrNotExist
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		st, err = x.count()
	}
	if err != nil || st == nil {
		return 0, false, err
	}
	for {
		next, err := os.Stat(x.IndexPath(x.high + 1))
		if errors.Is(err, fs.ErrNotExist) {
			return st.Size(), true, nil
		}
		if err != nil {
			return 0, false, err
		}
		x.high, x.below, x.under, st = x.high+1, x.below+slotsOf(st), st.Size(), next
	}
}

// count looks at every index file; nil where there is none.
func (x *externalSpace) count() (os.FileInfo, error) {
	x.high, x.below, x.under = 0, 0, 0
	ids, err := numbered(x.index, 'i')
	if err != nil {
		return nil, err
	}
	var st os.FileInfo
	for i, id := range ids {
		if i > 0 {
			x.below, x.under = x.below+slotsOf(st), st.Size()
		}
		if st, err = os.Stat(x.IndexPath(id)); err != nil {
			return nil, err
		}
		x.high = id
	}
	return st, nil
}

func slotsOf(st os.FileInfo) uint64 {
	return uint64(max(0, st.Size()-segment.IndexHeaderSize) / segment.SeqSlotSize)
}

// Files lists what is on disk. An active pair without entries is not listed: it
// holds nothing, and may be removed again.
func (x *externalSpace) Files() (server.FilesInfo, error) {
	active, entries, ok, err := x.active()
	if err != nil || !ok {
		return server.FilesInfo{Mode: server.Sequential}, err
	}
	info, err := x.files(active, entries)
	info.Open, info.HasOpen = active, entries
	return info, err
}

// files lists pairs up to last, which is left out where whole is false.
func (x *externalSpace) files(last uint32, whole bool) (server.FilesInfo, error) {
	info := server.FilesInfo{Mode: server.Sequential}
	ids, err := numbered(x.index, 'i')
	if err != nil {
		return info, err
	}
	for _, id := range ids {
		if id > last || id == last && !whole {
			break
		}
		st, err := os.Stat(x.IndexPath(id))
		if err != nil {
			return info, err
		}
		info.Index = append(info.Index, server.IndexFile{ID: id, Length: st.Size()})
		info.Slots += slotsOf(st)
		d := server.DataFile{ID: id}
		if st, err := os.Stat(x.DataPath(id)); err == nil {
			d.Length, d.Present = st.Size(), true
		} else if !errors.Is(err, fs.ErrNotExist) {
			return info, err
		}
		info.Data = append(info.Data, d)
	}
	return info, nil
}

// Pairs is Files in short, in a time that does not grow with them.
func (x *externalSpace) Pairs() (server.Pairs, error) {
	x.top.Lock()
	defer x.top.Unlock()
	p := server.Pairs{Mode: server.Sequential}
	length, ok, err := x.climb()
	if err != nil || !ok {
		return p, err
	}
	p.Slots, p.Count = x.below, x.high
	if length <= segment.IndexHeaderSize {
		return p, nil
	}
	p.Slots, p.Count = p.Slots+uint64((length-segment.IndexHeaderSize)/segment.SeqSlotSize), p.Count+1
	p.Open, p.HasOpen = x.high, true
	d, err := x.DataFile(x.high)
	p.OpenLength = d.Length
	return p, err
}

// DataFile tells of one data file.
func (x *externalSpace) DataFile(id uint32) (server.DataFile, error) {
	st, err := os.Stat(x.DataPath(id))
	if errors.Is(err, fs.ErrNotExist) {
		return server.DataFile{ID: id}, nil
	}
	if err != nil {
		return server.DataFile{}, err
	}
	return server.DataFile{ID: id, Length: st.Size(), Present: true}, nil
}

// Where reads from the index files which data file holds the payload of key, and
// which index file its entry.
func (x *externalSpace) Where(key []byte) (dataFile, indexFile uint32, err error) {
	slot, ok := segment.ParseSeqKey(key)
	if !ok {
		return 0, 0, backend.ErrNotFound
	}
	ids, err := numbered(x.index, 'i')
	if err != nil {
		return 0, 0, err
	}
	for _, id := range ids {
		st, err := os.Stat(x.IndexPath(id))
		if err != nil {
			return 0, 0, err
		}
		n := uint64(max(0, st.Size()-segment.IndexHeaderSize) / segment.SeqSlotSize)
		if slot >= n {
			slot -= n
			continue
		}
		e, err := x.entry(id, uint32(slot))
		if err == nil && e.Deleted() {
			err = backend.ErrNotFound
		}
		return e.DataFile, id, err
	}
	return 0, 0, backend.ErrNotFound
}

func (x *externalSpace) entry(id, slot uint32) (segment.IndexEntry, error) {
	f, err := os.Open(x.IndexPath(id))
	if err != nil {
		return segment.IndexEntry{}, err
	}
	defer f.Close() // read only
	b := make([]byte, segment.SeqSlotSize)
	if _, err := f.ReadAt(b, segment.SlotOffset(slot)); err != nil {
		return segment.IndexEntry{}, err
	}
	return segment.DecodeIndexEntry(b)
}

// ForgetData has nothing to do: the real zdb opens a file for every read.
func (x *externalSpace) ForgetData(uint32) {}

// LastRead is not known of another process; zero.
func (x *externalSpace) LastRead(uint32) time.Time { return time.Time{} }

// numbered lists the numbers of files such as i0, i1 in a folder; none where it
// does not exist.
func numbered(dir string, prefix byte) ([]uint32, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var ids []uint32
	for _, e := range entries {
		if id, ok := segment.ParseName(prefix, e.Name()); ok && !e.IsDir() {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, err
}

// DropData removes a closed data file. The two highest stay: a zdb that starts
// again goes on with the last one that has entries, and makes it anew, empty,
// where it is missing.
func (x *externalSpace) DropData(id uint32) (int64, error) {
	active, _, ok, err := x.active()
	if err != nil {
		return 0, err
	}
	if !ok || id+1 >= active {
		return 0, server.ErrInUse
	}
	st, err := os.Stat(x.DataPath(id))
	if err != nil {
		return 0, err
	}
	return allocated(st), os.Remove(x.DataPath(id))
}

// trim gives back what zdb reserved behind the end of a data file: the whole of
// --datasize. Only while zdb stands still in a hook, or does not run: what is
// appended in between would be cut off.
func (x *externalSpace) trim(id uint32) {
	st, err := os.Stat(x.DataPath(id))
	if err != nil || allocated(st) < st.Size()+64<<10 {
		return
	}
	if err := os.Truncate(x.DataPath(id), st.Size()); err != nil {
		x.log.Warn("the space behind a data file is not given back", "file", id, "err", err)
	}
}

// notRunning holds zdb's lock while it does not run; nil while it runs.
func (x *externalSpace) notRunning() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(x.root, ".lockfile"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	closeErr := f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, closeErr
	}
	return nil, errors.Join(err, closeErr)
}

// starting is called from namespaces-init: zdb holds its locks and has looked at
// nothing yet. A pair without entries is removed, for what a zdb writes to an
// empty pair that it found at its start cannot be read; and the data file that
// it will append to is brought back where it is missing.
func (x *externalSpace) starting(ctx context.Context, fetch func(ctx context.Context, path string) error) error {
	ids, err := numbered(x.index, 'i')
	if err != nil || len(ids) == 0 {
		return err
	}
	for _, id := range ids {
		x.trim(id)
	}
	last, err := x.lastWritten(ids)
	if err != nil {
		return err
	}
	if _, err := os.Stat(x.DataPath(last)); errors.Is(err, fs.ErrNotExist) {
		if err := fetch(ctx, x.DataPath(last)); err != nil && !errors.Is(err, ErrLost) {
			return fmt.Errorf("the data file that zdb goes on with: %w", err)
		}
	}
	dropped, err := segment.DropEmptyPairs(x.index, x.data)
	if dropped > 0 {
		x.log.Debug("empty pairs removed before zdb starts", "pairs", dropped)
	}
	return err
}

// lastWritten is the highest of these pairs that has entries.
func (x *externalSpace) lastWritten(ids []uint32) (uint32, error) {
	for i := len(ids) - 1; i > 0; i-- {
		st, err := os.Stat(x.IndexPath(ids[i]))
		if err != nil {
			return 0, err
		}
		if st.Size() > segment.IndexHeaderSize {
			return ids[i], nil
		}
	}
	return ids[0], nil
}

// jumped is called from jump-index: zdb stands still.
func (x *externalSpace) jumped(e hooks.Event) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, id := range e.Dirty {
		delete(x.stamps, id)
	}
	closed, ok := segment.ParseName('i', filepath.Base(e.Index))
	if !ok {
		return fmt.Errorf("%q is not an index file", e.Index)
	}
	delete(x.stamps, closed)
	j := x.jump
	x.log.Debug("zdb closed a pair", "pair", closed, "dirty", len(e.Dirty), "for_a_cut", j != nil)
	switch {
	case j == nil:
		return nil // because it was full: the next cut copies what changed
	case j.done && closed <= j.closed:
		return j.err // an old event, or the same once more: what it would copy is changing
	case closed < j.from:
		return nil // an old one: zdb does not stand still for it
	}
	x.trimBelow(closed)
	return j.copy(x, closed)
}

// trimEach bounds how many files are looked at while zdb stands still.
const trimEach = 64

// trimBelow trims the files that were closed since the last cut.
func (x *externalSpace) trimBelow(closed uint32) {
	for n, id := 0, closed; n < trimEach; n, id = n+1, id-1 {
		x.trim(id)
		if id <= x.trimmed {
			break
		}
	}
	x.trimmed = closed
}
