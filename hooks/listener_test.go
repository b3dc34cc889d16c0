package hooks

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// socketPath is below a folder that is private and has a short name.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hk")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return filepath.Join(dir, "run", "hook.sock")
}

// serve listens at path until the test ends.
func serve(t *testing.T, path string, h HookHandler, o ListenerOptions) *Listener {
	t.Helper()
	l, err := Listen(path, h, o)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	return l
}

func TestEventsThroughTheSocket(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got []Event
	path := socketPath(t)
	serve(t, path, HandlerFunc(func(_ ctxT, e Event) error {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, e)
		if e.Kind == MissingData {
			return errors.New("not on the backends")
		}
		return nil
	}), ListenerOptions{})
	c := &Client{Socket: path}
	rnd := rand.New(rand.NewPCG(5, 6))
	var want []Event
	for range 200 {
		e := randomEvent(rnd)
		want = append(want, e)
		err := c.HandleHook(t.Context(), e)
		if e.Kind == MissingData {
			var remote *RemoteError
			require.ErrorAs(t, err, &remote)
			require.Equal(t, "not on the backends", remote.Text)
			continue
		}
		require.NoError(t, err)
	}
	require.Equal(t, want, got)
}

func TestReferenceLine(t *testing.T) {
	t.Parallel()
	var got []Event
	path := socketPath(t)
	serve(t, path, HandlerFunc(func(_ ctxT, e Event) error {
		got = append(got, e) // one connection at a time here
		if e.Kind == Ready {
			return errors.New("zstor\ntest failed")
		}
		return nil
	}), ListenerOptions{})
	for line, want := range map[string]string{
		"jump-index tcp://127.0.0.1:9900 i0 i1 3 4\n": "SUCCESS: jump-index completed\n",
		"ready tcp://127.0.0.1:9900\n":                "ERROR: zstor test failed\n",
		"whatever\n":                                  "ERROR: hooks: malformed event: unknown event \"whatever\"\n",
		"jump-data tcp://127.0.0.1:9900 d0\n":         "ERROR: hooks: malformed event: jump-data has 1 arguments, want 2\n",
	} {
		conn, err := net.Dial("unix", path)
		require.NoError(t, err)
		_, err = conn.Write([]byte(line))
		require.NoError(t, err)
		b, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.Equal(t, want, string(b))
		require.NoError(t, conn.Close())
	}
	require.Len(t, got, 2)
}

func TestSocketIsPrivate(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	l := serve(t, path, Chain(), ListenerOptions{})
	require.Equal(t, path, l.Path())
	st, err := os.Lstat(path)
	require.NoError(t, err)
	require.Equal(t, fs.ModeSocket|0o600, st.Mode())
	st, err = os.Stat(filepath.Dir(path))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), st.Mode().Perm())

	_, err = Listen(path, Chain(), ListenerOptions{})
	require.ErrorIs(t, err, ErrInUse)
	require.NoError(t, (&Client{Socket: path}).HandleHook(t.Context(), Event{Kind: Ready, Instance: "i"}), "the first one still listens")
	require.NoError(t, l.Close())
	require.NoError(t, l.Close())
	require.NoFileExists(t, path)

	wide := filepath.Join(filepath.Dir(filepath.Dir(path)), "wide")
	require.NoError(t, os.Mkdir(wide, 0o700))
	require.NoError(t, os.Chmod(wide, 0o777))
	_, err = Listen(filepath.Join(wide, "s"), Chain(), ListenerOptions{})
	require.ErrorContains(t, err, "private")
}

