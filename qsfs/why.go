package qsfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"syscall"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/store"
)

// behind is which files of the zdb hold what is at a path.
type behind struct {
	paths  []string // below the zdb root, those with the content first
	ino    uint64   // zero: the path is itself a file of the zdb
	bytes  int64
	safe   string
	memory int // blocks that are in no file yet
}

// filesBehind finds the files of the zdb behind a path of the mount, absolute or
// below it, or takes one below the zdb root as it is.
func (s *System) filesBehind(ctx context.Context, path string) (*behind, error) {
	if rel, ok := s.belowRoot(path); ok {
		if b, err := s.zdbFile(ctx, rel); err == nil || !errors.As(err, new(*UnknownPathError)) || filepath.IsAbs(path) {
			return b, err
		}
	}
	name := path
	if filepath.IsAbs(path) {
		rel, err := filepath.Rel(s.cfg.QSFSMountpoint, path)
		if s.opts.noMount || err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
			return nil, &UnknownPathError{Path: path}
		}
		name = rel
	}
	a, err := s.walk(ctx, name)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR) {
		return nil, &UnknownPathError{Path: path}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s.inodeFiles(ctx, a)
}

func (s *System) walk(ctx context.Context, name string) (tree.Attr, error) {
	if s.tree == nil { // it is in a zdbfs beside this process
		return tree.Attr{}, &UnknownPathError{Path: name}
	}
	a, err := s.tree.Getattr(ctx, tree.Root)
	for _, part := range strings.Split(filepath.Clean("/"+name), "/") {
		if err == nil && part != "" {
			a, err = s.tree.Lookup(ctx, a.Ino, part)
		}
	}
	return a, err
}

// zdbFile takes a file of the zdb that is known, or here.
func (s *System) zdbFile(ctx context.Context, rel string) (*behind, error) {
	row, err := s.store.File(ctx, rel)
	b := &behind{paths: []string{rel}, bytes: row.Length}
	if err == nil || !errors.Is(err, store.ErrNotFound) {
		return b, err
	}
	st, err := os.Stat(s.objectPath(rel))
	if err != nil || !st.Mode().IsRegular() {
		return nil, &UnknownPathError{Path: rel}
	}
	b.bytes = st.Size()
	return b, nil
}

// inodeFiles lists data files with the blocks of an inode and its records, and
// the index files that lead there.
func (s *System) inodeFiles(ctx context.Context, a tree.Attr) (*behind, error) {
	meta, data, memory, err := s.tree.Records(ctx, a.Ino)
	if err != nil {
		return nil, err
	}
	b := &behind{ino: a.Ino, bytes: a.Size, safe: s.tree.SafeState(a.Ino), memory: memory}
	for _, part := range []struct {
		space *space
		ids   []uint64
	}{{s.check.space(dataSpace), data}, {s.check.space(metaSpace), meta}} {
		datas, indexes := map[uint32]bool{}, map[uint32]bool{}
		for _, id := range part.ids {
			d, i, err := part.space.ns.Where(key(id))
			if errors.Is(err, backend.ErrNotFound) {
				continue // changed meanwhile
			}
			if err != nil {
				return nil, err
			}
			datas[d], indexes[i] = true, true
		}
		for _, id := range sortedKeys(datas) {
			b.paths = append(b.paths, part.space.dataPath(id))
		}
		for _, id := range sortedKeys(indexes) {
			b.paths = append(b.paths, part.space.indexPath(id))
		}
	}
	return b, nil
}

func sortedKeys(m map[uint32]bool) []uint32 {
	out := make([]uint32, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

const (
	maxWhyFiles  = 200 // whose backends are asked
	whyWorkers   = 8
	whyEvents    = 50
	eventsPerWhy = 10 // of one file
)

// Why explains where the content of one path is: a path of the mount, or a file
// below the zdb root. It asks the backends for the shards of each file.
func (s *System) Why(ctx context.Context, path string) (*client.Why, error) {
	if err := s.serving(); err != nil {
		return nil, err
	}
	b, err := s.filesBehind(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("why: %w", err)
	}
	why := &client.Why{Schema: client.SchemaVersion, Path: path, Safe: b.safe, Bytes: b.bytes, Notes: []string{}, Events: []client.Event{}}
	why.Files = make([]client.WhyFile, len(b.paths))
	errs := make([]error, len(b.paths))
	room := make(chan struct{}, whyWorkers)
	var asking sync.WaitGroup
	for i, p := range b.paths {
		asking.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			why.Files[i], errs[i] = s.whyFile(ctx, p, i < maxWhyFiles)
		})
	}
	asking.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("why: %w", err)
	}
	if err := s.whyEvents(ctx, why); err != nil {
		return nil, err
	}
	s.whyNotes(why, b)
	return why, ctx.Err()
}

