// Package services is the contract of service managers: what a [Service] is,
// and how one is installed, run, watched and removed ([ServiceManager]).
//
// services/systemd writes units and asks systemd over D-Bus; services/zinit
// writes the files of a zinit and asks it over its socket; services/child
// supervises programs where no manager runs, as in a container.
// services/servicestest holds the tests that each of them passes. This package
// does not know which services a QSFS has.
//
// The calls that matter:
//
//	changes, err := m.Plan(ctx, list)  // what Apply would do
//	changes, err = m.Apply(ctx, list)  // install; starts and restarts nothing
//	err = m.Start(ctx, names...)       // then m.WaitReady(ctx, names...)
package services

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Service is one program that is to run always. Fields that a manager cannot
// honour it ignores only where the comment says so.
type Service struct {
	Name        string // letters, digits, `-`, `_`, `.`, `@`; unique in a manager
	Description string
	Exec        []string // absolute path of the program, and its arguments
	Env         []string // KEY=value; not for secrets
	Dir         string   // working directory; empty: the manager's

	After    []string // started before this one, stopped after it
	Before   []string // started after this one, stopped before it: what is added beside services that stay as they are says it so
	Requires []string // as After; and when one of them stops, this one does (systemd, child)

	Notify       bool          // the program tells its readiness by sd_notify; else it is ready when it runs and WaitExec ended with 0
	WaitExec     []string      // run after the start; ends with 0 once the service is ready
	StopExec     []string      // run before the SIGTERM of a stop, once it was ready, as for draining; bounded by StopTimeout, and its failure prevents no stop
	StartTimeout time.Duration // zero: 5 minutes
	StopTimeout  time.Duration // between SIGTERM and SIGKILL; zero: 10 minutes, for queues are drained
	Kill         KillMode      // who gets the signals; empty: KillMain
	RestartDelay time.Duration // after an unexpected end; zero: 2 s, as with zinit always
	SuccessExit  []int         // exit codes after a stop that are no failure, beside 0
	ReloadSignal syscall.Signal
	Watchdog     time.Duration // with Notify: without a sign of life for so long it is ended and started again (systemd); zero: not watched

	Mountpoint  string   // a FUSE mount that this program makes: left visible, and cleared when dead
	Writable    []string // folders that it writes
	RuntimeDir  string   // below /run, made with mode 0700 (systemd)
	Credentials []Credential
	Unconfined  bool // no hardening (systemd)
}

// Credential is a file with a secret that the program finds, under Name, in
// the folder that the environment variable CREDENTIALS_DIRECTORY names.
type Credential struct {
	Name string
	Path string
}

// KillMode says which processes of a service a stop reaches.
type KillMode string

// The kill modes; those of systemd by the same name. With zinit SIGTERM goes to
// the whole process group whatever the mode.
const (
	KillMain    KillMode = "mixed"         // SIGTERM to the program, SIGKILL to what is left
	KillGroup   KillMode = "control-group" // both to all
	KillProcess KillMode = "process"       // both to the program only: what it started goes on
)

// State is what a service does.
type State string

// The states of a service.
const (
	Missing  State = "missing"  // not installed
	Inactive State = "inactive" // installed, does not run
	Starting State = "starting" // runs or waits for its next start, not ready
	Active   State = "active"   // runs and is ready
	Stopping State = "stopping"
	Failed   State = "failed" // ended, and is not started again
)

// Status is one look at a service.
type Status struct {
	Name     string    `json:"name"`
	State    State     `json:"state"`
	Enabled  bool      `json:"enabled"` // starts with the machine
	PID      int       `json:"pid,omitempty"`
	Since    time.Time `json:"since,omitzero"` // of State
	Restarts int       `json:"restarts"`
	ExitCode int       `json:"exit_code"` // of the last end
	Detail   string    `json:"detail,omitempty"`
}

// Action is what a Plan would do about a service.
type Action string

// The actions.
const (
	Create Action = "create"
	Update Action = "update" // takes effect at the next start
	Keep   Action = "keep"
	Delete Action = "delete" // is there, and is not wanted any more; no Plan says it, for it does not know who wants what
)

// Change is one line of a Plan.
type Change struct {
	Name   string `json:"name"`
	Action Action `json:"action"`
	Path   string `json:"path"`           // of the definition
	Text   string `json:"text,omitempty"` // the definition
}

