package zstor

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor/seal"
	"github.com/threefoldtech/quantumd/engine/zstor/zstortest"
)

// Stores and retrieves together stay under the limit, and none waits for ever:
// also one that wants more than the limit, and readers that need parity.
func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	for _, spill := range []int64{1 << 20, 64 << 20} {
		const limit = 8 << 20
		r := newRig(t, 2, 4, 4, func(_ *Config, o *Options) {
			o.MemoryLimit, o.SpillAbove = limit, spill
			o.Timeout = 0 // contention is not failure
		})
		var running sync.WaitGroup
		for i := range 8 {
			running.Go(func() {
				size := []int{10, 300_000, 1 << 20, 3 << 20, 5 << 20}[i%5]
				content := randomBytes(uint64(i), size)
				path := fmt.Sprint("/f", i)
				_, err := r.Store(t.Context(), path, source(content))
				if !assert.NoError(t, err) {
					return
				}
				for round := range 2 {
					var out bytes.Buffer
					_, err = r.Retrieve(t.Context(), path, &out)
					assert.NoError(t, err)
					assert.True(t, bytes.Equal(content, out.Bytes()), "round %d", round)
					r.d(round).Fail(zstortest.Lie)
				}
			})
		}
		running.Wait()
		st := r.Stats()
		require.LessOrEqual(t, st.BufferedPeak, int64(limit))
		require.Positive(t, st.BufferedPeak)
		require.Zero(t, st.Buffered, "everything is given back")
		require.Equal(t, spill == 1<<20, st.SpilledObjects > 0)
		left, err := os.ReadDir(r.opts.TempDir)
		require.NoError(t, err)
		require.Empty(t, left, "spill files have no name")
	}
}

func TestSpillNeedsItsFolder(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, 3, 3, func(_ *Config, o *Options) { o.SpillAbove, o.TempDir = 1, "/nonexistent/folder" })
	_, err := r.Store(t.Context(), "/f", source([]byte("x")))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Zero(t, r.Stats().Buffered)
}

func TestUnpackIsBounded(t *testing.T) {
	t.Parallel()
	var packed bytes.Buffer
	w := s2.NewWriter(&packed, s2.WriterSnappyCompat())
	_, err := w.Write(make([]byte, 10<<20))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	for _, limit := range []int64{0, 1, 1 << 20, 10<<20 - 1} {
		var out countWriter
		_, _, err := unpack(bytes.NewReader(packed.Bytes()), &out, limit)
		require.ErrorIs(t, err, ErrDamaged)
		require.LessOrEqual(t, int64(out), limit)
	}
	n, _, err := unpack(bytes.NewReader(packed.Bytes()), io.Discard, 10<<20)
	require.NoError(t, err)
	require.Equal(t, int64(10<<20), n)
	for _, cut := range []int{1, 9, 11, 15, packed.Len() / 2, packed.Len() - 1} {
		_, _, err := unpack(bytes.NewReader(packed.Bytes()[:cut]), io.Discard, 10<<20)
		require.ErrorIs(t, err, ErrDamaged, "cut at %d", cut)
	}
	_, _, err = unpack(bytes.NewReader(packed.Bytes()), failingWriter{}, 10<<20)
	require.ErrorIs(t, err, os.ErrClosed)
	require.NotErrorIs(t, err, ErrDamaged, "a full disk is no damage")
}

type countWriter int64

func (c *countWriter) Write(p []byte) (int, error) { *c += countWriter(len(p)); return len(p), nil }

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, os.ErrClosed }

func FuzzUnpack(f *testing.F) {
	var packed bytes.Buffer
	w := s2.NewWriter(&packed, s2.WriterSnappyCompat())
	_, _ = w.Write([]byte("some text, some text, some text"))
	_ = w.Close()
	f.Add(packed.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		var out countWriter
		n, _, err := unpack(bytes.NewReader(b), &out, 1<<20)
		require.LessOrEqual(t, int64(out), int64(1<<20))
		if err == nil {
			require.Equal(t, n, int64(out))
		} else {
			require.ErrorIs(t, err, ErrDamaged)
		}
	})
}

