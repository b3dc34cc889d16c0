//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/engine/zstor/seal"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/services"
	"github.com/threefoldtech/quantumd/services/zinit"
)

// TestTakeover has an older installation work on a machine: its services, its
// configuration, files in its file system of which some are on the backends only.
// It is taken over, every byte is there; brought back, and taken over again. Own
// has this program under the names of the older ones.
func TestTakeover(t *testing.T) {
	t.Parallel()
	for _, v := range []struct {
		name string
		real bool
		g    zinit.Generation
	}{{"Own", false, zinit.LineProtocol}, {"Real", true, zinit.JSONRPC}} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			needsRootAndFUSE(t)
			dir := folder(t)
			u := newUser(t, dir)
			s := &takeoverStory{user: u, dir: dir, root: filepath.Join(dir, "root"), files: map[string][]byte{}, rng: rand.NewChaCha8([32]byte{7})}
			for _, name := range []string{"zdb", "zstor", "zdbfs"} {
				from := program(t)
				if v.real {
					if from = os.Getenv(strings.ToUpper(name) + "_BIN"); from == "" {
						t.Skip(strings.ToUpper(name) + "_BIN names no real program")
					}
				}
				s.put(name, from)
			}
			s.older()
			doubleZinit(t, v.g, s.root, u.env) // it ends with the test
			t.Cleanup(func() {
				if !t.Failed() {
					return
				}
				m := zinit.New(zinit.Options{Root: s.root})
				for _, name := range []string{"zstor", "quantumd", "zdb", "zdbfs"} {
					st, err := m.Status(context.Background(), name)
					t.Log(st, err)
					var log bytes.Buffer
					_ = m.Logs(context.Background(), name, services.LogOptions{Lines: 20}, &log) // best effort
					t.Log(log.String())
				}
			})
			s.story()
		})
	}
}

type takeoverStory struct {
	*user
	dir, root string
	mnt       string
	files     map[string][]byte
	rng       *rand.ChaCha8
}

func (s *takeoverStory) at(path string) string { return filepath.Join(s.root, path) }

// put installs a program of before. Not written by this process: see newUser.
func (s *takeoverStory) put(name, from string) {
	s.t.Helper()
	require.NoError(s.t, os.MkdirAll(s.at("usr/local/bin"), 0o755))
	out, err := exec.Command("cp", from, s.at("usr/local/bin/"+name)).CombinedOutput()
	require.NoError(s.t, err, "%s", out)
}

func (s *takeoverStory) text(path, text string, mode os.FileMode) {
	s.t.Helper()
	require.NoError(s.t, os.MkdirAll(filepath.Dir(s.at(path)), 0o755))
	require.NoError(s.t, os.WriteFile(s.at(path), []byte(strings.ReplaceAll(text, "ROOT", s.root)), mode))
}

// older lays an installation out as a quantumd of 2025 did, on backends that are
// nobody's services.
func (s *takeoverStory) older() {
	t := s.t
	s.mnt = s.at("mnt/qsfs")
	s.run(0, "deploy", "--local", "--dir", filepath.Join(s.dir, "b"))
	conf, err := config.Load(filepath.Join(s.dir, "b/config.yaml"))
	require.NoError(t, err)
	list, err := conf.BackendList()
	require.NoError(t, err)
	key, err := seal.ParseKey(conf.EncryptionKey.Reveal())
	require.NoError(t, err)
	z := zstor.FileConfig{Config: zstor.Config{MinimalShards: 1, ExpectedShards: 2, Prefix: "older-meta", Key: key}, Daemon: zstor.DaemonConfig{Socket: s.at("run/zstor.sock")}}
	for _, b := range list {
		if b.Role == backend.Meta {
			z.Meta = append(z.Meta, b)
		} else {
			z.Data = append(z.Data, b)
		}
	}
	toml, err := zstor.MarshalTOML(z)
	require.NoError(t, err)
	s.text("etc/zstor.toml", string(toml), 0o644) // as it was: all could read the key
	s.text("etc/quantumd.yaml", "network: main\ndeployment_name: backup\nretry_interval: 10m\nzdb_root_path: /opt/zdb\nqsfs_mountpoint: /mnt/qsfs\nprometheus_port: 9092\nsomething: old\n", 0o644)
	s.text("usr/local/bin/quantumd", "#!/bin/sh\nexec sleep 600\n", 0o755)
	s.text("usr/local/bin/quantumd-hook", "#!/bin/sh\nexit 0\n", 0o755)
	for _, dir := range []string{"opt/zdb/data", "opt/zdb/index", "mnt/qsfs", "run"} {
		require.NoError(t, os.MkdirAll(s.at(dir), 0o755))
	}
	s.text("etc/zinit/zstor.yaml", "exec: ROOT/usr/local/bin/zstor --log_file ROOT/run/zstor.log -c ROOT/etc/zstor.toml monitor\nshutdown_timeout: 300\n", 0o644)
	s.text("etc/zinit/quantumd.yaml", "exec: ROOT/usr/local/bin/quantumd daemon\nafter:\n  - zstor\n", 0o644)
	s.text("etc/zinit/zdb.yaml", "exec: |\n  ROOT/usr/local/bin/zdb \\\n    --index ROOT/opt/zdb/index \\\n    --data ROOT/opt/zdb/data \\\n    --datasize 1048576 \\\n"+
		"    --mode seq \\\n    --socket ROOT/run/zdb.sock \\\n    --hook ROOT/usr/local/bin/quantumd-hook\ntest: test -S ROOT/run/zdb.sock\nshutdown_timeout: 60\nafter:\n  - zstor\n  - quantumd\n", 0o644)
	s.text("etc/zinit/zdbfs.yaml", "exec: ROOT/usr/local/bin/zdbfs -o autons -o unix=ROOT/run/zdb.sock -o size=10737418240 ROOT/mnt/qsfs\nafter:\n  - zdb\n", 0o644)
	s.args = []string{"--root", s.root}
}

