package hooks

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func drain(t testing.TB, s *Spool) (events []Event) {
	t.Helper()
	r, err := s.Drain(t.Context(), func(_ context.Context, e Spooled) error {
		require.WithinDuration(t, time.Now(), e.Time, time.Minute)
		events = append(events, e.Event)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, len(events), r.Handled)
	return events
}

func newSpool(t testing.TB) *Spool {
	return &Spool{Dir: filepath.Join(t.TempDir(), "deep", "spool")}
}

func TestSpoolKeepsOrderAndBytes(t *testing.T) {
	t.Parallel()
	s := newSpool(t)
	require.Empty(t, drain(t, s), "a spool that was never used")
	rnd := rand.New(rand.NewPCG(7, 8))
	var want []Event
	for range 300 {
		e := randomEvent(rnd)
		want = append(want, e)
		_, err := s.Put(e)
		require.NoError(t, err)
	}
	st, err := s.Stats()
	require.NoError(t, err)
	require.Equal(t, 300, st.Events)
	require.Equal(t, want, drain(t, s))
	require.Empty(t, drain(t, s))

	dir, err := os.Stat(s.Dir)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), dir.Mode().Perm())
	name, err := s.Put(want[0])
	require.NoError(t, err)
	file, err := os.Stat(filepath.Join(s.Dir, name))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), file.Mode().Perm())
	require.NoError(t, s.Remove(name))
	require.NoError(t, s.Remove(name), "it is gone already")
	require.Empty(t, drain(t, s))
}

func TestSpoolIsBounded(t *testing.T) {
	t.Parallel()
	s := newSpool(t)
	s.MaxEvents, s.MaxBytes = 3, 1000
	e := Event{Kind: JumpData, Instance: "i", Data: "d0", NextData: "d1"}
	for range 3 {
		_, err := s.Put(e)
		require.NoError(t, err)
	}
	_, err := s.Put(e)
	require.ErrorIs(t, err, ErrSpoolFull)
	require.Len(t, drain(t, s), 3)
	e.Data = strings.Repeat("x", 700)
	_, err = s.Put(e)
	require.NoError(t, err)
	_, err = s.Put(e)
	require.ErrorIs(t, err, ErrSpoolFull)
	require.Len(t, drain(t, s), 1)

	wide := &Spool{Dir: t.TempDir()}
	require.NoError(t, os.Chmod(wide.Dir, 0o777))
	_, err = wide.Put(e)
	require.ErrorContains(t, err, "private")
}

func TestSpoolSetsDamagedFilesAside(t *testing.T) {
	t.Parallel()
	s := newSpool(t)
	put := func(data string) string {
		name, err := s.Put(Event{Kind: JumpData, Instance: "i", Data: data, NextData: "n"})
		require.NoError(t, err)
		return filepath.Join(s.Dir, name)
	}
	put("first")
	torn, flipped, empty, pipe, newer := put("torn"), put("flipped"), put("empty"), put("pipe"), put("newer")
	put("last")
	require.NoError(t, os.Truncate(torn, 30))
	require.NoError(t, os.Truncate(empty, 0))
	b, err := os.ReadFile(flipped)
	require.NoError(t, err)
	b[len(b)-6] ^= 1
	require.NoError(t, os.WriteFile(flipped, b, 0o600))
	require.NoError(t, os.Remove(pipe))
	require.NoError(t, unix.Mkfifo(pipe, 0o600)) // nobody writes into it
	b, err = os.ReadFile(newer)
	require.NoError(t, err)
	b[3]++
	require.NoError(t, os.WriteFile(newer, b, 0o600))
	for _, stranger := range []string{"README", "zzzz.event", "0000000000000000-00000000-1.EVENT", strings.Repeat("f", 16) + "-00000001-1-1.event"} {
		require.NoError(t, os.WriteFile(filepath.Join(s.Dir, stranger), []byte("x"), 0o600))
	}
	var got []string
	handle := func(_ context.Context, e Spooled) error {
		got = append(got, e.Event.Data)
		return nil
	}
	r, err := s.Drain(t.Context(), handle)
	require.NoError(t, err)
	require.Equal(t, []string{"first", "last"}, got)
	require.Len(t, r.Bad, 4)
	require.Equal(t, 1, r.Newer)
	for _, p := range []string{torn, flipped, empty, pipe} {
		require.NoFileExists(t, p)
		_, err := os.Lstat(p + ".bad")
		require.NoError(t, err)
	}
	require.FileExists(t, newer)
	put("again")
	got = nil
	r, err = s.Drain(t.Context(), handle)
	require.NoError(t, err)
	require.Equal(t, []string{"again"}, got)
	require.Empty(t, r.Bad, "told once")
}

