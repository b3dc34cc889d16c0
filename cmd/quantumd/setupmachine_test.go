//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/testenv/machine"
)

// TestSetupExternalMachine installs a system of external components on a machine
// with a real systemd: units without a complaint, order, drain, kill -9 of each,
// reboot, power cut, uninstall. Own has this program under the names of the real
// ones.
func TestSetupExternalMachine(t *testing.T) {
	t.Parallel()
	if os.Getenv("QUANTUMD_LONG") == "" {
		t.Skip("QUANTUMD_LONG is not set")
	}
	for _, v := range []struct {
		name, engine string
		components   []string
		real         bool
	}{
		{"Own", "{zdb: external, zstor: external, zdbfs: external}", []string{"zdb", "zstor", "zdbfs"}, false},
		{"OwnZdb", "{zdb: external}", []string{"zdb"}, false},
		{"Real", "{zdb: external, zstor: external, zdbfs: external}", []string{"zdb", "zstor", "zdbfs"}, true},
		{"RealZdbZstor", "{zdb: external, zstor: external}", []string{"zdb", "zstor"}, true},
	} {
		t.Run(v.name, func(t *testing.T) {
			from := map[string]string{}
			for _, c := range v.components {
				from[c] = program(t)
				if bin := os.Getenv("QUANTUMD_BIN"); bin != "" {
					from[c] = bin
				}
				if key := strings.ToUpper(c) + "_BIN"; v.real {
					if from[c] = os.Getenv(key); from[c] == "" {
						t.Skip(key + " names no real program")
					}
				}
			}
			s := &machineStory{t: t, m: machine.Start(t, machine.Options{}), engine: v.engine, real: v.real, sums: map[string]string{}}
			s.story(v.components, from)
		})
	}
}

type machineStory struct {
	t      *testing.T
	m      *machine.Machine
	engine string
	real   bool
	units  []string          // in the order of their start
	sums   map[string]string // of files below the mount
}

const machineMount = "/mnt/qsfs"

func (s *machineStory) quantumd(args ...string) string {
	s.t.Helper()
	out, err := s.m.RunIn(nil, surroundings()[1:], append([]string{"/host/quantumd"}, args...)...)
	require.NoError(s.t, err)
	return out
}

func (s *machineStory) story(components []string, from map[string]string) {
	t, m := s.t, s.m
	self := program(t)
	if bin := os.Getenv("QUANTUMD_BIN"); bin != "" {
		self = bin
	}
	m.Put("quantumd", self)
	s.libraries(self)
	require.NoError(t, os.Mkdir(filepath.Join(m.Dir, "mirror"), 0o755))
	for _, c := range components {
		m.Put("mirror/"+c, from[c])
		s.libraries(from[c])
	}
	s.units = []string{"quantumd"}
	if from["zstor"] != "" {
		s.units = append([]string{"qsfs-zstor"}, s.units...)
	}
	for _, c := range []string{"zdb", "zdbfs"} {
		if from[c] != "" {
			s.units = append(s.units, "qsfs-"+c)
		}
	}
	before := m.Sh("ls /usr/local/bin /etc/systemd/system")

	s.quantumd("deploy", "--local")
	m.Sh("echo 'engine: " + s.engine + "' >> /etc/quantumd.yaml")
	flags := []string{"setup", "--yes", "--from", "/host/mirror"}
	if !s.real {
		flags = []string{"setup", "--yes"}
		m.Sh("echo 'binaries:' >> /etc/quantumd.yaml")
		for _, c := range components {
			m.Sh(fmt.Sprintf("echo '  %s: {url: file:///host/mirror/%s}' >> /etc/quantumd.yaml", c, c))
		}
	}
	require.Contains(t, s.quantumd(flags...), "mounted on "+machineMount)
	s.serves()
	require.Empty(t, m.Sh("systemd-analyze verify /etc/systemd/system/qsfs-*.service /etc/systemd/system/quantumd.service 2>&1 | grep -v 'Failed to connect' || true"))
	for _, u := range s.units {
		out, err := m.Run("systemd-analyze", "security", "--no-pager", u+".service")
		require.NoError(t, err)
		t.Logf("%s: %s", u, lastLine(out))
		level := regexp.MustCompile(`: ([0-9.]+) `).FindStringSubmatch(lastLine(out))
		require.Len(t, level, 2, out)
		exposure, err := strconv.ParseFloat(level[1], 64)
		require.NoError(t, err)
		mounts := u == "qsfs-zdbfs" || u == "quantumd" && from["zdbfs"] == ""
		require.True(t, mounts || exposure <= 2.5, "%s: %v", u, exposure)
	}
	require.NotContains(t, s.quantumd("setup"), "update")

	s.write("a", 3<<20)
	s.write("b", 100)
	m.Must("sync")
	s.quantumd("sync")
	s.write("late", 700_000)
	began := time.Now()
	m.Must("systemctl", "stop", "qsfs.target")
	t.Logf("the target stopped in %v", time.Since(began).Round(time.Millisecond))
	s.stoppedInOrder()
	s.quantumd("start")
	s.serves()

	for _, u := range s.units {
		s.settle()
		pid := s.pid(u)
		m.Must("kill", "-9", strconv.Itoa(pid))
		m.Eventually(60*time.Second, func() error {
			if s.pid(u) == pid || s.pid(u) == 0 {
				return fmt.Errorf("%s is not there again", u)
			}
			return nil
		}, u)
		s.serves()
		s.write("after-"+u, 200_000)
	}
	s.settle()
	m.Reboot()
	s.serves()
	s.write("after-the-reboot", 300_000)
	s.settle()
	s.quantumd("sync")
	m.CutPower()
	m.Boot()
	s.serves()
	s.write("last", 300_000)

	if from["zdbfs"] != "" && !s.real {
		s.takenOver()
	}
	m.Must("/usr/local/bin/quantumd", "uninstall", "--yes")
	require.Equal(t, before, m.Sh("ls /usr/local/bin /etc/systemd/system"))
	require.NotContains(t, m.Must("cat", "/proc/self/mountinfo"), machineMount)
}

