package zinittest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/threefoldtech/quantumd/services/zinit"
)

const (
	spawned = "Spawned"
	running = "Running"
	blocked = "Blocked"
	success = "Success"
)

// service is one that is monitored. The Daemon's lock guards it.
type service struct {
	name      string
	config    config
	state     string
	pid       int
	up        bool // the target
	scheduled bool // somebody watches it
}

func (s *service) kill(signal syscall.Signal) {
	if s.pid != 0 {
		signalGroup(s.pid, signal)
	}
}

// Errors of signals: the process has just ended.
func signalGroup(pid int, signal syscall.Signal) { _ = syscall.Kill(-pid, signal) }
func signalOne(pid int, signal syscall.Signal)   { _ = syscall.Kill(pid, signal) }

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// watch starts the life of a service, unless it has one. The lock is held.
func (d *Daemon) watch(s *service) {
	if !s.up || s.scheduled || d.ended {
		return
	}
	s.scheduled = true
	d.work.Add(1)
	go func() {
		defer d.work.Done()
		d.live(s)
		d.mu.Lock()
		s.scheduled = false
		d.mu.Unlock()
	}()
}

func (d *Daemon) live(s *service) {
	for d.awaitTurn(s) {
		cmd := d.spawn(s)
		if cmd == nil {
			return
		}
		stop := make(chan struct{})
		tested := make(chan struct{})
		if s.config.Oneshot {
			close(tested)
		} else {
			go func() { defer close(tested); d.testUntil(s, stop) }()
		}
		_ = cmd.Wait() // ProcessState tells
		close(stop)
		<-tested
		d.mu.Lock()
		s.pid = 0
		s.state = endState(cmd.ProcessState)
		d.mu.Unlock()
		if s.config.Oneshot {
			d.notify()
			return
		}
		d.sleep(d.o.Pause)
	}
}

// awaitTurn returns when all that a service comes after are ready; false when
// it is not to run any more.
func (d *Daemon) awaitTurn(s *service) bool {
	for {
		d.mu.Lock()
		if !s.up || d.ended {
			d.mu.Unlock()
			return false
		}
		if d.turn(s) {
			return true // with the lock, until it is spawned
		}
		// By its name, as zinit does: another one may have it by now.
		if o := d.table[s.name]; o != nil {
			o.state = blocked
		}
		changed := d.changed
		d.mu.Unlock()
		select {
		case <-changed:
		case <-d.done:
			return false
		}
	}
}

func (d *Daemon) turn(s *service) bool {
	for _, n := range s.config.After {
		o := d.table[n]
		if o == nil || o.state != success && (o.state != running || o.config.Oneshot) {
			return false
		}
	}
	return true
}

// spawn starts the program. The lock is held before, and not after.
func (d *Daemon) spawn(s *service) *exec.Cmd {
	defer d.mu.Unlock()
	cmd, err := d.run(s.config.Exec, s.config, s.name)
	if err != nil {
		s.state = "Failure"
		return nil
	}
	s.state, s.pid = spawned, cmd.Process.Pid
	if s.config.Oneshot {
		s.state = running
	}
	return cmd
}

// run starts a command in a process group of its own.
func (d *Daemon) run(line string, c config, prefix string) (*exec.Cmd, error) {
	words, err := zinit.Split(line)
	if err != nil || len(words) == 0 {
		return nil, errors.New("invalid command")
	}
	cmd := exec.Command(words[0], words[1:]...)
	if cmd.Dir = c.Dir; cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.Env = slices.Clone(d.o.Env)
	for k, v := range c.Env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.Log != "ring" {
		return cmd, cmd.Start()
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, outR.Close(), outW.Close())
	}
	cmd.Stdout, cmd.Stderr = outW, errW
	err = cmd.Start()
	if err == nil {
		d.log.push(fmt.Sprintf("[-] %s: ------------ [start] ------------", prefix))
	}
	err = errors.Join(err, outW.Close(), errW.Close())
	go d.sink(outR, "[+] "+prefix+": ") // they end with the last process that holds the other end
	go d.sink(errR, "[-] "+prefix+": ")
	return cmd, err
}

func (d *Daemon) sink(r io.ReadCloser, prefix string) {
	defer r.Close() //nolint:errcheck // read only
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		d.log.push(prefix + lines.Text())
	}
}

// testUntil tests a service until it is ready, or has ended.
func (d *Daemon) testUntil(s *service, stop <-chan struct{}) {
	for {
		ok, err := true, error(nil)
		if s.config.Test != "" {
			ok, err = d.testOnce(s, stop)
		}
		select {
		case <-stop:
			return
		default:
		}
		d.mu.Lock()
		switch {
		case err != nil:
			s.state = "TestFailure"
		case ok:
			s.state = running
		}
		d.mu.Unlock()
		if ok && err == nil {
			d.notify()
			return
		}
		pause := d.o.Pause
		if err != nil {
			pause = 10 * time.Millisecond // zinit has none at all here
		}
		select {
		case <-time.After(pause):
		case <-stop:
			return
		}
	}
}

func (d *Daemon) testOnce(s *service, stop <-chan struct{}) (bool, error) {
	cmd, err := d.run(s.config.Test, s.config, s.name+"/test")
	if err != nil {
		return false, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return err == nil, nil
	case <-stop: // zinit leaves it alone; a test of ours must leave nothing
		signalGroup(cmd.Process.Pid, killSignal)
		<-ended
		return false, nil
	}
}

// notify wakes those that wait for others.
func (d *Daemon) notify() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.changed)
	d.changed = make(chan struct{})
}

func endState(st *os.ProcessState) string {
	ws := st.Sys().(syscall.WaitStatus)
	switch {
	case ws.Signaled():
		return fmt.Sprintf("Error(Signaled(Pid(%d), %s, %v))", st.Pid(), unix.SignalName(ws.Signal()), ws.CoreDump())
	case ws.ExitStatus() != 0:
		return fmt.Sprintf("Error(Exited(Pid(%d), %d))", st.Pid(), ws.ExitStatus())
	}
	return success
}

// descendants lists the processes below one.
func descendants(pid int) []int {
	parents := map[int][]int{}
	entries, _ := os.ReadDir("/proc") // as best it can
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if parent, err := strconv.Atoi(fields[1]); err == nil {
			parents[parent] = append(parents[parent], n)
		}
	}
	var out []int
	for next := parents[pid]; len(next) > 0; {
		out = append(out, next[0])
		next = append(next[1:], parents[next[0]]...)
	}
	return out
}
