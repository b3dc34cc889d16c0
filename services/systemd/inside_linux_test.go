package systemd

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/services"
	"github.com/threefoldtech/quantumd/services/servicestest"
)

// inside are the tests that run in a machine of TestMachine, on its systemd:
// the same binary there, with QUANTUMD_INSIDE set. They are no tests elsewhere.
var inside = []testing.InternalTest{
	{Name: "Conformance", F: insideConformance},
	{Name: "TrapOrder", F: trapOrder},
	{Name: "TrapKillMode", F: trapKillMode},
	{Name: "TrapExitStatus", F: trapExitStatus},
	{Name: "TrapHookReachesTheSocket", F: trapHookReachesTheSocket},
	{Name: "TrapMount", F: trapMount},
	{Name: "TrapDeadMount", F: trapDeadMount},
	{Name: "TrapZdbfsFollowsZdb", F: trapZdbfsFollowsZdb},
	{Name: "TrapWatchdog", F: trapWatchdog},
	{Name: "TrapMissingFolder", F: trapMissingFolder},
	{Name: "TrapConfined", F: trapConfined},
	{Name: "TrapDaemonManages", F: trapDaemonManages},
	{Name: "TrapResults", F: trapResults},
	{Name: "TrapStopIsWaitedFor", F: trapStopIsWaitedFor},
	{Name: "TrapStaleUnit", F: trapStaleUnit},
	{Name: "TrapReload", F: trapReload},
	{Name: "TrapLogs", F: trapLogs},
	{Name: "Install", F: insideInstall},
	{Name: "Uninstall", F: insideUninstall},
	{Name: "WithoutBus", F: insideWithoutBus},
}

const insideEnv = "QUANTUMD_INSIDE"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "stub" {
		os.Exit(runStub(os.Args[2:]))
	}
	if os.Getenv(insideEnv) != "" {
		testing.Main(regexp.MatchString, inside, nil, nil)
	}
	os.Exit(m.Run())
}

const (
	logDir = "/srv/log"
	soon   = 10 * time.Second // until something is seen
)

// site is a set of services of one test.
type site struct {
	*Manager
	t    *testing.T
	name string
}

func newSite(t *testing.T, name string) *site {
	t.Helper()
	s := &site{Manager: New(Options{Target: "qsfs-" + name + ".target"}), t: t, name: name}
	require.NoError(t, os.MkdirAll(logDir, 0o755))
	return s
}

// unit makes a stub a service: name is that of the test and its own.
func (s *site) unit(name string, args ...string) services.Service {
	full := s.name + "-" + name
	return services.Service{
		Name: full, Exec: append([]string{os.Args[0], "stub", "-log", s.log(), "-name", name}, args...),
		Writable: []string{logDir}, RestartDelay: 100 * time.Millisecond, StopTimeout: 20 * time.Second, StartTimeout: 20 * time.Second,
	}
}

func (s *site) log() string { return filepath.Join(logDir, s.name) }

// apply installs services, and removes them with the test.
func (s *site) apply(list ...services.Service) {
	s.t.Helper()
	_, err := s.Apply(s.t.Context(), list)
	require.NoError(s.t, err)
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		assert.NoError(s.t, s.Remove(ctx, namesOf(list)...))
	})
}

func (s *site) run(list ...services.Service) {
	s.t.Helper()
	s.apply(list...)
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*soon)
	defer cancel()
	require.NoError(s.t, s.Start(ctx, namesOf(list)...))
	require.NoError(s.t, s.WaitReady(ctx, namesOf(list)...))
}

func (s *site) lines() []string {
	b, err := os.ReadFile(s.log())
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

func (s *site) eventually(line string) {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return slices.Contains(s.lines(), line) }, soon, 20*time.Millisecond, "%s is not in the log: %q", line, s.lines())
}

func (s *site) status(name string) services.Status {
	s.t.Helper()
	list, err := s.Status(s.t.Context(), s.name+"-"+name)
	require.NoError(s.t, err)
	return list[0]
}

func systemctl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("systemctl", args...).CombinedOutput()
	require.NoError(t, err, "systemctl %q: %s", args, out)
	return string(out)
}

// insideConformance runs its tests in turns: they want a machine of their own.
func insideConformance(t *testing.T) {
	var turn sync.Mutex
	servicestest.Run(t, servicestest.Harness{
		New: func(t *testing.T) services.ServiceManager {
			turn.Lock()
			m := New(Options{Target: "qsfs.target"})
			t.Cleanup(func() {
				defer turn.Unlock()
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				defer cancel()
				left, err := m.Installed(ctx)
				assert.NoError(t, err)
				assert.NoError(t, m.Remove(ctx, left...))
			})
			return m
		},
		Service: func(_ *testing.T, name string) services.Service {
			return services.Service{Name: name, Exec: []string{os.Args[0], "stub", "-log", "/dev/null", "-name", name}}
		},
	})
}

// insideInstall leaves what the machine's shutdown and boot are to find.
func insideInstall(t *testing.T) {
	s := newSite(t, "boot")
	_ = os.Remove(s.log()) // of an earlier one
	list := s.four()
	_, err := s.Apply(t.Context(), list)
	require.NoError(t, err)
	require.NoError(t, s.Start(t.Context(), namesOf(list)...))
	require.NoError(t, s.WaitReady(t.Context(), namesOf(list)...))
}

// insideUninstall runs after a boot.
func insideUninstall(t *testing.T) {
	s := newSite(t, "boot")
	names, err := s.Installed(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"boot-zstor", "boot-quantumd", "boot-zdb", "boot-zdbfs"}, names)
	require.NoError(t, s.WaitReady(t.Context(), names...), "they came back with the machine")
	list, err := s.Status(t.Context(), names...)
	require.NoError(t, err)
	for _, st := range list {
		require.True(t, st.Enabled, st.Name)
	}
	require.NoError(t, s.Remove(t.Context(), names...))
	require.Contains(t, systemctl(t, "list-units", "--all", "boot-z*", "qsfs-*"), "0 loaded units")
}

// insideWithoutBus runs on a machine whose D-Bus daemon was stopped.
func insideWithoutBus(t *testing.T) {
	require.NoFileExists(t, "/run/dbus/system_bus_socket")
	s := newSite(t, "nobus")
	u := s.unit("zdb", "-drain", "100ms")
	s.run(u)
	require.NoError(t, s.Restart(t.Context(), u.Name))
	require.NoError(t, s.Stop(t.Context(), u.Name))
	require.Equal(t, services.Inactive, s.status("zdb").State)
	require.Contains(t, s.lines(), "zdb END")
}
