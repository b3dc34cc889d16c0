package qsfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/engine/zdb/server"
)

// zdbMode is the mode that all namespaces of the frontend's zdb are to have; zero
// where each has its own: older installations ran a zdb without --mode, whose
// default namespace is in user mode, and a zdb with a mode refuses others. The
// namespaces of the file system are sequential in any case.
func (s *System) zdbMode() (server.Mode, error) {
	entries, err := os.ReadDir(s.layout.IndexDir())
	if errors.Is(err, fs.ErrNotExist) {
		return server.Sequential, nil
	}
	if err != nil {
		return 0, &PathError{Path: s.layout.IndexDir(), Err: err}
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if mode, ok := namespaceMode(filepath.Join(s.layout.IndexDir(), e.Name())); ok && mode != server.Sequential {
			return 0, nil
		}
	}
	return server.Sequential, nil
}

// namespaceMode is what the first index file of a namespace says. One that cannot
// be read says nothing here: whoever opens the namespace tells.
func namespaceMode(dir string) (server.Mode, bool) {
	f, err := os.Open(filepath.Join(dir, segment.IndexName(0)))
	if err != nil {
		return 0, false
	}
	defer f.Close() //nolint:errcheck // read only
	b := make([]byte, segment.IndexHeaderSize)
	if _, err := io.ReadFull(f, b); err != nil {
		return 0, false
	}
	_, mode, err := segment.DecodeIndexHeader(b)
	return mode, err == nil
}
