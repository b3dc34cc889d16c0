package services

import (
	"net"
	"os"
	"syscall"
)

// peer is who listens on the other side of a unix socket.
func peer(conn net.Conn) (*syscall.Ucred, error) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, syscall.ENOTSOCK
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *syscall.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		cred, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	return cred, failed
}

// TrustedPeer says whether root or this user listens on the other side of a
// unix socket.
func TrustedPeer(conn net.Conn) bool {
	cred, err := peer(conn)
	return err == nil && (cred.Uid == 0 || int(cred.Uid) == os.Geteuid())
}

// PeerPID is the process that listens on the other side of a unix socket; zero
// where this machine's processes do not hold it.
func PeerPID(conn net.Conn) int {
	cred, err := peer(conn)
	if err != nil {
		return 0
	}
	return int(cred.Pid)
}
