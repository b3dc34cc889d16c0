// Package doctor looks at a machine and a system, and says what is wrong, why,
// and what to do: before a deploy, before a setup, and while it runs.
//
//	report, err := doctor.Run(ctx, doctor.Options{Config: cfg, Layout: layout})
//	for _, r := range report.Results { … }
//	if report.Severity == doctor.Problem { … }
//
// It changes nothing: what it writes to measure a disk it removes, what it mounts
// for a trial it unmounts. It asks nobody but this machine and the backends. No
// secret is in what it says.
//
// It is not a monitor: that is what metrics and `quantumd status` are for.
package doctor

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/services"
)

// Severity says how much a result matters.
type Severity string

// The severities, from the least.
const (
	Skipped Severity = "skipped" // does not apply here, or could not be looked at; the cause says why
	OK      Severity = "ok"
	Note    Severity = "note"    // worth knowing; nothing has to be done
	Warning Severity = "warning" // works, but less well or less safely than it should
	Problem Severity = "problem" // does not work, or is not safe
)

var severities = []Severity{Skipped, OK, Note, Warning, Problem}

// Worse says whether s matters more than other.
func (s Severity) Worse(other Severity) bool {
	return slices.Index(severities, s) > slices.Index(severities, other)
}

// Result is what a check says of one thing.
type Result struct {
	Check    string   `json:"check"`             // its name, such as disk-space
	Subject  string   `json:"subject,omitempty"` // what was looked at: a path, a backend, a service
	Severity Severity `json:"severity"`
	Measured string   `json:"measured,omitempty"` // such as 12.3 GiB free
	Cause    string   `json:"cause,omitempty"`    // one line; empty where all is well
	Remedy   string   `json:"remedy,omitempty"`   // one line; there for warnings and problems
}

// Report is what all checks say, in the order of the checks.
type Report struct {
	Schema   int              `json:"schema"`
	Severity Severity         `json:"severity"` // the worst one
	Counts   map[Severity]int `json:"counts"`
	Seconds  float64          `json:"seconds"`
	Results  []Result         `json:"results"`
}

// Problems lists the results with that severity, or a worse one.
func (r *Report) Problems(least Severity) []Result {
	var out []Result
	for _, one := range r.Results {
		if !least.Worse(one.Severity) {
			out = append(out, one)
		}
	}
	return out
}

// Stage chooses checks.
type Stage string

// The stages.
const (
	Everything Stage = ""      // all checks that apply
	Setup      Stage = "setup" // those whose problems would make a setup fail; quick
)

// Options say what is looked at. Config and Layout belong together.
type Options struct {
	Stage Stage

	Config     *config.Config // nil: there is none that could be used, see ConfigErr
	Defaults   *config.Config // what would be in force without one; nil: [config.Default]
	ConfigPath string         // that was tried
	ConfigErr  error          // why there is none
	Layout     qsfs.Layout
	Root       string // put before system paths; empty: /
	Below      bool   // a self-contained system below a folder: no services, nothing of the machine is its own

	// Backends are those in use; nil: those that Config lists. Dialer reaches them.
	Backends []backend.Backend
	Dialer   backend.Dialer

	// Manager runs the services; nil: they are not looked at. Changes says what
	// setup would do to them; nil: not known.
	Manager services.ServiceManager
	Changes func(ctx context.Context) ([]services.Change, error)

	Program  string            // this program; empty: not compared with the installed one
	Programs map[string]string // of external components, by name: absolute paths; empty: not found

	Observe func(done, total int, last Result) // as checks end; nil: nobody
	Limit   time.Duration                      // of one check; zero: 8 s

	system *system // tests put machines of their own here
}

// check is one thing that is looked at.
type check struct {
	name  string
	setup bool // its problems would make a setup fail
	run   func(ctx context.Context, x *examination) []Result
}

// defaultLimit keeps a whole run below 10 s.
const defaultLimit = 8 * time.Second

// examination is one run: options, and what several checks need.
type examination struct {
	Options
	name   string // of the check
	sys    *system
	mounts []mountEntry
	status *client.Status   // of the running system; nil: none answers
	down   error            // why not
	visits *visits          // what the backends answered
	others []client.Backend // in use by the running system, and not in the configuration
}

// settings is the configuration, or what a first one would be.
func (x *examination) settings() *config.Config {
	switch {
	case x.Config != nil:
		return x.Config
	case x.Defaults != nil:
		return x.Defaults
	}
	return config.Default()
}

// Names lists all checks.
func Names() []string {
	var out []string
	for _, c := range checks {
		out = append(out, c.name)
	}
	return out
}