// LogOptions chooses lines of a log.
type LogOptions struct {
	Lines  int  // the last lines; zero means 100
	Follow bool // until the context ends
}

// ServiceManager installs and runs services. It is safe for concurrent use.
// Names that are not installed are [ErrNotFound], but for Status, which says
// [Missing], and Remove, for which they are no error.
type ServiceManager interface {
	// Plan says what Apply would do, and changes nothing.
	Plan(ctx context.Context, list []Service) ([]Change, error)
	// Apply installs the services and has them start with the machine. It starts
	// and restarts nothing; it is idempotent. Other services stay as they are.
	Apply(ctx context.Context, list []Service) ([]Change, error)
	// Remove stops services and forgets them.
	Remove(ctx context.Context, names ...string) error
	// Start starts services, each after those that it comes after. It may return
	// before they are ready. A running one is left alone.
	Start(ctx context.Context, names ...string) error
	// Stop stops services in the opposite order, one after the other, and returns
	// when they have ended. One that did not end in its time was killed, which may
	// be told, by a [*FailedError], when all have ended.
	Stop(ctx context.Context, names ...string) error
	// Restart is Stop and Start.
	Restart(ctx context.Context, names ...string) error
	// Reload sends each its ReloadSignal. One that has none, or does not run, is
	// left alone.
	Reload(ctx context.Context, names ...string) error
	// Installed names the services that an Apply of this manager's kind installed
	// on this machine and no Remove has taken away, in the order of their start.
	Installed(ctx context.Context) ([]string, error)
	// Status looks at services, one result per name, in order.
	Status(ctx context.Context, names ...string) ([]Status, error)
	// Logs writes the last lines that a service printed.
	Logs(ctx context.Context, name string, o LogOptions, to io.Writer) error
	// WaitReady returns when all are [Active]; a [*FailedError] when one has failed.
	WaitReady(ctx context.Context, names ...string) error
}

// ErrNotFound says that a service is not installed.
var ErrNotFound = errors.New("services: no such service")

// FailedError says that a service has failed.
type FailedError struct {
	Status Status
}

func (e *FailedError) Error() string {
	s := fmt.Sprintf("service %s is %s, exit code %d", e.Status.Name, e.Status.State, e.Status.ExitCode)
	if e.Status.Detail != "" {
		s += ": " + e.Status.Detail
	}
	return s
}

// Hint names the remedy.
func (e *FailedError) Hint() string {
	return fmt.Sprintf("`quantumd logs %s` shows what it printed", e.Status.Name)
}

// Ended says whether a Stop has come to its end, though it may have had to kill.
func Ended(err error) bool {
	var killed *FailedError
	return err == nil || errors.As(err, &killed)
}

// AllActive says whether all services are [Active]; a [*FailedError] for the
// first of them that has failed, if none before it is still on its way.
func AllActive(list []Status) (bool, error) {
	for _, st := range list {
		if st.State == Failed {
			return false, &FailedError{Status: st}
		}
		if st.State != Active {
			return false, nil
		}
	}
	return true, nil
}

// Defaults of a Service.
const (
	DefaultStartTimeout = 5 * time.Minute
	DefaultStopTimeout  = 10 * time.Minute
	DefaultRestartDelay = 2 * time.Second
)

// WithDefaults gives the service with its zero fields filled in.
func (s Service) WithDefaults() Service {
	if s.StartTimeout <= 0 {
		s.StartTimeout = DefaultStartTimeout
	}
	if s.StopTimeout <= 0 {
		s.StopTimeout = DefaultStopTimeout
	}
	if s.RestartDelay <= 0 {
		s.RestartDelay = DefaultRestartDelay
	}
	if s.Kill == "" {
		s.Kill = KillMain
	}
	if s.Description == "" {
		s.Description = s.Name
	}
	return s
}

