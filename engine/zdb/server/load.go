package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/threefoldtech/quantumd/engine/zdb/segment"
)

// load brings the namespace into memory from its folders, which exist. What a
// crash left behind is completed or cut; damage that would lose more is an
// error matching ErrDamaged. The caller keeps writers and checkpoints away.
func (n *Namespace) load(ctx context.Context) error {
	if err := n.loadDescriptor(); err != nil {
		return err
	}
	l, err := n.loadFiles(ctx)
	if err != nil {
		if l != nil {
			l.close()
		}
		return fmt.Errorf("zdb: load namespace %s: %w", n.name, err)
	}
	n.install(l)
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.abandonEmptyLocked() // nothing of what was in it survived
}

func (n *Namespace) loadFiles(ctx context.Context) (*loader, error) {
	c, cerr := readCheckpoint(n.indexDir)
	if cerr != nil {
		// The checkpoint saves time; the files alone are enough.
		n.srv.log.Warn("checkpoint is unreadable, rebuilding the index", "namespace", n.name, "err", cerr)
		if err := n.rebuild(ctx); err != nil {
			return nil, err
		}
	}
	var mode Mode
	if c != nil && c.flushing {
		if err := n.removeFiles(); err != nil {
			return nil, err
		}
		c, mode = nil, c.mode
	}
	d, err := scanDir(n.indexDir, n.dataDir)
	if err != nil {
		return nil, err
	}
	dropped, err := n.dropEmptyPair(c, &d)
	if err != nil {
		return nil, err
	}
	l := &loader{n: n, files: d, data: newDataCache(n.dataDir), doubtful: cerr != nil || c != nil, dropped: dropped, newMode: mode}
	switch {
	case len(d.index) == 0:
		err = l.withoutIndex()
	default:
		var ours bool
		if c != nil {
			ours, err = l.ours(c)
		}
		switch {
		case err != nil:
		case ours:
			err = l.resume(ctx, c)
		default:
			err = l.adopt(ctx)
		}
	}
	return l, err
}

// rebuild makes the index anew from the data files: without its checkpoint it
// may lack changes in place. Where data files are missing that cannot be done,
// and the index is taken as it is.
func (n *Namespace) rebuild(ctx context.Context) error {
	mode, err := readIndexHeader(n.IndexPath(0), 0)
	if err == nil {
		err = reindex(ctx, n.srv.disk, n.indexDir, n.dataDir, mode)
	}
	if errors.Is(err, ErrMissing) || errors.Is(err, ErrDamaged) || errors.Is(err, os.ErrNotExist) {
		n.srv.log.Error("index cannot be rebuilt, recent changes may be missing from it", "namespace", n.name, "err", err)
		return nil
	}
	return err
}

