package services

import (
	"io"
	"net"
	"path/filepath"
	"time"
)

// ZinitSockets are where a zinit listens below a root: up to 0.2.14, and since
// 0.2.15.
func ZinitSockets(root string) []string {
	return []string{filepath.Join(root, "/var/run/zinit.sock"), filepath.Join(root, "/tmp/zinit.sock")}
}

// zinitPatience bounds each look at a socket.
const zinitPatience = 2 * time.Second

// zinitAnswers says whether a zinit of either generation listens on a socket. The
// file says nothing: it stays behind when zinit ends, and one in /tmp may be
// anybody's; so only one that root or this user listens on counts.
func zinitAnswers(socket string) bool {
	conn, err := net.DialTimeout("unix", socket, zinitPatience)
	if err != nil {
		return false
	}
	defer conn.Close() //nolint:errcheck // nothing was written that could be lost
	if err := conn.SetDeadline(time.Now().Add(zinitPatience)); err != nil || !TrustedPeer(conn) {
		return false
	}
	if _, err := io.WriteString(conn, "list\n"); err != nil {
		return false
	}
	first := make([]byte, 1)
	_, err = io.ReadFull(conn, first) // both answer with a JSON object, if with different ones
	return err == nil && first[0] == '{'
}
