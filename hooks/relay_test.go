package hooks

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func answers(err error) HookHandler { return HandlerFunc(func(ctxT, Event) error { return err }) }

var errDown = errors.Join(ErrUnavailable, errors.New("no such file"))

// kinds in the spool of r, in their order.
func spooledKinds(t testing.TB, s *Spool) (kinds []Kind) {
	t.Helper()
	_, err := s.Drain(t.Context(), func(_ context.Context, e Spooled) error {
		kinds = append(kinds, e.Event.Kind)
		return nil
	})
	require.NoError(t, err)
	return kinds
}

func TestRelay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		event   Kind
		code    int // when the daemon is down
		spooled bool
		noSpool int // when the spool cannot be written to, too
	}{
		{NamespacesInit, 0, false, 0}, {Ready, 0, false, 0}, {NamespaceCreated, 0, true, 1}, {NamespaceUpdated, 0, true, 1},
		{NamespaceDeleted, 0, true, 1}, {NamespaceReloaded, 0, true, 1}, {JumpIndex, 0, true, 1}, {JumpData, 0, true, 1},
		{MissingData, 1, false, 1}, {Close, 0, true, 1}, {NamespaceClosing, 0, true, 1}, {Crash, 0, true, 1},
	} {
		t.Run(string(c.event), func(t *testing.T) {
			t.Parallel()
			args := Event{Kind: c.event, Instance: "i"}.Args()
			r := &Relay{Daemon: answers(errDown), Spool: &Spool{Dir: filepath.Join(t.TempDir(), "spool")}}
			code, reason := r.Call(t.Context(), args)
			require.Equal(t, c.code, code)
			require.ErrorIs(t, reason, ErrUnavailable)
			require.Equal(t, c.spooled, len(spooledKinds(t, r.Spool)) == 1)

			r.Spool = &Spool{Dir: "/dev/null/spool"}
			code, reason = r.Call(t.Context(), args)
			require.Equal(t, c.noSpool, code)
			require.Error(t, reason)

			r = &Relay{Daemon: answers(nil), Spool: &Spool{Dir: filepath.Join(t.TempDir(), "spool")}}
			code, reason = r.Call(t.Context(), args)
			require.Zero(t, code)
			require.NoError(t, reason)
			r.Daemon = answers(&RemoteError{Text: "no"})
			code, reason = r.Call(t.Context(), args)
			require.Equal(t, 1, code, "the daemon's answer counts")
			require.Error(t, reason)
			require.NoDirExists(t, r.Spool.Dir, "nothing is spooled while the daemon answers")
		})
	}
	code, reason := (&Relay{Daemon: answers(nil)}).Call(t.Context(), []string{"unheard-of", "i"})
	require.Equal(t, 1, code)
	require.ErrorIs(t, reason, ErrEvent)
}

func TestReadyPolicies(t *testing.T) {
	t.Parallel()
	args := Event{Kind: Ready, Instance: "i"}.Args()
	for policy, want := range map[ReadyPolicy]int{"": 0, ReadyServe: 0, ReadyRefuse: 1} {
		code, reason := (&Relay{Daemon: answers(errDown), Ready: policy}).Call(t.Context(), args)
		require.Equal(t, want, code, policy)
		require.ErrorIs(t, reason, ErrUnavailable)
	}
	t.Run("wait", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			up := time.Now().Add(time.Hour)
			r := &Relay{Ready: ReadyWait, Log: &log, Daemon: HandlerFunc(func(ctxT, Event) error {
				if time.Now().Before(up) {
					return errDown
				}
				return nil
			})}
			code, reason := r.Call(t.Context(), args)
			require.Zero(t, code)
			require.NoError(t, reason)
			require.WithinDuration(t, up, time.Now(), time.Second)
			lines := strings.Count(log.String(), "waiting")
			require.Greater(t, lines, 5, "it tells that it waits")
			require.Less(t, lines, 20, "at growing intervals")

			up = time.Now().Add(time.Hour)
			r.Daemon = answers(errDown)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			code, reason = r.Call(ctx, args)
			require.Equal(t, 1, code)
			require.ErrorIs(t, reason, context.DeadlineExceeded)
		})
	})
}

// A daemon that lives and is slow is waited for, and the log says so.
func TestSlowDaemon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		r := &Relay{Log: &log, Daemon: HandlerFunc(func(ctx ctxT, e Event) error {
			select {
			case <-time.After(100 * time.Second):
				return nil
			case <-ctx.Done():
				return errors.Join(ErrUnavailable, ctx.Err())
			}
		})}
		code, reason := r.Call(t.Context(), Event{Kind: MissingData, Instance: "i", Data: "d0"}.Args())
		require.Zero(t, code)
		require.NoError(t, reason)
		require.Equal(t, "missing-data: the daemon has not answered for 1s\nmissing-data: the daemon has not answered for 3s\n", log.String()[:strings.Index(log.String(), "missing-data: the daemon has not answered for 7s")])
		require.Equal(t, 6, strings.Count(log.String(), "\n")) // 1 3 7 15 31 63

		// Nobody waits for jump-data: 10 s, then the spool's turn.
		began := time.Now()
		code, _ = r.Call(t.Context(), Event{Kind: JumpData, Instance: "i"}.Args())
		require.Equal(t, 1, code, "there is no spool")
		require.Equal(t, 10*time.Second, time.Since(began))
	})
}

