package zdb_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb"
	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/engine/zdb/server"
)

// start serves a fresh server on loopback.
func start(t testing.TB, o server.Options) (*server.Server, netip.AddrPort) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return startOn(t, o, l), l.Addr().(*net.TCPAddr).AddrPort()
}

func startOn(t testing.TB, o server.Options, l net.Listener) *server.Server {
	t.Helper()
	if o.DataDir == "" {
		dir := t.TempDir()
		o.DataDir, o.IndexDir = filepath.Join(dir, "data"), filepath.Join(dir, "index")
	}
	s, err := server.Open(context.Background(), o)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		require.NoError(t, <-done)
	})
	return s
}

func dial(t testing.TB, b backend.Backend, o zdb.Options) *zdb.Client {
	t.Helper()
	c, err := zdb.Dial(context.Background(), b, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func TestUserMode(t *testing.T) {
	t.Parallel()
	_, addr := start(t, server.Options{})
	c := dial(t, backend.Backend{Address: addr}, zdb.Options{})
	ctx := t.Context()
	require.NoError(t, c.Ping(ctx))
	_, err := c.Get(ctx, []byte("k"))
	require.ErrorIs(t, err, backend.ErrNotFound)
	for range 2 { // the second changes nothing, and is success
		key, err := c.Set(ctx, []byte("k"), []byte("value"))
		require.NoError(t, err)
		require.Equal(t, "k", string(key))
	}
	v, err := c.Get(ctx, []byte("k"))
	require.NoError(t, err)
	require.Equal(t, "value", string(v))
	st, err := c.Stat(ctx, []byte("k"))
	require.NoError(t, err)
	require.Equal(t, backend.EntryStat{Length: 5, CRC: segment.Checksum(v)}, st)
	ok, err := c.Check(ctx, []byte("k"))
	require.NoError(t, err)
	require.True(t, ok)
	_, err = c.Check(ctx, []byte("none"))
	require.ErrorIs(t, err, backend.ErrNotFound)
	_, err = c.Stat(ctx, []byte("none"))
	require.ErrorIs(t, err, backend.ErrNotFound)
	_, err = c.Set(ctx, nil, []byte("x"))
	require.ErrorIs(t, err, backend.ErrMode)
	require.NoError(t, c.Delete(ctx, []byte("k")))
	require.ErrorIs(t, c.Delete(ctx, []byte("k")), backend.ErrNotFound)
	_, _, err = c.Scan(ctx, nil)
	require.ErrorIs(t, err, io.EOF)
}

func TestSequentialMode(t *testing.T) {
	t.Parallel()
	s, addr := start(t, server.Options{})
	_, err := s.CreateNamespace(t.Context(), "seq", server.NamespaceOptions{Mode: server.Sequential, Password: "secret"})
	require.NoError(t, err)
	c := dial(t, backend.Backend{Address: addr, Namespace: "seq", Password: "secret"}, zdb.Options{})
	ctx := t.Context()
	id, err := c.Set(ctx, nil, []byte("zero"))
	require.NoError(t, err)
	require.Equal(t, segment.SeqKey(0), id)
	_, err = c.Set(ctx, segment.SeqKey(9), []byte("x"))
	require.ErrorIs(t, err, backend.ErrNotFound)
	_, err = c.Set(ctx, []byte("name"), []byte("x"))
	require.ErrorIs(t, err, backend.ErrMode)
	id, err = c.Set(ctx, segment.SeqKey(0), []byte("again"))
	require.NoError(t, err)
	require.Equal(t, segment.SeqKey(0), id)
	i, err := c.Info(ctx)
	require.NoError(t, err)
	require.Positive(t, i.Free)
	i.Free = 0
	require.Equal(t, backend.NamespaceInfo{
		Name: "seq", Entries: 1, Password: true, Sequential: true, Used: 5, IndexUsed: 72, NextID: 2,
	}, i)
}

func TestScanAll(t *testing.T) {
	t.Parallel()
	_, addr := start(t, server.Options{})
	c := dial(t, backend.Backend{Address: addr}, zdb.Options{})
	const n = 10_000
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < n; i += 8 {
				if _, err := c.Set(t.Context(), fmt.Appendf(nil, "key-%d", i), fmt.Appendf(nil, "%d", i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	var cursor []byte
	for {
		list, next, err := c.Scan(t.Context(), cursor)
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		for _, e := range list {
			require.False(t, seen[string(e.Key)])
			seen[string(e.Key)] = true
		}
		cursor = next
	}
	require.Len(t, seen, n)
}

func TestAccess(t *testing.T) {
	t.Parallel()
	s, addr := start(t, server.Options{AdminPassword: "root"})
	ctx := t.Context()
	_, err := s.CreateNamespace(ctx, "private", server.NamespaceOptions{Password: "right"})
	require.NoError(t, err)
	for password, want := range map[backend.Secret]error{"wrong": backend.ErrAccess, "": backend.ErrAccess, "right": nil} {
		c := dial(t, backend.Backend{Address: addr, Namespace: "private", Password: password}, zdb.Options{})
		_, err := c.Set(ctx, []byte("k"), []byte("v"))
		require.ErrorIs(t, err, want)
		if want == nil {
			require.NoError(t, err)
		} else {
			require.NotContains(t, err.Error(), string(password)+"!") // never part of a text
		}
	}
	c := dial(t, backend.Backend{Address: addr, Namespace: "none"}, zdb.Options{})
	_, err = c.Get(ctx, []byte("k"))
	require.ErrorIs(t, err, zdb.ErrNoNamespace)
	require.NotErrorIs(t, err, backend.ErrNotFound)

	a := zdb.DialAdmin(addr.String(), "wrong", zdb.Options{})
	defer a.Close()
	require.ErrorIs(t, a.CreateNamespace(ctx, "x"), backend.ErrAccess)
}

func TestFullAndLocked(t *testing.T) {
	t.Parallel()
	_, addr := start(t, server.Options{})
	ctx := t.Context()
	a := zdb.DialAdmin(addr.String(), "", zdb.Options{})
	defer a.Close()
	require.NoError(t, a.CreateNamespace(ctx, "ns"))
	require.ErrorIs(t, a.CreateNamespace(ctx, "ns"), zdb.ErrExists)
	require.NoError(t, a.SetMode(ctx, "ns", segment.Sequential))
	require.NoError(t, a.SetMaxSize(ctx, "ns", 10))
	require.NoError(t, a.SetPassword(ctx, "ns", "pass"))
	require.NoError(t, a.SetPublic(ctx, "ns", false))
	c := dial(t, backend.Backend{Address: addr, Namespace: "ns", Password: "pass"}, zdb.Options{})
	_, err := c.Set(ctx, nil, make([]byte, 11))
	require.ErrorIs(t, err, backend.ErrFull)
	_, err = c.Set(ctx, nil, make([]byte, 10))
	require.NoError(t, err)
	require.NoError(t, a.SetLock(ctx, "ns", true))
	require.ErrorIs(t, c.Delete(ctx, segment.SeqKey(0)), backend.ErrLocked)
	require.NoError(t, a.SetLock(ctx, "ns", false))
	require.NoError(t, a.Jump(ctx, "ns", "pass"))
	names, err := a.Namespaces(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"default", "ns"}, names)
	i, err := a.Info(ctx, "ns")
	require.NoError(t, err)
	require.EqualValues(t, 10, i.Limit)
	require.NoError(t, a.DeleteNamespace(ctx, "ns"))
	require.ErrorIs(t, a.DeleteNamespace(ctx, "ns"), zdb.ErrNoNamespace)
	_, err = c.Get(ctx, segment.SeqKey(0))
	require.ErrorIs(t, err, zdb.ErrNoNamespace)
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "zdb.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	startOn(t, server.Options{}, l)
	c := zdb.DialAddress("unix://"+path, "", "", zdb.Options{})
	defer c.Close()
	_, err = c.Set(t.Context(), []byte("k"), bytes.Repeat([]byte("x"), 8<<20))
	require.NoError(t, err)
	v, err := c.Get(t.Context(), []byte("k"))
	require.NoError(t, err)
	require.Len(t, v, 8<<20)
	_, err = c.Set(t.Context(), []byte("k"), make([]byte, 8<<20+1))
	require.Error(t, err)
}

// silent accepts connections and never answers; it counts requests' bytes.
func silent(t *testing.T) (netip.AddrPort, *atomic.Int64) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var received atomic.Int64
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				b := make([]byte, 4096)
				for {
					n, err := c.Read(b)
					received.Add(int64(n))
					if err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().(*net.TCPAddr).AddrPort(), &received
}

func TestNoAnswer(t *testing.T) {
	t.Parallel()
	addr, _ := silent(t)
	c := dial(t, backend.Backend{Address: addr}, zdb.Options{DialTimeout: 50 * time.Millisecond})
	_, err := c.Get(t.Context(), []byte("k"))
	var u *backend.UnreachableError
	require.ErrorAs(t, err, &u)
	require.Equal(t, addr, u.Address)
	require.NotErrorIs(t, err, backend.ErrNotFound)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Get(ctx, []byte("k"))
	require.ErrorIs(t, err, context.Canceled)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	gone := l.Addr().(*net.TCPAddr).AddrPort()
	require.NoError(t, l.Close())
	c = dial(t, backend.Backend{Address: gone}, zdb.Options{})
	require.ErrorAs(t, c.Ping(t.Context()), &u)
}

// TestReconnect: a server that came back is found again, and a request that
// may have reached the old one is not repeated.
func TestReconnect(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := server.Options{DataDir: filepath.Join(dir, "d"), IndexDir: filepath.Join(dir, "i"), Mode: server.Sequential}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	var c *zdb.Client
	t.Run("first life", func(t *testing.T) {
		startOn(t, o, l)
		c, err = zdb.Dial(t.Context(), backend.Backend{Address: addr}, zdb.Options{})
		require.NoError(t, err)
		_, err = c.Set(t.Context(), nil, []byte("a"))
		require.NoError(t, err)
	})
	defer c.Close()
	_, err = c.Set(t.Context(), nil, []byte("lost"))
	require.Error(t, err)
	l, err = net.Listen("tcp", addr.String())
	require.NoError(t, err)
	startOn(t, o, l)
	var id []byte
	require.Eventually(t, func() bool {
		id, err = c.Set(t.Context(), nil, []byte("b"))
		return err == nil
	}, 5*time.Second, 10*time.Millisecond)
	require.Equal(t, segment.SeqKey(1), id)
}

// TestCancelledCallLeavesOthersAlone: the answer of a call that was given up
// must not become the answer of the next.
func TestCancelledCallLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	s, addr := start(t, server.Options{})
	n, _ := s.Namespace("default")
	c := dial(t, backend.Backend{Address: addr}, zdb.Options{PoolSize: 1})
	for i := range 100 {
		_, err := n.Set(t.Context(), fmt.Appendf(nil, "k%d", i), bytes.Repeat(fmt.Appendf(nil, "%3d", i), 10000))
		require.NoError(t, err)
	}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if i%3 == 0 {
				ctx, cancel = context.WithTimeout(ctx, time.Duration(i)*20*time.Microsecond)
				defer cancel()
			}
			v, err := c.Get(ctx, fmt.Appendf(nil, "k%d", i))
			if i%3 == 0 && err != nil {
				return
			}
			if err != nil || !bytes.Equal(v, bytes.Repeat(fmt.Appendf(nil, "%3d", i), 10000)) {
				t.Errorf("k%d: wrong payload or %v", i, err)
			}
		})
	}
	wg.Wait()
}

