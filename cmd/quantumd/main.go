// Command quantumd brings up, runs, heals and recovers a QSFS. Everything that
// it does is a call on a public package: this folder holds the grammar, the
// printing and the exit codes.
//
// What goes where: results to standard output, with --json for programs;
// progress, notes and errors to standard error, `quantumd: error: …` and, where
// there is a remedy, `quantumd: hint: …`.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdbfs/mount"
	"github.com/threefoldtech/quantumd/internal/pid1"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/services"
)

// The exit codes of every command.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = 2 // wrong usage or configuration, or a question that nobody could answer
	exitDegraded = 3 // works, with damage that is or can be repaired
	exitLost     = 4 // data is lost
	exitFenced   = 5 // another frontend has taken over
)

func main() {
	if pid1.Is() {
		code, err := pid1.Run()
		if err != nil {
			fmt.Fprintf(os.Stderr, "quantumd: error: as process 1: %v\n", err)
			code = max(code, exitFailed)
		}
		os.Exit(code)
	}
	os.Exit(run(os.Args, os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}

// run is the whole program with its surroundings as parameters.
func run(args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{environ: environ, stdin: stdin, stdout: stdout, stderr: stderr}
	args = append(byName(filepath.Base(args[0])), args[1:]...)
	if len(args) > 0 && args[0] == "zdb" { // its exit code tells which signal ended it
		return runZdb(context.Background(), a, args[1:])
	}
	if len(args) > 0 && args[0] == gridSDKCommand { // its parent tells it when to end, no signal
		return runGridSDK(a)
	}
	ctx, stop := untilSignal(context.Background())
	defer stop()
	if len(args) > 0 && components[args[0]] != nil && (args[0] != "supervise" || ofOneService(args[1:])) {
		return components[args[0]](ctx, a, args[1:]) // they have the real ones' arguments
	}
	var c cli
	exited, code := false, 0
	parser, err := kong.New(&c, kong.Name("quantumd"), kong.Description(description), kong.UsageOnError(),
		kong.Writers(stdout, stderr), kong.Exit(func(n int) { exited, code = true, n }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}), kong.Bind(a), kong.BindTo(ctx, (*context.Context)(nil)))
	if err != nil {
		return a.fail(err)
	}
	k, err := parser.Parse(args)
	if exited {
		return code // --help has been answered
	}
	if err != nil {
		return a.fail(&usageError{err})
	}
	a.globals = c.Globals
	if err := k.Run(); err != nil {
		return a.fail(err)
	}
	return exitDone
}

// doubled is how long after a signal the same one is taken for it: programs like
// timeout(1) send it to the process and to its group.
const doubled = 500 * time.Millisecond

// untilSignal gives a context that ends with the first SIGINT or SIGTERM. A
// second one, some time later, ends the program at once.
func untilSignal(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		var first time.Time
		for {
			select {
			case <-done:
				return
			case s := <-signals:
				switch {
				case first.IsZero():
					first = time.Now()
					cancel()
				case time.Since(first) > doubled:
					signal.Reset(s)
					_ = syscall.Kill(os.Getpid(), s.(syscall.Signal)) // the default action: nothing goes on behind it
				}
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		<-ended
		cancel()
	}
}

// byName lets the program be called by a component's name.
func byName(name string) []string {
	switch {
	case components[name] != nil:
		return []string{name}
	case strings.HasPrefix(name, "quantumd-hook"):
		return []string{"hook"}
	}
	return nil
}

// usageError is a wrong use of the command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }
func (e *usageError) Hint() string {
	return "`quantumd --help` lists the commands, `quantumd COMMAND --help` one"
}

// codeError ends the program with a code, after what there was to say was said.
type codeError struct {
	code int
	err  error
}

func (e *codeError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}
func (e *codeError) Unwrap() error { return e.err }

// fail prints an error with its hints and gives the exit code.
func (a *app) fail(err error) int {
	if text := strings.TrimSpace(err.Error()); text != "" {
		for _, line := range strings.Split(text, "\n") {
			fmt.Fprintf(a.stderr, "quantumd: error: %s\n", line)
		}
	}
	for _, h := range hints(err) {
		fmt.Fprintf(a.stderr, "quantumd: hint: %s\n", h)
	}
	return exitCode(err)
}

// hints collects the remedies in an error, each once, the outermost first.
func hints(err error) []string {
	var out []string
	var walk func(error)
	walk = func(err error) {
		if err == nil {
			return
		}
		if h, ok := err.(interface{ Hint() string }); ok && h.Hint() != "" {
			for _, known := range out {
				if known == h.Hint() {
					return
				}
			}
			out = append(out, h.Hint())
			return // what is inside says the same in other words
		}
		switch u := err.(type) {
		case interface{ Unwrap() error }:
			walk(u.Unwrap())
		case interface{ Unwrap() []error }:
			for _, e := range u.Unwrap() {
				walk(e)
			}
		}
	}
	walk(err)
	if len(out) == 0 && err != nil {
		for _, r := range remedies {
			if errors.Is(err, r.err) {
				return []string{r.hint}
			}
		}
	}
	return out
}

// remedies are those of errors that carry none.
var remedies = []struct {
	err  error
	hint string
}{
	{client.ErrNotRunning, "`quantumd start` starts what setup installed, `quantumd up` runs in this terminal; with a system below a folder give the same --dir"},
	{qsfs.ErrWrongKey, "use the configuration, key and password that these backends were deployed with, or other backends"},
	{qsfs.ErrNothingToRestore, "check that the configuration names the backends of the lost machine; `quantumd up` begins a new file system"},
	{qsfs.ErrNoIdentity, "move that folder away and run `quantumd restore`"},
	{backend.ErrAccess, "correct the password of that backend in the configuration, then run the same command again"},
	{backend.ErrMode, "metadata backends are namespaces in user mode, data backends are sequential: correct the role, or name another namespace"},
	{mount.ErrNotEmpty, "name an empty folder with --mount or qsfs_mountpoint, or move away what is in it"},
	{mount.ErrNoMountpoint, "name a folder with --mount or qsfs_mountpoint"},
	{mount.ErrMounted, "unmount it (`umount PATH`), or name another folder with --mount or qsfs_mountpoint"},
	{mount.ErrUnsupported, "load the module fuse and allow /dev/fuse, or go on without a mount: --no-mount"},
	{services.ErrNotFound, "`quantumd services` lists what is installed"},
	{syscall.ENOSPC, "free some space on that disk"},
	{syscall.EADDRINUSE, "find who has the port with `ss -ltnp`, and end it or name another port"},
	{fs.ErrPermission, "run as root, or as the user whose system it is"},
}

func exitCode(err error) int {
	var code *codeError
	var usage *usageError
	var question *questionError
	var remote *client.Error
	switch {
	case errors.As(err, &code):
		return code.code
	case errors.As(err, &usage), errors.As(err, &question), len(config.Errors(err)) > 0:
		return exitUsage
	case errors.Is(err, qsfs.ErrFenced), errors.As(err, &remote) && remote.Kind == client.KindFenced:
		return exitFenced
	case errors.Is(err, qsfs.ErrLost):
		return exitLost
	}
	return exitFailed
}
