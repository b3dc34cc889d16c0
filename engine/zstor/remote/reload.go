package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/engine/zstor/seal"
	"github.com/threefoldtech/quantumd/internal/durable"
)

// ShardNumbersError says that a config has other shard numbers than those in
// use: the daemon encodes rebuilt objects with the numbers of its config and
// leaves those of the record, which destroys them.
type ShardNumbersError struct{ K, N, NewK, NewN int }

func (e *ShardNumbersError) Error() string {
	return fmt.Sprintf("zstor: %d of %d shards cannot become %d of %d while the daemon of the real zstor rebuilds objects", e.K, e.N, e.NewK, e.NewN)
}

// Hint names the remedy.
func (*ShardNumbersError) Hint() string {
	return "keep min_shards and expected_shards, or set engine.zstor to embedded, which rebuilds each object with its own numbers"
}

// ErrNotTheDaemon says that the process of the pid file is not the one that
// listens on the socket.
var ErrNotTheDaemon = errors.New("zstor: the pid file names another process than the one on the socket")

// Reload gives the daemon and the engine a new set of backends: the config file
// is replaced in one step, then the daemon is told by SIGUSR1. The daemon says
// nothing of what it made of it, so rebuild each key and look at the report.
// When the daemon could not be told, the engine has the new set all the same,
// and the file is in place for the daemon's next start.
func (r *Remote) Reload(ctx context.Context, cfg zstor.Config) error {
	now := r.engine.Config()
	if cfg.MinimalShards != now.MinimalShards || cfg.ExpectedShards != now.ExpectedShards {
		return &ShardNumbersError{now.MinimalShards, now.ExpectedShards, cfg.MinimalShards, cfg.ExpectedShards}
	}
	if err := r.engine.Reload(ctx, cfg); err != nil {
		return err
	}
	if err := r.WriteConfig(cfg); err != nil {
		return err
	}
	return r.signal(ctx)
}

// WriteConfig writes the daemon's config file, mode 0600: it holds the key and
// the passwords. The eviction keys are never in it: the daemon drops files that
// changed after their upload.
func (r *Remote) WriteConfig(cfg zstor.Config) error {
	if r.opts.ConfigFile == "" {
		return errors.New("zstor remote: no config file is known")
	}
	return WriteConfig(r.opts.ConfigFile, cfg, r.opts.Daemon)
}

// WriteConfig writes a config file for the daemon, if it is not there as it
// should be already.
func WriteConfig(file string, cfg zstor.Config, daemon zstor.DaemonConfig) error {
	root, err := DaemonRoot(cfg.Root)
	if err != nil {
		return err
	}
	cfg.Root = root
	daemon.ZDBDataDir, daemon.MaxZDBDataDirMiB = "", 0
	text, err := zstor.MarshalTOML(zstor.FileConfig{Config: cfg, Daemon: daemon, MetaKey: seal.Key{}})
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, text) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(file, text, 0o600)
}

// Tell has the daemon read its config file again. An error is a [*DaemonError]
// or [ErrNotTheDaemon]: there is none that could be told.
func (r *Remote) Tell(ctx context.Context) error { return r.signal(ctx) }

// signal tells the daemon, once it is certain that it is the daemon.
func (r *Remote) signal(ctx context.Context) error {
	pid, err := r.DaemonPID(ctx)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGUSR1); err != nil {
		return &DaemonError{Socket: r.opts.Daemon.Socket, Op: "reload", Err: err}
	}
	return nil
}

// DaemonPID gives the daemon's process: the one of the pid file, if that is who
// listens on the socket.
func (r *Remote) DaemonPID(ctx context.Context) (int, error) {
	listens, err := listener(ctx, r.opts.Daemon.Socket)
	if err != nil {
		return 0, &DaemonError{Socket: r.opts.Daemon.Socket, Op: "find its process", Err: err}
	}
	text, err := os.ReadFile(r.opts.Daemon.PIDFile)
	if err != nil {
		return 0, &DaemonError{Socket: r.opts.Daemon.Socket, Op: "read its pid file", Err: err}
	}
	if len(text) > 32 {
		text = text[:32]
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil || pid <= 1 || pid != listens {
		return 0, fmt.Errorf("%w: %s", ErrNotTheDaemon, r.opts.Daemon.PIDFile)
	}
	return pid, nil
}