func TestPoolSize(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	count := &countingListener{Listener: l}
	startOn(t, server.Options{}, count)
	c := dial(t, backend.Backend{Address: l.Addr().(*net.TCPAddr).AddrPort()}, zdb.Options{PoolSize: 3})
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			if _, err := c.Set(t.Context(), fmt.Appendf(nil, "k%d", i), make([]byte, 100_000)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, count.n.Load(), int64(3))
	require.NoError(t, c.Close())
	require.ErrorIs(t, c.Ping(t.Context()), zdb.ErrClosed)
}

type countingListener struct {
	net.Listener
	n atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.n.Add(1)
	}
	return c, err
}

// TestReal runs the client against a real zdb.
func TestReal(t *testing.T) {
	addr := real(t, t.TempDir(), "--mode", "seq")
	c := dial(t, backend.Backend{Address: addr}, zdb.Options{})
	for i := range uint64(100) {
		id, err := c.Set(t.Context(), nil, fmt.Appendf(nil, "value %d", i))
		require.NoError(t, err)
		require.Equal(t, segment.SeqKey(i), id)
	}
	i, err := c.Info(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 100, i.NextID)
	require.EqualValues(t, 100, i.Entries)
	list, _, err := c.Scan(t.Context(), nil)
	require.NoError(t, err)
	require.NotEmpty(t, list)
	_, err = c.Get(t.Context(), segment.SeqKey(1000))
	require.ErrorIs(t, err, backend.ErrNotFound)
	ok, err := c.Check(t.Context(), segment.SeqKey(7))
	require.NoError(t, err)
	require.True(t, ok)
}

