// Package peertest exchanges objects with the real zstor over the real zdb. It
// needs ZSTOR_BIN and ZDB_BIN and is skipped without them.
package peertest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/engine/zstor/monitor"
	"github.com/threefoldtech/quantumd/engine/zstor/seal"
)

func binary(t testing.TB, env string) string {
	t.Helper()
	bin := os.Getenv(env)
	if bin == "" {
		t.Skip(env + " does not name the real program")
	}
	return bin
}

func startZDB(t testing.TB) netip.AddrPort {
	t.Helper()
	bin := binary(t, "ZDB_BIN")
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	require.NoError(t, l.Close())
	cmd := exec.Command(bin, "--data", filepath.Join(dir, "data"), "--index", filepath.Join(dir, "index"),
		"--listen", "127.0.0.1", "--port", strconv.Itoa(int(addr.Port())), "--admin", "admin")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // it always ends with a status
	})
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", addr.String())
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, 10*time.Second, 20*time.Millisecond)
	return addr
}

// peer is a real zstor, a real zdb, and an engine of ours over the same backends.
type peer struct {
	t      testing.TB
	bin    string
	dir    string // of the files that are stored; resolved
	config string
	cfg    zstor.Config
	eng    *zstor.Engine
	dialer backend.Dialer
}

func newPeer(t testing.TB, k, n int) *peer {
	t.Helper()
	p := &peer{t: t, bin: binary(t, "ZSTOR_BIN"), dialer: zdb.NewDialer(zdb.Options{})}
	addr := startZDB(t)
	admin := zdb.DialAdmin(addr.String(), "admin", zdb.Options{})
	defer admin.Close()
	p.cfg = zstor.Config{MinimalShards: k, ExpectedShards: n, Prefix: "peer", Key: seal.NewKey()}
	add := func(role backend.Role, i int) backend.Backend {
		b := backend.Backend{ID: fmt.Sprintf("%s%d", role, i), Role: role, Address: addr, Group: fmt.Sprintf("g%d", i%3),
			Namespace: fmt.Sprintf("%s-%d", role, i), Password: backend.Secret(fmt.Sprintf("pw-%d", i))}
		require.NoError(t, zdb.EnsureNamespace(t.Context(), admin, zdb.NamespaceSpec{Name: b.Namespace, Sequential: role == backend.Data, Password: b.Password}))
		return b
	}
	for i := range n + 1 {
		p.cfg.Data = append(p.cfg.Data, add(backend.Data, i))
	}
	for i := range backend.MetaBackends {
		p.cfg.Meta = append(p.cfg.Meta, add(backend.Meta, i))
	}
	var err error
	p.dir, err = filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	p.eng, err = zstor.Open(p.cfg, zstor.Options{Dialer: p.dialer, TempDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.eng.Close()) })
	p.writeConfig("")
	return p
}

func (p *peer) writeConfig(socket string) {
	work := p.t.TempDir()
	text, err := zstor.MarshalTOML(zstor.FileConfig{Config: p.cfg, Daemon: zstor.DaemonConfig{
		Socket: socket, PIDFile: filepath.Join(work, "pid")}})
	require.NoError(p.t, err)
	p.config = filepath.Join(work, "zstor.toml")
	require.NoError(p.t, os.WriteFile(p.config, text, 0o600))
}

func (p *peer) zstor(args ...string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.bin, append([]string{"-c", p.config, "--log_file", filepath.Join(filepath.Dir(p.config), "log")}, args...)...)
	out, err := cmd.CombinedOutput()
	require.NoError(p.t, err, "zstor %v: %s", args, out)
	return strings.TrimSpace(string(out))
}

// indexes tells what the metadata backends hold: index, length and first bytes.
func (p *peer) indexes(key string) []string {
	var out []string
	for _, b := range p.cfg.Meta {
		conn, err := p.dialer.Dial(p.t.Context(), b)
		require.NoError(p.t, err)
		raw, err := conn.Get(p.t.Context(), []byte(key))
		require.NoError(p.t, conn.Close())
		if err != nil {
			out = append(out, err.Error())
			continue
		}
		out = append(out, fmt.Sprintf("%d/%d", raw[0], len(raw)))
	}
	return out
}

func (p *peer) file(name string, content []byte) string {
	f := filepath.Join(p.dir, name)
	require.NoError(p.t, os.WriteFile(f, content, 0o600))
	return f
}

func contents() map[string][]byte {
	random := make([]byte, 9<<20+1)
	rand.NewChaCha8([32]byte{7}).Read(random)
	return map[string][]byte{
		"empty":    nil,
		"one":      {'Z'},
		"kib":      random[:1024],
		"random":   random[:200_003],
		"text":     bytes.Repeat([]byte("all work and no play makes a dull file\n"), 40_000),
		"pieces":   random,
		"boundary": random[:64<<10],
	}
}

func TestRealStoresAndWeRetrieve(t *testing.T) {
	for _, shape := range [][2]int{{2, 3}, {3, 5}} {
		p := newPeer(t, shape[0], shape[1])
		for name, content := range contents() {
			f := p.file(name, content)
			p.zstor("store", "-f", f)
			var out bytes.Buffer
			obj, err := p.eng.Retrieve(t.Context(), f, &out)
			require.NoError(t, err, name)
			require.True(t, bytes.Equal(content, out.Bytes()), name)
			require.Equal(t, fmt.Sprintf("%x", obj.Checksum), p.zstor("check", "-f", f))
			rep, err := p.eng.Verify(t.Context(), f, zstor.VerifyOptions{})
			require.NoError(t, err)
			require.True(t, rep.Healthy(), "%+v", rep)
		}
	}
}

