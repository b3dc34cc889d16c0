package systemd

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/services"
)

var update = flag.Bool("update", false, "write the golden files")

// qsfs is a set of services as a QSFS with external components has it.
func qsfs() []services.Service {
	return []services.Service{
		{
			Name: "qsfs-zstor", Description: "QSFS object engine", Exec: []string{"/usr/local/bin/zstor", "-c", "/etc/qsfs/zstor.toml", "monitor"},
			ReloadSignal: syscall.SIGUSR1, StopTimeout: 15 * time.Minute, Writable: []string{"/opt/zdb", "/var/log/qsfs", "/run/qsfs"},
		},
		{
			Name: "qsfs-quantumd", Description: "QSFS daemon", Exec: []string{"/usr/local/bin/quantumd", "daemon"}, Notify: true,
			After: []string{"qsfs-zstor"}, RuntimeDir: "qsfs", Writable: []string{"/opt/zdb"}, Watchdog: 1500 * time.Millisecond, Env: []string{"NETWORK=main"},
			Credentials: []services.Credential{{Name: "mnemonic", Path: "/etc/qsfs/mnemonic"}},
		},
		{
			Name: "qsfs-zdb", Description: "QSFS frontend 100%", Exec: []string{"/usr/local/bin/zdb", "--data", "/opt/z db/$HOME/%n", "--hook", `/opt/a"b\c`},
			After: []string{"qsfs-quantumd", "qsfs-zstor"}, WaitExec: []string{"/usr/local/bin/quantumd", "wait", "zdb"},
			Kill: services.KillProcess, SuccessExit: []int{143, 130}, StopTimeout: 5 * time.Minute, Writable: []string{"/home/u/zdb"},
		},
		{
			Name: "qsfs-zdbfs", Description: "QSFS mount", Exec: []string{"/usr/local/bin/zdbfs", "/mnt/qs fs"}, Requires: []string{"qsfs-zdb"},
			Mountpoint: "/mnt/qs fs", StopTimeout: time.Minute, RestartDelay: 1500 * time.Millisecond,
		},
		{Name: "qsfs-free", Exec: []string{"/bin/true"}, Unconfined: true, Dir: "/opt/zdb"},
	}
}

func TestGoldenUnits(t *testing.T) {
	t.Parallel()
	golden := func(file, text string) {
		path := filepath.Join("testdata", file)
		if *update {
			require.NoError(t, os.MkdirAll("testdata", 0o755))
			require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		}
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, string(want), text, file)
	}
	for _, s := range qsfs() {
		text, err := Render(s, "qsfs.target")
		require.NoError(t, err)
		golden(s.Name+".service", text)
	}
	golden("qsfs.target", RenderTarget("QSFS"))
}

// A service with one of these gets a mount namespace of its own, and what it
// mounts is invisible on the host (measured with systemd 252).
func TestMountStaysVisible(t *testing.T) {
	t.Parallel()
	text, err := Render(services.Service{
		Name: "m", Exec: []string{"/bin/m"}, Mountpoint: "/mnt", Writable: []string{"/opt"}, RuntimeDir: "qsfs", Notify: true,
	}, "")
	require.NoError(t, err)
	for _, key := range []string{
		"ProtectSystem", "ProtectHome", "PrivateTmp", "ReadWritePaths", "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs",
		"ProtectControlGroups", "ProtectProc", "MountFlags", "PrivateDevices", "ReadOnlyPaths", "InaccessiblePaths", "BindPaths", "TemporaryFileSystem",
		"DynamicUser", "StateDirectory", "PrivateNetwork", "PrivateIPC", "ProcSubset", "RootDirectory", "NoExecPaths",
	} {
		require.NotContains(t, "\n"+text, "\n"+key+"=", key)
	}
	require.Contains(t, text, "DeviceAllow=/dev/fuse rw\n")
	require.Contains(t, text, "ExecStartPre=-/bin/umount -lq /mnt\n")
	require.Contains(t, text, "ExecStopPost=-/bin/umount -lq /mnt\n")
}

func TestQuote(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"/bin/x": "/bin/x", "": `""`, "a b": `"a b"`, `a"b`: `"a\"b"`, `a\b`: `"a\\b"`, "50%": "50%%", "it's": `"it's"`, ";": `";"`, "\t": `"\x09"`, "é": "é",
	} {
		require.Equal(t, want, quote(in), "%q", in)
	}
}

// systemd itself reads the units; anything that it says is a fault: unknown
// keys and bad values are only warnings to it.
func TestUnitsVerify(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	dir := t.TempDir()
	list := qsfs()
	var files []string
	for _, s := range list {
		s.Exec[0] = "/bin/true" // it must exist
		if len(s.WaitExec) > 0 {
			s.WaitExec[0] = "/bin/true"
		}
		text, err := Render(s, "qsfs.target")
		require.NoError(t, err)
		file := filepath.Join(dir, s.Name+".service")
		require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
		files = append(files, file)
	}
	target := filepath.Join(dir, "qsfs.target")
	require.NoError(t, os.WriteFile(target, []byte(RenderTarget("QSFS")), 0o644))
	verify := func(files ...string) (string, error) {
		cmd := exec.Command(analyze, append([]string{"verify", "--man=no"}, files...)...)
		cmd.Env = append(os.Environ(), "SYSTEMD_LOG_COLOR=0", "SYSTEMD_UNIT_PATH="+dir+":/usr/lib/systemd/system:/lib/systemd/system")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := verify(append(files, target)...)
	require.NoError(t, err, out)
	require.Empty(t, out)

	bad := filepath.Join(dir, "bad.service")
	require.NoError(t, os.WriteFile(bad, []byte("[Service]\nExecStart=/bin/true\nNoSuchKey=1\n"), 0o644))
	out, _ = verify(bad)
	require.Contains(t, out, "NoSuchKey", "it would say so")
}

// How exposed a service is at most, in tenths: as `systemd-analyze security`
// counts, which knows nothing of what the program itself does.
const (
	exposedConfined = 25
	exposedMounting = 40
)

func TestExposure(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	list := append(qsfs()[:4],
		services.Service{Name: "quantumd", Exec: []string{"/bin/true"}, Notify: true, RuntimeDir: "qsfs", Mountpoint: "/mnt/qsfs", Writable: []string{"/opt/zdb"},
			Credentials: []services.Credential{{Name: "mnemonic", Path: "/var/lib/quantumd/secrets/mnemonic"}}},
		services.Service{Name: "qsfs-a1", Exec: []string{"/bin/true"}, Dir: "/var/lib/quantumd/backends/a1", Writable: []string{"/var/lib/quantumd/backends/a1"}, Before: []string{"quantumd"}},
		services.Service{Name: "qsfs-home", Exec: []string{"/bin/true"}, Dir: "/home/u/tmp", Writable: []string{"/home/u/tmp", "/tmp/u"}},
	)
	dir := t.TempDir()
	for _, s := range list {
		text, err := Render(s, "")
		require.NoError(t, err)
		file := filepath.Join(dir, s.Name+".service")
		require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
		limit := exposedConfined
		if s.Mountpoint != "" {
			limit = exposedMounting
		}
		out, err := exec.Command(analyze, "security", "--offline=yes", "--no-pager", "--threshold="+strconv.Itoa(limit), file).CombinedOutput()
		require.NoError(t, err, "%s", out)
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		t.Log(lines[len(lines)-1])
	}
}
