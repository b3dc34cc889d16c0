//go:build linux

package qsfs_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/engine/zdbfs/mount"
	"github.com/threefoldtech/quantumd/internal/durable"
	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
)

// fsynced is what the writer's log holds: a file is in it only after its fsync
// and that of its folder had returned.
type fsynced struct {
	mu      sync.Mutex
	files   map[string][32]byte
	replace map[string][32]byte // what was about to take a file's place
}

// write makes files below root, fsyncs each and logs it, until writing fails:
// the file system is gone.
func (w *fsynced) write(ctx context.Context, root string, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := 0; ctx.Err() == nil; i++ {
		name := fmt.Sprintf("d%d/f-%d-%d", rng.IntN(5), seed, i)
		if rng.IntN(4) == 0 {
			name = fmt.Sprintf("d%d/rewritten-%d", rng.IntN(5), rng.IntN(4)) // replaced by rename
		}
		data := random(rng.Uint64(), rng.IntN(200_000))
		w.mu.Lock()
		w.replace[name] = sha256.Sum256(data)
		w.mu.Unlock()
		path := filepath.Join(root, name)
		if os.MkdirAll(filepath.Dir(path), 0o755) != nil || durable.WriteFile(path, data, 0o644) != nil {
			return
		}
		w.mu.Lock()
		w.files[name] = sha256.Sum256(data)
		w.mu.Unlock()
	}
}

// check reads back what was logged. A file that was being replaced when the
// end came may be the old or the new one, never anything else.
func (w *fsynced) check(t *testing.T, root string, round int) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, want := range w.files {
		data, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err, "round %d: fsynced, and gone", round)
		got := sha256.Sum256(data)
		if got != want && got == w.replace[name] {
			w.files[name] = got // its renaming was done, the fsync had not returned
			continue
		}
		require.Equal(t, want, got, "round %d: %s is not what was fsynced (%d bytes)", round, name, len(data))
	}
}

// process runs a System in a process of its own.
type process struct {
	cmd    *exec.Cmd
	stderr *bytes.Buffer
	mount  string
	client *client.Client
	peak   int64 // of its memory until it was ready
}

func startProcess(t testing.TB, cfgFile, dir, mountpoint string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0]), stderr: new(bytes.Buffer), mount: mountpoint, client: client.New(qsfs.LayoutBelow(dir).ControlSocket())}
	p.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s", childEnv, cfgFile, dir, mountpoint))
	p.cmd.Stderr = io.MultiWriter(p.stderr)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	require.NoError(t, p.cmd.Start())
	stop := watchMemory(p.cmd.Process.Pid)
	defer func() { p.peak = stop() }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := p.client.WaitReady(ctx); err != nil {
		p.kill(t)
		require.NoError(t, err, "start: %s", p.stderr)
	}
	return p
}

// kill ends it at once and clears the dead mount.
func (p *process) kill(t testing.TB) {
	t.Helper()
	_ = p.cmd.Process.Kill() // it may have ended
	_ = p.cmd.Wait()         // killed
	if p.mount != "-" {
		require.NoError(t, mount.CleanDead(p.mount))
	}
}

func saveConfig(t testing.TB, env *testenv.Env) string {
	t.Helper()
	text, err := env.Config.Marshal()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(path, text, 0o600))
	return path
}

// TestKillNine kills a running system at random moments, again and again: each
// next start mounts, and everything that was fsynced is there. Fifty times in
// the long run (QUANTUMD_LONG=1), else five.
func TestKillNine(t *testing.T) {
	if err := mount.Probe(t.Context()); err != nil {
		t.Skipf("no usable FUSE: %v", err)
	}
	rounds := 5
	if os.Getenv("QUANTUMD_LONG") != "" {
		rounds = 50
	}
	env := testenv.New(t, testenv.Options{})
	cfgFile, dir, mountpoint := saveConfig(t, env), t.TempDir(), t.TempDir()
	w := &fsynced{files: map[string][32]byte{}, replace: map[string][32]byte{}}
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0)) // the moments only
	for round := range rounds {
		p := startProcess(t, cfgFile, dir, mountpoint)
		t.Cleanup(func() { _ = p.cmd.Process.Kill() })
		w.check(t, mountpoint, round)
		ctx, cancel := context.WithCancel(t.Context())
		var writing sync.WaitGroup
		writing.Go(func() { w.write(ctx, mountpoint, uint64(round)) })
		if round%3 == 1 {
			writing.Go(func() { _, _ = p.client.Sync(ctx) }) // killed in the middle of a checkpoint
		}
		timer := time.NewTimer(time.Duration(50+rng.IntN(700)) * time.Millisecond)
		<-timer.C
		p.kill(t)
		cancel()
		writing.Wait()
	}
	t.Logf("%d rounds, %d files fsynced", rounds, len(w.files))
	p := startProcess(t, cfgFile, dir, mountpoint)
	w.check(t, mountpoint, rounds)
	_, err := p.client.Sync(t.Context())
	require.NoError(t, err)
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, p.cmd.Wait(), "%s", p.stderr)

	// And the machine after all this is lost as well.
	restored := env.Open(t, t.TempDir())
	_, err = restored.Restore(t.Context(), qsfs.RestoreOptions{})
	require.NoError(t, err)
	q := startProcess(t, cfgFile, dirOf(restored), mountpoint)
	defer q.kill(t)
	w.check(t, mountpoint, rounds+1)
}
