// Package cli is the command line of zstor over the engine: the real program's
// commands, flags, output and exit codes.
//
//	code := cli.Run(ctx, os.Args[1:], os.Stdout, os.Stderr, dialer)
//
// With `socket` in the config, store, retrieve, rebuild and check talk to the
// daemon there; without, they work in process. The daemon, `monitor`, runs until
// ctx ends: signals are the caller's. What it does besides in the real program,
// eviction, sweeps and metrics, belongs to quantumd and is not here.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/engine/zstor/monitor"
)

// Version is what -V prints: that of the program whose behaviour this is.
const Version = "zstor_v2 0.4.0"

const usage = `usage: zstor [-c|--config FILE] [-d|--debug] [--log_file FILE] COMMAND
commands: store, retrieve, rebuild, check, status, test, monitor; -h behind one shows its flags
`

// Run runs one command and gives the exit code: 0 done, 1 any error.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer, dialer backend.Dialer) int {
	return RunReloading(ctx, args, stdout, stderr, dialer, nil)
}

// RunReloading is Run, where the daemon reads its config again for each value of
// reload, as the real one does at SIGUSR1. Socket and pid file stay what they
// are; a config that cannot be used is told on stderr and changes nothing.
func RunReloading(ctx context.Context, args []string, stdout, stderr io.Writer, dialer backend.Dialer, reload <-chan struct{}) int {
	r := &runner{out: stdout, errOut: stderr, dialer: dialer, reload: reload}
	switch err := r.run(ctx, args); {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp):
		return 0
	default:
		fmt.Fprintf(stderr, "Error: %v\n", err)
		return 1
	}
}

type runner struct {
	out, errOut io.Writer
	dialer      backend.Dialer
	config      string
	reload      <-chan struct{}
}

func (r *runner) run(ctx context.Context, args []string) error {
	fs := r.flags("zstor")
	fs.Usage = func() { fmt.Fprint(r.errOut, usage) }
	text(fs, &r.config, "zstor_config.toml", "config file", "c", "config")
	var ignored string
	text(fs, &ignored, "zstor.log", "accepted and not written: what goes wrong is on stderr", "log_file")
	var debug, version bool
	yes(fs, &debug, "accepted", "d", "debug")
	yes(fs, &version, "print the version", "V", "version")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if version {
		fmt.Fprintln(r.out, Version)
		return nil
	}
	if fs.NArg() == 0 {
		fs.Usage()
		return errors.New("no command")
	}
	commands := map[string]func(context.Context, []string) error{
		"store": r.store, "retrieve": r.retrieve, "rebuild": r.rebuild, "check": r.check,
		"status": r.status, "test": r.test, "monitor": r.monitor,
	}
	run, ok := commands[fs.Arg(0)]
	if !ok {
		fs.Usage()
		return fmt.Errorf("unknown command %q", fs.Arg(0))
	}
	return run(ctx, fs.Args()[1:])
}

func (r *runner) flags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(r.errOut)
	return fs
}

func text(fs *flag.FlagSet, to *string, def, usage string, names ...string) {
	for _, n := range names {
		fs.StringVar(to, n, def, usage)
	}
}

func yes(fs *flag.FlagSet, to *bool, usage string, names ...string) {
	for _, n := range names {
		fs.BoolVar(to, n, false, usage)
	}
}

// parse reads the flags of a command, which takes no other arguments.
func parse(fs *flag.FlagSet, args []string) error {
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("%s: unexpected argument %q", fs.Name(), fs.Arg(0))
	}
	return nil
}

func (r *runner) load() (zstor.FileConfig, error) {
	b, err := os.ReadFile(r.config)
	if err != nil {
		return zstor.FileConfig{}, err
	}
	cfg, err := zstor.ParseTOML(b)
	if err != nil {
		return cfg, fmt.Errorf("%s: %w", r.config, err)
	}
	return cfg, cfg.Config.Validate()
}

// handler is the daemon when the config names its socket, or an engine in process.
func (r *runner) handler() (monitor.Handler, func() error, error) {
	cfg, err := r.load()
	if err != nil {
		return nil, nil, err
	}
	if cfg.Daemon.Socket != "" {
		return remote{monitor.NewClient(cfg.Daemon.Socket)}, func() error { return nil }, nil
	}
	eng, err := zstor.Open(cfg.Config, zstor.Options{Dialer: r.dialer})
	if err != nil {
		return nil, nil, err
	}
	return &Handler{Engine: eng}, eng.Close, nil
}

// with runs f with a handler and closes it.
func (r *runner) with(f func(monitor.Handler) error) error {
	h, done, err := r.handler()
	if err != nil {
		return err
	}
	return errors.Join(f(h), done())
}

