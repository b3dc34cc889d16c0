package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"

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
	return Parse(path, data, opts...)
}

// Parse reads the text of a file; name is for messages.
func Parse(name string, data []byte, opts ...Option) (*Config, error) {
	l := &loader{environ: map[string]string{}, overrides: map[string]string{}}
	for _, o := range opts {
		o(l)
	}
	c := Default()
	c.file = name
	c.positions = map[string]position{}
	c.sources = map[string]Source{}
	d := &decoder{file: name, positions: c.positions, tolerate: l.tolerate}
	d.document(data, c)
	for key := range c.positions {
		c.sources[key] = FromFile
	}
	c.warnings = d.warnings
	l.environment(c, d)
	l.override(c, d)
	if len(d.errs) > 0 {
		return nil, errors.Join(d.errs...)
	}
	return c, errors.Join(c.readCredentials(l.environ["CREDENTIALS_DIRECTORY"]), c.readSecretFiles())
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
		if err := c.set(key, value); err != nil {
			d.errs = append(d.errs, &Error{File: "environment variable " + name, Key: key, Msg: err.Error(), Remedy: "correct or unset " + name})
			continue
		}
		c.sources[key] = FromEnvironment
	}
}

func (l *loader) override(c *Config, d *decoder) {
	for key, value := range l.overrides {
		if err := c.set(key, value); err != nil {
			d.errs = append(d.errs, &Error{File: "flag", Key: key, Msg: err.Error(), Remedy: "correct the value given for " + key})
			continue
		}
		c.sources[key] = FromFlag
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
		text, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return c.errorAt(name, "the service's credential: "+reason(err), "run `quantumd setup` again", err)
		}
		*into = Secret(strings.TrimSpace(string(text)))
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
		if s.file == "" || *s.into != "" {
			continue
		}
		text, err := os.ReadFile(s.file)
		if err != nil {
			errs = append(errs, c.errorAt(s.key, reason(err), "name a file that this user can read", err))
			continue
		}
		*s.into = Secret(strings.TrimSpace(string(text)))
	}
	return errors.Join(errs...)
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
func (c *Config) set(key, text string) error {
	field, ok := fieldOf(c, key)
	if !ok {
		return fmt.Errorf("unknown key%s", suggest(key, Keys()))
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
		return fmt.Errorf("not valid YAML: %s", yamlReason(err))
	}
	if len(node.Content) != 1 {
		return errors.New("empty")
	}
	if def, _ := fieldOf(Default(), key); field.Kind() == reflect.Struct {
		field.Set(def) // a map replaces the weaker one whole
	}
	d := &decoder{positions: map[string]position{}}
	d.value(node.Content[0], field, key)
	if len(d.errs) > 0 {
		var e *Error
		errors.As(d.errs[0], &e)
		return errors.New(e.Msg)
	}
	return nil
}
