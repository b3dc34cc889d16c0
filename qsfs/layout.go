package qsfs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"github.com/threefoldtech/quantumd/qsfs/config"
)

// Layout says where a system keeps its files. Every folder is private (0700).
type Layout struct {
	Config   string // the YAML file
	Root     string // the frontend: data/ and index/ of its zdb, and the frontend's identity
	State    string // lock, staged index copies, restore in progress
	Database string // SQLite
	Run      string // sockets
	Logs     string
	Backends string // local backends
	Zstor    string // config file of the real zstor's daemon
	Legacy   string // the list of uploaded files of the first scripts; empty: there is none
}

// LayoutBelow keeps everything below one folder.
func LayoutBelow(dir string) Layout {
	return Layout{
		Config:   filepath.Join(dir, "config.yaml"),
		Root:     filepath.Join(dir, "frontend"),
		State:    filepath.Join(dir, "state"),
		Database: filepath.Join(dir, "state", "quantumd.db"),
		Run:      filepath.Join(dir, "run"),
		Logs:     filepath.Join(dir, "log"),
		Backends: filepath.Join(dir, "backends"),
		Zstor:    filepath.Join(dir, "state", "zstor.toml"),
	}
}

// SystemConfig is the configuration of a system on system paths.
const SystemConfig = "/etc/quantumd.yaml"

// SystemLayout is that of an installed system; root is put before each path
// that the configuration does not name (a test's temporary root, or empty).
func SystemLayout(root string, cfg *config.Config) Layout {
	return Layout{
		Config:   filepath.Join(root, SystemConfig),
		Root:     cfg.ZdbRootPath,
		State:    filepath.Join(root, "/var/lib/quantumd"),
		Database: cfg.Database(),
		Run:      filepath.Join(root, "/run/qsfs"),
		Logs:     filepath.Join(root, "/var/log/qsfs"),
		Backends: filepath.Join(root, "/var/lib/quantumd/backends"),
		Zstor:    cfg.ZstorConfigPath,
		Legacy:   filepath.Join(root, "/data/uploaded_data_files"),
	}
}

// DataDir is the data root of the frontend's zdb.
func (l Layout) DataDir() string { return filepath.Join(l.Root, "data") }

// IndexDir is the index root of the frontend's zdb.
func (l Layout) IndexDir() string { return filepath.Join(l.Root, "index") }

// ControlSocket is where the control protocol is served.
func (l Layout) ControlSocket() string { return socketPath(l.Run, "control.sock") }

// HookSocket is where events of an external zdb arrive.
func (l Layout) HookSocket() string { return socketPath(l.Run, "hook.sock") }

// HookSpool is where events of an external zdb wait while nobody is at the
// socket. It survives a reboot.
func (l Layout) HookSpool() string { return filepath.Join(l.State, "spool") }

// ZstorSocket is where the daemon of an external zstor listens.
func (l Layout) ZstorSocket() string { return socketPath(l.Run, "zstor.sock") }

func (l Layout) zstorPID() string { return filepath.Join(filepath.Dir(l.ZstorSocket()), "zstor.pid") }

// handing is where files get the names under which an external zstor stores
// them: on the file system of the data files, so that no byte is copied.
func (l Layout) handing() string { return filepath.Join(l.Root, ".zstor") }

// madeMountpoint names a mountpoint that setup has made.
func (l Layout) madeMountpoint() string { return filepath.Join(l.State, "mountpoint") }

// protectedMountpoint names a mountpoint that setup has made immutable.
func (l Layout) protectedMountpoint() string { return filepath.Join(l.State, "mountpoint-protected") }

// Secrets is where setup keeps secrets that came by the environment, for the service.
func (l Layout) Secrets() string  { return filepath.Join(l.State, "secrets") }
func (l Layout) damaged() string  { return filepath.Join(l.Root, "damaged") }
func (l Layout) staging() string  { return filepath.Join(l.State, "staging") }
func (l Layout) lockFile() string { return filepath.Join(l.State, "lock") }
func (l Layout) identity() string { return filepath.Join(l.Root, "quantumd.json") }

// maxSocketPath is what sockaddr_un holds, without the final NUL.
const maxSocketPath = 107

// socketPath puts a socket into dir or, where its path would be too long for
// the kernel, into a private folder below the temporary one whose name follows
// from dir, so that a client finds it by the same rule.
func socketPath(dir, name string) string {
	path := filepath.Join(dir, name)
	if len(path) <= maxSocketPath {
		return path
	}
	sum := sha256.Sum256([]byte(dir))
	return filepath.Join(os.TempDir(), fmt.Sprintf("quantumd-%d-%s", os.Getuid(), hex.EncodeToString(sum[:6])), name)
}

func (l Layout) make() error {
	for _, dir := range []string{l.State, l.staging(), l.DataDir(), l.IndexDir(), filepath.Dir(l.Database),
		filepath.Dir(l.ControlSocket()), filepath.Dir(l.HookSocket())} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return &PathError{Path: dir, Err: err}
		}
	}
	return nil
}
