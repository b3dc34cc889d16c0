package systemd

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	systemd1 "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/assert"
)

// fake is a systemd as far as a Manager sees it, with units below root.
type fake struct {
	root string

	mu      sync.Mutex
	changed []string // calls that change something
	looks   int
	units   map[string]*fakeUnit // as of the last reload
	pids    uint32
	now     time.Time
	result  map[string]string // of jobs of units, instead of done
	mute    bool              // does not tell the end of jobs
	open    int               // connections
}

type fakeUnit struct {
	text  string
	state string
	why   string
	pid   uint32
	since time.Time
	links []string // targets that want it
}

func newFake(t *testing.T) *fake {
	f := &fake{root: t.TempDir(), units: map[string]*fakeUnit{}, pids: 1000, now: time.Unix(1_700_000_000, 0), result: map[string]string{}}
	t.Cleanup(func() { assert.Zero(t, f.open, "connections are closed") })
	return f
}

func (f *fake) manager(target string) *Manager {
	return New(Options{Root: f.root, Target: target, Dial: f.dial, Journal: func(_ context.Context, to io.Writer, args ...string) error {
		f.change("journalctl " + strings.Join(args, " "))
		_, err := io.WriteString(to, "2026-01-01T00:00:00+0000 host zdb[1]: ready\n")
		return err
	}})
}

func (f *fake) dial(ctx context.Context) (Bus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open++
	return fakeConn{f}, ctx.Err()
}

// fakeConn is one connection.
type fakeConn struct{ *fake }

func (c fakeConn) Close() { c.mu.Lock(); c.open--; c.mu.Unlock() }

func (f *fake) change(call string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changed = append(f.changed, call)
}

// calls gives the changing ones since the last look.
func (f *fake) calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() { f.changed = nil }()
	return f.changed
}

func (f *fake) dir() string { return filepath.Join(f.root, unitDir) }

func (f *fake) links(unit string) []string {
	found, _ := filepath.Glob(filepath.Join(f.dir(), "*.wants", unit)) // the pattern is good
	for i, p := range found {
		found[i] = strings.TrimSuffix(filepath.Base(filepath.Dir(p)), ".wants")
	}
	return found
}

// ReloadContext forgets units without a file, unless they run or have failed.
func (f *fake) ReloadContext(context.Context) error {
	f.change("reload")
	f.mu.Lock()
	defer f.mu.Unlock()
	found, err := filepath.Glob(filepath.Join(f.dir(), "*.*"))
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, path := range found {
		n := filepath.Base(path)
		text, err := readUnit(path)
		if strings.HasSuffix(n, ".wants") || err != nil {
			continue
		}
		there[n] = true
		if f.units[n] == nil {
			f.units[n] = &fakeUnit{state: "inactive"}
		}
		f.units[n].text, f.units[n].links = text, f.links(n)
	}
	for n, u := range f.units {
		if !there[n] && u.state == "inactive" {
			delete(f.units, n)
		}
	}
	return nil
}

var errDenied = dbus.Error{Name: "org.freedesktop.DBus.Error.AccessDenied", Body: []any{"Access denied"}}

func unknown(name string) error {
	return dbus.Error{Name: "org.freedesktop.systemd1.NoSuchUnit", Body: []any{"Unit " + name + " not loaded."}}
}

func (f *fake) EnableUnitFilesContext(_ context.Context, files []string, _, _ bool) (bool, []systemd1.EnableUnitFileChange, error) {
	f.change("enable " + strings.Join(files, " "))
	for _, n := range files {
		text, err := readUnit(filepath.Join(f.dir(), n))
		if err != nil || text == "" {
			return false, nil, errors.Join(err, unknown(n))
		}
		_, target, _ := strings.Cut(text, "\nWantedBy=")
		link := filepath.Join(f.dir(), strings.TrimSpace(target)+".wants", n)
		if err := errors.Join(os.MkdirAll(filepath.Dir(link), 0o755), os.Symlink("../"+n, link)); err != nil {
			return false, nil, err
		}
	}
	return true, nil, nil
}

func (f *fake) DisableUnitFilesContext(_ context.Context, files []string, _ bool) ([]systemd1.DisableUnitFileChange, error) {
	f.change("disable " + strings.Join(files, " "))
	for _, n := range files {
		for _, target := range f.links(n) {
			dir := filepath.Join(f.dir(), target+".wants")
			if err := os.Remove(filepath.Join(dir, n)); err != nil {
				return nil, err
			}
			_ = os.Remove(dir) // when it is empty, as systemd does
		}
	}
	return nil, nil
}

func (f *fake) job(verb, name string, ch chan<- string) (int, error) {
	f.change(verb + " " + name)
	f.mu.Lock()
	defer f.mu.Unlock()
	u := f.units[name]
	if u == nil {
		return 0, unknown(name)
	}
	f.now = f.now.Add(time.Second)
	result := "done"
	if r := f.result[name]; r != "" {
		result = r
	}
	switch {
	case result == "failed":
		u.state, u.why, u.since = "failed", "exit-code", f.now
	case result != "done":
	case verb == "start" && u.state != "active":
		f.pids++
		u.state, u.why, u.pid, u.since = "active", "success", f.pids, f.now
	case verb == "stop":
		f.stop(u)
		for n, other := range f.units { // in any order, here
			if strings.Contains(other.text, "\nPartOf="+name+"\n") {
				f.stop(f.units[n])
			}
		}
	}
	if !f.mute {
		ch <- result
	}
	return 7, nil
}

func (f *fake) stop(u *fakeUnit) {
	if u.state == "active" {
		u.state, u.pid, u.since = "inactive", 0, f.now
	}
}

func (f *fake) StartUnitContext(_ context.Context, name, _ string, ch chan<- string) (int, error) {
	return f.job("start", name, ch)
}

func (f *fake) StopUnitContext(_ context.Context, name, _ string, ch chan<- string) (int, error) {
	return f.job("stop", name, ch)
}

func (f *fake) ReloadUnitContext(_ context.Context, name, _ string, ch chan<- string) (int, error) {
	return f.job("reload", name, ch)
}

func (f *fake) ResetFailedUnitContext(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.units[name] == nil {
		return unknown(name)
	}
	delete(f.units, name)
	return nil
}

func (f *fake) GetAllPropertiesContext(_ context.Context, name string) (map[string]any, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	u := f.units[name]
	if u == nil {
		return map[string]any{"LoadState": "not-found", "ActiveState": "inactive", "UnitFileState": "", "MainPID": uint32(0)}, nil
	}
	text, err := readUnit(filepath.Join(f.dir(), name))
	if err != nil {
		return nil, err
	}
	enabled := "disabled"
	if len(f.links(name)) > 0 {
		enabled = "enabled"
	}
	return map[string]any{
		"LoadState": "loaded", "ActiveState": u.state, "UnitFileState": enabled, "MainPID": u.pid, "NRestarts": uint32(2),
		"ExecMainStatus": int32(0), "Result": u.why, "StateChangeTimestamp": uint64(u.since.UnixMicro()),
		"NeedDaemonReload": text != u.text, "WantedBy": slices.Clone(u.links), "Job": []any{uint32(0), dbus.ObjectPath("/")},
	}, nil
}
