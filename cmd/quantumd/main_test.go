//go:build linux

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend/grid/gridtest"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdbfs/mount"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// TestMain lets the test's own binary be the program, under each of its names.
func TestMain(m *testing.M) {
	if byName(filepath.Base(os.Args[0])) != nil {
		main()
	}
	_ = flag.Set("test.parallel", "6") // they wait more than they compute; a flag given wins
	gridSDK = gridtest.Open            // proxy_url names one
	testscript.Main(m, map[string]func(){"quantumd": mainOrBroken})
}

// brokenMark ends the file of a program that fails as a daemon.
const brokenMark = "a version whose daemon does not start"

func mainOrBroken() {
	if len(os.Args) > 1 && os.Args[1] == "daemon" && isBroken() {
		fmt.Fprintln(os.Stderr, "broken, as the test wants it")
		os.Exit(1)
	}
	main()
}

func isBroken() bool {
	self, err := os.Executable()
	if err != nil {
		return false
	}
	f, err := os.Open(self)
	if err != nil {
		return false
	}
	defer f.Close() //nolint:errcheck // read only
	end := make([]byte, len(brokenMark))
	st, err := f.Stat()
	if err != nil {
		return false
	}
	_, err = f.ReadAt(end, st.Size()-int64(len(end)))
	return err == nil && string(end) == brokenMark
}

// TestScripts runs testdata/script: what the command line does, and above all
// what it does when it is used in a wrong way.
func TestScripts(t *testing.T) {
	t.Parallel()
	example, err := filepath.Abs("../../config.example.yaml")
	require.NoError(t, err)
	testscript.Run(t, testscript.Params{
		Dir:         "testdata/script",
		WorkdirRoot: folder(t),
		Setup: func(e *testscript.Env) error {
			e.Vars = append(e.Vars, surroundings()...)
			e.Vars = append(e.Vars, "EXAMPLE="+example, "PROGRAM="+program(t))
			e.Defer(func() { clear(e.WorkDir) })
			return os.Chmod(e.WorkDir, 0o755)
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "fuse":
				return mount.Probe(t.Context()) == nil, nil
			case "root":
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("no condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "schema": schema, "snap": snap, "unchanged": unchanged, "occupy": occupy, "address": address, "killed": killed, "until": until, "zstorconfig": zstorconfig,
		},
	})
}

// surroundings are the environment of every run here: no metrics port, small
// sets of backends, and nothing of the machine's own.
func surroundings() []string {
	return []string{"GORACE=atexit_sleep_ms=0", // else each program sleeps a second before it ends
		`QUANTUMD_METRICS={listen: "off"}`, "QUANTUMD_MIN_SHARDS=1", "QUANTUMD_EXPECTED_SHARDS=2", "QUANTUMD_CONFIG="}
}

// folder is a temporary folder with a short path, for sockets, which others
// may look into.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "qd")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() {
		clear(dir)
		require.NoError(t, os.RemoveAll(dir))
	})
	return dir
}

// program is the quantumd that the scripts run.
func program(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("quantumd")
	require.NoError(t, err)
	return path
}

// clear ends what still runs with files below a folder, and its mounts.
// Backends are meant to outlive the command that made them.
func clear(dir string) {
	for _, pid := range processes(dir) {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
	}
	text, _ := os.ReadFile("/proc/self/mountinfo")
	for _, line := range strings.Split(string(text), "\n") {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			_ = syscall.Unmount(f[4], syscall.MNT_DETACH)
		}
	}
}

// processes lists the quantumds that were given a path below a folder.
func processes(dir string) []int {
	var out []int
	dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range dirs {
		text, _ := os.ReadFile(path)
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil || pid == os.Getpid() || !bytes.Contains(text, []byte(dir+"/")) {
			continue
		}
		name, _, _ := strings.Cut(string(text), "\x00")
		switch filepath.Base(name) {
		case "quantumd", "zdb", "zstor", "zdbfs": // and those that it runs
			out = append(out, pid)
		}
	}
	return out
}

