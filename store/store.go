package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"
	_ "modernc.org/sqlite" // the driver `sqlite`
)

// Options tunes a Store. The zero value is ready for use.
type Options struct {
	TablePrefix   string        // what table names begin with; empty means DefaultTablePrefix
	RetryInterval time.Duration // longest delay between two tries; zero means DefaultRetryInterval
	RetryMin      time.Duration // delay after the first failure; zero means DefaultRetryMin
	MaxEvents     int           // events that are kept; zero means 10,000
	ReadOnly      bool          // for a look beside a running or dead daemon: nothing is checked, made, moved or written
	// Durable has each change on the disk when its call returns. Without it a power
	// cut may take the last ones back, as one.
	Durable bool
	Logger  *slog.Logger // nil discards
}

const defaultMaxEvents = 10_000

// Store is one open database. It is safe for concurrent use.
type Store struct {
	*base
	path      string
	maxEvents int
	queue     *RetryQueue
	lock      *flock.Flock // nil when read-only
	replaced  *CorruptError

	closing sync.Once
	closed  error
}

// Open opens the database at path, making it and its folder (0600 in 0700)
// when they are missing. One process at a time may have it open for writing,
// the others get [ErrLocked]; so leases of a process that died are given back.
//
// A damaged database is renamed to `<name>.corrupt-<time>` and an empty one
// takes its place; [Store.Replaced] tells. A database of a newer program is
// left as it is, with a [*NewerSchemaError].
func Open(ctx context.Context, path string, o Options) (*Store, error) {
	s, err := open(ctx, path, o, systemClock())
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	return s, nil
}

func open(ctx context.Context, path string, o Options, c clock) (_ *Store, err error) {
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	if o.TablePrefix == "" {
		o.TablePrefix = DefaultTablePrefix
	}
	if o.MaxEvents <= 0 {
		o.MaxEvents = defaultMaxEvents
	}
	s := &Store{path: path, maxEvents: o.MaxEvents}
	if !o.ReadOnly {
		if err := s.lockFile(); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				_ = s.lock.Close()
			}
		}()
	}
	err = s.load(ctx, o, c)
	if err == nil || o.ReadOnly || !IsCorrupt(err) {
		return s.orNil(err)
	}
	if s.replaced, err = setAside(path, c.wall(), err); err != nil {
		return nil, err
	}
	if err = s.load(ctx, o, c); err == nil {
		s.log.Warn("damaged database replaced by an empty one", "set_aside", s.replaced.Path, "err", s.replaced.Cause)
	}
	return s.orNil(err)
}

func (s *Store) orNil(err error) (*Store, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Store) lockFile() error {
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return err
	}
	s.lock = flock.New(s.path+".lock", flock.SetPermissions(0o600))
	got, err := s.lock.TryLock()
	if err != nil {
		return err
	}
	if !got {
		return ErrLocked
	}
	return nil
}

// load connects, checks and migrates.
func (s *Store) load(ctx context.Context, o Options, c clock) (err error) {
	if err := s.prepareFile(o.ReadOnly); err != nil {
		return err
	}
	db, err := connect(s.path, o)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = db.Close() // nothing was written that must be kept
		}
	}()
	if s.base, err = newBase(db, o.TablePrefix, o.Logger, c); err != nil {
		return err
	}
	if !o.ReadOnly { // a look must be quick: with a million files the check takes seconds
		if err := quickCheck(ctx, db); err != nil {
			return err
		}
	}
	s.queue = newQueue(s.base, o.RetryMin, o.RetryInterval)
	if s.readOnly = o.ReadOnly; s.readOnly {
		return s.checkVersion(ctx)
	}
	if err := s.migrate(ctx, len(migrations)); err != nil {
		return err
	}
	return s.queue.releaseAll(ctx)
}

// prepareFile makes an empty file with the right mode before SQLite would make
// one with another; its journals take the mode over. The file is never opened
// here once SQLite has it: closing it would end SQLite's locks.
func (s *Store) prepareFile(readOnly bool) error {
	st, err := os.Stat(s.path)
	if errors.Is(err, fs.ErrNotExist) && !readOnly {
		f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		return f.Close()
	}
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file", s.path)
	}
	if !readOnly && st.Mode().Perm()&0o077 != 0 {
		return os.Chmod(s.path, 0o600)
	}
	return nil
}

func connect(path string, o Options) (*bun.DB, error) {
	q := url.Values{"_txlock": {"immediate"}}
	pragmas := []string{"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(NORMAL)", "foreign_keys(ON)", "cache_size(-8192)"}
	if o.Durable {
		pragmas[2] = "synchronous(FULL)"
	}
	if o.ReadOnly {
		pragmas = []string{"busy_timeout(5000)", "query_only(1)"}
		q.Set("mode", "ro")
	}
	q["_pragma"] = pragmas
	dsn := (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(4) // one writes, the others read beside it
	db.SetMaxIdleConns(4)
	return bun.NewDB(db, sqlitedialect.New()), nil
}

func quickCheck(ctx context.Context, db *bun.DB) error {
	var answer string
	if err := db.DB.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&answer); err != nil {
		return err
	}
	if answer != "ok" {
		return fmt.Errorf("%w: %s", errDamaged, clip(answer, 200))
	}
	return nil
}

// checkVersion is for a database that is only looked at.
func (s *Store) checkVersion(ctx context.Context) error {
	have, err := s.schemaVersion(ctx)
	if err != nil {
		return err
	}
	if have > len(migrations) {
		return &NewerSchemaError{Have: have, Want: len(migrations)}
	}
	if have < len(migrations) {
		return fmt.Errorf("store: the database has the older schema version %d; it is brought up to date when the daemon starts", have)
	}
	return s.verify(ctx)
}

// setAside renames a damaged database with its journals.
func setAside(path string, now time.Time, cause error) (*CorruptError, error) {
	to := path + ".corrupt-" + now.UTC().Format("20060102T150405.000")
	for i := 1; ; i++ { // never over an earlier one
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			break
		}
		to = fmt.Sprintf("%s.corrupt-%s-%d", path, now.UTC().Format("20060102T150405.000"), i)
	}
	for _, suffix := range []string{"-wal", "-shm", ""} {
		if err := os.Rename(path+suffix, to+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("set damaged database aside: %w", err)
		}
	}
	return &CorruptError{Path: to, Cause: cause}, nil
}

// Replaced tells that the database was damaged and set aside when this store
// was opened; nil when it was not. The caller then reconciles with the local
// files and the backends.
func (s *Store) Replaced() *CorruptError { return s.replaced }

// DB is the database, for other tables beside these.
func (s *Store) DB() *bun.DB { return s.db }

// Queue is the queue of items that are not stored yet.
func (s *Store) Queue() *RetryQueue { return s.queue }

// Close ends every Wait and closes the database.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.queue.shut()
		s.closed = s.db.Close()
		if s.lock != nil {
			s.closed = errors.Join(s.closed, s.lock.Close())
		}
	})
	return s.closed
}
