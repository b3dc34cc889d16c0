//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/services"
	"github.com/threefoldtech/quantumd/services/zinit"
)

// olderMachine is one of before, below another root: zstor, zdb and zdbfs as
// services of a zinit, on a file system that was used.
type olderMachine struct {
	*user
	root, mnt string
	data      string // the root of its zdb
	toml      string
	era       string
	files     map[string][]byte
	units     map[string]string // the service files, by path
}

const (
	eraScripts = "scripts"  // /data, /etc/zstor-default.toml, a list of what was uploaded
	eraEarlier = "quantumd" // /opt/zdb, /etc/quantumd.yaml, no list
)

// newOlderMachine brings up such a machine. Own programs do its work, but where
// ZDB_BIN, ZSTOR_BIN and ZDBFS_BIN name real ones and real is set.
func newOlderMachine(t *testing.T, era string, g zinit.Generation, real bool) *olderMachine {
	t.Helper()
	needsRootAndFUSE(t)
	dir := folder(t)
	o := &olderMachine{user: newUser(t, dir), root: filepath.Join(dir, "root"), era: era, files: map[string][]byte{}, units: map[string]string{}}
	o.args = []string{"--root", o.root}
	o.env = append(o.env, "QUANTUMD_MIN_SHARDS=", "QUANTUMD_EXPECTED_SHARDS=") // as the older one has them
	o.mnt = o.at("/mnt/qsfs")
	o.data, o.toml = o.at("/opt/zdb"), o.at("/etc/zstor.toml")
	if era == eraScripts {
		o.data, o.toml = o.at("/data"), o.at("/etc/zstor-default.toml")
	}
	for _, d := range []string{o.mnt, o.data, o.at("/etc"), o.at("/usr/local/bin"), o.at("/tmp"), o.at("/var/log")} {
		require.NoError(t, os.MkdirAll(d, 0o755))
	}
	for _, name := range []string{"zdb", "zstor", "zdbfs"} {
		from := o.program
		if real {
			key := strings.ToUpper(name) + "_BIN"
			if from = os.Getenv(key); from == "" {
				t.Skip(key + " names no real program")
			}
		}
		require.NoError(t, os.Symlink(from, o.at("/usr/local/bin/"+name)))
	}
	o.config(t)
	o.services(t)
	doubleZinit(t, g, o.root, o.env)
	t.Cleanup(func() { o.tellLog(g) })
	o.serves("the older system")
	return o
}

// tellLog shows what the services of a failed test said, as far as the older
// generation gives it.
func (o *olderMachine) tellLog(g zinit.Generation) {
	if !o.t.Failed() || g != zinit.LineProtocol {
		return
	}
	conn, err := net.Dial("unix", services.ZinitSockets(o.root)[0])
	if err != nil {
		return
	}
	defer conn.Close() //nolint:errcheck // read only
	_, _ = conn.Write([]byte("log snapshot\n"))
	text, _ := io.ReadAll(conn)
	o.t.Logf("what the services said:\n%s", tailOf(text))
}

func (o *olderMachine) at(path string) string { return filepath.Join(o.root, path) }

// config writes the zstor's configuration over backends that run, and that of an
// earlier quantumd.
func (o *olderMachine) config(t *testing.T) {
	env := testenv.New(t, testenv.Options{Data: 3, Shards: 3, MinShards: 2})
	list, err := env.Config.BackendList()
	require.NoError(t, err)
	c := zstor.FileConfig{Config: zstor.Config{MinimalShards: 2, ExpectedShards: 3, Prefix: "someones-prefix"},
		Daemon: zstor.DaemonConfig{Socket: o.at("/tmp/zstor.sock"), PIDFile: o.at("/tmp/zstor.pid")}}
	key, err := env.Config.Key()
	require.NoError(t, err)
	copy(c.Key[:], key)
	for _, b := range list {
		if b.Role == "meta" {
			c.Meta = append(c.Meta, b)
		} else {
			c.Data = append(c.Data, b)
		}
	}
	text, err := zstor.MarshalTOML(c)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(o.toml, text, 0o644))
	if o.era == eraEarlier {
		write(t, o.at("/etc/quantumd.yaml"), "network: main\ndeployment_name: mine\npassword: a-password\nzdb_root_path: /opt/zdb\nqsfs_mountpoint: /mnt/qsfs\n"+
			"retry_interval: 15m\nmin_shards: 2\nexpected_shards: 3\nzstor_config_path: /etc/zstor.toml\nprometheus_port: 0\ncache_path: /nowhere\n")
	}
}

