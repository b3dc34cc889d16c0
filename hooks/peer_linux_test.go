package hooks

import (
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestAllowed(t *testing.T) {
	t.Parallel()
	require.NoError(t, allowed(0, 1000))
	require.NoError(t, allowed(1000, 1000))
	require.Error(t, allowed(1001, 1000))
	require.Error(t, allowed(1000, 0))
}

// Another user who gets at the socket, by a mistake in its mode, is not heard.
func TestOtherUsersAreNotHeard(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become another user")
	}
	path := socketPath(t)
	serve(t, path, HandlerFunc(func(ctxT, Event) error {
		t.Error("the handler was called")
		return nil
	}), ListenerOptions{})
	for _, p := range []string{filepath.Dir(filepath.Dir(path)), filepath.Dir(path), path} {
		require.NoError(t, os.Chmod(p, 0o777))
	}
	request, err := encodeRequest(Event{Kind: Ready, Instance: "i"}.Args())
	require.NoError(t, err)
	type result struct {
		n   int
		err error
	}
	got := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: this thread ends with its user
		const nobody = 65534
		if _, _, errno := syscall.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			got <- result{err: errno}
			return
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(fd)
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		}
		if err != nil {
			got <- result{err: err}
			return
		}
		_, _ = unix.Write(fd, request) // it may be closed already
		n, err := unix.Read(fd, make([]byte, 100))
		if err == unix.ECONNRESET {
			n, err = 0, nil
		}
		got <- result{n, err}
	}()
	r := <-got
	require.NoError(t, r.err)
	require.Zero(t, r.n, "no answer")
}
