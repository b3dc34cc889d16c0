package qsfs

import (
	"context"
	"os"

	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/engine/zstor/remote"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// objects is who moves whole files to the backends and back: the embedded
// engine, or the daemon of the real zstor through its socket. Records, aliases,
// look-ups and verification are the embedded engine's in either case.
type objects interface {
	// StoreFile stores a file under a path. What it returns was looked up, but not
	// verified.
	StoreFile(ctx context.Context, path, file string) (zstor.Object, error)
	// RetrieveObjectFile brings an object to dst, which changes only when the
	// whole content is there, verified and synced.
	RetrieveObjectFile(ctx context.Context, obj zstor.Object, dst string) error
	// Reload uses another set of backends from the next operation on, the
	// embedded engine included. With the real zstor an error may also say that
	// its daemon was not told (a [remote.DaemonError]): the engine has the new set
	// then, and the daemon gets it at its next start.
	Reload(ctx context.Context, cfg zstor.Config) error
	// Rebuild and RebuildKey make anew what an object misses, and report how well
	// it is kept then.
	Rebuild(ctx context.Context, path string, opts zstor.RebuildOptions) (zstor.Report, error)
	RebuildKey(ctx context.Context, key string, opts zstor.RebuildOptions) (zstor.Report, error)
}

var (
	_ objects = (*zstor.Engine)(nil)
	_ objects = (*remote.Remote)(nil)
)

// openObjects chooses who moves files. What an earlier life handed over is
// swept first.
func (s *System) openObjects() error {
	s.objects = s.engine
	if s.cfg.Engine.Zstor != config.External {
		return nil
	}
	if err := os.RemoveAll(s.layout.handing()); err != nil {
		return &PathError{Path: s.layout.handing(), Err: err}
	}
	r, err := remote.New(s.engine, remote.Options{Daemon: s.zstorDaemon(), ConfigFile: s.layout.Zstor, Staging: s.layout.handing(), Logger: s.log})
	if err != nil {
		return err
	}
	s.objects = r
	return r.WriteConfig(s.engine.Config())
}

// zstorDaemon is what the config file of an external zstor says of its daemon.
func (s *System) zstorDaemon() zstor.DaemonConfig {
	return zstor.DaemonConfig{Socket: s.layout.ZstorSocket(), PIDFile: s.layout.zstorPID()}
}
