package zstor

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor/record"
	"github.com/threefoldtech/quantumd/engine/zstor/seal"
	"github.com/threefoldtech/quantumd/engine/zstor/zstortest"
)

// The fixtures were recorded from the real zstor 0.4.0 and 0-db 2.0.7.

type fixtureObject struct {
	Path        string `json:"path"`
	HashedPath  string `json:"hashed_path"`
	FileSHA256  string `json:"file_sha256"`
	FileB2      string `json:"file_blake2b_128"`
	FileSize    int64  `json:"file_size"`
	ShardSize   int64  `json:"shard_size"`
	MetadataKey string `json:"metadata_key"`
	MetaPlain   string `json:"metadata_plain_hex"`
	MetaNonce   string `json:"metadata_nonce"`
	Metadata    struct {
		K      int    `json:"data_shards"`
		P      int    `json:"disposable_shards"`
		Key    string `json:"encryption_key"`
		Shards []struct {
			Index    int    `json:"index"`
			Checksum string `json:"checksum"`
			Keys     []struct {
				Value uint64 `json:"value"`
			} `json:"keys"`
			Backend fixtureBackend `json:"backend"`
		} `json:"shards"`
	} `json:"metadata"`
	MetadataValues []struct {
		Value []byte `json:"value"`
	} `json:"metadata_values"`
}

type fixtureBackend struct {
	Address   string  `json:"address"`
	Namespace *string `json:"namespace"`
	Password  *string `json:"password"`
}

type fixtureDump []struct {
	Role    string         `json:"role"`
	Backend fixtureBackend `json:"backend"`
	Entries []struct {
		Key   string `json:"key"`
		Value []byte `json:"value"`
	} `json:"entries"`
}

var shapes = []string{"two-of-three", "three-of-five"}

func fixtureObjects(t testing.TB, shape string) map[string]fixtureObject {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", shape, "objects", "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	out := map[string]fixtureObject{}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		require.NoError(t, err)
		var o fixtureObject
		require.NoError(t, json.Unmarshal(raw, &o), f)
		out[strings.TrimSuffix(filepath.Base(f), ".json")] = o
	}
	return out
}

// replay loads a dump into servers in memory.
func replay(t testing.TB, shape string) (*zstortest.Net, Config) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", shape, "config.toml"))
	require.NoError(t, err)
	file, err := ParseTOML(text)
	require.NoError(t, err)
	require.NoError(t, file.Config.Validate())
	f, err := os.Open(filepath.Join("testdata", shape, "backends.json.gz"))
	require.NoError(t, err)
	defer f.Close()
	zr, err := gzip.NewReader(f)
	require.NoError(t, err)
	var dump fixtureDump
	require.NoError(t, json.NewDecoder(zr).Decode(&dump))
	net := zstortest.New()
	for _, d := range dump {
		b := backend.Backend{Role: backend.Role(d.Role), Address: netip.MustParseAddrPort(d.Backend.Address),
			Namespace: deref(d.Backend.Namespace), Password: backend.Secret(deref(d.Backend.Password))}
		s := net.Add(b)
		for _, e := range d.Entries {
			key, err := hex.DecodeString(e.Key)
			require.NoError(t, err)
			s.Put(key, e.Value)
		}
	}
	return net, file.Config
}

// choices lists all subsets of k of n.
func choices(n, k int) [][]int {
	var out [][]int
	for mask := range 1 << n {
		var c []int
		for i := range n {
			if mask&(1<<i) != 0 {
				c = append(c, i)
			}
		}
		if len(c) == k {
			out = append(out, c)
		}
	}
	return out
}

func TestFixturesFromEveryChoiceOfBackends(t *testing.T) {
	t.Parallel()
	for _, shape := range shapes {
		t.Run(shape, func(t *testing.T) {
			t.Parallel()
			net, cfg := replay(t, shape)
			e, err := Open(cfg, Options{Dialer: net, HedgeAfter: time.Second, TempDir: t.TempDir()})
			require.NoError(t, err)
			defer e.Close()
			for name, want := range fixtureObjects(t, shape) {
				if want.MetadataValues != nil {
					continue // its data is not in the dump
				}
				k, n := want.Metadata.K, want.Metadata.K+want.Metadata.P
				metaPairs := choices(4, 2)
				for i, keep := range choices(n, k) {
					pair := metaPairs[i%len(metaPairs)]
					fixtureRetrieve(t, e, net, cfg, want, keep, pair, name)
				}
				for _, pair := range metaPairs {
					setDown(net, cfg.Meta, pair)
					obj, err := e.Lookup(t.Context(), want.Path)
					require.NoError(t, err, "%s from metadata %v", name, pair)
					require.Equal(t, want.FileB2, hex.EncodeToString(obj.Checksum[:]))
					require.Equal(t, want.MetadataKey, obj.Key)
					require.Equal(t, int64(-1), obj.Size)
				}
			}
			for _, b := range append(cfg.Data, cfg.Meta...) {
				net.At(b).Fail(zstortest.None)
			}
			for _, err := range e.List(t.Context()) {
				require.NoError(t, err)
			}
		})
	}
}

// setDown leaves only the backends with these positions up.
func setDown(net *zstortest.Net, bs []backend.Backend, up []int) {
	for _, b := range bs {
		net.At(b).Fail(zstortest.Down)
	}
	for _, i := range up {
		net.At(bs[i]).Fail(zstortest.None)
	}
}

