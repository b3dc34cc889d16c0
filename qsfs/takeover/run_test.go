//go:build linux

package takeover

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/services"
	"github.com/threefoldtech/quantumd/services/zinit"
	"github.com/threefoldtech/quantumd/services/zinit/zinittest"
)

// older is a machine whose zinit runs an older installation. Its programs only
// sleep: what is under test is what becomes of its services and files.
type older struct {
	*testing.T
	root, socket string
	m            *zinit.Manager
	log          []string
	prepare      error // of asking the backends
}

func newOlder(t *testing.T, g zinit.Generation) *older {
	t.Helper()
	root, err := os.MkdirTemp("", "takeover-") // short: sockets are below it
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(root)) })
	o := &older{T: t, root: root, socket: filepath.Join(root, "zinit.sock")}
	for _, dir := range []string{"bin", "etc/zinit", "usr/local/bin", "opt/zdb/index", "opt/zdb/data", "mnt/qsfs"} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	for name, args := range map[string]string{
		"zstor": "-c ROOT/etc/zstor.toml monitor", "quantumd": "daemon", "zdbfs": "-o autons ROOT/mnt/qsfs",
		"zdb": "--data ROOT/opt/zdb/data --index ROOT/opt/zdb/index --datasize 1M",
	} {
		o.write("bin/"+name, "#!/bin/sh\nexec sleep 600\n", 0o755)
		o.write("etc/zinit/"+name+".yaml", "exec: ROOT/bin/"+name+" "+args+"\n", 0o640)
	}
	o.write("etc/zstor.toml", zstorTOML, 0o600)
	o.write("etc/quantumd.yaml", "retry_interval: 5m\nnetwork: main\n", 0o644)
	o.write("usr/local/bin/quantumd", "an older program", 0o755)
	require.NoError(t, os.Symlink("quantumd", filepath.Join(root, "usr/local/bin/quantumd-hook")))
	zinittest.Start(t, zinittest.Options{Generation: g, Dir: filepath.Join(root, "etc/zinit"), Socket: o.socket, Pause: 50 * time.Millisecond})
	o.m = zinit.New(zinit.Options{Root: root, Socket: o.socket})
	o.olderRuns()
	return o
}

func (o *older) write(path, text string, mode os.FileMode) {
	o.Helper()
	require.NoError(o, os.WriteFile(filepath.Join(o.root, path), []byte(strings.ReplaceAll(text, "ROOT", o.root)), mode))
}

func (o *older) read(path string) string {
	o.Helper()
	text, err := os.ReadFile(filepath.Join(o.root, path))
	require.NoError(o, err)
	return string(text)
}

// olderRuns waits for all older services, as they were.
func (o *older) olderRuns() {
	o.Helper()
	require.Eventually(o, func() bool {
		list, err := o.m.Status(o.Context(), "zstor", "quantumd", "zdb", "zdbfs")
		ready, _ := services.AllActive(list)
		return err == nil && ready
	}, 20*time.Second, 10*time.Millisecond)
	for _, name := range []string{"zstor", "quantumd", "zdb", "zdbfs"} {
		require.Contains(o, o.read("etc/zinit/"+name+".yaml"), "exec: "+o.root+"/bin/"+name)
		st, err := os.Stat(filepath.Join(o.root, "etc/zinit", name+".yaml"))
		require.NoError(o, err)
		require.Equal(o, os.FileMode(0o640), st.Mode())
	}
	require.Contains(o, o.read("etc/quantumd.yaml"), "network: main")
	require.Equal(o, "an older program", o.read("usr/local/bin/quantumd"))
	link, err := os.Readlink(filepath.Join(o.root, "usr/local/bin/quantumd-hook"))
	require.NoError(o, err)
	require.Equal(o, "quantumd", link)
}

