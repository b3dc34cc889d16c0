package hooks

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Spool keeps events that the daemon could not take, one small file each, until
// it handles them. Hook programs put events in while the daemon drains it: no
// lock is needed, and nothing but a full disk makes one wait for the other.
//
// An event is in the spool when Put returned: its file is written under another
// name, synced, renamed, and the folder is synced. Files are taken in the order
// of their arrival. What is not an event, by a damaged disk or a foreign hand,
// is set aside as `<name>.bad` and does not keep the others back.
type Spool struct {
	Dir       string // made with 0700 when it is missing
	MaxEvents int    // more are refused with ErrSpoolFull; zero means 10,000
	MaxBytes  int64  // of all events; zero means 64 MiB
}

// Errors of a spool.
var (
	// ErrSpoolFull says that the spool holds as many events as it may.
	ErrSpoolFull = errors.New("hooks: the spool is full")
	// ErrSpoolFile says that a file of the spool is not an event.
	ErrSpoolFile = errors.New("hooks: not a spooled event")
	// ErrSpoolVersion says that a newer program spooled an event. It is left
	// where it is.
	ErrSpoolVersion = errors.New("hooks: spooled by a newer version")
)

// The file of an event, integers little-endian:
//
//	00 'Q' 'S' | version '1' | i64 time (ns since 1970) | u32 bytes of arguments | arguments as on the wire | u32 CRC-32C of all before
//
// Its name is `<arrival>-<bytes>-<process>-<time>.event`, the first two in hex
// of a fixed width, so that names sort by arrival and tell the sizes.
const (
	spoolMagic   = "\x00QS"
	spoolVersion = '1'
	spoolHead    = len(spoolMagic) + 1 + 8 + 4
	spoolTail    = 4

	spoolSuffix = ".event"
	badSuffix   = ".bad"
	tempPrefix  = ".put-"

	defaultSpoolEvents = 10_000
	defaultSpoolBytes  = 64 << 20
	maxSpoolBad        = 64        // files set aside that are kept
	tempAge            = time.Hour // of a file that a killed program left
	maxArrival         = 1 << 60   // beyond it a name is not ours
)

var spoolTable = crc32.MakeTable(crc32.Castagnoli)

// Spooled is an event in the spool.
type Spooled struct {
	Name  string // of its file
	Event Event
	Time  time.Time // when it was put in, by the wall clock
}

func encodeSpooled(e Event, at time.Time) ([]byte, error) {
	args, err := encodeArgs(e.Args())
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, spoolHead+len(args)+spoolTail)
	b = append(append(b, spoolMagic...), spoolVersion)
	b = binary.LittleEndian.AppendUint64(b, uint64(at.UnixNano()))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(args)))
	b = append(b, args...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, spoolTable)), nil
}

func decodeSpooled(b []byte) (Event, time.Time, error) {
	bad := func(format string, args ...any) (Event, time.Time, error) {
		return Event{}, time.Time{}, fmt.Errorf("%w: "+format, append([]any{ErrSpoolFile}, args...)...)
	}
	if len(b) < spoolHead+spoolTail || string(b[:len(spoolMagic)]) != spoolMagic {
		return bad("%d bytes without its beginning", len(b))
	}
	if v := b[len(spoolMagic)]; v > spoolVersion && v <= '9' { // whatever its form is
		return Event{}, time.Time{}, fmt.Errorf("%w: %q", ErrSpoolVersion, v)
	} else if v != spoolVersion {
		return bad("version %q", v)
	}
	body, sum := b[:len(b)-spoolTail], binary.LittleEndian.Uint32(b[len(b)-spoolTail:])
	if crc32.Checksum(body, spoolTable) != sum {
		return bad("its checksum is wrong")
	}
	at := time.Unix(0, int64(binary.LittleEndian.Uint64(b[len(spoolMagic)+1:])))
	if n := binary.LittleEndian.Uint32(b[spoolHead-4:]); int64(n) != int64(len(body)-spoolHead) {
		return bad("%d bytes of arguments, %d are named", len(body)-spoolHead, n)
	}
	args, err := decodeArgs(body[spoolHead:])
	if err != nil {
		return bad("%w", err)
	}
	e, err := Parse(args)
	if err != nil {
		return bad("%w", err)
	}
	return e, at, nil
}

