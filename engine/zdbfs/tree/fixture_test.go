package tree_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
	"github.com/threefoldtech/quantumd/engine/zdbfs/treetest"
)

func unzip(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name))
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	b, err := io.ReadAll(z)
	require.NoError(t, err)
	return b
}

// fixtureRecords replays a data file that 0-db wrote.
func fixtureRecords(t testing.TB, name string) *treetest.Memory {
	t.Helper()
	file := unzip(t, name)
	w := segment.NewWalker(bytes.NewReader(file[segment.DataHeaderSize:]), segment.DataHeaderSize)
	values := map[uint64][]byte{}
	var next uint64
	for {
		e, err := w.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		id, ok := segment.ParseSeqKey(e.Key)
		require.True(t, ok)
		if e.Deleted() {
			delete(values, id)
			continue
		}
		end := w.Offset()
		values[id] = file[end-int64(e.Length) : end]
		next++
	}
	return treetest.Load(values, next)
}

type manifest struct {
	Entries []struct {
		PathHex string `json:"path_hex"`
		Type    string `json:"type"`
		Mode    string `json:"mode"`
		UID     uint32 `json:"uid"`
		GID     uint32 `json:"gid"`
		Size    int64  `json:"size"`
		Nlink   uint32 `json:"nlink"`
		Mtime   int64  `json:"mtime"`
		Atime   int64  `json:"atime"`
		Ctime   int64  `json:"ctime"`
		Inode   uint64 `json:"inode"`
		SHA256  string `json:"sha256"`
		Target  string `json:"target"`
		Hex     string `json:"target_hex"`
	} `json:"entries"`
}

// checkManifest compares a tree with what zdbfs itself showed of it.
func checkManifest(t *testing.T, tr *tree.Tree, m *manifest) {
	ctx := t.Context()
	require.NotEmpty(t, m.Entries)
	for _, e := range m.Entries {
		raw, err := hex.DecodeString(e.PathHex)
		require.NoError(t, err)
		at, a := uint64(tree.Root), tree.Attr{}
		for _, name := range bytes.Split(raw, []byte("/")) {
			a, err = tr.Lookup(ctx, at, string(name))
			require.NoError(t, err, "%q", raw)
			at = a.Ino
		}
		mode, err := strconv.ParseUint(e.Mode, 8, 32)
		require.NoError(t, err)
		require.Equal(t, e.Inode, a.Ino, "%q", raw)
		require.EqualValues(t, mode, a.Mode&0o7777, "%q", raw)
		require.Equal(t, [2]uint32{e.UID, e.GID}, [2]uint32{a.UID, a.GID}, "%q", raw)
		require.Equal(t, [3]int64{e.Mtime, e.Atime, e.Ctime}, [3]int64{a.Mtime.Unix(), a.Atime.Unix(), a.Ctime.Unix()}, "%q", raw)
		switch e.Type {
		case "file":
			require.EqualValues(t, syscall.S_IFREG, a.Mode&syscall.S_IFMT, "%q", raw)
			require.Equal(t, e.Size, a.Size, "%q", raw)
			require.Equal(t, e.Nlink, a.Nlink, "%q", raw)
			sum := sha256.Sum256(content(t, tr, a.Ino))
			require.Equal(t, e.SHA256, hex.EncodeToString(sum[:]), "%q", raw)
		case "directory":
			require.EqualValues(t, syscall.S_IFDIR, a.Mode&syscall.S_IFMT, "%q", raw)
			require.Equal(t, e.Size, a.Size, "%q", raw)
			require.GreaterOrEqual(t, a.Nlink, uint32(2), "%q", raw)
		case "symlink":
			require.EqualValues(t, syscall.S_IFLNK, a.Mode&syscall.S_IFMT, "%q", raw)
			target, err := tr.Readlink(ctx, a.Ino)
			require.NoError(t, err)
			if e.Hex != "" {
				want, err := hex.DecodeString(e.Hex)
				require.NoError(t, err)
				require.Equal(t, string(want), target)
			} else {
				require.Equal(t, e.Target, target, "%q", raw)
			}
			require.EqualValues(t, len(target), a.Size)
		default:
			t.Fatalf("%q: type %q", raw, e.Type)
		}
	}
}

// TestFixture opens a tree that zdbfs wrote, changes it, and opens it again.
func TestFixture(t *testing.T) {
	t.Parallel()
	d := &disk{fixtureRecords(t, "zdbfs-meta.d0.gz"), fixtureRecords(t, "zdbfs-data.d0.gz")}
	var m manifest
	require.NoError(t, json.Unmarshal(unzip(t, "manifest.json.gz"), &m))
	tr := d.open(t)
	ctx := t.Context()
	checkManifest(t, tr, &m)
	count := 0
	var walk func(ino uint64, at string)
	walk = func(ino uint64, at string) {
		entries, err := tr.ReadDir(ctx, ino)
		require.NoError(t, err)
		for _, e := range entries {
			count++
			a, err := tr.Getattr(ctx, e.Ino)
			require.NoError(t, err)
			if a.Mode&syscall.S_IFMT == syscall.S_IFDIR {
				walk(e.Ino, path.Join(at, e.Name))
			}
		}
	}
	walk(tree.Root, "/")
	require.Equal(t, len(m.Entries), count)
	noDamage(t, tr)

	// Old bytes behind the end of truncated files never show.
	changed, err := tr.Lookup(ctx, tree.Root, "changed")
	require.NoError(t, err)
	for _, name := range []string{"truncated-down", "rewritten-short"} {
		a, err := tr.Lookup(ctx, changed.Ino, name)
		require.NoError(t, err)
		want := content(t, tr, a.Ino)
		size := a.Size + 300000
		_, err = tr.Setattr(ctx, a.Ino, tree.SetAttr{Size: &size})
		require.NoError(t, err)
		want = append(want, make([]byte, 300000)...)
		require.True(t, bytes.Equal(want, content(t, tr, a.Ino)), name)
		require.NoError(t, tr.Close(ctx))
		tr = d.open(t)
		require.True(t, bytes.Equal(want, content(t, tr, a.Ino)), name)
		_, err = tr.Setattr(ctx, a.Ino, tree.SetAttr{Size: &a.Size, Mtime: &a.Mtime})
		require.NoError(t, err)
	}

	// The rest stays as it was through changes in each folder.
	require.NoError(t, tr.Sync(ctx))
	create(t, tr, tree.Root, "ours", []byte("x"))
	require.NoError(t, tr.Close(ctx))
	tr = d.open(t)
	ours, err := tr.Lookup(ctx, tree.Root, "ours")
	require.NoError(t, err)
	require.Equal(t, "x", string(content(t, tr, ours.Ino)))
	noDamage(t, tr)

	// Everything can be removed.
	var remove func(ino uint64)
	remove = func(ino uint64) {
		entries, err := tr.ReadDir(ctx, ino)
		require.NoError(t, err)
		for _, e := range entries {
			a, err := tr.Getattr(ctx, e.Ino)
			require.NoError(t, err)
			if a.Mode&syscall.S_IFMT == syscall.S_IFDIR {
				remove(e.Ino)
				require.NoError(t, tr.Rmdir(ctx, ino, e.Name))
			} else {
				require.NoError(t, tr.Unlink(ctx, ino, e.Name))
			}
		}
	}
	remove(tree.Root)
	require.NoError(t, tr.Sync(ctx))
	require.NoError(t, tr.Sync(ctx))
	root, err := tr.Getattr(ctx, tree.Root)
	require.NoError(t, err)
	require.Zero(t, root.Size)
	noDamage(t, tr)
}