// newRuns: only the new service does, and no older file is where one is started.
func (o *older) newRuns() {
	o.Helper()
	entries, err := os.ReadDir(filepath.Join(o.root, "etc/zinit"))
	require.NoError(o, err)
	require.Len(o, entries, 1)
	list, err := o.m.Status(o.Context(), "quantumd", "zdb")
	require.NoError(o, err)
	require.Equal(o, services.Active, list[0].State)
	require.Equal(o, services.Missing, list[1].State)
	require.Contains(o, o.read("etc/quantumd.yaml"), "encryption_key")
	st, err := os.Stat(filepath.Join(o.root, "etc/quantumd.yaml"))
	require.NoError(o, err)
	require.Equal(o, os.FileMode(0o600), st.Mode())
	again, err := Find(o.root, services.Zinit)
	require.NoError(o, err)
	require.Nil(o, again, "nothing is left to be taken over")
}

// run takes over as the program does, which starts one service.
func (o *older) run(ctx context.Context, step func(string) error, fail error) error {
	o.Helper()
	t, err := Find(o.root, services.Zinit)
	require.NoError(o, err)
	require.NotNil(o, t)
	p, err := t.Derive()
	require.NoError(o, err)
	text, err := p.Config.Marshal()
	require.NoError(o, err)
	return t.Run(ctx, Options{
		Manager: o.m, Config: text, Path: filepath.Join(o.root, "etc/quantumd.yaml"), step: step,
		Prepare: func(ctx context.Context) error { return errors.Join(ctx.Err(), o.prepare) },
		Logf:    func(format string, args ...any) { o.log = append(o.log, fmt.Sprintf(format, args...)) },
		Install: func(ctx context.Context) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			require.NoError(o, os.WriteFile(filepath.Join(o.root, "usr/local/bin/quantumd"), []byte("a newer program"), 0o755))
			list := []services.Service{{Name: qsfs.ServiceName, Exec: []string{"/bin/sleep", "600"}, WaitExec: []string{"/bin/true"}}}
			if _, err := o.m.Apply(ctx, list); err != nil {
				return err
			}
			return errors.Join(o.m.Start(ctx, qsfs.ServiceName), o.m.WaitReady(ctx, qsfs.ServiceName), fail)
		},
	})
}

// There and back again, on both generations of zinit.
func TestThereAndBack(t *testing.T) {
	t.Parallel()
	for name, g := range map[string]zinit.Generation{"Line": zinit.LineProtocol, "JSONRPC": zinit.JSONRPC} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOlder(t, g)
			for range 2 {
				require.NoError(t, o.run(t.Context(), nil, nil))
				o.newRuns()
				taken, err := Taken(o.root)
				require.NoError(t, err)
				require.NotNil(t, taken)
				require.NoError(t, taken.Undo(t.Context(), Options{Manager: o.m}))
				o.olderRuns()
				taken, err = Taken(o.root)
				require.NoError(t, err)
				require.Nil(t, taken)
			}
			stops := []string{}
			for _, line := range o.log[:4] {
				stops = append(stops, strings.TrimPrefix(line, "stopping "))
			}
			require.Equal(t, []string{"zdbfs", "zdb", "quantumd", "zstor"}, stops)
		})
	}
}

// Ended at each step, a takeover is completed by the next call; a way back that
// was begun is not turned around by it.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	crash := errors.New("killed")
	for _, at := range []string{stepKeep, stepPrepare, stepStop, stepConfigure, stepInstall, stepRemove} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			o := newOlder(t, zinit.LineProtocol)
			require.ErrorIs(t, o.run(t.Context(), func(s string) error {
				if s == at {
					return crash
				}
				return nil
			}, nil), crash)
			// Killed, it also may be taken back.
			if at == stepInstall {
				taken, err := Taken(o.root)
				require.NoError(t, err)
				require.NoError(t, taken.Undo(t.Context(), Options{Manager: o.m}))
				o.olderRuns()
			}
			require.NoError(t, o.run(t.Context(), nil, nil))
			o.newRuns()
			taken, err := Taken(o.root)
			require.NoError(t, err)
			require.NoError(t, taken.Undo(t.Context(), Options{Manager: o.m}))
			o.olderRuns()
		})
	}
	t.Run("Ctrl-C", func(t *testing.T) {
		t.Parallel()
		o := newOlder(t, zinit.JSONRPC)
		ctx, cancel := context.WithCancel(t.Context())
		err := o.run(ctx, func(s string) error {
			if s == stepInstall {
				cancel()
			}
			return nil
		}, nil)
		require.ErrorIs(t, err, context.Canceled)
		require.NoError(t, o.run(t.Context(), nil, nil))
		o.newRuns()
	})
}

