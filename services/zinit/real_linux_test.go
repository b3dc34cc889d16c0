package zinit_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/services/zinit"
)

// beginReal starts a real zinit; it ends with its test.
func (w world) beginReal(t *testing.T, bin string) {
	t.Helper()
	var said bytes.Buffer
	var cmd *exec.Cmd
	if w.g == zinit.LineProtocol {
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
		return err == nil && found == w.g
	}, 10*time.Second, 20*time.Millisecond)
}
