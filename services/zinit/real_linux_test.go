package zinit_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/services/zinit"
)

// real starts a real zinit of a generation with a folder of its own; the test
// is skipped where there is none.
func real(t *testing.T, g zinit.Generation) world {
	t.Helper()
	variable := map[zinit.Generation]string{zinit.LineProtocol: "ZINIT_OLD_BIN", zinit.JSONRPC: "ZINIT_NEW_BIN"}[g]
	bin := os.Getenv(variable)
	if bin == "" {
		t.Skipf("%s names no real zinit", variable)
	}
	w := world{g: g, dir: shortDir(t)}
	w.socket = filepath.Join(w.dir, "z.sock")
	w.services = filepath.Join(w.dir, "etc")
	require.NoError(t, os.Mkdir(w.services, 0o755))
	var said bytes.Buffer
	var cmd *exec.Cmd
	if g == zinit.LineProtocol {
		cmd = exec.Command(bin, "-s", w.socket, "init", "-c", w.services, "--container")
	} else { // its folder is always /etc/zinit
		require.NoError(t, os.MkdirAll("/etc/zinit", 0o755))
		script := fmt.Sprintf("mount --bind %s /etc/zinit && exec %s -s %s init --container", w.services, bin, w.socket)
		cmd = exec.Command("unshare", "-m", "sh", "-c", script)
	}
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		w.killServices(t)
		require.NoError(t, cmd.Process.Kill())
		var exit *exec.ExitError
		if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
			t.Errorf("wait for zinit: %v", err)
		}
		if t.Failed() {
			t.Logf("zinit said:\n%s", said.String()[max(0, said.Len()-4000):])
		}
	})
	require.Eventually(t, func() bool {
		found, err := zinit.Probe(t.Context(), w.socket)
		return err == nil && found == g
	}, 10*time.Second, 20*time.Millisecond)
	return w
}
