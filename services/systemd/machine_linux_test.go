package systemd

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/testenv/machine"
)

// TestMachine runs the conformance suite and each trap on a real systemd, which
// is shut down and booted in between. Nothing is left at the end.
func TestMachine(t *testing.T) {
	t.Parallel()
	m := machine.Start(t, machine.Options{Env: []string{insideEnv + "=1"}})
	program := m.Put("systemd.test", static(t))
	inside := func(tests string) {
		t.Helper()
		out, err := m.Run(program, "-test.v", "-test.parallel=16", "-test.timeout=2m", "-test.run=^("+tests+")$")
		require.NoError(t, err)
		if !strings.Contains(out, "--- PASS") {
			t.Fatalf("no test is called so: %s\n%s", tests, out)
		}
		t.Log(lastLines(out))
	}
	const everything = "find /etc | sort; ls /run /run/credentials; systemctl list-units --failed --plain --no-legend"
	m.Sh("mkdir -p " + logDir)
	before := m.Sh(everything)
	inside("Conformance")
	inside("Trap.*")
	require.Equal(t, before, m.Sh("rm -rf /run/qsfs-*; "+everything), "but for the folders of sockets, which are kept")
	inside("Install")

	m.Shutdown()
	m.Boot()
	log := strings.Split(strings.TrimSpace(m.Must("cat", logDir+"/boot")), "\n")
	require.Contains(t, log, "zstor END")
	first := slices.Index(log, "zstor END") + 1
	require.Equal(t, ended, ending(log[:first]), "the order of a machine that goes down")
	inside("Uninstall")
	require.Equal(t, before, m.Sh("rm -rf /run/qsfs-*; "+everything))
	complaints := m.Sh("journalctl --no-pager --output=cat _PID=1 | grep -E 'Unknown key|Failed to parse|Invalid|ordering cycle|ignoring' || true")
	require.Empty(t, complaints, "of systemd about the units")

	m.Sh("systemctl stop dbus.socket dbus.service 2>&1; rm -f /run/dbus/system_bus_socket")
	inside("WithoutBus")
}

func lastLines(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return !strings.Contains(l, "--- ") }), "\n")
}

// static gives this test binary as a file that needs no libraries: another
// machine may not have the same.
func static(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	f, err := elf.Open(self)
	require.NoError(t, err)
	defer f.Close() //nolint:errcheck // read only
	if !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return self
	}
	tool := os.Getenv("GO")
	if tool == "" {
		tool = "go"
	}
	path := filepath.Join(t.TempDir(), "systemd.test")
	cmd := exec.Command(tool, "test", "-c", "-ldflags", "-s -w", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}
