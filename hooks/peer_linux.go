package hooks

import (
	"fmt"
	"net"
	"os"
	"syscall"
)

// checkPeer refuses other users than root and our own.
func checkPeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *syscall.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err != nil {
		return err
	}
	if credErr != nil {
		return fmt.Errorf("peer credentials: %w", credErr)
	}
	return allowed(cred.Uid, uint32(os.Geteuid()))
}

func allowed(uid, own uint32) error {
	if uid != 0 && uid != own {
		return fmt.Errorf("peer has uid %d", uid)
	}
	return nil
}
