// Package takeover brings an older installation under this program: that of the
// shell scripts, or of an earlier quantumd, on systemd or zinit. What it stored
// stays where it is; its programs are stopped, and come back with [Takeover.Undo].
//
// It is not for other frontends' data (that is a restore), nor for local backends
// of an older installation: their services go on, and are backends like others.
//
//	t, err := takeover.Find(root, services.Systemd) // nil: there is none
//	plan, err := t.Derive()                         // the configuration, changing nothing
//	err = t.Run(ctx, takeover.Options{…})           // a second call goes on where one was interrupted
//	err = t.Undo(ctx, takeover.Options{Manager: manager, …})
//
// # The way back
//
// Unit files, configuration and programs of before are kept in
// /var/lib/quantumd/takeover until the takeover is undone. The data files are
// those that the older programs wrote, with what came after: they read them.
package takeover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/threefoldtech/quantumd/internal/durable"
	"github.com/threefoldtech/quantumd/internal/glob"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/services"
)

// The eras of older installations.
const (
	Scripts = "scripts"  // the shell scripts, with /etc/zstor-default.toml
	Earlier = "quantumd" // an earlier quantumd, with /etc/quantumd.yaml
)

// Unit is one service of an older installation.
type Unit struct {
	Name  string            `json:"name"`
	Path  string            `json:"path"`
	Text  string            `json:"text"`
	Mode  fs.FileMode       `json:"mode"`
	Links map[string]string `json:"links,omitempty"` // of systemd: what starts it with the machine, and where that points

	command []string // program and arguments; nil: not understood
}

// Takeover is an older installation, and how far its takeover has come.
type Takeover struct {
	Manager    services.Manager `json:"manager"`
	Era        string           `json:"era"`
	Units      []Unit           `json:"units"` // in the order in which they are started
	Root       string           `json:"root"`  // of its zdb: data/ and index/ below it
	Mountpoint string           `json:"mountpoint"`
	Zstor      string           `json:"zstor"`  // its configuration
	Config     string           `json:"config"` // that of an earlier quantumd; empty: none
	DataSize   int64            `json:"data_size"`
	Backends   []string         `json:"backends,omitempty"` // services of local backends, which go on

	Step    string            `json:"step"`    // that was begun last; empty: none
	Files   map[string]string `json:"files"`   // what is replaced: where it was, and its copy
	Made    string            `json:"made"`    // the configuration, where there was none
	Derived []byte            `json:"derived"` // the new configuration
	Seen    []string          `json:"seen"`    // names in the mounted file system, before it was stopped

	prefix  string // before system paths
	stopped bool   // an earlier call has stopped something
}

// roles are the programs of an older installation, in the order in which they
// are started. They are stopped in the opposite order, whatever the units say.
var roles = []string{"zstor", "quantumd", "zdb", "zdbfs", "retry-uploads"}

const maxFile = 1 << 20 // bytes of a file that are read

// Error says why an installation cannot be taken over.
type Error struct {
	Msg    string
	Remedy string
	Err    error
}

func (e *Error) Error() string {
	text := "takeover: " + e.Msg
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *Error) Hint() string { return e.Remedy }

// Find looks for an older installation below a root, or for a takeover that was
// begun and did not end. Nil: there is neither. It changes nothing.
func Find(prefix string, manager services.Manager) (*Takeover, error) {
	t := &Takeover{Manager: manager, Era: Earlier, prefix: prefix}
	if begun, err := Begun(prefix); err != nil || begun != nil {
		return begun, err
	}
	if err := t.findUnits(); err != nil || len(t.Units) == 0 {
		return nil, err
	}
	return t, t.look()
}

// Begun gives a takeover that was begun and did not end; nil for none.
func Begun(prefix string) (*Takeover, error) {
	t, err := load(prefix)
	if err != nil || t == nil || t.Step == stepDone || t.Step == stepUndone {
		return nil, err
	}
	return t, nil
}

// Taken gives a takeover that has ended, and can be undone; nil for none.
func Taken(prefix string) (*Takeover, error) {
	t, err := load(prefix)
	if err != nil || t == nil || t.Step == stepUndone {
		return nil, err
	}
	return t, nil
}

func (t *Takeover) at(path string) string { return filepath.Join("/", t.prefix, path) }

// dir is where what was before is kept.
func (t *Takeover) dir() string { return t.at("/var/lib/quantumd/takeover") }

func (t *Takeover) stateFile() string { return filepath.Join(t.dir(), "takeover.json") }

func load(prefix string) (*Takeover, error) {
	t := &Takeover{prefix: prefix}
	text, err := read(t.stateFile(), 16*maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(text, t)
	}
	if err != nil {
		return nil, &Error{Msg: "what an earlier one noted cannot be read", Err: err, Remedy: "look at " + t.stateFile() + ": it names what was stopped"}
	}
	t.prefix = prefix
	for i := range t.Units {
		t.Units[i].command = t.commandOf(t.Units[i])
	}
	return t, nil
}

