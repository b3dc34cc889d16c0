package zinittest

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"
)

const killSignal = syscall.SIGKILL

// config is a service file.
type config struct {
	Exec            string
	Test            string
	Oneshot         bool
	ShutdownTimeout int
	After           []string
	Log             string
	Env             map[string]string
	Dir             string

	stopSignal syscall.Signal
}

// load reads a service file as strictly as zinit: null is no log, one word no
// list, and a number no text. Unknown keys are let through.
func load(path string) (config, error) {
	c := config{ShutdownTimeout: 10, Log: "ring", stopSignal: syscall.SIGTERM}
	text, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return c, err
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return c, errors.New("no mapping")
	}
	if err := each(doc.Content[0], c.take); err != nil {
		return c, err
	}
	if c.Exec == "" {
		return c, errors.New("missing exec directive")
	}
	return c, nil
}

func each(m *yaml.Node, f func(key string, value *yaml.Node) error) error {
	if m.Kind != yaml.MappingNode {
		return errors.New("no mapping")
	}
	for n := 0; n+1 < len(m.Content); n += 2 {
		if err := f(m.Content[n].Value, m.Content[n+1]); err != nil {
			return err
		}
	}
	return nil
}

func (c *config) take(key string, v *yaml.Node) (err error) {
	switch key {
	case "exec":
		c.Exec, err = text(v)
	case "test":
		c.Test, err = text(v)
	case "dir":
		c.Dir, err = text(v)
	case "oneshot":
		err = v.Decode(&c.Oneshot)
	case "shutdown_timeout":
		var n uint32
		err = v.Decode(&n)
		c.ShutdownTimeout = int(n)
	case "after":
		if v.Kind != yaml.SequenceNode {
			return errors.New("after: no list")
		}
		for _, e := range v.Content {
			one, err := text(e)
			if err != nil {
				return err
			}
			c.After = append(c.After, one)
		}
	case "log":
		if c.Log, err = text(v); err == nil && c.Log != "none" && c.Log != "ring" && c.Log != "stdout" {
			err = fmt.Errorf("log %q", c.Log)
		}
	case "env":
		c.Env = map[string]string{}
		return each(v, func(k string, v *yaml.Node) error {
			one, err := text(v)
			c.Env[k] = one
			return err
		})
	case "signal":
		return each(v, func(k string, v *yaml.Node) error {
			if k != "stop" {
				return nil
			}
			one, err := text(v)
			if c.stopSignal = signalNumber(one); err == nil && c.stopSignal == 0 {
				err = errors.New("EINVAL: Invalid argument")
			}
			return err
		})
	}
	return err
}

func text(v *yaml.Node) (string, error) {
	if v.Kind != yaml.ScalarNode || v.ShortTag() != "!!str" {
		return "", errors.New("no text")
	}
	return v.Value, nil
}

// signalNumber reads a signal's name, with SIG before it, in any case.
func signalNumber(name string) syscall.Signal {
	return unix.SignalNum(strings.ToUpper(name))
}
