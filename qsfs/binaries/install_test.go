package binaries

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	if os.Getenv(killAt) != "" {
		killedInstall()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// home is a folder with an old zdb, and an installer for it.
type home struct {
	t     *testing.T
	dir   string
	lock  string
	asked []Trust
	in    *Installer
}

func newHome(t *testing.T, o Options) *home {
	t.Helper()
	root := t.TempDir()
	h := &home{t: t, dir: filepath.Join(root, "bin"), lock: filepath.Join(root, "etc/quantumd.binaries.lock")}
	require.NoError(t, os.Mkdir(h.dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(h.dir, "zdb"), oldZdb, 0o755))
	o.Dir, o.Lock = h.dir, h.lock
	if o.Confirm == nil {
		o.Confirm = func(_ context.Context, list []Trust) error { h.asked = append(h.asked, list...); return nil }
	}
	h.renew(o)
	return h
}

func (h *home) renew(o Options) *Installer {
	h.t.Helper()
	o.Dir, o.Lock = h.dir, h.lock
	in, err := New(o)
	require.NoError(h.t, err)
	h.in = in
	return in
}

// files are what lies in the folder, hidden ones included.
func (h *home) files() map[string]string {
	h.t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir(h.dir)
	require.NoError(h.t, err)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(h.dir, e.Name()))
		require.NoError(h.t, err)
		out[e.Name()] = sum(b)
	}
	return out
}

// untouched says that nothing was changed.
func (h *home) untouched() {
	h.t.Helper()
	require.Equal(h.t, map[string]string{"zdb": sum(oldZdb)}, h.files())
	require.NoFileExists(h.t, h.lock)
}

func serve(t *testing.T, files map[string][]byte) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, ok := files[strings.TrimPrefix(r.URL.Path, "/")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		_, _ = w.Write(b) // who reads may have gone
	}))
	t.Cleanup(s.Close)
	return s
}

// All three come from a mirror over HTTP: shown, trusted, kept in the lock file,
// put in place with the older one kept; a second call fetches nothing.
func TestInstall(t *testing.T) {
	t.Parallel()
	s := serve(t, map[string][]byte{"zdb": newZdb, "zstor-0.5.0-rc.1-" + runtime.GOARCH: newZstor, "zdbfs": newZdbfs})
	steps := map[string]bool{}
	h := newHome(t, Options{From: s.URL, Progress: func(p Progress) { steps[p.Name+" "+p.Step] = true }})
	plan, err := h.in.Plan(t.Context(), "zdb", "zstor", "zdbfs")
	require.NoError(t, err)
	require.Equal(t, []State{Unknown, Missing, Missing}, []State{plan[0].State, plan[1].State, plan[2].State})
	h.untouched()

	items, err := h.in.Install(t.Context(), "zdb", "zstor", "zdbfs")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"zdb": sum(newZdb), "zdb.old": sum(oldZdb), "zstor": sum(newZstor), "zdbfs": sum(newZdbfs)}, h.files())
	var told []string
	for _, it := range items {
		require.True(t, it.Changed)
		require.Equal(t, OK, it.State)
		told = append(told, it.Version)
		require.True(t, steps[it.Name+" fetch"] && steps[it.Name+" check"] && steps[it.Name+" place"])
		st, err := os.Stat(it.Path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o755), st.Mode())
	}
	require.Equal(t, []string{"2.0.7", "0.4.0", "0.1.11"}, told)
	require.Len(t, h.asked, 3)
	require.Equal(t, Trust{Name: "zdb", Version: "2.0.8", URL: s.URL + "/zdb", Size: int64(len(newZdb)), SHA256: sum(newZdb)}, h.asked[0])
	st, err := os.Stat(h.lock)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode())

	s.Close() // a program of the right hash is not fetched again
	items, err = h.in.Install(t.Context(), "zdb", "zstor", "zdbfs")
	require.NoError(t, err)
	for _, it := range items {
		require.False(t, it.Changed)
		require.Equal(t, "lock", it.By)
	}
	require.Len(t, h.asked, 3, "nobody is asked again")
	require.NoError(t, os.Chmod(filepath.Join(h.dir, "zdb"), 0o600))
	_, err = h.in.Install(t.Context(), "zdb")
	require.NoError(t, err)
	list, err := h.in.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, "2.0.7", list[0].Version, "it can be run again")
}