// Put keeps an event and gives its file's name. Without an error the event
// survives whatever happens to this process or the machine's power.
func (s *Spool) Put(e Event) (string, error) {
	name, err := s.put(e)
	if err != nil {
		return "", fmt.Errorf("hooks: spool %s: %w", e.Kind, err)
	}
	return name, nil
}

// putting makes names of one process differ; others differ by its id.
var putting struct {
	sync.Mutex
	last int64
}

func uniqueTime(now time.Time) int64 {
	putting.Lock()
	defer putting.Unlock()
	putting.last = max(putting.last+1, now.UnixNano())
	return putting.last
}

func (s *Spool) put(e Event) (string, error) {
	now := time.Now()
	content, err := encodeSpooled(e, now)
	if err != nil {
		return "", err
	}
	if err := s.makeDir(); err != nil {
		return "", err
	}
	arrival, err := s.room(int64(len(content)))
	if err != nil {
		return "", err
	}
	own := fmt.Sprintf("%d-%d", os.Getpid(), uniqueTime(now))
	temp := filepath.Join(s.Dir, tempPrefix+own)
	if err := writeSynced(temp, content); err != nil {
		return "", errors.Join(err, removed(temp))
	}
	name := fmt.Sprintf("%016x-%08x-%s%s", arrival, len(content), own, spoolSuffix)
	if err := os.Rename(temp, filepath.Join(s.Dir, name)); err != nil {
		return "", errors.Join(err, removed(temp))
	}
	return name, syncDir(s.Dir)
}

// makeDir makes the folder, durably, and refuses one that others may write to.
func (s *Spool) makeDir() error {
	st, err := os.Stat(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(s.Dir, 0o700); err != nil {
			return err
		}
		if err := syncDir(filepath.Dir(s.Dir)); err != nil {
			return err
		}
		st, err = os.Stat(s.Dir)
	}
	if err != nil {
		return err
	}
	if !st.IsDir() || st.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s is not a private folder (mode %v)", s.Dir, st.Mode())
	}
	return nil
}

// room gives the next arrival, if the event may still come in. Programs that
// ask at the same time may exceed the bounds by one event each.
func (s *Spool) room(size int64) (uint64, error) {
	files, err := s.list()
	if err != nil {
		return 0, err
	}
	st := sum(files)
	limit, bytes := s.MaxEvents, s.MaxBytes
	if limit <= 0 {
		limit = defaultSpoolEvents
	}
	if bytes <= 0 {
		bytes = defaultSpoolBytes
	}
	if st.Events >= limit || st.Bytes+size > bytes {
		return 0, fmt.Errorf("%w: %d events, %d bytes in %s", ErrSpoolFull, st.Events, st.Bytes, s.Dir)
	}
	if len(files) == 0 {
		return 1, nil
	}
	return files[len(files)-1].arrival + 1, nil
}

// Remove takes an event out; one that is not there is no error.
func (s *Spool) Remove(name string) error { return removed(filepath.Join(s.Dir, name)) }

// SpoolStats counts what is in a spool.
type SpoolStats struct {
	Events int
	Bytes  int64
}

// Stats counts the events that wait. A spool that was never used is empty.
func (s *Spool) Stats() (SpoolStats, error) {
	files, err := s.list()
	return sum(files), err
}

type spoolFile struct {
	name    string
	arrival uint64
	size    int64
}

func sum(files []spoolFile) (st SpoolStats) {
	for _, f := range files {
		st.Events++
		st.Bytes += f.size
	}
	return st
}

// list gives the events by their names, in the order of arrival.
func (s *Spool) list() ([]spoolFile, error) {
	names, err := s.names()
	var files []spoolFile
	for _, name := range names {
		if f, ok := parseSpoolName(name); ok {
			files = append(files, f)
		}
	}
	slices.SortFunc(files, func(a, b spoolFile) int { return strings.Compare(a.name, b.name) })
	return files, err
}

