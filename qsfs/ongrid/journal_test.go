package ongrid

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/store"
)

// The test binary is another program with the journal too.
func TestMain(m *testing.M) {
	if path := os.Getenv("ONGRID_JOURNAL"); path != "" {
		begun(path)
	}
	os.Exit(m.Run())
}

// begun has the turn, and writes a note for each line that it is sent, until it is
// killed.
func begun(path string) {
	j := &journal{path: path}
	_, err := j.Begin(context.Background())
	for in := bufio.NewScanner(os.Stdin); err == nil && in.Scan(); {
		r := row()
		if r.Contract, err = strconv.ParseUint(in.Text(), 10, 64); err == nil {
			err = j.Save(context.Background(), r)
		}
		fmt.Println("saved", in.Text(), err)
	}
	panic(err)
}

// other is another program that has the turn.
type other struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func newOther(t *testing.T, path string) *other {
	t.Helper()
	o := &other{t: t, cmd: exec.Command(os.Args[0])}
	o.cmd.Env = append(os.Environ(), "ONGRID_JOURNAL="+path)
	var err error
	o.in, err = o.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := o.cmd.StdoutPipe()
	require.NoError(t, err)
	o.out = bufio.NewReader(out)
	require.NoError(t, o.cmd.Start())
	t.Cleanup(o.kill)
	return o
}

// save has it note a contract.
func (o *other) save(contract uint64) grid.Row {
	o.t.Helper()
	_, err := fmt.Fprintln(o.in, contract)
	require.NoError(o.t, err)
	line, err := o.out.ReadString('\n')
	require.NoError(o.t, err)
	require.Equal(o.t, fmt.Sprintf("saved %d <nil>\n", contract), line)
	r := row()
	r.Contract = contract
	return r
}

func (o *other) kill() {
	_ = o.cmd.Process.Kill() // a second time says that it has ended
	_ = o.cmd.Wait()
}

func row() grid.Row {
	return grid.Row{Name: "demo_13_data_7", ID: "data0", Role: backend.Data, Node: 7, Farm: 1 << 40, Country: "Belgium", Size: 5 * grid.GiB, Contract: 1 << 50,
		State: grid.Ready, Address: netip.MustParseAddrPort("[400::7]:9900"), Namespace: "13-5-demo_13_data_7", USD: 0.25, Error: "none", Changed: time.UnixMilli(1_700_000_000_123).UTC()}
}

func rows(t *testing.T, path string) []grid.Row {
	t.Helper()
	list, err := (&journal{path: path}).Rows(t.Context())
	require.NoError(t, err)
	for i := range list {
		list[i].Changed = list[i].Changed.UTC()
	}
	return list
}

func TestJournal(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state", "grid.db")
	require.Empty(t, rows(t, path), "none is made by a look")
	require.NoFileExists(t, path)
	j := &journal{path: path}
	require.ErrorIs(t, j.Save(t.Context(), row()), errNoTurn)
	end, err := j.Begin(t.Context())
	require.NoError(t, err)
	first, second := row(), grid.Row{Name: "demo_13_meta_7", Role: backend.Meta, State: grid.Intended, Changed: row().Changed.Add(time.Second)}
	require.NoError(t, j.Save(t.Context(), first))
	require.NoError(t, j.Save(t.Context(), second))
	require.Equal(t, []grid.Row{first, second}, rows(t, path), "beside whoever has the turn")

	_, err = (&journal{path: path}).Begin(t.Context())
	require.ErrorIs(t, err, grid.ErrBusy)
	var hint interface{ Hint() string }
	require.ErrorAs(t, err, &hint)
	require.Contains(t, hint.Hint(), "run the same command again")

	first.State, first.Changed = grid.Gone, first.Changed.Add(time.Minute)
	require.NoError(t, j.Save(t.Context(), first))
	end()
	require.ErrorIs(t, j.Save(t.Context(), row()), errNoTurn)
	require.Equal(t, []grid.Row{second, first}, rows(t, path), "the one that changed last at the end")
	end, err = (&journal{path: path}).Begin(t.Context())
	require.NoError(t, err)
	end()
	st, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode().Perm())
}

// A journal of an older program is brought up to date by whoever looks first; one of
// a newer program is left alone, and is an error.
func TestJournalOfAnotherVersion(t *testing.T) {
	t.Parallel()
	for version, good := range map[int]bool{0: true, 1 << 20: false} {
		path := filepath.Join(t.TempDir(), "grid.db")
		db, err := sql.Open("sqlite", path)
		require.NoError(t, err)
		_, err = db.Exec("CREATE TABLE "+store.DefaultTablePrefix+"schema (version INTEGER NOT NULL); INSERT INTO "+store.DefaultTablePrefix+"schema VALUES (?)", version)
		require.NoError(t, err)
		require.NoError(t, db.Close())
		j := &journal{path: path}
		list, err := j.Rows(t.Context())
		require.Empty(t, list)
		if !good {
			var newer *store.NewerSchemaError
			require.ErrorAs(t, err, &newer)
			_, err = j.Begin(t.Context())
			require.ErrorAs(t, err, &newer)
			continue
		}
		require.NoError(t, err)
		end, err := j.Begin(t.Context())
		require.NoError(t, err)
		require.NoError(t, j.Save(t.Context(), row()))
		end()
		require.Equal(t, []grid.Row{row()}, rows(t, path))
	}
}

// A program is killed between the note and what it asks for next: the note is there,
// and the turn is free.
func TestKilledAfterTheNote(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "grid.db")
	o := newOther(t, path)
	saved := []grid.Row{o.save(7)}
	_, err := (&journal{path: path}).Begin(t.Context())
	require.ErrorIs(t, err, grid.ErrBusy, "of another process")
	require.Equal(t, saved, rows(t, path))
	o.kill()
	require.Equal(t, saved, rows(t, path))
	end, err := (&journal{path: path}).Begin(t.Context())
	require.NoError(t, err)
	end()
}
