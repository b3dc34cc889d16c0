package child

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/threefoldtech/quantumd/internal/proc"
	"github.com/threefoldtech/quantumd/services"
)

const (
	maxRestartDelay = time.Minute
	steady          = time.Minute // a run of this length ends the doubling of delays
	lockWait        = 2 * time.Second
	logCheck        = 5 * time.Second
	requireCheck    = 500 * time.Millisecond
)

// ErrSupervised says that a supervisor of this service lives already.
var ErrSupervised = errors.New("child: service is supervised already")

// Supervise runs the service name of the folder dir, and again whenever it
// ends, until ctx ends; then it stops the service and returns nil.
func Supervise(ctx context.Context, dir, name string, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	h := home(filepath.Join(dir, name))
	s, err := h.load()
	if err != nil {
		return err
	}
	lock := h.lock()
	wait, cancel := context.WithTimeout(ctx, lockWait) // a look at the lock holds it for a moment
	defer cancel()
	if ok, err := lock.TryLockContext(wait, pollEvery); !ok {
		return errors.Join(fmt.Errorf("%w: %s", ErrSupervised, name), ctx.Err(), ignoreTimeout(err))
	}
	defer lock.Close()
	if err := os.WriteFile(h.file("lock"), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return err
	}
	sv := &supervisor{home: h, service: s.WithDefaults(), log: log.With("service", name)}
	if err := h.endOrphan(ctx, sv.service, nil); err != nil { // it is started again: no stop
		return err
	}
	return sv.run(ctx)
}

func ignoreTimeout(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

type supervisor struct {
	home    home
	service services.Service
	log     *slog.Logger
	record  record
	active  bool // this run was ready
}

func (v *supervisor) run(ctx context.Context) error {
	var delay time.Duration
	for {
		began := time.Now()
		err := v.once(ctx)
		if ctx.Err() != nil {
			v.set(services.Inactive, "")
			return ignoreTimeout(err)
		}
		delay = nextDelay(v.service.RestartDelay, delay, time.Since(began))
		v.record.Restarts++
		v.log.Warn("service ended, is started again", "err", err, "in", delay)
		v.set(services.Starting, fmt.Sprintf("%v; next start in %v", err, delay))
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			v.set(services.Inactive, "")
			return nil
		}
	}
}

// nextDelay is the pause before the next start: the service's own at first and
// after a run that was long enough, else twice the last one up to a minute.
func nextDelay(own, last, lived time.Duration) time.Duration {
	if last == 0 || lived >= steady {
		return own
	}
	return max(own, min(2*last, maxRestartDelay))
}

// set writes the status. A supervisor whose disk is full goes on.
func (v *supervisor) set(state services.State, detail string) {
	v.record.Supervisor = os.Getpid()
	v.record.State, v.record.Detail, v.record.Since = state, detail, time.Now()
	if state == services.Inactive {
		v.record.PID, v.record.Started = 0, ""
	}
	if err := v.home.writeRecord(v.record); err != nil {
		v.log.Warn("status not written", "err", err)
	}
}

// once runs the service from its start to its end. The error says how it
// ended; after a stop it is nil.
func (v *supervisor) once(ctx context.Context) error {
	v.clearMount()
	defer v.clearMount()
	required, err := v.awaitRequired(ctx)
	if err != nil {
		return err
	}
	p, err := v.start()
	if err != nil {
		return err
	}
	defer p.close()
	v.record.PID, v.record.Started = p.cmd.Process.Pid, proc.Started(p.cmd.Process.Pid)
	v.active = false
	v.set(services.Starting, "")

	ready := p.awaitReady(v.service)
	late := time.NewTimer(v.service.StartTimeout)
	defer late.Stop()
	look := time.NewTicker(logCheck)
	defer look.Stop()
	follow := time.NewTicker(requireCheck)
	defer follow.Stop()
	if len(required) == 0 {
		follow.Stop()
	}
	for {
		select {
		case err := <-ready:
			ready = nil
			if err != nil {
				return errors.Join(err, v.end(p))
			}
			late.Stop()
			v.active = true
			v.set(services.Active, "")
		case <-late.C:
			return errors.Join(fmt.Errorf("not ready within %v", v.service.StartTimeout), v.end(p))
		case <-look.C:
			if err := v.home.trimLog(); err != nil {
				v.log.Warn("log not trimmed", "err", err)
			}
		case <-follow.C:
			if name := v.changed(required); name != "" {
				return errors.Join(fmt.Errorf("%s, which it requires, ended", name), v.end(p))
			}
		case <-p.ended:
			v.record.PID, v.record.Started = 0, ""
			v.record.ExitCode = p.cmd.ProcessState.ExitCode()
			return p.endError()
		case <-ctx.Done():
			v.set(services.Stopping, "")
			if v.active { // else there is nothing to drain, and nobody who could
				services.RunStopExec(context.Background(), v.service, v.log)
			}
			return v.end(p)
		}
	}
}