func (r *runner) store(ctx context.Context, args []string) error {
	var req monitor.Store
	var onError bool
	fs := r.flags("store")
	text(fs, &req.File, "", "file, or folder whose files are stored (required)", "f", "file")
	text(fs, &req.KeyPath, "", "folder under which the object is known", "k", "key-path")
	yes(fs, &onError, "accepted: the first error ends the command in any case", "e", "error-on-failure")
	yes(fs, &req.SaveFailure, "accepted and without effect, as in the original", "s", "save-failure")
	yes(fs, &req.Delete, "remove the file after success", "d", "delete")
	yes(fs, &req.NonBlocking, "let the daemon answer at once", "n", "notblocking")
	if err := parse(fs, args); err != nil {
		return err
	}
	if req.File == "" {
		return errors.New("store: -f is required")
	}
	return r.with(func(h monitor.Handler) error { return h.Store(ctx, req) })
}

func (r *runner) retrieve(ctx context.Context, args []string) error {
	var req monitor.Retrieve
	fs := r.flags("retrieve")
	text(fs, &req.File, "", "file to bring back (required)", "f", "file")
	if err := parse(fs, args); err != nil {
		return err
	}
	if req.File == "" {
		return errors.New("retrieve: -f is required")
	}
	return r.with(func(h monitor.Handler) error { return h.Retrieve(ctx, req) })
}

func (r *runner) rebuild(ctx context.Context, args []string) error {
	var req monitor.Rebuild
	fs := r.flags("rebuild")
	text(fs, &req.File, "", "file whose object is rebuilt", "f", "file")
	text(fs, &req.Key, "", "key of the object", "k", "key")
	if err := parse(fs, args); err != nil {
		return err
	}
	if (req.File == "") == (req.Key == "") {
		return errors.New("rebuild: exactly one of -f and -k is required")
	}
	return r.with(func(h monitor.Handler) error { return h.Rebuild(ctx, req) })
}

func (r *runner) check(ctx context.Context, args []string) error {
	var file string
	fs := r.flags("check")
	text(fs, &file, "", "file (required)", "f", "file")
	if err := parse(fs, args); err != nil {
		return err
	}
	if file == "" {
		return errors.New("check: -f is required")
	}
	return r.with(func(h monitor.Handler) error {
		sum, found, err := h.Check(ctx, file)
		if err == nil && found {
			fmt.Fprintf(r.out, "%x\n", sum)
		}
		return err
	})
}

// test reaches every data backend and finds one placement.
func (r *runner) test(ctx context.Context, args []string) error {
	if err := parse(r.flags("test"), args); err != nil {
		return err
	}
	cfg, err := r.load() // finds a placement, too
	if err != nil {
		return err
	}
	for _, b := range cfg.Data {
		info, err := r.info(ctx, b)
		if err != nil {
			return fmt.Errorf("%s: %w", b, err)
		}
		if !info.Sequential {
			return fmt.Errorf("%s: %w: expected 0-db namespace to be in sequential mode, but is in user-key", b, backend.ErrMode)
		}
	}
	return nil
}

func (r *runner) info(ctx context.Context, b backend.Backend) (backend.NamespaceInfo, error) {
	conn, err := r.dialer.Dial(ctx, b)
	if err != nil {
		return backend.NamespaceInfo{}, err
	}
	defer conn.Close() // read only
	return conn.Info(ctx)
}

// monitor serves the socket until ctx ends.
func (r *runner) monitor(ctx context.Context, args []string) error {
	if err := parse(r.flags("monitor"), args); err != nil {
		return err
	}
	cfg, err := r.load()
	if err != nil {
		return err
	}
	socket := cfg.Daemon.Socket
	if socket == "" {
		return errors.New("missing \"socket\" argument in config")
	}
	if c, err := net.Dial("unix", socket); err == nil {
		_ = c.Close() // only asked whether somebody listens
		return errors.New("another daemon instance is running")
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	eng, err := zstor.Open(cfg.Config, zstor.Options{Dialer: r.dialer})
	if err != nil {
		return err
	}
	h := &Handler{Engine: eng}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return errors.Join(err, eng.Close())
	}
	reloading, stop := context.WithCancel(ctx)
	var reloads sync.WaitGroup
	reloads.Go(func() { r.reloads(reloading, eng) })
	defer func() { stop(); reloads.Wait() }()
	err = r.servePID(ctx, cfg.Daemon.PIDFile, func() error {
		return monitor.NewServer(h, monitor.Options{}).Serve(ctx, l)
	})
	h.Wait()
	return errors.Join(err, eng.Close())
}

// reloads has the engine use the config file as it is now, whenever it is told.
func (r *runner) reloads(ctx context.Context, eng *zstor.Engine) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.reload:
		}
		cfg, err := r.load()
		if err == nil {
			err = eng.Reload(ctx, cfg.Config)
		}
		if err != nil {
			fmt.Fprintf(r.errOut, "Error: reload: %v\n", err)
		}
	}
}

func (r *runner) servePID(_ context.Context, file string, serve func() error) error {
	if file != "" {
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
			return err
		}
		defer os.Remove(file) // a leftover is overwritten by the next start
	}
	return serve()
}

// remote has the daemon resolve paths, which are sent as they were given.
type remote struct{ *monitor.Client }
