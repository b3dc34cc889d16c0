package store

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const crashEnv = "STORE_TEST_CRASH_CHILD" // path of the database

func TestMain(m *testing.M) {
	if path := os.Getenv(crashEnv); path != "" {
		if err := crashChild(path); err != nil {
			fmt.Println("error", err)
		}
		os.Exit(1) // it should have been killed
	}
	os.Exit(m.Run())
}

// crashChild makes checkpoints, stores their items and commits them, and says
// what it has done, until it is killed.
func crashChild(path string) error {
	ctx := context.Background()
	s, err := Open(ctx, path, Options{})
	if err != nil {
		return err
	}
	if s.Replaced() != nil {
		return s.Replaced()
	}
	fmt.Println("open")
	seq := int64(1)
	if last, err := s.LatestCheckpoint(ctx); err == nil {
		seq = last.Seq + 1
	}
	for ; ; seq++ {
		var items []Item
		var files []File
		for i := range 5 {
			p := fmt.Sprintf("p-%d-%d", seq, i)
			items = append(items, item(p, "1"))
			files = append(files, File{Path: p, Version: "1", Kind: KindData, State: FilePending})
		}
		if err := s.BeginCheckpoint(ctx, Checkpoint{Seq: seq}, items, files); err != nil {
			return err
		}
		fmt.Println("begun", seq)
		for {
			l, ok, err := s.Queue().Claim(ctx, "child", time.Hour)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if err := s.MarkStored(ctx, l.Item.Path, l.Item.Version, Stored{ObjectPath: "object", Checksum: "sum", State: FileStored}); err != nil {
				return err
			}
			fmt.Println("stored", l.Item.Path)
		}
		if err := s.CommitCheckpoint(ctx, seq); err != nil {
			return err
		}
		fmt.Println("committed", seq)
	}
}

// A process is killed again and again in the middle of its work: what it said
// that it had done is done, and the rest can be claimed at once.
func TestKill(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	path := tempDB(t)
	rnd := rand.New(rand.NewPCG(7, 7))
	said := map[string]bool{}
	for range 4 {
		killed(t, path, 20+rnd.IntN(40), said)
		s, err := Open(ctx, path, Options{})
		require.NoError(t, err)
		require.Nil(t, s.Replaced())
		require.Empty(t, entries(t, s.Queue(), Filter{State: ItemUploading}), "leases are given back")
		checkSums(t, s)
		for line := range said {
			what, subject, _ := strings.Cut(line, " ")
			switch what {
			case "stored":
				f, err := s.File(ctx, subject)
				require.NoError(t, err)
				require.Equal(t, FileStored, f.State)
			case "committed":
				var state string
				require.NoError(t, s.db.DB.QueryRow(s.q(`SELECT state FROM {checkpoints} WHERE seq = ?`), subject).Scan(&state))
				require.Equal(t, "committed", state)
			case "error":
				t.Fatal(line)
			}
		}
		pendingFiles := 0
		for f, err := range s.Files(ctx, FileFilter{State: FilePending}) {
			require.NoError(t, err)
			require.Len(t, entries(t, s.Queue(), Filter{Path: f.Path}), 1, "pending and not in the queue")
			pendingFiles++
		}
		require.Len(t, entries(t, s.Queue(), Filter{}), pendingFiles)
		require.NoError(t, s.Close())
	}
}

// killed runs a child until it has said lines lines, and kills it.
func killed(t *testing.T, path string, lines int, said map[string]bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashEnv+"="+path)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	r := bufio.NewScanner(out)
	for n := 0; r.Scan(); {
		said[r.Text()] = true
		if n++; n == lines {
			require.NoError(t, cmd.Process.Kill()) // the lines that are in the pipe count too
		}
	}
	require.Error(t, cmd.Wait())
	require.Equal(t, -1, cmd.ProcessState.ExitCode(), "it was killed: %v", said)
}
