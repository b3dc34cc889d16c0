package binaries

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/threefoldtech/quantumd/internal/durable"
)

// lockVersion is that of the lock file's format.
const lockVersion = 1

// maxLock bounds what is read of a lock file.
const maxLock = 1 << 20

// lockFile is what was trusted. It is YAML, so that people can read and correct
// it.
type lockFile struct {
	Version  int         `yaml:"version"`
	Programs []lockEntry `yaml:"programs"`
}

// lockEntry is one program that was trusted.
type lockEntry struct {
	Name    string    `yaml:"name"`
	Version string    `yaml:"version"` // of the table; empty: of the configuration's URL
	Arch    string    `yaml:"arch"`
	URL     string    `yaml:"url"`              // without passwords
	Pinned  string    `yaml:"pinned,omitempty"` // the configuration's URL, where it gave one
	Size    int64     `yaml:"size"`
	SHA256  string    `yaml:"sha256"`
	Trusted time.Time `yaml:"trusted"`
}

const lockHead = `# Written by quantumd: programs that were trusted at their first use. A program
# with another hash is refused. An entry that is taken out is asked for anew.
`

// LockPath gives the lock file that belongs to a configuration file: beside it,
// with .binaries.lock in the place of its ending.
func LockPath(config string) string {
	return strings.TrimSuffix(config, filepath.Ext(config)) + ".binaries.lock"
}

var hexSum = regexp.MustCompile(`^[0-9a-f]{64}$`)

func normalSum(s string) string { return strings.ToLower(strings.TrimSpace(s)) }

// parseLock reads a lock file's text.
func parseLock(text []byte) (lockFile, error) {
	var l lockFile
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&l); err != nil {
		if errors.Is(err, io.EOF) {
			return l, errors.New("it is empty")
		}
		return lockFile{}, err
	}
	if l.Version != lockVersion {
		return lockFile{}, fmt.Errorf("version %d is not known here", l.Version)
	}
	for i, e := range l.Programs {
		if e.Name == "" || e.Arch == "" || !hexSum.MatchString(e.SHA256) {
			return lockFile{}, fmt.Errorf("entry %d (%q) needs a name, an arch and a sha256 of 64 hex digits", i+1, e.Name)
		}
	}
	return l, nil
}

// readLock reads the lock file; a missing one is empty.
func readLock(path string) (lockFile, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return lockFile{Version: lockVersion}, nil
	}
	if err != nil {
		return lockFile{}, &LockError{Path: path, Err: err}
	}
	defer f.Close() // read only
	text, err := io.ReadAll(io.LimitReader(f, maxLock+1))
	if err == nil && len(text) > maxLock {
		err = errors.New("it is too large")
	}
	if err != nil {
		return lockFile{}, &LockError{Path: path, Err: err}
	}
	l, err := parseLock(text)
	if err != nil {
		return lockFile{}, &LockError{Path: path, Err: err}
	}
	return l, nil
}

// write replaces the lock file.
func (l lockFile) write(path string) error {
	var b bytes.Buffer
	b.WriteString(lockHead)
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(l), e.Close()); err != nil {
		return &LockError{Path: path, Err: err}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return &LockError{Path: path, Err: err}
	}
	if err := durable.WriteFile(path, b.Bytes(), 0o600); err != nil {
		return &PlaceError{Path: path, Err: err}
	}
	return nil
}

// find gives the entry of a program: of this version of the table, or, for one
// that the configuration names, of its URL.
func (l lockFile) find(name, arch, version, pinned string) *lockEntry {
	i := slices.IndexFunc(l.Programs, func(e lockEntry) bool {
		return e.Name == name && e.Arch == arch && e.Version == version && e.Pinned == pinned
	})
	if i < 0 {
		return nil
	}
	return &l.Programs[i]
}

// with gives the file with an entry in place of the one for the same program.
func (l lockFile) with(e lockEntry) lockFile {
	l.Version = lockVersion
	l.Programs = slices.DeleteFunc(slices.Clone(l.Programs), func(old lockEntry) bool { return old.Name == e.Name && old.Arch == e.Arch })
	l.Programs = append(l.Programs, e)
	slices.SortFunc(l.Programs, func(a, b lockEntry) int { return strings.Compare(a.Name+" "+a.Arch, b.Name+" "+b.Arch) })
	return l
}
