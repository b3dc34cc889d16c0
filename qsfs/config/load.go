package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// MaxFileSize bounds a configuration file.
const MaxFileSize = 1 << 20

// Source says where a key's value came from.
type Source string

// The sources, from the weakest to the strongest.
const (
	FromDefault     Source = "default"
	FromFile        Source = "file"
	FromEnvironment Source = "environment"
	FromFlag        Source = "flag"
)

// Option changes how a configuration is loaded.
type Option func(*loader)

type loader struct {
	environ   map[string]string
	overrides map[string]string
	tolerate  bool
}

// FromEnviron lets the environment win over the file: MNEMONIC, NETWORK,
// PASSWORD, RETRY_INTERVAL, and QUANTUMD_<KEY> for every key. environ is in
// the form of os.Environ. Empty variables count as not set.
func FromEnviron(environ []string) Option {
	return func(l *loader) {
		for _, kv := range environ {
			if name, value, ok := strings.Cut(kv, "="); ok && value != "" {
				l.environ[name] = value
			}
		}
	}
}

// WithOverrides lets key=value pairs win over everything, as flags do. Values
// are YAML.
func WithOverrides(overrides map[string]string) Option {
	return func(l *loader) {
		for k, v := range overrides {
			l.overrides[k] = v
		}
	}
}

// TolerateUnknown turns unknown keys into warnings.
func TolerateUnknown() Option { return func(l *loader) { l.tolerate = true } }

// Load reads a file. An empty path gives the defaults, with environment and
// overrides. A missing file is an Error that matches [ErrNoConfig]. The result
// is complete but not yet validated: see [Config.Validate].
func Load(path string, opts ...Option) (*Config, error) {
	if path == "" {
		return Parse("", nil, opts...)
	}
	began := time.Now()
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &Error{File: path, Msg: "no configuration here", Err: ErrNoConfig,
			Remedy: "begin with `quantumd deploy --local`, or copy config.example.yaml (`quantumd config example`), fill it in and run `quantumd deploy --config FILE`"}
	}
	if err != nil {
		return nil, &Error{File: path, Msg: "cannot be read: " + reason(err), Err: err, Remedy: "check the file's owner and mode, or run as root"}
	}
	defer f.Close() //nolint:errcheck // read only
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return nil, &Error{File: path, Msg: "cannot be read: " + reason(err), Err: err, Remedy: "name a file that can be read"}
	}
	if len(data) > MaxFileSize {
		return nil, &Error{File: path, Msg: "larger than 1 MiB", Remedy: "name the configuration file, not a data file"}
	}
	c, err := Parse(path, data, opts...)
	if c != nil {
		c.read = began
	}
	return c, err
}

// Parse reads the text of a file; name is for messages.
func Parse(name string, data []byte, opts ...Option) (*Config, error) {
	l := &loader{environ: map[string]string{}, overrides: map[string]string{}}
	for _, o := range opts {
		o(l)
	}
	c := Default()
	c.file, c.read = name, time.Now()
	c.positions = map[string]position{}
	c.sources = map[string]Source{}
	c.variables = map[string]string{}
	d := &decoder{file: name, positions: c.positions, tolerate: l.tolerate, failed: map[string]bool{}}
	d.document(data, c)
	c.start = d.start
	for key := range c.positions {
		c.sources[key] = FromFile
	}
	c.warnings = d.warnings
	l.environment(c, d)
	l.override(c, d)
	c.failed = d.failed
	err := errors.Join(c.readCredentials(l.environ["CREDENTIALS_DIRECTORY"]), c.readSecretFiles())
	if len(d.errs) > 0 {
		all := append(d.errs, flat(err)...)
		if c.start != (position{}) && !d.full {
			all = append(all, flat(c.Validate())...) // the rest of the file: one run tells all
		}
		return nil, inOrder(all)
	}
	return c, err
}

// flat lists the errors that are joined in one.
func flat(err error) []error {
	var out []error
	for _, e := range Errors(err) {
		out = append(out, e)
	}
	return out
}

// plainNames are the variables of the reference beside QUANTUMD_<KEY>.
var plainNames = map[string]string{
	"mnemonic": "MNEMONIC", "network": "NETWORK", "password": "PASSWORD", "retry_interval": "RETRY_INTERVAL",
}

