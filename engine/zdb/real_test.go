package zdb_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
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

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb"
	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/internal/resp"
)

// real starts a real zdb below dir and stops it with the test.
func real(t testing.TB, dir string, args ...string) netip.AddrPort {
	t.Helper()
	bin := zdbBinary(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	require.NoError(t, l.Close())
	cmd := exec.Command(bin, append([]string{
		"--data", filepath.Join(dir, "data"), "--index", filepath.Join(dir, "index"),
		"--listen", "127.0.0.1", "--port", strconv.Itoa(int(addr.Port())),
	}, args...)...)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // it always ends with a status
	})
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", addr.String())
		if err == nil {
			c.Close()
		}
		return err == nil
	}, 10*time.Second, 20*time.Millisecond)
	return addr
}

// life is one run of a server on a folder, ours or the real one.
type life struct {
	name  string
	start func(t *testing.T, dir string) netip.AddrPort
}

func lives(mode server.Mode) []life {
	word := "user"
	if mode == server.Sequential {
		word = "seq"
	}
	return []life{
		{"ours", func(t *testing.T, dir string) netip.AddrPort {
			_, addr := start(t, server.Options{
				DataDir: filepath.Join(dir, "data"), IndexDir: filepath.Join(dir, "index"),
				DataSize: server.MinDataSize, Mode: mode,
			})
			return addr
		}},
		{"real", func(t *testing.T, dir string) netip.AddrPort {
			return real(t, dir, "--mode", word, "--datasize", "524288")
		}},
	}
}

// TestTakeTurns has both servers work on the same files in turns. Each must
// find every key that the other left, and nothing else.
func TestTakeTurns(t *testing.T) {
	zdbBinary(t)
	for _, mode := range []server.Mode{server.User, server.Sequential} {
		for first := range 2 {
			t.Run(mode.String()+"/"+lives(mode)[first].name, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				r := rand.New(rand.NewPCG(uint64(first), uint64(mode)))
				model := map[string]string{}
				for turn := range 6 {
					l := lives(mode)[(first+turn)%2]
					t.Run(strconv.Itoa(turn)+l.name, func(t *testing.T) {
						addr := l.start(t, dir)
						c := dial(t, backend.Backend{Address: addr}, zdb.Options{})
						compareAll(t, c, model)
						work(t, r, c, addr, mode, model)
						compareAll(t, c, model)
					})
				}
			})
		}
	}
}

func compareAll(t *testing.T, c *zdb.Client, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	var cursor []byte
	for {
		list, next, err := c.Scan(t.Context(), cursor)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		for _, e := range list {
			v, err := c.Get(t.Context(), e.Key)
			require.NoError(t, err)
			got[string(e.Key)] = string(v)
		}
		cursor = next
	}
	require.Equal(t, len(want), len(got))
	require.True(t, maps.Equal(want, got), "contents differ")
	i, err := c.Info(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, len(want), i.Entries)
}

func work(t *testing.T, r *rand.Rand, c *zdb.Client, addr netip.AddrPort, mode server.Mode, model map[string]string) {
	a := zdb.DialAdmin(addr.String(), "", zdb.Options{})
	defer a.Close()
	fresh := 0 // writes since the last switch: a real zdb must not be left with an empty pair
	keys := slices.Sorted(maps.Keys(model))
	for i := range 150 {
		key := fmt.Appendf(nil, "key-%d", r.IntN(60))
		if mode == server.Sequential {
			key = nil
			if len(keys) > 0 && r.IntN(2) == 0 {
				key = []byte(keys[r.IntN(len(keys))])
				if _, live := model[string(key)]; !live {
					continue
				}
			}
		}
		switch k := r.IntN(20); {
		case k == 0 && i < 140 && fresh > 3:
			require.NoError(t, a.Jump(t.Context(), "default", ""))
			fresh = 0
		case k < 4 && len(key) > 0:
			err := c.Delete(t.Context(), key)
			if _, live := model[string(key)]; live {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, backend.ErrNotFound)
			}
			delete(model, string(key))
		default:
			value := bytes.Repeat(fmt.Append(nil, r.Uint32()), r.IntN(3000))
			id, err := c.Set(t.Context(), key, value)
			require.NoError(t, err)
			if _, old := model[string(id)]; !old {
				keys = append(keys, string(id))
			}
			model[string(id)] = string(value)
			fresh++
		}
	}
	value := []byte("the last one")
	key := []byte("last")
	if mode == server.Sequential {
		key = nil
	}
	id, err := c.Set(t.Context(), key, append(value, byte(r.Uint32())))
	require.NoError(t, err)
	v, err := c.Get(t.Context(), id)
	require.NoError(t, err)
	model[string(id)] = string(v)
}

// TestSameBytes: the same requests leave the same data and index files.
func TestSameBytes(t *testing.T) {
	zdbBinary(t)
	for _, mode := range []server.Mode{server.User, server.Sequential} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			var files [2]map[string]string
			for i, l := range lives(mode) {
				dir := t.TempDir()
				t.Run(l.name, func(t *testing.T) {
					addr := l.start(t, dir)
					nc, err := net.Dial("tcp", addr.String())
					require.NoError(t, err)
					defer nc.Close()
					replies := resp.NewReplyReader(nc)
					r := rand.New(rand.NewPCG(1, uint64(mode)))
					for n := range 400 {
						stamp := strconv.Itoa(1_700_000_000 + n)
						key := fmt.Appendf(nil, "k%d", r.IntN(50))
						if mode == server.Sequential {
							key = segment.SeqKey(uint64(r.IntN(50)))
							if r.IntN(2) == 0 {
								key = nil
							}
						}
						args := [][]byte{[]byte("SET"), key, bytes.Repeat(fmt.Append(nil, r.Uint32()), r.IntN(1000)), []byte(stamp)}
						if r.IntN(6) == 0 && len(key) > 0 {
							args = [][]byte{[]byte("DEL"), key, []byte(stamp)}
						}
						_, err := nc.Write(resp.AppendCommand(nil, args...))
						require.NoError(t, err)
						_, err = replies.Read()
						require.NoError(t, err)
					}
				})
				files[i] = map[string]string{}
				for _, kind := range []string{"data/default/d*", "index/default/i*"} {
					names, err := filepath.Glob(filepath.Join(dir, kind))
					require.NoError(t, err)
					for _, name := range names {
						b, err := os.ReadFile(name)
						require.NoError(t, err)
						files[i][filepath.Base(name)] = string(b)
					}
				}
			}
			require.Greater(t, len(files[0]), 2)
			require.Equal(t, slices.Sorted(maps.Keys(files[1])), slices.Sorted(maps.Keys(files[0])))
			for name := range files[0] {
				require.True(t, files[0][name] == files[1][name], name)
			}
		})
	}
}
