package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	systemd1 "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// Bus is what a Manager asks of systemd; the connection of go-systemd has it.
type Bus interface {
	ReloadContext(ctx context.Context) error
	EnableUnitFilesContext(ctx context.Context, files []string, runtime, force bool) (bool, []systemd1.EnableUnitFileChange, error)
	DisableUnitFilesContext(ctx context.Context, files []string, runtime bool) ([]systemd1.DisableUnitFileChange, error)
	// Jobs: ch gets their result, such as `done`.
	StartUnitContext(ctx context.Context, name, mode string, ch chan<- string) (int, error)
	StopUnitContext(ctx context.Context, name, mode string, ch chan<- string) (int, error)
	ReloadUnitContext(ctx context.Context, name, mode string, ch chan<- string) (int, error)
	ResetFailedUnitContext(ctx context.Context, name string) error
	GetAllPropertiesContext(ctx context.Context, unit string) (map[string]any, error)
	Close()
}

// probeLimit bounds the first answer on a bus, which may be there without
// systemd on it.
const probeLimit = 5 * time.Second

// Dial connects by the system's bus. Root connects to systemd's own socket
// where there is no bus, or no systemd on it.
func Dial(ctx context.Context) (Bus, error) {
	conn, err := systemd1.NewSystemConnectionContext(ctx)
	if err == nil {
		probe, cancel := context.WithTimeout(ctx, probeLimit)
		_, err = conn.SystemStateContext(probe)
		cancel()
		if err == nil {
			return conn, nil
		}
		conn.Close()
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	private, errPrivate := DialPrivate(ctx)
	if errPrivate == nil {
		return private, nil
	}
	return nil, &ConnectError{Err: errors.Join(err, errPrivate)}
}

// DialPrivate connects to systemd's own socket, as only root can.
func DialPrivate(ctx context.Context) (Bus, error) {
	conn, err := systemd1.NewSystemdConnectionContext(ctx)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// ConnectError says that systemd is not reached.
type ConnectError struct{ Err error }

func (e *ConnectError) Error() string {
	return "systemd does not answer: " + strings.ReplaceAll(e.Err.Error(), "\n", "; ")
}

func (e *ConnectError) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *ConnectError) Hint() string {
	if os.Geteuid() != 0 {
		return "run this as root"
	}
	return "`systemctl is-system-running` tells whether systemd runs on this machine"
}

// deniedError says that systemd wants somebody with more rights.
type deniedError struct{ err error }

func (e *deniedError) Error() string { return e.err.Error() }
func (e *deniedError) Unwrap() error { return e.err }

// Hint names the remedy.
func (e *deniedError) Hint() string { return "run this as root" }

// refused tells what a call's error is about.
func refused(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil { // then the connection is closed, which says less
		return ctx.Err()
	}
	err = fmt.Errorf("systemd: %s: %w", what, err)
	switch errorName(err) {
	case "org.freedesktop.DBus.Error.AccessDenied", "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired":
		return &deniedError{err}
	}
	return err
}

// errorName gives the name of an error that came over D-Bus.
func errorName(err error) string {
	var e dbus.Error
	var p *dbus.Error
	switch {
	case errors.As(err, &e):
		return e.Name
	case errors.As(err, &p):
		return p.Name
	}
	return ""
}

// noSuchUnit says whether systemd does not know a unit (any more).
func noSuchUnit(err error) bool { return errorName(err) == "org.freedesktop.systemd1.NoSuchUnit" }

// JobError says that systemd did not do what it was asked to do with a service,
// though the service has not failed.
type JobError struct {
	Verb   string // start, stop, reload
	Name   string // of the service
	Result string // systemd's word: canceled, dependency, timeout, failed …
}

func (e *JobError) Error() string {
	words := map[string]string{
		"canceled":   "another command of somebody's came in between",
		"dependency": "a service that it needs has failed",
		"timeout":    "it took too long",
		"skipped":    "a condition of its unit is not met",
	}
	if w := words[e.Result]; w != "" {
		return fmt.Sprintf("%s of service %s: %s: %s", e.Verb, e.Name, e.Result, w)
	}
	return fmt.Sprintf("%s of service %s: %s", e.Verb, e.Name, e.Result)
}

// Hint names the remedy.
func (e *JobError) Hint() string {
	if e.Result == "canceled" {
		return "see who else starts and stops services here, and try again"
	}
	return fmt.Sprintf("`systemctl status %s` tells more", unitName(e.Name))
}
