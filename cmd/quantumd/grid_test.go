//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/backend/grid/gridtest"
	"github.com/threefoldtech/quantumd/services/zinit"
)

// onGrid is a user with an account on a private grid.
type onGrid struct {
	t    *testing.T
	g    *gridtest.Grid
	dir  string
	conf string
}

func newOnGrid(t *testing.T, more string) *onGrid {
	t.Helper()
	u := &onGrid{t: t, g: gridtest.New(t), dir: t.TempDir()}
	u.conf = filepath.Join(u.dir, "config.yaml")
	require.NoError(t, os.WriteFile(u.conf, []byte(fmt.Sprintf(`deployment_name: demo
password: secretpassword
proxy_url: %s
zdb_connection_type: any
farms: [1, 2, 3, 4, 5]
total_storage_size: 6G
min_shards: 3
expected_shards: 5
%s`, u.g.URL(), more)), 0o600))
	t.Cleanup(func() { clear(u.dir) })
	return u
}

// q runs quantumd with the mnemonic and the network in the environment.
func (u *onGrid) q(code int, args ...string) string {
	u.t.Helper()
	out, got := u.run(u.t.Context(), args...)
	require.Equal(u.t, code, got, "quantumd %v: %s", args, out)
	require.NotContains(u.t, out, "abandon")
	require.NotContains(u.t, out, "secretpassword")
	return out
}

