//go:build linux

package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/internal/testenv/machine"
	"github.com/threefoldtech/quantumd/services"
)

// zinitMachine boots a machine whose process 1 is a real zinit.
func zinitMachine(t *testing.T, zinit, socket string) *installed {
	t.Helper()
	from := os.Getenv("QUANTUMD_BIN")
	if from == "" {
		from = testenv.Program(t)
	}
	start := fmt.Sprintf("mkdir -p /etc/zinit; exec /host/zinit -s %s init --container", socket)
	m := machine.Start(t, machine.Options{
		Init: []string{"/bin/sh", "-c", start}, Stop: "SIGTERM", Files: map[string]string{"zinit": zinit, "quantumd": from},
		Up: []string{"/host/zinit", "-s", socket, "list"},
	})
	return &installed{t: t, Machine: m, program: machine.HostDir + "/quantumd"}
}

// TestInstalledOnZinit is the README's walk on a machine that a real zinit runs,
// and what happens to machines, for both generations.
func TestInstalledOnZinit(t *testing.T) {
	t.Parallel()
	for name, where := range map[string]string{"Old": "/var/run/zinit.sock", "New": "/tmp/zinit.sock"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			variable := "ZINIT_" + strings.ToUpper(name) + "_BIN"
			zinit := os.Getenv(variable)
			if zinit == "" {
				t.Skipf("%s names no real zinit", variable)
			}
			u := zinitMachine(t, zinit, where)
			before := u.find()
			u.install()
			for _, part := range []struct {
				name string
				run  func(*installed)
			}{
				{"Files", (*installed).zinitFiles},
				{"SecondSetup", (*installed).secondSetup},
				{"Reboot", (*installed).reboot},
				{"ShutdownUnderLoad", (*installed).zinitShutdown},
				{"KillEach", (*installed).killEach},
				{"PowerCut", (*installed).zinitPowerCut},
				{"LostBackends", (*installed).zinitLostBackends},
				{"CrashLoop", (*installed).crashLoop},
				{"Stop", (*installed).zinitStop},
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
			u.zinitRemove(before)
		})
	}
}

// zinitFiles: they hold no secret, and zinit knows them all.
func (u *installed) zinitFiles() {
	key := strings.Trim(strings.TrimSpace(u.Sh("sed -n 's/^encryption_key: //p' /etc/quantumd.yaml")), `"`)
	require.Len(u.t, key, 64)
	_, err := u.Run("grep", "-rq", key, "/etc/zinit")
	require.Error(u.t, err)
	require.Equal(u.t, "644\n", u.Must("stat", "-c", "%a", "/etc/zinit/quantumd.yaml"))
	require.Equal(u.t, "700\n", u.Must("stat", "-c", "%a", "/run/qsfs"))
	for name, s := range u.services() {
		require.Equal(u.t, services.Active, s.State, name)
	}
}

// zinitLoad writes to the mount until it is gone.
func (u *installed) zinitLoad() {
	u.t.Helper()
	u.Sh(fmt.Sprintf(`rm -rf %[1]s/load; mkdir %[1]s/load
		setsid /bin/bash -c 'i=0; while dd if=/dev/urandom of=%[1]s/load/$i bs=64k count=16 2>/dev/null; do i=$((i+1)); done' </dev/null >/dev/null 2>&1 &`, qsfsMount))
	u.Eventually(20*time.Second, func() error { _, err := u.Run("test", "-e", qsfsMount+"/load/5"); return err }, "the load begins")
}

// zinitShutdown: zinit stops all at a time, or kills: what was not yet on the
// backends is brought there after the boot.
func (u *installed) zinitShutdown() {
	u.synced()
	u.zinitLoad()
	took := u.Shutdown()
	u.t.Logf("the shutdown took %v", took)
	require.Less(u.t, took, time.Minute)
	u.Boot()
	u.healthy("the system comes back")
	u.checkSynced()
	u.same("a")
	require.Contains(u.t, u.q(0, "sync"), "safe")
}

func (u *installed) zinitPowerCut() {
	u.synced()
	u.zinitLoad()
	u.CutPower()
	u.Boot()
	u.healthy("the system comes back after a power cut")
	u.checkSynced()
	u.same("a")
	require.Contains(u.t, u.q(0, "sync"), "safe")
}

// zinitLostBackends: as on systemd; that the daemon was told to start after
// those that are gone must not keep it from starting.
func (u *installed) zinitLostBackends() {
	s := u.services()
	u.Sh(fmt.Sprintf("cd /var/lib/quantumd/backends && mkdir /srv/lost && mv data1 meta2 /srv/lost/ && kill -9 %d %d", s["qsfs-data1"].PID, s["qsfs-meta2"].PID))
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
	require.NotContains(u.t, u.Must("ls", "/etc/zinit"), "data1")
	require.NotContains(u.t, u.q(0, "setup"), "create", "setup would make the same services")
	u.Must("kill", "-9", fmt.Sprint(u.services()["quantumd"].PID))
	u.healthy("the daemon starts without those that are gone")
	u.Reboot()
	u.healthy("with the new backends after a reboot")
	u.same("a")
}

