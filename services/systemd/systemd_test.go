package systemd

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/services"
	"github.com/threefoldtech/quantumd/services/servicestest"
)

var update = flag.Bool("update", false, "write the golden files")

// qsfs is a set of services as a QSFS with external components has it.
func qsfs() []services.Service {
	return []services.Service{
		{
			Name: "qsfs-zstor", Description: "QSFS object engine", Exec: []string{"/usr/local/bin/zstor", "-c", "/etc/qsfs/zstor.toml", "monitor"},
			ReloadSignal: syscall.SIGUSR1, StopTimeout: 15 * time.Minute, Writable: []string{"/opt/zdb", "/var/log/qsfs"},
		},
		{
			Name: "qsfs-quantumd", Description: "QSFS daemon", Exec: []string{"/usr/local/bin/quantumd", "daemon"}, Notify: true,
			After: []string{"qsfs-zstor"}, RuntimeDir: "qsfs", Writable: []string{"/opt/zdb"}, Env: []string{"NETWORK=main"},
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
	var members []string
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
		members = append(members, s.Name)
	}
	golden("qsfs.target", RenderTarget("QSFS", members))
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
	require.Contains(t, text, "ExecStartPre=-/bin/umount -l /mnt\n")
	require.Contains(t, text, "ExecStopPost=-/bin/umount -l /mnt\n")
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
	var members, files []string
	for _, s := range list {
		s.Exec[0] = "/bin/true" // it must exist
		if len(s.WaitExec) > 0 {
			s.WaitExec[0] = "/bin/true"
		}
		text, err := Render(s, "qsfs.target")
		require.NoError(t, err)
		file := filepath.Join(dir, s.Name+".service")
		require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
		files, members = append(files, file), append(members, s.Name)
	}
	target := filepath.Join(dir, "qsfs.target")
	require.NoError(t, os.WriteFile(target, []byte(RenderTarget("QSFS", members)), 0o644))
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

// fake is a systemd as far as the Manager sees it, with units below root.
type fake struct {
	root string

	mu    sync.Mutex
	calls []string
	units map[string]*fakeUnit // as of the last daemon-reload
	pids  int
	now   time.Time
	fail  map[string]bool // units whose start fails
}

type fakeUnit struct {
	state   string
	enabled bool
	pid     int
	since   time.Time
}

func newFake(t *testing.T) *fake {
	return &fake{root: t.TempDir(), units: map[string]*fakeUnit{}, pids: 1000, now: time.Unix(1_700_000_000, 0), fail: map[string]bool{}}
}

var errFake = errors.New("exit status 5")

func (f *fake) Run(_ context.Context, stdout io.Writer, name string, args ...string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, name+" "+strings.Join(args, " "))
	if name == "journalctl" {
		_, err := fmt.Fprintln(stdout, "2026-01-01T00:00:00+0000 host zdb[1]: ready")
		return err
	}
	words := slices.DeleteFunc(slices.Clone(args[1:]), func(a string) bool { return strings.HasPrefix(a, "-") })
	if args[0] == "daemon-reload" {
		return f.reload()
	}
	for _, w := range words {
		if err := f.do(stdout, args[0], w, slices.Contains(args, "--now")); err != nil {
			return err
		}
	}
	return nil
}

// reload forgets units without a file, unless they run.
func (f *fake) reload() error {
	found, err := filepath.Glob(filepath.Join(f.root, unitDir, "*"))
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, path := range found {
		n := filepath.Base(path)
		there[n] = true
		if f.units[n] == nil {
			f.units[n] = &fakeUnit{state: "inactive"}
		}
	}
	for n, u := range f.units {
		if !there[n] && u.state != "active" {
			delete(f.units, n)
		}
	}
	return nil
}

func (f *fake) do(stdout io.Writer, verb, name string, now bool) error {
	u := f.units[name]
	if verb == "show" {
		return f.show(stdout, u)
	}
	if u == nil {
		return errFake
	}
	f.now = f.now.Add(time.Second)
	switch verb {
	case "enable":
		u.enabled = true
	case "disable":
		u.enabled = false
		if now {
			u.state, u.pid, u.since = "inactive", 0, f.now
		}
	case "start":
		if f.fail[name] {
			u.state, u.since = "failed", f.now
			return errors.New("exit status 1")
		}
		if u.state != "active" {
			f.pids++
			u.state, u.pid, u.since = "active", f.pids, f.now
		}
	case "stop":
		if u.state != "inactive" {
			u.state, u.pid, u.since = "inactive", 0, f.now
		}
	case "reload":
	case "reset-failed":
		return errFake
	default:
		return fmt.Errorf("unknown verb %s", verb)
	}
	return nil
}

func (f *fake) show(stdout io.Writer, u *fakeUnit) error {
	if u == nil {
		_, err := io.WriteString(stdout, "LoadState=not-found\nActiveState=inactive\nSubState=dead\nUnitFileState=\nMainPID=0\nStateChangeTimestamp=\n")
		return err
	}
	enabled := "disabled"
	if u.enabled {
		enabled = "enabled"
	}
	result := "success"
	if u.state == "failed" {
		result = "exit-code"
	}
	_, err := fmt.Fprintf(stdout, "LoadState=loaded\nActiveState=%s\nUnitFileState=%s\nMainPID=%d\nNRestarts=2\nExecMainStatus=0\nResult=%s\nStateChangeTimestamp=@%d\n",
		u.state, enabled, u.pid, result, u.since.Unix())
	return err
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"", "qsfs.target"} {
		t.Run("target="+target, func(t *testing.T) {
			t.Parallel()
			servicestest.Run(t, servicestest.Harness{
				New: func(t *testing.T) services.ServiceManager {
					f := newFake(t)
					return New(Options{Root: f.root, Runner: f, Target: target})
				},
				Service: func(t *testing.T, name string) services.Service {
					return services.Service{Name: name, Exec: []string{"/bin/sleep", "60"}}
				},
			})
		})
	}
}

