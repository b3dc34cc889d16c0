package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/qsfs/doctor"
	"github.com/threefoldtech/quantumd/services"
)

type doctorCmd struct {
	All bool `short:"a" help:"Show what is good and what does not apply, too."`
}

// Help says what it does.
func (*doctorCmd) Help() string {
	return `Looks at this machine, the configuration, the installation, the backends and the running system, and says what
is wrong, why, and what to do. It changes nothing and works at any time: before deploy, before setup, with --dir, as any user.

  quantumd doctor
  quantumd doctor --all --json

Exit codes: 0 nothing to do, 3 warnings, 1 problems.`
}

// Run is the whole examination.
func (c *doctorCmd) Run(ctx context.Context, a *app) error {
	o, err := a.doctorOptions(ctx)
	if err != nil {
		return err
	}
	if !a.globals.JSON && a.terminal(a.stderr) {
		o.Observe = func(done, total int, _ doctor.Result) {
			fmt.Fprintf(a.stderr, "\r%d of %d checks\x1b[K", done, total)
			if done == total {
				fmt.Fprint(a.stderr, "\r\x1b[K")
			}
		}
	}
	report, err := doctor.Run(ctx, o)
	if err != nil {
		return err
	}
	if err := a.print(report, func() { c.show(a, report) }); err != nil {
		return err
	}
	switch report.Severity {
	case doctor.Problem:
		return &codeError{code: exitFailed} // told already
	case doctor.Warning:
		return &codeError{code: exitDegraded}
	}
	return nil
}

func (c *doctorCmd) show(a *app, report *doctor.Report) {
	for _, r := range report.Results {
		if c.All || r.Severity.Worse(doctor.OK) {
			a.printf("%s", doctorLine(r))
		}
	}
	var parts []string
	for _, s := range []doctor.Severity{doctor.Problem, doctor.Warning, doctor.Note, doctor.OK, doctor.Skipped} {
		if n := report.Counts[s]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, s))
		}
	}
	a.printf("%d checks in %.1f s: %s", len(doctor.Names()), report.Seconds, strings.Join(parts, ", "))
}

// lookedAt names a check, what it looked at and what it measured.
func lookedAt(r doctor.Result) string {
	text := r.Check
	for _, part := range []string{r.Subject, r.Measured} {
		if part != "" {
			text += " · " + part
		}
	}
	return text
}

// doctorLine is a result for people: one line, and one for the remedy.
func doctorLine(r doctor.Result) string {
	line := fmt.Sprintf("%-8s %s", r.Severity, lookedAt(r))
	if r.Cause != "" {
		line += ": " + r.Cause
	}
	if r.Remedy != "" {
		line += "\n         → " + r.Remedy
	}
	return line
}

// doctorOptions gathers what there is: a configuration that is missing or wrong
// is a finding, not an error.
func (a *app) doctorOptions(ctx context.Context) (doctor.Options, error) {
	cfg, err := config.Load(a.configPath(), append(a.configOptions(true), config.TolerateUnknown())...)
	usable := cfg
	if err == nil {
		a.place(cfg)
		err = cfg.Validate()
	} else {
		cfg = config.Default()
		a.place(cfg)
	}
	if err != nil {
		if len(config.Errors(err)) == 0 {
			return doctor.Options{}, err
		}
		usable = nil
	}
	o := doctor.Options{Config: usable, Defaults: cfg, ConfigPath: a.configPath(), ConfigErr: err, Layout: a.layout(cfg), Root: a.globals.Root, Below: a.globals.Dir != ""}
	if self, err := os.Executable(); err == nil {
		o.Program = self
	}
	if usable != nil {
		p, err := a.provisioner(usable)
		if err == nil {
			o.Backends, err = p.List(ctx)
		}
		if err != nil {
			a.notef("the backends are taken from the configuration: %v", err)
			o.Backends = nil
		}
		o.Programs = a.externalPrograms(usable)
	}
	if !o.Below {
		if err := a.doctorServices(&o); err != nil {
			a.notef("the services are not looked at: %v", err)
		}
	}
	return o, nil
}

// doctorServices has the services looked at.
func (a *app) doctorServices(o *doctor.Options) error {
	m, err := a.manager()
	if err != nil {
		return err
	}
	o.Manager = m
	if o.Config != nil {
		o.Changes = func(ctx context.Context) ([]services.Change, error) {
			plan := *a
			plan.globals.DryRun = true
			report, _, err := plan.install(ctx, "", true, true)
			if err != nil {
				return nil, err
			}
			return report.Changes, nil
		}
	}
	return nil
}

// externalPrograms finds the programs of external components: where setup puts
// them, else as `up` finds them.
func (a *app) externalPrograms(cfg *config.Config) map[string]string {
	out := map[string]string{}
	for _, c := range externalComponents(cfg) {
		if installed := filepath.Join(a.globals.Root, qsfs.ProgramDir, c.name); a.globals.Dir == "" && fileExists(installed) {
			out[c.name] = installed
			continue
		}
		out[c.name] = a.findProgram(cfg, c)
	}
	return out
}

// doctorError says why nothing is installed.
type doctorError struct{ problems []doctor.Result }

func (e *doctorError) Error() string {
	lines := []string{"this machine is not ready, and nothing was done"}
	for _, r := range e.problems {
		lines = append(lines, fmt.Sprintf("%s: %s; %s", lookedAt(r), r.Cause, r.Remedy))
	}
	return strings.Join(lines, "\n")
}

// Hint names the remedy.
func (e *doctorError) Hint() string {
	return "`quantumd doctor` looks at everything; with --force setup goes on all the same"
}

// ready asks the checks whose problems would make a setup fail.
func (a *app) ready(ctx context.Context, cfg *config.Config, layout qsfs.Layout) error {
	report, err := doctor.Run(ctx, doctor.Options{Stage: doctor.Setup, Config: cfg, ConfigPath: a.configPath(), Layout: layout, Root: a.globals.Root})
	if err != nil {
		return err
	}
	if list := report.Problems(doctor.Problem); len(list) > 0 {
		return &doctorError{list}
	}
	return nil
}