// end ends the process: at a stop, or because its start failed.
func (v *supervisor) end(p *process) error {
	v.set(services.Stopping, "")
	err := endProcess(context.Background(), p.cmd.Process.Pid, v.service, func() bool {
		select {
		case <-p.ended:
			return true
		default:
			return false
		}
	})
	if err == nil {
		v.record.ExitCode = p.cmd.ProcessState.ExitCode()
		v.record.PID, v.record.Started = 0, ""
	}
	return err
}

func (v *supervisor) clearMount() {
	if err := services.ClearDeadMount(v.service.Mountpoint); err != nil {
		v.log.Warn("before or after a run", "err", err)
	}
}

func (v *supervisor) start() (*process, error) {
	s := v.service
	log, err := v.home.openLog()
	if err != nil {
		return nil, err
	}
	defer log.Close() // the process has its own
	p := &process{ended: make(chan struct{})}
	env := append(os.Environ(), s.Env...)
	if s.Notify {
		if p.notify, err = listenNotify(v.home.file("notify.sock")); err != nil {
			return nil, err
		}
		env = append(env, "NOTIFY_SOCKET="+p.notify.path)
	}
	if len(s.Credentials) > 0 {
		folder, err := v.home.linkCredentials(s.Credentials)
		if err != nil {
			p.closeNotify()
			return nil, err
		}
		env = append(env, "CREDENTIALS_DIRECTORY="+folder)
	}
	p.cmd = exec.Command(s.Exec[0], s.Exec[1:]...)
	p.cmd.Env, p.cmd.Dir = env, s.Dir
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := p.cmd.Start(); err != nil {
		p.closeNotify()
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // ProcessState tells
		if s.Kill != services.KillProcess {
			_ = kill(-p.cmd.Process.Pid, syscall.SIGKILL) // what it left behind; at once, for its id becomes another's
		}
		close(p.ended)
	}()
	return p, nil
}

// linkCredentials makes the folder that the program finds its secrets in.
func (h home) linkCredentials(list []services.Credential) (string, error) {
	folder := h.file("credentials")
	if err := os.RemoveAll(folder); err != nil {
		return "", err
	}
	if err := os.Mkdir(folder, 0o700); err != nil {
		return "", err
	}
	for _, c := range list {
		if err := os.Symlink(c.Path, filepath.Join(folder, c.Name)); err != nil {
			return "", err
		}
	}
	return folder, nil
}

// process is one run of a service.
type process struct {
	cmd     *exec.Cmd
	ended   chan struct{} // closed when it was reaped
	notify  *notifySocket // nil without Notify
	stop    context.CancelFunc
	waiting chan struct{} // closed when the wait for readiness has ended
}

// awaitReady tells once when the service is ready, or that it cannot be.
func (p *process) awaitReady(s services.Service) <-chan error {
	ctx, cancel := context.WithCancel(context.Background())
	p.stop, p.waiting = cancel, make(chan struct{})
	ready := make(chan error, 1)
	go func() {
		defer close(p.waiting)
		if p.notify != nil {
			if p.notify.wait() != nil {
				return // closed: the process ended first
			}
		}
		if len(s.WaitExec) > 0 {
			cmd := exec.CommandContext(ctx, s.WaitExec[0], s.WaitExec[1:]...)
			cmd.Env = append(os.Environ(), s.Env...)
			cmd.WaitDelay = time.Second
			if out, err := cmd.CombinedOutput(); err != nil {
				text := strings.ToValidUTF8(string(out[max(0, len(out)-500):]), "?")
				ready <- fmt.Errorf("%s: %w: %s", s.WaitExec[0], err, strings.TrimSpace(text))
				return
			}
		}
		ready <- nil
	}()
	return ready
}

func (p *process) closeNotify() {
	if p.notify != nil {
		p.notify.close()
	}
}

// close ends the wait for readiness and waits for the process, which has been
// told to end.
func (p *process) close() {
	p.closeNotify()
	if p.stop != nil {
		p.stop()
		<-p.waiting
	}
	<-p.ended
}

func (p *process) endError() error {
	st := p.cmd.ProcessState
	if ws, ok := st.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return fmt.Errorf("ended by signal %v", ws.Signal())
	}
	return fmt.Errorf("ended with exit code %d", st.ExitCode())
}
