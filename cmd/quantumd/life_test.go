//go:build linux

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// TestLifeBelowFolders is a whole life of a file system without anything
// installed: made, used by ordinary programs, ended, begun again, lost with its
// machine, brought to another, destroyed.
func TestLifeBelowFolders(t *testing.T) {
	t.Parallel()
	needsFUSE(t)
	dir := folder(t)
	u := newUser(t, dir)
	u.env = append(u.env, "QUANTUMD_MIN_SHARDS=", "QUANTUMD_EXPECTED_SHARDS=") // 3 of 5
	b, f1, f2 := filepath.Join(dir, "b"), filepath.Join(dir, "f1"), filepath.Join(dir, "f2")
	m1, m2 := filepath.Join(dir, "m1"), filepath.Join(dir, "m2")
	conf := filepath.Join(b, "config.yaml")
	up := func(f, m string) func(os.Signal) int {
		stop := u.begin("up", "-c", conf, "--dir", f, "--mount", m, "--lease", "1s")
		u.run(0, "wait", "mount", "--dir", f, "--timeout", "30s")
		return stop
	}

	require.Contains(t, u.run(0, "deploy", "--local", "--dir", b), "9 backends are up; any 3 of 5")
	stop := up(f1, m1)
	used := usePrograms(t, m1)
	tree := picturesOf(t, m1)
	require.Greater(t, len(tree), 50)

	// Ctrl-C ends it clean, and the next start shows the same.
	require.Zero(t, stop(os.Interrupt))
	require.Empty(t, picturesOf(t, m1))
	stop = up(f1, m1)
	require.Equal(t, tree, picturesOf(t, m1))
	write(t, filepath.Join(m1, "late"), "after the second start")
	u.run(0, "sync", "--dir", f1)
	require.Equal(t, "safe", attribute(t, filepath.Join(m1, "late"), "user.qsfs.safe"))
	tree = picturesOf(t, m1)

	// The machine is lost.
	stop(os.Kill)
	require.NoError(t, syscall.Unmount(m1, syscall.MNT_DETACH))
	require.NoError(t, os.RemoveAll(f1))
	require.Contains(t, u.run(1, "up", "-c", conf, "--dir", f2, "--no-mount"), "run `quantumd restore` first")
	require.NoError(t, os.RemoveAll(f2))
	require.Eventually(t, func() bool { // it was alive a moment ago
		return u.command(t.Context(), "restore", "-c", conf, "--dir", f2, "--lease", "1s").Run() == nil
	}, 20*time.Second, 200*time.Millisecond)
	stop = up(f2, m2)
	require.Equal(t, tree, picturesOf(t, m2))
	used.check(t, m2)
	write(t, filepath.Join(m2, "new"), "on the second machine")

	u.run(0, "stop", "--dir", f2)
	require.Zero(t, stop(os.Interrupt))
	u.run(0, "destroy", "--local", "--dir", b, "--yes")
	require.Empty(t, processes(dir))
}

// used says which programs were used, and have something to be looked at.
type used struct{ git, sqlite bool }

// usePrograms has ordinary programs write to a mount. Parts whose program is
// missing are left out, and named.
func usePrograms(t *testing.T, m string) used {
	t.Helper()
	root, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	require.NoError(t, err)
	source := filepath.Join(strings.TrimSpace(string(root)), "src", "encoding")
	var u used
	parts := []struct {
		name string
		do   func()
	}{
		{"cp", func() {
			shell(t, m, "cp -a '"+source+"' copied && diff -r '"+source+"' copied")
			shell(t, m, "ln copied/json/decode.go hard 2>/dev/null || ln $(find copied -type f | head -1) hard; ln -s hard soft; chmod 640 hard; touch -d 2001-02-03T04:05:06Z hard")
		}},
		{"tar", func() {
			shell(t, m, "mkdir untarred && tar -C copied -cf t.tar . && tar -C untarred -xf t.tar && diff -r copied untarred")
		}},
		{"git", func() {
			u.git = true
			origin := t.TempDir()
			shell(t, origin, "git init -q . && cp -r '"+source+"' files && git add . && git -c user.name=n -c user.email=e@example.org commit -q -m first")
			shell(t, m, "git clone -q --no-hardlinks 'file://"+origin+"' clone && git -C clone gc -q && git -C clone checkout -q -b side && echo x > clone/x && git -C clone add x && git -C clone -c user.name=n -c user.email=e@example.org commit -q -m second")
		}},
		{"sqlite3", func() {
			u.sqlite = true
			shell(t, m, `sqlite3 db "pragma journal_mode=wal; create table t(i integer primary key, s text); with recursive n(i) as (select 1 union all select i+1 from n where i<5000) insert into t select i, hex(randomblob(50)) from n; update t set s='changed' where i%7=0;"`)
			shell(t, m, `sqlite3 db "pragma journal_mode=delete; delete from t where i%2=0; vacuum;"`)
		}},
	}
	for _, p := range parts {
		if _, err := exec.LookPath(p.name); err != nil {
			t.Logf("without %s, which is not installed here", p.name)
			continue
		}
		p.do()
	}
	u.check(t, m)
	return u
}

// check has the programs look at what they have written.
func (u used) check(t *testing.T, m string) {
	t.Helper()
	if u.git {
		shell(t, m, "git -C clone -c safe.directory='*' fsck --full --strict && test -z \"$(git -C clone -c safe.directory='*' status --porcelain)\"")
	}
	if u.sqlite {
		require.Equal(t, "ok\n2500|357\n", shell(t, m, `sqlite3 db "pragma integrity_check; select count(*), sum(s='changed') from t;"`))
	}
}