// save notes the step that begins now.
func (t *Takeover) save(step string) error {
	t.Step = step
	text, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(t.dir(), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(t.stateFile(), append(text, '\n'), 0o600)
}

// read reads a regular file, bounded.
func read(path string, limit int64) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > limit {
		return nil, fmt.Errorf("%s: not a file of at most %d bytes", path, limit)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	return io.ReadAll(io.LimitReader(f, limit))
}

// findUnits reads the services that bear an older installation's names and are
// not ours.
func (t *Takeover) findUnits() error {
	dir, ext := t.at("/etc/systemd/system"), ".service"
	switch t.Manager {
	case services.Zinit:
		dir, ext = t.at("/etc/zinit"), ".yaml"
	case services.Systemd:
	default:
		return nil // nothing of an older installation is there without one
	}
	for _, name := range roles {
		path := filepath.Join(dir, name+ext)
		text, err := read(path, maxFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return &Error{Msg: "a service cannot be read", Err: err, Remedy: "remove it if it is of no use"}
		}
		if strings.HasPrefix(string(text), services.Mark) {
			continue
		}
		st, err := os.Stat(path)
		if err != nil {
			return err
		}
		u := Unit{Name: name, Path: path, Text: string(text), Mode: st.Mode().Perm()}
		u.command = t.commandOf(u)
		if name == "quantumd" && !slices.Contains(u.command, "daemon") && len(u.command) > 1 {
			continue // somebody else's: the reference ran `quantumd daemon`
		}
		t.Units = append(t.Units, u)
	}
	found, err := filepath.Glob(filepath.Join(glob.Escape(dir), "zdb-back*"+ext))
	for _, path := range found {
		t.Backends = append(t.Backends, strings.TrimSuffix(filepath.Base(path), ext))
	}
	return err
}

// unit gives the service of a role; nil for none.
func (t *Takeover) unit(name string) *Unit {
	for i := range t.Units {
		if t.Units[i].Name == name {
			return &t.Units[i]
		}
	}
	return nil
}

// look finds out where the installation has its files: from what it runs, else
// from where its programs put them by themselves.
func (t *Takeover) look() error {
	t.Mountpoint = t.at("/mnt/qsfs")
	if err := t.lookConfig(); err != nil {
		return err
	}
	if err := t.lookZdb(); err != nil {
		return err
	}
	if err := t.lookZdbfs(); err != nil {
		return err
	}
	return t.lookZstor()
}

// lookConfig takes paths from the configuration of an earlier quantumd.
func (t *Takeover) lookConfig() error {
	t.Config = t.at("/etc/quantumd.yaml")
	if u := t.unit("quantumd"); u != nil {
		if path := option(u.command, "-c", "--config"); path != "" {
			t.Config = path
		}
	}
	keys, err := t.oldKeys()
	if err != nil {
		return err
	}
	if keys == nil {
		t.Config, t.Era = "", Scripts
		return nil
	}
	for key, into := range map[string]*string{"zdb_root_path": &t.Root, "qsfs_mountpoint": &t.Mountpoint, "zstor_config_path": &t.Zstor} {
		node, ok := keys[key]
		if !ok || node.Kind != yaml.ScalarNode || !filepath.IsAbs(node.Value) {
			continue
		}
		if *into = filepath.Clean(node.Value); !strings.HasPrefix(*into, t.prefix) {
			*into = t.at(*into)
		}
	}
	return nil
}

// lookZdb: the zdb's arguments count, for it made the files.
func (t *Takeover) lookZdb() error {
	u := t.unit("zdb")
	if u == nil || u.command == nil {
		if t.Root == "" {
			t.Root = t.at(map[string]string{Scripts: "/data", Earlier: "/opt/zdb"}[t.Era])
		}
		return nil
	}
	data, index := filepath.Clean(option(u.command, "--data")), filepath.Clean(option(u.command, "--index"))
	if filepath.Base(data) != "data" || filepath.Base(index) != "index" || filepath.Dir(data) != filepath.Dir(index) || !filepath.IsAbs(data) {
		return &Error{Msg: fmt.Sprintf("its zdb has data in %s and index in %s, and both have to lie below one folder as data and index", data, index),
			Remedy: "stop it, move the folders, and have its service name them; the paths are part of what was stored, so index files are stored anew"}
	}
	t.Root = filepath.Dir(data)
	if text := option(u.command, "--datasize"); text != "" {
		size, err := config.ParseSize(text)
		if err == nil {
			t.DataSize = int64(size)
		}
	}
	return nil
}

func (t *Takeover) lookZdbfs() error {
	u := t.unit("zdbfs")
	if u == nil || u.command == nil {
		return nil
	}
	mountpoint, names := zdbfsArguments(u.command)
	if mountpoint != "" {
		t.Mountpoint = mountpoint
	}
	for key, want := range map[string]string{"mn": "zdbfs-meta", "dn": "zdbfs-data"} {
		if got, ok := names[key]; ok && got != want {
			return &Error{Msg: fmt.Sprintf("its file system is in the namespace %q, and this program knows %s only", got, want),
				Remedy: "bring its files over by mounting both: `quantumd up` on other folders, then copy"}
		}
	}
	return nil
}

func (t *Takeover) lookZstor() error {
	var places []string
	if u := t.unit("zstor"); u != nil {
		places = append(places, option(u.command, "-c", "--config"))
	}
	places = append(places, t.Zstor, t.at("/etc/zstor-default.toml"), t.at("/etc/zstor.toml"))
	for _, path := range places {
		if path == "" {
			continue
		}
		if _, err := os.Stat(path); err == nil {
			t.Zstor = path
			return nil
		}
	}
	return &Error{Msg: "the configuration of its zstor is nowhere, and the key and the backends are in that",
		Remedy: "put it at " + t.at("/etc/zstor.toml") + ", as on the machine that wrote the backends"}
}
