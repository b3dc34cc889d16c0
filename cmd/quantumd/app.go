package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lmittmann/tint"
	"golang.org/x/term"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/local"
	"github.com/threefoldtech/quantumd/backend/static"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/qsfs/ongrid"
	"github.com/threefoldtech/quantumd/services"
)

// app is what every command needs: flags, streams, environment.
type app struct {
	globals        Globals
	environ        []string
	stdin          io.Reader
	stdout, stderr io.Writer
	level          *slog.LevelVar // of every logger; nil before the first
	logFormat      string
}

func (a *app) getenv(name string) string {
	for i := len(a.environ) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(a.environ[i], name+"="); ok {
			return v
		}
	}
	return ""
}

// configPath says which file is read: flag, QUANTUMD_CONFIG, DIR/config.yaml,
// /etc/quantumd.yaml.
func (a *app) configPath() string {
	switch {
	case a.globals.Config != "":
		return a.globals.Config
	case a.globals.Dir != "":
		return filepath.Join(a.globals.Dir, "config.yaml")
	case a.getenv("QUANTUMD_CONFIG") != "":
		return a.getenv("QUANTUMD_CONFIG")
	}
	return filepath.Join(a.globals.Root, qsfs.SystemConfig)
}

func (a *app) configOptions(tolerate bool) []config.Option {
	opts := []config.Option{config.FromEnviron(a.environ), config.WithOverrides(a.globals.Set)}
	if tolerate {
		opts = append(opts, config.TolerateUnknown())
	}
	return opts
}

// loadConfig reads and validates the configuration.
func (a *app) loadConfig(tolerate bool) (*config.Config, error) {
	cfg, err := config.Load(a.configPath(), a.configOptions(tolerate)...)
	if err != nil {
		return nil, err
	}
	for _, w := range cfg.Warnings() {
		a.notef("%s", w)
	}
	a.place(cfg)
	if err := cfg.Validate(); err != nil {
		if known := a.withSecrets(cfg); known != nil {
			return known.loadConfig(tolerate)
		}
		return cfg, err
	}
	if a.level == nil { // later a reload says so
		a.setLevel(cfg.LogLevel)
		a.logFormat = cfg.LogFormat
	}
	return cfg, nil
}

// withSecrets is for an installed system whose secrets came by the environment when it
// was set up: its service has them, and so have those who may read them. Nil where
// there are none, or where they are given already.
func (a *app) withSecrets(cfg *config.Config) *app {
	if a.globals.Dir != "" || !sameFile(a.configPath(), a.target()) {
		return nil
	}
	known := *a
	known.environ = slices.Clone(a.environ)
	for name, given := range map[string]config.Secret{"mnemonic": cfg.Mnemonic, "password": cfg.Password, "encryption_key": cfg.EncryptionKey} {
		text, err := os.ReadFile(filepath.Join(a.layout(cfg).Secrets(), name))
		if err == nil && given == "" {
			known.environ = append(known.environ, "QUANTUMD_"+strings.ToUpper(name)+"="+strings.TrimSpace(string(text)))
		}
	}
	if len(known.environ) == len(a.environ) {
		return nil
	}
	return &known
}

// configOrDefaults is for what has to be done also where the configuration is
// missing or wrong: then it gives the defaults, and why.
func (a *app) configOrDefaults() (*config.Config, error) {
	cfg, err := config.Load(a.configPath(), a.configOptions(true)...)
	if err != nil {
		cfg = config.Default()
	}
	a.place(cfg)
	return cfg, err
}

// place fits a configuration to --dir and --root: a mount below the folder, a
// free port for metrics, unless the keys are given.
func (a *app) place(cfg *config.Config) {
	if a.globals.Dir != "" {
		if cfg.Source("qsfs_mountpoint") == config.FromDefault {
			cfg.QSFSMountpoint = filepath.Join(a.dir(), "mnt")
		}
		if cfg.Source("metrics") == config.FromDefault {
			cfg.Metrics.Listen = "127.0.0.1:0"
		}
		return
	}
	if a.globals.Root != "" {
		for _, p := range []*string{&cfg.ZdbRootPath, &cfg.QSFSMountpoint, &cfg.DatabasePath, &cfg.ZstorConfigPath} {
			if *p != "" && !strings.HasPrefix(*p, a.globals.Root) {
				*p = filepath.Join(a.globals.Root, *p)
			}
		}
	}
}

// dir is --dir as an absolute path.
func (a *app) dir() string {
	abs, err := filepath.Abs(a.globals.Dir)
	if err != nil {
		return a.globals.Dir
	}
	return abs
}

func (a *app) layout(cfg *config.Config) qsfs.Layout {
	if a.globals.Dir != "" {
		return qsfs.LayoutBelow(a.dir())
	}
	return qsfs.SystemLayout(a.globals.Root, cfg)
}

// provisioner chooses who knows the backends: local ones where they lie beside
// the configuration (or, on system paths, in their folder), those of the grid where
// it can rent, else the list.
func (a *app) provisioner(cfg *config.Config) (backend.Provisioner, error) {
	if p := a.localBeside(cfg); p != nil {
		return p, nil
	}
	if ongrid.Uses(cfg) {
		return a.grid(cfg, ongrid.Options{Standing: true})
	}
	list, err := cfg.BackendList()
	if err != nil {
		return nil, err
	}
	return static.New(list, a.logger()), nil
}

