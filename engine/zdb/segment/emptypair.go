package segment

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// DropEmptyPairs removes the highest pairs of a namespace that have no entries,
// as long as an older pair is there with its data file, and says how many. The
// real zdb has to start without one: what it writes to an empty pair that it
// found at its start it cannot read until its next file. index and data are the
// folders of the namespace; no zdb may have it open.
func DropEmptyPairs(index, data string) (dropped int, err error) {
	entries, err := os.ReadDir(index)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	sizes := map[uint32]int64{}
	last := uint32(0)
	for _, e := range entries {
		id, ok := ParseName('i', e.Name())
		if !ok || e.IsDir() {
			continue
		}
		st, err := e.Info()
		if err != nil {
			return 0, err
		}
		sizes[id] = st.Size()
		last = max(last, id)
	}
	for ; last > 0 && sizes[last] <= IndexHeaderSize; last-- {
		if size, ok := sizes[last-1]; !ok || size < IndexHeaderSize {
			break // a gap, or damage: not ours to mend
		}
		if _, err := os.Stat(filepath.Join(data, DataName(last-1))); err != nil {
			break // a zdb would make it anew, empty, and forget what it held
		}
		if st, err := os.Stat(filepath.Join(data, DataName(last))); err == nil && st.Size() > DataHeaderSize {
			break // its index is gone
		}
		for _, path := range []string{filepath.Join(data, DataName(last)), filepath.Join(index, IndexName(last))} {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return dropped, err
			}
		}
		dropped++
	}
	return dropped, nil
}

// DropAllEmptyPairs is [DropEmptyPairs] for every namespace of a zdb, given its
// roots.
func DropAllEmptyPairs(indexRoot, dataRoot string) error {
	entries, err := os.ReadDir(indexRoot)
	var errs []error
	for _, e := range entries {
		if e.IsDir() {
			_, err := DropEmptyPairs(filepath.Join(indexRoot, e.Name()), filepath.Join(dataRoot, e.Name()))
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, err)...)
}
