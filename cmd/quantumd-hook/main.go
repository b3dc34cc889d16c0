// Command quantumd-hook is what a zdb runs for its events: `zdb --hook
// quantumd-hook`. It hands the event to the daemon and ends with its answer;
// what the daemon cannot take now waits in the spool. It reads no configuration
// and no database.
//
// The daemon's socket is named by the environment variable
// QUANTUMD_HOOK_SOCKET, else by the file quantumd-hook.socket beside this
// program, else it is /run/qsfs/hook.sock. Beside the socket the daemon leaves
// hook.conf, which names the spool and what else is needed while the daemon is
// down.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/engine/zstor/monitor"
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
	path, err := os.Executable()
	if err != nil {
		path = os.Args[0]
	}
	// One that is killed counts for zdb as one that succeeded: asked to end, it
	// still puts its event into the spool.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	prepare(args)
	p := hooks.Program{Getenv: os.Getenv, Path: path, Stderr: os.Stderr, Retrieve: retrieve}
	return p.Run(ctx, args)
}

// prepare sees, before a zdb looks at its files, that it does not begin with an
// empty pair, whether the daemon runs or not.
func prepare(args []string) {
	e, err := hooks.Parse(args)
	if err != nil || e.Kind != hooks.NamespacesInit {
		return
	}
	if err := segment.DropAllEmptyPairs(e.IndexRoot, e.DataRoot); err != nil {
		fmt.Fprintln(os.Stderr, "quantumd-hook:", err)
	}
}

func retrieve(ctx context.Context, socket, file string) error {
	return monitor.NewClient(socket).Retrieve(ctx, monitor.Retrieve{File: file})
}