// Whatever is wrong with what comes: nothing is changed, and the error says what
// to do.
func TestInstallRefused(t *testing.T) {
	t.Parallel()
	type refusal struct {
		name    string
		handler http.HandlerFunc
		options Options
		adjust  func(in *Installer)
		url     bool   // the configuration names it
		target  any    // the type of the error
		is      error  // what it is
		says    string // what it says
	}
	whole := func(b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(b) }
	}
	other := "arm64"
	if runtime.GOARCH == other {
		other = "amd64"
	}
	dynamic := func() []byte { // static, but for a loader that nobody has
		b := bytes.Clone(newZdb)
		b[56] = 2 // program headers
		return append(b[:64:64], append(interpreterHeader(len(b), "/lib/ld-nowhere.so.1"), append(b[64:], "/lib/ld-nowhere.so.1\x00"...)...)...)
	}
	refused := errors.New("no")
	for _, r := range []refusal{
		{name: "WrongHashOfConfig", handler: whole(newZdb), options: Options{Pinned: map[string]Source{"zdb": {SHA256: sum(oldZdb[:9])}}}, target: new(*HashError), says: "the configuration gives " + sum(oldZdb[:9])},
		{name: "NotThere", handler: http.NotFound, target: new(*FetchError), is: ErrNotThere, says: "looked for zdb-2.0.8-" + runtime.GOARCH},
		{name: "NotThereAtURL", handler: http.NotFound, url: true, target: new(*StatusError), is: ErrNotThere, says: "404"},
		{name: "GoneAtURL", handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) }, url: true, target: new(*StatusError), is: ErrNotThere},
		{name: "ServerError", handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, target: new(*StatusError), says: "502"},
		{name: "Truncated", handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(newZdb)))
			_, _ = w.Write(newZdb[:len(newZdb)/2])
		}, target: new(*FetchError), is: ErrTruncated, says: fmt.Sprintf("after %d bytes, of %d", len(newZdb)/2, len(newZdb))},
		{name: "TruncatedWithoutLength", handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "close")
			c, buf, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = buf.WriteString("HTTP/1.0 200 OK\r\n\r\n")
				_, _ = buf.Write(newZdb[:len(newZdb)/2])
				_ = errors.Join(buf.Flush(), c.Close())
			}
		}, target: new(*NotProgramError), says: "no whole program"},
		{name: "TruncatedChunks", handler: func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(newZdb[:len(newZdb)/2])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, target: new(*FetchError), is: ErrTruncated},
		{name: "Empty", handler: whole(nil), target: new(*FetchError), is: ErrTruncated, says: "empty"},
		{name: "TooLarge", handler: whole(newZdb), options: Options{MaxSize: 1000}, target: new(*FetchError), is: ErrTooLarge},
		{name: "TooLargeWithoutLength", handler: func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			_, _ = w.Write(newZdb)
		}, options: Options{MaxSize: 1000}, target: new(*FetchError), is: ErrTooLarge},
		{name: "Stalled", handler: func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(newZdb[:100])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, options: Options{Stall: 100 * time.Millisecond}, target: new(*FetchError), is: ErrStalled},
		{name: "TooSlow", handler: func(w http.ResponseWriter, r *http.Request) {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for i := range newZdb {
				_, _ = w.Write(newZdb[i : i+1])
				w.(http.Flusher).Flush()
				select {
				case <-tick.C:
				case <-r.Context().Done():
					return
				}
			}
		}, options: Options{Timeout: 300 * time.Millisecond}, target: new(*FetchError), is: ErrStalled},
		{name: "WebPage", handler: whole([]byte("<!DOCTYPE html><html><body>Not found</body></html>")), target: new(*NotProgramError), says: "a web page (HTML)"},
		{name: "Script", handler: whole([]byte("#!/bin/sh\nexit 0\n")), target: new(*NotProgramError), says: "a script"},
		{name: "Archive", handler: whole([]byte("\x1f\x8b\x08 packed")), target: new(*NotProgramError), says: "an archive"},
		{name: "OtherMachine", handler: whole(elfProgram(other, "zdb v2.0.8\n", 0, false, 0)), target: new(*NotProgramError), says: "this machine is " + runtime.GOARCH},
		{name: "NoLoader", handler: whole(dynamic()), target: new(*NotProgramError), says: "/lib/ld-nowhere.so.1"},
		{name: "OtherVersion", handler: whole(oldZdb), target: new(*VersionError), says: `"2.0.4"; wanted is 2.0.8`},
		{name: "DoesNotRun", handler: whole(elfProgram(runtime.GOARCH, "no libfuse here\n", 3, false, 0)), target: new(*ProbeError), says: "exit status 3: no libfuse here"},
		{name: "RunsForEver", handler: whole(elfProgram(runtime.GOARCH, "hello\n", 0, true, 0)), adjust: func(in *Installer) { in.probeLimit = 200 * time.Millisecond }, target: new(*ProbeError), says: "does not end within"},
		{name: "RedirectToFile", handler: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(http.StatusFound)
		}, target: new(*FetchError), is: ErrRedirect},
		{name: "RedirectForEver", handler: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/again", http.StatusFound) }, target: new(*FetchError), is: ErrRedirect},
		{name: "Refused", handler: whole(newZdb), options: Options{Confirm: func(context.Context, []Trust) error { return refused }}, is: refused},
		{name: "NobodyAsked", handler: whole(newZdb), adjust: func(in *Installer) { in.o.Confirm = nil }, target: new(*UntrustedError), says: sum(newZdb)},
		{name: "DiskFull", handler: whole(newZdb), adjust: func(in *Installer) {
			in.create = func(dir, pattern string) (tempFile, error) {
				f, err := os.CreateTemp(dir, pattern+"*")
				return &fullDisk{File: f, room: 1000}, err
			}
		}, target: new(*PlaceError), is: syscall.ENOSPC},
		{name: "NotSynced", handler: whole(newZdb), adjust: func(in *Installer) {
			in.create = func(dir, pattern string) (tempFile, error) {
				f, err := os.CreateTemp(dir, pattern+"*")
				return unsynced{f}, err
			}
		}, target: new(*PlaceError), is: syscall.EIO},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if strings.HasSuffix(req.URL.Path, sumsFile) {
					http.NotFound(w, req)
					return
				}
				r.handler(w, req)
			}))
			t.Cleanup(s.Close)
			r.options.From = strings.Replace(s.URL, "http://", "http://someone:secretword@", 1) + "/?token=secretword"
			if r.url {
				r.options.Pinned = map[string]Source{"zdb": {URL: r.options.From}}
				r.options.From = ""
			}
			h := newHome(t, r.options)
			if r.adjust != nil {
				r.adjust(h.in)
			}
			_, err := h.in.Install(t.Context(), "zdb")
			require.Error(t, err)
			if r.target != nil {
				require.ErrorAs(t, err, r.target)
				var hint interface{ Hint() string }
				require.ErrorAs(t, err, &hint)
				require.NotEmpty(t, hint.Hint())
			}
			if r.is != nil {
				require.ErrorIs(t, err, r.is)
			}
			require.Contains(t, err.Error(), r.says)
			require.NotContains(t, err.Error(), "secretword")
			h.untouched()
		})
	}
}

