package child

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// notifySocket receives the messages of sd_notify(3).
type notifySocket struct {
	path   string
	folder string // made for it; empty when it lies in the service's
	conn   *net.UnixConn
}

// A socket's path has at most 107 bytes.
const maxSocketPath = 107

func listenNotify(path string) (*notifySocket, error) {
	n := &notifySocket{path: path}
	if len(path) > maxSocketPath {
		var err error
		if n.folder, err = os.MkdirTemp("", "notify-"); err != nil { // 0700
			return nil, err
		}
		n.path = filepath.Join(n.folder, "s")
	}
	if err := os.Remove(n.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var err error
	n.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: n.path, Net: "unixgram"})
	if err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// wait returns when the service says that it is ready, or with an error after
// close.
func (n *notifySocket) wait() error {
	buf := make([]byte, 4096)
	for {
		k, err := n.conn.Read(buf)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if slices.Contains(strings.Split(string(buf[:k]), "\n"), "READY=1") {
			return nil
		}
	}
}

func (n *notifySocket) close() {
	if n.conn != nil {
		_ = n.conn.Close() // it only receives
	}
	_ = os.Remove(n.path) // the next one removes what is left
	if n.folder != "" {
		_ = os.Remove(n.folder)
	}
}
