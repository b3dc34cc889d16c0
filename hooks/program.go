package hooks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Program is a whole hook program: `quantumd-hook` and `quantumd hook` are it.
type Program struct {
	Getenv func(string) string
	Path   string // of the program itself; settings may be beside it
	Socket string // the daemon's, when it is known already; empty: it is looked for
	Stderr io.Writer

	// Retrieve has the zstor at a socket bring a data file back.
	Retrieve func(ctx context.Context, socket, file string) error
}

// Run handles one call of zdb, given its arguments without the program's name,
// and gives the exit code. What went wrong is told on Stderr.
func (p *Program) Run(ctx context.Context, args []string) int {
	s, err := p.settings()
	if err != nil {
		p.tell(err) // with defaults in place of what could not be read: zdb must not stand still for that
	}
	r := Relay{Daemon: &Client{Socket: s.Socket}, Spool: &Spool{Dir: s.Spool}, Ready: s.Ready, Log: lines{p}}
	if s.Zstor != "" && p.Retrieve != nil {
		r.Retrieve = func(ctx context.Context, file string) error { return p.Retrieve(ctx, s.Zstor, file) }
	}
	code, reason := r.Call(ctx, args)
	if reason != nil {
		p.tell(reason)
	}
	return code
}

func (p *Program) settings() (Settings, error) {
	getenv := p.Getenv
	if p.Socket != "" {
		getenv = func(name string) string {
			if name == SocketEnv {
				return p.Socket
			}
			return p.Getenv(name)
		}
	}
	return FindSettings(getenv, p.Path)
}

func (p *Program) tell(what error) {
	fmt.Fprintln(p.Stderr, "quantumd-hook:", strings.ReplaceAll(what.Error(), "\n", "; "))
}

// lines puts the program's name before each line.
type lines struct{ p *Program }

func (l lines) Write(b []byte) (int, error) {
	l.p.tell(errors.New(strings.TrimSuffix(string(b), "\n")))
	return len(b), nil
}
