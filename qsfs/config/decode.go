package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

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
	full      bool            // of errors
	failed    map[string]bool // top-level keys that have no value for an error
	start     position        // of the first key
	warnings  []*Error
}

// document reads the one document of a file.
func (d *decoder) document(data []byte, c *Config) {
	var doc, second yaml.Node
	docs := yaml.NewDecoder(bytes.NewReader(data))
	err := docs.Decode(&doc)
	if err == nil {
		if err = docs.Decode(&second); err == nil {
			d.failAt(position{second.Line, second.Column}, "", "a second document begins here", "keep one document: remove the line ---, and what is not wanted")
			return
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		f := findFault(data, err)
		d.failAt(f.position, "", f.msg, f.remedy)
		return
	}
	if len(doc.Content) == 0 {
		return
	}
	if root := doc.Content[0]; root.Kind == yaml.MappingNode {
		d.start = position{root.Line, root.Column}
	}
	d.value(doc.Content[0], reflect.ValueOf(c).Elem(), "")
}

func (d *decoder) fail(n *yaml.Node, key, msg, remedy string) {
	d.failAt(position{n.Line, n.Column}, key, msg, remedy)
}

// maxErrors bounds what is told of one file.
const maxErrors = 100

func (d *decoder) failAt(at position, key, msg, remedy string) {
	switch {
	case len(d.errs) < maxErrors:
		d.errs = append(d.errs, &Error{File: d.file, Line: at.line, Col: at.col, Key: key, Msg: msg, Remedy: remedy})
	case !d.full:
		d.full = true
		d.errs = append(d.errs, &Error{File: d.file, Line: at.line, Col: at.col, Msg: "more errors from here on are not told", Remedy: "correct those before it first"})
	}
	if d.failed != nil {
		d.failed[topKey(key)] = true
	}
}

func topKey(key string) string {
	if i := strings.IndexAny(key, ".["); i > 0 {
		return key[:i]
	}
	return key
}

// shown is a part of the file as messages quote it: short, and in one line.
func shown(text string) string {
	const most = 60
	if utf8.RuneCountInString(text) > most {
		text = string([]rune(text)[:most]) + "…"
	}
	return strconv.Quote(text)
}

// keyName is a key as messages show it.
func keyName(text string) string {
	if quoted := shown(text); quoted[1:len(quoted)-1] != text {
		return quoted
	}
	return text
}

// value decodes one node into v.
func (d *decoder) value(n *yaml.Node, v reflect.Value, key string) {
	if d.full {
		return
	}
	if n.Kind == yaml.AliasNode {
		d.fail(n, key, "YAML aliases are not supported", "write the value out, or put it in quotes if it begins with *")
		return
	}
	if n.Anchor != "" {
		d.fail(n, key, "YAML anchors are not supported", "remove the word that begins with &, or put the value in quotes")
		return
	}
	if n.Style&yaml.TaggedStyle != 0 {
		d.fail(n, key, "YAML tags are not supported", "remove the word that begins with !, or put the value in quotes")
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
		var bad *valueError
		if !errors.As(err, &bad) {
			bad = &valueError{err.Error(), "correct the value"}
		}
		d.fail(n, key, bad.msg, bad.remedy)
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
		if d.full {
			return
		}
		if name.Kind != yaml.ScalarNode || name.Style&yaml.TaggedStyle != 0 || name.Anchor != "" {
			d.fail(name, key, "a key is a plain word", "write `key: value`")
			continue
		}
		full := join(key, keyName(name.Value))
		field, ok := structField(v, name.Value)
		switch {
		case seen[name.Value]:
			first := d.positions[full]
			d.fail(name, full, fmt.Sprintf("given twice; first in line %d", first.line), "remove one of the two lines")
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
	msg, remedy := "unknown key"+suggest(name.Value, structKeys(v.Type())), "correct or remove the line; `quantumd config example` lists every key"
	switch _, top := structField(reflect.ValueOf(Config{}), name.Value); {
	case name.Value == "<<":
		msg, remedy = "YAML merges are not supported", "write the keys out"
	case top && full != name.Value:
		msg, remedy = "not a key of "+parent(full)+", but of the file", "begin the line in the first column"
	}
	if !d.tolerate {
		d.fail(name, full, msg, remedy)
	} else if len(d.warnings) < maxErrors {
		d.warnings = append(d.warnings, &Error{File: d.file, Line: name.Line, Col: name.Column, Key: full, Msg: msg, Remedy: remedy})
	}
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
		name, val := n.Content[i], n.Content[i+1]
		full := join(key, keyName(name.Value))
		if _, twice := d.positions[full]; twice {
			d.fail(name, full, "given twice", "remove one of the two")
			continue
		}
		if name.Kind != yaml.ScalarNode {
			d.fail(name, key, "a key is a plain word", "write `name: {…}`")
			continue
		}
		d.positions[full] = position{val.Line, val.Column}
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(val, item, full)
		out.SetMapIndex(reflect.ValueOf(name.Value), item)
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
		d.fail(n, key, shown(n.Value)+" is not true or false", "write true or false")
	case reflect.Int:
		var i int64
		if i, err = strconv.ParseInt(n.Value, 10, 32); err == nil {
			v.SetInt(i)
			return
		}
		d.fail(n, key, shown(n.Value)+" is not a whole number", "write a whole number")
	case reflect.Uint32, reflect.Uint64:
		var u uint64
		if u, err = strconv.ParseUint(n.Value, 10, v.Type().Bits()); err == nil {
			v.SetUint(u)
			return
		}
		d.fail(n, key, shown(n.Value)+" is not an id", "write a whole number of one or more")
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
