package remote_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/engine/zstor/cli"
	"github.com/threefoldtech/quantumd/engine/zstor/remote"
	"github.com/threefoldtech/quantumd/engine/zstor/seal"
	"github.com/threefoldtech/quantumd/engine/zstor/zstortest"
)

// objects is what moves whole files: the same promises, whoever does it.
type objects interface {
	StoreFile(ctx context.Context, path, file string) (zstor.Object, error)
	RetrieveObjectFile(ctx context.Context, obj zstor.Object, dst string) error
	Reload(ctx context.Context, cfg zstor.Config) error
	Rebuild(ctx context.Context, path string, opts zstor.RebuildOptions) (zstor.Report, error)
	RebuildKey(ctx context.Context, key string, opts zstor.RebuildOptions) (zstor.Report, error)
}

// bench is one implementation over backends, with an engine that looks at what
// it did.
type bench struct {
	objects
	engine *zstor.Engine
	cfg    zstor.Config // 2 of 3 on four data backends
	spare  backend.Backend
	dialer backend.Dialer
	root   string // may be reached through a symbolic link
	work   string
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(t *testing.T) *bench{"Engine": embedded, "OwnDaemon": ownDaemon, "RealDaemon": realDaemon} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := make(t)
			for _, c := range []struct {
				name string
				test func(t *testing.T, b *bench)
			}{
				{"ComesBack", comesBack}, {"VersionedPath", versionedPath}, {"NewContent", newContent}, {"SameContentAgain", sameContentAgain},
				{"ReplacesWhole", replacesWhole}, {"NothingStays", nothingStays}, {"Rebuild", rebuild}, {"GivesUp", givesUp}, {"OtherBackends", otherBackends},
			} {
				t.Run(c.name, func(t *testing.T) { c.test(t, b) })
			}
		})
	}
}

func (b *bench) file(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(b.work, name)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, data, 0o600))
	return path
}

func (b *bench) path(name string) string { return filepath.Join(b.root, name) }

// back brings an object back and gives its content.
func (b *bench) back(t *testing.T, path string) []byte {
	t.Helper()
	obj, err := b.engine.Lookup(t.Context(), path)
	require.NoError(t, err)
	dst := filepath.Join(t.TempDir(), "back")
	require.NoError(t, b.RetrieveObjectFile(t.Context(), obj, dst))
	st, err := os.Stat(dst)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), st.Mode().Perm())
	data, err := os.ReadFile(dst)
	require.NoError(t, err)
	return data
}

// loseShard deletes one shard from its backend.
func (b *bench) loseShard(t *testing.T, obj zstor.Object) {
	t.Helper()
	conn, err := b.dialer.Dial(t.Context(), obj.Shards[0].Backend)
	require.NoError(t, err)
	for _, key := range obj.Shards[0].Keys {
		require.NoError(t, conn.Delete(t.Context(), key))
	}
	require.NoError(t, conn.Close())
}

func (b *bench) healthy(t *testing.T, path string) {
	t.Helper()
	report, err := b.engine.Verify(t.Context(), path, zstor.VerifyOptions{Deep: true})
	require.NoError(t, err)
	assert.True(t, report.Healthy(), "%+v", report.Shards)
}

func noise(seed byte, n int) []byte {
	out := make([]byte, n)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte{seed})).Read(out) // never fails
	return out
}