func (l *loader) environment(c *Config, d *decoder) {
	for _, key := range Keys() {
		name := "QUANTUMD_" + strings.ToUpper(key)
		value, ok := l.environ[name]
		if !ok {
			name = plainNames[key]
			value, ok = l.environ[name]
		}
		if !ok || key == "config" {
			continue
		}
		if e := c.set(key, value); e != nil {
			e.File, e.Remedy = variable(name), "correct or unset "+name+": "+e.Remedy
			d.errs = append(d.errs, e)
			d.failed[key] = true
			continue
		}
		c.sources[key] = FromEnvironment
		c.variables[key] = name
		delete(d.failed, key)
	}
}

func variable(name string) string { return "environment variable " + name }

func (l *loader) override(c *Config, d *decoder) {
	for _, key := range slices.Sorted(maps.Keys(l.overrides)) {
		if e := c.set(key, l.overrides[key]); e != nil {
			e.File, e.Remedy = "flag", "correct the value given for "+keyName(key)+": "+e.Remedy
			d.errs = append(d.errs, e)
			d.failed[key] = true
			continue
		}
		c.sources[key] = FromFlag
		delete(d.failed, key)
	}
}

// Source says where the value of a key came from.
func (c *Config) Source(key string) Source {
	if s, ok := c.sources[key]; ok {
		return s
	}
	return FromDefault
}

// readCredentials fills secrets from a service manager's credentials: files
// named as the keys in the folder that CREDENTIALS_DIRECTORY names.
func (c *Config) readCredentials(dir string) error {
	if dir == "" {
		return nil
	}
	for name, into := range map[string]*Secret{"mnemonic": &c.Mnemonic, "password": &c.Password, "encryption_key": &c.EncryptionKey} {
		if *into != "" {
			continue
		}
		text, err := readSecret(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return c.errorAt(name, "the service's credential: "+reason(err), "run `quantumd setup` again", err)
		}
		*into = Secret(text)
		c.sources[name] = FromEnvironment
	}
	return nil
}

// readSecretFiles fills secrets that are given as files.
func (c *Config) readSecretFiles() error {
	var errs []error
	for _, s := range []struct {
		key, file string
		into      *Secret
	}{
		{"mnemonic_file", c.MnemonicFile, &c.Mnemonic},
		{"password_file", c.PasswordFile, &c.Password},
		{"encryption_key_file", c.EncryptionKeyFile, &c.EncryptionKey},
	} {
		if s.file == "" {
			continue
		}
		plain := strings.TrimSuffix(s.key, "_file")
		if *s.into != "" {
			if c.Source(plain) == FromFile && c.Source(s.key) == FromFile {
				errs = append(errs, c.errorAt(s.key, plain+" is given too", "keep one of the two", nil))
			}
			continue
		}
		text, err := readSecret(s.file)
		if err != nil {
			errs = append(errs, c.errorAt(s.key, shown(s.file)+": "+reason(err), "name a file that holds only the secret, and that this user can read", err))
			c.failed[s.key], c.failed[plain] = true, true
			continue
		}
		*s.into = Secret(text)
	}
	return errors.Join(errs...)
}

// maxSecretFile is larger than any mnemonic.
const maxSecretFile = 4096

func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // read only
	text, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil {
		return "", err
	}
	if len(text) > maxSecretFile {
		return "", fmt.Errorf("larger than %d bytes", maxSecretFile)
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" {
		return "", errors.New("empty")
	}
	return secret, nil
}

// reason strips the path that the message already names.
func reason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

// set gives a key the value that text spells. Strings and secrets are taken as
// they are, everything else is YAML.
func (c *Config) set(key, text string) *Error {
	field, ok := fieldOf(c, key)
	if !ok {
		return &Error{Key: keyName(key), Msg: "unknown key" + suggest(key, Keys()), Remedy: "`quantumd config example` lists every key"}
	}
	switch p := field.Addr().Interface().(type) {
	case *string:
		*p = text
		return nil
	case *Secret:
		*p = Secret(text)
		return nil
	}
	var node yaml.Node
	if err := yaml.Unmarshal([]byte(text), &node); err != nil {
		f := findFault([]byte(text), err)
		return &Error{Key: key, Msg: f.msg, Remedy: f.remedy}
	}
	if len(node.Content) != 1 {
		return &Error{Key: key, Msg: "empty", Remedy: "give a value"}
	}
	if def, _ := fieldOf(Default(), key); field.Kind() == reflect.Struct {
		field.Set(def) // a map replaces the weaker one whole
	}
	d := &decoder{positions: map[string]position{}}
	d.value(node.Content[0], field, key)
	if len(d.errs) > 0 {
		var e *Error
		errors.As(d.errs[0], &e)
		return &Error{Key: e.Key, Msg: e.Msg, Remedy: e.Remedy}
	}
	return nil
}
