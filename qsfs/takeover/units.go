package takeover

import (
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/threefoldtech/quantumd/services"
	"github.com/threefoldtech/quantumd/services/zinit"
)

// commandOf gives the program and the arguments that a service runs; nil where
// that is not understood.
func (t *Takeover) commandOf(u Unit) []string {
	line := ""
	if t.Manager == services.Zinit {
		var d struct {
			Exec string `yaml:"exec"`
		}
		if yaml.Unmarshal([]byte(u.Text), &d) != nil {
			return nil
		}
		line = d.Exec
	} else {
		line = execStart(u.Text)
	}
	words, err := zinit.Split(line)
	if err != nil {
		return nil
	}
	words = slices.DeleteFunc(words, func(w string) bool { return strings.TrimSpace(w) == "" }) // of a stray backslash
	return program(words, u.Name)
}

// execStart gives the last ExecStart= of a unit file, whose lines may go on
// behind a backslash.
func execStart(text string) string {
	text = strings.NewReplacer("\\\r\n", " ", "\\\n", " ").Replace(text)
	last := ""
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "ExecStart="); ok && v != "" {
			last = strings.TrimLeft(v, "-@:+!")
		}
	}
	return last
}

// maxNested bounds shells within shells.
const maxNested = 3

// program finds the program of a name in a command line, also behind `exec`, an
// environment or in the text of a shell.
func program(words []string, name string) []string {
	for range maxNested {
		if len(words) > 2 && slices.Contains([]string{"sh", "bash"}, filepath.Base(words[0])) && strings.HasPrefix(words[1], "-") && strings.HasSuffix(words[1], "c") {
			inner, err := zinit.Split(strings.ReplaceAll(words[2], ";", " ; "))
			if err != nil {
				return nil
			}
			words = inner
		}
	}
	at := slices.IndexFunc(words, func(w string) bool { b := filepath.Base(w); return b == name || b == name+"_v2" || b == name+".sh" })
	if at < 0 {
		return nil
	}
	words = words[at:]
	if end := slices.IndexFunc(words, func(w string) bool { return w == ";" || w == "&&" || w == "||" || w == "&" }); end >= 0 {
		words = words[:end]
	}
	return words
}

// option gives the value of the last of some options; empty where none is given.
func option(words []string, names ...string) string {
	value := ""
	for i, w := range words {
		if i == 0 {
			continue
		}
		name, v, joined := strings.Cut(w, "=")
		switch {
		case !slices.Contains(names, name):
		case joined:
			value = v
		case i+1 < len(words):
			value = words[i+1]
		}
	}
	return value
}

// zdbfsArguments reads a zdbfs's arguments: where it mounts, and its -o options.
func zdbfsArguments(words []string) (mountpoint string, options map[string]string) {
	options = map[string]string{}
	if len(words) == 0 {
		return "", options
	}
	for i := 1; i < len(words); i++ {
		w := words[i]
		list, ok := strings.CutPrefix(w, "-o")
		switch {
		case ok && list == "" && i+1 < len(words):
			i++
			list = words[i]
		case ok:
		case strings.HasPrefix(w, "-"):
			continue
		default:
			if filepath.IsAbs(w) && mountpoint == "" {
				mountpoint = filepath.Clean(w)
			}
			continue
		}
		for _, o := range strings.Split(list, ",") {
			k, v, _ := strings.Cut(o, "=")
			options[k] = v
		}
	}
	return mountpoint, options
}