// exits CODE COMMAND ARG… runs a command and wants that exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARG...")
	}
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	code := 0
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// schema FILE wants one JSON document with "schema": 1, and no null in it.
func schema(ts *testscript.TestScript, neg bool, args []string) {
	var doc map[string]any
	text := ts.ReadFile(args[0])
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		ts.Fatalf("%s: %v\n%s", args[0], err, text)
	}
	if doc["schema"] != 1.0 {
		ts.Fatalf("schema is %v", doc["schema"])
	}
	for k, v := range doc {
		if v == nil {
			ts.Fatalf("%s is null", k)
		}
	}
}

// snap NAME DIR… remembers what is below folders.
func snap(ts *testscript.TestScript, neg bool, args []string) {
	ts.Setenv("SNAP_"+args[0], picture(ts, args[1:]))
}

// unchanged NAME DIR… wants the same again.
func unchanged(ts *testscript.TestScript, neg bool, args []string) {
	was, is := ts.Getenv("SNAP_"+args[0]), picture(ts, args[1:])
	if was != is {
		ts.Fatalf("changed, from\n%s\nto\n%s", was, is)
	}
}

func picture(ts *testscript.TestScript, dirs []string) string {
	var b strings.Builder
	for _, dir := range dirs {
		ts.Check(filepath.WalkDir(ts.MkAbs(dir), func(path string, d os.DirEntry, err error) error {
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			st, err := d.Info()
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "%s %v", path, st.Mode())
			if st.Mode().IsRegular() {
				text, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				fmt.Fprintf(&b, " %x", sum(text))
			}
			fmt.Fprintln(&b)
			return nil
		}))
	}
	return b.String()
}

// occupy FILE listens on the port of a local backend, described by FILE.
func occupy(ts *testscript.TestScript, neg bool, args []string) {
	l, err := net.Listen("tcp", addressIn(ts, args[0]))
	ts.Check(err)
	ts.Defer(func() { _ = l.Close() })
}

// address NAME FILE sets a variable to the address of a local backend.
func address(ts *testscript.TestScript, neg bool, args []string) {
	ts.Setenv(args[0], addressIn(ts, args[1]))
}

func addressIn(ts *testscript.TestScript, file string) string {
	var d struct{ Address string }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(file)), &d))
	return d.Address
}

// killed FILE kills the process whose id is the first word of FILE, and waits
// for its end.
func killed(ts *testscript.TestScript, neg bool, args []string) {
	f := strings.Fields(ts.ReadFile(args[0]))
	pid, err := strconv.Atoi(f[0])
	ts.Check(err)
	ts.Check(syscall.Kill(pid, syscall.SIGKILL))
	for end := time.Now().Add(10 * time.Second); alive(pid); {
		if time.Now().After(end) {
			ts.Fatalf("%d lives on", pid)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// alive is false once nothing of a process is left but its exit code: threads
// of a killed process, and with them its locks and ports, may outlive its first
// one for a moment.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	return err == nil && (f[0] != "Z" || len(threads) > 1)
}

// until COMMAND ARG… runs a command again and again until it ends with 0.
func until(ts *testscript.TestScript, neg bool, args []string) {
	for end := time.Now().Add(20 * time.Second); ; <-time.After(20 * time.Millisecond) {
		err := ts.Exec(args[0], args[1:]...)
		if (err == nil) != neg {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("not within 20 s: %v", err)
		}
	}
}

func sum(text []byte) [32]byte { return sha256.Sum256(text) }

// zstorconfig FILE OUT writes zstor's config for the backends that a
// configuration lists.
func zstorconfig(ts *testscript.TestScript, neg bool, args []string) {
	cfg, err := config.Load(ts.MkAbs(args[0]))
	ts.Check(err)
	list, err := cfg.BackendList()
	ts.Check(err)
	key, err := cfg.Key()
	ts.Check(err)
	c := zstor.FileConfig{Config: zstor.Config{MinimalShards: cfg.MinShards, ExpectedShards: cfg.ExpectedShards, Prefix: cfg.Prefix()}}
	copy(c.Key[:], key)
	for _, b := range list {
		if b.Role == backend.Meta {
			c.Meta = append(c.Meta, b)
		} else {
			c.Data = append(c.Data, b)
		}
	}
	text, err := zstor.MarshalTOML(c)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), text, 0o600))
}
