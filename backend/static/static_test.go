package static_test

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/backendtest"
	"github.com/threefoldtech/quantumd/backend/static"
	"github.com/threefoldtech/quantumd/engine/zdb"
	"github.com/threefoldtech/quantumd/engine/zdb/server"
)

// zdbs are somebody else's servers, one per backend.
type zdbs struct {
	dir   string
	admin backend.Secret
	list  []backend.Backend
	stops map[string]func()
}

func start(t *testing.T, admin backend.Secret, list ...backend.Backend) *zdbs {
	t.Helper()
	z := &zdbs{dir: t.TempDir(), admin: admin, list: list, stops: map[string]func(){}}
	for i := range list {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		list[i].Address = l.Addr().(*net.TCPAddr).AddrPort()
		z.serve(t, list[i], l)
	}
	t.Cleanup(func() {
		for _, stop := range z.stops {
			stop()
		}
	})
	return z
}

func (z *zdbs) serve(t *testing.T, b backend.Backend, l net.Listener) {
	t.Helper()
	dir := filepath.Join(z.dir, b.ID)
	s, err := server.Open(t.Context(), server.Options{DataDir: filepath.Join(dir, "data"), IndexDir: filepath.Join(dir, "index"), AdminPassword: z.admin})
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(context.Background(), l) // Close ends it
	}()
	z.stops[b.ID] = func() {
		delete(z.stops, b.ID)
		assert.NoError(t, s.Close())
		<-done
	}
}

func (z *zdbs) kill(_ *testing.T, b backend.Backend) { z.stops[b.ID]() }

func (z *zdbs) restart(t *testing.T, b backend.Backend) {
	t.Helper()
	l, err := net.Listen("tcp", b.Address.String())
	require.NoError(t, err)
	z.serve(t, b, l)
}

func (z *zdbs) asAdmin(t *testing.T, b backend.Backend) *zdb.Admin {
	a := zdb.DialAdmin(b.Address.String(), z.admin, zdb.Options{})
	t.Cleanup(func() { require.NoError(t, a.Close()) })
	return a
}

func (z *zdbs) makeNamespace(t *testing.T, b backend.Backend) {
	t.Helper()
	require.NoError(t, zdb.EnsureNamespace(t.Context(), z.asAdmin(t, b),
		zdb.NamespaceSpec{Name: b.Namespace, Sequential: b.Role == backend.Data, Password: b.Password}))
}

func listed() []backend.Backend {
	return []backend.Backend{
		{ID: "meta0", Role: backend.Meta, Namespace: "m", Password: "one"},
		{ID: "data0", Role: backend.Data, Namespace: "d", Password: "two", Group: "a"},
		{ID: "data1", Role: backend.Data, Namespace: "d", Password: "three", Spare: true},
	}
}

func TestConformance(t *testing.T) {
	for _, kind := range []struct {
		name  string
		admin backend.Secret
		list  func() []backend.Backend
		first backend.Action
	}{
		{"NamespacesExist", "admin's", listed, backend.Keep},
		{"NamespacesMissing", "", listed, backend.Create},
		{"NoPasswords", "", func() []backend.Backend {
			list := listed()
			for i := range list {
				list[i].Password = ""
			}
			return list
		}, backend.Create},
	} {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			backendtest.Run(t, func(t *testing.T) backendtest.Harness {
				z := start(t, kind.admin, kind.list()...)
				if kind.first == backend.Keep {
					for _, b := range z.list {
						z.makeNamespace(t, b)
					}
				}
				return backendtest.Harness{
					Open:  func(*testing.T) backend.Provisioner { return static.New(z.list, nil) },
					Specs: static.New(z.list, nil).Specs(), First: kind.first,
					Dial: zdb.NewDialer(zdb.Options{PoolSize: 1, Timeout: 10 * time.Second}),
					Kill: z.kill, Restart: z.restart,
					Obstruct: func(t *testing.T, s backend.Spec) func() {
						for _, b := range z.list {
							if b.ID == s.ID {
								z.kill(t, b)
								return func() { z.restart(t, b) }
							}
						}
						t.Fatalf("no backend %s", s.ID)
						return nil
					},
					Limit: func(t *testing.T, b backend.Backend) {
						require.NoError(t, z.asAdmin(t, b).SetMaxSize(t.Context(), b.Namespace, 1<<20))
					},
				}
			})
		})
	}
}

func provision(t *testing.T, list []backend.Backend) []backend.Result {
	t.Helper()
	p := static.New(list, nil)
	results, err := p.Provision(t.Context(), p.Specs())
	require.NoError(t, err)
	require.Len(t, results, len(list))
	return results
}

// Without admin rights a missing namespace is an error that says what to do;
// once somebody has done it, the same call succeeds.
func TestMissingNamespaceWithoutRights(t *testing.T) {
	t.Parallel()
	z := start(t, "admin's", listed()...)
	for _, r := range provision(t, z.list) {
		var missing *static.NamespaceError
		require.ErrorAs(t, r.Err, &missing)
		assert.True(t, missing.Missing)
		assert.ErrorIs(t, r.Err, backend.ErrAccess)
		assert.Contains(t, missing.Hint(), "NSNEW "+r.Backend.Namespace)
		assert.NotContains(t, r.Err.Error()+missing.Hint(), r.Backend.Password.Reveal())
		z.makeNamespace(t, r.Backend)
	}
	for _, r := range provision(t, z.list) {
		require.NoError(t, r.Err)
	}
}