func TestCompressBoundHolds(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, snappyBlock - 1, snappyBlock, snappyBlock + 1, readBlock + 1, 3<<20 + 17} {
		content := randomBytes(3, size)
		dst := make([]byte, compressBound(int64(size)))
		n, _, err := compress(t.Context(), source(content), dst)
		require.NoError(t, err)
		if size == 0 {
			require.Zero(t, n, "zstor writes nothing for an empty file")
		}
		got, err := io.ReadAll(s2.NewReader(bytes.NewReader(dst[:n])))
		require.NoError(t, err)
		require.True(t, bytes.Equal(content, got))
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	net := zstortest.New()
	data, meta := net.Make(5, 3)
	require.NoError(t, ptr(testConfig(data, meta, 3, 5)).Validate())
	for name, change := range map[string]func(*Config){
		"k zero":            func(c *Config) { c.MinimalShards = 0 },
		"k is n":            func(c *Config) { c.MinimalShards = 5 },
		"k over n":          func(c *Config) { c.MinimalShards = 6 },
		"n over 256":        func(c *Config) { c.ExpectedShards = 257 },
		"negative":          func(c *Config) { c.RedundantNodes = -1 },
		"three meta":        func(c *Config) { c.Meta = c.Meta[:3] },
		"five meta":         func(c *Config) { c.Meta = append(c.Meta[:4:4], c.Data[0]) },
		"no key":            func(c *Config) { c.Key = seal.Key{} },
		"no prefix":         func(c *Config) { c.Prefix = "" },
		"long prefix":       func(c *Config) { c.Prefix = strings.Repeat("x", 250) },
		"too few data":      func(c *Config) { c.Data = c.Data[:4] },
		"spares only":       func(c *Config) { c.Data = append([]backend.Backend(nil), c.Data...); c.Data[0].Spare = true },
		"twice the same":    func(c *Config) { c.Data = append(c.Data[:4:4], c.Data[0]) },
		"meta is data":      func(c *Config) { c.Meta = append(c.Meta[:3:3], c.Data[0]) },
		"no address":        func(c *Config) { c.Data = append(c.Data[:4:4], backend.Backend{ID: "x"}) },
		"redundancy":        func(c *Config) { c.RedundantGroups = 2 },
		"redundancy, nodes": func(c *Config) { c.RedundantNodes = 2 },
		"zone": func(c *Config) {
			c.Data = append(c.Data[:4:4], backend.Backend{ID: "x", Address: netip.MustParseAddrPort("[fe80::1%eth0]:1")})
		},
	} {
		c := testConfig(data, meta, 3, 5)
		change(&c)
		err := c.Validate()
		var bad *ConfigError
		require.ErrorAs(t, err, &bad, name)
		require.NotEmpty(t, bad.Hint(), name)
		_, err = Open(c, Options{Dialer: net})
		require.ErrorAs(t, err, &bad, name)
	}
	_, err := Open(testConfig(data, meta, 3, 5), Options{})
	require.Error(t, err)
}

func ptr[T any](v T) *T { return &v }

func TestHashedPath(t *testing.T) {
	t.Parallel()
	for _, p := range []struct{ root, path, want string }{
		{"", "/srv/objects/one-byte", "/srv/objects/one-byte"},
		{"", "/srv//objects/./x/../one-byte/", "/srv/objects/one-byte"},
		{"", "relative/x", "relative/x"},
		{"/srv", "/srv/data/kib", "data/kib"},
		{"/srv/", "/srv/data/kib", "data/kib"},
		{"/", "/srv", "srv"},
		{"/srv", "/srvdata/kib", ""},
		{"/srv", "/srv", ""},
		{"/srv", "data/kib", ""},
		{"/srv", "/srv/../etc", ""},
		{"", "", ""},
		{"", "\xff", ""},
		{"", "a\x00b", ""},
	} {
		c := Config{Root: p.root, Prefix: "fixture-a"}
		got, err := c.HashedPath(p.path)
		if p.want == "" {
			require.Error(t, err, "%+v", p)
			continue
		}
		require.NoError(t, err, "%+v", p)
		require.Equal(t, p.want, got)
	}
	key, err := ptr(Config{Prefix: "fixture-a"}).ObjectKey("/srv/objects/one-byte")
	require.NoError(t, err)
	require.Equal(t, "/fixture-a/meta/728d8b07d46961fc797208cedf96bd43", key)
}