func comesBack(t *testing.T, b *bench) {
	for i, n := range []int{0, 1, 100_000, 5<<20 + 1} {
		path := b.path(fmt.Sprintf("data/ns/size%d", n))
		data := noise(byte(i), n)
		obj, err := b.StoreFile(t.Context(), path, b.file(t, "source", data))
		require.NoError(t, err)
		assert.Equal(t, path, obj.Path)
		assert.EqualValues(t, n, obj.Size)
		assert.Equal(t, data, nonNil(b.back(t, path)))
		b.healthy(t, path)
	}
	_, err := b.engine.Lookup(t.Context(), b.path("data/ns/never"))
	require.ErrorIs(t, err, zstor.ErrNotFound)
	_, err = b.StoreFile(t.Context(), b.path("data/ns/x"), filepath.Join(b.work, "missing"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = b.StoreFile(t.Context(), "/somewhere/else", b.file(t, "source", []byte("x")))
	require.Error(t, err, "outside the root")
}

func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// A path with a version is stored from a file of another name, whose own path
// stays unknown and whose content stays as it is.
func versionedPath(t *testing.T, b *bench) {
	data := noise(9, 200_000)
	real := b.path("data/ns/d3")
	require.NoError(t, os.MkdirAll(filepath.Dir(real), 0o700))
	require.NoError(t, os.WriteFile(real, data, 0o600))
	_, err := b.StoreFile(t.Context(), real+"@1.200000", real)
	require.NoError(t, err)
	_, err = b.engine.Lookup(t.Context(), real)
	require.ErrorIs(t, err, zstor.ErrNotFound)
	assert.Equal(t, data, b.back(t, real+"@1.200000"))

	// What an earlier life left where a daemon writes to is no way to the original.
	require.NoError(t, os.Link(real, real+"@1.200000"))
	require.NoError(t, os.Truncate(real, 5)) // so that writing through the link would be seen
	assert.Equal(t, data, b.back(t, real+"@1.200000"))
	st, err := os.Stat(real)
	require.NoError(t, err)
	assert.EqualValues(t, 5, st.Size())
	if err := os.Remove(real + "@1.200000"); err != nil {
		require.ErrorIs(t, err, os.ErrNotExist)
	}
	require.NoError(t, os.Remove(real))
}

func newContent(t *testing.T, b *bench) {
	path := b.path("index/ns/i0")
	for i := range 3 {
		data := noise(byte(20+i), 50_000+i)
		_, err := b.StoreFile(t.Context(), path, b.file(t, "source", data))
		require.NoError(t, err)
		assert.Equal(t, data, b.back(t, path))
	}
	b.healthy(t, path)
}

// Storing the same again is success, and heals what is gone.
func sameContentAgain(t *testing.T, b *bench) {
	path, file := b.path("data/ns/again"), b.file(t, "source", noise(30, 90_000))
	first, err := b.StoreFile(t.Context(), path, file)
	require.NoError(t, err)
	again, err := b.StoreFile(t.Context(), path, file)
	require.NoError(t, err)
	assert.Equal(t, first.Checksum, again.Checksum)
	b.loseShard(t, again)
	_, err = b.StoreFile(t.Context(), path, file)
	require.NoError(t, err)
	b.healthy(t, path)
}

// A file that is there is replaced in one step, and stays when that fails.
func replacesWhole(t *testing.T, b *bench) {
	path := b.path("data/ns/whole")
	obj, err := b.StoreFile(t.Context(), path, b.file(t, "source", noise(31, 10_000)))
	require.NoError(t, err)
	dst := b.file(t, "old", []byte("the old content"))
	reader, err := os.Open(dst)
	require.NoError(t, err)
	defer reader.Close()
	require.NoError(t, b.RetrieveObjectFile(t.Context(), obj, dst))
	old, err := io.ReadAll(reader)
	require.NoError(t, err)
	assert.Equal(t, "the old content", string(old), "who has the old one open reads it to its end")
	got, err := os.ReadFile(dst)
	require.NoError(t, err)
	assert.Equal(t, noise(31, 10_000), got)

	wrong := obj
	wrong.Checksum[0]++
	require.ErrorIs(t, b.RetrieveObjectFile(t.Context(), wrong, dst), zstor.ErrDamaged)
	got, err = os.ReadFile(dst)
	require.NoError(t, err)
	assert.Equal(t, noise(31, 10_000), got)

	// Onto its own path.
	require.NoError(t, b.RetrieveObjectFile(t.Context(), obj, path))
	got, err = os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, noise(31, 10_000), got)
	require.NoError(t, os.Remove(path))
}

// Nothing is left below the root and in the staging folder.
func nothingStays(t *testing.T, b *bench) {
	for _, dir := range []string{b.root + "/", filepath.Join(b.work, "staging")} {
		if _, err := os.Stat(dir); os.IsNotExist(err) {
			continue // it hands nothing to anybody
		}
		require.NoError(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				t.Errorf("%s stays", path)
			}
			return err
		}))
	}
}