func shell(t *testing.T, dir, script string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-e", "-c", script)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s\n%s", script, out)
	return string(out)
}

// picturesOf describes everything below a folder: kind, mode, times, content.
func picturesOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		sys := st.Sys().(*syscall.Stat_t)
		text := fmt.Sprintf("%v %d:%d links %d %s", st.Mode(), sys.Uid, sys.Gid, sys.Nlink, st.ModTime().UTC().Format(time.RFC3339Nano))
		switch {
		case st.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %d %x", st.Size(), sha256.Sum256(data))
		case st.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " -> " + to
		}
		rel, err := filepath.Rel(dir, path)
		out[rel] = text
		return err
	}))
	return out
}

func attribute(t *testing.T, path, name string) string {
	t.Helper()
	buf := make([]byte, 100)
	n, err := unix.Getxattr(path, name, buf)
	require.NoError(t, err)
	return string(buf[:n])
}

// TestSecretsStaySecret installs a system with known secrets and looks for them
// in everything that is said, logged, given as an argument or kept, but for the
// files that are there for them.
func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	needsRootAndFUSE(t)
	dir := folder(t)
	root := filepath.Join(dir, "root")
	u := newUser(t, dir)
	u.args = []string{"--root", root, "--log-level", "debug"}
	const mnemonic = "legal winner thank year wave sausage worth useful legal winner thank yellow"
	const password = "a-passphrase-that-nobody-guesses"
	plain := u.env
	u.env = append(u.env, "MNEMONIC="+mnemonic, "PASSWORD="+password)

	u.run(0, "deploy", "--local", "--json")
	u.run(0, "deploy", "--local", "--query", "--json")
	u.run(0, "config", "show")
	u.run(0, "config", "show", "--json")
	u.run(0, "setup", "--dry-run", "--json")
	require.Contains(t, u.run(0, "setup"), "which came by the environment, is kept in a file of mode 0600 below")
	secrets := u.secrets(root, mnemonic, password)
	require.Greater(t, len(secrets), 10)
	u.noSecretInArguments(dir, secrets)
	u.env = plain // as after a reboot
	u.run(0, "restart", "--all")
	mnt := filepath.Join(root, "mnt/qsfs")
	write(t, filepath.Join(mnt, "file"), "plain text that the backends must not see")
	for _, args := range [][]string{{"sync"}, {"status", "--json"}, {"backends", "ls", "--json"}, {"queue", "ls"}, {"services", "--json"}, {"logs"}, {"logs", "meta0"}} {
		u.run(0, args...)
	}
	u.run(2, "config", "check", "--set", "retry_interval=5")
	u.run(2, "deploy") // no mnemonic here any more
	u.noSecretInArguments(dir, secrets)
	u.run(0, "stop", "--all")
	u.noSecretInFiles(root, secrets)
	noSecret(t, "what the commands said", []byte(u.said.String()), secrets)
	u.run(0, "uninstall", "--yes")
}

// secrets lists those that were given and those that were made.
func (u *user) secrets(root, mnemonic, password string) []string {
	u.t.Helper()
	cfg := config.Default()
	cfg.Mnemonic, cfg.Password = config.Secret(mnemonic), config.Secret(password)
	key, err := cfg.Key()
	require.NoError(u.t, err)
	out := []string{mnemonic, password, string(key), hex.EncodeToString(key)}
	installed, err := config.Load(filepath.Join(root, "etc/quantumd.yaml"))
	require.NoError(u.t, err)
	for _, b := range installed.Backends {
		out = append(out, b.Password.Reveal())
	}
	require.Len(u.t, installed.Backends, backend.MetaBackends+2)
	files, err := filepath.Glob(filepath.Join(root, "var/lib/quantumd/backends/*/admin"))
	require.NoError(u.t, err)
	for _, f := range files {
		out = append(out, strings.TrimSpace(read(u.t, f)))
	}
	for _, s := range out {
		require.Greater(u.t, len(s), 15)
	}
	return out
}

func noSecret(t *testing.T, where string, text []byte, secrets []string) {
	t.Helper()
	for i, s := range secrets {
		require.False(t, bytes.Contains(text, []byte(s)), "secret %d is in %s", i, where)
	}
}

func (u *user) noSecretInArguments(dir string, secrets []string) {
	u.t.Helper()
	list := processes(dir)
	require.Len(u.t, list, 14) // six backends and the daemon, and their supervisors
	for _, pid := range list {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		require.NoError(u.t, err)
		noSecret(u.t, "arguments", text, secrets)
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		require.NoError(u.t, err)
		noSecret(u.t, "environment of a service", env, secrets)
	}
}

// noSecretInFiles allows secrets only where they are kept, readable by nobody
// else.
func (u *user) noSecretInFiles(root string, secrets []string) {
	u.t.Helper()
	kept := map[string]bool{"quantumd.yaml": true, "backend.json": true, "admin": true, "mnemonic": true, "password": true}
	// Namespace descriptors hold the namespace's password: the zdb's own format.
	kept["zdb-namespace"] = true
	looked := 0
	require.NoError(u.t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(path, filepath.Join(root, "usr")) { // this test's own program
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		if kept[d.Name()] {
			require.Zero(u.t, st.Mode().Perm()&0o077, path)
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		looked++
		noSecret(u.t, path, text, secrets)
		if strings.Contains(path, "/backends/") {
			require.NotContains(u.t, string(text), "plain text that the backends must not see")
		}
		return nil
	}))
	require.Greater(u.t, looked, 30)
}
