package qsfs

import (
	"context"

	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/engine/zstor/remote"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// WriteZstorConfig writes what the real zstor needs to read these objects, at
// path, mode 0600: it holds the key and the passwords. With it `zstor -c FILE
// retrieve` works beside this system, on the plain paths below the zdb root.
// The eviction keys are left out: the real zstor drops files that changed after
// their upload.
func (s *System) WriteZstorConfig(ctx context.Context, path string) error {
	g := s.current()
	if g.Number == 0 { // not running: the newest that the metadata backends know
		e, err := s.openEngine(ctx)
		if err != nil {
			return err
		}
		defer e.Close() //nolint:errcheck // nothing is under way
		g = s.current()
	}
	c, err := s.zstorConfig(g.List())
	if err != nil {
		return err
	}
	daemon := zstor.DaemonConfig{}
	if s.cfg.Engine.Zstor == config.External {
		daemon = s.zstorDaemon()
	}
	if err := remote.WriteConfig(path, c, daemon); err != nil {
		return &PathError{Path: path, Err: err}
	}
	return nil
}
