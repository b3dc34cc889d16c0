package zinit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/threefoldtech/quantumd/services"
)

const maxFile = 1 << 20 // bytes of a service file that are read

// definition is a service file: the keys of zinit, and one of ours, which zinit
// does not look at.
type definition struct {
	Exec            string            `yaml:"exec"`
	Test            string            `yaml:"test"`
	After           []string          `yaml:"after,omitempty"`
	ShutdownTimeout int               `yaml:"shutdown_timeout"` // seconds; at the machine's end only
	Log             string            `yaml:"log"`
	Env             map[string]string `yaml:"env,omitempty"`
	Ours            ours              `yaml:"quantumd"`
}

// ours is what the Manager needs of a service beside what zinit does.
type ours struct {
	Description  string        `yaml:"description"`
	After        []string      `yaml:"after,omitempty"`  // also those that are not installed
	Before       []string      `yaml:"before,omitempty"` //
	Programs     []string      `yaml:"programs"`         // that have to be there
	StopExec     []string      `yaml:"stop_exec,omitempty"`
	StartTimeout time.Duration `yaml:"start_timeout"`
	StopTimeout  time.Duration `yaml:"stop_timeout"`
	Kill         string        `yaml:"kill"`
	SuccessExit  []int         `yaml:"success_exit,omitempty"`
	ReloadSignal int           `yaml:"reload_signal,omitempty"`
	Mountpoint   string        `yaml:"mountpoint,omitempty"`
	Credentials  string        `yaml:"credentials,omitempty"` // the folder of links that the start makes
}

// NoTestError says that a service tells its readiness in a way that zinit does
// not know.
type NoTestError struct {
	Service string
}

func (e *NoTestError) Error() string {
	return fmt.Sprintf("service %s: zinit does not know sd_notify, and there is no command that waits until it is ready", e.Service)
}

// Hint names the remedy.
func (e *NoTestError) Hint() string {
	return "give the service a WaitExec, as `quantumd wait` is one"
}

// others is what a service file depends on beside the service.
type others struct {
	known func(name string) bool // zinit will know that service
	first func(name string) bool // some come before this one, and say so themselves
}

// describe gives the definition of a service.
func (m *Manager) describe(s services.Service, o others) (definition, error) {
	if err := s.Validate(); err != nil {
		return definition{}, err
	}
	if err := checkName(s.Name); err != nil {
		return definition{}, err
	}
	if s.Notify && len(s.WaitExec) == 0 {
		return definition{}, &NoTestError{Service: s.Name}
	}
	s = s.WithDefaults()
	d := definition{
		Exec: quoteAll(wrapped(s, m.credentials(s.Name), m.root)), Test: quoteAll(tested(s)),
		Log: "ring",
		Ours: ours{
			Description: s.Description, After: slices.Concat(s.After, s.Requires), Before: s.Before,
			Programs: []string{s.Exec[0]}, StopExec: s.StopExec, StartTimeout: s.StartTimeout, StopTimeout: s.StopTimeout,
			Kill: string(s.Kill), SuccessExit: s.SuccessExit, ReloadSignal: int(s.ReloadSignal), Mountpoint: s.Mountpoint,
		},
	}
	slices.Sort(d.Ours.After)
	d.Ours.After = slices.Compact(d.Ours.After)
	d.settle(s.Name, o)
	if len(s.WaitExec) > 0 {
		d.Ours.Programs = append(d.Ours.Programs, s.WaitExec[0])
	}
	for _, e := range s.Env {
		k, v, _ := strings.Cut(e, "=")
		d.set(k, v)
	}
	if len(s.Credentials) > 0 {
		d.Ours.Credentials = m.credentials(s.Name)
		d.set("CREDENTIALS_DIRECTORY", d.Ours.Credentials)
	}
	return d, nil
}

func (d *definition) set(key, value string) {
	if d.Env == nil {
		d.Env = map[string]string{}
	}
	d.Env[key] = value
}