// removeFiles deletes all pairs, index files first: what is left of data files
// after a crash is then known to be garbage by the checkpoint.
func (n *Namespace) removeFiles() error {
	for dir, prefix := range map[string]byte{n.indexDir: 'i', n.dataDir: 'd'} {
		m, err := sizes(dir, prefix)
		if err != nil {
			return err
		}
		for id := range m {
			name := segment.IndexName(id)
			if prefix == 'd' {
				name = segment.DataName(id)
			}
			if err := removeIfThere(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// install makes what was loaded current.
func (n *Namespace) install(l *loader) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closeFilesLocked()
	n.index, n.data = l.index, l.data
	n.lastData = l.lastData
	n.dataOff = l.dataOff
	if l.active != nil {
		n.setActiveLocked(l.data.add(l.index.lastID(), l.active, true), l.dataOff)
	}
	n.broken = nil
	n.synced.Store(n.writeSeq) // the checkpoint that follows syncs what was replayed
	if l.replayed {
		n.writeSeq++
	}
	n.index.inserts = max(n.index.inserts, n.index.slots)
	n.switched = n.srv.disk.now()
}

// closeFilesLocked lets go of all files; reads that hold one finish on it.
func (n *Namespace) closeFilesLocked() {
	if n.active != nil {
		n.data.unpin(n.active)
		n.data.release(n.active)
		n.active = nil
	}
	if n.index != nil {
		n.index.cache.closeAll()
		n.data.closeAll()
	}
}

func (n *Namespace) loadDescriptor() error {
	b, err := os.ReadFile(n.DescriptorPath())
	n.mu.Lock()
	defer n.mu.Unlock()
	if errors.Is(err, os.ErrNotExist) || (err == nil && len(b) < 15) {
		n.desc = segment.Descriptor{Name: n.name, Public: true}
		return n.saveDescriptor(n.desc)
	}
	if err != nil {
		return err
	}
	d, err := segment.DecodeDescriptor(b)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, n.DescriptorPath(), err)
	}
	d.Name = n.name
	n.desc = d
	return nil
}

func (n *Namespace) saveDescriptor(d segment.Descriptor) error {
	return n.srv.disk.replaceFile(n.DescriptorPath(), d.Append(nil))
}

// dropEmptyPair removes a highest pair that holds nothing when an older one
// exists: the next write makes it again.
func (n *Namespace) dropEmptyPair(c *checkpointFile, d *folder) (dropped bool, err error) {
	for {
		if len(d.index) < 2 {
			return dropped, nil
		}
		id := uint32(len(d.index) - 1)
		size, _, err := d.dataSize(id)
		if err != nil {
			return dropped, err
		}
		if d.index[id] > segment.IndexHeaderSize || size > segment.DataHeaderSize {
			return dropped, nil
		}
		if c != nil && int(id) < len(c.lengths) && c.lengths[id] > segment.IndexHeaderSize {
			return dropped, nil // it had entries: damage, not an empty pair
		}
		if err := errors.Join(removeIfThere(n.DataPath(id)), removeIfThere(n.IndexPath(id))); err != nil {
			return dropped, err
		}
		d.index = d.index[:id]
		dropped = true
	}
}

// folder is what files a namespace has on disk. Data files are looked at one by
// one where they matter: there are many, and most loads need the last one only.
type folder struct {
	index   []int64 // length by id, without gaps
	dataDir string
}

func (d folder) dataSize(id uint32) (size int64, there bool, err error) {
	size, there, err = fileSize(filepath.Join(d.dataDir, segment.DataName(id)))
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return size, there, err
}

func scanDir(indexDir, dataDir string) (folder, error) {
	d := folder{dataDir: dataDir}
	ids, err := fileIDs(indexDir, 'i')
	if err != nil {
		return d, err
	}
	// Sorted, they count from zero: with a gap, one stands too low.
	for i, id := range ids {
		if uint32(i) != id {
			return d, fmt.Errorf("%w: %s is missing, but later index files are there",
				ErrDamaged, filepath.Join(indexDir, segment.IndexName(uint32(i))))
		}
	}
	d.index = make([]int64, len(ids))
	for _, id := range ids {
		path := filepath.Join(indexDir, segment.IndexName(id))
		size, there, err := fileSize(path)
		if err == nil && !there {
			err = fmt.Errorf("%s is gone", path)
		}
		if err != nil {
			return d, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		d.index[id] = size
	}
	return d, nil
}

// fileIDs lists the ids of the files of one kind in a folder, in order.
func fileIDs(dir string, prefix byte) ([]uint32, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var ids []uint32
	for {
		names, err := f.Readdirnames(1024)
		for _, name := range names {
			if id, ok := segment.ParseName(prefix, name); ok {
				ids = append(ids, id)
			}
		}
		if err == io.EOF {
			slices.Sort(ids)
			return ids, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func sizes(dir string, prefix byte) (map[uint32]int64, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	m := map[uint32]int64{}
	for _, e := range list {
		id, ok := segment.ParseName(prefix, e.Name())
		if !ok {
			continue
		}
		fi, err := os.Stat(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		if !fi.Mode().IsRegular() {
			return nil, fmt.Errorf("%w: %s is not a regular file", ErrDamaged, filepath.Join(dir, e.Name()))
		}
		m[id] = fi.Size()
	}
	return m, nil
}

// loader builds the state of a namespace.
type loader struct {
	n        *Namespace
	files    folder
	index    *index
	data     *fileCache
	active   *os.File // nil: the highest pair is closed
	dataOff  int64
	lastData uint32
	replayed bool
	newMode  Mode // of a fresh namespace; zero: the server's, else user
	dropped  bool // an empty pair above was removed
	lenient  bool // a deletion may be in the index already
	doubtful bool // there was a checkpoint, but it may not fit
}

func (l *loader) close() {
	if l.index != nil {
		l.index.cache.closeAll()
	}
	if l.active != nil {
		l.active.Close()
	}
	l.data.closeAll()
}

func (l *loader) mode() Mode {
	switch {
	case l.newMode != 0:
		return l.newMode
	case l.n.srv.o.Mode != 0:
		return l.n.srv.o.Mode
	}
	return User
}

// fresh makes the first pair of a new namespace: it says the mode.
func (l *loader) fresh() error {
	l.index = newIndex(l.n.indexDir, l.mode())
	f, err := createData(l.data, 0)
	if err != nil {
		return err
	}
	l.active, l.dataOff = f, segment.DataHeaderSize
	if err := l.n.srv.disk.syncDir(l.n.dataDir); err != nil {
		return err
	}
	return l.index.create()
}

// withoutIndex makes the first pair of a namespace that has no index files, also
// after a crash that left a first data file without entries.
func (l *loader) withoutIndex() error {
	data, err := sizes(l.n.dataDir, 'd')
	if err != nil {
		return err
	}
	for _, size := range data {
		if size > segment.DataHeaderSize {
			return fmt.Errorf("%w: %s has data files but no index: rebuild it with Reindex", ErrDamaged, l.n.indexDir)
		}
	}
	for id := range data {
		if err := os.Remove(l.data.path(id)); err != nil {
			return err
		}
	}
	return l.fresh()
}

// ours says whether the files can be what this server left when it wrote c, or
// later, before a crash. A real zdb that ran since is seen by its pairs, or
// by files that changed after a clean end.
func (l *loader) ours(c *checkpointFile) (bool, error) {
	have, want := l.files.index, c.lengths
	last := len(want) - 1
	if last < 0 || len(have) < len(want)-1 || len(have) > len(want)+1 || (len(have) > len(want) && !c.closed) {
		return false, nil
	}
	for i, length := range want {
		if i < len(have) && have[i] < length || i != last && have[i] != length {
			return false, nil
		}
	}
	if len(have) < len(want) { // dropEmptyPair took it
		return want[last] <= segment.IndexHeaderSize, nil
	}
	size, there, err := l.files.dataSize(uint32(last))
	if err != nil {
		return false, err
	}
	if c.closed {
		return (!there || c.dataOff == 0 || size == c.dataOff) && (!c.clean || len(have) == len(want)) && have[last] == want[last], nil
	}
	return there && size >= c.dataOff && (!c.clean || (size == c.dataOff && have[last] == want[last])), nil
}

// openIndex checks the headers of the index files and takes them in with the
// given lengths. A last file without a whole header gets one. Of files that our
// own checkpoint vouches for (known), some at both ends are enough: half a million
// need not be opened at each start.
func (l *loader) openIndex(lengths []int64, known bool) error {
	const some = 8
	for id := range lengths {
		if known && id >= some && id < len(lengths)-some {
			continue
		}
		m, err := l.indexHeader(uint32(id), id == len(lengths)-1)
		if err != nil {
			return err
		}
		if l.index == nil {
			if want := l.n.srv.o.Mode; want != 0 && m != want {
				return fmt.Errorf("%w: %s is in mode %v, the server in mode %v",
					ErrOptions, l.n.IndexPath(uint32(id)), m, want)
			}
			l.index = newIndex(l.n.indexDir, m)
			l.index.files = make([]indexFile, 0, len(lengths)+len(lengths)/8+1)
		}
		l.index.mode = m // as the reference does: the last one wins
	}
	return nil
}

func (l *loader) indexHeader(id uint32, last bool) (Mode, error) {
	f, err := os.OpenFile(l.n.IndexPath(id), os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b := make([]byte, segment.IndexHeaderSize)
	k, err := f.ReadAt(b, 0)
	if k < len(b) && last && l.files.index[id] < segment.IndexHeaderSize {
		m := l.mode()
		if l.index != nil {
			m = l.index.mode
		}
		if err := f.Truncate(0); err != nil {
			return 0, err
		}
		_, err := f.WriteAt(segment.AppendIndexHeader(nil, id, m), 0)
		l.files.index[id] = segment.IndexHeaderSize
		return m, err
	}
	if k < len(b) {
		return 0, fmt.Errorf("%w: %s has no whole header (%w)", ErrDamaged, f.Name(), err)
	}
	got, m, err := segment.DecodeIndexHeader(b)
	if err != nil {
		return 0, fmt.Errorf("%w: %s: %w", ErrDamaged, f.Name(), err)
	}
	if got != id {
		return 0, fmt.Errorf("%w: %s says that it is file %d", ErrDamaged, f.Name(), got)
	}
	return m, nil
}
