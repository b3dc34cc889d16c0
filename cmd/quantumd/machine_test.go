//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/internal/testenv/machine"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/services"
)

// installed is a user of a machine with a real systemd, where quantumd is
// installed as the README has it.
type installed struct {
	t *testing.T
	*machine.Machine
	program string // before the setup
	files   int    // written so far, see write
}

// source is what is written to the mount: real files that each machine has.
const source = "/usr/lib/x86_64-linux-gnu"

const qsfsMount = "/mnt/qsfs"

func newInstalled(t *testing.T) *installed {
	t.Helper()
	from := os.Getenv("QUANTUMD_BIN")
	if from == "" {
		from = testenv.Program(t)
	}
	m := machine.Start(t, machine.Options{})
	return &installed{t: t, Machine: m, program: m.Put("quantumd", from)}
}

// q runs quantumd, and wants an exit code.
func (u *installed) q(code int, args ...string) string {
	u.t.Helper()
	program := "/usr/local/bin/quantumd"
	if _, err := u.Run("test", "-x", program); err != nil {
		program = u.program
	}
	out, err := u.Run(append([]string{program}, args...)...)
	var exit *machine.ExitError
	if code != 0 {
		require.ErrorAs(u.t, err, &exit)
		require.Equal(u.t, code, exit.Code, exit.Output)
		return exit.Output
	}
	require.NoError(u.t, err)
	return out
}

func (u *installed) status() client.Status {
	u.t.Helper()
	var st client.Status
	out, _ := u.Run("/usr/local/bin/quantumd", "status", "--json") // its exit code tells the state too
	require.NoError(u.t, json.Unmarshal([]byte(out), &st), out)
	return st
}

func (u *installed) services() map[string]services.Status {
	u.t.Helper()
	var list struct{ Services []services.Status }
	require.NoError(u.t, json.Unmarshal([]byte(u.q(0, "services", "--json")), &list))
	out := map[string]services.Status{}
	for _, s := range list.Services {
		out[s.Name] = s
	}
	return out
}

func (u *installed) pids() map[string]int {
	out := map[string]int{}
	for name, s := range u.services() {
		out[name] = s.PID
	}
	return out
}

// same compares every byte of the mount with where it came from.
func (u *installed) same(folders ...string) {
	u.t.Helper()
	for _, f := range folders {
		u.Must("diff", "-r", source, qsfsMount+"/"+f)
	}
}

// healthy waits until all is well without a hand.
func (u *installed) healthy(what string) {
	u.t.Helper()
	u.Eventually(2*time.Minute, func() error {
		out, err := u.Run("/usr/local/bin/quantumd", "status")
		if err == nil && !strings.HasPrefix(out, "ok, mounted") {
			err = errors.New(out)
		}
		return err
	}, what)
}

// find lists the machine's files but those that every boot makes.
func (u *installed) find() []string {
	u.t.Helper()
	out := u.Sh(`find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /host \
		-o -path '/var/tmp/systemd-private-*' -o -path /var/log/journal -o -path /var/lib/systemd -o -path /var/log/wtmp -o -path /var/log/btmp -o -path /var/log/lastlog \) -prune -o -print; find /run/qsfs /run/quantumd* 2>/dev/null || true`)
	list := strings.Split(strings.TrimSpace(out), "\n")
	slices.Sort(list)
	return list
}

// The README's walk on a machine with systemd, then what happens to machines:
// reboots, kills, power cuts, lost backends, a lost frontend, broken
// configurations, removal. One machine goes through all of it in order.
func TestInstalledOnSystemd(t *testing.T) {
	t.Parallel()
	u := newInstalled(t)
	before := u.find()
	u.install()
	for _, part := range []struct {
		name string
		run  func(*installed)
	}{
		{"Units", (*installed).units},
		{"SecondSetup", (*installed).secondSetup},
		{"Reboot", (*installed).reboot},
		{"ShutdownUnderLoad", (*installed).shutdownUnderLoad},
		{"KillEach", (*installed).killEach},
		{"KillLoop", (*installed).killLoop},
		{"PowerCut", (*installed).powerCut},
		{"LostBackends", (*installed).lostBackends},
		{"CrashLoop", (*installed).crashLoop},
		{"Stop", (*installed).stopAndStart},
		{"LostFrontend", (*installed).lostFrontend},
	} {
		ok := t.Run(part.name, func(t *testing.T) {
			inner := *u
			inner.t, inner.Machine = t, u.In(t)
			part.run(&inner)
			u.files = inner.files
		})
		if !ok {
			t.FailNow()
		}
	}
	u.remove(before)
}

