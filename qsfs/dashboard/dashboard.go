// Package dashboard is one page that shows a running system, live. It is
// read-only, needs no build step and nothing from outside, and is served where
// metrics are.
//
//	d := dashboard.New(source, dashboard.Options{})
//	mux.Handle("/", d) // the page at /, its stream at /events
//
// It shows what a [Source] tells, as often as that says that something changed.
// A client that does not read gets nothing more and holds nobody up.
//
// The page names its only script and style by their hashes in the content
// security policy, and puts every value in as text. The Host header must be an
// IP address or a name of this machine: a page elsewhere whose name was bent to
// this address reads nothing.
package dashboard

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/qsfs/client"
)

// Source tells of a system. It is asked from several goroutines.
type Source interface {
	// Status gives the system as it is, or was a moment ago.
	Status(ctx context.Context) (*client.Status, error)
	// Events gives the newest events, the newest first.
	Events(ctx context.Context, limit int) ([]client.Event, error)
	// Changed is closed by the next change.
	Changed() <-chan struct{}
}

// Options tunes a dashboard. The zero value is ready for use.
type Options struct {
	Streams int           // most streams at a time; zero: 16
	Every   time.Duration // pause between two looks where nothing says that it changed; zero: 2 s
	Least   time.Duration // least pause between two looks; zero: 250 ms
	Hosts   []string      // names that a Host header may have, beside localhost and this machine's
	Logger  *slog.Logger  // nil discards
}

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

//go:embed page.js
var pageJS string

type handler struct {
	source  Source
	options Options
	page    []byte
	policy  string
	hosts   map[string]bool
	streams chan struct{}
}

// New makes a dashboard of what source tells: the page at /, and its stream of
// server-sent events at /events.
func New(source Source, o Options) http.Handler {
	if o.Streams <= 0 {
		o.Streams = 16
	}
	if o.Every <= 0 {
		o.Every = 2 * time.Second
	}
	if o.Least <= 0 {
		o.Least = 250 * time.Millisecond
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	h := &handler{source: source, options: o, hosts: map[string]bool{"localhost": true}, streams: make(chan struct{}, o.Streams)}
	if name, err := os.Hostname(); err == nil {
		o.Hosts = append(o.Hosts, name)
	}
	for _, name := range o.Hosts {
		h.hosts[strings.ToLower(name)] = true
	}
	h.page = []byte(strings.NewReplacer("/*css*/", pageCSS, "/*js*/", pageJS).Replace(pageHTML))
	h.policy = fmt.Sprintf("default-src 'none'; script-src '%s'; style-src '%s'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
		sourceHash(pageJS), sourceHash(pageCSS))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", h.servePage)
	mux.HandleFunc("GET /events", h.serveEvents)
	return h.guard(mux)
}

// sourceHash names a script or style in a content security policy.
func sourceHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// guard refuses what a browser sends for a page of somebody else's, and sets
// the headers of every answer.
func (h *handler) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", h.policy)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		header.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
		header.Set("Cache-Control", "no-store")
		if !h.allowedHost(r.Host) {
			http.Error(w, "this page answers to IP addresses, localhost and the name of this machine only", http.StatusMisdirectedRequest)
			return
		}
		if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" && r.URL.Path != "/" {
			http.Error(w, "not for other sites", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// allowedHost says whether a Host header names this machine in a way that
// nobody else can bend: an address, or one of its own names.
func (h *handler) allowedHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return h.hosts[strings.ToLower(strings.TrimSuffix(host, "."))]
}

func (h *handler) servePage(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(h.page) // the caller may be gone
}

// keepAlive is the pause after which a stream without news gets a comment.
const keepAlive = 15 * time.Second

// writeTime is how long a client may take to read one message.
const writeTime = 10 * time.Second

// serveEvents streams the status, and the newest events, whenever they change.
func (h *handler) serveEvents(w http.ResponseWriter, r *http.Request) {
	select {
	case h.streams <- struct{}{}:
		defer func() { <-h.streams }()
	default:
		w.Header().Set("Retry-After", "10")
		http.Error(w, "too many streams", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	s := &stream{handler: h, w: w, control: http.NewResponseController(w)}
	if err := s.run(r.Context()); err != nil && r.Context().Err() == nil {
		h.options.Logger.Debug("a stream of the dashboard ended", "err", err)
	}
}

// stream is one client.
type stream struct {
	*handler
	w       http.ResponseWriter
	control *http.ResponseController
	sent    map[string][]byte // the last of each kind
	wrote   time.Time
}

func (s *stream) run(ctx context.Context) error {
	s.sent = map[string][]byte{}
	if err := s.write([]byte("retry: 2000\n\n")); err != nil {
		return err
	}
	for {
		changed := s.source.Changed()
		if err := s.round(ctx); err != nil {
			return err
		}
		if !sleep(ctx, s.options.Least, nil) || !sleep(ctx, s.options.Every, changed) {
			return ctx.Err()
		}
	}
}

// round sends what is new.
func (s *stream) round(ctx context.Context) error {
	st, err := s.source.Status(ctx)
	if err != nil {
		delete(s.sent, "status")
		err = s.send("trouble", map[string]string{"error": err.Error()})
	} else {
		delete(s.sent, "trouble")
		err = errors.Join(s.send("status", st), s.events(ctx))
	}
	if err == nil && time.Since(s.wrote) > keepAlive {
		err = s.write([]byte(": still here\n\n"))
	}
	return err
}

// shownEvents is how many events the page shows.
const shownEvents = 50

func (s *stream) events(ctx context.Context) error {
	list, err := s.source.Events(ctx, shownEvents)
	if err != nil {
		return nil //nolint:nilerr // before the start and at the end there are none; the status says so
	}
	if list == nil {
		list = []client.Event{}
	}
	return s.send("events", list)
}

// send writes one message, unless the last one of its kind said the same.
func (s *stream) send(kind string, v any) error {
	data, err := json.Marshal(v) // on one line
	if err != nil {
		return err
	}
	if bytes.Equal(s.sent[kind], data) {
		return nil
	}
	s.sent[kind] = data
	return s.write(fmt.Appendf(nil, "event: %s\ndata: %s\n\n", kind, data))
}

func (s *stream) write(data []byte) error {
	if err := s.control.SetWriteDeadline(time.Now().Add(writeTime)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := s.w.Write(data); err != nil {
		return err
	}
	s.wrote = time.Now()
	return s.control.Flush()
}

// sleep pauses, or until something changed; false when the context ended.
func sleep(ctx context.Context, d time.Duration, changed <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-changed:
	case <-t.C:
	}
	return true
}