// systemctl with several names stops all at once, so each has its call.
func TestStopIsOneAfterTheOther(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := newFake(t)
	m := New(Options{Root: f.root, Runner: f, Target: "qsfs.target"})
	_, err := m.Apply(ctx, qsfs()[:4])
	require.NoError(t, err)
	f.calls = nil
	names := []string{"qsfs-zdbfs", "qsfs-zstor", "qsfs-quantumd", "qsfs-zdb"}
	require.NoError(t, m.Start(ctx, names...))
	require.NoError(t, m.Stop(ctx, names...))
	require.Equal(t, []string{
		"systemctl start qsfs-zstor.service", "systemctl start qsfs-quantumd.service", "systemctl start qsfs-zdb.service", "systemctl start qsfs-zdbfs.service",
		"systemctl stop qsfs-zdbfs.service", "systemctl stop qsfs-zdb.service", "systemctl stop qsfs-quantumd.service", "systemctl stop qsfs-zstor.service",
	}, f.calls)
}

func TestApplyWritesPlainFiles(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := newFake(t)
	m := New(Options{Root: f.root, Runner: f, Target: "qsfs.target"})
	_, err := m.Apply(ctx, qsfs()[:1])
	require.NoError(t, err)
	require.Equal(t, []string{"systemctl daemon-reload", "systemctl enable qsfs-zstor.service qsfs.target"}, f.calls)
	_, err = m.Apply(ctx, qsfs()[1:2])
	require.NoError(t, err)
	target := filepath.Join(f.root, unitDir, "qsfs.target")
	b, err := os.ReadFile(target)
	require.NoError(t, err)
	require.Contains(t, string(b), "Wants=qsfs-quantumd.service qsfs-zstor.service\n", "the first Apply's service stays")
	st, err := os.Stat(target)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o644), st.Mode())
	require.NoError(t, m.Remove(ctx, "qsfs-zstor"))
	b, err = os.ReadFile(target)
	require.NoError(t, err)
	require.Contains(t, string(b), "Wants=qsfs-quantumd.service\n")
	require.NoError(t, m.Remove(ctx, "qsfs-quantumd"))
	left, err := os.ReadDir(filepath.Join(f.root, unitDir))
	require.NoError(t, err)
	require.Empty(t, left, "and the target goes with the last one")
}

func TestFailedStart(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := newFake(t)
	m := New(Options{Root: f.root, Runner: f})
	_, err := m.Apply(ctx, qsfs()[:1])
	require.NoError(t, err)
	f.fail["qsfs-zstor.service"] = true
	var failed *services.FailedError
	require.ErrorAs(t, m.Start(ctx, "qsfs-zstor"), &failed)
	require.Equal(t, "exit-code", failed.Status.Detail)
	require.NotEmpty(t, failed.Hint())
	require.ErrorAs(t, m.WaitReady(ctx, "qsfs-zstor"), &failed)
}

func TestStates(t *testing.T) {
	t.Parallel()
	for active, want := range map[string]services.State{
		"active": services.Active, "reloading": services.Active, "activating": services.Starting,
		"deactivating": services.Stopping, "failed": services.Failed, "inactive": services.Inactive, "": services.Inactive,
	} {
		require.Equal(t, want, parseShow("a", "LoadState=loaded\nActiveState="+active+"\n").State, active)
	}
	require.Equal(t, services.Missing, parseShow("a", "LoadState=not-found\nActiveState=inactive\n").State)
}

func TestLogs(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := newFake(t)
	m := New(Options{Root: f.root, Runner: f})
	_, err := m.Apply(ctx, qsfs()[:1])
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, m.Logs(ctx, "qsfs-zstor", services.LogOptions{Lines: 7, Follow: true}, &out))
	require.Contains(t, out.String(), "ready")
	require.Equal(t, "journalctl --unit=qsfs-zstor.service --lines=7 --output=short-iso --no-pager --quiet --follow", f.calls[len(f.calls)-1])
}

// The Runner that is used outside tests.
func TestProgramsTellWhatWentWrong(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	require.NoError(t, programs{}.Run(t.Context(), &out, "/bin/sh", "-c", "echo $LC_ALL"))
	require.Equal(t, "C\n", out.String())
	err := programs{}.Run(t.Context(), &out, "/bin/sh", "-c", "echo Unit x not found. >&2; exit 5")
	require.ErrorContains(t, err, "Unit x not found.")
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 5, exit.ExitCode())
}