func TestKeysThatAreNone(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, 3, 3)
	for _, key := range []string{"x", "/test/meta/", "/test/meta/zz", "/other/meta/728d8b07d46961fc797208cedf96bd43", "/test/meta/728D8b07d46961fc797208cedf96bd43"} {
		_, err := r.LookupKey(t.Context(), key)
		require.ErrorContains(t, err, "no object key", key)
	}
}

// Moved backends are found at their new address, with the password of the config.
func TestAliasesOfMovedBackends(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, 3, 3)
	content := []byte("content")
	r.mustStore(t, "/f", content)
	cfg := r.Config()
	cfg.Aliases = map[netip.AddrPort]netip.AddrPort{}
	for i, b := range cfg.Data {
		moved := b
		moved.Address = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, 9, byte(i)}), 9900)
		moved.Password = "new password"
		s := r.net.Add(moved)
		for _, k := range r.net.At(b).Keys() {
			v, _ := r.net.At(b).Value(k)
			s.Put(k, v)
		}
		r.net.At(b).Fail(zstortest.Down)
		cfg.Aliases[b.Address] = moved.Address
		cfg.Data[i] = moved
	}
	require.NoError(t, r.Reload(t.Context(), cfg))
	r.mustGet(t, "/f", content)
	_, err := MarshalTOML(FileConfig{Config: cfg})
	require.Error(t, err)
}

func TestNoSecretsInLogsAndErrors(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var log bytes.Buffer
	r := newRig(t, 2, 3, 4, func(_ *Config, o *Options) {
		o.Logger = slog.New(slog.NewTextHandler(lockedWriter{&mu, &log}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	obj := r.mustStore(t, "/f", randomBytes(1, 1000))
	for _, s := range r.data {
		r.net.At(s).Fail(zstortest.Lie)
	}
	r.m(3).Fail(zstortest.Down)
	_, err := r.Retrieve(t.Context(), "/f", io.Discard)
	require.Error(t, err)
	for _, s := range r.data {
		r.net.At(s).Fail(zstortest.Full)
	}
	_, storeErr := r.Store(t.Context(), "/f", source([]byte("x")))
	require.Error(t, storeErr)
	mu.Lock()
	defer mu.Unlock()
	require.NotEmpty(t, log.String())
	all := log.String() + err.Error() + storeErr.Error() + fmt.Sprintf("%+v %v %#v", obj, r.Config(), obj)
	for _, secret := range []string{"secret-of-data", obj.DataKey.Hex(), r.cfg.Key.Hex()} {
		require.NotContains(t, all, secret)
	}
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func TestObserver(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var events []Event
	r := newRig(t, 2, 3, 3, func(_ *Config, o *Options) {
		o.Observer = func(e Event) { mu.Lock(); defer mu.Unlock(); events = append(events, e) }
	})
	r.mustStore(t, "/f", []byte("12345"))
	r.mustGet(t, "/f", []byte("12345"))
	mu.Lock()
	defer mu.Unlock()
	require.Len(t, events, 2)
	require.Equal(t, "store", events[0].Op)
	require.Equal(t, int64(5), events[1].Bytes)
	st := r.Stats()
	require.Equal(t, uint64(1), st.Stored)
	require.Equal(t, uint64(1), st.Retrieved)
	require.Equal(t, uint64(1), st.Sealed)
	require.Positive(t, st.Sent)
	require.Positive(t, st.Fetched)
}
