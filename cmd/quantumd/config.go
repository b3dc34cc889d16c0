package main

import (
	"fmt"

	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

type configCmd struct {
	Example configExampleCmd `cmd:"" help:"Print a file with every key, its default and a comment."`
	Check   configCheckCmd   `cmd:"" help:"Say what is wrong with the configuration, with line, column and remedy."`
	Show    configShowCmd    `cmd:"" help:"Print what is in force, and where each value comes from. Secrets are hidden."`
}

type configExampleCmd struct{}

func (configExampleCmd) Run(a *app) error {
	_, err := fmt.Fprint(a.stdout, config.Example())
	return err
}

type configCheckCmd struct{}

func (configCheckCmd) Run(a *app) error {
	if _, err := a.loadConfig(false); err != nil {
		return err
	}
	return a.done("%s is good", a.configPath())
}

type configShowCmd struct{}

func (configShowCmd) Run(a *app) error {
	cfg, err := config.Load(a.configPath(), a.configOptions(true)...)
	if err != nil {
		return err
	}
	return a.print(struct {
		Schema int            `json:"schema"`
		File   string         `json:"file"`
		Keys   []config.Shown `json:"keys"`
	}{client.SchemaVersion, cfg.File(), cfg.Show()}, func() {
		for _, s := range cfg.Show() {
			a.printf("%-24s %-12s %v", s.Key, s.Source, s.Value)
		}
	})
}