func (s *takeoverStory) write(name string, size int) {
	s.t.Helper()
	data := make([]byte, size)
	_, _ = s.rng.Read(data) // it does not fail
	path := filepath.Join(s.mnt, name)
	require.NoError(s.t, os.MkdirAll(filepath.Dir(path), 0o755))
	f, err := os.Create(path)
	require.NoError(s.t, err)
	_, err = f.Write(data)
	require.NoError(s.t, errors.Join(err, f.Sync(), f.Close()))
	s.files[name] = data
}

func (s *takeoverStory) same() {
	s.t.Helper()
	for name, want := range s.files {
		got, err := os.ReadFile(filepath.Join(s.mnt, name))
		require.NoError(s.t, err, name)
		require.True(s.t, bytes.Equal(want, got), name)
	}
}

// olderServes waits until the older file system is mounted.
func (s *takeoverStory) olderServes() {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return mountpoint(s.mnt) }, 30*time.Second, 20*time.Millisecond)
	require.FileExists(s.t, s.at("etc/zinit/zdbfs.yaml"))
	require.Contains(s.t, read(s.t, s.at("etc/quantumd.yaml")), "something: old")
	require.Equal(s.t, "#!/bin/sh\nexec sleep 600\n", read(s.t, s.at("usr/local/bin/quantumd")))
}

// upload stores what is closed, as the retry cycle of an earlier quantumd did, and
// has the first data file dropped from the disk, as zstor did for room.
func (s *takeoverStory) upload() {
	t := s.t
	store := func(path string) {
		cmd := exec.Command(s.at("usr/local/bin/zstor"), "--log_file", s.at("run/store.log"), "-c", s.at("etc/zstor.toml"), "store", "-e", "-f", path)
		cmd.Env = s.env
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	files, err := filepath.Glob(s.at("opt/zdb/data/zdbfs-data/d*"))
	require.NoError(t, err)
	require.Greater(t, len(files), 3)
	slices.SortFunc(files, func(a, b string) int { return len(a)*1000 - len(b)*1000 + strings.Compare(a, b) })
	for _, f := range files[:len(files)-1] {
		store(f)
	}
	require.NoError(t, os.Remove(files[0]))
}

func (s *takeoverStory) story() {
	t := s.t
	s.olderServes()
	s.write("big", 5<<20)
	s.write("folder/small", 100)
	for i := range 20 {
		s.write(fmt.Sprintf("folder/many/%d", i), 5000+i)
	}
	syscall.Sync()
	s.same()
	s.upload()

	// What would be done is shown, without a secret; nothing is done unasked.
	out := s.run(0, "upgrade", "--dry-run")
	for _, want := range []string{"an installation of an earlier quantumd", "its data stays in " + s.at("opt/zdb"), "something is left out", "metadata_prefix: older-meta", "nothing was changed"} {
		require.Contains(t, out, want)
	}
	toml := read(t, s.at("etc/zstor.toml"))
	_, rest, _ := strings.Cut(toml, "key = '")
	require.Len(t, strings.SplitN(rest, "'", 2)[0], 64)
	require.NotContains(t, out, strings.SplitN(rest, "'", 2)[0])
	s.run(0, "setup", "--dry-run", "--json")
	require.Contains(t, s.run(2, "setup"), "give --yes")
	require.NoDirExists(t, s.at("var/lib/quantumd"))
	s.olderServes()

	// There.
	out = s.run(0, "upgrade", "--yes")
	require.Contains(t, out, "mounted on "+s.mnt)
	require.Regexp(t, `[0-9]+ are on the backends \(1 of them only there\)`, out)
	s.newServes()
	s.same()
	s.run(0, "sync")
	s.write("by the new one", 3<<20)
	s.run(0, "sync")
	s.run(0, "evict")
	s.same()
	require.NotContains(t, s.run(0, "setup"), "update", "it is a system like any other")

	// Back: the older programs read what they wrote, and what came after.
	require.Contains(t, s.run(0, "upgrade", "--undo-takeover", "--dry-run"), "bring back zstor, quantumd, zdb, zdbfs")
	require.Contains(t, s.run(0, "upgrade", "--undo-takeover", "--yes"), "the older services run again")
	s.olderServes()
	s.same()
	s.write("by the older one", 2<<20)
	syscall.Sync()

	// And there again.
	require.Contains(t, s.run(0, "setup", "--yes"), "mounted on "+s.mnt)
	s.newServes()
	s.same()
	s.run(0, "sync")
	s.run(0, "check")
	s.run(0, "uninstall", "--yes")
	require.Empty(t, processes(s.root))
}

func (s *takeoverStory) newServes() {
	t := s.t
	t.Helper()
	list := s.services()
	require.Len(t, list, 1)
	require.Equal(t, services.Active, list["quantumd"].State)
	entries, err := os.ReadDir(s.at("etc/zinit"))
	require.NoError(t, err)
	require.Len(t, entries, 1, "the older services are gone")
	st, err := os.Stat(s.at("etc/quantumd.yaml"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode(), "there is a key in it")
	require.Equal(t, "ok", s.status().State)
	running := processes(s.root)
	for _, pid := range running {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		require.NotContains(t, string(line), s.at("opt/zdb"), "nothing else works on these files")
	}
}
