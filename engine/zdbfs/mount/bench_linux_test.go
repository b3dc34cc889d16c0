package mount_test

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/engine/zdbfs/mount"
	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
)

// local is tree.Records over a zdb in this process.
type local struct{ n *server.Namespace }

func (l local) Get(ctx context.Context, id uint64) ([]byte, error) { return l.n.Get(ctx, key(id)) }

func (l local) Insert(ctx context.Context, value []byte) (uint64, error) {
	k, err := l.n.Set(ctx, nil, value)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(k), nil
}

func (l local) Update(ctx context.Context, id uint64, value []byte) error {
	_, err := l.n.Set(ctx, key(id), value)
	return err
}

func (l local) Delete(ctx context.Context, id uint64) error { return l.n.Delete(ctx, key(id)) }
func (l local) Sync(ctx context.Context) error              { return l.n.Sync(ctx) }

func (l local) Stats() (int64, int64, int64) {
	i := l.n.Info()
	return i.Entries, i.Used, i.Limit
}

// mounter runs fn in a mount; each call mounts anew what is there.
type mounter func(b *testing.B, fn func(dir string))

// oursOnDisk mounts a tree over a zdb in this process, on disk.
func oursOnDisk(b *testing.B) mounter {
	needFUSE(b)
	dir := b.TempDir()
	ctx := context.Background()
	s, err := server.Open(ctx, server.Options{DataDir: filepath.Join(dir, "data"), IndexDir: filepath.Join(dir, "index")})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, s.Close()) })
	var records [2]local
	for i, name := range []string{"zdbfs-meta", "zdbfs-data"} {
		records[i].n, err = s.CreateNamespace(ctx, name, server.NamespaceOptions{Mode: server.Sequential})
		require.NoError(b, err)
	}
	return func(b *testing.B, fn func(dir string)) {
		tr, err := tree.Open(ctx, tree.Options{Meta: records[0], Data: records[1]})
		require.NoError(b, err)
		dir := b.TempDir()
		m, err := mount.Mount(ctx, tr, mount.Options{Path: dir})
		require.NoError(b, err)
		fn(dir)
		b.StopTimer()
		end, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		require.NoError(b, m.Unmount(end))
		require.NoError(b, tr.Close(end))
		b.StartTimer()
	}
}

func peersOnDisk(b *testing.B) mounter {
	p := startPeers(b)
	return func(b *testing.B, fn func(dir string)) {
		p.theirs(b, func(dir string) {
			fn(dir)
			b.StopTimer()
		})
		b.StartTimer()
	}
}

func eachSystem(b *testing.B, fn func(b *testing.B, m mounter)) {
	b.Run("ours", func(b *testing.B) { fn(b, oursOnDisk(b)) })
	b.Run("zdbfs", func(b *testing.B) { fn(b, peersOnDisk(b)) })
}

const benchMiB = 256

func BenchmarkSequentialWrite(b *testing.B) {
	eachSystem(b, func(b *testing.B, m mounter) {
		b.SetBytes(benchMiB << 20)
		for b.Loop() {
			b.StopTimer()
			m(b, func(dir string) {
				b.StartTimer()
				sh(b, dir, "dd if=/dev/zero of=f bs=1M count=256 conv=fsync status=none")
				b.StopTimer()
				require.NoError(b, os.Remove(filepath.Join(dir, "f")))
			})
		}
	})
}

func BenchmarkSequentialRead(b *testing.B) {
	eachSystem(b, func(b *testing.B, m mounter) {
		m(b, func(dir string) { sh(b, dir, "dd if=/dev/urandom of=f bs=1M count=256 conv=fsync status=none") })
		b.SetBytes(benchMiB << 20)
		for b.Loop() {
			b.StopTimer()
			m(b, func(dir string) {
				b.StartTimer()
				sh(b, dir, "dd if=f of=/dev/null bs=1M status=none")
				b.StopTimer()
			})
		}
	})
}

func BenchmarkSmallFiles(b *testing.B) {
	src := b.TempDir()
	sh(b, src, `mkdir s; for d in $(seq 20); do mkdir s/$d; for i in $(seq 100); do head -c $((i*40)) /dev/urandom > s/$d/$i; done; done; tar -cf t.tar s`)
	eachSystem(b, func(b *testing.B, m mounter) {
		b.Run("untar", func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				m(b, func(dir string) {
					b.StartTimer()
					sh(b, dir, "tar -xf "+src+"/t.tar")
					b.StopTimer()
					sh(b, dir, "rm -r s")
				})
			}
		})
		m(b, func(dir string) { sh(b, dir, "tar -xf "+src+"/t.tar") })
		b.Run("ls-lR", func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				m(b, func(dir string) {
					b.StartTimer()
					sh(b, dir, "ls -lR . > /dev/null")
					b.StopTimer()
				})
			}
		})
		b.Run("read", func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				m(b, func(dir string) {
					b.StartTimer()
					sh(b, dir, "cat s/*/* > /dev/null")
					b.StopTimer()
				})
			}
		})
	})
}