// services writes the service files, as they were, and the hook.
func (o *olderMachine) services(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	require.NoError(t, l.Close())
	bin := o.at("/usr/local/bin")
	hook := filepath.Join(bin, "quantumd-hook")
	if o.era == eraScripts {
		hook = filepath.Join(bin, "zdb-hook.sh")
	}
	require.NoError(t, os.WriteFile(hook, []byte(fmt.Sprintf(`#!/bin/sh
case "$1" in
jump-data) exec %[1]s/zstor --log_file %[2]s/var/log/zstor-hook.log -c %[3]s store -s -f "$3" ;;
missing-data) exec %[1]s/zstor --log_file %[2]s/var/log/zstor-hook.log -c %[3]s retrieve -f "$3" ;;
esac
`, bin, o.root, o.toml)), 0o755))
	unit := func(name, exec, more string) {
		path := o.at("/etc/zinit/" + name + ".yaml")
		o.units[path] = "exec: |\n  " + exec + "\n" + more
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(o.units[path]), 0o644))
	}
	unit("zstor", fmt.Sprintf("%s/zstor --log_file %s/var/log/zstor.log -c %s monitor", bin, o.root, o.toml), "test: test -S "+o.at("/tmp/zstor.sock")+"\nshutdown_timeout: 300\n")
	if o.era == eraEarlier {
		require.NoError(t, os.WriteFile(filepath.Join(bin, "quantumd"), []byte("#!/bin/sh\nexec sleep 100000\n"), 0o755))
		unit("quantumd", bin+"/quantumd daemon", "after: [zstor]\n")
	} else {
		unit("retry-uploads", "sh -c 'while true; do sleep 600; done'", "after: [zstor]\n")
	}
	unit("zdb", fmt.Sprintf("%s/zdb --index %[2]s/index --data %[2]s/data --listen 127.0.0.1 --port %d --datasize 1048576 --hook %s --rotate 900", bin, o.data, port, hook),
		fmt.Sprintf("test: redis-cli -p %d ping\nafter: [zstor]\nshutdown_timeout: 60\n", port))
	unit("zdbfs", fmt.Sprintf("%s/zdbfs %s -o autons -o host=127.0.0.1 -o port=%d -o size=10737418240", bin, o.mnt, port), "after: [zdb]\n")
	if _, err := exec.LookPath("redis-cli"); err != nil {
		path := o.at("/etc/zinit/zdb.yaml")
		o.units[path] = strings.Replace(o.units[path], "test: redis-cli", "test: true", 1)
		require.NoError(t, os.WriteFile(path, []byte(o.units[path]), 0o644))
	}
}

// store writes a file through the mount, and remembers it.
func (o *olderMachine) store(name string, size int) {
	o.t.Helper()
	data := make([]byte, size)
	_, _ = rand.Read(data) // it does not fail
	require.NoError(o.t, os.WriteFile(filepath.Join(o.mnt, name), data, 0o644))
	o.files[name] = data
}

// serves waits until each byte that was written is there.
func (o *olderMachine) serves(what string) {
	o.t.Helper()
	require.Eventually(o.t, func() bool {
		if !mountpoint(o.mnt) {
			return false
		}
		for name, want := range o.files {
			if got, err := os.ReadFile(filepath.Join(o.mnt, name)); err != nil || !bytes.Equal(got, want) {
				return false
			}
		}
		return true
	}, 40*time.Second, 50*time.Millisecond, what)
}

