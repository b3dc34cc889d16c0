//go:build linux

package main

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/engine/zstor/seal"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/services"
)

// TestTakeoverMachine takes over an installation of the shell scripts on a machine
// with a real systemd: killed half-way, completed; rebooted, where nothing of the
// older one starts; taken back, rebooted, where nothing of the new one does.
func TestTakeoverMachine(t *testing.T) {
	t.Parallel()
	if os.Getenv("QUANTUMD_LONG") == "" {
		t.Skip("QUANTUMD_LONG is not set")
	}
	u := newInstalled(t)
	u.scripts()
	u.mounted("by the older file system")
	u.Must("cp", "-a", source, qsfsMount+"/a")
	u.Must("sync")

	out := u.older(0, "upgrade", "--dry-run")
	require.Contains(t, out, "an installation of the shell scripts")
	// Killed half-way, whatever is under way then.
	for i := range 4 {
		_, _ = u.Run("timeout", "-s", "KILL", fmt.Sprintf("%.1f", 0.3+0.4*float64(i)), u.program, "upgrade", "--yes") // its end is what is under test
	}
	u.older(0, "upgrade", "--yes")
	u.onlyNew()
	u.same("a")
	require.Contains(t, u.q(0, "sync"), "safe")
	u.synced()
	u.Reboot()
	u.older(0, "deploy", "--local", "--dir", "/srv/b") // they are nobody's services
	u.healthy("after a reboot")
	u.onlyNew()
	u.same("a")
	u.checkSynced()

	u.q(0, "upgrade", "--undo-takeover", "--yes")
	u.onlyOlder()
	u.same("a")
	u.checkSynced()
	u.Reboot()
	u.mounted("by the older one after a reboot")
	u.onlyOlder()
	u.same("a")

	u.older(0, "deploy", "--local", "--dir", "/srv/b")
	u.older(0, "setup", "--yes")
	u.onlyNew()
	u.same("a")
	u.checkSynced()
	require.Contains(t, u.q(0, "sync"), "safe")
}

// older runs the program that is not installed yet.
func (u *installed) older(code int, args ...string) string {
	u.t.Helper()
	out, err := u.RunIn(nil, surroundings(), append([]string{u.program}, args...)...)
	if code == 0 {
		require.NoError(u.t, err)
	}
	return out
}

func (u *installed) mounted(what string) {
	u.t.Helper()
	u.Eventually(time.Minute, func() error { _, err := u.Run("mountpoint", "-q", qsfsMount); return err }, what)
}

func (u *installed) onlyNew() {
	u.t.Helper()
	require.Equal(u.t, services.Active, u.services()["quantumd"].State)
	for _, name := range []string{"zstor", "zdb", "zdbfs"} {
		require.Equal(u.t, "not-found\n", u.Must("systemctl", "show", "--property=LoadState", "--value", name+".service"))
	}
	require.NotContains(u.t, u.Must("ps", "-e", "-o", "args"), "/usr/local/bin/zdb")
	require.NotContains(u.t, u.Must("ls", "/etc/systemd/system/multi-user.target.wants"), "zdb")
}

func (u *installed) onlyOlder() {
	u.t.Helper()
	for _, name := range []string{"zstor", "zdb", "zdbfs"} {
		require.Equal(u.t, "active\n", u.Must("systemctl", "is-active", name+".service"))
		require.Equal(u.t, "enabled\n", u.Must("systemctl", "is-enabled", name+".service"))
	}
	require.Equal(u.t, "not-found\n", u.Must("systemctl", "show", "--property=LoadState", "--value", "quantumd.service"))
	require.NotContains(u.t, u.Must("ps", "-e", "-o", "args"), "quantumd daemon")
}

// scripts lays the machine out as the shell scripts did.
func (u *installed) scripts() {
	t := u.t
	u.older(0, "deploy", "--local", "--dir", "/srv/b")
	text := u.Must("cat", "/srv/b/config.yaml")
	conf, err := config.Parse("config.yaml", []byte(text))
	require.NoError(t, err)
	list, err := conf.BackendList()
	require.NoError(t, err)
	key, err := seal.ParseKey(conf.EncryptionKey.Reveal())
	require.NoError(t, err)
	z := zstor.FileConfig{Config: zstor.Config{MinimalShards: 1, ExpectedShards: 2, Prefix: "zstor-meta", Root: "/", Key: key},
		Daemon: zstor.DaemonConfig{Socket: "/run/zstor-older.sock", MaxZDBDataDirMiB: 25600}}
	for _, b := range list {
		if b.Role == backend.Meta {
			z.Meta = append(z.Meta, b)
		} else {
			z.Data = append(z.Data, b)
		}
	}
	toml, err := zstor.MarshalTOML(z)
	require.NoError(t, err)
	u.file("/etc/zstor-default.toml", string(toml))
	for _, name := range []string{"zdb", "zstor", "zdbfs"} {
		u.Must("cp", u.program, "/usr/local/bin/"+name)
	}
	u.Sh("mkdir -p /data/data /data/index " + qsfsMount)
	for _, s := range []struct{ name, after, exec string }{
		{"zstor", "network.target", "/usr/local/bin/zstor --log_file /var/log/zstor.log -c /etc/zstor-default.toml monitor"},
		{"zdb", "zstor.service", "/usr/local/bin/zdb --datasize 4M --mode seq --listen 127.0.0.1 --data /data/data --index /data/index"},
		{"zdbfs", "zdb.service", "/usr/local/bin/zdbfs " + qsfsMount + " -o autons -o allow_other"},
	} {
		u.file("/etc/systemd/system/"+s.name+".service", fmt.Sprintf("[Unit]\nWants=network.target\nAfter=%s\n\n[Service]\nExecStart=%s\nRestart=always\nRestartSec=1\n\n[Install]\nWantedBy=multi-user.target\n", s.after, s.exec))
	}
	u.Sh("systemctl daemon-reload && systemctl enable --now zstor zdb zdbfs 2>&1")
}

func (u *installed) file(path, text string) {
	u.t.Helper()
	u.Sh(fmt.Sprintf("echo %s | base64 -d >%s && chmod 644 %s", base64.StdEncoding.EncodeToString([]byte(text)), path, filepath.Clean(strings.TrimSpace(path))))
}
