package config

import (
	"errors"
	"fmt"
	"strings"
)

// Error is one thing that is wrong with a configuration, with the place and
// the remedy. Line and Col count from 1; they are zero where the value did not
// come from a file.
type Error struct {
	File   string
	Line   int
	Col    int
	Key    string // such as backends[2].address; empty for the file itself
	Msg    string
	Remedy string
	Err    error // the cause, where there is one
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File)
		if e.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", e.Line, e.Col)
		}
		b.WriteString(": ")
	}
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Msg)
	return b.String()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *Error) Hint() string { return e.Remedy }

// ErrNoConfig says that there is no configuration at the path that was tried.
var ErrNoConfig = errors.New("no configuration")

// Errors lists the Errors joined in err, in order.
func Errors(err error) []*Error {
	var one *Error
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []*Error
		for _, e := range joined.Unwrap() {
			all = append(all, Errors(e)...)
		}
		return all
	}
	if errors.As(err, &one) {
		return []*Error{one}
	}
	return nil
}
