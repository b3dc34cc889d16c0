package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/services"
	"github.com/threefoldtech/quantumd/store"
)

// illness is one thing that is wrong, and what is to be said of it.
type illness struct {
	check    string
	what     string
	make     func(p *patient)
	severity Severity
	says     string // part of subject, measured and cause
}

const (
	nobody = 1 // a user that is not root
	gone   = "/nonexistent"
)

func (p *patient) user() { p.sys.uid = nobody }

func (p *patient) disk(change func(d *disk)) {
	p.sys.statfs = func(string) (disk, error) {
		d := goodDisk
		change(&d)
		return d, nil
	}
}

func (p *patient) release(v string) { p.sys.release = func() (string, error) { return v, nil } }

func (p *patient) info(id string, change func(i *backend.NamespaceInfo)) {
	v := p.answers[id]
	change(&v.info)
	p.answers[id] = v
}

func (p *patient) silent(ids ...string) {
	for _, id := range ids {
		p.answers[id] = unreachable("[400::1]:9900")
	}
}

func (p *patient) service(s services.Status) {
	s.Name = "quantumd"
	p.manager.list = []services.Status{s}
}

func (p *patient) address(n int, address string) {
	p.o.Config.Backends[n].Address = address
}

var illnesses = []illness{
	{"platform", "an architecture that nobody tests", func(p *patient) { p.sys.arch = "riscv64" }, Warning, "riscv64"},
	{"kernel", "very old", func(p *patient) { p.release("3.10.0-1160.el7.x86_64") }, Problem, "3.10"},
	{"kernel", "old", func(p *patient) { p.release("4.19.0") }, Warning, "128 KiB"},
	{"kernel", "not understood", func(p *patient) { p.release("next") }, Note, "next"},
	{"memory", "too little", func(p *patient) { p.facts(map[string]string{"proc/meminfo": "MemTotal: 400000 kB\n"}) }, Problem, "390 MiB"},
	{"memory", "taken by others", func(p *patient) {
		p.stopped()
		p.facts(map[string]string{"proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 100000 kB\n"})
	}, Warning, "available"},
	{"memory-cgroup", "a limit of a group above", func(p *patient) { p.facts(map[string]string{"sys/fs/cgroup/memory.max": "104857600"}) }, Problem, "100 MiB"},
	{"memory-cgroup", "a limit of version 1, mounted alone", func(p *patient) {
		p.facts(map[string]string{"proc/self/cgroup": "4:memory:/docker/1\n", "sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes": "104857600"})
	}, Problem, "100 MiB"},
	{"swap", "there is some", func(p *patient) { p.facts(map[string]string{"proc/meminfo": "SwapTotal: 2097152 kB\n"}) }, Note, "2.0 GiB"},
	{"clock-date", "a flat battery", func(p *patient) { p.sys.now = func() time.Time { return time.Unix(0, 0) } }, Problem, "1970"},
	{"clock-sync", "nobody keeps it", func(p *patient) { p.sys.clock = func() (clockState, error) { return clockState{}, nil } }, Warning, "not synchronised"},
	{"open-files", "far too few", func(p *patient) {
		p.facts(map[string]string{"proc/self/limits": "Max open files            256                  256                  files\n"})
	}, Problem, "256"},
	{"open-files", "few", func(p *patient) {
		p.facts(map[string]string{"proc/self/limits": "Max open files            1024                 1024                 files\n"})
	}, Warning, "1024"},
	{"processes-limit", "few", func(p *patient) { p.facts(map[string]string{"sys/fs/cgroup/system.slice/pids.max": "50"}) }, Warning, "50"},

	{"fuse-device", "not there", func(p *patient) { require.NoError(p.t, os.Remove(filepath.Join(p.sys.facts, "dev/fuse"))) }, Problem, "no such device"},
	{"fuse-device", "a file", func(p *patient) {}, Problem, "no device"},
	{"fuse-helper", "not there", func(p *patient) { p.user() }, Problem, "not in PATH"},
	{"fuse-helper", "not setuid", func(p *patient) {
		p.user()
		p.write(p.root("/usr/bin/fusermount3"), "", 0o755)
		p.sys.lookPath = func(string) (string, error) { return p.root("/usr/bin/fusermount3"), nil }
	}, Warning, "not setuid"},
	{"fuse-mount", "refused", func(p *patient) {
		p.sys.trialMount = func(context.Context) error { return errors.New("mount: operation not permitted") }
	}, Problem, "not permitted"},
	{"fuse-mount", "hangs", func(p *patient) {
		p.o.Limit = 20 * time.Millisecond
		block := make(chan struct{})
		p.t.Cleanup(func() { close(block) })
		p.sys.trialMount = func(context.Context) error { <-block; return nil }
	}, Warning, "did not end in time"},
	{"fuse-others", "not allowed", func(p *patient) { p.user(); p.facts(map[string]string{"etc/fuse.conf": "#user_allow_other\n"}) }, Note, "no user_allow_other"},
	{"mountpoint", "not empty", func(p *patient) { p.stopped(); p.write(filepath.Join(p.dir, "mnt/letter"), "", 0o600) }, Problem, "not empty"},
	{"mountpoint", "a file", func(p *patient) { p.stopped(); p.o.Config.QSFSMountpoint = p.o.ConfigPath }, Problem, "no folder"},
	{"mountpoint", "somebody else's mount", func(p *patient) {
		p.stopped()
		p.facts(map[string]string{"proc/self/mountinfo": "36 22 0:40 / " + filepath.Join(p.dir, "mnt") + " rw - fuse.sshfs me@host:/ rw\n"})
	}, Problem, "fuse.sshfs of me@host"},
	{"mountpoint", "dead", func(p *patient) { p.stopped(); p.sys.reach = func(string) error { return syscall.ENOTCONN } }, Warning, "dead mount"},
	{"mountpoint", "another one than in use", func(p *patient) { p.status.Mount.Path = "/mnt/old" }, Warning, "/mnt/old"},

	{"config", "none", func(p *patient) { p.load(gone) }, Note, "no configuration yet"},
	{"config", "wrong", func(p *patient) { p.config("retry_interval: 600\n") }, Problem, `1:17 retry_interval: "600" has no unit`},
	{"config", "several errors", func(p *patient) { p.config("log_level: loud\nupload_workers: 0\n") }, Problem, `upload_workers: 0`},
	{"config-keys", "unknown", func(p *patient) { p.keys("retry_intervall: 6s\n") }, Warning, "1:1 retry_intervall: unknown key"},
	{"config-mode", "open to all", func(p *patient) { require.NoError(p.t, os.Chmod(p.o.ConfigPath, 0o644)) }, Problem, "0644"},
	{"config-mode", "a copy that is open to all", func(p *patient) { p.write(p.o.ConfigPath+"~", secret, 0o644) }, Warning, "quantumd.yaml~"},
	{"config-mode", "somebody else's", func(p *patient) {
		if os.Getuid() == 0 {
			require.NoError(p.t, os.Chown(p.o.ConfigPath, 4711, 0))
		} else {
			p.sys.uid = os.Getuid() + 1
		}
	}, Warning, "another user"},
	{"encryption-key", "none", func(p *patient) { p.o.Config.EncryptionKey = "" }, Problem, "no key and no mnemonic"},
	{"secret-files", "open to the group", func(p *patient) {
		require.NoError(p.t, os.Chmod(filepath.Join(p.dir, "state/secrets/mnemonic"), 0o640))
	}, Problem, "0640"},
	{"secret-files", "an older zstor's configuration", func(p *patient) { p.write(p.root("/etc/zstor-default.toml"), "", 0o644) }, Problem, "zstor-default.toml"},
	{"promises", "a real zdbfs", func(p *patient) { p.external("zdb"); p.external("zdbfs") }, Note, "fsync is not durable"},

	{"disk-writable", "read-only", func(p *patient) { p.disk(func(d *disk) { d.readOnly = true }) }, Problem, "read-only"},
	{"disk-writable", "does not answer", func(p *patient) { p.sys.statfs = func(string) (disk, error) { return disk{}, syscall.EIO } }, Problem, "input/output error"},
	{"disk-space", "full", func(p *patient) { p.disk(func(d *disk) { d.free = 10 * mib }) }, Problem, "10 MiB"},
	{"disk-space", "nearly full", func(p *patient) { p.stopped(); p.disk(func(d *disk) { d.free = 2 * gib }) }, Warning, "2.0 GiB"},
	{"disk-inodes", "none left", func(p *patient) { p.disk(func(d *disk) { d.nodes = 10 }) }, Problem, "10 of"},
	{"disk-inodes", "few left", func(p *patient) { p.disk(func(d *disk) { d.nodes = 5000 }) }, Warning, "5000 of"},
	{"disk-type", "memory", func(p *patient) { p.disk(func(d *disk) { d.kind = "tmpfs" }) }, Warning, "next boot"},
	{"disk-type", "a container's layer", func(p *patient) { p.disk(func(d *disk) { d.kind = "overlay" }) }, Warning, "container"},
	{"disk-type", "a network's", func(p *patient) { p.disk(func(d *disk) { d.kind = "nfs" }) }, Warning, "network"},
	{"disk-type", "a stick's", func(p *patient) { p.disk(func(d *disk) { d.kind = "vfat" }) }, Problem, "modes"},
	{"disk-type", "a FUSE", func(p *patient) { p.disk(func(d *disk) { d.kind = "fuse" }) }, Warning, "FUSE"},
	{"disk-type", "an image", func(p *patient) { p.disk(func(d *disk) { d.kind = "squashfs" }) }, Problem, "read-only for ever"},
	{"disk-rename", "no sync of folders", func(p *patient) { p.sys.durable = func(string) error { return syscall.EINVAL } }, Problem, "invalid argument"},
	{"disk-speed", "slow syncs", func(p *patient) {
		p.measured(speed{p50: 40 * time.Millisecond, p95: 90 * time.Millisecond, write: 100})
	}, Warning, "90ms"},
	{"disk-speed", "slow writes", func(p *patient) { p.measured(speed{p50: time.Millisecond, p95: time.Millisecond, write: 3}) }, Warning, "3 MiB/s"},
	{"disk-speed", "an error", func(p *patient) {
		p.sys.measure = func(context.Context, string) (speed, error) { return speed{}, syscall.EIO }
	}, Warning, "input/output error"},
	{"disk-handing", "two file systems", func(p *patient) {
		p.external("zstor")
		p.sys.statfs = func(path string) (disk, error) { return disk{kind: "ext4", id: uint64(len(path))}, nil }
	}, Problem, "hard links"},

	{"folder-modes", "others may write", func(p *patient) { require.NoError(p.t, os.Chmod(filepath.Join(p.dir, "state"), 0o777)) }, Problem, "0777"},
	{"folder-modes", "others may look", func(p *patient) { require.NoError(p.t, os.Chmod(filepath.Join(p.dir, "run"), 0o755)) }, Warning, "0755"},
	{"folder-modes", "a file in place of a folder", func(p *patient) { p.write(filepath.Join(p.dir, "backends"), "", 0o600) }, Problem, "no folder"},
	{"sockets", "left by a killed process", func(p *patient) { p.stopped(); p.listens("control.sock", false) }, Note, "nobody listens"},
	{"sockets", "listening, says the kernel", func(p *patient) {
		p.stopped()
		p.listens("hook.sock", false)
		p.facts(map[string]string{"proc/net/unix": "Num       RefCount Protocol Flags    Type St Inode Path\n0000000000000000: 00000002 00000000 00010000 0001 01 1234 " + filepath.Join(p.dir, "run/hook.sock") + "\n"})
	}, OK, "somebody listens"},
	{"sockets", "open to all", func(p *patient) {
		p.listens("hook.sock", true)
		require.NoError(p.t, os.Chmod(filepath.Join(p.dir, "run/hook.sock"), 0o666))
	}, Warning, "0666"},
	{"sockets", "a file in its place", func(p *patient) { p.write(filepath.Join(p.dir, "run/control.sock"), "", 0o600) }, Problem, "no socket"},
	{"lock", "held by what does not answer", func(p *patient) { p.stopped(); p.holds(4711) }, Warning, "process 4711"},
	{"identity", "damaged", func(p *patient) { p.write(filepath.Join(p.o.Layout.Root, "quantumd.json"), "{", 0o600) }, Problem, "cannot be read"},
	{"identity", "data files of somebody else", func(p *patient) {
		require.NoError(p.t, os.Remove(filepath.Join(p.o.Layout.Root, "quantumd.json")))
		p.write(filepath.Join(p.o.Layout.DataDir(), "zdbfs-data/d0"), "", 0o600)
	}, Warning, "no identity"},
	{"database", "damaged", func(p *patient) { p.sys.database = store.Verify }, Problem, "damaged"},
	{"database", "of a newer program", func(p *patient) {
		p.sys.database = func(context.Context, string) error {
			return fmt.Errorf("open store: %w", &store.NewerSchemaError{Have: 99, Want: 6})
		}
	}, Problem, "99"},
	{"database", "cannot be opened", func(p *patient) { p.sys.database = func(context.Context, string) error { return syscall.EIO } }, Warning, "input/output"},
	{"database", "large", func(p *patient) {
		p.o.Limit = 400 * time.Millisecond
		p.sys.database = func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }
	}, Note, "too large"},

	{"programs", "not found", func(p *patient) { p.external("zstor") }, Problem, "no program is found"},
	{"programs", "cannot be run", func(p *patient) {
		p.external("zstor")
		p.o.Programs = map[string]string{"zstor": "/usr/local/bin/zstor"}
		p.sys.probe = func(context.Context, string, string) (string, error) { return "", errors.New("exec format error") }
	}, Problem, "exec format error"},
	{"programs", "another version", func(p *patient) { p.external("zdbfs"); p.program("zdbfs", "0.0.1") }, Note, "0.0.1"},
	{"programs", "no version", func(p *patient) { p.external("zdbfs"); p.program("zdbfs", "") }, Note, "does not tell"},
	{"hook-program", "gone while zdb runs", func(p *patient) {
		p.external("zdb")
		require.NoError(p.t, os.Remove(p.root("/usr/local/bin/quantumd-hook")))
	}, Problem, "no hook program"},
	{"hook-program", "cannot be run", func(p *patient) {
		p.external("zdb")
		require.NoError(p.t, os.Chmod(p.root("/usr/local/bin/quantumd-hook"), 0o644))
	}, Problem, "cannot run"},
	{"installed-program", "another version", func(p *patient) {
		p.o.Program = p.root("/usr/local/bin/quantumd-new")
		p.write(p.o.Program, "newer", 0o755)
	}, Note, "quantumd upgrade"},
	{"installed-program", "others may replace it", func(p *patient) { require.NoError(p.t, os.Chmod(p.root("/usr/local/bin/quantumd"), 0o777)) }, Problem, "0777"},
	{"manager", "none", func(p *patient) { require.NoError(p.t, os.RemoveAll(p.root("/run/systemd"))) }, Note, "neither"},
	{"services", "failed", func(p *patient) {
		p.service(services.Status{State: services.Failed, ExitCode: 1, Detail: "start-limit-hit"})
	}, Problem, "start-limit-hit"},
	{"services", "ends again and again", func(p *patient) { p.service(services.Status{State: services.Starting, Restarts: 9, Enabled: true}) }, Problem, "again and again"},
	{"services", "its definition is gone", func(p *patient) { p.service(services.Status{State: services.Missing}) }, Problem, "gone"},
	{"services", "stopped", func(p *patient) { p.service(services.Status{State: services.Inactive, Enabled: true}) }, Warning, "not running"},
	{"services", "ended before", func(p *patient) { p.service(services.Status{State: services.Active, Restarts: 5, Enabled: true}) }, Warning, "ended unexpectedly"},
	{"services", "does not start with the machine", func(p *patient) { p.service(services.Status{State: services.Active}) }, Warning, "does not start with the machine"},
	{"services", "the manager does not answer", func(p *patient) { p.manager.err = syscall.ECONNREFUSED }, Warning, "refused"},
	{"definitions", "changed by hand", func(p *patient) {
		p.changes(services.Change{Name: "quantumd", Action: services.Update, Path: "/etc/systemd/system/quantumd.service"})
	}, Warning, "changed by hand"},
	{"definitions", "one is missing", func(p *patient) { p.changes(services.Change{Name: "qsfs-meta0", Action: services.Create}) }, Warning, "qsfs-meta0"},
	{"definitions", "not known", func(p *patient) {
		p.o.Changes = func(context.Context) ([]services.Change, error) { return nil, errors.New("no such thing") }
	}, Warning, "no such thing"},
	{"metrics-port", "taken", func(p *patient) { p.stopped(); p.sys.listen = func(string) error { return syscall.EADDRINUSE } }, Warning, "another program"},
	{"metrics-port", "not this machine's", func(p *patient) { p.stopped(); p.sys.listen = func(string) error { return syscall.EADDRNOTAVAIL } }, Warning, "does not have the address"},
	{"metrics-port", "not served", func(p *patient) { p.sys.listen = func(string) error { return nil } }, Warning, "does not listen"},
	{"other-files", "services of an older installation", func(p *patient) { p.write(p.root("/etc/systemd/system/zdb.service"), "", 0o644) }, Warning, "zdb.service"},
	{"other-files", "a local backend of an older installation", func(p *patient) { p.write(p.root("/etc/zinit/zdb-back3.yaml"), "", 0o644) }, Warning, "zdb-back3"},
	{"other-files", "the scripts' list", func(p *patient) { p.write(p.root("/data/uploaded_data_files"), "", 0o644) }, Note, "list of uploaded files"},
	{"other-processes", "on the same files", func(p *patient) {
		p.facts(map[string]string{"proc/88/comm": "zdb\n", "proc/88/cmdline": "/bin/zdb\x00--data\x00" + p.o.Layout.DataDir() + "\x00--port\x009900\x00"})
	}, Problem, "process 88"},
	{"other-processes", "on the same mount", func(p *patient) {
		p.facts(map[string]string{"proc/88/comm": "zdbfs\n", "proc/88/cmdline": "/bin/zdbfs\x00" + filepath.Join(p.dir, "mnt") + "\x00"})
	}, Problem, "process 88"},
	{"other-processes", "beside it", func(p *patient) {
		p.facts(map[string]string{"proc/88/comm": "zstor_v2\n", "proc/88/cmdline": "/bin/zstor_v2\x00-c\x00/etc/other.toml\x00"})
	}, Note, "other files"},

	{"network-ipv6", "disabled", func(p *patient) { p.facts(map[string]string{"proc/sys/net/ipv6/conf/all/disable_ipv6": "1"}) }, Problem, "disabled"},
	{"network-ipv6", "no address", func(p *patient) { p.facts(map[string]string{"proc/net/if_inet6": ""}) }, Problem, "7 backends"},
	{"network-mycelium", "not there", func(p *patient) {
		p.facts(map[string]string{"proc/net/if_inet6": "00000000000000000000000000000001 01 80 10 80       lo\n"})
	}, Problem, "no address in 400::/7"},
	{"network-mycelium", "no route", func(p *patient) { p.facts(map[string]string{"proc/net/ipv6_route": ""}) }, Problem, "no route"},
	{"network-mycelium", "not there, and backends are to be rented", func(p *patient) {
		p.facts(map[string]string{"proc/net/if_inet6": "00000000000000000000000000000001 01 80 10 80       lo\n"})
		p.o.Config.Backends, p.o.Backends = nil, nil
		p.o.Config.Mnemonic, p.o.Config.DeploymentName, p.o.Config.Network = "words", "demo", "dev"
	}, Problem, "the backends to rent will be in the mycelium network"},
	{"network-mycelium", "yggdrasil is not there", func(p *patient) {
		for i := range p.o.Config.Backends {
			p.address(i, fmt.Sprintf("[201::%d]:9900", i+1))
		}
	}, Problem, "yggdrasil"},
	{"backend-answers", "silent", func(p *patient) { p.silent("data1") }, Problem, "data1 [400::6]:9900 it does not answer: connection refused"},
	{"backend-answers", "one that took another's place is silent", func(p *patient) {
		for i, b := range p.o.Config.Backends {
			p.status.Backends = append(p.status.Backends, client.Backend{ID: fmt.Sprint("b", i), Role: string(b.Role), Address: b.Address, Namespace: b.Namespace, State: "up"})
		}
		p.status.Backends[6] = client.Backend{ID: "data9", Role: "data", Address: "[400::9]:9900", State: "down", Error: "timeout"}
		p.silent("data2") // replaced: nobody is asked
	}, Problem, "data9 [400::9]:9900 down it does not answer the running system: timeout"},
	{"backend-number", "those that took another's place count", func(p *patient) {
		for i, b := range p.o.Config.Backends {
			p.status.Backends = append(p.status.Backends, client.Backend{ID: fmt.Sprint("b", i), Role: string(b.Role), Address: b.Address, Namespace: b.Namespace, State: "up"})
		}
		p.status.Backends[6] = client.Backend{ID: "data9", Role: "data", Address: "[400::9]:9900", State: "up"}
		p.silent("data2")
	}, OK, "3 data, 4 metadata"},
	{"backend-answers", "slow", func(p *patient) { p.o.Dialer = slowDialer{p} }, Warning, "slowly"},
	{"backend-password", "wrong", func(p *patient) { p.answers["meta2"] = visit{err: fmt.Errorf("select: %w", backend.ErrAccess)} }, Problem, "meta2 [400::3]:9900 it does not accept"},
	{"backend-password", "missing in the configuration", func(p *patient) { p.o.Config.Backends[0].Password = "" }, Problem, "none is listed"},
	{"backend-password", "none at all", func(p *patient) { p.info("data0", func(i *backend.NamespaceInfo) { i.Password = false }) }, Warning, "anybody"},
	{"backend-password", "public", func(p *patient) { p.info("data0", func(i *backend.NamespaceInfo) { i.Public = true }) }, Note, "anybody who reaches it can read"},
	{"backend-mode", "the other one", func(p *patient) { p.info("data2", func(i *backend.NamespaceInfo) { i.Sequential = false }) }, Problem, "user mode"},
	{"backend-mode", "no namespace", func(p *patient) { p.answers["meta1"] = visit{err: zdb.ErrNoNamespace} }, Problem, "no namespace"},
	{"backend-mode", "locked", func(p *patient) { p.info("data2", func(i *backend.NamespaceInfo) { i.Locked = true }) }, Problem, "nothing can be written"},
	{"backend-mode", "worm", func(p *patient) { p.info("data2", func(i *backend.NamespaceInfo) { i.Worm = true }) }, Warning, "worm"},
	{"backend-space", "its disk is full", func(p *patient) { p.info("data1", func(i *backend.NamespaceInfo) { i.Free = 10 * mib }) }, Problem, "10 MiB"},
	{"backend-space", "its namespace is full", func(p *patient) { p.info("data1", func(i *backend.NamespaceInfo) { i.Limit, i.Used = gib, gib-mib }) }, Problem, "1 MiB"},
	{"backend-space", "nearly full", func(p *patient) { p.info("data1", func(i *backend.NamespaceInfo) { i.Free = 500 * mib }) }, Warning, "nearly full"},
	{"backend-hosts", "too many on one machine", func(p *patient) {
		for i := range p.o.Config.Backends {
			p.address(i, fmt.Sprintf("[400::1]:%d", 9900+i))
		}
	}, Warning, "3 data backends they are lost together"},
	{"backend-hosts", "two on one machine", func(p *patient) { p.address(0, "[400::2]:9901") }, Note, "2 meta backends"},
	{"backend-hosts", "this machine", func(p *patient) { p.address(0, "127.0.0.1:9900") }, Note, "lost with this machine"},
	{"backend-number", "too few to read", func(p *patient) { p.silent("data0", "data1") }, Problem, "2 are needed to read"},
	{"backend-number", "too few to store", func(p *patient) { p.silent("data0") }, Problem, "3 are needed to store"},
	{"backend-number", "three metadata backends are away", func(p *patient) { p.silent("meta0", "meta1", "meta2") }, Problem, "two are needed to read"},
	{"backend-number", "two metadata backends are away", func(p *patient) { p.silent("meta0", "meta1") }, Problem, "three are needed to store"},
	{"backend-number", "one metadata backend is away", func(p *patient) { p.silent("meta0") }, Warning, "degraded"},

	{"daemon", "does not answer though installed", func(p *patient) { p.status = nil }, Problem, "does not answer"},
	{"daemon", "nothing runs", func(p *patient) { p.stopped() }, Note, "nothing runs"},
	{"daemon", "failed", func(p *patient) { p.status.State = client.StateFailed }, Problem, "does not serve"},
	{"daemon", "fenced", func(p *patient) { p.status.State = client.StateFenced }, Problem, "taken over"},
	{"daemon", "degraded", func(p *patient) { p.status.State = client.StateDegraded }, Warning, "less protection"},
	{"daemon", "starting", func(p *patient) { p.status.State = client.StateStarting }, Note, "starting"},
	{"daemon-notes", "some", func(p *patient) { p.status.Notes = []string{"one backend is away"} }, Note, "one backend is away"},
	{"loss-window", "old", func(p *patient) { p.status.LossWindow = client.LossWindow{Bytes: 5 * mib, Seconds: 86400} }, Warning, "24h0m0s"},
	{"queue", "failed", func(p *patient) { p.status.Queue = client.Queue{Failed: 3} }, Warning, "3 failed"},
	{"checkpoint", "none", func(p *patient) { p.status.Checkpoint.Seq, p.status.LossWindow.Bytes = 0, mib }, Warning, "nothing was committed"},
}

