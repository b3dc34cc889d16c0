// Package binaries brings the programs of external components to a machine:
// pinned, verified, put in place in one step, also while the old ones run. It
// is not for quantumd itself, which its own setup installs.
//
//	in, err := binaries.New(binaries.Options{Dir: "/usr/local/bin", Lock: "/etc/quantumd.binaries.lock", Confirm: ask})
//	plan, err := in.Plan(ctx, "zdb", "zstor")     // what would be fetched, from where; asks no network
//	done, err := in.Install(ctx, "zdb", "zstor")  // all of them, or, where one is wrong, none
//
// # What is trusted
//
// A program counts as the right one by its SHA-256 alone: the one that the
// configuration gives, else the one in the lock file. Where neither knows one,
// the program is fetched, looked at without running it, and shown to
// [Options.Confirm]; what that accepts is written to the lock file, and anything
// else is refused ever after ([*HashError]).
//
// # Interruptions
//
// Everything is fetched to files of another name beside the targets, synced and
// checked before the first target changes; then each is renamed. A process that
// is killed at any moment leaves the old or the new program, never a part of
// one; the next call takes away what is left over and does the rest. The program
// that was there before stays as NAME.old until the next one is replaced.
package binaries

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

// Options says what goes where.
type Options struct {
	Dir  string // where programs are put; needed
	Lock string // the lock file; needed
	From string // a folder, or the URL of one, to take all programs from; empty: their own URLs

	// Pinned are the programs that the configuration gives, by name.
	Pinned map[string]Source

	// Confirm is asked before programs that nobody vouched for are trusted: nil
	// accepts them. Its error refuses them, and nothing changes. Without a Confirm
	// they are refused ([*UntrustedError]).
	Confirm func(ctx context.Context, list []Trust) error

	Progress func(Progress) // nil: nobody is told
	Logger   *slog.Logger   // nil discards

	// Timeout bounds one download, Stall the time without a byte of it, MaxSize
	// its bytes. Zero: 30 minutes, one minute, 256 MiB.
	Timeout, Stall time.Duration
	MaxSize        int64
}

// Source is where the configuration has a program from.
type Source struct {
	URL    string // http, https or file; empty: that of the table
	SHA256 string // hex; empty: the one in the lock file
}

// Progress is one look at a download.
type Progress struct {
	Name  string
	Step  string // fetch, check, place
	Done  int64  // bytes
	Total int64  // zero: not known
}

// Trust is a program that nobody vouched for.
type Trust struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	URL     string `json:"url"`
	Size    int64  `json:"size"`
	SHA256  string `json:"sha256"`
}

// State says how an installed program is.
type State string

// The states of a program.
const (
	OK      State = "ok"      // it has the trusted hash
	Missing State = "missing" // not there
	Other   State = "other"   // it has another hash than the trusted one
	Unknown State = "unknown" // no hash is trusted yet
)

// Item is one program: what is wanted, and what is there.
type Item struct {
	Name    string `json:"name"`
	Path    string `json:"path"`
	Wanted  string `json:"wanted"`           // version; empty: whatever the configuration's URL gives
	URL     string `json:"url,omitempty"`    // where it is fetched from; of a mirror the first name that is tried
	SHA256  string `json:"sha256,omitempty"` // the trusted one
	By      string `json:"by,omitempty"`     // who trusts it: config or lock
	State   State  `json:"state"`
	Found   string `json:"found,omitempty"`   // SHA-256 of what is there
	Version string `json:"version,omitempty"` // what it says of itself; empty: not asked, or it does not tell
	Size    int64  `json:"size,omitempty"`    // of what is there
	Fetch   bool   `json:"fetch"`             // Install would fetch it
	Changed bool   `json:"changed"`           // Install has put it in place
	Problem string `json:"problem,omitempty"` // why it cannot be fetched
}

// Installer brings programs to one folder.
type Installer struct {
	o      Options
	log    *slog.Logger
	arch   string
	client *http.Client

	probeLimit time.Duration
	step       func(name string) error // of tests: may fail, or end the process
	create     func(dir, pattern string) (tempFile, error)
}