func TestSpoolBoundsWhatIsSetAside(t *testing.T) {
	t.Parallel()
	s := newSpool(t)
	require.NoError(t, os.MkdirAll(s.Dir, 0o700))
	for i := range maxSpoolBad + 10 {
		require.NoError(t, os.WriteFile(filepath.Join(s.Dir, fmt.Sprintf("%016x-00000001-1-1.event.bad", i)), nil, 0o600))
	}
	old, young := filepath.Join(s.Dir, tempPrefix+"1-1"), filepath.Join(s.Dir, tempPrefix+"1-2")
	for _, p := range []string{old, young} {
		require.NoError(t, os.WriteFile(p, nil, 0o600))
	}
	require.NoError(t, os.Chtimes(old, time.Time{}, time.Now().Add(-2*tempAge)))
	require.Empty(t, drain(t, s))
	entries, err := os.ReadDir(s.Dir)
	require.NoError(t, err)
	require.Len(t, entries, maxSpoolBad+1)
	require.NoFileExists(t, old)
	require.FileExists(t, young)
}

func TestSpoolKeepsWhatFailed(t *testing.T) {
	t.Parallel()
	s := newSpool(t)
	for _, d := range []string{"d0", "d1", "d2"} {
		_, err := s.Put(Event{Kind: JumpData, Instance: "i", Data: d})
		require.NoError(t, err)
	}
	broken := errors.New("disk full")
	var got []string
	r, err := s.Drain(t.Context(), func(_ context.Context, e Spooled) error {
		got = append(got, e.Event.Data)
		if e.Event.Data == "d1" {
			return broken
		}
		return nil
	})
	require.ErrorIs(t, err, broken)
	require.Equal(t, []string{"d0", "d1", "d2"}, got, "it keeps nobody back")
	require.Equal(t, 1, r.Kept)
	events := drain(t, s)
	require.Len(t, events, 1)
	require.Equal(t, "d1", events[0].Data)

	_, err = s.Put(events[0])
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.Drain(ctx, func(context.Context, Spooled) error { return nil })
	require.ErrorIs(t, err, context.Canceled)
	require.Len(t, drain(t, s), 1)
}

// Many programs put events in while the daemon drains: each arrives once, those
// of one program in their order.
func TestSpoolWithManyHands(t *testing.T) {
	t.Parallel()
	s := newSpool(t)
	const hands, each = 8, 30
	var putting sync.WaitGroup
	for h := range hands {
		putting.Go(func() {
			for i := range each {
				if _, err := s.Put(Event{Kind: JumpData, Instance: "i", Data: fmt.Sprint(h), NextData: fmt.Sprint(i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { putting.Wait(); close(done) }()
	next := make([]int, hands)
	for last := false; !last; {
		select {
		case <-done:
			last = true
		default:
		}
		for _, e := range drain(t, s) {
			var h, i int
			fmt.Sscan(e.Data, &h)
			fmt.Sscan(e.NextData, &i)
			require.Equal(t, next[h], i)
			next[h]++
		}
	}
	for _, n := range next {
		require.Equal(t, each, n)
	}
}

// putForEver is the program of TestSpoolSurvivesKill.
func putForEver(dir string) int {
	s := &Spool{Dir: dir}
	for i := 0; ; i++ {
		if _, err := s.Put(Event{Kind: JumpData, Instance: "i", Data: fmt.Sprint(i)}); err != nil {
			fmt.Println("error", err)
			return 1
		}
		fmt.Println(i)
	}
}

// What Put has answered is there after kill -9, whole, and nothing else is.
func TestSpoolSurvivesKill(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	for round := range 5 {
		s := newSpool(t)
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), modeEnv+"=spool", fileEnv+"="+s.Dir)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(out)
		last := -1
		for lines.Scan() {
			_, err := fmt.Sscan(lines.Text(), &last)
			require.NoError(t, err, lines.Text())
			if last == 10+7*round {
				require.NoError(t, cmd.Process.Kill())
			}
		}
		require.Error(t, cmd.Wait())
		events := drain(t, s)
		require.GreaterOrEqual(t, len(events), last+1)
		for i, e := range events {
			require.Equal(t, fmt.Sprint(i), e.Data)
		}
	}
}

func FuzzSpooled(f *testing.F) {
	rnd := rand.New(rand.NewPCG(9, 9))
	for range 20 {
		b, err := encodeSpooled(randomEvent(rnd), time.Unix(0, int64(rnd.Uint32())))
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, err := decodeSpooled(b); err != nil && !errors.Is(err, ErrSpoolFile) && !errors.Is(err, ErrSpoolVersion) {
			t.Fatal(err)
		}
		// With the right checksum, for that is easily had.
		if len(b) < spoolTail {
			return
		}
		binary.LittleEndian.PutUint32(b[len(b)-spoolTail:], crc32.Checksum(b[:len(b)-spoolTail], spoolTable))
		e, at, err := decodeSpooled(b)
		if err != nil {
			return
		}
		again, err := encodeSpooled(e, at)
		if err != nil {
			t.Fatal(err)
		}
		e2, at2, err := decodeSpooled(again)
		if err != nil || !at2.Equal(at) || !bytes.Equal(again, must(encodeSpooled(e2, at2))) {
			t.Fatalf("%+v became %+v: %v", e, e2, err)
		}
	})
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func BenchmarkSpoolPut(b *testing.B) {
	s := newSpool(b)
	e := Event{Kind: JumpIndex, Instance: "i", Index: "i0", NextIndex: "i1", Dirty: []uint32{1, 2, 3}}
	for b.Loop() {
		name, err := s.Put(e)
		if err == nil {
			err = s.Remove(name)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