func (p *patient) measured(s speed) {
	p.sys.measure = func(context.Context, string) (speed, error) { return s, nil }
}

func (p *patient) program(name, version string) {
	p.o.Programs = map[string]string{name: "/usr/local/bin/" + name}
	p.sys.probe = func(context.Context, string, string) (string, error) { return version, nil }
}

func (p *patient) changes(list ...services.Change) {
	p.o.Changes = func(context.Context) ([]services.Change, error) { return list, nil }
}

// load reads a configuration as the command does.
func (p *patient) load(path string) {
	c, err := config.Load(path, config.TolerateUnknown())
	if err == nil {
		err = c.Validate()
	}
	p.o.Config, p.o.ConfigErr, p.o.ConfigPath = c, err, path
	if err != nil {
		p.o.Config = nil
	}
}

// config has the patient read a file.
func (p *patient) config(text string) {
	p.write(p.o.ConfigPath, text+"encryption_key: 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\nbackends: [{role: meta, address: \"192.0.2.1:1\", password: "+secret+"}]\n", 0o600)
	p.load(p.o.ConfigPath)
}

// keys has the patient's own configuration carry warnings.
func (p *patient) keys(text string) {
	c, err := config.Parse(p.o.ConfigPath, []byte(text), config.TolerateUnknown())
	require.NoError(p.t, err)
	c.Backends, c.EncryptionKey = p.o.Config.Backends, p.o.Config.EncryptionKey
	p.o.Config = c
}

