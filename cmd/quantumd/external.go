package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/google/renameio/v2"

	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/services/child"
)

// external gives what runs the external components as children of `up`. Their
// supervisors are processes of their own, so that they outlive one that is
// killed: the next `up` finds them.
func (a *app) external(cfg *config.Config, layout qsfs.Layout) ([]qsfs.Option, error) {
	if cfg.Engine == (config.Engine{Zdb: config.Embedded, Zstor: config.Embedded, Zdbfs: config.Embedded}) {
		return nil, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	var p qsfs.Programs
	for _, c := range []struct {
		kind  config.EngineKind
		into  *string
		key   string
		env   string
		names []string
	}{
		{cfg.Engine.Zdb, &p.Zdb, "zdb", "ZDB_BIN", []string{"zdb"}},
		{cfg.Engine.Zstor, &p.Zstor, "zstor", "ZSTOR_BIN", []string{"zstor", "zstor_v2"}},
		{cfg.Engine.Zdbfs, &p.Zdbfs, "zdbfs", "ZDBFS_BIN", []string{"zdbfs"}},
	} {
		if c.kind == config.External {
			*c.into = a.findProgram(cfg, c.key, c.env, c.names)
		}
	}
	if p.Hook, err = a.placeHook(layout, self); err != nil {
		return nil, err
	}
	m, err := child.New(child.Options{Dir: filepath.Join(layout.State, "services"), Supervisor: []string{self, "supervise"}, Logger: a.logger()})
	if err != nil {
		return nil, err
	}
	return []qsfs.Option{qsfs.WithPrograms(m, p)}, nil
}

// findProgram finds a real program: named by the environment, by a file URL
// under `binaries`, or in PATH. Empty: nowhere, which the start tells.
func (a *app) findProgram(cfg *config.Config, key, env string, names []string) string {
	if path := a.getenv(env); path != "" {
		if abs, err := filepath.Abs(path); err == nil {
			return abs
		}
	}
	if u, err := url.Parse(cfg.Binaries[key].URL); err == nil && u.Scheme == "file" {
		return u.Path
	}
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			if abs, err := filepath.Abs(path); err == nil {
				return abs
			}
		}
	}
	return ""
}

// placeHook puts quantumd-hook where the zdb finds it.
func (a *app) placeHook(layout qsfs.Layout, self string) (string, error) {
	path := filepath.Join(layout.State, "quantumd-hook")
	err := os.MkdirAll(layout.State, 0o700)
	switch {
	case err != nil:
	case hookProgram != nil:
		err = renameio.WriteFile(path, hookProgram, 0o755, renameio.IgnoreUmask())
	default:
		err = renameio.Symlink(self, path)
	}
	if err != nil {
		return "", errors.Join(errors.New("put the hook program in place"), &qsfs.PathError{Path: path, Err: err})
	}
	return path, nil
}
