package binaries

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/threefoldtech/quantumd/internal/durable"
)

// Install puts programs in place that are not there with the trusted hash. All
// are fetched and checked before the first is put in place, so that an error
// changes nothing: but for one while they are renamed, which the next call
// completes. It gives what Plan gave, with what was changed.
func (in *Installer) Install(ctx context.Context, names ...string) ([]Item, error) {
	if err := os.MkdirAll(in.o.Dir, 0o755); err != nil {
		return nil, &PlaceError{Path: in.o.Dir, Err: err}
	}
	unlock, err := lockDir(in.o.Dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := in.sweep(); err != nil {
		return nil, err
	}
	items, err := in.Plan(ctx, names...)
	if err != nil {
		return nil, err
	}
	fetched, err := in.fetchAll(ctx, items)
	defer func() {
		for _, d := range fetched {
			_ = d.discard() // what was put in place has another name now
		}
	}()
	if err == nil {
		err = in.trust(ctx, fetched)
	}
	if err != nil {
		return items, err
	}
	for _, d := range fetched {
		i := slices.IndexFunc(items, func(it Item) bool { return it.Name == d.want.Name })
		it := &items[i]
		it.Changed = it.Found != d.sum
		if it.Changed {
			err = in.place(d)
		}
		if err != nil {
			return items, err
		}
		it.State, it.Found, it.SHA256, it.Size, it.URL, it.Version = OK, d.sum, d.sum, d.size, d.from.shown, d.told
		if it.By == "" {
			it.By = "lock"
		}
		in.log.Info("program put in place", "program", it.Path, "version", it.Version, "url", it.URL, "sha256", it.SHA256)
	}
	for _, it := range items {
		if err := runnable(it.Path); err != nil {
			return items, err
		}
	}
	return items, in.step("done")
}

// runnable gives a program that is right, and cannot be run, its mode back.
func runnable(path string) error {
	st, err := os.Stat(path)
	if err == nil && st.Mode().Perm() != 0o755 {
		err = os.Chmod(path, 0o755)
	}
	if err != nil {
		return &PlaceError{Path: path, Err: err}
	}
	return nil
}

// fetchAll brings everything that is needed beside its target, and looks at it
// without running it. What it gives has to be discarded, also after an error.
func (in *Installer) fetchAll(ctx context.Context, items []Item) ([]*download, error) {
	var names []string
	for _, it := range items {
		if it.Fetch {
			names = append(names, it.Name)
		}
	}
	wants, err := in.wants(names)
	if err != nil || len(wants) == 0 {
		return nil, err
	}
	sums, err := in.mirrorSums(ctx)
	if err != nil {
		return nil, err
	}
	var out []*download
	for _, w := range wants {
		d, err := in.fetch(ctx, w, sums)
		if err != nil {
			return out, err
		}
		out = append(out, d)
		if err := in.checkProgram(d); err != nil {
			return out, err
		}
	}
	return out, nil
}

// trust asks for the programs that nobody vouched for, has each tell its
// version, and writes down what is trusted from now on.
func (in *Installer) trust(ctx context.Context, fetched []*download) error {
	var list []Trust
	for _, d := range fetched {
		if d.want.sum == "" {
			list = append(list, Trust{Name: d.want.Name, Version: d.version, URL: d.from.shown, Size: d.size, SHA256: d.sum})
		}
	}
	if len(list) > 0 {
		if in.o.Confirm == nil {
			return &UntrustedError{List: list}
		}
		if err := in.o.Confirm(ctx, list); err != nil {
			return err
		}
	}
	for _, d := range fetched {
		if err := in.checkVersion(ctx, d); err != nil {
			return err
		}
	}
	if len(list) == 0 {
		return nil
	}
	locked, err := readLock(in.o.Lock)
	if err != nil {
		return err
	}
	for _, d := range fetched {
		if d.want.sum != "" {
			continue
		}
		e := lockEntry{Name: d.want.Name, Version: d.version, Arch: in.arch, URL: d.from.shown, Size: d.size, SHA256: d.sum, Trusted: time.Now().UTC().Truncate(time.Second)}
		if p := in.o.Pinned[d.want.Name]; p.URL != "" {
			l, err := parseLocation(p.URL)
			if err != nil {
				return err
			}
			e.Pinned = l.shown
		}
		locked = locked.with(e)
	}
	if err := locked.write(in.o.Lock); err != nil {
		return err
	}
	return in.step("trusted")
}

// Remove takes away the programs of the table that have a trusted hash, those
// that were there before them, and what is left over. Other programs under
// these names stay, and so does the lock file. It names what it removed.
func (in *Installer) Remove(ctx context.Context) ([]string, error) {
	unlock, err := lockDir(in.o.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := in.sweep(); err != nil {
		return nil, err
	}
	items, err := in.removable(ctx)
	if err != nil {
		return nil, err
	}
	var gone []string
	for _, path := range items {
		err := os.Remove(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return gone, &PlaceError{Path: path, Err: err}
		}
		gone = append(gone, path)
	}
	if len(gone) == 0 {
		return nil, nil
	}
	return gone, durable.SyncDir(in.o.Dir)
}

// removable lists what Remove may take away.
func (in *Installer) removable(ctx context.Context) ([]string, error) {
	var names []string
	for _, p := range table {
		names = append(names, p.Name)
	}
	items, err := in.Plan(ctx, names...)
	if err != nil {
		return nil, err
	}
	locked, err := readLock(in.o.Lock)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, it := range items {
		ours := it.State == OK || slices.ContainsFunc(locked.Programs, func(e lockEntry) bool { return e.Name == it.Name && e.SHA256 == it.Found })
		if ours {
			out = append(out, it.Path+OldSuffix, it.Path) // the older first: without the newer it would not be found
		}
	}
	return out, nil
}
