package mount

import (
	"errors"
	"log/slog"
)

// Why a folder can not be mounted on. Errors of Mount match them.
var (
	ErrNoMountpoint = errors.New("mount: the mountpoint does not exist or is no folder")
	ErrNotEmpty     = errors.New("mount: the mountpoint is not empty")
	ErrMounted      = errors.New("mount: something is mounted on the mountpoint already")
	ErrBusy         = errors.New("mount: files are still open: detached from its path only")
	ErrUnsupported  = errors.New("mount: FUSE is not usable on this machine")
)

// Options says where and how a tree is shown. Path is required.
type Options struct {
	Path       string       // an empty folder that exists
	AllowOther bool         // users other than the one who mounts may use it
	FSName     string       // what /proc/mounts shows as the source; empty: "quantumd"
	Logger     *slog.Logger // nil discards
	Debug      bool         // log each request of the kernel
}