func TestStaleSocketIsReplaced(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	stale.SetUnlinkOnClose(false)
	require.NoError(t, stale.Close())
	require.FileExists(t, path)
	first, err := Listen(path, Chain(), ListenerOptions{})
	require.NoError(t, err)

	// Another one took the path by force: closing the first leaves it alone.
	require.NoError(t, os.Remove(path))
	serve(t, path, Chain(), ListenerOptions{})
	require.NoError(t, first.Close())
	require.NoError(t, (&Client{Socket: path}).HandleHook(t.Context(), Event{Kind: Ready, Instance: "i"}))

	file := filepath.Join(filepath.Dir(path), "file")
	require.NoError(t, os.WriteFile(file, []byte("precious"), 0o600))
	_, err = Listen(file, Chain(), ListenerOptions{})
	require.ErrorContains(t, err, "no socket")
	require.FileExists(t, file)
}

func TestLongSocketPath(t *testing.T) {
	t.Parallel()
	dir := filepath.Dir(socketPath(t))
	fits := filepath.Join(dir, strings.Repeat("s", maxSocketPath-len(dir)-1))
	require.Len(t, fits, maxSocketPath)
	serve(t, fits, Chain(), ListenerOptions{})
	require.NoError(t, (&Client{Socket: fits}).HandleHook(t.Context(), Event{Kind: Ready, Instance: "i"}))

	var long *SocketPathError
	_, err := Listen(fits+"s", Chain(), ListenerOptions{})
	require.ErrorAs(t, err, &long)
	require.NotEmpty(t, long.Hint())
	require.ErrorAs(t, (&Client{Socket: fits + "s"}).HandleHook(t.Context(), Event{Kind: Ready}), &long)
}

func TestClientWithoutDaemon(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	c := &Client{Socket: path}
	require.ErrorIs(t, c.HandleHook(t.Context(), Event{Kind: Ready, Instance: "i"}), ErrUnavailable)

	// It accepts and says nothing.
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	ln, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err = c.HandleHook(ctx, Event{Kind: Ready, Instance: "i"})
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// Connections that send nothing, or half, must not keep others out for long.
func TestSilentClientsAreDropped(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	serve(t, path, Chain(), ListenerOptions{MaxConns: 2, ReadTimeout: 100 * time.Millisecond})
	for range 4 {
		conn, err := net.Dial("unix", path)
		require.NoError(t, err)
		defer conn.Close()
		_, err = conn.Write([]byte("\x00QH"))
		require.NoError(t, err)
	}
	require.NoError(t, (&Client{Socket: path}).HandleHook(t.Context(), Event{Kind: Ready, Instance: "i"}))
}

func TestServeWaitsForHandlers(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	began, release := make(chan struct{}), make(chan struct{})
	l, err := Listen(path, HandlerFunc(func(ctx ctxT, e Event) error {
		close(began)
		<-ctx.Done()
		<-release
		return ctx.Err()
	}), ListenerOptions{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Serve(ctx) }()
	answer := make(chan error, 1)
	go func() {
		answer <- (&Client{Socket: path}).HandleHook(t.Context(), Event{Kind: Ready, Instance: "i"})
	}()
	<-began
	cancel()
	require.Eventually(t, func() bool { _, err := os.Lstat(path); return errors.Is(err, fs.ErrNotExist) }, 5*time.Second, time.Millisecond)
	select {
	case <-ended:
		t.Fatal("Serve did not wait for its handler")
	default:
	}
	close(release)
	require.NoError(t, <-ended)
	var remote *RemoteError
	require.ErrorAs(t, <-answer, &remote, "the client still gets its answer")
}

func BenchmarkEvent(b *testing.B) {
	path := filepath.Join(b.TempDir(), "s")
	l, err := Listen(path, Chain(), ListenerOptions{})
	require.NoError(b, err)
	ended := make(chan error, 1)
	go func() { ended <- l.Serve(b.Context()) }()
	c := &Client{Socket: path}
	for b.Loop() {
		if err := c.HandleHook(b.Context(), Event{Kind: JumpData, Instance: "i", Data: "d0", NextData: "d1"}); err != nil {
			b.Fatal(err)
		}
	}
	require.NoError(b, l.Close())
	require.NoError(b, <-ended)
}