// New checks the options; it touches nothing.
func New(o Options) (*Installer, error) {
	if o.Dir == "" || o.Lock == "" {
		return nil, errors.New("binaries: no folder or no lock file")
	}
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Minute
	}
	if o.Stall <= 0 {
		o.Stall = time.Minute
	}
	if o.MaxSize <= 0 {
		o.MaxSize = 256 << 20
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	for name, s := range o.Pinned {
		if err := s.check(name); err != nil {
			return nil, err
		}
	}
	in := &Installer{o: o, log: o.Logger.With("component", "binaries"), arch: runtime.GOARCH, probeLimit: probeLimit, step: func(string) error { return nil }, create: createTemp}
	in.client = newClient(o)
	return in, nil
}

// Plan looks at what is there and says what Install would fetch. Programs are
// named as in [Table]. It asks no network, runs nothing and changes nothing.
func (in *Installer) Plan(ctx context.Context, names ...string) ([]Item, error) {
	return in.look(ctx, false, names)
}

// List is Plan of all programs of the table, and asks those for their version
// that have the trusted hash, or of which none is known.
func (in *Installer) List(ctx context.Context) ([]Item, error) {
	var names []string
	for _, p := range table {
		names = append(names, p.Name)
	}
	return in.look(ctx, true, names)
}

func (in *Installer) look(ctx context.Context, ask bool, names []string) ([]Item, error) {
	wants, err := in.wants(names)
	if err != nil {
		return nil, err
	}
	out := make([]Item, len(wants))
	for i, w := range wants {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if out[i], err = in.item(ctx, w, ask); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (in *Installer) item(ctx context.Context, w want, ask bool) (Item, error) {
	it := Item{Name: w.Name, Path: in.path(w.Name), Wanted: w.version, SHA256: w.sum, By: w.by, State: Missing}
	if len(w.urls) > 0 {
		it.URL = w.urls[0].shown
	}
	found, err := hashFile(it.Path, in.o.MaxSize)
	if err != nil {
		return it, err
	}
	if found != nil {
		it.Found, it.Size, it.State = found.sum, found.size, Unknown
		if w.sum != "" {
			it.State = Other
			if found.sum == w.sum {
				it.State = OK
			}
		}
	}
	it.Fetch = it.State != OK
	if it.Fetch && w.problem != nil {
		it.Problem = w.problem.Error()
	}
	if ask && (it.State == OK || it.State == Unknown) {
		if it.Version, err = Probe(ctx, w.Name, it.Path); err != nil {
			in.log.Debug("a program does not tell its version", "program", it.Path, "err", err)
		}
	}
	return it, nil
}

func (in *Installer) path(name string) string { return filepath.Join(in.o.Dir, name) }

// want is one program as it should be.
type want struct {
	Pin
	version string     // empty: any
	urls    []location // tried in this order, as long as there is no such file
	sum     string     // the trusted hash
	by      string
	problem error // why there is no URL
}

// wants joins table, configuration and lock file.
func (in *Installer) wants(names []string) ([]want, error) {
	locked, err := readLock(in.o.Lock)
	if err != nil {
		return nil, err
	}
	var out []want
	for _, n := range names {
		i := slices.IndexFunc(table, func(p Pin) bool { return p.Name == n })
		if i < 0 {
			return nil, fmt.Errorf("binaries: %q is no program of the table", n)
		}
		w, err := in.want(table[i], locked)
		if err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, nil
}

func (in *Installer) want(p Pin, locked lockFile) (want, error) {
	pinned := in.o.Pinned[p.Name]
	w := want{Pin: p, version: p.Version}
	own := p.URLs[in.arch]
	if pinned.URL != "" {
		own, w.version = pinned.URL, ""
	}
	var err error
	switch {
	case in.o.From != "":
		w.urls, err = mirrored(in.o.From, w, own, in.arch)
	case own != "":
		var l location
		l, err = parseLocation(own)
		w.urls = []location{l}
	default:
		w.problem = &NoReleaseError{Name: p.Name, Version: p.Version, Arch: in.arch}
	}
	if err != nil {
		return w, err
	}
	if pinned.SHA256 != "" {
		w.sum, w.by = normalSum(pinned.SHA256), "config"
		return w, nil
	}
	shown := ""
	if pinned.URL != "" {
		l, err := parseLocation(pinned.URL)
		if err != nil {
			return w, err
		}
		shown = l.shown
	}
	if e := locked.find(p.Name, in.arch, w.version, shown); e != nil {
		w.sum, w.by = e.SHA256, "lock"
	}
	return w, nil
}
