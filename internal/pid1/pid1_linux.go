// Package pid1 lets a program be process 1 of a container.
//
// The kernel gives process 1 every orphan of the container, as what a killed
// hook or fusermount left behind: somebody has to take their exit codes, or they
// stay as zombies. A program that runs other programs cannot: it would take the
// exit code that os/exec waits for. So process 1 is a small parent that runs the
// program again as its child, hands every signal on, and reaps.
package pid1

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// grace is how long what the program left behind has to end.
const grace = 10 * time.Second

// Is says whether this is process 1.
func Is() bool { return os.Getpid() == 1 }

// Run runs this program again, with the same arguments, and gives its exit code
// (128 and the signal's number where one ended it) once it has ended. What still
// runs then is asked to end, and waited for some seconds.
func Run() (code int, err error) {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals) // all; before the child, whose end is one
	defer signal.Stop(signals)
	self, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("find this program: %w", err)
	}
	p, err := os.StartProcess(self, os.Args, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return 0, err
	}
	for s := range signals {
		switch s {
		case syscall.SIGCHLD:
			if status, ended := reap(p.Pid); ended {
				signal.Stop(signals)
				return exitCode(status), endRest()
			}
		case syscall.SIGURG, syscall.SIGPIPE: // the Go runtime's own; of our own streams
		default:
			_ = syscall.Kill(p.Pid, s.(syscall.Signal)) // it may just have ended
		}
	}
	return 0, errors.New("no more signals")
}

// reap takes the exit codes of all that have ended, and tells whether the child
// was among them.
func reap(child int) (status syscall.WaitStatus, ended bool) {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return status, ended
		}
		if pid == child {
			status, ended = ws, true
		}
	}
}

// endRest asks everything else in the container to end, and waits a while. When
// process 1 ends, the kernel kills what is left.
func endRest() error {
	if err := syscall.Kill(-1, syscall.SIGTERM); err != nil {
		if errors.Is(err, syscall.ESRCH) {
			return nil
		}
		return err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(grace); time.Now().Before(end); <-tick.C {
		_, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.ECHILD) {
			return nil
		}
	}
	return nil
}

func exitCode(ws syscall.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}