// zstor asks the older zstor for a file's checksum; empty: it is not stored.
func (o *olderMachine) zstor(path string) string {
	out, err := exec.CommandContext(o.t.Context(), o.at("/usr/local/bin/zstor"), "--log_file", o.at("/var/log/check.log"), "-c", o.toml, "check", "-f", path).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// used has the machine used for a while: files that are on the backends, one of
// which the zstor has dropped, and what was not brought there.
func (o *olderMachine) used() (dropped string) {
	o.t.Helper()
	o.store("first", 3<<20)
	o.store("second", 2<<20)
	require.NoError(o.t, os.Mkdir(filepath.Join(o.mnt, "folder"), 0o755))
	o.store("folder/small", 1000)
	dropped = filepath.Join(o.data, "data/zdbfs-data/d1")
	var list strings.Builder
	require.Eventually(o.t, func() bool {
		list.Reset()
		for n := range 3 {
			path := filepath.Join(o.data, fmt.Sprintf("data/zdbfs-data/d%d", n))
			sum := o.zstor(path)
			if b, err := hex.DecodeString(sum); err != nil || len(b) != 16 {
				return false
			}
			fmt.Fprintf(&list, "%s %s\n", path, sum)
		}
		return true
	}, 30*time.Second, 100*time.Millisecond, "the older zstor has stored what was closed")
	if o.era == eraScripts {
		write(o.t, filepath.Join(o.data, "uploaded_data_files"), list.String())
	}
	require.NoError(o.t, os.Remove(dropped))
	return dropped
}

// gone says that nothing of the older installation is left, but what was kept.
func (o *olderMachine) gone() {
	o.t.Helper()
	for path, text := range o.units {
		b, err := os.ReadFile(path)
		if filepath.Base(path) == "quantumd.yaml" {
			require.NoError(o.t, err)
			require.NotEqual(o.t, text, string(b))
			continue
		}
		require.ErrorIs(o.t, err, os.ErrNotExist, path)
	}
	for _, name := range []string{"zdb", "zstor", "zdbfs"} {
		require.Empty(o.t, o.running(name), name)
	}
}

// asBefore says that the older installation runs, and has what it had.
func (o *olderMachine) asBefore(what string) {
	o.t.Helper()
	for path, text := range o.units {
		require.Equal(o.t, text, read(o.t, path), what)
	}
	o.serves(what)
	for _, name := range []string{"zdb", "zstor", "zdbfs"} {
		require.NotEmpty(o.t, o.running(name), "%s: %s", what, name)
	}
}

// running lists the processes of a program of the older installation.
func (o *olderMachine) running(name string) (pids []string) {
	found, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is good
	for _, path := range found {
		if text, err := os.ReadFile(path); err == nil && bytes.HasPrefix(text, []byte(o.at("/usr/local/bin/"+name)+"\x00")) {
			pids = append(pids, filepath.Base(filepath.Dir(path)))
		}
	}
	return pids
}

// TestOlderMachine takes over a machine that zdb, zstor and zdbfs run on: each
// byte is there afterwards, what is left of the older one is removed, and the
// way back and forth again keeps what was written meanwhile.
func TestOlderMachine(t *testing.T) {
	t.Parallel()
	for _, v := range []struct {
		name, era string
		g         zinit.Generation
		real      bool
	}{
		{"Scripts", eraScripts, zinit.LineProtocol, false},
		{"Earlier", eraEarlier, zinit.JSONRPC, false},
		{"RealScripts", eraScripts, zinit.LineProtocol, true},
		{"RealEarlier", eraEarlier, zinit.JSONRPC, true},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			o := newOlderMachine(t, v.era, v.g, v.real)
			dropped := o.used()

			out := o.run(0, "upgrade", "--dry-run")
			require.Contains(t, out, o.data)
			require.Contains(t, out, "nothing was changed")
			require.NoDirExists(t, o.at("/var/lib/quantumd"))
			for _, command := range []string{"upgrade", "setup"} { // nobody can be asked
				require.Contains(t, o.run(2, command), "--yes")
			}
			o.asBefore("nobody has said yes")
			require.NoError(t, os.RemoveAll(dropped)) // a read may have brought it back

			o.run(0, "upgrade", "--yes")
			o.serves("after the takeover")
			o.gone()
			st := o.status()
			require.Equal(t, "ok", string(st.State))
			o.store("new", 1<<20)
			require.Contains(t, o.run(0, "sync"), "safe: checkpoint")
			conf, err := os.Stat(o.at("/etc/quantumd.yaml"))
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o600), conf.Mode().Perm())
			require.Contains(t, read(t, o.at("/etc/quantumd.yaml")), "someones-prefix")
			require.Contains(t, o.run(0, "upgrade", "--yes"), "mounted on", "a second one finds nothing to take over")
			o.serves("after a second upgrade")

			o.run(0, "upgrade", "--undo-takeover", "--yes")
			o.asBefore("the way back")
			o.store("later", 1<<20)

			o.run(0, "upgrade", "--yes")
			o.serves("after the second takeover")
			o.gone()
			require.Contains(t, o.run(0, "sync"), "safe: checkpoint")
		})
	}
}