// shortShutdown is how long the machine's shutdown waits, in seconds, for a
// service that needs others which end at the same time.
const shortShutdown = 15

// settle sets what zinit itself waits for. Of the names that a service comes
// after only those stay that zinit will know: it blocks a service for ever that
// comes after an unknown one. And one that others say they come before is not
// waited for long when the machine shuts down: zinit, up to 0.2.14, ends these
// others at the same time, so what is not on them by then waits for the next
// start.
func (d *definition) settle(name string, o others) {
	d.After = nil
	for _, n := range d.Ours.After {
		if o.known(n) {
			d.After = append(d.After, n)
		}
	}
	d.ShutdownTimeout = int((d.Ours.StopTimeout + time.Second - 1) / time.Second)
	if o.first(name) {
		d.ShutdownTimeout = min(d.ShutdownTimeout, shortShutdown)
	}
}

// shell runs what zinit cannot: it only starts programs. One that zinit itself
// cannot start would not be tried again (state Failure), and a test that it
// cannot start it tries without a pause; the shell can always be started.
const shell = "/bin/sh"

const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// wrapped gives the command that zinit starts: a shell that prepares what a
// service needs, and becomes the program.
func wrapped(s services.Service, credentials, root string) []string {
	var b strings.Builder
	fmt.Fprintf(&b, "umask 0077; PATH=${PATH:-%s}; export PATH; ulimit -n 65536 2>/dev/null", searchPath)
	if s.RuntimeDir != "" { // /run is empty after a boot
		fmt.Fprintf(&b, "; mkdir -p -m 0700 %s || exit 1", quote(filepath.Join("/", root, "run", s.RuntimeDir)))
	}
	if len(s.Credentials) > 0 {
		fmt.Fprintf(&b, "; rm -rf %[1]s; mkdir -p %[1]s || exit 1", quote(credentials))
		for _, c := range s.Credentials {
			fmt.Fprintf(&b, "; ln -s %s %s || exit 1", quote(c.Path), quote(filepath.Join(credentials, c.Name)))
		}
	}
	if s.Mountpoint != "" { // one that is dead fails every start
		fmt.Fprintf(&b, "; umount -l %s 2>/dev/null", quote(s.Mountpoint))
	}
	if s.Dir != "" {
		fmt.Fprintf(&b, "; cd %s || exit 1", quote(s.Dir))
	}
	b.WriteString(`; exec "$@"`)
	return append([]string{shell, "-c", b.String(), "sh"}, s.Exec...)
}

// tested gives the command that ends with 0 when the service is ready. A
// service without a test of its own is ready when it has not ended at once: so
// that one that does, again and again, is not taken for a running one.
func tested(s services.Service) []string {
	if len(s.WaitExec) == 0 {
		return []string{shell, "-c", "sleep 0.2 2>/dev/null || sleep 1"}
	}
	return append([]string{shell, "-c", fmt.Sprintf(`PATH=${PATH:-%s}; export PATH; exec "$@"`, searchPath), "sh"}, s.WaitExec...)
}

// encode gives the text of a service file.
func (d definition) encode() (string, error) {
	var node yaml.Node
	if err := node.Encode(d); err != nil {
		return "", err
	}
	for _, text := range d.texts() {
		if !utf8.ValidString(text) || strings.ContainsAny(text, "\x00\n\r\u0085\u2028\u2029") {
			return "", fmt.Errorf("zinit: %q cannot stand in a service file", text)
		}
	}
	quoteStrings(&node)
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(&node), e.Close()); err != nil {
		return "", err
	}
	text := services.Mark + "changes are lost at the next setup or upgrade.\n" + b.String()
	return text, d.check(text)
}