// fullDisk is a file on a disk with so many bytes of room.
type fullDisk struct {
	*os.File
	room int
}

func (f *fullDisk) Write(p []byte) (int, error) {
	if len(p) <= f.room {
		f.room -= len(p)
		return f.File.Write(p)
	}
	n, err := f.File.Write(p[:f.room])
	f.room = 0
	return n, errors.Join(err, &os.PathError{Op: "write", Path: f.Name(), Err: syscall.ENOSPC})
}

// unsynced is a file whose disk fails.
type unsynced struct{ *os.File }

func (unsynced) Sync() error { return syscall.EIO }

// A server of the internet sends on to another host; not back from https to http.
func TestRedirects(t *testing.T) {
	t.Parallel()
	plain := serve(t, map[string][]byte{"zdb": newZdb})
	hops := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, plain.URL+r.URL.Path, http.StatusFound)
	}))
	t.Cleanup(hops.Close)
	h := newHome(t, Options{From: hops.URL})
	_, err := h.in.Install(t.Context(), "zdb")
	require.NoError(t, err)

	secure := httptest.NewTLSServer(http.RedirectHandler(plain.URL+"/zdb", http.StatusFound))
	t.Cleanup(secure.Close)
	h = newHome(t, Options{From: secure.URL})
	h.in.client.Transport = secure.Client().Transport
	_, err = h.in.Install(t.Context(), "zdb")
	require.ErrorIs(t, err, ErrRedirect)
	h.untouched()
}