func (u *onGrid) run(ctx context.Context, args ...string) (string, int) {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(u.t), args...)
	cmd.Env = append(os.Environ(), "MNEMONIC="+gridtest.Mnemonic.Reveal(), "NETWORK=dev")
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		require.NoError(u.t, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func (u *onGrid) alive(n int) {
	u.t.Helper()
	require.Equal(u.t, n, u.g.Counts().Alive)
}

// The whole life on the grid, as the README has it: planned, rented with nodes that
// fail, written to, lost, restored from the mnemonic and the name, destroyed.
func TestGridLife(t *testing.T) {
	t.Parallel()
	u := newOnGrid(t, "")
	first := filepath.Join(u.dir, "first")
	out := u.q(0, "deploy", "-c", u.conf, "--dir", first, "--dry-run")
	t.Log(out)
	for _, want := range []string{"9 backends to rent", "USD a month", "1000.0 TFT", "a replacement of one costs", "nines", "may be lost"} {
		require.Contains(t, out, want)
	}
	u.alive(0)
	require.Contains(t, u.q(2, "deploy", "-c", u.conf, "--dir", first), "--yes")
	u.alive(0)

	u.g.Node(3, func(n *gridtest.Node) { n.Refuses = "no more free devices found" })
	u.g.Node(8, func(n *gridtest.Node) { n.Fails = "could not start the container" })
	out = u.q(0, "deploy", "-c", u.conf, "--dir", first, "--yes")
	require.Contains(t, out, "9 backends are up")
	u.alive(9)
	made := u.g.Counts().Created
	u.q(0, "deploy", "-c", u.conf, "--dir", first, "--yes")
	require.Equal(t, made, u.g.Counts().Created, "a second call rents nothing")
	require.Contains(t, u.q(0, "deploy", "-c", u.conf, "--dir", first, "--query"), "9 contracts")

	u.write(first, "a", 3<<20)
	second := filepath.Join(u.dir, "second")
	require.Contains(t, u.q(0, "restore", "-c", u.conf, "--dir", second, "--force"), "data files")
	u.read(second, "a", 3<<20)

	require.Contains(t, u.q(2, "destroy", "-c", u.conf, "--dir", second, "--yes"), "--name demo")
	u.alive(9)
	require.Contains(t, u.q(0, "destroy", "-c", u.conf, "--dir", second, "--yes", "--name", "demo", "--force"), "9 contracts cancelled")
	u.alive(0)
}

// write has a system below a folder store a file, and ends it.
func (u *onGrid) write(dir, name string, size int) {
	u.t.Helper()
	u.up(dir, func(mount string) {
		require.NoError(u.t, os.WriteFile(filepath.Join(mount, name), pattern(size), 0o600))
		u.q(0, "sync", "--dir", dir)
	})
}

func (u *onGrid) read(dir, name string, size int) {
	u.t.Helper()
	u.up(dir, func(mount string) {
		got, err := os.ReadFile(filepath.Join(mount, name))
		require.NoError(u.t, err)
		require.Equal(u.t, pattern(size), got)
	})
}

func pattern(size int) []byte {
	out := make([]byte, size)
	for i := range out {
		out[i] = byte(i * 31 >> 3)
	}
	return out
}

// up runs a system below a folder while do works in its mount.
func (u *onGrid) up(dir string, do func(mount string)) {
	u.t.Helper()
	mount := filepath.Join(dir, "mnt")
	require.NoError(u.t, os.MkdirAll(mount, 0o700))
	cmd := exec.Command(program(u.t), "up", "-c", u.conf, "--dir", dir, "--mount", mount)
	cmd.Env = append(os.Environ(), "MNEMONIC="+gridtest.Mnemonic.Reveal(), "NETWORK=dev")
	log, err := os.Create(filepath.Join(u.dir, "up.log"))
	require.NoError(u.t, err)
	defer log.Close() //nolint:errcheck // the process has its own
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(u.t, cmd.Start())
	u.q(0, "wait", "mount", "--dir", dir)
	do(mount)
	u.q(0, "stop", "--dir", dir)
	require.NoError(u.t, cmd.Wait())
}

// apart has no node hold backends of both roles.
const apart = "meta_nodes: [1, 2, 3, 4, 5, 6, 7, 8]\ndata_nodes: [9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]\n"

// inUse names the nodes that hold a backend of a role.
func (u *onGrid) inUse(role string) (out []uint32) {
	for _, k := range u.g.Alive() {
		if strings.Contains(k.Name, "_"+role+"_") {
			out = append(out, k.Node)
		}
	}
	return out
}

// An outage while deploy runs, or before it runs again, is no reason to rent, nor to
// drop a backend from the configuration.
func TestGridOutage(t *testing.T) {
	t.Parallel()
	u := newOnGrid(t, apart)
	dir := filepath.Join(u.dir, "q")
	u.q(0, "deploy", "-c", u.conf, "--dir", dir, "--yes")
	u.write(dir, "a", 1<<20)
	before, err := os.ReadFile(filepath.Join(dir, "config.yaml"))
	require.NoError(t, err)
	made := u.g.Counts().Created
	down := u.inUse("data")[:3]
	u.g.Stop(down...)
	for _, state := range []string{"known", "lost"} {
		if state == "lost" { // as on a new machine
			require.NoError(t, os.Remove(filepath.Join(dir, "state", "grid.db")))
		}
		out := u.q(1, "deploy", "-c", u.conf, "--dir", dir, "--yes")
		require.Contains(t, out, "3 of 9 backends are not up")
		require.Equal(t, made, u.g.Counts().Created, state)
		u.alive(9)
		after, err := os.ReadFile(filepath.Join(dir, "config.yaml"))
		require.NoError(t, err)
		require.Equal(t, string(before), string(after))
		require.Contains(t, out, "hint:")
	}
	require.Contains(t, u.q(0, "deploy", "-c", u.conf, "--dir", dir, "--dry-run"), "do not answer: nothing is rented in their place")
	require.NoError(t, u.g.Restart(down...))
	u.q(0, "deploy", "-c", u.conf, "--dir", dir, "--yes")
	require.Equal(t, made, u.g.Counts().Created)
	u.read(dir, "a", 1<<20)

	u.g.Stop(down[0])
	require.NoError(t, os.Remove(filepath.Join(dir, "state", "grid.db")))
	u.q(0, "deploy", "-c", u.conf, "--dir", filepath.Join(u.dir, "new"), "--yes", "--replace-unreachable")
	u.alive(10)
}

// deploy is killed at each call of the chain and of a node: the next one goes on,
// and in the end there are as many contracts as backends.
func TestGridKilled(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"BatchCreateContract", "zos.deployment.deploy", "zos.deployment.changes", "zos.deployment.get"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			u := newOnGrid(t, "")
			dir := filepath.Join(u.dir, "q")
			ctx, kill := context.WithCancel(t.Context())
			defer kill()
			u.g.Watch(func(e gridtest.Event) {
				if e.Call == at {
					kill()
				}
			})
			u.g.Lag(true)
			_, code := u.run(ctx, "deploy", "-c", u.conf, "--dir", dir, "--yes")
			require.NotZero(t, code)
			u.g.Watch(nil)
			u.q(0, "deploy", "-c", u.conf, "--dir", dir, "--yes")
			u.alive(9)
			u.g.Lag(false)
			u.q(0, "deploy", "-c", u.conf, "--dir", dir, "--yes")
			u.alive(9)
			u.write(dir, "a", 1<<20)
		})
	}
}