// A hook program that is killed ends, for zdb, with 0, and the dirty list is
// emptied: while the daemon takes its time the list must be in the spool.
func TestJumpIndexIsSpooledWhileItWaits(t *testing.T) {
	t.Parallel()
	s := &Spool{Dir: filepath.Join(t.TempDir(), "spool")}
	e := Event{Kind: JumpIndex, Instance: "i", Index: "i0", NextIndex: "i1", Dirty: []uint32{0, 7}}
	for _, answer := range []error{nil, &RemoteError{Text: "no room for copies"}} {
		waiting, release := make(chan struct{}), make(chan struct{})
		r := &Relay{Spool: s, Daemon: HandlerFunc(func(ctxT, Event) error {
			close(waiting)
			<-release
			return answer
		})}
		ended := make(chan int, 1)
		go func() {
			code, _ := r.Call(context.Background(), e.Args())
			ended <- code
		}()
		<-waiting
		require.Eventually(t, func() bool { st, err := s.Stats(); return err == nil && st.Events == 1 }, 5*time.Second, time.Millisecond)
		close(release)
		require.Equal(t, codeOf(answer), <-ended)
		st, err := s.Stats()
		require.NoError(t, err)
		require.Zero(t, st.Events, "the daemon has it, or zdb gives the list again")
	}
}

func TestMissingDataWithoutDaemon(t *testing.T) {
	t.Parallel()
	var asked []string
	r := &Relay{Daemon: answers(errDown), Retrieve: func(_ context.Context, file string) error {
		asked = append(asked, file)
		if strings.HasSuffix(file, "d1") {
			return errors.New("not enough shards")
		}
		return nil
	}}
	code, _ := r.Call(t.Context(), []string{"missing-data", "i", "data/zdbfs-data/d0"})
	require.Zero(t, code)
	code, reason := r.Call(t.Context(), []string{"missing-data", "i", "/data/zdbfs-data/d1"})
	require.Equal(t, 1, code)
	require.ErrorContains(t, reason, "not enough shards")
	here, err := os.Getwd()
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(here, "data/zdbfs-data/d0"), "/data/zdbfs-data/d1"}, asked, "zstor has another folder")
	r.Daemon = answers(&RemoteError{Text: "lost"})
	code, _ = r.Call(t.Context(), []string{"missing-data", "i", "d0"})
	require.Equal(t, 1, code)
	require.Len(t, asked, 2, "a daemon that lives knows better")
}

func TestFindSocket(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := filepath.Join(dir, "quantumd-hook")
	none := func(string) string { return "" }
	path, err := FindSocket(none, program)
	require.NoError(t, err)
	require.Equal(t, DefaultSocket, path)
	require.NoError(t, os.WriteFile(filepath.Join(dir, SocketFile), []byte("/run/a b/hook.sock\n"), 0o600))
	path, err = FindSocket(none, program)
	require.NoError(t, err)
	require.Equal(t, "/run/a b/hook.sock", path)
	path, err = FindSocket(func(k string) string { return map[string]string{SocketEnv: "/env.sock"}[k] }, program)
	require.NoError(t, err)
	require.Equal(t, "/env.sock", path)
	require.NoError(t, os.WriteFile(filepath.Join(dir, SocketFile), []byte("\n"), 0o600))
	_, err = FindSocket(none, program)
	require.Error(t, err)
}

func TestSettings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	socket := filepath.Join(dir, "hook.sock")
	env := map[string]string{SocketEnv: socket}
	find := func() (Settings, error) {
		return FindSettings(func(k string) string { return env[k] }, "/nowhere/quantumd-hook")
	}
	got, err := find()
	require.NoError(t, err)
	require.Equal(t, Settings{Socket: socket, Spool: filepath.Join(dir, "spool"), Ready: ReadyServe}, got)

	want := Settings{Socket: socket, Spool: "/var/a b/spool", Ready: ReadyWait, Zstor: "/run/z s.sock"}
	require.NoError(t, want.Write())
	require.NoError(t, want.Write(), "over the old one")
	got, err = find()
	require.NoError(t, err)
	require.Equal(t, want, got)

	env[SpoolEnv], env[ReadyEnv], env[ZstorEnv] = "/s", "refuse", "/z"
	got, err = find()
	require.NoError(t, err)
	require.Equal(t, Settings{Socket: socket, Spool: "/s", Ready: ReadyRefuse, Zstor: "/z"}, got)
	env[ReadyEnv] = "perhaps"
	got, err = find()
	require.Error(t, err)
	require.Equal(t, want, got, "what can be used")

	delete(env, SocketEnv)
	delete(env, SpoolEnv)
	delete(env, ReadyEnv)
	got, err = find()
	require.NoError(t, err)
	require.Equal(t, DefaultSpool, got.Spool)

	for _, bad := range []Settings{{Socket: socket, Spool: "rel"}, {Socket: socket, Spool: "/a\nready refuse"}, {Socket: socket, Spool: "/a", Ready: "x"}} {
		require.Error(t, bad.Write())
	}
	for _, text := range []string{"spool relative\n", "ready never\n", strings.Repeat("x", maxSettings+1)} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, SettingsFile), []byte(text), 0o600))
		got, err = ReadSettings(socket)
		require.Error(t, err, text)
		require.Equal(t, Settings{Socket: socket, Spool: filepath.Join(dir, "spool"), Ready: ReadyServe}, got)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, SettingsFile), []byte("later thing\n\nready\nspool /x\n"), 0o600))
	got, err = ReadSettings(socket)
	require.NoError(t, err)
	require.Equal(t, "/x", got.Spool)
}

func FuzzSettings(f *testing.F) {
	f.Add([]byte("spool /a b\nready wait\nzstor /z\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s := Settings{Socket: "/s", Spool: "/d", Ready: ReadyServe}
		if err := s.parse(text); err != nil && s != (Settings{Socket: "/s", Spool: "/d", Ready: ReadyServe}) {
			t.Fatal("changed by what was refused")
		}
		if s.check() != nil {
			t.Fatalf("%+v", s)
		}
	})
}