// Where one of several is wrong, none is changed.
func TestAllOrNone(t *testing.T) {
	t.Parallel()
	s := serve(t, map[string][]byte{"zdb": newZdb})
	h := newHome(t, Options{From: s.URL})
	_, err := h.in.Install(t.Context(), "zdb", "zstor")
	require.ErrorIs(t, err, ErrNotThere)
	require.ErrorContains(t, err, "looked for zstor-0.5.0-rc.1-"+runtime.GOARCH)
	h.untouched()
}

// A release without a program for this machine.
func TestNoRelease(t *testing.T) {
	t.Parallel()
	h := newHome(t, Options{})
	h.in.arch = "arm64"
	plan, err := h.in.Plan(t.Context(), "zdb")
	require.NoError(t, err)
	require.Contains(t, plan[0].Problem, "zdb 2.0.8 has no release for arm64")
	_, err = h.in.Install(t.Context(), "zdb")
	var none *NoReleaseError
	require.ErrorAs(t, err, &none)
	require.Contains(t, none.Hint(), "--from")
	h.untouched()
	for _, p := range Table() {
		require.NotEmpty(t, p.URLs["amd64"])
		require.Contains(t, p.URLs["amd64"], p.Version)
	}
}

// A hash that was trusted once is the only one ever after, until a person says
// otherwise.
func TestTrustedForEver(t *testing.T) {
	t.Parallel()
	files := map[string][]byte{"zdb": newZdb}
	s := serve(t, files)
	h := newHome(t, Options{From: s.URL})
	_, err := h.in.Install(t.Context(), "zdb")
	require.NoError(t, err)
	files["zdb"] = said("0-db server, v2.0.8 (another build)")
	require.NoError(t, os.Remove(filepath.Join(h.dir, "zdb")))
	before := h.files()
	locked, err := os.ReadFile(h.lock)
	require.NoError(t, err)
	_, err = h.in.Install(t.Context(), "zdb")
	var wrong *HashError
	require.ErrorAs(t, err, &wrong)
	require.Equal(t, "lock", wrong.By)
	require.Contains(t, wrong.Hint(), h.lock)
	require.Contains(t, wrong.Hint(), "binaries.zdb.sha256")
	require.Equal(t, before, h.files())
	now, err := os.ReadFile(h.lock)
	require.NoError(t, err)
	require.Equal(t, locked, now)

	// The configuration wins over the lock file.
	h.renew(Options{From: s.URL, Pinned: map[string]Source{"zdb": {SHA256: strings.ToUpper(sum(files["zdb"]))}}})
	items, err := h.in.Install(t.Context(), "zdb")
	require.NoError(t, err)
	require.Equal(t, "config", items[0].By)
	require.Equal(t, sum(files["zdb"]), h.files()["zdb"])

	// A damaged lock file trusts nothing.
	require.NoError(t, os.WriteFile(h.lock, []byte("version: 1\nprograms: [{name: zdb, arch: amd64, sha256: xyz}]\n"), 0o600))
	h.renew(Options{From: s.URL})
	_, err = h.in.Install(t.Context(), "zdb")
	var bad *LockError
	require.ErrorAs(t, err, &bad)
}

// The configuration's own URL may give any version.
func TestOwnURL(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "my-zdb")
	require.NoError(t, os.WriteFile(path, said("0-db server, v9.9.9"), 0o600))
	h := newHome(t, Options{Pinned: map[string]Source{"zdb": {URL: "file://" + path}}})
	items, err := h.in.Install(t.Context(), "zdb")
	require.NoError(t, err)
	require.Equal(t, "9.9.9", items[0].Version)
	require.Empty(t, items[0].Wanted)
	items, err = h.in.Install(t.Context(), "zdb")
	require.NoError(t, err)
	require.False(t, items[0].Changed)

	// Another URL is another program: it is asked for.
	h.renew(Options{Pinned: map[string]Source{"zdb": {URL: "file://" + path + "-2"}}})
	plan, err := h.in.Plan(t.Context(), "zdb")
	require.NoError(t, err)
	require.Equal(t, Unknown, plan[0].State)
	require.NoError(t, syscall.Mkfifo(path+"-2", 0o600))
	_, err = h.in.Install(t.Context(), "zdb")
	require.ErrorIs(t, err, ErrNotThere, "a pipe would never end")
	for _, url := range []string{"ftp://host/zdb", "file://host/zdb", "http:///zdb", "zdb", "://"} {
		_, err := New(Options{Dir: h.dir, Lock: h.lock, Pinned: map[string]Source{"zdb": {URL: url}}})
		var source *SourceError
		require.ErrorAs(t, err, &source, url)
		require.ErrorIs(t, err, ErrScheme, url)
	}
	_, err = New(Options{Dir: h.dir, Lock: h.lock, Pinned: map[string]Source{"zdb": {SHA256: "abc"}}})
	require.ErrorContains(t, err, "64 hex digits")
	_, err = New(Options{Dir: h.dir, Lock: h.lock, Pinned: map[string]Source{"zbd": {}}})
	require.ErrorContains(t, err, "binaries.zbd")
}

