//go:build linux

package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/testenv/machine"
)

// TestOlderSystemd takes over an earlier quantumd's local mode on a machine with a
// real systemd: what starts with the machine is the new system, and after the way
// back the older one; its local backends are left alone.
func TestOlderSystemd(t *testing.T) {
	t.Parallel()
	if os.Getenv("QUANTUMD_LONG") == "" {
		t.Skip("QUANTUMD_LONG is not set")
	}
	u := newInstalled(t)
	o := &olderLocalMode{installed: u}
	o.backends()
	o.frontend()
	o.older("at first")
	o.Sh("head -c 3000000 /dev/urandom > /mnt/qsfs/a && mkdir /mnt/qsfs/d && head -c 1000 /dev/urandom > /mnt/qsfs/d/small && cd /mnt/qsfs && sha256sum a d/small > /sums")

	require.Contains(t, o.new("upgrade", "--dry-run"), "nothing was changed")
	o.older("nothing was changed")
	o.new("upgrade", "--yes")
	o.taken("after the takeover")
	o.Reboot()
	o.taken("after a reboot")
	o.Sh("head -c 1000000 /dev/urandom > /mnt/qsfs/b && cd /mnt/qsfs && sha256sum b >> /sums")

	o.new("upgrade", "--undo-takeover", "--yes")
	o.older("after the way back")
	o.Reboot()
	o.older("after the way back and a reboot")
	o.new("upgrade", "--yes")
	o.taken("after the second takeover")
}

type olderLocalMode struct{ *installed }

func (o *olderLocalMode) new(args ...string) string {
	o.t.Helper()
	out, err := o.Run(append([]string{machine.HostDir + "/quantumd"}, args...)...)
	require.NoError(o.t, err)
	return out
}

// unit installs a unit as the earlier quantumd wrote it.
func (o *olderLocalMode) unit(name, after, exec string) {
	o.Sh(fmt.Sprintf("cat > /etc/systemd/system/%[1]s.service <<'END'\n[Unit]\nDescription=%[1]s\nAfter=network.target %[2]s\n\n[Service]\nExecStart=%[3]s\nRestart=always\nRestartSec=5s\n\n[Install]\nWantedBy=multi-user.target\nEND\n"+
		"systemctl daemon-reload && systemctl -q enable --now %[1]s", name, after, exec))
}

// backends runs four zdbs, each with a namespace for data and one for metadata.
func (o *olderLocalMode) backends() {
	for _, name := range []string{"zdb", "zstor", "zdbfs"} {
		o.Must("ln", "-s", machine.HostDir+"/quantumd", "/usr/local/bin/"+name)
	}
	var toml strings.Builder
	key := strings.Repeat("0123456789abcdef", 4)
	fmt.Fprintf(&toml, "minimal_shards = 2\nexpected_shards = 4\nredundant_groups = 0\nredundant_nodes = 0\nroot = \"\"\nsocket = \"/tmp/zstor.sock\"\nprometheus_port = 9200\n"+
		"zdb_data_dir_path = \"/var/lib/zdb/data/zdbfs-data/\"\nmax_zdb_data_dir_size = 64\n[encryption]\nalgorithm = \"AES\"\nkey = \"%[1]s\"\n[compression]\nalgorithm = \"snappy\"\n"+
		"[meta]\ntype = \"zdb\"\n[meta.config]\nprefix = \"zstor-meta\"\n[meta.config.encryption]\nalgorithm = \"AES\"\nkey = \"%[1]s\"\n", key)
	data := "[[groups]]\n"
	for n := 1; n <= 4; n++ {
		port := 9900 + n
		o.unit(fmt.Sprintf("zdb-back%d", n), "", fmt.Sprintf("/usr/local/bin/zdb --listen 127.0.0.1 --port %d --data /data/data%d --index /data/index%d", port, n, n))
		o.Eventually(20*time.Second, func() error { _, err := o.resp(port, "PING"); return err }, "a backend answers")
		for _, c := range [][]string{
			{"NSNEW", fmt.Sprint("data", n)}, {"NSSET", fmt.Sprint("data", n), "password", "zdbpassword"}, {"NSSET", fmt.Sprint("data", n), "mode", "seq"},
			{"NSNEW", fmt.Sprint("meta", n)}, {"NSSET", fmt.Sprint("meta", n), "password", "zdbpassword"},
		} {
			out, err := o.resp(port, c...)
			require.NoError(o.t, err, "%v: %s", c, out)
		}
		fmt.Fprintf(&toml, "[[meta.config.backends]]\naddress = \"127.0.0.1:%d\"\nnamespace = \"meta%d\"\npassword = \"zdbpassword\"\n", port, n)
		data += fmt.Sprintf("[[groups.backends]]\naddress = \"127.0.0.1:%d\"\nnamespace = \"data%d\"\npassword = \"zdbpassword\"\n", port, n)
	}
	o.Sh("cat > /etc/zstor.toml <<'END'\n" + toml.String() + data + "END\n")
}

