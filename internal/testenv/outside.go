package testenv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb"
)

// runner is one zdb that backend/local does not run.
type runner interface {
	// start runs it, at the same address as before where there was one, and
	// gives the address. It need not answer yet.
	start(context.Context) (netip.AddrPort, error)
	// kill ends it without warning and waits for its end.
	kill() error
}

// outside provisions backends that some runner runs.
type outside struct {
	launch func(id string, admin backend.Secret) (runner, error)
	dialer backend.Dialer

	mu    sync.Mutex
	nodes []*node
}

type node struct {
	backend.Backend
	runner
	admin  backend.Secret
	killed bool
}

func newOutside(t testing.TB, launch func(id string, admin backend.Secret) (runner, error)) *outside {
	o := &outside{launch: launch, dialer: zdb.NewDialer(zdb.Options{PoolSize: 1, Timeout: 5 * time.Second})}
	t.Cleanup(func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		for _, n := range o.nodes {
			if !n.killed {
				assert.NoError(t, n.kill(), n.ID)
			}
		}
	})
	return o
}

var _ Wiring = (*outside)(nil)

func (o *outside) findLocked(id string) *node {
	for _, n := range o.nodes {
		if n.ID == id {
			return n
		}
	}
	return nil
}

func (o *outside) List(context.Context) ([]backend.Backend, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := make([]backend.Backend, len(o.nodes))
	for i, n := range o.nodes {
		list[i] = n.Backend
	}
	return list, nil
}

func (o *outside) Plan(ctx context.Context, specs []backend.Spec) ([]backend.Step, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	steps := make([]backend.Step, len(specs))
	for i, s := range specs {
		steps[i] = backend.Step{Spec: s, ID: s.ID, Role: s.Role, Action: backend.Create}
		if n := o.findLocked(s.ID); n != nil {
			steps[i].Action, steps[i].Detail = backend.Keep, n.Address.String()
			if n.killed {
				steps[i].Action = backend.Start
			}
		}
	}
	return steps, ctx.Err()
}

func (o *outside) Provision(ctx context.Context, specs []backend.Spec) ([]backend.Result, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	results := make([]backend.Result, len(specs))
	var g errgroup.Group
	g.SetLimit(4)
	for i, s := range specs {
		r := &results[i]
		r.Spec = s
		if r.Err = ctx.Err(); r.Err != nil {
			continue
		}
		n, err := o.nodeLocked(s)
		if r.Err = err; err != nil {
			continue
		}
		g.Go(func() error {
			r.Err = n.up(ctx, s.Size)
			r.Backend = n.Backend
			return nil // each has its own result
		})
	}
	_ = g.Wait()
	return results, ctx.Err()
}

func (o *outside) nodeLocked(s backend.Spec) (*node, error) {
	if s.Role != backend.Meta && s.Role != backend.Data {
		return nil, fmt.Errorf("testenv: role %q", s.Role)
	}
	n := o.findLocked(s.ID)
	if n == nil {
		n = &node{Backend: backend.Backend{ID: s.ID, Role: s.Role, Namespace: s.Namespace, Password: s.Password, Group: s.Group},
			admin: backend.Secret(rand.Text()), killed: true}
		if n.Namespace == "" {
			n.Namespace = s.ID
		}
		if n.Password == "" {
			n.Password = backend.Secret(rand.Text())
		}
		var err error
		if n.runner, err = o.launch(s.ID, n.admin); err != nil {
			return nil, err
		}
		o.nodes = append(o.nodes, n)
	}
	if n.Role != s.Role {
		return nil, fmt.Errorf("testenv: %s: %w", n.Backend, backend.ErrMode)
	}
	return n, nil
}

// up starts the zdb where it was killed, or never ran, and waits for its
// namespace.
func (n *node) up(ctx context.Context, size int64) error {
	if n.killed {
		address, err := n.start(ctx)
		if err != nil {
			return fmt.Errorf("start %s: %w", n.ID, err)
		}
		n.Address, n.killed = address, false
	}
	admin := zdb.DialAdmin(n.Address.String(), n.admin, zdb.Options{Timeout: 5 * time.Second})
	defer admin.Close() //nolint:errcheck // only asked
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := admin.Ping(ctx)
		if err == nil {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", n.Backend, ctx.Err(), err)
		}
	}
	return zdb.EnsureNamespace(ctx, admin, zdb.NamespaceSpec{Name: n.Namespace, Sequential: n.Role == backend.Data, Password: n.Password, MaxSize: size})
}

func (o *outside) Retire(_ context.Context, ids ...string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	for _, id := range ids {
		for i, n := range o.nodes {
			if n.ID != id {
				continue
			}
			if !n.killed {
				errs = append(errs, n.kill())
			}
			o.nodes = append(o.nodes[:i:i], o.nodes[i+1:]...)
			break
		}
	}
	return errors.Join(errs...)
}

func (o *outside) Health(ctx context.Context, b backend.Backend) backend.Health {
	return zdb.Health(ctx, o.dialer, b)
}

func (o *outside) Kill(t testing.TB, id string) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	n := o.findLocked(id)
	require.NotNil(t, n, id)
	require.False(t, n.killed, id)
	require.NoError(t, n.kill())
	n.killed = true
}

func (o *outside) Start(t testing.TB, id string) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	n := o.findLocked(id)
	require.NotNil(t, n, id)
	require.NoError(t, n.up(t.Context(), 0))
}

// RealZdb runs each backend as a process of the real zdb that ZDB_BIN names. A
// test is skipped where it names none.
func RealZdb(t testing.TB) Wiring {
	t.Helper()
	program := os.Getenv("ZDB_BIN")
	if program == "" {
		t.Skip("ZDB_BIN names no real zdb")
	}
	dir := t.TempDir()
	return newOutside(t, func(id string, admin backend.Secret) (runner, error) {
		own, err := os.MkdirTemp(dir, id+"-")
		if err != nil {
			return nil, err
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		return &realZdb{program: program, dir: own, admin: admin, address: l.Addr().(*net.TCPAddr).AddrPort()}, l.Close()
	})
}

type realZdb struct {
	program, dir string
	admin        backend.Secret
	address      netip.AddrPort
	cmd          *exec.Cmd
}

func (z *realZdb) start(context.Context) (netip.AddrPort, error) {
	log, err := os.OpenFile(filepath.Join(z.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return z.address, err
	}
	defer log.Close() //nolint:errcheck // the child has its own descriptor
	z.cmd = exec.Command(z.program, "--data", filepath.Join(z.dir, "data"), "--index", filepath.Join(z.dir, "index"),
		"--listen", "127.0.0.1", "--port", strconv.Itoa(int(z.address.Port())), "--admin", z.admin.Reveal())
	z.cmd.Stdout, z.cmd.Stderr = log, log
	return z.address, z.cmd.Start()
}

func (z *realZdb) kill() error {
	if err := z.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = z.cmd.Wait() // it was killed
	return nil
}
