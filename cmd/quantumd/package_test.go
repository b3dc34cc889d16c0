//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/testenv/machine"
)

func needsLong(t *testing.T) {
	t.Helper()
	if os.Getenv("QUANTUMD_LONG") == "" {
		t.Skip("QUANTUMD_LONG is not set")
	}
}

// container is one of the image.
type container struct {
	t    *testing.T
	name string
}

func docker(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command("docker", args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (c container) must(args ...string) string {
	c.t.Helper()
	out, err := docker(c.t, args...)
	require.NoError(c.t, err, "docker %s: %s", strings.Join(args, " "), out)
	return out
}

func (c container) exec(args ...string) string {
	c.t.Helper()
	return c.must(append([]string{"exec", c.name, "quantumd"}, args...)...)
}

// ready waits for the system in it.
func (c container) ready() {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		_, err := docker(c.t, "exec", c.name, "quantumd", "wait", "--dir", "/data", "--timeout", "2s")
		return err == nil
	}, time.Minute, 200*time.Millisecond, "it serves")
}

// stop stops it as people do, and says how it ended.
func (c container) stop() (code string, took time.Duration) {
	c.t.Helper()
	began := time.Now()
	c.must("stop", "-t", "120", c.name)
	return c.must("inspect", "-f", "{{.State.ExitCode}}", c.name), time.Since(began)
}

// pid is process 1 of it, as this machine numbers it.
func (c container) pid() string { return c.must("inspect", "-f", "{{.State.Pid}}", c.name) }

// zombies counts children of its process 1 that nobody has reaped.
func (c container) zombies() int {
	out := c.must("top", c.name, "-o", "pid,stat,args")
	n := 0
	for _, line := range strings.Split(out, "\n") {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], "Z") {
			n++
		}
	}
	return n
}

// orphan makes one in it that ends soon; nobody but its process 1 can reap it.
func (c container) orphan() {
	c.t.Helper()
	out, err := exec.Command("nsenter", "-t", c.pid(), "-p", "sh", "-c", "sleep 3 </dev/null >/dev/null 2>&1 & exit 0").CombinedOutput()
	require.NoError(c.t, err, "%s", out)
}

// orphans counts the sleepers of orphan that its process 1 has, ended or not.
func (c container) orphans() int {
	pid := c.pid()
	text, err := os.ReadFile(filepath.Join("/proc", pid, "task", pid, "children"))
	require.NoError(c.t, err)
	n := 0
	for _, child := range strings.Fields(string(text)) {
		comm, err := os.ReadFile(filepath.Join("/proc", child, "comm"))
		if err == nil && strings.TrimSpace(string(comm)) == "sleep" {
			n++
		}
	}
	return n
}

