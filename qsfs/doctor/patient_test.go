package doctor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/qsfs/epoch"
	"github.com/threefoldtech/quantumd/services"
)

// patient is a machine in good health, with an installed system, that a test
// makes ill.
type patient struct {
	t       *testing.T
	dir     string
	o       Options
	sys     *system
	manager *managed
	answers map[string]visit // of backends, by id
	status  *client.Status   // of the running system; nil: nothing runs
}

const secret = "hunter2"

func newPatient(t *testing.T) *patient {
	dir := t.TempDir()
	p := &patient{t: t, dir: dir, manager: &managed{}, answers: map[string]visit{}}
	p.sys = &system{
		facts: filepath.Join(dir, "facts"), arch: "amd64", uid: os.Geteuid(), now: func() time.Time { return time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC) },
		release:    func() (string, error) { return "6.1.0-18-amd64", nil },
		statfs:     func(string) (disk, error) { return goodDisk, nil },
		clock:      func() (clockState, error) { return clockState{true, 20 * time.Millisecond}, nil },
		reach:      reach,
		trialMount: func(context.Context) error { return nil },
		measure: func(context.Context, string) (speed, error) {
			return speed{p50: time.Millisecond, p95: 3 * time.Millisecond, write: 400}, nil
		},
		durable:  func(string) error { return nil },
		listen:   func(string) error { return syscall.EADDRINUSE },
		lookPath: func(name string) (string, error) { return "", fmt.Errorf("%s: not in PATH", name) },
		probe:    func(context.Context, string, string) (string, error) { return "0.1.11", nil },
		database: func(context.Context, string) error { return nil },
	}
	p.facts(map[string]string{
		"proc/meminfo":                            "MemTotal:       8000000 kB\nMemFree:  100 kB\nMemAvailable:   6000000 kB\nSwapTotal:             0 kB\n",
		"proc/self/cgroup":                        "0::/system.slice/quantumd.service\n",
		"sys/fs/cgroup/system.slice/memory.max":   "max",
		"sys/fs/cgroup/system.slice/pids.max":     "4915",
		"proc/self/limits":                        "Limit                     Soft Limit           Hard Limit           Units\nMax open files            1024                 524288               files\n",
		"proc/self/mountinfo":                     "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n",
		"proc/sys/kernel/pid_max":                 "32768",
		"proc/sys/net/ipv6/conf/all/disable_ipv6": "0",
		"proc/net/if_inet6":                       "00000000000000000000000000000001 01 80 10 80       lo\n0400000000000000000000000000abcd 03 40 00 80   mycelium\n",
		"proc/net/ipv6_route":                     "04000000000000000000000000000000 07 00000000000000000000000000000000 00 00000000000000000000000000000000 00000400 00000001 00000000 00000001 mycelium\n",
		"proc/locks":                              "",
		"etc/fuse.conf":                           "# a comment\nuser_allow_other\n",
		"dev/fuse":                                "",
		"proc/77/comm":                            "zdb\n",
		"proc/77/cmdline":                         "/usr/local/bin/zdb\x00--socket\x00" + filepath.Join(dir, "run/zdb.sock") + "\x00--data\x00" + filepath.Join(dir, "root/data"),
	})
	p.configured()
	return p
}

var goodDisk = disk{kind: "ext4", id: 1, total: 500 * gib, free: 300 * gib, files: 1 << 24, nodes: 1 << 23}

// facts writes files below /proc, /sys, /dev and /etc.
func (p *patient) facts(files map[string]string) {
	for name, text := range files {
		p.write(filepath.Join(p.sys.facts, name), text, 0o600)
	}
}

