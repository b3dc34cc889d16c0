package store

import (
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"
)

func TestOpenMakesPrivateFiles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "new", "odd ?#%41 name.db")
	s, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	require.NoError(t, s.Queue().Enqueue(t.Context(), item("a", "1")))
	require.Nil(t, s.Replaced())
	names, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, names, 4, "database, -wal, -shm, .lock")
	for _, n := range names {
		st, err := n.Info()
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o600), st.Mode(), n.Name())
	}
	st, err := os.Stat(filepath.Dir(path))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), st.Mode().Perm())
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())

	require.NoError(t, os.Chmod(path, 0o644))
	s, err = Open(t.Context(), path, Options{})
	require.NoError(t, err)
	require.NoError(t, s.Close())
	st, err = os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), st.Mode())
}

func TestOneWriter(t *testing.T) {
	t.Parallel()
	path := tempDB(t)
	s := openFake(t, path, Options{}, newFakeClock())
	require.NoError(t, s.Queue().Enqueue(t.Context(), item("a", "1")))
	_, err := Open(t.Context(), path, Options{})
	require.ErrorIs(t, err, ErrLocked)

	look, err := Open(t.Context(), path, Options{ReadOnly: true})
	require.NoError(t, err)
	require.Len(t, entries(t, look.Queue(), Filter{}), 1)
	require.ErrorIs(t, look.Queue().Enqueue(t.Context(), item("b", "1")), ErrReadOnly)
	require.NoError(t, s.Queue().Enqueue(t.Context(), item("c", "1")))
	require.Len(t, entries(t, look.Queue(), Filter{}), 2, "it sees what the writer did")
	require.NoError(t, look.Close())
}

func TestReadOnlyOfAClosedDatabase(t *testing.T) {
	t.Parallel()
	path := tempDB(t)
	_, err := Open(t.Context(), path, Options{ReadOnly: true})
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = os.Stat(path + ".lock")
	require.ErrorIs(t, err, fs.ErrNotExist, "nothing is made")

	s, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	require.NoError(t, s.Queue().Enqueue(t.Context(), item("a", "1")))
	require.NoError(t, s.Close())
	look, err := Open(t.Context(), path, Options{ReadOnly: true})
	require.NoError(t, err)
	require.Len(t, entries(t, look.Queue(), Filter{}), 1)
	require.NoError(t, look.Close())

	require.NoError(t, os.WriteFile(path, []byte("this is not a database, not at all"), 0o600))
	_, err = Open(t.Context(), path, Options{ReadOnly: true})
	require.True(t, IsCorrupt(err), "%v", err)
	require.FileExists(t, path, "a look moves nothing")
}

func TestDamagedDatabaseIsSetAside(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, path string){
		"garbage": func(t *testing.T, path string) {
			require.NoError(t, os.WriteFile(path, []byte(fmt.Sprintf("%4096s", "garbage")), 0o600))
		},
		"short": func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 9000)) },
		"flipped": func(t *testing.T, path string) {
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			for at := 8192; at < len(b); at += 4096 {
				b[at] ^= 0xff // each page's kind
			}
			require.NoError(t, os.WriteFile(path, b, 0o600))
		},
		"found by the check alone": func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = f.WriteAt([]byte{9}, 39) // the length of the free list
			require.NoError(t, err)
			require.NoError(t, f.Close())
		},
		"table missing": func(t *testing.T, path string) {
			db, err := sql.Open("sqlite", path)
			require.NoError(t, err)
			_, err = db.Exec(`DROP TABLE qsfs_files`)
			require.NoError(t, err)
			require.NoError(t, db.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := tempDB(t)
			s, err := Open(t.Context(), path, Options{})
			require.NoError(t, err)
			var items []Item
			for i := range 500 {
				items = append(items, item(fmt.Sprint("p", i), "1"))
			}
			require.NoError(t, s.Queue().Enqueue(t.Context(), items...))
			require.NoError(t, s.Close())
			damage(t, path)
			damaged, err := os.ReadFile(path)
			require.NoError(t, err)

			s, err = Open(t.Context(), path, Options{})
			require.NoError(t, err)
			defer s.Close()
			require.NotNil(t, s.Replaced())
			require.Regexp(t, `q\.db\.corrupt-\d{8}T\d{6}\.\d{3}$`, s.Replaced().Path)
			kept, err := os.ReadFile(s.Replaced().Path)
			require.NoError(t, err)
			require.Equal(t, damaged, kept, "for whoever wants to look at it")
			require.Empty(t, entries(t, s.Queue(), Filter{}))
			require.NoError(t, s.Queue().Enqueue(t.Context(), items...))
			checkSums(t, s)
		})
	}
}