// safe asks, of one that has ended, whether all that was written is on the
// backends: they are not destroyed else.
func (c container) safe(image string) error {
	c.t.Helper()
	if out, err := docker(c.t, "run", "--rm", "--network", "none", "--volumes-from", c.name, image, "destroy", "--local", "--dir", "/data", "--dry-run"); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// TestImage runs the container image: its default, with a mount, and as one
// component.
func TestImage(t *testing.T) {
	t.Parallel()
	needsLong(t)
	if out, err := docker(t, "info"); err != nil {
		t.Skipf("no Docker engine: %s", out)
	}
	dir := t.TempDir()
	tar, tag := filepath.Join(dir, "image.tar"), fmt.Sprintf("test-%d", os.Getpid())
	build := func(args ...string) {
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	program := os.Getenv("QUANTUMD_BIN")
	if program == "" {
		program = filepath.Join(dir, "quantumd")
		build("build", "-o", program, "./cmd/quantumd")
	}
	build("run", "./internal/tools/image", "-program", program, "-version", tag, "-o", tar)
	image := "quantumd:" + tag
	c := container{t: t}
	c.must("load", "-q", "-i", tar)
	t.Cleanup(func() { _, _ = docker(t, "rmi", "-f", image) })
	begin := func(t *testing.T, args ...string) container {
		c := container{t: t, name: fmt.Sprintf("quantumd-image-%d-%s", os.Getpid(), filepath.Base(t.Name()))}
		c.must(append([]string{"run", "-d", "--name", c.name, "--network", "none"}, args...)...)
		t.Cleanup(func() {
			if t.Failed() {
				out, _ := docker(t, "logs", c.name)
				t.Log(out)
			}
			_, _ = docker(t, "rm", "-fv", c.name)
		})
		return c
	}

	// Its default needs no privileges; it is stopped in order, and started again.
	t.Run("Default", func(t *testing.T) {
		c := begin(t, image)
		c.ready()
		require.Contains(t, c.exec("status", "--dir", "/data"), "9 of 9 up")
		c.exec("sync", "--dir", "/data")
		c.orphan()
		require.Equal(t, 1, c.orphans(), "the sleeper belongs to process 1 now")
		require.Eventually(t, func() bool { return c.orphans() == 0 }, 10*time.Second, 20*time.Millisecond, "what process 1 inherits is reaped")
		require.Zero(t, c.zombies())
		code, took := c.stop()
		require.Equal(t, "0", code)
		t.Logf("stopped in %v", took.Round(time.Millisecond))
		require.NoError(t, c.safe(image))
		require.Contains(t, c.must("logs", c.name), "bringing what was written to the backends")
		c.must("start", c.name)
		c.ready()
		require.Contains(t, c.exec("status", "--dir", "/data", "--json"), `"state": "ok"`)
		require.Contains(t, c.must("inspect", "-f", "{{.Config.Healthcheck.Test}}", c.name), "wait")
	})

	// What was written and not synced is on the backends when docker stop returns.
	t.Run("Mount", func(t *testing.T) {
		needsFUSE(t)
		c := begin(t, "--device", "/dev/fuse", "--cap-add", "SYS_ADMIN", "--security-opt", "apparmor=unconfined", image,
			"up", "--local", "--dir", "/data", "--mount", "/mnt/q")
		c.ready()
		inside := func(path string) string { return filepath.Join("/proc", c.pid(), "root", path) }
		want := strings.Repeat("in a container\n", 100_000)
		write(t, inside("/mnt/q/file"), want)
		code, took := c.stop()
		require.Equal(t, "0", code)
		t.Logf("stopped in %v", took.Round(time.Millisecond))
		require.NoError(t, c.safe(image))
		c.must("start", c.name)
		c.ready()
		got, err := os.ReadFile(inside("/mnt/q/file"))
		require.NoError(t, err)
		require.Equal(t, want, string(got))
		require.Contains(t, c.exec("check", "--dir", "/data"), "0 pending, 0 degraded, 0 not known, 0 lost")
		require.Zero(t, c.zombies())

		// A crash loses nothing that was synced; what was not is only in its volume.
		c.exec("sync", "--dir", "/data")
		write(t, inside("/mnt/q/late"), "late")
		c.must("kill", c.name)
		require.ErrorContains(t, c.safe(image), "not on the backends")
		c.must("start", c.name)
		c.ready()
		got, err = os.ReadFile(inside("/mnt/q/file"))
		require.NoError(t, err)
		require.Equal(t, want, string(got))
		got, err = os.ReadFile(inside("/mnt/q/late"))
		require.NoError(t, err)
		require.Equal(t, "late", string(got), "it was closed")
	})

	t.Run("Component", func(t *testing.T) {
		c := begin(t, "--no-healthcheck", image, "zdb", "--data", "/data/data", "--index", "/data/index", "--mode", "seq", "--listen", "127.0.0.1")
		require.Eventually(t, func() bool {
			_, err := os.Stat(filepath.Join("/proc", c.pid(), "root/data/data/default"))
			return err == nil
		}, 20*time.Second, 50*time.Millisecond)
		code, _ := c.stop()
		require.Equal(t, "143", code, "as the real zdb ends")
	})
}

// sourceCopy is a copy of what is here: packages are built in their own folder.
func sourceCopy(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("dpkg-deb is not installed")
	}
	src := filepath.Join(t.TempDir(), "src")
	out, err := exec.Command("sh", "-c", `mkdir "$1" && cd ../.. && (git ls-files -co --exclude-standard || find . -type f) | tar -cf - -T - | tar -C "$1" -xf -`, "sh", src).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return src
}

// buildDeb builds a package of a version.
func buildDeb(t *testing.T, src, version, arch string) string {
	t.Helper()
	cmd := exec.Command("make", "-s", "deb", "VERSION="+version, "ARCH="+arch)
	cmd.Dir, cmd.Env = src, append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	file := filepath.Join(src, "dist", "quantumd_"+version+"_"+arch+".deb")
	require.FileExists(t, file)
	return file
}

// TestPackage is the life of the Debian package on a machine with a real
// systemd.
func TestPackage(t *testing.T) {
	t.Parallel()
	needsLong(t)
	m := machine.Start(t, machine.Options{})
	src := sourceCopy(t)
	first, second := m.Put("first.deb", buildDeb(t, src, "1.0.0", runtime.GOARCH)), m.Put("second.deb", buildDeb(t, src, "1.0.1", runtime.GOARCH))
	const files = "find /usr /etc /var/lib/quantumd /opt -xdev -not -path '/usr/share/doc/*' 2>/dev/null | sort"
	m.Sh("{ " + files + " || true; } >/srv/before")

	// Installing it starts nothing.
	m.Must("dpkg", "-i", first)
	require.Contains(t, m.Must("quantumd", "version"), "1.0.0")
	require.Equal(t, "0\n", m.Sh("ls /etc/systemd/system | grep -cE '^(qsfs|quantumd)' || true"))
	require.Contains(t, m.Sh("zcat /usr/share/man/man1/quantumd.1.gz | head -1"), "2023-11-14")

	// Backends that somebody else runs, as a configuration lists them.
	m.Must("quantumd", "deploy", "--local", "--dir", "/srv/backends")
	m.Must("quantumd", "deploy", "--config", "/srv/backends/config.yaml")
	m.Must("quantumd", "setup")
	require.Contains(t, m.Must("systemctl", "show", "-p", "ExecStart", "quantumd"), "path=/usr/bin/quantumd")
	m.Sh("test ! -e /usr/local/bin/quantumd")
	m.Sh("cp -r /usr/share/zoneinfo /mnt/qsfs/before 2>/dev/null || cp -r /usr/lib/systemd /mnt/qsfs/before; (cd /mnt/qsfs/before && find . -type f | sort | xargs sha256sum) >/srv/sums")
	m.Must("quantumd", "sync")

	// The next version, while something writes.
	// It writes below a folder of the file system: in the mountpoint itself its
	// files would land below the mount while that is away, and hold up the start.
	m.Sh(`mkdir /mnt/qsfs/load; nohup sh -c 'n=0; while [ ! -e /srv/enough ]; do
		head -c 256k /dev/urandom >/srv/piece
		if dd if=/srv/piece of=/mnt/qsfs/load/$n bs=64k conv=fsync 2>/dev/null; then sha256sum </srv/piece | sed "s|-|/mnt/qsfs/load/$n|" >>/srv/load; fi
		n=$((n+1)); sleep 0.02; done; touch /srv/done' >/dev/null 2>&1 &`)
	m.Eventually(20*time.Second, func() error { _, err := m.Run("test", "-s", "/srv/load"); return err }, "something is written")
	pid := m.Must("systemctl", "show", "-p", "MainPID", "quantumd")
	m.Must("dpkg", "-i", second)
	require.Contains(t, m.Must("quantumd", "version"), "1.0.1")
	require.NotEqual(t, pid, m.Must("systemctl", "show", "-p", "MainPID", "quantumd"), "the service runs the new version")
	m.Must("quantumd", "wait")
	count := m.Sh("wc -l </srv/load")
	m.Eventually(20*time.Second, func() error {
		_, err := m.Run("sh", "-c", "test $(wc -l </srv/load) -gt "+strings.TrimSpace(count))
		return err
	}, "writing goes on")
	m.Sh("touch /srv/enough; while [ ! -e /srv/done ]; do sleep 0.05; done")
	m.Must("quantumd", "sync")
	m.Must("quantumd", "check")
	running := func() string { return m.Sh("/proc/$(systemctl show -p MainPID --value quantumd)/exe version") }
	intact := func() {
		t.Helper()
		m.Sh("sha256sum --quiet -c /srv/load && cd /mnt/qsfs/before && sha256sum --quiet -c /srv/sums")
	}
	intact()
	m.Must("quantumd", "stop")
	m.Must("quantumd", "start")
	intact()

	// The package of the version before is the way back. A configuration that is
	// no good is found before anything is stopped, and the older program runs on.
	m.Must("dpkg", "-i", first)
	require.Contains(t, running(), "1.0.0")
	intact()
	pid = m.Must("systemctl", "show", "-p", "MainPID", "quantumd")
	m.Sh("cp /etc/quantumd.yaml /srv/good && echo 'meta_size: several' >>/etc/quantumd.yaml")
	_, err := m.Run("dpkg", "-i", second)
	require.ErrorContains(t, err, "meta_size")
	require.ErrorContains(t, err, "dpkg --configure quantumd")
	require.Equal(t, pid, m.Must("systemctl", "show", "-p", "MainPID", "quantumd"))
	require.Contains(t, running(), "1.0.0")
	intact()
	m.Sh("cat /srv/good >/etc/quantumd.yaml")
	m.Must("dpkg", "--configure", "quantumd")
	require.Contains(t, running(), "1.0.1")
	intact()

	// Not removed while something is only here.
	m.Sh(`for p in $(pgrep -f '[/]srv/backends'); do kill -9 $p; done; head -c 1M /dev/urandom >/srv/late; dd if=/srv/late of=/mnt/qsfs/late conv=fsync 2>/dev/null
		systemctl stop --no-block quantumd; systemctl kill --signal=KILL quantumd; while systemctl is-active -q quantumd; do sleep 0.05; done`)
	_, err = m.Run("dpkg", "-r", "quantumd")
	require.ErrorContains(t, err, "nothing was removed")
	m.Must("quantumd", "deploy", "--local", "--dir", "/srv/backends")
	m.Must("quantumd", "start")
	m.Must("quantumd", "sync")
	m.Sh("cmp /srv/late /mnt/qsfs/late")
	intact()

	// Removed: no service, no program; data, configuration and key stay.
	m.Must("dpkg", "-r", "quantumd")
	require.Equal(t, "0\n", m.Sh("ls /etc/systemd/system | grep -cE '^(qsfs|quantumd)' || true"))
	m.Sh("test -s /etc/quantumd.yaml && test -d /opt/zdb && ! mountpoint -q /mnt/qsfs && ! command -v quantumd")
	m.Must("dpkg", "-P", "quantumd")
	m.Sh("test -s /etc/quantumd.yaml && test -d /opt/zdb")
	m.Sh("rm -rf /etc/quantumd.yaml /etc/zstor.toml /opt/zdb /var/lib/quantumd")
	require.Empty(t, m.Sh("{ "+files+" || true; } | diff /srv/before - || true"), "nothing else is left")
}