// A folder for machines without internet, with SHA256SUMS or without.
func TestFolder(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a folder [1]")
	require.NoError(t, os.Mkdir(dir, 0o755))
	put := func(name string, b []byte) { require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o600)) }
	name := "zdb-2.0.8-" + runtime.GOARCH
	put(name, newZdb)
	put("zdb", []byte("an older one, which is not taken"))
	put(sumsFile, []byte(sum(newZstor)+"  zstor\n"+sum(newZstor)+" *"+name+"\n"))
	h := newHome(t, Options{From: dir})
	_, err := h.in.Install(t.Context(), "zdb")
	var wrong *HashError
	require.ErrorAs(t, err, &wrong)
	require.Contains(t, wrong.By, sumsFile)
	h.untouched()
	put(sumsFile, []byte("no sums at all\n"))
	_, err = h.in.Install(t.Context(), "zdb")
	require.ErrorContains(t, err, "line 1")
	h.untouched()
	put(sumsFile, []byte(sum(newZdb)+"  "+name+"\n"))
	_, err = h.in.Install(t.Context(), "zdb")
	require.NoError(t, err)
	require.Len(t, h.asked, 1, "a mirror does not vouch for itself")
	_, err = newHome(t, Options{From: dir + "/nowhere"}).in.Install(t.Context(), "zdb")
	require.ErrorIs(t, err, ErrNotThere)
}

// Programs that run are replaced: who runs the old one goes on with it, and who
// looks sees the old or the new one, never a part.
func TestWhileItRuns(t *testing.T) {
	t.Parallel()
	s := serve(t, map[string][]byte{"zdb": newZdb})
	h := newHome(t, Options{From: s.URL})
	target := filepath.Join(h.dir, "zdb")
	running := elfProgram(runtime.GOARCH, "I run\n", 0, true, 0)
	require.NoError(t, os.WriteFile(target, running, 0o755))
	var cmd *exec.Cmd
	var out io.ReadCloser
	require.Eventually(t, func() bool { // another test may fork while the file is open for writing
		cmd = exec.Command(target)
		var err error
		out, err = cmd.StdoutPipe()
		require.NoError(t, err)
		return cmd.Start() == nil
	}, 5*time.Second, 10*time.Millisecond)
	t.Cleanup(func() { _ = errors.Join(cmd.Process.Kill(), cmd.Wait()) })
	_, err := io.ReadFull(out, make([]byte, 5))
	require.NoError(t, err)

	var looking sync.WaitGroup
	stop := make(chan struct{})
	looking.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			b, err := os.ReadFile(target)
			if !assert.NoError(t, err) || !assert.Contains(t, []string{sum(running), sum(newZdb)}, sum(b)) {
				return
			}
		}
	})
	_, err = h.in.Install(t.Context(), "zdb")
	close(stop)
	looking.Wait()
	require.NoError(t, err)
	require.Equal(t, map[string]string{"zdb": sum(newZdb), "zdb.old": sum(running)}, h.files())
	require.NoError(t, cmd.Process.Signal(syscall.Signal(0)))
	runs, err := os.ReadFile(fmt.Sprintf("/proc/%d/exe", cmd.Process.Pid))
	require.NoError(t, err)
	require.Equal(t, sum(running), sum(runs))
}

const killAt = "BINARIES_KILL_AT"

// killedInstall is another process that installs, and is killed at a step.
func killedInstall() {
	in, err := New(Options{Dir: os.Getenv("BINARIES_DIR"), Lock: os.Getenv("BINARIES_LOCK"), From: os.Getenv("BINARIES_FROM"), Confirm: func(context.Context, []Trust) error { return nil }})
	if err != nil {
		panic(err)
	}
	in.step = func(name string) error {
		if name == os.Getenv(killAt) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	}
	if _, err := in.Install(context.Background(), "zdb", "zstor"); err != nil {
		panic(err)
	}
}

