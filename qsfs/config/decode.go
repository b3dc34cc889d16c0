package config

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

type position struct{ line, col int }

// decoder fills a Config from YAML nodes. It goes on behind an error, so that
// one run shows all that is wrong.
type decoder struct {
	file      string
	positions map[string]position
	tolerate  bool
	errs      []error
	warnings  []*Error
}

func (d *decoder) document(data []byte, c *Config) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		line := 0
		if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
			line, _ = strconv.Atoi(m[1]) // digits by the pattern
		}
		d.errs = append(d.errs, &Error{File: d.file, Line: line, Col: 1, Msg: "not valid YAML: " + yamlReason(err), Remedy: "correct the line; `quantumd config example` shows a valid file"})
		return
	}
	if len(doc.Content) == 0 {
		return
	}
	d.value(doc.Content[0], reflect.ValueOf(c).Elem(), "")
}

var yamlLine = regexp.MustCompile(`line (\d+):`)

func yamlReason(err error) string {
	return yamlLine.ReplaceAllString(strings.TrimPrefix(err.Error(), "yaml: "), "")
}

func (d *decoder) fail(n *yaml.Node, key, msg, remedy string) {
	d.errs = append(d.errs, &Error{File: d.file, Line: n.Line, Col: n.Column, Key: key, Msg: msg, Remedy: remedy})
}

// value decodes one node into v.
func (d *decoder) value(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind == yaml.AliasNode {
		d.fail(n, key, "YAML aliases are not supported", "write the value out")
		return
	}
	if n.Tag == "!!null" {
		return // an empty value keeps the default
	}
	if e, ok := v.Addr().Interface().(*Engine); ok && n.Kind == yaml.ScalarNode {
		kind := EngineKind(n.Value)
		*e = Engine{kind, kind, kind}
		return
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.text(n, u, key)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.mapping(n, v, key)
	case reflect.Slice:
		d.sequence(n, v, key)
	case reflect.Map:
		d.table(n, v, key)
	default:
		d.scalar(n, v, key)
	}
}

func (d *decoder) text(n *yaml.Node, u encoding.TextUnmarshaler, key string) {
	if n.Kind != yaml.ScalarNode {
		d.fail(n, key, "a single value is wanted here", "write one value")
		return
	}
	if err := u.UnmarshalText([]byte(n.Value)); err != nil {
		msg, remedy, _ := strings.Cut(err.Error(), ": ")
		d.fail(n, key, msg, remedy)
	}
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, key, "a map of keys and values is wanted here", "write `key: value` lines")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, val := n.Content[i], n.Content[i+1]
		full := join(key, name.Value)
		field, ok := structField(v, name.Value)
		switch {
		case seen[name.Value]:
			d.fail(name, full, "given twice", "remove one of the two lines")
			continue
		case !ok:
			d.unknown(name, full, v)
			continue
		}
		seen[name.Value] = true
		d.positions[full] = position{val.Line, val.Column}
		d.value(val, field, full)
	}
}

func (d *decoder) unknown(name *yaml.Node, full string, v reflect.Value) {
	e := &Error{File: d.file, Line: name.Line, Col: name.Column, Key: full,
		Msg:    "unknown key" + suggest(name.Value, structKeys(v.Type())),
		Remedy: "correct or remove the line; `quantumd config example` lists every key"}
	if d.tolerate {
		d.warnings = append(d.warnings, e)
		return
	}
	d.errs = append(d.errs, e)
}

func (d *decoder) sequence(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.SequenceNode {
		d.fail(n, key, "a list is wanted here", "write `[a, b]` or one `- item` per line")
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		full := fmt.Sprintf("%s[%d]", key, i)
		d.positions[full] = position{item.Line, item.Column}
		d.value(item, out.Index(i), full)
	}
	v.Set(out)
}

func (d *decoder) table(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, key, "a map of names is wanted here", "write `name: {…}` lines")
		return
	}
	out := reflect.MakeMap(v.Type())
	for i := 0; i+1 < len(n.Content); i += 2 {
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(n.Content[i+1], item, join(key, n.Content[i].Value))
		out.SetMapIndex(reflect.ValueOf(n.Content[i].Value), item)
	}
	v.Set(out)
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.ScalarNode {
		d.fail(n, key, "a single value is wanted here", "write one value")
		return
	}
	var err error
	switch v.Kind() {
	case reflect.String:
		v.SetString(n.Value)
		return
	case reflect.Bool:
		var b bool
		if b, err = strconv.ParseBool(n.Value); err == nil {
			v.SetBool(b)
			return
		}
		d.fail(n, key, fmt.Sprintf("%q is not true or false", n.Value), "write true or false")
	case reflect.Int:
		var i int64
		if i, err = strconv.ParseInt(n.Value, 10, 32); err == nil {
			v.SetInt(i)
			return
		}
		d.fail(n, key, fmt.Sprintf("%q is not a whole number", n.Value), "write a whole number")
	case reflect.Uint32, reflect.Uint64:
		var u uint64
		if u, err = strconv.ParseUint(n.Value, 10, v.Type().Bits()); err == nil {
			v.SetUint(u)
			return
		}
		d.fail(n, key, fmt.Sprintf("%q is not an id", n.Value), "write a whole number of zero or more")
	default:
		d.errs = append(d.errs, errors.New("config: no decoder for "+v.Type().String()))
	}
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}
