package qsfs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/internal/durable"
)

// Adoption says that the files below a root are those of an older installation,
// which this system takes over: without it, files that have no identity are
// anybody's.
type Adoption struct {
	Root       string `json:"root"`        // the frontend's folder
	ObjectRoot string `json:"object_root"` // what the older zstor cut off paths; empty: nothing
}

// AdoptReport says what an older installation has stored.
type AdoptReport struct {
	Files  int      `json:"files"`   // closed data files
	Stored int      `json:"stored"`  // of them, on the backends with the content that they have here
	Remote int      `json:"remote"`  // of these, only there
	Mend   int      `json:"mend"`    // of these, damaged here: the good copy is brought back when it is needed
	Upload int      `json:"upload"`  // are stored anew after the takeover
	Lost   []string `json:"lost"`    // neither here nor on the backends, at most ten
	LostAt int      `json:"lost_at"` // how many they are
}

const (
	adoptionFile = "adopt.json"
	adoptionList = "adopt-files"
	maxAdoption  = 64 << 10
	lostNamed    = 10
)

func (l Layout) adoption() string     { return filepath.Join(l.State, adoptionFile) }
func (l Layout) adoptionList() string { return filepath.Join(l.State, adoptionList) }

// adopting is what an earlier [System.Adopt] has allowed; nil for nothing.
func (s *System) adopting() *Adoption {
	f, err := os.Open(s.layout.adoption())
	if err != nil {
		return nil
	}
	defer f.Close() //nolint:errcheck // read only
	text, err := io.ReadAll(io.LimitReader(f, maxAdoption))
	a := new(Adoption)
	if err != nil || json.Unmarshal(text, a) != nil || a.Root != s.layout.Root {
		return nil
	}
	return a
}

// Adopt prepares a system that does not run to take over the files of an older
// installation, which may run meanwhile: it asks the backends what they hold of
// each closed data file, and notes what can be relied on. It changes no file of
// the older installation and nothing on the backends. The next Run takes over
// what it finds; without Adopt it refuses files that are not its own.
//
// It fails where the backends do not answer, where the key does not open what
// they hold, and where another frontend has claimed them.
func (s *System) Adopt(ctx context.Context, objectRoot string) (*AdoptReport, error) {
	engine, err := s.openEngine(ctx)
	if err != nil {
		return nil, err
	}
	defer engine.Close() //nolint:errcheck // nothing is under way
	if _, err := os.Lstat(s.layout.identity()); errors.Is(err, fs.ErrNotExist) {
		last, err := s.newEpochs(engine).Highest(ctx, 1)
		if err != nil {
			return nil, fmt.Errorf("a takeover needs the backends: %w", err)
		}
		if last != nil {
			return nil, &PathError{Path: s.layout.Root, Err: fmt.Errorf("another frontend has claimed these backends (epoch %d): %w", last.Epoch, ErrNoIdentity)}
		}
	}
	a := adopter{sys: s, engine: engine, roots: []string{"", objectRoot}, report: &AdoptReport{Lost: []string{}}}
	for _, name := range []string{metaSpace, dataSpace} {
		if err := a.namespace(ctx, name); err != nil {
			return nil, err
		}
	}
	if a.damaged > 0 && a.report.Stored == 0 && a.damaged > a.report.Files/2 { // not one opens: not damage
		return nil, fmt.Errorf("none of %d records on the backends opens: %w", a.damaged, ErrWrongKey)
	}
	return a.report, a.save(Adoption{Root: s.layout.Root, ObjectRoot: objectRoot})
}

// adopter looks at the files of an older installation.
type adopter struct {
	sys    *System
	engine *zstor.Engine
	roots  []string

	mu     sync.Mutex
	report *AdoptReport
	lines  []string

	damaged int // records that do not open
}

