package zdb_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb"
	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/internal/resp"
)

// targets runs a benchmark against this server and, when ZDB_BIN names one, a
// real zdb, both over loopback with the same bytes.
func targets(b *testing.B, f func(b *testing.B, addr netip.AddrPort)) {
	b.Run("ours", func(b *testing.B) {
		_, addr := start(b, server.Options{Mode: server.Sequential})
		f(b, addr)
	})
	b.Run("real", func(b *testing.B) {
		if os.Getenv("ZDB_BIN") == "" {
			b.Skip("ZDB_BIN names no real zdb")
		}
		f(b, real(b, b.TempDir(), "--mode", "seq"))
	})
}

var shapes = []struct {
	size, conns, depth int
}{
	{4 << 10, 1, 1}, {4 << 10, 16, 1}, {4 << 10, 1, 64},
	{128 << 10, 1, 1}, {128 << 10, 16, 1}, {128 << 10, 1, 16},
}

func BenchmarkSet(b *testing.B) {
	for _, s := range shapes {
		b.Run(fmt.Sprintf("%dKiB/conns=%d/depth=%d", s.size>>10, s.conns, s.depth), func(b *testing.B) {
			targets(b, func(b *testing.B, addr netip.AddrPort) {
				value := make([]byte, s.size)
				drive(b, addr, s.conns, s.depth, s.size, func(buf []byte, n int) []byte {
					binary.LittleEndian.PutUint64(value, uint64(n))
					return resp.AppendCommand(buf, []byte("SET"), nil, value)
				})
			})
		})
	}
}

func BenchmarkGet(b *testing.B) {
	for _, s := range shapes {
		b.Run(fmt.Sprintf("%dKiB/conns=%d/depth=%d", s.size>>10, s.conns, s.depth), func(b *testing.B) {
			targets(b, func(b *testing.B, addr netip.AddrPort) {
				const keys = 256
				c := dial(b, backend.Backend{Address: addr}, zdb.Options{})
				for range keys {
					_, err := c.Set(b.Context(), nil, make([]byte, s.size))
					require.NoError(b, err)
				}
				drive(b, addr, s.conns, s.depth, s.size, func(buf []byte, n int) []byte {
					return resp.AppendCommand(buf, []byte("GET"), segment.SeqKey(uint64(n%keys)))
				})
			})
		})
	}
}

// drive sends b.N requests over conns connections, depth at a time.
func drive(b *testing.B, addr netip.AddrPort, conns, depth, size int, request func(buf []byte, n int) []byte) {
	b.SetBytes(int64(size))
	b.ResetTimer()
	var wg sync.WaitGroup
	var mu sync.Mutex // request shares a value
	for w := range conns {
		count := b.N / conns
		if w < b.N%conns {
			count++
		}
		wg.Go(func() {
			c, err := net.Dial("tcp", addr.String())
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			r := bufio.NewReaderSize(c, 256<<10)
			var buf []byte
			for sent := 0; sent < count; {
				n := min(depth, count-sent)
				buf = buf[:0]
				mu.Lock()
				for i := range n {
					buf = request(buf, w*1_000_000+sent+i)
				}
				mu.Unlock()
				go0 := make(chan error, 1)
				if n > 1 { // the other side may answer before it has read all
					go func() { _, err := c.Write(buf); go0 <- err }()
				} else {
					_, err := c.Write(buf)
					go0 <- err
				}
				for range n {
					if err := skipBulk(r); err != nil {
						b.Error(err)
						return
					}
				}
				if err := <-go0; err != nil {
					b.Error(err)
					return
				}
				sent += n
			}
		})
	}
	wg.Wait()
}

func skipBulk(r *bufio.Reader) error {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	var n int
	if _, err := fmt.Sscanf(string(line), "$%d\r\n", &n); err != nil {
		return fmt.Errorf("answer %q", line)
	}
	_, err = io.CopyN(io.Discard, r, int64(n+2))
	return err
}

// BenchmarkClient has concurrent callers share the client's connections.
func BenchmarkClient(b *testing.B) {
	targets(b, func(b *testing.B, addr netip.AddrPort) {
		c := dial(b, backend.Backend{Address: addr}, zdb.Options{})
		value := make([]byte, 4<<10)
		b.SetBytes(int64(len(value)))
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := c.Set(b.Context(), nil, value); err != nil {
					b.Error(err)
				}
			}
		})
	})
}