func (u *installed) install() {
	u.t.Helper()
	// Small data files, so that there are many; losses are acted on at once.
	u.Must(u.program, "deploy", "--local", "--set", "zdb_data_size=4M", "--set", "retry_interval=1m", "--set", "replace={after: 2s, max_per_day: 0}")
	require.Contains(u.t, u.q(0, "setup", "--dry-run"), "nothing was changed")
	require.Contains(u.t, u.q(0, "setup"), "mounted on "+qsfsMount)
	u.Must("cp", "-a", source, qsfsMount+"/a")
	require.Contains(u.t, u.q(0, "sync"), "safe: checkpoint")
	require.Equal(u.t, "ok", u.status().State)
}

// units: systemd has nothing to say about them, and they hold no secret.
func (u *installed) units() {
	out := u.Sh("systemd-analyze verify --man=no /etc/systemd/system/qsfs*.service /etc/systemd/system/qsfs.target /etc/systemd/system/quantumd.service 2>&1")
	require.Empty(u.t, out)
	key := strings.TrimSpace(u.Sh("sed -n 's/^encryption_key: //p' /etc/quantumd.yaml"))
	require.Len(u.t, strings.Trim(key, `"`), 64)
	_, err := u.Run("grep", "-rq", strings.Trim(key, `"`), "/etc/systemd")
	require.Error(u.t, err)
	require.Equal(u.t, "600\n", u.Must("stat", "-c", "%a", "/etc/quantumd.yaml"))
	require.Equal(u.t, "700\n", u.Must("stat", "-c", "%a", "/run/qsfs"))
	require.Equal(u.t, "active\n", u.Must("systemctl", "is-active", "qsfs.target"))
}

func (u *installed) secondSetup() {
	pids := u.pids()
	require.NotContains(u.t, u.q(0, "setup"), "update")
	require.Equal(u.t, pids, u.pids(), "nothing was restarted")
}

// reboot: mount and backends are back without a hand.
func (u *installed) reboot() {
	u.Reboot()
	u.healthy("the system comes back after a reboot")
	u.same("a")
	for name, s := range u.services() {
		require.Equal(u.t, services.Active, s.State, name)
		require.True(u.t, s.Enabled, name)
	}
}

// load writes to the mount until it is told to stop.
func (u *installed) load() {
	u.t.Helper()
	u.Sh(fmt.Sprintf(`rm -rf %[1]s/load; mkdir %[1]s/load
		systemd-run --quiet --unit=load --collect /bin/bash -c 'i=0; while dd if=/dev/urandom of=%[1]s/load/$i bs=64k count=16 2>/dev/null; do i=$((i+1)); done'`, qsfsMount))
	u.Eventually(20*time.Second, func() error { _, err := u.Run("test", "-e", qsfsMount+"/load/5"); return err }, "the load begins")
}

// shutdownUnderLoad: the mount goes first, then the daemon brings what was
// written to the backends, which end last.
func (u *installed) shutdownUnderLoad() {
	u.load()
	u.Sh("echo the shutdown begins | systemd-cat; journalctl --sync")
	took := u.Shutdown()
	require.Less(u.t, took, time.Minute)
	u.Boot()
	// Boots of a container have one and the same id.
	_, log, _ := strings.Cut(u.Must("journalctl", "--no-pager", "--output=short-precise"), "the shutdown begins")
	daemon := strings.Index(log, "Stopped quantumd.service")
	require.Positive(u.t, daemon, log)
	backends := strings.Index(log, "Stopping qsfs-data0.service")
	require.Greater(u.t, backends, daemon, "the backends are told to end after the daemon has ended")
	require.NotContains(u.t, log, "SIGKILL")
	u.healthy("the system comes back")
	st := u.status()
	require.Zero(u.t, st.LossWindow.Bytes, "all was brought to the backends before they ended")
	u.same("a")
}

