package remote_test

import (
	"context"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/engine/zstor/monitor"
	"github.com/threefoldtech/quantumd/engine/zstor/record"
	"github.com/threefoldtech/quantumd/engine/zstor/remote"
	"github.com/threefoldtech/quantumd/engine/zstor/zstortest"
)

// reloads gives the SIGUSR1s of this process.
func reloads(ctx context.Context) <-chan struct{} {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	out := make(chan struct{})
	go func() {
		defer signal.Stop(signals)
		for {
			select {
			case <-ctx.Done():
				return
			case <-signals:
			}
			select {
			case out <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// over is a bench whose daemon is l's handler; the bench's own engine stored an
// object at path.
func over(t *testing.T, h monitor.Handler, timeout time.Duration) (*bench, *remote.Remote, zstor.Object) {
	n := zstortest.New()
	data, meta := n.Make(5, 1)
	b := newBench(t, data, meta, n)
	obj, err := b.engine.StoreFile(t.Context(), b.path("data/ns/d0@1.5"), b.file(t, "source", []byte("right")))
	require.NoError(t, err)
	socket := filepath.Join(b.work, "z.sock")
	if h != nil {
		l, err := net.Listen("unix", socket)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- monitor.NewServer(h, monitor.Options{}).Serve(ctx, l) }()
		t.Cleanup(func() { cancel(); require.NoError(t, <-ended) })
	}
	r, err := remote.New(b.engine, remote.Options{Daemon: zstor.DaemonConfig{Socket: socket, PIDFile: filepath.Join(b.work, "z.pid")},
		ConfigFile: filepath.Join(b.work, "zstor.toml"), Staging: filepath.Join(b.work, "staging"), Timeout: timeout})
	require.NoError(t, err)
	return b, r, obj
}

// daemon answers what a test wants.
type daemon struct {
	hang bool
	land []byte // what a retrieve puts down; nil: nothing
}

func (d daemon) wait(ctx context.Context) error {
	if d.hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}
func (d daemon) Store(ctx context.Context, _ monitor.Store) error { return d.wait(ctx) }
func (d daemon) Retrieve(ctx context.Context, r monitor.Retrieve) error {
	if d.land != nil {
		if err := os.MkdirAll(filepath.Dir(r.File), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(r.File, d.land, 0o644); err != nil {
			return err
		}
	}
	return d.wait(ctx)
}
func (d daemon) Rebuild(ctx context.Context, _ monitor.Rebuild) error { return d.wait(ctx) }
func (d daemon) Check(ctx context.Context, _ string) (record.Checksum, bool, error) {
	return record.Checksum{}, false, d.wait(ctx)
}

// A daemon that is not there, or never answers, is a DaemonError with a hint,
// in time.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]monitor.Handler{"absent": nil, "hangs": daemon{hang: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, r, obj := over(t, h, 300*time.Millisecond)
			file, dst := b.file(t, "new", []byte("new")), b.file(t, "dst", []byte("old"))
			for what, do := range map[string]func() error{
				"store":    func() error { _, err := r.StoreFile(t.Context(), b.path("data/ns/x"), file); return err },
				"retrieve": func() error { return r.RetrieveObjectFile(t.Context(), obj, dst) },
				"check":    func() error { _, _, err := r.Check(t.Context(), obj.Path); return err },
			} {
				began := time.Now()
				err := do()
				var down *remote.DaemonError
				require.ErrorAs(t, err, &down, what)
				assert.NotEmpty(t, down.Hint())
				assert.Less(t, time.Since(began), 10*time.Second, what)
			}
			old, err := os.ReadFile(dst)
			require.NoError(t, err)
			assert.Equal(t, "old", string(old))

			// A rebuild goes on without it.
			b.loseShard(t, obj)
			report, err := r.RebuildKey(t.Context(), obj.Key, zstor.RebuildOptions{})
			require.NoError(t, err)
			assert.True(t, report.Healthy())
		})
	}
}

// What a daemon says is not believed.
func TestDaemonThatLies(t *testing.T) {
	t.Parallel()
	b, r, obj := over(t, daemon{land: []byte("wrong")}, time.Minute)
	_, err := r.StoreFile(t.Context(), b.path("data/ns/x"), b.file(t, "new", []byte("new")))
	require.ErrorIs(t, err, zstor.ErrNotFound, "it said that it stored")
	_, err = r.StoreFile(t.Context(), obj.Path, b.file(t, "new", []byte("new")))
	require.ErrorIs(t, err, zstor.ErrDamaged, "the old content is still there")
	dst := b.file(t, "dst", []byte("old"))
	require.ErrorIs(t, r.RetrieveObjectFile(t.Context(), obj, dst), zstor.ErrDamaged)
	old, err := os.ReadFile(dst)
	require.NoError(t, err)
	assert.Equal(t, "old", string(old))
	nothingStays(t, b)
	b.loseShard(t, obj)
	report, err := r.RebuildKey(t.Context(), obj.Key, zstor.RebuildOptions{})
	require.NoError(t, err)
	assert.True(t, report.Healthy(), "it said that it rebuilt")
}

// Only the process that listens on the socket gets the signal, and shard numbers
// are not changed.
func TestReloadIsCareful(t *testing.T) {
	t.Parallel()
	b, r, _ := over(t, daemon{}, time.Minute)
	pidFile := filepath.Join(b.work, "z.pid")
	var down *remote.DaemonError
	_, err := r.DaemonPID(t.Context())
	require.ErrorAs(t, err, &down, "no pid file")
	for _, text := range []string{"", "x", "-1", "0", "1", strconv.Itoa(os.Getppid()), "99999999999999999999"} {
		require.NoError(t, os.WriteFile(pidFile, []byte(text), 0o600))
		require.ErrorIs(t, r.Reload(t.Context(), b.cfg), remote.ErrNotTheDaemon, "%q", text)
	}
	require.NoError(t, os.WriteFile(pidFile, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600))
	pid, err := r.DaemonPID(t.Context())
	require.NoError(t, err)
	assert.Equal(t, os.Getpid(), pid)

	other := b.cfg
	other.MinimalShards, other.ExpectedShards = 1, 3
	var numbers *remote.ShardNumbersError
	require.ErrorAs(t, r.Reload(t.Context(), other), &numbers)
	assert.Equal(t, 2, b.engine.Config().MinimalShards, "nothing was changed")

	text, err := os.ReadFile(filepath.Join(b.work, "zstor.toml"))
	require.NoError(t, err)
	c, err := zstor.ParseTOML(text)
	require.NoError(t, err)
	assert.Empty(t, c.Daemon.ZDBDataDir, "it would drop files that changed since their upload")
	assert.Equal(t, filepath.Join(b.work, "root"), c.Root, "it resolves links before it makes keys")
	st, err := os.Stat(filepath.Join(b.work, "zstor.toml"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), st.Mode().Perm())
}