// A call that ended after NSNEW, or after the mode, is completed by the next.
func TestCompletesABegunNamespace(t *testing.T) {
	t.Parallel()
	for _, admin := range []backend.Secret{"", "admin's"} {
		z := start(t, admin, listed()...)
		for _, b := range z.list {
			require.NoError(t, z.asAdmin(t, b).CreateNamespace(t.Context(), b.Namespace))
		}
		steps, err := static.New(z.list, nil).Plan(t.Context(), static.New(z.list, nil).Specs())
		require.NoError(t, err)
		require.Len(t, steps, len(z.list))
		for _, r := range provision(t, z.list) {
			if admin != "" {
				var left *static.NamespaceError
				require.ErrorAs(t, r.Err, &left)
				assert.False(t, left.Missing)
				continue
			}
			require.NoError(t, r.Err)
			info, err := z.asAdmin(t, r.Backend).Info(t.Context(), r.Backend.Namespace)
			require.NoError(t, err)
			assert.Equal(t, r.Backend.Role == backend.Data, info.Sequential)
			assert.True(t, info.Password)
			assert.False(t, info.Public)
		}
	}
}

// What is in a namespace of the wrong mode is somebody's: it stays as it is.
func TestWrongModeIsLeftAlone(t *testing.T) {
	t.Parallel()
	list := listed()[1:2]
	z := start(t, "", list...)
	b := z.list[0]
	require.NoError(t, z.asAdmin(t, b).CreateNamespace(t.Context(), b.Namespace))
	c, err := zdb.Dial(t.Context(), backend.Backend{ID: b.ID, Address: b.Address, Namespace: b.Namespace}, zdb.Options{})
	require.NoError(t, err)
	defer c.Close() //nolint:errcheck // only asked
	_, err = c.Set(t.Context(), []byte("somebody's"), []byte("value"))
	require.NoError(t, err)

	require.ErrorIs(t, provision(t, z.list)[0].Err, backend.ErrMode)
	p := static.New(z.list, nil)
	_, err = p.Plan(t.Context(), p.Specs())
	require.ErrorIs(t, err, backend.ErrMode)
	info, err := z.asAdmin(t, b).Info(t.Context(), b.Namespace)
	require.NoError(t, err)
	assert.False(t, info.Sequential || info.Password)
	got, err := c.Get(t.Context(), []byte("somebody's"))
	require.NoError(t, err)
	assert.Equal(t, "value", string(got))
}

func TestPasswords(t *testing.T) {
	t.Parallel()
	z := start(t, "admin's", listed()[:1]...)
	z.makeNamespace(t, z.list[0])
	for _, password := range []backend.Secret{"", "wrong"} {
		list := []backend.Backend{z.list[0]}
		list[0].Password = password
		require.ErrorIs(t, provision(t, list)[0].Err, backend.ErrAccess, "%q", password.Reveal())
	}
	// One that everybody may read accepts no writes without the password.
	require.NoError(t, z.asAdmin(t, z.list[0]).SetPublic(t.Context(), z.list[0].Namespace, true))
	list := []backend.Backend{z.list[0]}
	list[0].Password = ""
	require.ErrorIs(t, provision(t, list)[0].Err, backend.ErrAccess)
	require.NoError(t, provision(t, z.list)[0].Err)
}

func TestUnknown(t *testing.T) {
	t.Parallel()
	z := start(t, "", listed()[:1]...)
	p := static.New(z.list, nil)
	for _, s := range []backend.Spec{{ID: "data7", Role: backend.Data}, {ID: "meta0", Role: backend.Meta, Namespace: "another"}} {
		results, err := p.Provision(t.Context(), []backend.Spec{s})
		require.NoError(t, err)
		require.ErrorIs(t, results[0].Err, static.ErrUnknown)
		_, err = p.Plan(t.Context(), []backend.Spec{s})
		require.ErrorIs(t, err, static.ErrUnknown)
	}
}

// Backends that do not answer must not add up their timeouts.
func TestSilentBackendsAreAskedTogether(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	accepted := make(chan net.Conn, 100)
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c // and never an answer
		}
	}()
	var list []backend.Backend
	for i := range 8 {
		list = append(list, backend.Backend{ID: string(rune('a' + i)), Role: backend.Data, Namespace: "n", Address: netip.MustParseAddrPort(l.Addr().String())})
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan []backend.Result, 1)
	go func() {
		p := static.New(list, nil)
		results, _ := p.Provision(ctx, p.Specs()) // the results tell as much
		done <- results
	}()
	for range list { // the first one waits for its answer all the while
		c := <-accepted
		defer c.Close() //nolint:errcheck // nothing is written
	}
	cancel()
	for _, r := range <-done {
		require.ErrorIs(t, r.Err, context.Canceled)
	}
	require.NoError(t, l.Close())
}