type slowDialer struct{ p *patient }

func (d slowDialer) Dial(ctx context.Context, b backend.Backend) (backend.Conn, error) {
	if b.ID == "data0" {
		select { // a backend behind a bad line
		case <-ctx.Done():
		case <-time.After(slow + 50*time.Millisecond):
		}
	}
	return asked{visit: d.p.answers[b.ID]}, nil
}

// Each check finds what it is for, and says it with cause and remedy, and no
// secret.
func TestEachCheckFinds(t *testing.T) {
	for _, ill := range illnesses {
		t.Run(ill.check+"/"+ill.what, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t)
			ill.make(p)
			list := p.ask(ill.check)
			require.NotEmpty(t, list)
			var said strings.Builder // by results of that severity
			for _, r := range list {
				sound(t, r)
				if r.Severity == ill.severity {
					said.WriteString(strings.Join(strings.Fields(r.Subject+" "+r.Measured+" "+r.Cause), " ") + "\n")
				}
			}
			assert.Equal(t, ill.severity, worst(list).Severity, "%+v", list)
			assert.Contains(t, said.String(), ill.says)
		})
	}
}

// sound says what every result has to be.
func sound(t *testing.T, r Result) {
	t.Helper()
	assert.NotEmpty(t, r.Check)
	for _, text := range []string{r.Subject, r.Measured, r.Cause, r.Remedy} {
		assert.NotContains(t, text, "\n", "one line each")
		assert.NotContains(t, text, secret)
	}
	if r.Severity.Worse(Note) {
		assert.NotEmpty(t, r.Cause, "%+v", r)
		assert.NotEmpty(t, r.Remedy, "%+v", r)
	}
	if r.Severity == Note || r.Severity == Skipped {
		assert.NotEmpty(t, r.Cause, "%+v", r)
	}
}

// No check is there that nothing was shown to fail.
func TestEveryCheckHasAnIllness(t *testing.T) {
	found := map[string]bool{}
	for _, ill := range illnesses {
		if ill.severity.Worse(OK) {
			found[ill.check] = true
		}
	}
	names := Names()
	assert.GreaterOrEqual(t, len(names), 30)
	for _, n := range names {
		assert.True(t, found[n], "no test makes %s fail", n)
	}
}

// A machine in good health has nothing to complain of.
func TestHealthy(t *testing.T) {
	p := newPatient(t)
	p.listens("hook.sock", true)
	for _, name := range Names() {
		if name == "fuse-device" {
			continue // a test cannot make a device; see TestThisMachine
		}
		for _, r := range p.ask(name) {
			sound(t, r)
			assert.False(t, r.Severity.Worse(OK), "%+v", r)
		}
	}
}
