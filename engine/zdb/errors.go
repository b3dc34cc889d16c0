package zdb

import (
	"errors"
	"fmt"
	"strings"

	"github.com/threefoldtech/quantumd/backend"
)

// ErrNoNamespace says that the server has no namespace of that name. It is not
// backend.ErrNotFound, which is said of keys.
var ErrNoNamespace = errors.New("zdb: no such namespace")

// ErrExists says that a namespace of that name is there already.
var ErrExists = errors.New("zdb: namespace exists")

// ServerError is an error that a server answered. It matches the sentinels of
// package backend where the text says so.
type ServerError struct {
	Address string
	Command string // its name, never its arguments
	Text    string // as the server sent it
	is      error
}

func (e *ServerError) Error() string {
	return fmt.Sprintf("zdb %s answers %s: %s", e.Address, e.Command, e.Text)
}

func (e *ServerError) Unwrap() error { return e.is }

const (
	textUpdateOnly = "Invalid key, only update authorized"
	textNoMoreData = "No more data"
)

// texts maps what servers answer, by its beginning, to what it means.
var texts = []struct {
	prefix string
	is     error
}{
	{"Key not found", backend.ErrNotFound},
	{"No space left on this namespace", backend.ErrFull},
	{"Cannot write data right now", backend.ErrFull}, // a full disk says nothing else
	{"Cannot write index right now", backend.ErrFull},
	{"Namespace is temporarily locked", backend.ErrLocked},
	{"Namespace is temporarily frozen", backend.ErrLocked},
	{"Namespace is in read-only mode", backend.ErrLocked},
	{"Namespace is protected by worm mode", backend.ErrLocked},
	{"Cannot delete a key when namespace is in worm mode", backend.ErrLocked},
	{"Access denied", backend.ErrAccess},
	{"Permission denied", backend.ErrAccess},
	{"Namespace protected and private", backend.ErrAccess},
	{"Authentication disabled", backend.ErrAccess},
	{"Flushing public namespace denied", backend.ErrAccess},
	{textUpdateOnly, backend.ErrMode},
	{"Invalid argument, key needed", backend.ErrMode},
	{"Cannot change mode of used namespace", backend.ErrMode},
	{"This server instance is configured to use a single runtime mode", backend.ErrMode},
	{"Namespace not found", ErrNoNamespace},
	{"This namespace doesn't exists", ErrNoNamespace},
	{"Your active namespace is not available anymore", ErrNoNamespace},
	{"This namespace is not available", ErrExists},
}

func serverError(at endpoint, command, text string) error {
	e := &ServerError{Address: at.String(), Command: command, Text: text}
	for _, t := range texts {
		if strings.HasPrefix(text, t.prefix) {
			e.is = t.is
			break
		}
	}
	return e
}
