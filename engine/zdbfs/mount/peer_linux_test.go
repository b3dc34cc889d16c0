package mount_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb"
	"github.com/threefoldtech/quantumd/engine/zdbfs/mount"
	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
)

// remote is tree.Records over a zdb that somebody else runs.
type remote struct{ c *zdb.Client }

func key(id uint64) []byte { return binary.LittleEndian.AppendUint64(nil, id) }

func (r remote) Get(ctx context.Context, id uint64) ([]byte, error) { return r.c.Get(ctx, key(id)) }

func (r remote) Insert(ctx context.Context, value []byte) (uint64, error) {
	k, err := r.c.Set(ctx, nil, value)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(k), nil
}

func (r remote) Update(ctx context.Context, id uint64, value []byte) error {
	_, err := r.c.Set(ctx, key(id), value)
	return err
}

func (r remote) Delete(ctx context.Context, id uint64) error { return r.c.Delete(ctx, key(id)) }
func (r remote) Sync(context.Context) error                  { return nil }

func (r remote) Stats() (int64, int64, int64) {
	i, err := r.c.Info(context.Background())
	if err != nil {
		panic(err)
	}
	return i.Entries, i.Used, i.Limit
}

// peers are a real zdb and a real zdbfs.
type peers struct {
	zdbfs, address string
	meta, data     remote
}

func startPeers(t testing.TB) *peers {
	t.Helper()
	needFUSE(t)
	zdbBin, zdbfsBin := os.Getenv("ZDB_BIN"), os.Getenv("ZDBFS_BIN")
	if zdbBin == "" || zdbfsBin == "" {
		t.Skip("ZDB_BIN and ZDBFS_BIN do not name the real programs")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())
	dir := t.TempDir()
	_, port, _ := net.SplitHostPort(address)
	cmd := exec.Command(zdbBin, "--listen", "127.0.0.1", "--port", port, "--mode", "seq",
		"--data", filepath.Join(dir, "data"), "--index", filepath.Join(dir, "index"))
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, 10*time.Second, 10*time.Millisecond)
	p := &peers{zdbfs: zdbfsBin, address: address}
	admin := zdb.DialAdmin(address, "", zdb.Options{})
	defer admin.Close()
	for name, r := range map[string]*remote{"zdbfs-meta": &p.meta, "zdbfs-data": &p.data} {
		require.NoError(t, zdb.EnsureNamespace(t.Context(), admin, zdb.NamespaceSpec{Name: name, Sequential: true}))
		r.c = zdb.DialAddress(address, name, "", zdb.Options{})
		t.Cleanup(func() { _ = r.c.Close() })
	}
	return p
}

// ours runs fn in a mount of ours.
func (p *peers) ours(t testing.TB, fn func(dir string, tr *tree.Tree)) {
	t.Helper()
	tr, err := tree.Open(t.Context(), tree.Options{Meta: p.meta, Data: p.data})
	require.NoError(t, err)
	dir := t.TempDir()
	m, err := mount.Mount(t.Context(), tr, mount.Options{Path: dir})
	require.NoError(t, err)
	done := false
	stop := func() {
		if !done {
			done = true
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			require.NoError(t, m.Unmount(ctx))
			require.NoError(t, tr.Close(ctx))
		}
	}
	defer stop()
	fn(dir, tr)
}

// theirs runs fn in a mount of the real zdbfs.
func (p *peers) theirs(t testing.TB, fn func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	host, port, _ := net.SplitHostPort(p.address)
	cmd := exec.Command(p.zdbfs, "-o", fmt.Sprintf("autons,host=%s,port=%s", host, port), dir)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			t.Errorf("zdbfs did not end")
		}
	}()
	require.Eventually(t, func() bool {
		mounts, _ := os.ReadFile("/proc/mounts")
		return strings.Contains(string(mounts), " "+dir+" fuse")
	}, 10*time.Second, 10*time.Millisecond)
	fn(dir)
}

func sh(t testing.TB, dir, script string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", script)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s: %s", script, out)
	return string(out)
}

// TestWithPeers hands a tree to and fro between ours and the real zdbfs.
func TestWithPeers(t *testing.T) {
	p := startPeers(t)
	src := t.TempDir()
	sh(t, src, `
		mkdir -p a/b/c many; for i in $(seq 300); do echo "content $i" > many/file-$i; done
		head -c 700000 /dev/urandom > a/big; head -c 131072 /dev/urandom > a/b/block
		: > a/empty; ln -s ../a/big a/b/link; ln a/big a/b/c/hard
		truncate -s 1000000 a/sparse; printf x | dd of=a/sparse bs=1 seek=400000 conv=notrunc status=none
		chmod 750 a/b; chmod 4711 a/empty; touch -d @1000000000 a/empty`)
	const list = `find . -mindepth 1 -printf '%P %y %m %l %T@\n' | sort`
	const modes = `find . -mindepth 1 -printf '%P %y %m %l\n' | sort`
	p.ours(t, func(dir string, _ *tree.Tree) {
		sh(t, dir, "cp -a "+src+"/. .; mkdir trash; echo x > trash/x; sync")
		sh(t, dir, "rm -r trash; head -c 300000 /dev/zero > cut; truncate -s 10 cut; rm cut")
		require.Equal(t, sh(t, src, list), sh(t, dir, list))
	})
	p.theirs(t, func(dir string) {
		require.Empty(t, sh(t, dir, "diff -r --no-dereference "+src+" ."))
		require.Equal(t, sh(t, src, modes), sh(t, dir, modes))
		require.Equal(t, "2", strings.TrimSpace(sh(t, dir, "stat -c %h a/big")))
		for _, at := range []string{src, dir} { // the same in both places
			sh(t, at, `cd many; for i in $(seq 100); do rm file-$i; done; for i in $(seq 400 450); do echo new > n-$i; done
				mv file-200 ../a/moved; mkdir sub; echo y > sub/y; cd ..; chmod 600 a/b/block; head -c 200000 /dev/zero >> a/big
				rm a/b/c/hard; rmdir a/b/c; mv a/b a/renamed`)
		}
		require.Empty(t, sh(t, dir, "diff -r --no-dereference "+src+" ."))
	})
	p.ours(t, func(dir string, tr *tree.Tree) {
		require.Empty(t, sh(t, dir, "diff -r --no-dereference "+src+" ."))
		require.Equal(t, sh(t, src, modes), sh(t, dir, modes))
		found, err := tr.Check(t.Context())
		require.NoError(t, err)
		require.Empty(t, found)
		for _, at := range []string{src, dir} {
			sh(t, at, `rm -r many/sub; for i in $(seq 150 190); do rm many/file-$i; done; mv a/renamed many/deep; echo end > last`)
		}
	})
	p.theirs(t, func(dir string) {
		require.Empty(t, sh(t, dir, "diff -r --no-dereference "+src+" ."))
		sh(t, dir, "rm many/n-*; echo z > z; rm last")
		sh(t, src, "rm many/n-*; echo z > z; rm last")
	})
	p.ours(t, func(dir string, tr *tree.Tree) {
		require.Empty(t, sh(t, dir, "diff -r --no-dereference "+src+" ."))
		found, err := tr.Check(t.Context())
		require.NoError(t, err)
		require.Empty(t, found)
		sh(t, dir, "rm -r *")
	})
	p.theirs(t, func(dir string) {
		require.Empty(t, sh(t, dir, "ls -A"))
	})
}

var _ tree.Records = remote{}
var _ backend.Conn = (*zdb.Client)(nil)
