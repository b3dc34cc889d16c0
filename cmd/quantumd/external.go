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
	for _, c := range externalComponents(cfg) {
		*c.into(&p) = a.findProgram(cfg, c)
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

// component is one that the configuration has as external.
type component struct {
	name  string // as the key of `binaries`
	env   string // names its program for `up`
	names []string
	into  func(*qsfs.Programs) *string
}

func externalComponents(cfg *config.Config) []component {
	var out []component
	for _, c := range []struct {
		kind config.EngineKind
		component
	}{
		{cfg.Engine.Zdb, component{"zdb", "ZDB_BIN", []string{"zdb"}, func(p *qsfs.Programs) *string { return &p.Zdb }}},
		{cfg.Engine.Zstor, component{"zstor", "ZSTOR_BIN", []string{"zstor", "zstor_v2"}, func(p *qsfs.Programs) *string { return &p.Zstor }}},
		{cfg.Engine.Zdbfs, component{"zdbfs", "ZDBFS_BIN", []string{"zdbfs"}, func(p *qsfs.Programs) *string { return &p.Zdbfs }}},
	} {
		if c.kind == config.External {
			out = append(out, c.component)
		}
	}
	return out
}

// findProgram finds a real program: named by the environment, by a file URL
// under `binaries`, or in PATH. Empty: nowhere, which the start tells.
func (a *app) findProgram(cfg *config.Config, c component) string {
	if path := a.getenv(c.env); path != "" {
		if abs, err := filepath.Abs(path); err == nil {
			return abs
		}
	}
	if u, err := url.Parse(cfg.Binaries[c.name].URL); err == nil && u.Scheme == "file" {
		return u.Path
	}
	for _, name := range c.names {
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