func (d definition) texts() []string {
	out := slices.Concat([]string{d.Exec, d.Test, d.Ours.Description, d.Ours.Mountpoint, d.Ours.Credentials},
		d.After, d.Ours.After, d.Ours.Before, d.Ours.Programs, d.Ours.StopExec)
	for k, v := range d.Env {
		out = append(out, k, v)
	}
	return out
}

// quoteStrings has each string in double quotes: the YAML reader of zinit takes
// other words for numbers and nothings than ours does.
func quoteStrings(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		n.Style = yaml.DoubleQuotedStyle
	}
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			if strings.ContainsFunc(c.Value, special) || c.Value == "" || c.ShortTag() != "!!str" {
				c.Style = yaml.DoubleQuotedStyle
			}
			continue
		}
		quoteStrings(c)
	}
}

// check reads a text back: zinit says nothing about a file that it does not
// like but that the service is unknown.
func (d definition) check(text string) error {
	back, err := parse(text)
	if err != nil {
		return fmt.Errorf("zinit: the service file does not read back: %w", err)
	}
	if !reflect.DeepEqual(back, d) {
		return errors.New("zinit: the service file reads back as something else")
	}
	for _, line := range []string{d.Exec, d.Test} {
		if words, err := Split(line); err != nil || len(words) == 0 {
			return fmt.Errorf("zinit: %q is no command: %w", line, err)
		}
	}
	return nil
}

// parse reads a file of ours; what is in it beside is an error.
func parse(text string) (definition, error) {
	var d definition
	if len(text) > maxFile {
		return d, fmt.Errorf("zinit: a service file of %d bytes", len(text))
	}
	dec := yaml.NewDecoder(strings.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&d); err != nil {
		return d, err
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return d, errors.New("zinit: more than one document")
	}
	if d.Exec == "" {
		return d, errors.New("zinit: no exec")
	}
	for _, n := range slices.Concat(d.After, d.Ours.After, d.Ours.Before) {
		if err := services.CheckName(n); err != nil {
			return d, err
		}
	}
	if !slices.Contains([]string{"none", "ring", "stdout"}, d.Log) {
		return d, fmt.Errorf("zinit: log %q", d.Log)
	}
	if d.Ours.ReloadSignal < 0 || d.Ours.ReloadSignal > 64 {
		return d, fmt.Errorf("zinit: signal %d", d.Ours.ReloadSignal)
	}
	if d.Ours.StartTimeout <= 0 || d.Ours.StopTimeout <= 0 {
		return d, errors.New("zinit: a limit of nothing")
	}
	for _, p := range []string{d.Ours.Mountpoint, d.Ours.Credentials} {
		if p != "" && !filepath.IsAbs(p) {
			return d, fmt.Errorf("zinit: path %q", p)
		}
	}
	if len(d.Ours.StopExec) > 0 && !filepath.IsAbs(d.Ours.StopExec[0]) {
		return d, fmt.Errorf("zinit: command %q", d.Ours.StopExec)
	}
	return d, nil
}

// parseForeign reads what is needed of a file that somebody else wrote: of the
// keys only `after`, and that only where zinit would take it too.
func parseForeign(text string) definition {
	var keys struct {
		After []string `yaml:"after"`
	}
	if err := yaml.Unmarshal([]byte(text), &keys); err != nil {
		keys.After = nil
	}
	d := definition{After: keys.After, Ours: ours{After: keys.After, StartTimeout: services.DefaultStartTimeout, StopTimeout: services.DefaultStopTimeout}}
	return d
}

// checkName refuses what services.CheckName does, and what a zinit since
// 0.2.15 does.
func checkName(name string) error {
	if err := services.CheckName(name); err != nil {
		return err
	}
	if strings.Contains(name, ".") {
		return fmt.Errorf("zinit: name %q: zinit takes no `.` in names", name)
	}
	return nil
}

// readFile gives the text of a service file, empty when there is none.
func readFile(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO is not waited for
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // read only
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("service file %s has more than %d bytes", path, maxFile)
	}
	return string(b), err
}