// zinitStop: everything is on the backends before the daemon ends, also where
// zinit would kill it after half a second.
func (u *installed) zinitStop() {
	u.zinitLoad()
	require.Contains(u.t, u.q(0, "stop"), "stopped")
	_, err := u.Run("mountpoint", "-q", qsfsMount)
	require.Error(u.t, err)
	require.Equal(u.t, services.Inactive, u.services()["quantumd"].State)
	require.Equal(u.t, services.Active, u.services()["qsfs-data0"].State)
	log := u.q(0, "logs", "-n", "1000")
	require.NotContains(u.t, log, "not everything is on the backends")
	u.q(0, "start")
	u.healthy("it serves again")
	require.Zero(u.t, u.status().LossWindow.Bytes)
	u.same("a")
}

func (u *installed) zinitRemove(before []string) {
	u.t.Helper()
	var pids []string // of the backends
	for name, s := range u.services() {
		if strings.HasPrefix(name, "qsfs-data") || strings.HasPrefix(name, "qsfs-meta") {
			pids = append(pids, fmt.Sprint(s.PID))
		}
	}
	u.Must(append([]string{"kill", "-STOP"}, pids...)...)
	u.synced()
	require.Contains(u.t, u.q(1, "uninstall", "--yes", "--timeout", "2s"), "nothing was removed")
	u.Must(append([]string{"kill", "-CONT"}, pids...)...)
	u.checkSynced()
	u.q(0, "uninstall", "--yes")
	u.Sh("rm -rf /srv/*")
	u.left(before)
	require.Empty(u.t, u.Must("ls", "/etc/zinit"))
	require.NotContains(u.t, u.Must("ps", "-e", "-o", "args"), "quantumd")
}

// TestExternalOnZinit is a system of external components on a machine that a
// real zinit runs: in order, drained before it is stopped, back after kills and
// a reboot, and taken away without a trace.
func TestExternalOnZinit(t *testing.T) {
	t.Parallel()
	for name, where := range map[string]string{"Old": "/var/run/zinit.sock", "New": "/tmp/zinit.sock"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			variable := "ZINIT_" + strings.ToUpper(name) + "_BIN"
			zinit := os.Getenv(variable)
			if zinit == "" {
				t.Skipf("%s names no real zinit", variable)
			}
			u := zinitMachine(t, zinit, where)
			before := u.find()
			u.external()
			u.zinitRemove(before)
		})
	}
}

func (u *installed) external() {
	components := []string{"qsfs-zstor", "quantumd", "qsfs-zdb", "qsfs-zdbfs"} // as they start
	u.Must(u.program, "deploy", "--local", "--set", "zdb_data_size=4M")
	u.Sh("echo 'engine: {zdb: external, zstor: external, zdbfs: external}' >>/etc/quantumd.yaml; echo binaries: >>/etc/quantumd.yaml; mkdir /host/mirror")
	for _, c := range []string{"zdb", "zstor", "zdbfs"} { // it is each of them by its name
		u.Sh(fmt.Sprintf("cp /host/quantumd /host/mirror/%[1]s; echo '  %[1]s: {url: file:///host/mirror/%[1]s}' >>/etc/quantumd.yaml", c))
	}
	serves := func(what string) {
		u.t.Helper()
		u.Eventually(time.Minute, func() error {
			s := u.services()
			for _, c := range components {
				if s[c].State != services.Active {
					return fmt.Errorf("%s: %+v", c, s[c])
				}
			}
			for n := range u.files {
				if _, err := u.Run("cmp", fmt.Sprintf("/srv/synced%d", n), fmt.Sprintf("%s/synced%d", qsfsMount, n)); err != nil {
					return err
				}
			}
			return nil
		}, what)
	}
	settled := func() {
		u.t.Helper()
		u.synced()
		u.Must("sync", "-f", qsfsMount)
	}
	require.Contains(u.t, u.q(0, "setup", "--yes"), "mounted on "+qsfsMount)
	serves("it is installed")
	require.NotContains(u.t, u.q(0, "setup"), "update")
	settled()
	require.Contains(u.t, u.q(0, "sync"), "safe")

	settled()
	u.q(0, "stop")
	_, err := u.Run("mountpoint", "-q", qsfsMount)
	require.Error(u.t, err)
	for name, s := range u.services() {
		if slices.Contains(components, name) {
			require.Equal(u.t, services.Inactive, s.State, name)
			require.Contains(u.t, []int{0, 143}, s.ExitCode, name)
		}
	}
	require.NotContains(u.t, u.q(0, "logs", "-n", "2000"), "not everything is on the backends")
	u.q(0, "start")
	serves("after a stop")
	for _, c := range components {
		settled()
		old := u.services()[c].PID
		u.Must("kill", "-9", fmt.Sprint(old))
		u.Eventually(30*time.Second, func() error {
			if s := u.services()[c]; s.PID == old || s.PID == 0 {
				return fmt.Errorf("%+v", s)
			}
			return nil
		}, c+" is started again")
		serves("after the end of " + c)
	}
	settled()
	u.Reboot()
	serves("after a reboot")
	require.Contains(u.t, u.q(0, "sync"), "safe")
}