func TestWeStoreAndRealRetrieves(t *testing.T) {
	for _, shape := range [][2]int{{2, 3}, {3, 5}} {
		p := newPeer(t, shape[0], shape[1])
		for name, content := range contents() {
			f := filepath.Join(p.dir, name)
			for round := range 3 { // overwrites permute the metadata
				obj, err := p.eng.Store(t.Context(), f, zstor.Source{Reader: bytes.NewReader(content), Size: int64(len(content))})
				require.NoError(t, err)
				rep, err := p.eng.VerifyObject(t.Context(), obj, zstor.VerifyOptions{Deep: true})
				require.NoError(t, err)
				require.True(t, rep.Healthy(), "KEYCUR of the real zdb is what was sent: %+v", rep)
				_ = os.Remove(f) // may not be there
				p.zstor("retrieve", "-f", f)
				got, err := os.ReadFile(f)
				require.NoError(t, err)
				require.True(t, bytes.Equal(content, got), "%s, round %d", name, round)
				require.Equal(t, fmt.Sprintf("%x", obj.Checksum), p.zstor("check", "-f", f))
			}
		}
	}
}

func TestRealRebuildsOurs(t *testing.T) {
	p := newPeer(t, 3, 5)
	content := contents()["random"]
	f := filepath.Join(p.dir, "f")
	obj, err := p.eng.Store(t.Context(), f, zstor.Source{Reader: bytes.NewReader(content), Size: int64(len(content))})
	require.NoError(t, err)
	conn, err := p.dialer.Dial(t.Context(), obj.Shards[1].Backend)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.Delete(t.Context(), obj.Shards[1].Keys[0]))
	rep, err := p.eng.Verify(t.Context(), f, zstor.VerifyOptions{})
	require.NoError(t, err)
	require.Equal(t, zstor.Missing, rep.Shards[1].State)
	p.zstor("rebuild", "-f", f)
	rep, err = p.eng.Verify(t.Context(), f, zstor.VerifyOptions{})
	require.NoError(t, err)
	require.True(t, rep.Healthy(), "%+v", rep)
	var out bytes.Buffer
	_, err = p.eng.Retrieve(t.Context(), f, &out)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, out.Bytes()))

	// And we rebuild what the real one stored.
	g := p.file("g", content)
	p.zstor("store", "-f", g)
	theirs, err := p.eng.Lookup(t.Context(), g)
	require.NoError(t, err)
	conn2, err := p.dialer.Dial(t.Context(), theirs.Shards[0].Backend)
	require.NoError(t, err)
	defer conn2.Close()
	require.NoError(t, conn2.Delete(t.Context(), theirs.Shards[0].Keys[0]))
	rep, err = p.eng.Rebuild(t.Context(), g, zstor.RebuildOptions{})
	require.NoError(t, err)
	require.Len(t, rep.Rebuilt, 1)
	require.NoError(t, os.Remove(g))
	p.zstor("retrieve", "-f", g)
	got, err := os.ReadFile(g)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got))
}

// A degraded record, completed later, stays readable to the real zstor.
func TestRealReadsCompletedRecords(t *testing.T) {
	p := newPeer(t, 2, 3)
	content := contents()["kib"]
	f := filepath.Join(p.dir, "f")
	src := func() zstor.Source { return zstor.Source{Reader: bytes.NewReader(content), Size: int64(len(content))} }
	for missing := range 4 {
		cfg := p.cfg
		eng, err := zstor.Open(cfg, zstor.Options{Dialer: backend.DialerFunc(func(ctx context.Context, b backend.Backend) (backend.Conn, error) {
			if b.ID == cfg.Meta[missing].ID {
				return nil, &backend.UnreachableError{Address: b.Address, Err: context.DeadlineExceeded}
			}
			return p.dialer.Dial(ctx, b)
		})})
		require.NoError(t, err)
		obj, err := eng.Store(t.Context(), f, src())
		require.NoError(t, err)
		require.True(t, obj.Degraded)
		require.NoError(t, eng.Close())
		for _, complete := range []bool{false, true} {
			if complete {
				rep, err := p.eng.Rebuild(t.Context(), f, zstor.RebuildOptions{})
				require.NoError(t, err)
				require.Equal(t, 4, rep.Object.MetaHolders)
			}
			t.Logf("m%d missing, completed %v: indexes by backend %v", missing, complete, p.indexes(obj.Key))
			_ = os.Remove(f) // may not be there
			p.zstor("retrieve", "-f", f)
			got, err := os.ReadFile(f)
			require.NoError(t, err)
			require.True(t, bytes.Equal(content, got))
		}
	}
}

func TestClientTalksToTheRealDaemon(t *testing.T) {
	p := newPeer(t, 2, 3)
	dir, err := os.MkdirTemp("", "zs") // a socket's path is short
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	p.writeConfig(socket)
	cmd := exec.Command(p.bin, "-c", p.config, "--log_file", filepath.Join(dir, "log"), "monitor")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // it always ends with a status
	})
	c := monitor.NewClient(socket)
	f := p.file("f", []byte("through the daemon"))
	require.Eventually(t, func() bool { return c.Store(t.Context(), monitor.Store{File: f}) == nil }, 20*time.Second, 50*time.Millisecond)
	sum, found, err := c.Check(t.Context(), f)
	require.NoError(t, err)
	require.True(t, found)
	ours, ok, err := p.eng.Check(t.Context(), f)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, ours, sum)
	require.NoError(t, os.Remove(f))
	require.NoError(t, c.Retrieve(t.Context(), monitor.Retrieve{File: f}))
	got, err := os.ReadFile(f)
	require.NoError(t, err)
	require.Equal(t, "through the daemon", string(got))
	var remote *monitor.RemoteError
	require.ErrorAs(t, c.Rebuild(t.Context(), monitor.Rebuild{}), &remote)
}