// Killed at each step: the old or the new program is there, whole, and the next
// call completes and sweeps.
func TestKilledAtEachStep(t *testing.T) {
	t.Parallel()
	s := serve(t, map[string][]byte{"zdb": newZdb, "zstor": newZstor})
	self, err := os.Executable()
	require.NoError(t, err)
	placed := map[string]bool{"renamed": true, "placed": true, "done": true}
	trusted := map[string]bool{"trusted": true, "kept": true, "renamed": true, "placed": true, "done": true}
	for _, step := range []string{"created", "half", "fetched", "synced", "checked", "probed", "trusted", "kept", "renamed", "placed", "done"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			h := newHome(t, Options{From: s.URL})
			cmd := exec.Command(self)
			cmd.Env = append(os.Environ(), killAt+"="+step, "BINARIES_DIR="+h.dir, "BINARIES_LOCK="+h.lock, "BINARIES_FROM="+s.URL)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, "%s", out)
			require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal(), "%s", out)
			want := sum(oldZdb)
			if placed[step] {
				want = sum(newZdb)
			}
			require.Equal(t, want, h.files()["zdb"])
			if trusted[step] {
				require.FileExists(t, h.lock)
			} else {
				require.NoFileExists(t, h.lock)
			}

			_, err = h.in.Install(t.Context(), "zdb", "zstor")
			require.NoError(t, err)
			require.Equal(t, map[string]string{"zdb": sum(newZdb), "zdb.old": sum(oldZdb), "zstor": sum(newZstor)}, h.files())
			require.Equal(t, !trusted[step], len(h.asked) > 0, "what was trusted is not asked for again")
		})
	}
}

// Ended by its context: nothing is changed, nothing is left.
func TestCancelled(t *testing.T) {
	t.Parallel()
	came := make(chan struct{}, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, sumsFile) {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(newZdb[:1000])
		w.(http.Flusher).Flush()
		came <- struct{}{}
		<-r.Context().Done()
	}))
	t.Cleanup(s.Close)
	h := newHome(t, Options{From: s.URL})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-came
		cancel()
	}()
	_, err := h.in.Install(ctx, "zdb")
	require.ErrorIs(t, err, context.Canceled)
	h.untouched()
}

// Two at the same time: one waits for its turn by being told.
func TestBusy(t *testing.T) {
	t.Parallel()
	s := serve(t, map[string][]byte{"zdb": newZdb})
	h := newHome(t, Options{From: s.URL})
	unlock, err := lockDir(h.dir)
	require.NoError(t, err)
	_, err = h.in.Install(t.Context(), "zdb")
	var busy *BusyError
	require.ErrorAs(t, err, &busy)
	h.untouched()
	unlock()
	_, err = h.in.Install(t.Context(), "zdb")
	require.NoError(t, err)
}

// List says what is there; Remove takes away what was trusted, and nothing else.
func TestListAndRemove(t *testing.T) {
	t.Parallel()
	s := serve(t, map[string][]byte{"zdb": newZdb, "zdbfs": newZdbfs})
	h := newHome(t, Options{From: s.URL})
	list, err := h.in.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, Unknown, list[0].State)
	require.Equal(t, "2.0.4", list[0].Version)
	gone, err := h.in.Remove(t.Context())
	require.NoError(t, err)
	require.Empty(t, gone, "nobody said that it is ours")
	h.untouched()
	_, err = h.in.Install(t.Context(), "zdb", "zdbfs")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(h.dir, "zdbfs"), said("zdbfs v6.6.6"), 0o755))
	list, err = h.in.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, []State{OK, Missing, Other}, []State{list[0].State, list[1].State, list[2].State})
	require.Empty(t, list[2].Version, "what has another hash than the trusted one is not run")
	require.NoError(t, os.WriteFile(filepath.Join(h.dir, ".zdb.quantumd-1"), []byte("left over"), 0o600))
	gone, err = h.in.Remove(t.Context())
	require.NoError(t, err)
	require.ElementsMatch(t, []string{filepath.Join(h.dir, "zdb"), filepath.Join(h.dir, "zdb.old")}, gone)
	require.Equal(t, map[string]string{"zdbfs": sum(said("zdbfs v6.6.6"))}, h.files())
	require.FileExists(t, h.lock)
	require.NoError(t, os.RemoveAll(h.dir))
	gone, err = h.in.Remove(t.Context())
	require.NoError(t, err)
	require.Empty(t, gone)
}
