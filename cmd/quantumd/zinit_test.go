//go:build linux

package main

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/services"
	"github.com/threefoldtech/quantumd/services/zinit"
	"github.com/threefoldtech/quantumd/services/zinit/zinittest"
)

// doubleZinit has a double of a zinit run what is installed below a root.
func doubleZinit(t *testing.T, g zinit.Generation, root string, env []string) *zinittest.Daemon {
	t.Helper()
	o := zinittest.Options{Generation: g, Dir: filepath.Join(root, "etc/zinit"), Env: env, Pause: 300 * time.Millisecond}
	o.Socket = services.ZinitSockets(root)[0]
	if g == zinit.JSONRPC {
		o.Socket = services.ZinitSockets(root)[1]
	}
	for _, dir := range []string{o.Dir, filepath.Dir(o.Socket)} {
		require.NoError(t, os.MkdirAll(dir, 0o755))
	}
	return zinittest.Start(t, o)
}

// TestInstalledOnDouble is an installed system whose services a double of
// zinit runs, of both generations: it comes back after a reboot and after
// kills, a stop brings everything to the backends before, and nothing is left
// of it.
func TestInstalledOnDouble(t *testing.T) {
	t.Parallel()
	for name, g := range map[string]zinit.Generation{"Old": zinit.LineProtocol, "New": zinit.JSONRPC} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			needsRootAndFUSE(t)
			dir := folder(t)
			u := newUser(t, dir)
			root := filepath.Join(dir, "root")
			u.args = []string{"--root", root}
			d := doubleZinit(t, g, root, u.env)
			mnt := filepath.Join(root, "mnt/qsfs")
			u.run(0, "deploy", "--local", "--set", "zdb_data_size=1M")
			out := u.run(0, "setup")
			require.Contains(t, out, "mounted on "+mnt)
			require.Contains(t, out, filepath.Join(root, "etc/zinit/quantumd.yaml"))
			before := u.services()
			for name, s := range before {
				require.Equal(t, services.Active, s.State, name)
			}
			require.NotContains(t, u.run(0, "setup"), "update")
			for name, s := range u.services() {
				require.Equal(t, before[name].PID, s.PID, "%s was not to be restarted", name)
			}

			data := make([]byte, 2<<20)
			_, _ = rand.Read(data) // it does not fail
			store := func(name string) {
				t.Helper()
				f, err := os.Create(filepath.Join(mnt, name))
				require.NoError(t, err)
				_, err = f.Write(data)
				require.NoError(t, err)
				require.NoError(t, f.Sync())
				require.NoError(t, f.Close())
			}
			files := []string{"a"}
			serves := func(what string) {
				t.Helper()
				require.Eventually(t, func() bool {
					if !mountpoint(mnt) {
						return false
					}
					for _, name := range files {
						if got, err := os.ReadFile(filepath.Join(mnt, name)); err != nil || string(got) != string(data) {
							return false
						}
					}
					return true
				}, 30*time.Second, 50*time.Millisecond, what)
			}
			store("a")
			require.Contains(t, u.run(0, "sync"), "safe: checkpoint")

			d.Shutdown()
			d.Kill() // what did not end in its time ends with the machine
			require.Eventually(t, func() bool { return len(processes(root)) == 0 }, 10*time.Second, 20*time.Millisecond)
			_ = syscall.Unmount(mnt, syscall.MNT_DETACH) // so does its mount
			doubleZinit(t, g, root, u.env)
			serves("after the reboot")

			store("b")
			files = append(files, "b")
			for _, name := range []string{"quantumd", "qsfs-data0"} {
				old := u.services()[name].PID
				require.NoError(t, syscall.Kill(old, syscall.SIGKILL))
				require.Eventually(t, func() bool { s := u.services()[name]; return s.PID != old && s.State == services.Active }, 30*time.Second, 50*time.Millisecond)
				serves("after the end of " + name)
			}

			store("late")
			files = append(files, "late")
			require.Contains(t, u.run(0, "stop"), "stopped")
			require.False(t, mountpoint(mnt))
			require.Equal(t, services.Inactive, u.services()["quantumd"].State)
			require.NotContains(t, u.run(0, "logs", "-n", "2000"), "not everything is on the backends")
			u.run(0, "start")
			serves("after a stop")
			require.Zero(t, u.status().LossWindow.Bytes)

			u.crashLoop(t, filepath.Join(root, "etc/quantumd.yaml"))
			serves("after a crash loop")

			u.run(0, "uninstall", "--yes")
			left, err := filepath.Glob(filepath.Join(root, "etc/zinit/*"))
			require.NoError(t, err)
			require.Empty(t, left)
			require.Empty(t, processes(root))
			require.NoFileExists(t, filepath.Join(root, "usr/local/bin/quantumd"))
		})
	}
}

// crashLoop: a service that cannot start is told, and comes back by itself when
// the reason is gone.
func (u *user) crashLoop(t *testing.T, conf string) {
	good := read(t, conf)
	write(t, conf, good+"\nupload_workers: none\n")
	require.Contains(t, u.run(1, "restart"), "quantumd logs")
	require.Eventually(t, func() bool {
		s := u.services()["quantumd"]
		return s.State == services.Starting && strings.Contains(s.Detail, "again")
	}, 10*time.Second, 50*time.Millisecond)
	require.Contains(t, u.run(0, "logs"), "upload_workers", fmt.Sprint(u.services()["quantumd"]))
	write(t, conf, good)
}
