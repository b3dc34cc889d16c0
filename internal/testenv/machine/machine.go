// Package machine gives tests a machine of their own: a container whose process
// 1 is a real service manager, that can be rebooted and lose its power.
//
//	m := machine.Start(t, machine.Options{})        // systemd is up
//	m.Put("quantumd", program)                      // /host/quantumd in the machine
//	m.Must("/host/quantumd", "setup")
//	m.Reboot()
//
// The image is made by scripts/systemd-image.sh; nothing is pulled. The machine
// has no network but its loopback.
package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ory/dockertest/v3"
	"github.com/ory/dockertest/v3/docker"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// DefaultImage is a Debian with systemd; QUANTUMD_SYSTEMD_IMAGE names another.
const DefaultImage = "qsfs-systemd:test"

// Options says what machine it is. The zero value is a Debian with systemd.
type Options struct {
	Image string   // empty: that of systemd
	Init  []string // process 1; empty: systemd
	Stop  string   // the signal that shuts down; empty: SIGRTMIN+3, systemd's
	Up    []string // run until it ends with 0 after each boot; empty: systemctl is-system-running --wait
	Env   []string
	Files map[string]string // there before the first boot: as of Put
}

// Machine is one container. It ends with its test.
type Machine struct {
	Dir string // on the host; /host in the machine

	t    testing.TB
	pool *dockertest.Pool
	id   string
	o    Options
}

// HostDir is where the machine sees Machine.Dir.
const HostDir = "/host"

const (
	bootLimit = 60 * time.Second
	stopLimit = 300 // seconds until a shutdown becomes a power cut
	label     = "quantumd.machine"
)

// Start boots a machine. The test is skipped where no Docker engine, no image
// or no FUSE is.
func Start(t testing.TB, o Options) *Machine {
	t.Helper()
	if o.Image == "" {
		if o.Image = os.Getenv("QUANTUMD_SYSTEMD_IMAGE"); o.Image == "" {
			o.Image = DefaultImage
		}
	}
	if len(o.Init) == 0 {
		// As on a machine, what is mounted is seen everywhere: in a container systemd
		// leaves that to whoever starts it, and credentials depend on it.
		o.Init = []string{"/bin/sh", "-c", "mount --make-rshared / && exec /sbin/init"}
	}
	if o.Stop == "" {
		o.Stop = "SIGRTMIN+3"
	}
	if len(o.Up) == 0 {
		// "degraded" counts: a container lacks what some units of the system want.
		o.Up = []string{"/bin/sh", "-c", "systemctl is-system-running --wait | grep -E '^(running|degraded)$'"}
	}
	pool := engine(t, o.Image)
	m := &Machine{t: t, pool: pool, o: o}
	dir, err := os.MkdirTemp("", "quantumd-machine-") // not t.TempDir: it is below folders of 0700
	require.NoError(t, err)
	m.Dir = dir
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	for name, from := range o.Files {
		m.Put(name, from)
	}
	require.NoError(t, m.create())
	t.Cleanup(m.remove)
	m.boot()
	return m
}

// In gives the machine for a subtest: it fails that.
func (m *Machine) In(t testing.TB) *Machine {
	c := *m
	c.t = t
	return &c
}

func engine(t testing.TB, image string) *dockertest.Pool {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skipf("no FUSE for a machine: %v", err)
	}
	pool, err := dockertest.NewPool("")
	if err == nil {
		pool.Client.SetTimeout(10 * time.Minute) // a shutdown may drain
		err = pool.Client.Ping()
	}
	if err != nil {
		t.Skipf("no Docker engine answers: %v", err)
	}
	if _, err := pool.Client.InspectImage(image); err != nil {
		t.Skipf("no image %s (scripts/systemd-image.sh makes it): %v", image, err)
	}
	removeOrphans(t, pool)
	return pool
}

// removeOrphans removes the machines of tests that ended without a chance to.
func removeOrphans(t testing.TB, pool *dockertest.Pool) {
	list, err := pool.Client.ListContainers(docker.ListContainersOptions{All: true, Filters: map[string][]string{"label": {label}}})
	require.NoError(t, err)
	for _, c := range list {
		pid, err := strconv.Atoi(c.Labels[label])
		if err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = pool.Client.RemoveContainer(docker.RemoveContainerOptions{ID: c.ID, Force: true, RemoveVolumes: true}) // another test may be faster
		}
	}
}

// Immutable says whether a machine may set the immutable flag: an engine in a
// container has what that has.
func Immutable() bool {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(text), "CapPrm:")
	word, _, _ := strings.Cut(strings.TrimSpace(after), "\n")
	set, err := strconv.ParseUint(word, 16, 64)
	return err == nil && set&(1<<capImmutable) != 0
}

// capImmutable is CAP_LINUX_IMMUTABLE of linux/capability.h.
const capImmutable = 9

func capabilities() []string {
	list := []string{"SYS_ADMIN"} // systemd's own mounts, and FUSE
	if Immutable() {
		list = append(list, "LINUX_IMMUTABLE")
	}
	return list
}

