// Command quantumd-hook is what a zdb runs for its events: `zdb --hook
// quantumd-hook`. It hands the event to the daemon and ends with its answer.
//
// The daemon's socket is named by the environment variable
// QUANTUMD_HOOK_SOCKET, else by the file quantumd-hook.socket beside this
// program, else it is /run/qsfs/hook.sock.
package main

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"github.com/threefoldtech/quantumd/hooks"
)

func main() {
	// A service manager that stops zdb may signal zdb's process group: the
	// event is still to be delivered. It fails for a group's leader, which is
	// alone already.
	_, _ = syscall.Setsid()
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	program, err := os.Executable()
	if err != nil {
		program = os.Args[0]
	}
	socket, err := hooks.FindSocket(os.Getenv, program)
	if err != nil {
		fmt.Fprintln(os.Stderr, "quantumd-hook:", err)
		return 1
	}
	code, reason := hooks.Relay(context.Background(), &hooks.Client{Socket: socket}, args)
	if reason != nil {
		fmt.Fprintln(os.Stderr, "quantumd-hook:", reason)
	}
	return code
}
