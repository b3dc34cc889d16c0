package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"github.com/threefoldtech/quantumd/internal/proc"
)

// Command launches each zdb as a detached child process of its own session,
// which outlives this process: the way of the command line. args stand before
// zdb's own arguments, so `quantumd zdb` is Command("/usr/bin/quantumd", "zdb").
// The program must know --admin-file, which a real zdb does not: a password
// among the arguments could be read by every user of the machine.
//
// One process at a time should start backends: which process has which backend
// is told by pid files, so any of them can stop it.
func Command(path string, args ...string) Launcher {
	return &command{path: path, args: args}
}

type command struct {
	path string
	args []string

	// reaping waits for the processes started here for as long as this one
	// lives; without it they would stay behind as zombies. It owns nothing else,
	// so there is nobody to wait for it.
	reaping sync.WaitGroup
}

func (c *command) running(i Instance) (int, bool) {
	pid, ok := readPID(i.path(pidFile))
	return pid, ok
}

func (c *command) start(_ context.Context, i Instance) error {
	// The log is appended to: what an earlier life said stays.
	log, err := os.OpenFile(i.path(logFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the child has its own descriptor
	cmd := exec.Command(c.path, append(append([]string{}, c.args...), zdbArgs(i)...)...)
	cmd.Dir = i.Dir
	cmd.Env = environment(os.Environ())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = detached()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", c.path, err)
	}
	if err := WritePID(i.path(pidFile), cmd.Process.Pid); err != nil {
		_ = cmd.Process.Kill() // the first error tells
		_ = cmd.Wait()
		return err
	}
	c.reaping.Go(func() { _ = cmd.Wait() }) // how it ended is in its log
	return nil
}

// environment is what a backend's process gets of ours: not the secrets that
// may have come with it, for the process outlives this one and needs none.
func environment(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return name == "MNEMONIC" || name == "PASSWORD" || strings.HasPrefix(name, "QUANTUMD_")
	})
}

// stop ends the process: first as asked, after grace by force.
func (c *command) stop(ctx context.Context, i Instance) error {
	pid, ok := readPID(i.path(pidFile))
	if !ok {
		return removePID(i)
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	if err := terminate(p); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s (pid %d): %w", i.ID, pid, err)
	}
	if waitGone(ctx, i, 10*time.Second) {
		return removePID(i)
	}
	if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s (pid %d): %w", i.ID, pid, err)
	}
	if !waitGone(ctx, i, 5*time.Second) {
		return fmt.Errorf("stop %s: pid %d does not end", i.ID, pid)
	}
	return removePID(i)
}

func waitGone(ctx context.Context, i Instance, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, alive := readPID(i.path(pidFile)); !alive {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

func (c *command) forget(context.Context, Instance) error { return nil }

func (c *command) close() error {
	return nil // children live on; stop ends them
}

func zdbArgs(i Instance) []string {
	mode := "user"
	if i.sequential() {
		mode = "seq"
	}
	return []string{"--data", i.path("data"), "--index", i.path("index"), "--mode", mode,
		"--listen", i.Address.Addr().String(), "--port", strconv.Itoa(int(i.Address.Port())),
		"--datasize", strconv.Itoa(dataSize), "--admin-file", i.path(adminFile), "--pid-file", i.path(pidFile)}
}

// A pid file holds the pid and the start time of its process, so that another
// process that later has the number is not taken for it.

// WritePID writes the file; the server's own process does it too (`zdb
// --pid-file`), so that one that a service manager started is found as well.
func WritePID(path string, pid int) error {
	started := proc.Started(pid)
	if started == "" {
		return os.ErrProcessDone
	}
	return renameio.WriteFile(path, fmt.Appendf(nil, "%d %s\n", pid, started), 0o600)
}

// readPID gives the pid in the file if that very process still runs.
func readPID(path string) (int, bool) {
	text, err := readSmall(path, 256)
	if err != nil {
		return 0, false
	}
	fields := strings.Fields(string(text))
	if len(fields) != 2 {
		return 0, false
	}
	pid, err := strconv.Atoi(fields[0])
	return pid, err == nil && proc.Is(pid, fields[1])
}

func removePID(i Instance) error {
	err := os.Remove(i.path(pidFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