// resp sends one command to a zdb, for the machine has no client.
func (o *olderLocalMode) resp(port int, words ...string) (string, error) {
	text := fmt.Sprintf(`*%d\r\n`, len(words))
	for _, w := range words {
		text += fmt.Sprintf(`$%d\r\n%s\r\n`, len(w), w)
	}
	return o.Run("/bin/bash", "-c", fmt.Sprintf(`exec 3<>/dev/tcp/127.0.0.1/%d && printf '%s' >&3 && read -r -t 5 answer <&3 && echo "$answer" && [[ $answer == +* ]]`, port, text))
}

// frontend installs what works on the files, as the earlier quantumd did.
func (o *olderLocalMode) frontend() {
	o.Sh(`mkdir -p /mnt/qsfs /var/lib/zdb
		cat > /etc/quantumd.yaml <<'END'
network: main
mnemonic: abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about
deployment_name: mine
password: secret
zdb_root_path: /var/lib/zdb
qsfs_mountpoint: /mnt/qsfs
min_shards: 2
expected_shards: 4
END
		printf '#!/bin/sh\nexec sleep 100000\n' > /usr/local/bin/quantumd
		printf '#!/bin/sh\ncase "$1" in\njump-data) exec zstor --log_file /var/log/h.log -c /etc/zstor.toml store -s -f "$3" ;;\nmissing-data) exec zstor --log_file /var/log/h.log -c /etc/zstor.toml retrieve -f "$3" ;;\nesac\n' > /usr/local/bin/quantumd-hook
		chmod 755 /usr/local/bin/quantumd /usr/local/bin/quantumd-hook`)
	o.unit("zstor", "", "/usr/local/bin/zstor --log_file /var/log/zstor.log -c /etc/zstor.toml monitor")
	o.unit("quantumd", "", "/usr/local/bin/quantumd daemon")
	o.unit("zdb", "zstor.service", "/usr/local/bin/zdb \\\n    --index /var/lib/zdb/index \\\n    --data /var/lib/zdb/data \\\n    --datasize 1048576 --hook /usr/local/bin/quantumd-hook --rotate 900")
	o.unit("zdbfs", "zstor.service", "/usr/local/bin/zdbfs /mnt/qsfs -o autons -o size=10737418240")
}

// files waits until each byte is there, and the local backends are.
func (o *olderLocalMode) files(what string) {
	o.t.Helper()
	o.Eventually(time.Minute, func() error {
		_, err := o.Run("/bin/sh", "-c", "mountpoint -q /mnt/qsfs && cd /mnt/qsfs && { test ! -e /sums || sha256sum --quiet -c /sums; }")
		return err
	}, what)
	for n := 1; n <= 4; n++ {
		require.Equal(o.t, "active\n", o.Must("systemctl", "is-active", fmt.Sprint("zdb-back", n)), what)
	}
}

func (o *olderLocalMode) older(what string) {
	o.t.Helper()
	o.files(what)
	for _, name := range []string{"zstor", "quantumd", "zdb", "zdbfs"} {
		require.Equal(o.t, "active\n", o.Must("systemctl", "is-active", name), "%s: %s", what, name)
		require.Equal(o.t, "enabled\n", o.Must("systemctl", "is-enabled", name), "%s: %s", what, name)
	}
	require.Equal(o.t, "/usr/local/bin/quantumd daemon\n", o.Sh("sed -n s/^ExecStart=//p /etc/systemd/system/quantumd.service"), what)
}

func (o *olderLocalMode) taken(what string) {
	o.t.Helper()
	o.files(what)
	o.healthy(what)
	require.Equal(o.t, "", o.Sh("ls /etc/systemd/system | grep -xE '(zdb|zdbfs|zstor)\\.service' || true"), what)
	require.Equal(o.t, "", o.Sh("find /etc/systemd/system -xtype l"), "%s: links that lead nowhere", what)
	require.Equal(o.t, "notify\n", o.Sh("sed -n s/^Type=//p /etc/systemd/system/quantumd.service"), what)
}