func rebuild(t *testing.T, b *bench) {
	path := b.path("data/ns/rebuilt")
	data := noise(40, 300_000)
	obj, err := b.StoreFile(t.Context(), path, b.file(t, "source", data))
	require.NoError(t, err)
	report, err := b.RebuildKey(t.Context(), obj.Key, zstor.RebuildOptions{})
	require.NoError(t, err)
	assert.True(t, report.Healthy())
	assert.Empty(t, report.Rebuilt, "nothing was wrong")

	b.loseShard(t, obj)
	report, err = b.RebuildKey(t.Context(), obj.Key, zstor.RebuildOptions{})
	require.NoError(t, err)
	assert.True(t, report.Healthy())
	assert.Equal(t, []int{obj.Shards[0].Index}, report.Rebuilt)
	assert.True(t, report.MetaWritten)
	assert.Equal(t, data, b.back(t, path))

	b.loseShard(t, report.Object)
	report, err = b.Rebuild(t.Context(), path, zstor.RebuildOptions{})
	require.NoError(t, err)
	assert.True(t, report.Healthy())
	assert.Equal(t, path, report.Object.Path)
	_, err = b.Rebuild(t.Context(), b.path("data/ns/never"), zstor.RebuildOptions{})
	require.ErrorIs(t, err, zstor.ErrNotFound)
}

func givesUp(t *testing.T, b *bench) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.StoreFile(ctx, b.path("data/ns/never"), b.file(t, "source", noise(50, 1000)))
	require.ErrorIs(t, err, context.Canceled)
}

// A backend is replaced: what it held is rebuilt on its successor, by key.
func otherBackends(t *testing.T, b *bench) {
	var keys []string
	for i := range 6 {
		obj, err := b.StoreFile(t.Context(), b.path(fmt.Sprintf("data/ns/moved%d", i)), b.file(t, "source", noise(byte(60+i), 40_000)))
		require.NoError(t, err)
		keys = append(keys, obj.Key)
	}
	old := b.cfg.Data[0]
	next := b.cfg
	next.Data = append(slices.Clone(b.cfg.Data[1:]), b.spare)
	require.NoError(t, b.Reload(t.Context(), next))
	for _, key := range keys {
		report, err := b.RebuildKey(t.Context(), key, zstor.RebuildOptions{Evacuate: true})
		require.NoError(t, err)
		assert.True(t, report.Healthy(), "%+v", report.Shards)
		for _, s := range report.Object.Shards {
			assert.NotEqual(t, old.Namespace, s.Backend.Namespace)
		}
	}
	for i := range 6 {
		assert.Equal(t, noise(byte(60+i), 40_000), b.back(t, b.path(fmt.Sprintf("data/ns/moved%d", i))))
	}
	_, err := b.StoreFile(t.Context(), b.path("data/ns/after"), b.file(t, "source", noise(70, 1000)))
	require.NoError(t, err)
	b.healthy(t, b.path("data/ns/after"))
}

// newBench puts an engine over backends; the root is behind a symbolic link, as
// /opt/zdb may be.
func newBench(t *testing.T, data, meta []backend.Backend, d backend.Dialer) *bench {
	work, err := os.MkdirTemp("", "zr") // a socket's path is short
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(work)) })
	b := &bench{work: work, root: filepath.Join(work, "link"), spare: data[len(data)-1], dialer: d}
	require.NoError(t, os.MkdirAll(filepath.Join(work, "root"), 0o700))
	require.NoError(t, os.Symlink("root", b.root))
	b.cfg = zstor.Config{MinimalShards: 2, ExpectedShards: 3, Data: data[:len(data)-1], Meta: meta, Prefix: "conform", Root: b.root, Key: seal.NewKey()}
	b.engine, err = zstor.Open(b.cfg, zstor.Options{Dialer: d, TempDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.engine.Close()) })
	b.objects = b.engine
	return b
}

