package qsfs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"strings"
	"sync"

	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/manifest"
	"github.com/threefoldtech/quantumd/store"
)

// target is one object that a restore reads, or would read if it were made now.
type target struct {
	path    string       // of its file below the zdb root, without version; for manifests the object's own
	ref     manifest.Ref // what must come out of it
	row     *store.File  // of the file, where this is its newest version
	pending bool         // nothing of the newest version is on the backends yet
}

// plain is the path at which the object has its second name; empty for none.
func (t target) plain() string {
	if t.row == nil {
		return ""
	}
	return t.row.Path
}

// targets goes through all objects that the newest checkpoint names, and those
// stored since, in order of their files' paths, from behind a path on. The
// manifests are not among them. It takes memory for one page of rows.
func (s *System) targets(ctx context.Context, after string) iter.Seq2[target, error] {
	return func(yield func(target, error) bool) {
		for f, err := range s.store.Files(ctx, store.FileFilter{After: after}) {
			if err != nil {
				yield(target{}, err)
				return
			}
			for _, t := range s.targetsOf(f) {
				if !yield(t, nil) {
					return
				}
			}
		}
	}
}

// targetsOf gives the objects of one file: its newest version, and the one that
// the newest checkpoint names where that is another one.
func (s *System) targetsOf(f store.File) []target {
	t := target{path: f.Path, row: &f, ref: manifest.Ref{Object: f.ObjectPath, Length: f.Length, Checksum: f.Checksum}}
	t.pending = f.State == store.FilePending || f.Checksum == ""
	out := []target{t}
	if p := s.check.space(f.Namespace); p != nil {
		if ref, ok := p.stored(f.Kind, uint32(f.FileID)); ok && (t.pending || ref.Object != f.ObjectPath) {
			out = append(out, target{path: f.Path, ref: ref})
		}
	}
	return out
}

// manifests gives the objects that the newest head leads to before any file:
// its manifest, and that one's base. An error is of the head, or tells that the
// base cannot be known because the manifest cannot be read.
func (s *System) manifests(ctx context.Context) ([]target, error) {
	h, err := s.ownHead(ctx)
	if err != nil || h == nil {
		return nil, err
	}
	out := []target{{path: h.Manifest.Object, ref: h.Manifest}}
	m, err := loadOneManifest(ctx, s.engine, s.layout.Root, h.Manifest)
	if err != nil {
		return out, &manifestError{err}
	}
	if m.Base != nil {
		out = append(out, target{path: m.Base.Object, ref: *m.Base})
	}
	return out, nil
}

// manifestError: the newest manifest cannot be read, so that its base is not known.
type manifestError struct{ err error }

func (e *manifestError) Error() string {
	return "the manifest of the newest checkpoint: " + e.err.Error()
}
func (e *manifestError) Unwrap() error { return e.err }

// objectCount is how many objects targets gives, about.
func (s *System) objectCount() int64 {
	n := 0
	for _, p := range s.spaces {
		p.mu.Lock()
		n += p.whole.Data.Count() + p.whole.Index.Count() + 1
		p.mu.Unlock()
	}
	return int64(n)
}

// UnknownPathError says that a path is neither in the mount nor below the zdb root.
type UnknownPathError struct{ Path string }

func (e *UnknownPathError) Error() string {
	return fmt.Sprintf("%s: no such file in the mount, and none of the frontend's zdb", e.Path)
}

// Hint names the remedy.
func (e *UnknownPathError) Hint() string {
	return "give a path below the mountpoint, or one like data/zdbfs-data/d17 below the zdb root"
}

// belowRoot gives the path of a file of the zdb below its root; false for paths
// that are somewhere else.
func (s *System) belowRoot(path string) (string, bool) {
	if filepath.IsAbs(path) {
		rel, err := filepath.Rel(s.layout.Root, path)
		if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
			return "", false
		}
		path = rel
	}
	path, _, _ = strings.Cut(filepath.Clean(path), "@")
	for _, dir := range []string{"data/", "index/", "qsfs/"} {
		if strings.HasPrefix(path, dir) {
			return path, true
		}
	}
	return "", false
}

// ordered runs work for what seq gives, at most so many at a time, and hands the
// results to done in seq's order. It ends with the first error of seq or done.
func ordered[T, R any](ctx context.Context, seq iter.Seq2[T, error], workers int, work func(context.Context, T) R, done func(R) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	results := make(chan chan R, workers)
	var seqErr error
	running.Go(func() {
		defer close(results)
		for v, err := range seq {
			if err != nil {
				seqErr = err
				return
			}
			out := make(chan R, 1)
			select { // room: one of the workers is done
			case results <- out:
			case <-ctx.Done():
				return
			}
			running.Go(func() { out <- work(ctx, v) })
		}
	})
	for out := range results {
		r := <-out
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := done(r); err != nil {
			return err
		}
	}
	if seqErr != nil {
		return seqErr
	}
	return ctx.Err()
}

// maxDamage bounds the list of one report; the counters count all.
const maxDamage = 1000

func addDamage(list []client.Damage, d ...client.Damage) []client.Damage {
	for _, one := range d {
		if len(list) < maxDamage {
			list = append(list, one)
		}
	}
	return list
}

// isUnknown says whether an error tells only that nobody answered.
func isUnknown(err error) bool {
	return err != nil && !isLost(err) && !errors.Is(err, store.ErrNotFound)
}