// TestOlderMachineFails: where the new system does not come up, the older one is
// brought back.
func TestOlderMachineFails(t *testing.T) {
	t.Parallel()
	o := newOlderMachine(t, eraEarlier, zinit.LineProtocol, false)
	o.used()
	conf := o.at("/etc/quantumd.yaml")
	text := read(t, conf) + "database_path: /srv/database\n"
	require.NoError(t, os.WriteFile(conf, []byte(text), 0o644))
	require.NoError(t, os.MkdirAll(o.at("/srv/database/a folder"), 0o755)) // no database can be there
	require.Contains(t, o.run(1, "upgrade", "--yes"), "the older services run again")
	o.asBefore("after the takeover has failed")
	require.Equal(t, text, read(t, conf))
	require.Equal(t, "#!/bin/sh\nexec sleep 100000\n", read(t, o.at("/usr/local/bin/quantumd")))

	require.NoError(t, os.RemoveAll(o.at("/srv/database")))
	o.run(0, "upgrade", "--yes")
	o.serves("after the reason is gone")
	o.gone()
}

// TestOlderMachineInterrupted kills a takeover in each of its steps: a second
// call completes it.
func TestOlderMachineInterrupted(t *testing.T) {
	t.Parallel()
	steps := []string{"stop", "install", "remove"}
	if os.Getenv("QUANTUMD_LONG") != "" {
		steps = []string{"keep", "prepare", "stop", "configure", "install", "remove"}
	}
	o := newOlderMachine(t, eraScripts, zinit.JSONRPC, false)
	o.used()
	for _, step := range steps {
		at := o.killAt(step)
		t.Logf("killed at the step %s", at)
		o.run(0, "upgrade", "--yes")
		o.serves("after an interruption in the step " + step)
		o.gone()
		o.store("after-"+step, 300_000)
		o.run(0, "upgrade", "--undo-takeover", "--yes")
		o.asBefore("the way back")
	}
}

// killAt runs a takeover and kills it once it is at a step or further.
func (o *olderMachine) killAt(step string) (at string) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), time.Minute)
	defer cancel()
	cmd := o.command(ctx, "upgrade", "--yes")
	cmd.Stdout, cmd.Stderr = o.said, o.said
	require.NoError(o.t, cmd.Start())
	order := []string{"keep", "prepare", "stop", "configure", "install", "remove", "done"}
	place := func(s string) int {
		for i, name := range order {
			if name == s {
				return i
			}
		}
		return -1
	}
	require.Eventually(o.t, func() bool {
		var state struct{ Step string }
		b, err := os.ReadFile(o.at("/var/lib/quantumd/takeover/takeover.json"))
		if err != nil || json.Unmarshal(b, &state) != nil {
			return false
		}
		at = state.Step
		return place(at) >= place(step)
	}, time.Minute, time.Millisecond)
	_ = cmd.Process.Signal(syscall.SIGKILL) // it may have ended
	_ = cmd.Wait()
	return at
}