// Backends that are away keep a takeover from beginning, and change nothing; one
// that has stopped something is not forgotten for it.
func TestBackendsAway(t *testing.T) {
	t.Parallel()
	o := newOlder(t, zinit.LineProtocol)
	o.prepare = errors.New("no answer")
	require.ErrorIs(t, o.run(t.Context(), nil, nil), o.prepare)
	o.olderRuns()
	require.NoDirExists(t, filepath.Join(o.root, "var/lib/quantumd/takeover"))

	away, killed := o.prepare, errors.New("killed")
	o.prepare = nil
	require.ErrorIs(t, o.run(t.Context(), func(s string) error { // once something is stopped
		if s == stepConfigure {
			return killed
		}
		return nil
	}, nil), killed)
	began, err := Find(o.root, services.Zinit)
	require.NoError(t, err)
	require.NoError(t, began.save(stepStop), "it was killed a moment before")
	o.prepare = away
	require.ErrorIs(t, o.run(t.Context(), nil, nil), away)
	o.prepare = nil
	require.NoError(t, o.run(t.Context(), nil, nil), "it goes on")
	o.newRuns()
	taken, err := Taken(o.root)
	require.NoError(t, err)
	require.NoError(t, taken.Undo(t.Context(), Options{Manager: o.m}))
	o.olderRuns()
}

// What does not serve is taken back by itself, and can be tried again.
func TestFailedTakeover(t *testing.T) {
	t.Parallel()
	o := newOlder(t, zinit.JSONRPC)
	require.ErrorContains(t, o.run(t.Context(), nil, errors.New("it does not serve")), "it does not serve")
	o.olderRuns()
	require.Contains(t, strings.Join(o.log, "\n"), "the older services run again")
	// A file system that shows something else counts as not served: the new one
	// mounts nothing here, so that only the names of the root tell.
	o.write("mnt/qsfs/seen", "x", 0o644)
	o.write("mnt/qsfs/seen too", "x", 0o644)
	require.ErrorContains(t, o.run(t.Context(), func(s string) error {
		if s == stepInstall {
			return errors.Join(os.Remove(filepath.Join(o.root, "mnt/qsfs/seen")), os.Remove(filepath.Join(o.root, "mnt/qsfs/seen too")))
		}
		return nil
	}, nil), "2 of 2 names that were in")
	o.olderRuns()
	require.NoError(t, o.run(t.Context(), nil, nil))
	o.newRuns()
}

// A program that no service runs works on the files: two must never.
func TestSomebodyWorksOnTheFiles(t *testing.T) {
	t.Parallel()
	o := newOlder(t, zinit.LineProtocol)
	// The words of its command line are all that is looked at.
	cmd := exec.Command("/bin/sh", "-c", `read x; exit`, "x", "--data", o.root+"/opt/zdb/data")
	cmd.Args[0] = "/usr/bin/zdb"
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	err = o.run(t.Context(), nil, nil)
	require.ErrorContains(t, err, fmt.Sprintf("process %d (/usr/bin/zdb) works on", cmd.Process.Pid))
	o.olderRuns()
	require.NoError(t, in.Close())
	_ = cmd.Wait() // it had nothing to read
	require.NoError(t, o.run(t.Context(), nil, nil))
	o.newRuns()
}
