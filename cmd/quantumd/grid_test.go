package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend/grid/gridtest"
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
total_storage_size: 30G
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
	require.Contains(t, out, "9 backends to rent")
	u.alive(0)
	require.Contains(t, u.q(2, "deploy", "-c", u.conf, "--dir", first), "--yes")
	u.alive(0)

	u.g.Node(3, func(n *gridtest.Node) { n.Refuses = "no more free devices found" })
	u.g.Node(8, func(n *gridtest.Node) { n.Fails = "could not start the container" })
	out = u.q(0, "deploy", "-c", u.conf, "--dir", first, "--yes")
	require.Contains(t, out, "9 backends are up")
	u.alive(9)
	made := u.g.Counts().Created
	out = u.q(0, "deploy", "-c", u.conf, "--dir", first, "--yes")
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

// status of a system below a folder.
func (u *onGrid) status(dir string) (st struct {
	State    string
	Backends []struct{ ID, State, Address string }
}) {
	u.t.Helper()
	out, _ := u.run(u.t.Context(), "status", "--json", "--dir", dir)
	require.NoError(u.t, json.Unmarshal([]byte(out), &st), out)
	return st
}
