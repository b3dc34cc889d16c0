package hooks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// DefaultSocket is where the daemon listens on a machine with one system.
const DefaultSocket = "/run/qsfs/hook.sock"

// Where a hook program finds the daemon's socket: zdb gives its hook neither
// arguments of ours nor, under most service managers, an environment.
const (
	SocketEnv  = "QUANTUMD_HOOK_SOCKET"
	SocketFile = "quantumd-hook.socket" // beside the program; holds the path
)

// FindSocket gives the path of the daemon's socket: of the environment, of the
// file beside the program, or the default.
func FindSocket(getenv func(string) string, program string) (string, error) {
	if path := getenv(SocketEnv); path != "" {
		return path, nil
	}
	f, err := os.Open(filepath.Join(filepath.Dir(program), SocketFile))
	if errors.Is(err, os.ErrNotExist) {
		return DefaultSocket, nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return "", err
	}
	path := strings.TrimRight(string(text), "\r\n")
	if path == "" {
		return "", fmt.Errorf("hooks: %s is empty", f.Name())
	}
	return path, nil
}

// Relay is what a hook program does with a call of zdb: it hands the event to
// the daemon and answers zdb with an exit code. What the daemon cannot take now
// goes into the spool, so that zdb may go on:
//
//	event                        the daemon is down, or does not answer in time
//	jump-index                   spooled, 0; when that fails 1, and zdb keeps its dirty list
//	close                        spooled, 0
//	jump-data, namespace-*, crash  spooled, 0
//	namespaces-init              0: nothing is to be done that a start does not do
//	missing-data                 Retrieve, its outcome; without one, 1
//	ready                        by the policy
//
// An event that the daemon answered with an error ends with 1: that is the
// answer. A program that is killed counts for zdb as one that ended with 0, so
// jump-index is spooled also while the daemon takes its time.
type Relay struct {
	Daemon   HookHandler                                  // usually a [Client]
	Spool    *Spool                                       // nil: nothing is spooled, and what should be ends with 1
	Ready    ReadyPolicy                                  // empty: ReadyServe
	Retrieve func(ctx context.Context, file string) error // brings a missing data file back without the daemon; nil: nobody can
	Log      io.Writer                                    // what is waited for, a line each; nil: nowhere

	timing relayTiming
}

// relayTiming is there for tests. Zero fields take their defaults.
type relayTiming struct {
	patience func(Kind) time.Duration
	guard    time.Duration // how long jump-index waits for the daemon before it is spooled for safety
	progress time.Duration // before the first line; doubles each time
	again    time.Duration // between two tries of a ready that waits
}

func (t relayTiming) orDefaults() relayTiming {
	if t.patience == nil {
		t.patience = patience
	}
	if t.guard <= 0 {
		t.guard = 50 * time.Millisecond
	}
	if t.progress <= 0 {
		t.progress = time.Second
	}
	if t.again <= 0 {
		t.again = 500 * time.Millisecond
	}
	return t
}

// patience is how long zdb may be made to wait for a daemon that lives: it
// serves nobody meanwhile.
func patience(k Kind) time.Duration {
	switch k {
	case MissingData:
		return 15 * time.Minute // a download of a whole data file
	case Close, JumpIndex:
		return 5 * time.Minute // the last upload; a copy of the index files
	case NamespacesInit, Ready:
		return time.Minute
	}
	return 10 * time.Second
}

// Call handles one call and gives the exit code for zdb, with the reason when
// something did not go as it should. Calls of one Relay do not disturb each
// other.
func (r *Relay) Call(ctx context.Context, args []string) (code int, reason error) {
	e, err := Parse(args)
	if err != nil {
		return 1, err
	}
	c := call{Relay: r, e: e, t: r.timing.orDefaults()}
	if e.Kind == Ready && r.Ready == ReadyWait {
		return c.waitReady(ctx)
	}
	err = c.deliver(ctx)
	if err == nil || !errors.Is(err, ErrUnavailable) {
		return codeOf(err), reasonOf(e, err)
	}
	return c.withoutDaemon(ctx, err)
}

func codeOf(err error) int {
	if err != nil {
		return 1
	}
	return 0
}

func reasonOf(e Event, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", e.Kind, err)
	}
	return nil
}

