package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/local"
	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/engine/zstor/monitor"
	"github.com/threefoldtech/quantumd/hooks"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// components are the embedded programs, with the real ones' arguments. They
// are reached as `quantumd zdb …` or under their own name.
var components map[string]func(ctx context.Context, a *app, args []string) int

func init() { // broken cycle: the table names functions that name the table
	components = map[string]func(context.Context, *app, []string) int{
		"zdb": runZdb, "zdbfs": runZdbfs, "zstor": runZstor, "zstor_v2": runZstor, "supervise": runSupervise,
	}
}

type componentCmd struct {
	Args []string `arg:"" optional:"" passthrough:""`
}

// Run is never reached: main looks at the name first. It is here for --help.
func (componentCmd) Run() error { return errors.New("called through the grammar") }

type hookCmd struct {
	Args []string `arg:"" optional:"" passthrough:"" help:"Event, instance and what the event carries."`
}

// Run hands an event to the daemon, as the program quantumd-hook does.
func (c *hookCmd) Run(ctx context.Context, a *app) error {
	args := a.hookFlags(c.Args)
	if len(args) == 1 && (args[0] == "--help" || args[0] == "-h") {
		a.printf("usage: quantumd hook [--dir DIR] EVENT INSTANCE [ARGUMENT...]\n\nWhat a zdb calls for each event; hands it to the daemon and ends with its answer.")
		return nil
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	if e, err := hooks.Parse(args); err == nil && e.Kind == hooks.NamespacesInit {
		if err := segment.DropAllEmptyPairs(e.IndexRoot, e.DataRoot); err != nil {
			a.notef("%v", err)
		}
	}
	p := hooks.Program{Getenv: a.getenv, Path: program, Socket: a.hookSocket(), Stderr: a.stderr, Retrieve: func(ctx context.Context, socket, file string) error {
		return monitor.NewClient(socket).Retrieve(ctx, monitor.Retrieve{File: file})
	}}
	if code := p.Run(ctx, args); code != 0 {
		return &codeError{code: code}
	}
	return nil
}

// hookFlags takes --dir and --root off the front of the arguments: what stands
// behind the command's name is handed to it as it is, for an event may carry
// anything.
func (a *app) hookFlags(args []string) []string {
	for len(args) > 0 {
		name, value, ok := strings.Cut(args[0], "=")
		into := map[string]*string{"--dir": &a.globals.Dir, "--root": &a.globals.Root}[name]
		switch {
		case into == nil:
			return args
		case ok:
			*into, args = value, args[1:]
		case len(args) > 1:
			*into, args = args[1], args[2:]
		default:
			return args
		}
	}
	return args
}

// hookSocket is that of the system which the flags select; empty when they
// select none.
func (a *app) hookSocket() string {
	switch {
	case a.globals.Dir != "":
		return qsfs.LayoutBelow(a.dir()).HookSocket()
	case a.globals.Root != "":
		return qsfs.SystemLayout(a.globals.Root, config.Default()).HookSocket()
	}
	return ""
}

// zdbOptions are zdb's options, those that only ours has at the end.
type zdbOptions struct {
	data, index, listen, socket, mode, datasize, hook, admin, logfile string
	port, rotate, synctime, maxsize                                   int64
	dualnet, protect, sync, secure, background, dump, verbose         bool
	version                                                           bool

	adminFile, pidFile string
}

func zdbFlags(o *zdbOptions) *flag.FlagSet {
	f := flag.NewFlagSet("zdb", flag.ContinueOnError)
	f.StringVar(&o.data, "data", "./zdb-data", "data root")
	f.StringVar(&o.index, "index", "./zdb-index", "index root")
	f.StringVar(&o.listen, "listen", "::", "address to listen on")
	f.Int64Var(&o.port, "port", 9900, "port to listen on")
	f.StringVar(&o.socket, "socket", "", "unix socket to listen on, instead of a port")
	f.BoolVar(&o.dualnet, "dualnet", false, "listen on the socket and the port")
	f.StringVar(&o.mode, "mode", "", "user or seq, for all namespaces")
	f.StringVar(&o.datasize, "datasize", "", "size at which a data file is closed, with k, M, G or T")
	f.Int64Var(&o.rotate, "rotate", 0, "seconds after which a data file is closed")
	f.StringVar(&o.hook, "hook", "", "program that is run for events")
	f.StringVar(&o.admin, "admin", "", "admin password")
	f.StringVar(&o.adminFile, "admin-file", "", "file that holds the admin password (only ours)")
	f.StringVar(&o.pidFile, "pid-file", "", "file for the process id and its start time, written once the data is open (only ours)")
	f.BoolVar(&o.protect, "protect", false, "default namespace is read-only without the admin password")
	f.Int64Var(&o.maxsize, "maxsize", 0, "limit of the default namespace in bytes")
	f.BoolVar(&o.sync, "sync", false, "sync each write")
	f.Int64Var(&o.synctime, "synctime", 0, "seconds between syncs")
	f.BoolVar(&o.secure, "secure", false, "sync a file before it is closed (ours always does)")
	f.BoolVar(&o.background, "background", false, "not supported: use a service manager")
	f.StringVar(&o.logfile, "logfile", "", "only with --background")
	f.BoolVar(&o.dump, "dump", false, "not supported")
	f.BoolVar(&o.verbose, "verbose", false, "log more")
	f.BoolVar(&o.version, "version", false, "print the version")
	return f
}

// expand completes unambiguous abbreviations of long options, as getopt does.
func expand(f *flag.FlagSet, args []string) []string {
	out := make([]string, len(args))
	isValue := false // of the option before it
	for i, arg := range args {
		out[i] = arg
		name, value, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if isValue || !strings.HasPrefix(arg, "-") || name == "" {
			isValue = false
			continue
		}
		if o := f.Lookup(name); o != nil {
			isValue = !hasValue && !isSwitch(o)
			continue
		}
		var found []string
		f.VisitAll(func(o *flag.Flag) {
			if strings.HasPrefix(o.Name, name) {
				found = append(found, o.Name)
			}
		})
		if len(found) != 1 {
			continue // the parser refuses it
		}
		out[i] = "--" + found[0]
		if hasValue {
			out[i] += "=" + value
		}
		isValue = !hasValue && !isSwitch(f.Lookup(found[0]))
	}
	return out
}

// parseAround parses options, and leaves out what is none, as zdb does: a service
// file with a stray backslash gives it an empty word, and what came behind that
// would be lost, down to where the data is.
func parseAround(f *flag.FlagSet, args []string) error {
	for {
		if err := f.Parse(args); err != nil || f.NArg() == 0 {
			return err
		}
		args = f.Args()[1:]
	}
}

// isSwitch says whether an option takes no value.
func isSwitch(o *flag.Flag) bool {
	b, ok := o.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

// zdbSize reads a size as zdb does: suffixes k, M, G, T in exactly this case.
func zdbSize(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	unit := 1.0
	if i := strings.IndexAny(s, "kMGT"); i > 0 {
		unit = float64(int64(1) << (10 * (1 + strings.IndexByte("kMGT", s[i]))))
		s = s[:i]
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || n < 0 || n*unit > 1<<40 {
		return 0, fmt.Errorf("datasize invalid: %q", s)
	}
	return int64(n * unit), nil
}

// runZdb is the embedded zdb. It ends with 143 after SIGTERM and 130 after
// SIGINT, as the real one.
func runZdb(_ context.Context, a *app, args []string) int {
	var o zdbOptions
	f := zdbFlags(&o)
	f.SetOutput(a.stderr)
	if err := parseAround(f, expand(f, args)); err != nil {
		return exitFailed
	}
	if o.version {
		fmt.Fprintf(a.stdout, "0-db server, quantumd %s (data file version 3, index file version 4)\n", version())
		return exitDone
	}
	code, err := serveZdb(a, o)
	if err != nil {
		return a.fail(err)
	}
	return code
}

func serveZdb(a *app, o zdbOptions) (int, error) {
	if o.background || o.dump {
		return 0, errors.New("zdb: --background and --dump are not supported here: a service manager runs it in the background")
	}
	so, err := zdbServerOptions(a, o)
	if err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	listeners, err := zdbListen(o)
	if err != nil {
		return 0, err
	}
	s, err := server.Open(ctx, so)
	if err != nil {
		return 0, errors.Join(append(closeAll(listeners), err)...)
	}
	if o.pidFile != "" { // only now: a second zdb on the same data does not get here
		if err := writeOwnPID(o.pidFile); err != nil {
			return 0, errors.Join(append(closeAll(listeners), err, s.Close())...)
		}
	}
	served := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { served <- s.Serve(ctx, l) }()
	}
	code := 0
	var serveErr error
	left := len(listeners)
	select {
	case sig := <-signals:
		code = 128 + int(sig.(syscall.Signal))
	case serveErr = <-served:
		left--
	}
	cancel(errors.New("stopped"))
	for range left {
		<-served
	}
	return code, errors.Join(serveErr, s.Close(), endHooks(so.Hooks))
}

// hookGrace is how long the end waits for hook programs that zdb itself does
// not wait for. They run on behind it.
const hookGrace = 10 * time.Second

// endHooks sees that the last events have been handed over.
func endHooks(h hooks.HookHandler) error {
	x, ok := h.(*hooks.Exec)
	if !ok {
		return nil
	}
	ended := make(chan error, 1)
	go func() { ended <- x.Close() }()
	select {
	case err := <-ended:
		return err
	case <-time.After(hookGrace):
		return nil
	}
}

func zdbServerOptions(a *app, o zdbOptions) (server.Options, error) {
	size, err := zdbSize(o.datasize)
	if err != nil {
		return server.Options{}, err
	}
	so := server.Options{DataDir: o.data, IndexDir: o.index, DataSize: size, Rotate: time.Duration(o.rotate) * time.Second,
		AdminPassword: backend.Secret(o.admin), Protect: o.protect, MaxSize: o.maxsize, SyncWrites: o.sync, Logger: a.logger(),
		Instance: "tcp://" + net.JoinHostPort(o.listen, strconv.FormatInt(o.port, 10))}
	if o.synctime > 0 {
		so.SyncEvery = time.Duration(o.synctime) * time.Second
	}
	if o.socket != "" {
		so.Instance = "unix://" + o.socket
	}
	switch o.mode {
	case "":
	case "user":
		so.Mode = server.User
	case "seq", "direct":
		so.Mode = server.Sequential
	default:
		return so, fmt.Errorf("zdb: mode %q: want user or seq", o.mode)
	}
	if o.adminFile != "" {
		f, err := os.Open(o.adminFile)
		if err != nil {
			return so, err
		}
		text, err := io.ReadAll(io.LimitReader(f, 256))
		if err := errors.Join(err, f.Close()); err != nil {
			return so, err
		}
		so.AdminPassword = backend.Secret(strings.TrimSpace(string(text)))
	}
	if o.hook != "" {
		so.Hooks = &hooks.Exec{Path: o.hook}
	}
	return so, nil
}

func zdbListen(o zdbOptions) ([]net.Listener, error) {
	var out []net.Listener
	if o.socket != "" {
		if err := os.Remove(o.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		l, err := net.Listen("unix", o.socket)
		if err != nil {
			return nil, err
		}
		out = append(out, l)
		if !o.dualnet {
			return out, nil
		}
	}
	l, err := net.Listen("tcp", net.JoinHostPort(o.listen, strconv.FormatInt(o.port%65536, 10)))
	if err != nil {
		return nil, errors.Join(append(closeAll(out), err)...)
	}
	return append(out, l), nil
}

// writeOwnPID writes the pid file. It is left at the end.
func writeOwnPID(path string) error {
	if err := local.WritePID(path, os.Getpid()); err != nil {
		return &qsfs.PathError{Path: path, Err: err}
	}
	return nil
}

func closeAll(listeners []net.Listener) []error {
	var errs []error
	for _, l := range listeners {
		errs = append(errs, l.Close())
	}
	return errs
}
