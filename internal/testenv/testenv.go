// Package testenv brings up a whole QSFS in a temporary folder for tests:
// backends in this process, as processes of a program, in containers, or real
// zdbs; a frontend over them; faults in between; and waiting for conditions.
//
//	env := testenv.New(t, testenv.Options{})
//	f := env.Frontend(t)                   // a running System, without a mount
//	f.Write(t, "a/b", data)
//	f.Sync(t)
package testenv

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/local"
	"github.com/threefoldtech/quantumd/engine/zdb"
	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// Options describes the backends. The zero value is 2+1 on four metadata
// backends, in this process.
type Options struct {
	Data, Shards, MinShards int                 // data backends, n, k; zero: 3, 3, 2
	Provisioner             backend.Provisioner // zero: local, in this process
	Lease                   time.Duration       // zero: 2 s
}

// Env is a set of backends with the configuration that names them.
type Env struct {
	Config      *config.Config
	Provisioner backend.Provisioner
	Faults      *Faults
	lease       time.Duration
}

// New brings up backends that end with the test.
func New(t testing.TB, o Options) *Env {
	t.Helper()
	if o.Data == 0 {
		o.Data = 3
	}
	if o.Shards == 0 {
		o.Shards, o.MinShards = 3, 2
	}
	if o.Lease == 0 {
		o.Lease = 2 * time.Second
	}
	if o.Provisioner == nil {
		p := local.New(filepath.Join(t.TempDir(), "backends"), local.InProcess(nil))
		t.Cleanup(func() { require.NoError(t, p.Close()) })
		o.Provisioner = p
	}
	cfg := config.Default()
	cfg.ExpectedShards, cfg.MinShards = o.Shards, o.MinShards
	cfg.EncryptionKey = newKey()
	cfg.ZdbDataSize = config.MiB
	cfg.Metrics.Listen, cfg.Metrics.Pushgateway = "off", "off"
	results, err := o.Provisioner.Provision(t.Context(), qsfs.DefaultSpecs(backend.MetaBackends, o.Data))
	require.NoError(t, err)
	for _, r := range results {
		require.NoError(t, r.Err)
		b := r.Backend
		cfg.Backends = append(cfg.Backends, config.Backend{Role: b.Role, Address: b.Address.String(), Namespace: b.Namespace, Password: b.Password})
	}
	require.NoError(t, cfg.Validate())
	return &Env{Config: cfg, Provisioner: o.Provisioner, Faults: &Faults{}, lease: o.Lease}
}

func newKey() config.Secret {
	var k [32]byte
	_, _ = rand.Read(k[:]) // never fails
	return config.Secret(hex.EncodeToString(k[:]))
}

// Open makes a System over the backends, with its files below dir.
func (e *Env) Open(t testing.TB, dir string, opts ...qsfs.Option) *qsfs.System {
	t.Helper()
	all := append([]qsfs.Option{qsfs.Below(dir), qsfs.WithProvisioner(e.Provisioner), qsfs.WithoutMount(), qsfs.WithLease(e.lease),
		qsfs.WithDialer(e.Faults.Dialer(zdb.NewDialer(zdb.Options{PoolSize: 2, Timeout: 5 * time.Second})))}, opts...)
	sys, err := qsfs.Open(t.Context(), e.Config.Clone(), all...)
	require.NoError(t, err)
	return sys
}

// Frontend is a running System.
type Frontend struct {
	*qsfs.System
	Dir    string
	cancel context.CancelFunc
	ended  chan error
	once   sync.Once
	err    error
}

// Frontend runs a System in a fresh folder until the test ends.
func (e *Env) Frontend(t testing.TB, opts ...qsfs.Option) *Frontend {
	t.Helper()
	return e.FrontendIn(t, t.TempDir(), opts...)
}

// FrontendIn runs a System below dir until the test ends, or until Stop.
func (e *Env) FrontendIn(t testing.TB, dir string, opts ...qsfs.Option) *Frontend {
	t.Helper()
	f := &Frontend{System: e.Open(t, dir, opts...), Dir: dir, ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	f.cancel = cancel
	go func() { f.ended <- f.Run(ctx) }()
	t.Cleanup(func() { _ = f.Stop() }) // tests that care have called it themselves
	select {
	case <-f.Ready():
	case err := <-f.ended:
		f.once.Do(func() { f.err = err })
		require.NoError(t, err, "the system ended at its start")
	}
	return f
}

// Stop ends the System clean and gives what Run returned.
func (f *Frontend) Stop() error {
	f.once.Do(func() {
		f.cancel()
		f.err = <-f.ended
	})
	return f.err
}

// MustSync brings everything to the backends.
func (f *Frontend) MustSync(t testing.TB) {
	t.Helper()
	_, err := f.Sync(t.Context())
	require.NoError(t, err)
}

// Write writes a file with its folders through the tree, and fsyncs it.
func (f *Frontend) Write(t testing.TB, name string, data []byte) {
	t.Helper()
	require.NoError(t, WriteFile(t.Context(), f.Tree(), name, data))
}

// Read reads a file through the tree.
func (f *Frontend) Read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := ReadFile(t.Context(), f.Tree(), name)
	require.NoError(t, err)
	return data
}

