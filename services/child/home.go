package child

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"

	"github.com/threefoldtech/quantumd/internal/proc"
	"github.com/threefoldtech/quantumd/services"
)

// home is the folder of one service.
type home string

func (h home) file(name string) string { return filepath.Join(string(h), name) }
func (h home) definition() string      { return h.file("service.json") }

// record is status.json.
type record struct {
	// Supervisor is the process that wrote this: what one that is gone wrote says
	// nothing about now.
	Supervisor int `json:"supervisor"`

	State    services.State `json:"state"`
	PID      int            `json:"pid"`              // of the service; its process group has the same number
	Started  string         `json:"started"`          // what tells the process from a later one with its id
	Since    time.Time      `json:"since"`            // of State
	Restarts int            `json:"restarts"`         // since the supervisor began
	ExitCode int            `json:"exit_code"`        // of the last end
	Detail   string         `json:"detail,omitempty"` // why it waits
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxStateLen))
}

// load reads the definition.
func (h home) load() (services.Service, error) {
	var s services.Service
	name := filepath.Base(string(h))
	if err := services.CheckName(name); err != nil {
		return s, err
	}
	b, err := readBounded(h.definition())
	if errors.Is(err, os.ErrNotExist) {
		return s, fmt.Errorf("%w: %s", services.ErrNotFound, name)
	}
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err == nil {
		err = s.Validate()
	}
	if err == nil && s.Name != name {
		err = fmt.Errorf("it is of %s", s.Name)
	}
	if err != nil {
		return s, fmt.Errorf("service definition %s: %w", h.definition(), err)
	}
	return s, nil
}

func (h home) lock() *flock.Flock {
	return flock.New(h.file("lock"), flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o600))
}

// supervised says whether a supervisor lives.
func (h home) supervised() (bool, error) {
	if _, err := os.Lstat(h.file("lock")); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	l := h.lock()
	free, err := l.TryRLock()
	if err != nil {
		return false, err
	}
	return !free, l.Close()
}

// supervisorPID is the process of the supervisor, zero when none lives.
func (h home) supervisorPID(ctx context.Context) (pid int, err error) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	err = poll(ctx, func() (bool, error) { // one that has just begun writes its id soon
		alive, err := h.supervised()
		if err != nil || !alive {
			return true, err
		}
		pid, err = h.owner()
		return pid != 0, err
	})
	return pid, err
}

// owner is the process that the lock file names; zero where that is gone: the
// next one has the lock, and has not written its id yet.
func (h home) owner() (int, error) {
	b, err := readBounded(h.file("lock"))
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || proc.Started(pid) == "" {
		return 0, nil
	}
	return pid, nil
}

func (h home) readRecord() (record, error) {
	var r record
	b, err := readBounded(h.file("status.json"))
	if errors.Is(err, os.ErrNotExist) {
		return record{State: services.Inactive}, nil
	}
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		// It must not keep a service from starting: the next supervisor writes a
		// new one. Only an orphan would not be found.
		return record{State: services.Inactive, Detail: fmt.Sprintf("%s is damaged: %v", h.file("status.json"), err)}, nil
	}
	return r, nil
}

func (h home) writeRecord(r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return renameio.WriteFile(h.file("status.json"), b, 0o600)
}

func (h home) status(name string) (services.Status, error) {
	st := services.Status{Name: name, State: services.Missing}
	if _, err := os.Lstat(h.definition()); errors.Is(err, os.ErrNotExist) {
		return st, nil
	}
	alive, err := h.supervised()
	if err != nil {
		return st, err
	}
	r, err := h.readRecord()
	if err != nil {
		return st, err
	}
	owner := 0
	if alive {
		if owner, err = h.owner(); err != nil {
			return st, err
		}
	}
	st.State, st.PID, st.Since = r.State, r.PID, r.Since
	st.Restarts, st.ExitCode, st.Detail = r.Restarts, r.ExitCode, r.Detail
	switch {
	case alive && (owner == 0 || r.Supervisor != owner || r.State == services.Inactive || r.State == services.Failed):
		st.State, st.PID = services.Starting, 0 // it has just begun
	case !alive && r.State != services.Inactive && r.State != services.Failed:
		st.State, st.Detail = services.Failed, "its supervisor ended without stopping it"
		if !proc.Is(r.PID, r.Started) {
			st.PID = 0
		}
	}
	return st, nil
}

// endOrphan ends a service whose supervisor was killed; before is called first
// where there is one that was ready.
func (h home) endOrphan(ctx context.Context, s services.Service, before func()) error {
	r, err := h.readRecord()
	if err != nil {
		return err
	}
	if proc.Is(r.PID, r.Started) {
		if before != nil && r.State == services.Active {
			before()
		}
		if err := endProcess(ctx, r.PID, s, func() bool { return !proc.Is(r.PID, r.Started) }); err != nil {
			return err
		}
	}
	if r.State == services.Inactive {
		return nil
	}
	return h.writeRecord(record{State: services.Inactive, Since: time.Now(), Restarts: r.Restarts, ExitCode: r.ExitCode})
}

// endProcess asks a process, the leader of its group, to end; after the
// service's deadline, or when ctx ends, it is killed.
func endProcess(ctx context.Context, pid int, s services.Service, ended func() bool) error {
	if ended() { // while it was drained, as may be: its id may be another's by now
		return nil
	}
	target := pid
	if s.Kill == services.KillGroup {
		target = -pid
	}
	if err := kill(target, syscall.SIGTERM); err != nil {
		return err
	}
	done := func() (bool, error) { return ended(), nil }
	wait, cancel := context.WithTimeout(ctx, s.StopTimeout)
	err := poll(wait, done)
	cancel()
	if err != nil {
		if err := kill(pid, syscall.SIGKILL); err != nil {
			return err
		}
		wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), killWait)
		defer cancel()
		if err := poll(wait, done); err != nil {
			return fmt.Errorf("process %d does not end: %w", pid, err)
		}
	}
	if s.Kill != services.KillProcess {
		return kill(-pid, syscall.SIGKILL) // what is left of its group
	}
	return nil
}

// kill is kill(2); a process that is gone is no error.
func kill(pid int, sig syscall.Signal) error {
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal %v to %d: %w", sig, pid, err)
	}
	return nil
}