// call is one event on its way.
type call struct {
	*Relay
	e       Event
	t       relayTiming
	spooled string // name in the spool
}

// deliver gives the event to the daemon and waits for its answer, within
// patience, telling the log that it waits.
func (c *call) deliver(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.t.patience(c.e.Kind))
	defer cancel()
	answer := make(chan error, 1)
	go func() { answer <- c.Daemon.HandleHook(ctx, c.e) }() // ends with ctx; its answer is always taken
	began := time.Now()
	var guard <-chan time.Time
	if c.e.Kind == JumpIndex && c.Spool != nil {
		guard = time.After(c.t.guard)
	}
	pause := c.t.progress
	tell := time.NewTimer(pause)
	defer tell.Stop()
	for {
		select {
		case err := <-answer:
			c.unspool(err)
			return err
		case <-guard:
			c.spool() //nolint:errcheck // tried again when it is needed
		case <-tell.C:
			c.logf("%s: the daemon has not answered for %s", c.e.Kind, time.Since(began).Round(100*time.Millisecond))
			pause *= 2
			tell.Reset(pause)
		}
	}
}

func (c *call) logf(format string, args ...any) {
	if c.Log != nil {
		fmt.Fprintf(c.Log, format+"\n", args...)
	}
}

func (c *call) spool() error {
	if c.spooled != "" {
		return nil
	}
	if c.Spool == nil {
		return errors.New("there is no spool")
	}
	name, err := c.Spool.Put(c.e)
	c.spooled = name
	return err
}

// unspool takes back what was spooled for safety, when the daemon has answered:
// it has the event, or zdb will hand its dirty list over again.
func (c *call) unspool(err error) {
	if c.spooled == "" || errors.Is(err, ErrUnavailable) {
		return
	}
	if err := c.Spool.Remove(c.spooled); err != nil {
		c.logf("%s: handled, but still in the spool: %v", c.e.Kind, err) // it is handled twice
	}
}

func (c *call) withoutDaemon(ctx context.Context, cause error) (int, error) {
	switch c.e.Kind {
	case NamespacesInit:
		return 0, fmt.Errorf("%s not delivered: %w", c.e.Kind, cause)
	case Ready:
		if c.Ready == ReadyRefuse {
			return 1, fmt.Errorf("%s: refused while the daemon is down: %w", c.e.Kind, cause)
		}
		return 0, fmt.Errorf("%s: zdb serves without the daemon: %w", c.e.Kind, cause)
	case MissingData:
		if c.Retrieve == nil {
			return 1, reasonOf(c.e, cause)
		}
		return c.retrieve(ctx, cause)
	}
	if err := c.spool(); err != nil {
		// Only jump-index has zdb keep something. The others are found when the
		// daemon starts; zdb does not look at their code.
		return 1, fmt.Errorf("%s: neither delivered nor spooled: %w", c.e.Kind, errors.Join(cause, err))
	}
	return 0, fmt.Errorf("%s spooled: %w", c.e.Kind, cause)
}

func (c *call) retrieve(ctx context.Context, cause error) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, c.t.patience(MissingData))
	defer cancel()
	file, err := filepath.Abs(c.e.Data) // zdb's folders may be relative to its own, which is ours
	if err == nil {
		err = c.Retrieve(ctx, file)
	}
	if err != nil {
		return 1, reasonOf(c.e, errors.Join(cause, err))
	}
	return 0, fmt.Errorf("%s: brought back without the daemon: %w", c.e.Kind, cause)
}

// waitReady asks the daemon again and again until it answers.
func (c *call) waitReady(ctx context.Context) (int, error) {
	pause, told := c.t.progress, time.Now()
	for {
		err := c.deliver(ctx)
		if !errors.Is(err, ErrUnavailable) {
			return codeOf(err), reasonOf(c.e, err)
		}
		if time.Since(told) >= pause {
			c.logf("%s: waiting for the daemon: %v", c.e.Kind, err)
			pause, told = pause*2, time.Now()
		}
		select {
		case <-ctx.Done():
			return 1, reasonOf(c.e, errors.Join(err, ctx.Err()))
		case <-time.After(c.t.again):
		}
	}
}

// Decides says whether zdb does something else when the hook of this event
// fails.
func (k Kind) Decides() bool {
	switch k {
	case Ready, JumpIndex, MissingData:
		return true
	}
	return false
}