// killEach: what is killed is back, and nothing is lost: the daemon, then all
// backends at once; one after the other in the long form.
func (u *installed) killEach() {
	before := u.services()
	groups := [][]string{{"quantumd"}, {}}
	for name := range before {
		switch {
		case name == "quantumd":
		case os.Getenv("QUANTUMD_LONG") != "":
			groups = append(groups, []string{name})
		default:
			groups[1] = append(groups[1], name)
		}
	}
	for _, names := range groups {
		for _, name := range names {
			u.Must("kill", "-9", fmt.Sprint(before[name].PID))
		}
		u.Eventually(time.Minute, func() error {
			now := u.services()
			for _, name := range names {
				if now[name].PID == before[name].PID || now[name].State != services.Active {
					return fmt.Errorf("%s: %+v", name, now[name])
				}
			}
			return nil
		}, "what was killed comes back")
	}
	u.healthy("all is well again")
	u.same("a")
	require.Contains(u.t, u.q(0, "sync"), "safe")
}

// killLoop: what was fsynced is there after kills at random moments.
func (u *installed) killLoop() {
	rounds := 3
	if os.Getenv("QUANTUMD_LONG") != "" {
		rounds = 20
	}
	for range rounds {
		u.synced()
		u.load()
		moment := fmt.Sprintf("%s/load/%d", qsfsMount, 6+rand.IntN(40))
		u.Eventually(20*time.Second, func() error { _, err := u.Run("test", "-e", moment); return err }, "the load goes on")
		u.Must("systemctl", "kill", "--signal=SIGKILL", "quantumd.service")
		_, _ = u.Run("systemctl", "stop", "load.service") // it has ended with the mount
		u.healthy("it serves again")
		u.checkSynced()
	}
}

// synced writes a file and has it on the disk.
func (u *installed) synced() {
	u.t.Helper()
	name := fmt.Sprintf("%s/synced%d", qsfsMount, u.files)
	u.files++
	u.Sh(fmt.Sprintf("head -c 300000 /dev/urandom >/srv/last; cp /srv/last /srv/$(basename %[1]s); dd if=/srv/last of=%[1]s bs=64k conv=fsync status=none", name))
}

func (u *installed) checkSynced() {
	u.t.Helper()
	for n := range u.files {
		u.Must("cmp", fmt.Sprintf("/srv/synced%d", n), fmt.Sprintf("%s/synced%d", qsfsMount, n))
	}
}

func (u *installed) powerCut() {
	u.synced()
	u.load()
	u.CutPower()
	u.Boot()
	u.healthy("the system comes back after a power cut")
	u.checkSynced()
	u.same("a")
	require.Contains(u.t, u.q(0, "sync"), "safe")
}

// lostBackends: two of them are lost with all that they hold; others take their
// place, as services that are there after a reboot too.
func (u *installed) lostBackends() {
	u.Sh("cd /var/lib/quantumd/backends && mkdir /srv/lost && mv data1 meta2 /srv/lost/ && systemctl kill --signal=SIGKILL qsfs-data1.service qsfs-meta2.service")
	u.Eventually(2*time.Minute, func() error {
		s := u.services()
		for _, gone := range []string{"qsfs-data1", "qsfs-meta2"} {
			if _, there := s[gone]; there {
				return fmt.Errorf("%s is there still", gone)
			}
		}
		for _, come := range []string{"qsfs-data5", "qsfs-meta4"} {
			if s[come].State != services.Active {
				return fmt.Errorf("%s: %+v", come, s[come])
			}
		}
		return nil
	}, "the lost backends are replaced")
	u.healthy("all is rebuilt")
	require.NotContains(u.t, u.Must("ls", "/etc/systemd/system"), "data1")
	require.NotContains(u.t, u.q(0, "setup"), "create", "setup would make the same services")
	u.Reboot()
	u.healthy("with the new backends after a reboot")
	u.same("a")
	u.q(0, "check")
}