// takenOver has another frontend take over: the daemon, confined as it is, has
// zdbfs stopped.
func (s *machineStory) takenOver() {
	s.t.Helper()
	s.settle()
	s.m.Eventually(90*time.Second, func() error { // its lease has to end
		_, err := s.m.RunIn(nil, append(surroundings()[1:], "QUANTUMD_ENGINE=embedded"), "/host/quantumd", "restore", "-c", "/etc/quantumd.yaml", "--dir", "/srv/f2", "--force")
		return err
	}, "it is not taken over")
	s.m.Eventually(60*time.Second, func() error {
		if _, err := s.m.Run("systemctl", "is-active", "--quiet", "qsfs-zdbfs"); err == nil {
			return errors.New("zdbfs runs")
		}
		return nil
	}, "zdbfs goes on")
	out, _ := s.m.Run("mountpoint", machineMount)
	require.Contains(s.t, out, "is not a mountpoint")
}

// libraries brings to the machine what a program is linked with.
func (s *machineStory) libraries(program string) {
	out, err := exec.Command("ldd", program).CombinedOutput()
	if err != nil {
		return // static
	}
	for _, found := range regexp.MustCompile(`(\S+) => (/\S+)`).FindAllStringSubmatch(string(out), -1) {
		if _, err := s.m.Run("sh", "-c", "ldconfig -p | grep -qF "+found[1]); err != nil {
			s.m.Put(found[1], found[2])
			s.m.Sh("cp /host/" + found[1] + " /usr/lib/x86_64-linux-gnu/ && ldconfig")
		}
	}
}

// serves returns when everything is up and every byte is there.
func (s *machineStory) serves() {
	s.t.Helper()
	s.m.Eventually(90*time.Second, func() error {
		for _, u := range s.units {
			if _, err := s.m.Run("systemctl", "is-active", "--quiet", u); err != nil {
				return err
			}
		}
		if _, err := s.m.Run("mountpoint", "-q", machineMount); err != nil {
			return err
		}
		_, err := s.m.RunIn(strings.NewReader(s.list()), nil, "sha256sum", "--check", "--quiet", "--strict")
		return err
	}, "the system does not serve")
}

func (s *machineStory) list() string {
	var lines []string
	for name, sum := range s.sums {
		lines = append(lines, sum+"  "+machineMount+"/"+name+"\n")
	}
	if len(lines) == 0 { // sha256sum wants one
		return "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  /dev/null\n"
	}
	sort.Strings(lines)
	return strings.Join(lines, "")
}

func (s *machineStory) write(name string, n int) {
	s.t.Helper()
	out := s.m.Sh(fmt.Sprintf("head -c %[1]d /dev/urandom > /tmp/w; cp /tmp/w %[2]s/%[3]s; sync %[2]s/%[3]s; sha256sum < /tmp/w", n, machineMount, name))
	s.sums[name] = strings.Fields(out)[0]
}

// settle has the file system write out what it holds: a real zdbfs loses it with
// its process.
func (s *machineStory) settle() {
	s.t.Helper()
	s.m.Must("sync", "-f", machineMount)
	s.quantumd("sync")
}

func (s *machineStory) pid(unit string) int {
	out, err := s.m.Run("systemctl", "show", "-p", "MainPID", "--value", unit)
	require.NoError(s.t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(out))
	require.NoError(s.t, err)
	return pid
}

// stoppedInOrder says that the last started ended first, each without a failure.
// A daemon that mounts what an external zdb keeps is ended before that zdb.
func (s *machineStory) stoppedInOrder() {
	s.t.Helper()
	var last int64
	order := slices.Clone(s.units)
	slices.Reverse(order)
	if order[0] == "qsfs-zdb" {
		order = []string{"quantumd", "qsfs-zdb"}
	}
	for _, u := range order {
		out := s.m.Must("systemctl", "show", u, "-p", "ActiveState,Result,ExecMainExitTimestampMonotonic")
		require.Contains(s.t, out, "ActiveState=inactive", u)
		require.Contains(s.t, out, "Result=success", u)
		at, err := strconv.ParseInt(regexp.MustCompile(`Monotonic=(\d+)`).FindStringSubmatch(out)[1], 10, 64)
		require.NoError(s.t, err)
		require.GreaterOrEqual(s.t, at, last, "%s ended too early", u)
		last = at
	}
	log := s.m.Must("journalctl", "--no-pager", "-u", "quantumd", "--output=cat")
	require.NotContains(s.t, log, "not everything is on the backends")
}

func lastLine(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return lines[len(lines)-1]
}