// WriteFile writes a file with its folders, and fsyncs it.
func WriteFile(ctx context.Context, tr *tree.Tree, name string, data []byte) error {
	parent := tree.Root
	dir, base := path.Split(path.Clean("/" + name))
	for _, part := range strings.Split(strings.Trim(dir, "/"), "/") {
		if part == "" {
			continue
		}
		a, err := tr.Mkdir(ctx, parent, part, tree.NewNode{Mode: 0o755})
		if errors.Is(err, syscall.EEXIST) {
			a, err = tr.Lookup(ctx, parent, part)
		}
		if err != nil {
			return fmt.Errorf("mkdir %s: %w", part, err)
		}
		parent = a.Ino
	}
	a, err := tr.Create(ctx, parent, base, tree.NewNode{Mode: 0o644})
	if errors.Is(err, syscall.EEXIST) {
		if a, err = tr.Lookup(ctx, parent, base); err == nil {
			zero := int64(0)
			_, err = tr.Setattr(ctx, a.Ino, tree.SetAttr{Size: &zero})
		}
	} else if err == nil {
		defer tr.Release(a.Ino)
	}
	if err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	for off := 0; off < len(data); {
		n, err := tr.WriteAt(ctx, a.Ino, data[off:min(len(data), off+1<<20)], int64(off))
		if err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		off += n
	}
	return tr.Fsync(ctx, a.Ino)
}

// ReadFile reads a whole file.
func ReadFile(ctx context.Context, tr *tree.Tree, name string) ([]byte, error) {
	ino := tree.Root
	var a tree.Attr
	for _, part := range strings.Split(strings.Trim(path.Clean("/"+name), "/"), "/") {
		var err error
		if a, err = tr.Lookup(ctx, ino, part); err != nil {
			return nil, &fs.PathError{Op: "lookup", Path: name, Err: err}
		}
		ino = a.Ino
	}
	data := make([]byte, a.Size)
	for off := 0; off < len(data); {
		n, err := tr.ReadAt(ctx, ino, data[off:], int64(off))
		if err != nil {
			return nil, &fs.PathError{Op: "read", Path: name, Err: err}
		}
		if n == 0 {
			return data[:off], nil
		}
		off += n
	}
	return data, nil
}

// Faults stands between a System and its backends.
type Faults struct {
	mu   sync.Mutex
	down map[netip.AddrPort]bool
}

var errFault = errors.New("testenv: taken away")

// Down takes backends away, as if their machines were gone.
func (f *Faults) Down(addresses ...netip.AddrPort) { f.set(true, addresses) }

// Up gives them back.
func (f *Faults) Up(addresses ...netip.AddrPort) { f.set(false, addresses) }

func (f *Faults) set(down bool, addresses []netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down == nil {
		f.down = map[netip.AddrPort]bool{}
	}
	for _, a := range addresses {
		f.down[a] = down
	}
}

func (f *Faults) check(a netip.AddrPort) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down[a] {
		return &backend.UnreachableError{Address: a, Err: errFault}
	}
	return nil
}

// Dialer puts the faults before d.
func (f *Faults) Dialer(d backend.Dialer) backend.Dialer {
	return backend.DialerFunc(func(ctx context.Context, b backend.Backend) (backend.Conn, error) {
		c, err := d.Dial(ctx, b)
		if err != nil {
			return nil, err
		}
		return &faulty{Conn: c, faults: f, at: b.Address}, nil
	})
}

type faulty struct {
	backend.Conn
	faults *Faults
	at     netip.AddrPort
}

func (c *faulty) Get(ctx context.Context, key []byte) ([]byte, error) {
	if err := c.faults.check(c.at); err != nil {
		return nil, err
	}
	return c.Conn.Get(ctx, key)
}

func (c *faulty) Set(ctx context.Context, key, value []byte) ([]byte, error) {
	if err := c.faults.check(c.at); err != nil {
		return nil, err
	}
	return c.Conn.Set(ctx, key, value)
}

func (c *faulty) Delete(ctx context.Context, key []byte) error {
	if err := c.faults.check(c.at); err != nil {
		return err
	}
	return c.Conn.Delete(ctx, key)
}

func (c *faulty) Stat(ctx context.Context, key []byte) (backend.EntryStat, error) {
	if err := c.faults.check(c.at); err != nil {
		return backend.EntryStat{}, err
	}
	return c.Conn.Stat(ctx, key)
}

func (c *faulty) Info(ctx context.Context) (backend.NamespaceInfo, error) {
	if err := c.faults.check(c.at); err != nil {
		return backend.NamespaceInfo{}, err
	}
	return c.Conn.Info(ctx)
}

func (c *faulty) Check(ctx context.Context, key []byte) (bool, error) {
	if err := c.faults.check(c.at); err != nil {
		return false, err
	}
	return c.Conn.Check(ctx, key)
}

func (c *faulty) Scan(ctx context.Context, cursor []byte) ([]backend.Entry, []byte, error) {
	if err := c.faults.check(c.at); err != nil {
		return nil, nil, err
	}
	return c.Conn.Scan(ctx, cursor)
}