// crashLoop: a service that cannot start is told, with the reason, and comes
// back by itself when the reason is gone.
func (u *installed) crashLoop() {
	u.Sh("cp -a /etc/quantumd.yaml /srv/good.yaml; echo 'upload_workers: none' >>/etc/quantumd.yaml")
	out := u.q(1, "restart")
	require.Contains(u.t, out, "quantumd logs")
	require.Contains(u.t, u.q(0, "logs", "-n", "50"), "upload_workers")
	u.Eventually(time.Minute, func() error {
		if s := u.services()["quantumd"]; s.Restarts < 2 || s.State == services.Active {
			return fmt.Errorf("%+v", s)
		}
		return nil
	}, "it is tried again and again")
	u.Must("cp", "-a", "/srv/good.yaml", "/etc/quantumd.yaml")
	u.healthy("it comes back by itself")
	u.same("a")
}

func (u *installed) stopAndStart() {
	u.load()
	require.Contains(u.t, u.q(0, "stop"), "stopped")
	_, _ = u.Run("systemctl", "stop", "load.service")
	_, err := u.Run("mountpoint", "-q", qsfsMount)
	require.Error(u.t, err)
	_, err = u.Run("touch", qsfsMount+"/stray")
	require.Equal(u.t, machine.Immutable(), err != nil, "what is written into the bare folder would be seen by nobody: %v", err)
	u.Sh("rm -f " + qsfsMount + "/stray")
	require.Equal(u.t, services.Inactive, u.services()["quantumd"].State)
	require.Equal(u.t, services.Active, u.services()["qsfs-data0"].State)
	u.q(0, "start")
	u.healthy("it serves again")
	require.Zero(u.t, u.status().LossWindow.Bytes)
	u.same("a")
}

// lostFrontend: all that is left is the configuration and the backends.
func (u *installed) lostFrontend() {
	u.synced()
	require.Contains(u.t, u.q(0, "sync"), "safe")
	u.q(0, "stop")
	u.Sh("mv /opt/zdb /srv/zdb.lost; mkdir /srv/state.lost; cd /var/lib/quantumd; mv $(ls -A | grep -v -e backends -e secrets -e mountpoint) /srv/state.lost/")
	require.Contains(u.t, u.q(0, "restore", "-c", "/etc/quantumd.yaml"), "mounted on "+qsfsMount)
	u.checkSynced()
	u.same("a")
	u.healthy("it serves the restored tree")
}

// left wants that nothing is there but what was before, and what the help names.
func (u *installed) left(before []string) {
	u.t.Helper()
	var left []string
	for _, path := range u.find() {
		if _, there := slices.BinarySearch(before, path); !there {
			left = append(left, path)
		}
	}
	for _, path := range left {
		documented := slices.ContainsFunc([]string{"/etc/quantumd.yaml", "/etc/quantumd.binaries.lock", "/etc/zstor.toml", "/opt/zdb", "/var/lib/quantumd", "/var/log/qsfs"}, func(kept string) bool {
			return path == kept || strings.HasPrefix(path, kept+"/")
		})
		assert.True(u.t, documented, "left behind: %s", path)
	}
}

// remove: what was installed is gone; what is left is what the help names.
func (u *installed) remove(before []string) {
	u.t.Helper()
	require.Contains(u.t, u.q(2, "uninstall"), "--yes")
	// Refused while something is only here.
	u.Sh("systemctl kill --signal=STOP 'qsfs-*.service'")
	u.synced()
	require.Contains(u.t, u.q(1, "uninstall", "--yes", "--timeout", "2s"), "nothing was removed")
	u.Sh("systemctl kill --signal=CONT 'qsfs-*.service'")
	u.checkSynced()
	require.Contains(u.t, u.q(2, "uninstall", "--yes", "--purge"), "--name "+qsfsMount)
	u.q(0, "uninstall", "--yes")
	u.Sh("rm -rf /srv/*")
	u.left(before)
	for _, unit := range []string{"quantumd.service", "qsfs-data0.service", "qsfs.target"} {
		require.Equal(u.t, "not-found\n", u.Must("systemctl", "show", "--property=LoadState", "--value", unit))
	}
	require.NotContains(u.t, u.Must("ps", "-e", "-o", "args"), "quantumd")
	require.False(u.t, bytes.Contains([]byte(u.Must("cat", "/proc/mounts")), []byte("qsfs")))
}