// What is not damage must not cost the database.
func TestOtherErrorsSetNothingAside(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "folder"), 0o700))
	_, err := Open(t.Context(), filepath.Join(dir, "folder"), Options{})
	require.Error(t, err)
	require.False(t, IsCorrupt(err))
	_, err = Open(t.Context(), filepath.Join(dir, "a.db"), Options{TablePrefix: `x"; DROP`})
	require.Error(t, err)
	found, err := filepath.Glob(filepath.Join(dir, "*corrupt*"))
	require.NoError(t, err)
	require.Empty(t, found)
}

func TestNewerSchemaIsLeftAlone(t *testing.T) {
	t.Parallel()
	path := tempDB(t)
	s, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	_, err = s.DB().ExecContext(t.Context(), `UPDATE qsfs_schema SET version = 99`)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, readOnly := range []bool{false, true} {
		_, err = Open(t.Context(), path, Options{ReadOnly: readOnly})
		var newer *NewerSchemaError
		require.ErrorAs(t, err, &newer)
		require.Equal(t, NewerSchemaError{Have: 99, Want: len(migrations)}, *newer)
		require.NotEmpty(t, newer.Hint())
	}
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, before, after)
}

func TestMigrationFromVersion1(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	path := tempDB(t)
	db, err := connect(path, Options{})
	require.NoError(t, err)
	b, err := newBase(db, DefaultTablePrefix, nil, systemClock())
	require.NoError(t, err)
	require.ErrorIs(t, b.migrate(ctx, 1), errDamaged, "verify asks for the newest tables")
	v, err := b.schemaVersion(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, v)
	require.NoError(t, newQueue(b, 0, 0).Enqueue(ctx, item("a", "1")))
	_, err = Open(ctx, path, Options{ReadOnly: true})
	require.ErrorContains(t, err, "older schema version 1")
	require.NoError(t, db.Close())

	s, err := Open(ctx, path, Options{})
	require.NoError(t, err)
	defer s.Close()
	require.Nil(t, s.Replaced())
	require.Len(t, entries(t, s.Queue(), Filter{}), 1)
	require.NoError(t, s.AddEvent(ctx, Event{Kind: "test"}))
}

// A migration that fails half-way leaves the old version whole.
func TestMigrationIsWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	db, err := connect(tempDB(t), Options{})
	require.NoError(t, err)
	defer db.Close()
	_, err = db.ExecContext(ctx, `CREATE TABLE qsfs_events (x)`) // in the way of version 2
	require.NoError(t, err)
	_, err = NewRetryQueue(ctx, db)
	require.ErrorContains(t, err, "migration to schema version 2")
	var n int
	require.NoError(t, db.DB.QueryRow(`SELECT count(*) FROM sqlite_master WHERE type = 'table'`).Scan(&n))
	require.Equal(t, 1, n)
}

func TestTwoQueuesInOneDatabase(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	sqldb, err := sql.Open("sqlite", "file:"+tempDB(t)+"?_pragma=busy_timeout(5000)")
	require.NoError(t, err)
	db := bun.NewDB(sqldb, sqlitedialect.New())
	defer db.Close()
	a, err := NewRetryQueue(ctx, db, WithTablePrefix("a_"))
	require.NoError(t, err)
	b, err := NewRetryQueue(ctx, db, WithTablePrefix("b_"), WithRetry(time.Millisecond, time.Second))
	require.NoError(t, err)
	require.NoError(t, a.Enqueue(ctx, item("x", "1")))
	claimNone(t, b)
	require.NoError(t, b.Enqueue(ctx, item("x", "1")))
	lost := claim(t, a)
	require.NoError(t, b.Done(ctx, claim(t, b), Result{}))
	st, err := a.Stats(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, st.Uploading)
	require.Zero(t, st.Stored)

	// The same queue again, as after a crash: only its sole user may take leases away.
	again, err := NewRetryQueue(ctx, db, WithTablePrefix("a_"))
	require.NoError(t, err)
	claimNone(t, again)
	again, err = NewRetryQueue(ctx, db, WithTablePrefix("a_"), WithExclusive())
	require.NoError(t, err)
	require.Equal(t, "x", claim(t, again).Item.Path)
	require.ErrorIs(t, a.Done(ctx, lost, Result{}), ErrLeaseLost)
}

func TestUpdateRollsBack(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := openTemp(t, Options{})
	boom := errors.New("boom")
	err := s.update(ctx, func(tx bun.Tx) error {
		require.NoError(t, s.queue.enqueueTx(ctx, tx, []Item{item("a", "1")}))
		return boom
	})
	require.ErrorIs(t, err, boom)
	checkSums(t, s)
	require.Empty(t, entries(t, s.Queue(), Filter{}))
}