// TestRealAccess: our challenge answer convinces a real zdb.
func TestRealAccess(t *testing.T) {
	addr := real(t, t.TempDir(), "--admin", "root")
	ctx := t.Context()
	a := zdb.DialAdmin(addr.String(), "root", zdb.Options{})
	defer a.Close()
	require.NoError(t, a.CreateNamespace(ctx, "ns"))
	require.NoError(t, a.SetMode(ctx, "ns", segment.Sequential))
	require.NoError(t, a.SetPassword(ctx, "ns", "pass"))
	require.NoError(t, a.SetPublic(ctx, "ns", false))
	c := dial(t, backend.Backend{Address: addr, Namespace: "ns", Password: "pass"}, zdb.Options{})
	_, err := c.Set(ctx, nil, []byte("v"))
	require.NoError(t, err)
	bad := dial(t, backend.Backend{Address: addr, Namespace: "ns", Password: "other"}, zdb.Options{})
	_, err = bad.Get(ctx, segment.SeqKey(0))
	require.ErrorIs(t, err, backend.ErrAccess)
	require.NoError(t, a.Jump(ctx, "ns", "pass"))
}

func TestNonsense(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{"!x\r\n", "$99999999999\r\n", "*3\r\n:1\r\n", ":1\r\n", "$-5\r\n", "+OK\r\n+OK\r\n+OK\r\n"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		var wg sync.WaitGroup
		wg.Go(func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			b := make([]byte, 1000)
			_, _ = c.Read(b)
			_, _ = io.WriteString(c, "+OK\r\n")
			_, _ = c.Read(b)
			_, _ = io.WriteString(c, answer)
		})
		c := dial(t, backend.Backend{Address: l.Addr().(*net.TCPAddr).AddrPort()}, zdb.Options{Timeout: 2 * time.Second})
		_, err = c.Get(t.Context(), []byte("k"))
		var u *backend.UnreachableError
		require.Truef(t, errors.As(err, &u), "%q: %v", answer, err)
		l.Close()
		wg.Wait()
	}
}

func zdbBinary(t testing.TB) string {
	bin := os.Getenv("ZDB_BIN")
	if bin == "" {
		t.Skip("ZDB_BIN names no real zdb")
	}
	return bin
}