func (m *Machine) create() error {
	host := &docker.HostConfig{
		CapAdd:      capabilities(),
		Devices:     []docker.Device{{PathOnHost: "/dev/fuse", PathInContainer: "/dev/fuse", CgroupPermissions: "rwm"}},
		Tmpfs:       map[string]string{"/run": "", "/run/lock": "", "/tmp": "exec"},
		SecurityOpt: []string{"seccomp=unconfined", "apparmor=unconfined"},
		Binds:       []string{"/sys/fs/cgroup:/sys/fs/cgroup:rw", m.Dir + ":" + HostDir},
		NetworkMode: "none",
	}
	c, err := m.pool.Client.CreateContainer(docker.CreateContainerOptions{
		Name: filepath.Base(m.Dir),
		Config: &docker.Config{
			Image: m.o.Image, Cmd: m.o.Init, StopSignal: m.o.Stop, Hostname: "machine",
			Env: append([]string{"container=docker"}, m.o.Env...), Labels: map[string]string{label: strconv.Itoa(os.Getpid())},
		},
		HostConfig: host,
	})
	if err != nil {
		return err
	}
	m.id = c.ID
	return nil
}

func (m *Machine) remove() {
	if m.t.Failed() {
		m.t.Logf("the machine's last words:\n%s", m.journal())
	}
	assert.NoError(m.t, m.pool.Client.RemoveContainer(docker.RemoveContainerOptions{ID: m.id, Force: true, RemoveVolumes: true}))
}

func (m *Machine) journal() string {
	out, _ := m.Run("journalctl", "--no-pager", "--lines=60", "--output=short-precise") // best effort
	return out
}

// boot starts the container and returns when the machine is up.
func (m *Machine) boot() {
	m.t.Helper()
	require.NoError(m.t, m.pool.Client.StartContainer(m.id, nil))
	m.Eventually(bootLimit, func() error { _, err := m.Run(m.o.Up...); return err }, "the machine does not come up")
}

// Reboot shuts the machine down as it should be, and boots it.
func (m *Machine) Reboot() {
	m.t.Helper()
	m.Shutdown()
	m.boot()
}

// Shutdown shuts the machine down and returns how long that took.
func (m *Machine) Shutdown() time.Duration {
	m.t.Helper()
	began := time.Now()
	require.NoError(m.t, m.pool.Client.StopContainer(m.id, stopLimit))
	return time.Since(began)
}

// Boot boots a machine that was shut down or lost its power.
func (m *Machine) Boot() { m.t.Helper(); m.boot() }

// CutPower ends every process of the machine at once.
func (m *Machine) CutPower() {
	m.t.Helper()
	require.NoError(m.t, m.pool.Client.KillContainer(docker.KillContainerOptions{ID: m.id}))
	m.Eventually(bootLimit, func() error {
		c, err := m.pool.Client.InspectContainer(m.id)
		if err == nil && c.State.Running {
			err = errors.New("it runs still")
		}
		return err
	}, "the machine does not end")
}

// ExitError says that a command ended with another code than 0.
type ExitError struct {
	Args   []string
	Code   int
	Output string // of both, as it came
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%s: exit code %d\n%s", strings.Join(e.Args, " "), e.Code, e.Output)
}

// Run runs a command in the machine, as root, and gives what it printed to
// standard output; an [*ExitError] when it ends with another code than 0.
func (m *Machine) Run(args ...string) (string, error) { return m.RunIn(nil, nil, args...) }

// RunIn is Run with standard input and more environment.
func (m *Machine) RunIn(stdin io.Reader, env []string, args ...string) (string, error) {
	exec, err := m.pool.Client.CreateExec(docker.CreateExecOptions{
		Container: m.id, Cmd: args, Env: env, AttachStdin: stdin != nil, AttachStdout: true, AttachStderr: true, Context: context.Background(),
	})
	if err != nil {
		return "", err
	}
	var out, all bytes.Buffer
	err = m.pool.Client.StartExec(exec.ID, docker.StartExecOptions{
		InputStream: stdin, OutputStream: io.MultiWriter(&out, &all), ErrorStream: &all, Context: context.Background(),
	})
	if err != nil {
		return out.String(), err
	}
	done, err := m.pool.Client.InspectExec(exec.ID)
	if err != nil {
		return out.String(), err
	}
	if done.ExitCode != 0 {
		return out.String(), &ExitError{Args: args, Code: done.ExitCode, Output: all.String()}
	}
	return out.String(), nil
}

// Must is Run for what has to succeed.
func (m *Machine) Must(args ...string) string {
	m.t.Helper()
	out, err := m.Run(args...)
	require.NoError(m.t, err)
	return out
}

// Sh is Must of a shell's line; any of its commands that fails is a failure.
func (m *Machine) Sh(line string) string {
	m.t.Helper()
	return m.Must("/bin/bash", "-euo", "pipefail", "-c", line)
}

// Put copies a file of the host to /host/name, executable, and gives that path.
func (m *Machine) Put(name, from string) string {
	m.t.Helper()
	in, err := os.Open(from)
	require.NoError(m.t, err)
	defer in.Close() //nolint:errcheck // read only
	to := filepath.Join(m.Dir, name)
	_ = os.Remove(to) // what runs from there goes on
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	require.NoError(m.t, err)
	_, err = io.Copy(out, in)
	require.NoError(m.t, errors.Join(err, out.Close()))
	return HostDir + "/" + name
}

// Eventually tries until it succeeds.
func (m *Machine) Eventually(limit time.Duration, try func() error, what string) {
	m.t.Helper()
	var last error
	ok := assert.Eventually(m.t, func() bool { last = try(); return last == nil }, limit, 100*time.Millisecond)
	if !ok {
		m.t.Fatalf("%s: %v", what, last)
	}
}
