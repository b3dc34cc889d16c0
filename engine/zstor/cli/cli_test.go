package cli

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/engine/zstor/seal"
	"github.com/threefoldtech/quantumd/engine/zstor/zstortest"
)

type rig struct {
	t      *testing.T
	net    *zstortest.Net
	cfg    zstor.Config
	config string
	dir    string
}

func newRig(t *testing.T, socket string) *rig {
	t.Helper()
	r := &rig{t: t, net: zstortest.New()}
	r.cfg = zstor.Config{MinimalShards: 2, ExpectedShards: 3, Prefix: "cli", Key: seal.NewKey()}
	r.cfg.Data, r.cfg.Meta = r.net.Make(3, 1)
	var err error
	r.dir, err = filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	work := t.TempDir()
	text, err := zstor.MarshalTOML(zstor.FileConfig{Config: r.cfg, Daemon: zstor.DaemonConfig{Socket: socket, PIDFile: filepath.Join(work, "pid")}})
	require.NoError(t, err)
	r.config = filepath.Join(work, "zstor.toml")
	require.NoError(t, os.WriteFile(r.config, text, 0o600))
	return r
}

func (r *rig) run(args ...string) (code int, stdout, stderr string) {
	var out, errOut bytes.Buffer
	code = Run(r.t.Context(), append([]string{"-c", r.config}, args...), &out, &errOut, r.net)
	return code, out.String(), errOut.String()
}

func (r *rig) ok(args ...string) string {
	r.t.Helper()
	code, out, errOut := r.run(args...)
	require.Zero(r.t, code, "%v: %s", args, errOut)
	return out
}

func (r *rig) file(name, content string) string {
	f := filepath.Join(r.dir, name)
	require.NoError(r.t, os.MkdirAll(filepath.Dir(f), 0o700))
	require.NoError(r.t, os.WriteFile(f, []byte(content), 0o600))
	return f
}

func (r *rig) life() {
	f := r.file("one", "Z")
	require.Empty(r.t, r.ok("check", "-f", f), "unknown: nothing, and exit 0")
	require.Empty(r.t, r.ok("store", "-d", "-f", f))
	require.NoFileExists(r.t, f)
	require.Equal(r.t, "926214df7f2869c67f4a8a2e52d4b9da\n", r.ok("check", "--file", f))
	r.net.At(r.cfg.Data[0]).Clear()
	r.ok("rebuild", "-f", f)
	r.net.At(r.cfg.Data[1]).Fail(zstortest.Down)
	require.Empty(r.t, r.ok("retrieve", "-f", f))
	r.net.At(r.cfg.Data[1]).Fail(zstortest.None)
	got, err := os.ReadFile(f)
	require.NoError(r.t, err)
	require.Equal(r.t, "Z", string(got))

	keys := filepath.Join(r.dir, "keys")
	require.NoError(r.t, os.Mkdir(keys, 0o700))
	r.file("folder/a", "A")
	r.file("folder/sub/b", "B")
	r.ok("store", "-f", filepath.Join(r.dir, "folder"), "-k", keys)
	require.NotEmpty(r.t, r.ok("check", "-f", filepath.Join(keys, "a")))
	require.Empty(r.t, r.ok("check", "-f", filepath.Join(keys, "b")), "no recursion")

	code, _, errOut := r.run("retrieve", "-f", filepath.Join(r.dir, "unknown"))
	require.Equal(r.t, 1, code)
	require.Contains(r.t, errOut, "no such object")
	for i := range 2 {
		r.net.At(r.cfg.Meta[i]).Fail(zstortest.Down)
	}
	code, _, _ = r.run("check", "-f", filepath.Join(r.dir, "unknown"))
	require.Equal(r.t, 1, code, "two of four did not answer: not known")
	for i := range 2 {
		r.net.At(r.cfg.Meta[i]).Fail(zstortest.None)
	}
}

func TestInProcess(t *testing.T) {
	t.Parallel()
	newRig(t, "").life()
}

func TestThroughTheDaemon(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "zc") // a socket's path is short
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	r := newRig(t, socket)
	code, _, _ := r.run("check", "-f", "/x")
	require.Equal(t, 1, code, "no daemon: no falling back")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	go func() { done <- Run(ctx, []string{"-c", r.config, "monitor"}, &bytes.Buffer{}, &bytes.Buffer{}, r.net) }()
	require.Eventually(t, func() bool { c, _, _ := r.run("check", "-f", "/x"); return c == 0 }, 5*time.Second, 5*time.Millisecond)
	r.life()
	f := r.file("later", "later")
	r.ok("store", "-n", "-f", f)
	require.Eventually(t, func() bool { return r.ok("check", "-f", f) != "" }, 5*time.Second, 5*time.Millisecond)
	code, _, errOut := r.run("monitor")
	require.Equal(t, 1, code)
	require.Contains(t, errOut, "another daemon")
	cancel()
	require.Zero(t, <-done)
	require.NoFileExists(t, socket)
}

func TestStatusAndTest(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	require.Empty(t, r.ok("test"))
	r.net.At(r.cfg.Data[1]).Fail(zstortest.Down)
	code, _, _ := r.run("test")
	require.Equal(t, 1, code)
	out := r.ok("status")
	require.Contains(t, out, "| backend                | reachable | objects | used space | free space           | usage percentage |")
	require.Contains(t, out, "| 10.0.1.1:9900 - data-1 | No        |       - |          - |                    - |                - |")
	require.Contains(t, out, "| 10.0.2.0:9900 - meta-0 | Yes       |       0 |          0 | 18446744073709551615 |                0 |")
}

func TestUsage(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	require.Equal(t, "zstor_v2 0.4.0\n", r.ok("-V"))
	for _, args := range [][]string{{}, {"nothing"}, {"store"}, {"store", "-x"}, {"rebuild"}, {"rebuild", "-f", "a", "-k", "b"},
		{"check", "-f", "a", "b"}, {"monitor"}, {"-c", "/nonexistent", "test"}} {
		code, out, errOut := r.run(args...)
		require.Equal(t, 1, code, "%v", args)
		require.Empty(t, out)
		require.True(t, strings.Contains(errOut, "Error: "), "%v: %s", args, errOut)
	}
}