// namespace asks for each data file but the highest, which is open.
func (a *adopter) namespace(ctx context.Context, name string) error {
	ids, err := indexIDs(filepath.Join(a.sys.layout.IndexDir(), name))
	if err != nil || len(ids) < 2 {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(legacyWorkers)
	for _, id := range ids[:len(ids)-1] {
		group.Go(func() error { return a.file(ctx, filepath.Join(a.sys.layout.DataDir(), name, segment.DataName(id))) })
	}
	return group.Wait()
}

func (a *adopter) file(ctx context.Context, path string) error {
	obj, err := a.sys.plainObject(ctx, a.engine, path, a.roots)
	stored := err == nil
	damaged := errors.Is(err, zstor.ErrDamaged)
	if err != nil && !damaged && !errors.Is(err, zstor.ErrNotFound) {
		return fmt.Errorf("what the backends hold of %s: %w", path, err)
	}
	here, good, mend := true, false, false
	local, _, err := fileChecksum(ctx, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		here = false
	case err != nil:
		return &PathError{Path: path, Err: err}
	case stored:
		good = local == hex.EncodeToString(obj.Checksum[:])
		if !good {
			if mend, err = a.damagedHere(ctx, path, obj); err != nil {
				return fmt.Errorf("compare %s with what the backends hold: %w", path, err)
			}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.report.Files++
	if damaged {
		a.damaged++
	}
	switch {
	case !here && !stored:
		if a.report.LostAt++; len(a.report.Lost) < lostNamed {
			a.report.Lost = append(a.report.Lost, path)
		}
		return nil
	case mend:
		a.report.Mend++
	case here && !good:
		a.report.Upload++
		return nil
	case !here:
		a.report.Remote++
	}
	a.report.Stored++
	a.lines = append(a.lines, path+" "+hex.EncodeToString(obj.Checksum[:]))
	return nil
}

// damagedHere says whether a local file that differs from its object was damaged:
// closed data files only grow, so one that differs within what was stored, or is
// shorter, was changed by the disk. Records of the real zstor do not tell the
// length: the content itself does.
func (a *adopter) damagedHere(ctx context.Context, path string, obj zstor.Object) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close() //nolint:errcheck // read only
	c := &comparison{local: f}
	if err := a.engine.RetrieveObject(ctx, obj, c); err != nil {
		return false, err
	}
	return c.differs, c.err
}

// comparison is written what a file should begin with.
type comparison struct {
	local   io.Reader
	buf     []byte
	differs bool
	err     error
}

func (c *comparison) Write(p []byte) (int, error) {
	if c.differs || c.err != nil {
		return len(p), nil
	}
	c.buf = slices.Grow(c.buf[:0], len(p))[:len(p)]
	_, err := io.ReadFull(c.local, c.buf)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		c.differs = true
	case err != nil:
		c.err = err
	default:
		c.differs = !bytes.Equal(p, c.buf)
	}
	return len(p), nil
}

// save writes the list first: the adoption is what allows to rely on it.
func (a *adopter) save(what Adoption) error {
	l := a.sys.layout
	if err := os.MkdirAll(l.State, 0o700); err != nil {
		return &PathError{Path: l.State, Err: err}
	}
	slices.Sort(a.lines)
	var list bytes.Buffer
	w := bufio.NewWriter(&list)
	for _, line := range a.lines {
		fmt.Fprintln(w, line) //nolint:errcheck // in memory
	}
	text, err := json.Marshal(what)
	if err = errors.Join(err, w.Flush()); err != nil {
		return err
	}
	if err := durable.WriteFile(l.adoptionList(), list.Bytes(), 0o600); err != nil {
		return &PathError{Path: l.adoptionList(), Err: err}
	}
	if err := durable.WriteFile(l.adoption(), text, 0o600); err != nil {
		return &PathError{Path: l.adoption(), Err: err}
	}
	return nil
}

// plainObject finds an object under its plain path: as an older zstor named it,
// which may have cut a root off.
func (s *System) plainObject(ctx context.Context, engine *zstor.Engine, path string, roots []string) (obj zstor.Object, err error) {
	err = fmt.Errorf("%w: %s", zstor.ErrNotFound, path)
	for i, root := range roots {
		if slices.Contains(roots[:i], root) {
			continue
		}
		plain := zstor.Config{Prefix: s.cfg.Prefix(), Root: root}
		key, keyErr := plain.ObjectKey(path)
		if keyErr != nil {
			continue // outside of that root: nothing is named so
		}
		if obj, err = engine.LookupKey(ctx, key); !errors.Is(err, zstor.ErrNotFound) {
			obj.Path = path
			return obj, err
		}
	}
	return obj, err
}

// FlushZdbfs asks a zdbfs that is none of this system's to write out what it
// holds in memory, which it may leave undone at its end.
func FlushZdbfs(ctx context.Context, mountpoint string) error {
	if !mountedAs(mountpoint, "fuse.zdbfs") {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, snapshotPatience)
	defer cancel()
	answer := make(chan error, 1)
	go func() { answer <- flushZdbfs(mountpoint) }() // ends with the kernel's answer: an ioctl cannot be given up
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s does not answer: %w", mountpoint, ctx.Err())
	}
}
