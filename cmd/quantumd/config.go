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

type configCheckCmd struct {
	File string `arg:"" optional:"" help:"The file; else the configuration that every command reads."`
}

// Help says what it does.
func (*configCheckCmd) Help() string {
	return "Example: quantumd config check new.yaml --json\nAll errors of a file are told at once. It reads the file only; `quantumd doctor` asks the machine and the backends too."
}

// configError is one error of a configuration, for programs.
type configError struct {
	File    string `json:"file"`
	Line    int    `json:"line"` // from 1; 0: the value did not come from a file
	Column  int    `json:"column"`
	Key     string `json:"key"`
	Message string `json:"message"`
	Remedy  string `json:"remedy"`
}

func configErrors(list []*config.Error) []configError {
	out := make([]configError, len(list))
	for i, e := range list {
		out[i] = configError{e.File, e.Line, e.Col, e.Key, e.Msg, e.Remedy}
	}
	return out
}

// Run says what is wrong with a configuration.
func (c *configCheckCmd) Run(a *app) error {
	if c.File != "" {
		a.globals.Config = c.File
	}
	cfg, err := a.loadConfig(false)
	if !a.globals.JSON {
		if err != nil {
			return err
		}
		return a.done("%s is good", a.configPath())
	}
	list := config.Errors(err)
	if err != nil && len(list) == 0 {
		return err
	}
	report := struct {
		Schema   int           `json:"schema"`
		File     string        `json:"file"`
		Good     bool          `json:"good"`
		Errors   []configError `json:"errors"`
		Warnings []configError `json:"warnings"`
	}{client.SchemaVersion, a.configPath(), err == nil, configErrors(list), []configError{}}
	if cfg != nil {
		report.Warnings = configErrors(cfg.Warnings())
	}
	if failed := a.print(report, nil); failed != nil {
		return failed
	}
	if err != nil {
		return &codeError{code: exitUsage} // told already
	}
	return nil
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