func (p *patient) write(path, text string, mode os.FileMode) {
	require.NoError(p.t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(p.t, os.WriteFile(path, []byte(text), 0o600))
	require.NoError(p.t, os.Chmod(path, mode))
}

// root is a system path.
func (p *patient) root(path string) string { return filepath.Join(p.dir, "system", path) }

// configured gives the patient a configuration with seven backends.
func (p *patient) configured() {
	c := config.Default()
	c.EncryptionKey = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
	c.MinShards, c.ExpectedShards = 2, 3
	c.ZdbRootPath, c.QSFSMountpoint = filepath.Join(p.dir, "root"), filepath.Join(p.dir, "mnt")
	for i := range 7 {
		role, id := backend.Meta, fmt.Sprintf("meta%d", i)
		if i >= 4 {
			role, id = backend.Data, fmt.Sprintf("data%d", i-4)
		}
		c.Backends = append(c.Backends, config.Backend{Role: role, Address: fmt.Sprintf("[400::%d]:9900", i+1), Namespace: id, Password: secret})
		p.answers[id] = visit{info: backend.NamespaceInfo{Name: id, Password: true, Sequential: role == backend.Data, Free: 500 * gib}}
	}
	require.NoError(p.t, c.Validate())
	p.o = Options{Config: c, ConfigPath: filepath.Join(p.dir, "system/etc/quantumd.yaml"), Root: filepath.Join(p.dir, "system"), Limit: 5 * time.Second,
		Layout: qsfs.Layout{Root: c.ZdbRootPath, State: filepath.Join(p.dir, "state"), Database: filepath.Join(p.dir, "state/quantumd.db"), Run: filepath.Join(p.dir, "run"),
			Logs: filepath.Join(p.dir, "log"), Backends: filepath.Join(p.dir, "backends"), Zstor: filepath.Join(p.dir, "zstor.toml"), Legacy: p.root("/data/uploaded_data_files")},
		Manager: p.manager, Changes: func(context.Context) ([]services.Change, error) {
			return []services.Change{{Name: "quantumd", Action: services.Keep}}, nil
		},
	}
	for _, d := range []string{"root/data", "root/index", "state/secrets", "run", "mnt", "system/run/systemd/system"} {
		require.NoError(p.t, os.MkdirAll(filepath.Join(p.dir, d), 0o700))
	}
	p.write(p.o.ConfigPath, "password: "+secret+"\n", 0o600)
	p.write(filepath.Join(p.dir, "state/lock"), "", 0o600)
	p.write(filepath.Join(p.dir, "state/secrets/mnemonic"), secret, 0o600)
	p.write(p.o.Layout.Database, "SQLite", 0o600)
	p.write(p.root("/usr/local/bin/quantumd"), "program", 0o755)
	p.write(p.root("/usr/local/bin/quantumd-hook"), "program", 0o755)
	p.o.Program = p.root("/usr/local/bin/quantumd")
	require.NoError(p.t, (&epoch.Identity{Schema: epoch.Schema, Epoch: 3, UUID: "00000000000040008000000000000001"}).Save(filepath.Join(p.o.Layout.Root, "quantumd.json")))
	p.manager.list = []services.Status{{Name: "quantumd", State: services.Active, Enabled: true}}
	p.status = &client.Status{State: client.StateOK, PID: 42, Mount: client.Mount{Path: c.QSFSMountpoint, Mounted: true}, Checkpoint: client.Checkpoint{Seq: 7, AgeSeconds: 30}}
	p.holds(42)
}

// holds has a process hold the system's lock; 0: nobody.
func (p *patient) holds(pid int) {
	st, err := os.Stat(filepath.Join(p.dir, "state/lock"))
	require.NoError(p.t, err)
	inode, known := inodeOf(st)
	require.True(p.t, known)
	text := ""
	if pid != 0 {
		text = fmt.Sprintf("1: FLOCK  ADVISORY  WRITE %d 08:01:%d 0 EOF\n", pid, inode)
	}
	p.facts(map[string]string{"proc/locks": text})
}

// stopped ends the running system.
func (p *patient) stopped() {
	p.status = nil
	p.holds(0)
	p.sys.listen = func(string) error { return nil }
	p.manager.list = nil
}

// external has one component be the real program.
func (p *patient) external(name string) {
	e := &p.o.Config.Engine
	*map[string]*config.EngineKind{"zdb": &e.Zdb, "zstor": &e.Zstor, "zdbfs": &e.Zdbfs}[name] = config.External
}

// listens leaves a socket; open: with somebody behind it.
func (p *patient) listens(name string, open bool) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(p.dir, "run", name), Net: "unix"})
	require.NoError(p.t, err)
	require.NoError(p.t, os.Chmod(filepath.Join(p.dir, "run", name), 0o600))
	if open {
		p.t.Cleanup(func() { _ = l.Close() })
		return
	}
	l.SetUnlinkOnClose(false)
	require.NoError(p.t, l.Close())
}

// examine prepares a run of this patient.
func (p *patient) examine() *examination {
	p.o.system = p.sys
	if p.o.Dialer == nil {
		p.o.Dialer = backend.DialerFunc(func(_ context.Context, b backend.Backend) (backend.Conn, error) {
			return asked{visit: p.answers[b.ID]}, nil
		})
	}
	x, err := prepare(p.t.Context(), p.o)
	require.NoError(p.t, err)
	x.status = p.status
	x.inUse()
	return x
}

// ask runs one check.
func (p *patient) ask(name string) []Result {
	x := p.examine()
	for _, c := range checks {
		if c.name == name {
			return x.one(p.t.Context(), c)
		}
	}
	require.Fail(p.t, "no such check", name)
	return nil
}

func unreachable(b string) visit {
	return visit{err: &backend.UnreachableError{Address: netip.MustParseAddrPort(b), Err: syscall.ECONNREFUSED}}
}

// asked is a connection that only tells of its namespace.
type asked struct {
	backend.Conn
	visit visit
}

func (a asked) Info(context.Context) (backend.NamespaceInfo, error) { return a.visit.info, a.visit.err }
func (a asked) Close() error                                        { return nil }

// managed is a service manager that only tells.
type managed struct {
	services.ServiceManager
	list []services.Status
	err  error
}

func (m *managed) Installed(context.Context) ([]string, error) {
	var out []string
	for _, s := range m.list {
		out = append(out, s.Name)
	}
	return out, m.err
}

func (m *managed) Status(_ context.Context, names ...string) ([]services.Status, error) {
	out := make([]services.Status, len(names))
	for i, n := range names {
		out[i] = services.Status{Name: n, State: services.Missing}
		for _, s := range m.list {
			if s.Name == n {
				out[i] = s
			}
		}
	}
	return out, m.err
}