// localBeside gives the local backends that belong to a configuration; nil
// when there are none. The configuration decides: where most of the backends
// that it lists are not of those in the folder, nor were, they are another
// deployment's. One that is lost with its files does not change that.
func (a *app) localBeside(cfg *config.Config) *local.Provisioner {
	dir := a.layout(cfg).Backends
	if cfg.File() != "" && cfg.File() != filepath.Join(a.globals.Root, qsfs.SystemConfig) {
		dir = filepath.Join(filepath.Dir(cfg.File()), "backends")
	}
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return nil
	}
	p, err := a.local(dir)
	if err != nil {
		return nil
	}
	here, err := p.List(context.Background()) // reads files only
	if err != nil {
		a.notef("the local backends below %s are left alone: %v", dir, err)
		return nil
	}
	retired, err := p.Retired()
	if err != nil {
		a.notef("the local backends below %s are left alone: %v", dir, err)
		return nil
	}
	known := map[string]bool{}
	for _, b := range slices.Concat(here, retired) {
		known[b.Address.String()+" "+b.Namespace] = true
	}
	listed := 0
	for _, b := range cfg.Backends {
		if known[b.Address+" "+b.Namespace] {
			listed++
		}
	}
	if len(here) == 0 || 2*listed <= len(cfg.Backends) && len(cfg.Backends) > 0 {
		return nil
	}
	return p
}

// local gives the local backends below a folder, run as processes of this
// program; those of an installed system as services.
func (a *app) local(dir string) (*local.Provisioner, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	run := local.Command(self, "zdb")
	if a.globals.Dir == "" && abs == qsfs.SystemLayout(a.globals.Root, config.Default()).Backends {
		m, err := a.manager()
		if err != nil {
			return nil, err
		}
		list, err := m.Status(context.Background(), qsfs.ServiceName)
		if err != nil {
			return nil, err
		}
		if list[0].State != services.Missing {
			run = local.AsServices(m, qsfs.ServiceName, qsfs.ProgramPath(a.globals.Root, self), "zdb")
		}
	}
	return local.New(abs, run, local.WithLogger(a.logger())), nil
}

// client talks to the running system that the flags select.
func (a *app) client() *client.Client {
	layout := qsfs.LayoutBelow(a.dir())
	if a.globals.Dir == "" {
		// The sockets' place does not depend on the file, which others may not read.
		layout = qsfs.SystemLayout(a.globals.Root, config.Default())
	}
	return client.New(layout.ControlSocket())
}

func (a *app) logger() *slog.Logger {
	if a.level == nil {
		a.level = new(slog.LevelVar)
		a.setLevel("warn")
	}
	if a.globals.LogJSON || a.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(a.stderr, &slog.HandlerOptions{Level: a.level}))
	}
	return slog.New(tint.NewTextHandler(a.stderr, &tint.Options{Level: a.level, TimeFormat: time.TimeOnly, NoColor: !a.terminal(a.stderr)}))
}

// setLevel sets the least level that is logged, also of loggers that are in
// use; --log-level wins.
func (a *app) setLevel(name string) {
	if a.level == nil {
		a.level = new(slog.LevelVar)
	}
	var level slog.Level
	if level.UnmarshalText([]byte(either(a.globals.LogLevel, name))) == nil { // both are checked where they are read
		a.level.Set(level)
	}
}

func either(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (a *app) terminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (a *app) printf(format string, args ...any) {
	fmt.Fprintf(a.stdout, format+"\n", args...)
}

func (a *app) notef(format string, args ...any) {
	fmt.Fprintf(a.stderr, "quantumd: "+format+"\n", args...)
}

// done says in words what was done or would be, for people and for programs.
func (a *app) done(format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	return a.print(struct {
		Schema int    `json:"schema"`
		DryRun bool   `json:"dry_run"`
		Text   string `json:"text"`
	}{client.SchemaVersion, a.globals.DryRun, text}, func() { a.printf("%s", text) })
}

// mustNotRun refuses to begin anything while the system of these folders runs.
// The lock on the folders decides in the end; this says so before anything is
// touched.
func (a *app) mustNotRun(ctx context.Context, layout qsfs.Layout) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := client.New(layout.ControlSocket()).Status(ctx); err == nil {
		return &qsfs.InUseError{Path: layout.State}
	}
	return nil
}

// print shows a result: as JSON where that is asked for, else by text.
func (a *app) print(v any, text func()) error {
	if !a.globals.JSON {
		text()
		return nil
	}
	e := json.NewEncoder(a.stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// questionError says that a question could not be put to anybody.
type questionError struct{ question string }

func (e *questionError) Error() string {
	return e.question + " Nobody can be asked here, and nothing was done"
}

// Hint names the remedy.
func (e *questionError) Hint() string { return "look at what --dry-run shows, then give --yes" }

// confirm asks on a terminal; elsewhere --yes is the only yes. With a word,
// that word has to be typed.
func (a *app) confirm(question, word string) error {
	if a.globals.Yes {
		return nil
	}
	if !a.terminal(a.stdin) {
		return &questionError{question}
	}
	want, prompt := "y", " [y/N] "
	if word != "" {
		want, prompt = word, fmt.Sprintf(" Type %q to go on: ", word)
	}
	fmt.Fprint(a.stderr, question+prompt)
	line, err := bufio.NewReader(a.stdin).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != want {
		return &codeError{code: exitUsage, err: errors.New("not confirmed; nothing was done")}
	}
	return nil
}