// through has the bench go through a daemon.
func (b *bench) through(t *testing.T) *remote.Remote {
	o := remote.Options{Daemon: zstor.DaemonConfig{Socket: filepath.Join(b.work, "z.sock"), PIDFile: filepath.Join(b.work, "z.pid")},
		ConfigFile: filepath.Join(b.work, "zstor.toml"), Staging: filepath.Join(b.work, "staging"), Timeout: time.Minute}
	r, err := remote.New(b.engine, o)
	require.NoError(t, err)
	require.NoError(t, r.WriteConfig(b.cfg))
	b.objects = r
	return r
}

func embedded(t *testing.T) *bench {
	n := zstortest.New()
	data, meta := n.Make(5, 1)
	return newBench(t, data, meta, n)
}

// ownDaemon runs our own daemon in this process; its reload comes by the same
// signal as the real one's.
func ownDaemon(t *testing.T) *bench {
	n := zstortest.New()
	data, meta := n.Make(5, 1)
	b := newBench(t, data, meta, n)
	r := b.through(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan int, 1)
	reload := reloads(ctx)
	go func() {
		ended <- cli.RunReloading(ctx, []string{"-c", filepath.Join(b.work, "zstor.toml"), "monitor"}, io.Discard, os.Stderr, n, reload)
	}()
	t.Cleanup(func() { cancel(); require.Zero(t, <-ended) })
	awaitDaemon(t, r)
	return b
}

func realDaemon(t *testing.T) *bench {
	zstorBin, zdbBin := os.Getenv("ZSTOR_BIN"), os.Getenv("ZDB_BIN")
	if zstorBin == "" || zdbBin == "" {
		t.Skip("ZSTOR_BIN and ZDB_BIN name no real programs")
	}
	addr := realZdb(t, zdbBin)
	admin := zdb.DialAdmin(addr.String(), "admin", zdb.Options{})
	defer admin.Close()
	add := func(role backend.Role, i int) backend.Backend {
		b := backend.Backend{ID: fmt.Sprintf("%s%d", role, i), Role: role, Address: addr, Group: "g", Namespace: fmt.Sprintf("%s-%d", role, i), Password: "secret"}
		require.NoError(t, zdb.EnsureNamespace(t.Context(), admin, zdb.NamespaceSpec{Name: b.Namespace, Sequential: role == backend.Data, Password: b.Password}))
		return b
	}
	var data, meta []backend.Backend
	for i := range 5 {
		data = append(data, add(backend.Data, i))
	}
	for i := range backend.MetaBackends {
		meta = append(meta, add(backend.Meta, i))
	}
	b := newBench(t, data, meta, zdb.NewDialer(zdb.Options{}))
	r := b.through(t)
	cmd := exec.Command(zstorBin, "--log_file", filepath.Join(b.work, "log"), "-c", filepath.Join(b.work, "zstor.toml"), "monitor")
	cmd.Dir = b.work
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // it always ends with a status
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(b.work, "log"))
			t.Logf("zstor said:\n%s", log)
		}
	})
	awaitDaemon(t, r)
	return b
}

func awaitDaemon(t *testing.T, r *remote.Remote) {
	t.Helper()
	require.Eventually(t, func() bool { _, err := r.DaemonPID(t.Context()); return err == nil }, 20*time.Second, 20*time.Millisecond)
}

func realZdb(t *testing.T, bin string) netip.AddrPort {
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	require.NoError(t, l.Close())
	cmd := exec.Command(bin, "--data", filepath.Join(dir, "data"), "--index", filepath.Join(dir, "index"),
		"--listen", "127.0.0.1", "--port", strconv.Itoa(int(addr.Port())), "--admin", "admin", "--datasize", "8M")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // it always ends with a status
	})
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", addr.String())
		if err == nil {
			_ = c.Close() // only asked
		}
		return err == nil
	}, 10*time.Second, 20*time.Millisecond)
	return addr
}