func (s *Spool) names() ([]string, error) {
	d, err := os.Open(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

func parseSpoolName(name string) (spoolFile, bool) {
	rest, ok := strings.CutSuffix(name, spoolSuffix)
	if !ok || len(rest) < 26 || rest[16] != '-' || rest[25] != '-' {
		return spoolFile{}, false
	}
	arrival, err := strconv.ParseUint(rest[:16], 16, 64)
	size, sizeErr := strconv.ParseUint(rest[17:25], 16, 32)
	if err != nil || sizeErr != nil || arrival >= maxArrival {
		return spoolFile{}, false
	}
	return spoolFile{name: name, arrival: arrival, size: int64(size)}, true
}

// DrainReport says what a Drain did.
type DrainReport struct {
	Handled int
	Kept    int      // whose handler failed: they are handed over again next time
	Bad     []string // files that were set aside, with the reason
	Newer   int      // of a newer version, left where they are
}

// Drain hands the events over in the order of their arrival, and removes each
// after its handler succeeded. An event whose handler fails stays, and those
// behind it are handed over all the same. It ends when what was there at its
// beginning is done, or ctx ends.
func (s *Spool) Drain(ctx context.Context, handle func(context.Context, Spooled) error) (DrainReport, error) {
	var r DrainReport
	if err := s.sweep(time.Now()); err != nil {
		return r, fmt.Errorf("hooks: spool: %w", err)
	}
	files, err := s.list()
	if err != nil {
		return r, fmt.Errorf("hooks: spool: %w", err)
	}
	var errs []error
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return r, errors.Join(append(errs, err)...)
		}
		if err := s.take(ctx, f, handle, &r); err != nil {
			errs = append(errs, fmt.Errorf("hooks: spooled event %s: %w", f.name, err))
		}
	}
	return r, errors.Join(errs...)
}

func (s *Spool) take(ctx context.Context, f spoolFile, handle func(context.Context, Spooled) error, r *DrainReport) error {
	path := filepath.Join(s.Dir, f.name)
	e, at, err := readSpooled(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // its program took it back
	case errors.Is(err, ErrSpoolVersion):
		r.Newer++
		return nil
	case errors.Is(err, ErrSpoolFile):
		r.Bad = append(r.Bad, fmt.Sprintf("%s: %v", f.name, err))
		return os.Rename(path, path+badSuffix)
	case err != nil: // it cannot be read now: perhaps later
		r.Kept++
		return err
	}
	if err := handle(ctx, Spooled{Name: f.name, Event: e, Time: at}); err != nil {
		r.Kept++
		return fmt.Errorf("%s: %w", e.Kind, err)
	}
	r.Handled++
	return removed(path)
}

func readSpooled(path string) (Event, time.Time, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return Event{}, time.Time{}, err
	}
	if !st.Mode().IsRegular() { // a pipe would keep us for ever
		return Event{}, time.Time{}, fmt.Errorf("%w: it is no file (%v)", ErrSpoolFile, st.Mode())
	}
	f, err := os.Open(path)
	if err != nil {
		return Event{}, time.Time{}, err
	}
	defer f.Close()
	const limit int64 = maxRequest + int64(spoolHead) + spoolTail
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return Event{}, time.Time{}, err
	}
	if int64(len(b)) > limit {
		return Event{}, time.Time{}, fmt.Errorf("%w: more than %d bytes", ErrSpoolFile, limit)
	}
	return decodeSpooled(b)
}

// sweep removes what killed programs left half-written, and the oldest of too
// many files that were set aside.
func (s *Spool) sweep(now time.Time) error {
	names, err := s.names()
	if err != nil {
		return err
	}
	var bad []string
	var errs []error
	for _, name := range names {
		path := filepath.Join(s.Dir, name)
		switch {
		case strings.HasSuffix(name, badSuffix):
			bad = append(bad, name)
		case strings.HasPrefix(name, tempPrefix):
			if st, err := os.Lstat(path); err == nil && now.Sub(st.ModTime()) > tempAge {
				errs = append(errs, removed(path))
			}
		}
	}
	slices.Sort(bad)
	for i := 0; i < len(bad)-maxSpoolBad; i++ {
		errs = append(errs, removed(filepath.Join(s.Dir, bad[i])))
	}
	return errors.Join(errs...)
}

func writeSynced(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func removed(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
