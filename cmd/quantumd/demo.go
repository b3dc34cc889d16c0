package main

import (
	"context"
	"errors"
	"os"

	"github.com/threefoldtech/quantumd/internal/demo"
	"github.com/threefoldtech/quantumd/qsfs"
)

type demoCmd struct {
	Source       string `placeholder:"DIR" help:"Folder with at least 1,000 files to copy. Else files are generated."`
	RequireMount bool   `help:"Fail where FUSE is not usable, instead of going on without a mount."`
	NoMount      bool   `help:"Without a mount, also where one would work."`
}

// Help says what it shows.
func (demoCmd) Help() string {
	return `Starts nine backends and a frontend on this machine, writes real files, kills two backends, drops the
local copies, reads everything back, kills the frontend, restores it elsewhere, reads everything again. Needs
2 GiB of disk and about a minute; leaves nothing behind. Ends with 0 only if every byte was right.`
}

func (c *demoCmd) Run(ctx context.Context, a *app) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return demo.Run(ctx, demo.Options{Program: self, Source: c.Source, Dir: a.globals.Dir, RequireMount: c.RequireMount, WithoutMount: c.NoMount,
		Say: func(line string) { a.printf("%s", line) }})
}

type demoFrontendCmd struct{}

// Run serves a demo that has no mount.
func (demoFrontendCmd) Run(ctx context.Context, a *app) error {
	cfg, err := a.loadConfig(true)
	if err != nil {
		return err
	}
	p, err := a.provisioner(cfg)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	sys, err := qsfs.Open(ctx, cfg, qsfs.WithLayout(a.layout(cfg)), qsfs.WithProvisioner(p), qsfs.WithLogger(a.logger()),
		qsfs.WithoutMount(), qsfs.WithLease(demo.Lease()), qsfs.WithStop(stop))
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- sys.Run(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-sys.Ready():
	}
	served := make(chan error, 1)
	go func() { served <- demo.Serve(ctx, sys.Tree(), a.stdin, a.stdout) }()
	select {
	case err := <-ended:
		return err
	case err := <-served: // the demo is gone
		stop()
		return errors.Join(err, <-ended)
	}
}