// Run looks at everything that the options name. An error means that nothing
// could be looked at; what is wrong is in the report.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Limit <= 0 {
		o.Limit = defaultLimit
	}
	began := time.Now()
	x, err := prepare(ctx, o)
	if err != nil {
		return nil, err
	}
	var todo []check
	for _, c := range checks {
		if o.Stage == Everything || c.setup {
			todo = append(todo, c)
		}
	}
	results := make([][]Result, len(todo))
	var g errgroup.Group
	g.SetLimit(8)
	var mu sync.Mutex
	done := 0
	for i, c := range todo {
		g.Go(func() error {
			results[i] = x.one(ctx, c)
			mu.Lock()
			defer mu.Unlock()
			done++
			if o.Observe != nil {
				o.Observe(done, len(todo), worst(results[i]))
			}
			return nil // what is wrong is a result
		})
	}
	_ = g.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r := &Report{Schema: client.SchemaVersion, Severity: Skipped, Counts: map[Severity]int{}, Results: slices.Concat(results...)}
	for _, one := range r.Results {
		r.Counts[one.Severity]++
		if one.Severity.Worse(r.Severity) {
			r.Severity = one.Severity
		}
	}
	r.Seconds = time.Since(began).Seconds()
	return r, nil
}

func worst(list []Result) Result {
	out := Result{Severity: Skipped}
	for _, r := range list {
		if out.Check == "" || r.Severity.Worse(out.Severity) {
			out = r
		}
	}
	return out
}

// one runs a check within its limit. A disk or a mount that hangs keeps a system
// call from ending: then the check is left behind, with the program's end.
func (x *examination) one(ctx context.Context, c check) []Result {
	ctx, cancel := context.WithTimeout(ctx, x.Limit)
	defer cancel()
	mine := *x
	mine.name = c.name
	out := make(chan []Result, 1)
	go func() { out <- named(c.name, c.run(ctx, &mine)) }()
	select {
	case list := <-out:
		return list
	case <-ctx.Done():
		select {
		case list := <-out: // at the same moment, or just because the time is over
			return list
		case <-time.After(grace):
		}
		return []Result{{Check: c.name, Severity: Warning, Measured: fmt.Sprintf("more than %s", x.Limit),
			Cause: "this check did not end in time: what it looks at hangs, or is very slow", Remedy: "look at the kernel's log (dmesg) for a disk, mount or network that does not answer"}}
	}
}

// grace is how long a check has for what it says when its time is over.
const grace = 250 * time.Millisecond

// named completes results: the name, and each text in one line, for errors may
// have several.
func named(name string, list []Result) []Result {
	for i := range list {
		r := &list[i]
		r.Check = name
		for _, text := range []*string{&r.Subject, &r.Measured, &r.Cause, &r.Remedy} {
			*text = strings.Join(strings.Fields(*text), " ")
		}
	}
	return list
}

func prepare(ctx context.Context, o Options) (*examination, error) {
	x := &examination{Options: o, sys: o.system, visits: &visits{done: make(chan struct{})}}
	if x.sys == nil {
		x.sys = thisMachine()
	}
	if o.Config != nil && x.Backends == nil {
		list, err := o.Config.BackendList()
		if err != nil {
			return nil, err // Validate would have told
		}
		x.Backends = list
	}
	x.mounts = readMounts(x.sys)
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	x.status, x.down = client.New(o.Layout.ControlSocket()).Status(ctx)
	if x.down != nil {
		x.status = nil
	}
	x.inUse()
	return x, nil
}

// inUse takes the set of backends of the running system for the one that counts:
// the configuration gives the first set, and some may have been replaced since.
// Passwords are known of those that the configuration lists.
func (x *examination) inUse() {
	if x.status == nil || len(x.status.Backends) == 0 {
		return
	}
	x.others = slices.Clone(x.status.Backends)
	x.Backends = slices.DeleteFunc(slices.Clone(x.Backends), func(b backend.Backend) bool {
		n := len(x.others)
		x.others = slices.DeleteFunc(x.others, func(o client.Backend) bool { return o.Address == b.Address.String() && o.Namespace == b.Namespace })
		return n == len(x.others)
	})
}

// Results in one line each, for checks.

func one(r Result) []Result { return []Result{r} }

func ok(subject, measured string) []Result {
	return one(Result{Subject: subject, Severity: OK, Measured: measured})
}

func skip(cause string) []Result { return one(Result{Severity: Skipped, Cause: cause}) }

func bad(s Severity, subject, measured, cause, remedy string) []Result {
	return one(Result{Subject: subject, Severity: s, Measured: measured, Cause: cause, Remedy: remedy})
}

// platform names what this program runs on, as in linux/amd64.
func platform() string { return runtime.GOOS + "/" + runtime.GOARCH }
