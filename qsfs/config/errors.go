package config

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
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

	absent bool // the file has nothing at all of what it is about
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

// inOrder joins errors in the order of their places, those about what is not
// there behind them.
func inOrder(errs []error) error {
	line := func(err error) position {
		if all := Errors(err); len(all) > 0 {
			if all[0].absent {
				return position{math.MaxInt, 0}
			}
			return position{all[0].Line, all[0].Col}
		}
		return position{}
	}
	slices.SortStableFunc(errs, func(a, b error) int {
		x, y := line(a), line(b)
		return cmp.Or(cmp.Compare(x.line, y.line), cmp.Compare(x.col, y.col))
	})
	return errors.Join(errs...)
}

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
