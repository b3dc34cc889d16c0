package zdb_test

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
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