var names = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,99}$`)

// CheckName refuses names that could lead out of a folder or be taken as flags.
func CheckName(name string) error {
	if !names.MatchString(name) {
		return fmt.Errorf("services: name %q: want letters, digits, `-`, `_`, `.` and `@`", name)
	}
	return nil
}

// Validate says what is wrong with a service.
func (s Service) Validate() error {
	if err := CheckName(s.Name); err != nil {
		return err
	}
	bad := func(format string, args ...any) error {
		return fmt.Errorf("service %s: "+format, append([]any{s.Name}, args...)...)
	}
	if len(s.Exec) == 0 || !filepath.IsAbs(s.Exec[0]) {
		return bad("the program needs an absolute path: %q", s.Exec)
	}
	for _, helper := range [][]string{s.WaitExec, s.StopExec} {
		if len(helper) > 0 && !filepath.IsAbs(helper[0]) {
			return bad("the program beside it needs an absolute path: %q", helper)
		}
	}
	switch s.Kill {
	case "", KillMain, KillGroup, KillProcess:
	default:
		return bad("kill mode %q", s.Kill)
	}
	paths := append([]string{s.Dir, s.Mountpoint}, s.Writable...)
	for _, c := range s.Credentials {
		if err := CheckName(c.Name); err != nil {
			return bad("credential: %w", err)
		}
		paths = append(paths, c.Path)
	}
	for _, p := range paths {
		if p != "" && !filepath.IsAbs(p) {
			return bad("%q is not an absolute path", p)
		}
	}
	if s.RuntimeDir != "" && (filepath.IsAbs(s.RuntimeDir) || !filepath.IsLocal(s.RuntimeDir)) {
		return bad("runtime folder %q is not below /run", s.RuntimeDir)
	}
	for _, e := range s.Env {
		if k, _, ok := strings.Cut(e, "="); !ok || k == "" || strings.ContainsAny(k, " \t\n\"'\\") {
			return bad("environment entry without a proper name")
		}
	}
	for _, n := range slices.Concat(s.After, s.Before, s.Requires) {
		if err := CheckName(n); err != nil {
			return bad("%w", err)
		}
	}
	texts := slices.Concat(s.Exec, s.WaitExec, s.StopExec, s.Env, paths, []string{s.Description, s.RuntimeDir})
	if slices.ContainsFunc(texts, func(t string) bool { return strings.ContainsAny(t, "\x00\n\r") }) {
		return bad("a value has a line break or a NUL in it")
	}
	return nil
}

// Resolved gives the list with each Before of one turned into an After of the
// other, where that is in the list.
func Resolved(list []Service) []Service {
	out := slices.Clone(list)
	for _, s := range list {
		for n := range out {
			if slices.Contains(s.Before, out[n].Name) && !slices.Contains(out[n].After, s.Name) {
				out[n].After = append(slices.Clone(out[n].After), s.Name)
			}
		}
	}
	return out
}

// Order sorts services so that each comes behind those that it comes after.
// Names that are not in the list do not matter. A circle, or a name that is
// there twice, is an error. The services themselves stay as they are.
func Order(list []Service) ([]Service, error) {
	given := map[string]Service{}
	for _, s := range list {
		given[s.Name] = s
	}
	sorted, err := order(Resolved(list))
	for n := range sorted {
		sorted[n] = given[sorted[n].Name]
	}
	return sorted, err
}

func order(list []Service) ([]Service, error) {
	byName := map[string]Service{}
	for _, s := range list {
		if _, twice := byName[s.Name]; twice {
			return nil, fmt.Errorf("services: %s is there twice", s.Name)
		}
		byName[s.Name] = s
	}
	const visiting, done = 1, 2
	state := map[string]int{}
	var out []Service
	var visit func(s Service) error
	visit = func(s Service) error {
		switch state[s.Name] {
		case done:
			return nil
		case visiting:
			return fmt.Errorf("services: %s comes after itself", s.Name)
		}
		state[s.Name] = visiting
		for _, n := range slices.Concat(s.After, s.Requires) {
			if before, ok := byName[n]; ok {
				if err := visit(before); err != nil {
					return err
				}
			}
		}
		state[s.Name] = done
		out = append(out, s)
		return nil
	}
	for _, s := range list {
		if err := visit(s); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Manager names a service manager.
type Manager string

// The managers that Detect tells apart.
const (
	Systemd Manager = "systemd"
	Zinit   Manager = "zinit"
	Child   Manager = "child" // none: services/child supervises
)

// Detect says which manager runs on this machine.
func Detect() Manager { return DetectAt("/") }

// DetectAt is Detect below another root.
func DetectAt(root string) Manager {
	// The rule of sd_booted(3). The name of process 1 is wrong below a wrapper.
	if st, err := os.Lstat(filepath.Join(root, "run/systemd/system")); err == nil && st.IsDir() {
		return Systemd
	}
	for _, socket := range ZinitSockets(root) {
		if zinitAnswers(socket) {
			return Zinit
		}
	}
	return Child
}