// A lost backend is replaced by a rented one, and its contract is cancelled once
// nothing names it.
func TestGridReplace(t *testing.T) {
	t.Parallel()
	u := newOnGrid(t, apart)
	dir := filepath.Join(u.dir, "q")
	u.q(0, "deploy", "-c", u.conf, "--dir", dir, "--yes")
	u.up(dir, func(mount string) {
		require.NoError(t, os.WriteFile(filepath.Join(mount, "a"), pattern(3<<20), 0o600))
		u.q(0, "sync", "--dir", dir)
		require.Regexp(t, `data0 .* up .* contract 5\d\d, node \d+, farm \d, \w+, 3 GiB, 0\.\d+ USD a month`, u.q(0, "backends", "ls", "--dir", dir))
		require.Contains(t, u.q(0, "backends", "ls", "--json", "--dir", dir), `"contract": {`)
		u.g.Stop(u.inUse("data")[0], u.inUse("meta")[0])
		out := u.q(0, "replace", "--failed", "--yes", "--dir", dir)
		require.Contains(t, out, "data5")
		require.Contains(t, out, "meta4")
		u.alive(9)
		require.Equal(t, 11, u.g.Counts().Created)
	})
	require.Contains(t, u.q(0, "deploy", "-c", u.conf, "--dir", dir, "--query"), "data5")
	second := filepath.Join(u.dir, "second")
	u.q(0, "restore", "-c", u.conf, "--dir", second, "--force")
	u.read(second, "a", 3<<20)
	require.Contains(t, u.q(0, "destroy", "-c", u.conf, "--dir", second, "--retired", "--dry-run"), "no such backends")
	u.alive(9)
}

// The README's two commands, with mnemonic and network in the environment: an
// installed system, whose daemon rents another backend when it is told to, and that
// comes back on a new machine from the mnemonic, the password and the name alone.
func TestGridInstalled(t *testing.T) {
	t.Parallel()
	needsRootAndFUSE(t)
	u := newOnGrid(t, apart) // the surroundings of tests want one of two shards
	dir := folder(t)
	machine := func(name string) (*user, string) {
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o755))
		m := newUser(t, filepath.Join(dir, name))
		root := filepath.Join(dir, name, "root")
		m.args = []string{"--root", root}
		doubleZinit(t, zinit.JSONRPC, root, slices.Clone(m.env)) // its services get what setup wrote, and nothing else
		m.env = append(m.env, "MNEMONIC="+gridtest.Mnemonic.Reveal(), "NETWORK=dev")
		return m, root
	}
	m, root := machine("first")
	require.Contains(t, m.run(0, "deploy", "--config", u.conf, "--yes"), "6 backends are up")
	require.Contains(t, m.run(0, "setup"), "mounted on "+filepath.Join(root, "mnt/qsfs"))
	file := filepath.Join(root, "mnt/qsfs/a")
	require.NoError(t, os.WriteFile(file, pattern(2<<20), 0o600))
	require.Contains(t, m.run(0, "sync"), "safe: checkpoint")

	m.env = slices.DeleteFunc(m.env, func(e string) bool { return strings.HasPrefix(e, "MNEMONIC=") }) // the service has it
	require.Contains(t, m.run(0, "backends", "ls"), "USD a month")
	u.g.Stop(u.inUse("data")[1])
	require.Contains(t, m.run(0, "replace", "--failed", "--yes"), "data2")
	require.NotContains(t, m.run(0, "setup"), "update")
	u.alive(6)
	require.Equal(t, []string{filepath.Join(root, "var/lib/quantumd/secrets/mnemonic")}, holding(t, root, "abandon"))

	second, root2 := machine("second")
	m.run(0, "stop", "--timeout", "20s")
	out := second.run(0, "restore", "-c", u.conf)
	require.Contains(t, out, "mounted on "+filepath.Join(root2, "mnt/qsfs"))
	got, err := os.ReadFile(filepath.Join(root2, "mnt/qsfs/a"))
	require.NoError(t, err)
	require.Equal(t, pattern(2<<20), got)
	second.run(0, "uninstall", "--yes")
	m.run(0, "uninstall", "--yes")
	require.Contains(t, second.run(0, "destroy", "--yes", "--name", "demo"), "6 contracts cancelled")
	u.alive(0)
}

