package ongrid

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/engine/zstor/record"
	"github.com/threefoldtech/quantumd/engine/zstor/seal"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

func TestUses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mnemonic backend.Secret
		name     string
		network  string
		want     bool
	}{{"words", "demo", "main", true}, {"", "demo", "main", false}, {"words", "", "main", false}, {"words", "demo", "", false}, {"", "", "", false}} {
		cfg := config.Default()
		cfg.Mnemonic, cfg.DeploymentName, cfg.Network = c.mnemonic, c.name, c.network
		require.Equal(t, c.want, Uses(cfg), c)
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	const g, tera = grid.GiB, 1 << 40
	for _, c := range []struct {
		name             string
		minimum, shards  int
		total, data      config.Size
		meta, file       config.Size
		listed           bool
		wantMeta, wantGB int64
	}{
		{"a sixteenth of it, and the headroom", 16, 20, 160 * g, 0, 0, 0, false, 1, 11},
		{"exactly", 16, 20, 16 * tera, 0, 0, 0, false, 4, 1076}, // 1024 × 1.05
		{"of three", 3, 5, 30 * g, 0, 0, 0, false, 1, 11},
		{"whole GiB", 3, 5, 1, 0, 0, 0, false, 1, 1},
		{"data_size wins", 3, 5, 30 * g, 7 * g, 0, 0, false, 1, 7},
		{"data_size alone", 3, 5, 0, 7*g - 5, 0, 0, false, 1, 7},
		{"meta_size", 3, 5, 30 * g, 0, 5*g + 1, 0, false, 6, 11},
		{"more metadata than meta_size", 3, 5, 2 * tera, 0, 2 * g, 1 << 20, false, 10, 717},
		{"many small files of data_size", 3, 5, 0, tera, 0, 1 << 20, false, 14, 1024},
		{"nothing is said, and nothing is needed", 3, 5, 0, 0, 0, 0, true, 1, 0},
	} {
		cfg := config.Default()
		cfg.MinShards, cfg.ExpectedShards, cfg.TotalStorageSize, cfg.DataSize = c.minimum, c.shards, c.total, c.data
		if c.meta != 0 {
			cfg.MetaSize = c.meta
		}
		if c.file != 0 {
			cfg.ZdbDataSize = c.file
		}
		if c.listed {
			cfg.Backends = []config.Backend{{ID: "data0", Role: backend.Data}}
		}
		meta, data, err := Sizes(cfg)
		require.NoError(t, err, c.name)
		require.Equal(t, c.wantGB*g, data, c.name)
		require.Equal(t, c.wantMeta*g, meta, c.name)
	}
	_, _, err := Sizes(config.Default())
	require.ErrorIs(t, err, grid.ErrNoSize)
}

// A configuration that lists its backends and no size says nothing of a new one's.
func TestNothingOfNoSize(t *testing.T) {
	t.Parallel()
	cfg := config.Default()
	cfg.DeploymentName, cfg.ZdbConnectionType = "demo", "any"
	cfg.Backends = []config.Backend{{ID: "data0", Role: backend.Data, Address: "127.0.0.1:9900", Namespace: "ns"}}
	asked := context.Canceled
	p, err := New(cfg, qsfs.LayoutBelow(t.TempDir()), Options{Open: func(context.Context) (grid.Client, error) { return nil, asked }})
	require.NoError(t, err)
	list, err := p.List(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 1)
}

func TestMonthly(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]float64{"": 0, "12.5": 12.5, "x": -1, "-1": -1, "0": -1, "NaN": -1} {
		cfg := config.Default()
		cfg.Replace.MaxCostPerMonth = text
		usd, err := monthly(cfg)
		if want < 0 {
			require.Error(t, err, text)
			continue
		}
		require.NoError(t, err, text)
		require.InDelta(t, want, usd, 1e-9)
	}
}

// What is reckoned for a record is never less than what a metadata backend needs for
// a real one, with the longest names that there are; and not much more.
func TestRecordsFit(t *testing.T) {
	t.Parallel()
	for _, shape := range [][2]int{{3, 5}, {16, 20}, {1, 2}, {64, 100}, {2, 4}} {
		for _, file := range []int64{512 << 10, 64 << 20, 4095 << 20} {
			t.Run(fmt.Sprint(shape, file>>10), func(t *testing.T) {
				real := measured(t, shape[0], shape[1], file)
				files := int64(1<<62) / file
				reckoned := grid.MetaSize(files*file, file, shape[0], shape[1]) / files / 4 // versions
				require.GreaterOrEqual(t, reckoned, real)
				require.Less(t, reckoned, 2*real+512)
				t.Logf("%d bytes are reckoned, %d needed", reckoned, real)
			})
		}
	}
}

// measured is what a metadata backend needs for the record of a file.
func measured(t *testing.T, k, n int, file int64) int64 {
	t.Helper()
	namespace := "4294967295-1234567890123-" + strings.Repeat("x", 36)
	password := strings.Repeat("p", 64)
	length := (file + int64(k) - 1) / int64(k)
	r := record.Record{K: k, P: n - k, Key: seal.NewKey(), Extension: &record.Extension{Size: file, ShardLen: length}}
	for i := range n {
		s := record.Shard{Index: i, Address: netip.MustParseAddrPort("[400::1]:9900"), Namespace: &namespace, Password: &password}
		var sums []uint32
		for at := int64(0); at < length; at += zstor.PieceSize {
			s.Keys, sums = append(s.Keys, segment.SeqKey(uint64(at))), append(sums, 1)
		}
		r.Shards, r.Extension.CRCs = append(r.Shards, s), append(r.Extension.CRCs, sums)
	}
	plain, err := r.Append(0)
	require.NoError(t, err)
	key := seal.NewKey()
	values, err := record.Split(key.Seal(plain, nil))
	require.NoError(t, err)
	name := []byte("/" + config.Default().MetadataPrefix + "/meta/" + strings.Repeat("0", 32))
	e := segment.DataEntry{Key: name, Length: uint32(len(values[0].Encode()))} //nolint:gosec // small
	return e.Size()
}
