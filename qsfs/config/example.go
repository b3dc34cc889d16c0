package config

import (
	_ "embed"
	"fmt"
	"reflect"

	"go.yaml.in/yaml/v3"
)

//go:embed example.yaml
var example string

// Example is the text of a file with every key, its default and a comment.
func Example() string { return example }

// Shown is one key of the effective configuration, for people.
type Shown struct {
	Key    string `json:"key"`
	Value  any    `json:"value"` // secrets are hidden
	Source Source `json:"source"`
}

// Show lists the effective configuration in the order of [Keys], secrets
// hidden.
func (c *Config) Show() []Shown {
	var out []Shown
	v := reflect.ValueOf(c).Elem()
	for _, key := range Keys() {
		field, _ := structField(v, key)
		out = append(out, Shown{Key: key, Value: plain(field, false), Source: c.Source(key)})
	}
	return out
}

// Marshal gives the YAML text that loads to the same configuration. Secrets
// are written out unless they came from the environment or a file of their
// own: the caller writes the text to a file of mode 0600.
func (c *Config) Marshal() ([]byte, error) {
	def := reflect.ValueOf(Default()).Elem()
	v := reflect.ValueOf(c).Elem()
	doc := &yaml.Node{Kind: yaml.MappingNode}
	for _, key := range Keys() {
		field, _ := structField(v, key)
		base, _ := structField(def, key)
		if reflect.DeepEqual(field.Interface(), base.Interface()) || c.keptElsewhere(key) {
			continue
		}
		var name, value yaml.Node
		name.SetString(key)
		if err := value.Encode(plain(field, true)); err != nil {
			return nil, fmt.Errorf("write %s: %w", key, err)
		}
		doc.Content = append(doc.Content, &name, &value)
	}
	return yaml.Marshal(doc)
}

// keptElsewhere says whether a secret must not be copied into the file.
func (c *Config) keptElsewhere(key string) bool {
	switch key {
	case "mnemonic":
		return c.MnemonicFile != "" || c.Source(key) == FromEnvironment
	case "password":
		return c.PasswordFile != "" || c.Source(key) == FromEnvironment
	case "encryption_key":
		return c.EncryptionKeyFile != "" || c.Source(key) == FromEnvironment
	}
	return false
}

// plain turns a field into what YAML and JSON show: texts for sizes and
// durations, maps in the order of the struct for structs.
func plain(v reflect.Value, reveal bool) any {
	switch x := v.Interface().(type) {
	case Secret:
		if reveal {
			return x.Reveal()
		}
		return x.String()
	case fmt.Stringer:
		return x.String()
	}
	switch v.Kind() {
	case reflect.Slice:
		out := make([]any, v.Len())
		for i := range out {
			out[i] = plain(v.Index(i), reveal)
		}
		return out
	case reflect.Map:
		out := map[string]any{}
		for _, k := range v.MapKeys() {
			out[k.String()] = plain(v.MapIndex(k), reveal)
		}
		return out
	case reflect.Struct:
		out := map[string]any{}
		for i := range v.NumField() {
			if tag := v.Type().Field(i).Tag.Get("yaml"); tag != "" && !v.Field(i).IsZero() {
				out[tag] = plain(v.Field(i), reveal)
			}
		}
		return out
	}
	return v.Interface()
}