func fixtureRetrieve(t *testing.T, e *Engine, net *zstortest.Net, cfg Config, want fixtureObject, keep, pair []int, name string) {
	t.Helper()
	setDown(net, cfg.Meta, pair)
	var holders []backend.Backend
	for _, s := range want.Metadata.Shards {
		holders = append(holders, backend.Backend{Address: netip.MustParseAddrPort(s.Backend.Address), Namespace: deref(s.Backend.Namespace)})
	}
	setDown(net, holders, keep)
	h := sha256.New()
	obj, err := e.Retrieve(t.Context(), want.Path, h)
	require.NoError(t, err, "%s with shards %v, metadata %v", name, keep, pair)
	require.Equal(t, want.FileSHA256, hex.EncodeToString(h.Sum(nil)), "%s with shards %v", name, keep)
	require.Equal(t, want.FileSize, obj.Size)
}

// Records of the real zstor have no CRCs: a shard that lies shows only when the
// object does not open, and is then found by its checksum.
func TestFixtureWithLiars(t *testing.T) {
	t.Parallel()
	net, cfg := replay(t, "three-of-five")
	e, err := Open(cfg, Options{Dialer: net, TempDir: t.TempDir()})
	require.NoError(t, err)
	defer e.Close()
	for _, name := range []string{"empty", "one-byte", "kib", "random-100k"} {
		o := fixtureObjects(t, "three-of-five")[name]
		obj, err := e.Lookup(t.Context(), o.Path)
		require.NoError(t, err)
		for _, liars := range choices(5, 2) {
			for _, fault := range []zstortest.Fault{zstortest.Lie, zstortest.Short} {
				for _, i := range liars {
					net.At(obj.Shards[i].Backend).Fail(fault)
				}
				h := sha256.New()
				_, err = e.Retrieve(t.Context(), o.Path, h)
				require.NoError(t, err, "%s, %v lie", name, liars)
				require.Equal(t, o.FileSHA256, hex.EncodeToString(h.Sum(nil)))
				for _, i := range liars {
					net.At(obj.Shards[i].Backend).Fail(zstortest.None)
				}
			}
		}
	}
}

func TestFixtureRecordsAreEncodedByteForByte(t *testing.T) {
	t.Parallel()
	for _, shape := range shapes {
		_, cfg := replay(t, shape)
		for name, o := range fixtureObjects(t, shape) {
			plain, err := hex.DecodeString(o.MetaPlain)
			require.NoError(t, err)
			rec, err := record.Parse(plain)
			require.NoError(t, err, name)
			require.Nil(t, rec.Extension)
			again, err := rec.Encode()
			require.NoError(t, err)
			require.Equal(t, plain, again, "%s/%s", shape, name)
			require.Equal(t, o.Metadata.Key, rec.Key.Hex())
			for i, s := range rec.Shards {
				want := o.Metadata.Shards[i]
				assert.Equal(t, want.Index, s.Index)
				assert.Equal(t, want.Backend.Address, s.Address.String())
				assert.Equal(t, want.Backend.Namespace, s.Namespace)
				assert.Equal(t, want.Backend.Password, s.Password)
				assert.Len(t, s.Keys, len(want.Keys))
			}
			key, err := cfg.ObjectKey(o.Path)
			require.NoError(t, err)
			require.Equal(t, o.MetadataKey, key)
			// Dispersing the recorded ciphertext gives the four recorded values.
			nonce, err := hex.DecodeString(o.MetaNonce)
			require.NoError(t, err)
			if o.MetadataValues != nil {
				var values []record.Value
				for _, v := range o.MetadataValues {
					p, err := record.ParseValue(v.Value)
					require.NoError(t, err)
					values = append(values, p)
				}
				sealed, err := record.Join(values[2], values[3])
				require.NoError(t, err)
				require.Equal(t, nonce, sealed[:seal.NonceSize])
				split, err := record.Split(sealed)
				require.NoError(t, err)
				for i := range split {
					require.Equal(t, o.MetadataValues[i].Value, split[values[i].Index].Encode())
				}
			}
		}
	}
}

func TestFixtureVerifyAndRebuild(t *testing.T) {
	t.Parallel()
	net, cfg := replay(t, "three-of-five")
	e, err := Open(cfg, Options{Dialer: net, TempDir: t.TempDir()})
	require.NoError(t, err)
	defer e.Close()
	o := fixtureObjects(t, "three-of-five")["random-100k"]
	rep, err := e.Verify(t.Context(), o.Path, VerifyOptions{})
	require.NoError(t, err)
	require.True(t, rep.Healthy(), "%+v", rep)
	net.At(rep.Shards[1].Backend).Clear()
	rep, err = e.Rebuild(t.Context(), o.Path, RebuildOptions{})
	require.NoError(t, err)
	require.Equal(t, []int{1}, rep.Rebuilt)
	require.True(t, rep.Healthy())
	require.Equal(t, o.Metadata.Shards[1].Checksum, hex.EncodeToString(rep.Object.Shards[1].Checksum[:]))
	var out bytes.Buffer
	_, err = e.Retrieve(t.Context(), o.Path, &out)
	require.NoError(t, err)
	require.Equal(t, o.FileSHA256, fmt.Sprintf("%x", sha256.Sum256(out.Bytes())))
}