// holding lists the files below a folder that hold a word.
func holding(t *testing.T, root, word string) (out []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == filepath.Join(root, "mnt/qsfs") {
			return fs.SkipDir
		}
		if !e.Type().IsRegular() || strings.HasPrefix(e.Name(), "quantumd") && filepath.Base(filepath.Dir(path)) == "bin" {
			return nil // the test's own program knows the word
		}
		text, err := os.ReadFile(path)
		if bytes.Contains(text, []byte(word)) {
			out = append(out, path)
			st, err := e.Info()
			require.NoError(t, err)
			require.Equal(t, fs.FileMode(0o600), st.Mode().Perm(), path)
		}
		return err
	}))
	return out
}

// A deployment that the reference made is used as it is.
func TestGridReferencesDeployment(t *testing.T) {
	t.Parallel()
	u := newOnGrid(t, "")
	c, err := gridtest.Dial(t.Context(), u.g.URL())
	require.NoError(t, err)
	defer c.Close() //nolint:errcheck // only the test's
	var list []grid.Request
	for n := range uint32(8) { // it was killed before the last one
		role := backend.Meta
		if n >= 4 {
			role = backend.Data
		}
		name := fmt.Sprintf("demo_%d_%s_%d", gridtest.Twin, role, n+1)
		list = append(list, grid.Request{Name: name, Project: "vm/" + name, Node: n + 1, Role: role, Size: 3 * grid.GiB, Password: "secretpassword"})
	}
	for _, one := range list {
		made, err := c.Deploy(t.Context(), []grid.Request{one})
		require.NoError(t, err)
		require.NotZero(t, made[0].Contract)
	}
	dir := filepath.Join(u.dir, "q")
	require.Contains(t, u.q(0, "deploy", "-c", u.conf, "--dir", dir, "--dry-run"), "1 backends to rent")
	u.q(0, "deploy", "-c", u.conf, "--dir", dir, "--yes")
	u.alive(9)
	u.write(dir, "a", 1<<20)
	second := filepath.Join(u.dir, "second")
	u.q(0, "restore", "-c", u.conf, "--dir", second, "--force")
	u.read(second, "a", 1<<20)
	u.q(0, "destroy", "-c", u.conf, "--dir", second, "--yes", "--name", "demo", "--force")
	u.alive(0)
}

// A machine without mycelium is told so before anything is rented.
func TestGridWithoutMycelium(t *testing.T) {
	t.Parallel()
	var local *grid.LocalError
	if err := grid.CheckLocal(grid.Mycelium); !errors.As(err, &local) {
		t.Skip("this machine has mycelium")
	}
	u := newOnGrid(t, "")
	text, err := os.ReadFile(u.conf)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(u.conf, bytes.Replace(text, []byte("zdb_connection_type: any\n"), nil, 1), 0o600))
	dir := filepath.Join(u.dir, "q")
	require.Contains(t, u.q(0, "deploy", "-c", u.conf, "--dir", dir, "--dry-run"), "warning: grid: this machine has no mycelium")
	out := u.q(1, "deploy", "-c", u.conf, "--dir", dir, "--yes")
	require.Contains(t, out, "ip -6 addr")
	require.Zero(t, u.g.Counts().Created)
}

// The SDK panics where the chain does not tell the ids of what it made: that ends the
// SDK's process and nothing else, and what was made is found and used.
func TestGridSDKPanics(t *testing.T) {
	t.Parallel()
	for at := range 3 {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			t.Parallel()
			u := newOnGrid(t, "")
			dir := filepath.Join(u.dir, "q")
			u.g.LoseIDs(at)
			u.g.Lag(true)
			if out, code := u.run(t.Context(), "deploy", "-c", u.conf, "--dir", dir, "--yes"); code != 0 {
				require.NotContains(t, out, "goroutine ", "a panic is nothing for people")
				u.q(0, "deploy", "-c", u.conf, "--dir", dir, "--yes")
			}
			u.alive(9)
			u.write(dir, "a", 1<<20)
		})
	}
}