// whyFile tells what is known of one data or index file.
func (s *System) whyFile(ctx context.Context, path string, ask bool) (client.WhyFile, error) {
	f := client.WhyFile{Path: path}
	if st, err := os.Stat(s.objectPath(path)); err == nil {
		f.Local, f.Bytes = true, st.Size()
	}
	row, err := s.store.File(ctx, path)
	if errors.Is(err, store.ErrNotFound) {
		f.State = "open"
		return f, nil
	}
	if err != nil {
		return f, err
	}
	f.State, f.Bytes, f.Tries, f.LastError, f.Verified = string(row.State), row.Length, row.Tries, row.LastError, row.VerifiedAt
	t := s.targetsOf(row)
	newest := t[len(t)-1] // what a restore would read now
	if !newest.pending {
		f.Object = newest.ref.Object
	}
	for e, err := range s.store.Queue().List(ctx, store.Filter{Path: path}) {
		if err != nil {
			return f, err
		}
		f.State, f.Tries, f.NextTry = string(e.State), e.Tries, e.NextTry
		if e.LastError != "" {
			f.LastError = e.LastError
		}
	}
	if s.isOpen(path) {
		f.State = "open"
	}
	if ask && f.Object != "" {
		s.whyShards(ctx, &f)
	}
	return f, nil
}

// isOpen says whether a file is one of the pair that is written now.
func (s *System) isOpen(path string) bool {
	for _, p := range s.spaces {
		files, err := p.ns.Pairs()
		if err == nil && files.HasOpen && (path == p.dataPath(files.Open) || path == p.indexPath(files.Open)) {
			return true
		}
	}
	return false
}

// whyShards asks the backends.
func (s *System) whyShards(ctx context.Context, f *client.WhyFile) {
	report, err := s.engine.Verify(ctx, s.objectPath(f.Object), zstor.VerifyOptions{})
	if err != nil {
		f.LastError = joinWords(f.LastError, err.Error())
		if isLost(err) && !f.Local {
			f.State = "lost"
		}
		return
	}
	for _, shard := range report.Shards {
		f.Shards = append(f.Shards, client.WhyShard{Index: shard.Index, Backend: nameOf(shard.Backend), State: string(shard.State)})
	}
	for i, m := range report.Meta {
		f.Meta = append(f.Meta, client.WhyShard{Index: i, Backend: nameOf(m.Backend), State: string(m.State)})
	}
	if !report.Readable() && isLost(fewShards(report)) {
		f.State = "damaged"
		if !f.Local {
			f.State = "lost"
		}
	}
}

func nameOf(b backend.Backend) string {
	if b.ID != "" {
		return b.ID
	}
	return b.Address.String()
}

// whyEvents adds what happened to any of the files, the newest first.
func (s *System) whyEvents(ctx context.Context, why *client.Why) error {
	for _, f := range why.Files[:min(len(why.Files), maxWhyFiles)] {
		list, err := s.Events(ctx, f.Path, eventsPerWhy)
		if err != nil {
			return err
		}
		why.Events = append(why.Events, list.Events...)
	}
	sort.Slice(why.Events, func(i, j int) bool { return why.Events[i].ID > why.Events[j].ID })
	why.Events = why.Events[:min(len(why.Events), whyEvents)]
	return nil
}

// whyNotes says in words what comes next.
func (s *System) whyNotes(why *client.Why, b *behind) {
	note := func(format string, args ...any) { why.Notes = append(why.Notes, fmt.Sprintf(format, args...)) }
	if b.memory > 0 {
		note("%d blocks are still in memory: the next fsync, or a few seconds, write them to the open data file", b.memory)
	}
	states := map[string]int{}
	for _, f := range why.Files {
		states[f.State]++
	}
	if n := states["open"]; n > 0 && b.safe != tree.Safe {
		note("%d files are open, or not cut yet: the next checkpoint stores them, within %s, or at once with `quantumd sync`", n, s.settings().RotateTime())
	}
	if n := states[string(store.ItemFailed)]; n > 0 {
		note("%d files could not be stored yet and are tried again: `quantumd queue retry` does it now", n)
	}
	if n := states[string(store.FileDegraded)]; n > 0 {
		note("%d files have their metadata on three of four backends: it is completed when the fourth answers", n)
	}
	if n := states[string(store.FileDamaged)] + states["lost"]; n > 0 {
		note("%d files cannot be read from the backends: `quantumd scrub --repair` makes anew what can be", n)
	}
	for id, state := range s.downBackends() {
		for _, f := range why.Files {
			if slices.ContainsFunc(slices.Concat(f.Shards, f.Meta), func(w client.WhyShard) bool { return w.Backend == id }) {
				note("%s is %s; what it holds of this path is made anew elsewhere if it does not come back", id, state)
				break
			}
		}
	}
	if !slices.ContainsFunc(why.Files, func(f client.WhyFile) bool { return !f.Local }) {
		return
	}
	note("some data files are not on this machine: the next read fetches them")
}
