package machine

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A machine boots, runs what it is told, keeps its files over a reboot and a
// power cut, and has no network but its own.
func TestMachine(t *testing.T) {
	t.Parallel()
	m := Start(t, Options{})
	require.Equal(t, "systemd", strings.TrimSpace(m.Must("cat", "/proc/1/comm")))
	var exit *ExitError
	_, err := m.Run("/bin/sh", "-c", "echo no >&2; exit 5")
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 5, exit.Code)
	require.Contains(t, exit.Output, "no")
	m.Sh("echo kept > /srv/file; echo lost > /run/file; sync")
	m.Reboot()
	require.Equal(t, "kept\n", m.Must("cat", "/srv/file"))
	_, err = m.Run("test", "-e", "/run/file")
	require.ErrorAs(t, err, &exit)
	m.CutPower()
	m.Boot()
	require.Equal(t, "kept\n", m.Must("cat", "/srv/file"))
	require.Equal(t, "lo", strings.TrimSpace(m.Sh("ls /sys/class/net")))
	out, err := m.RunIn(strings.NewReader("words"), []string{"A=b"}, "/bin/sh", "-c", "cat; echo $A")
	require.NoError(t, err)
	require.Equal(t, "wordsb\n", out)
}
