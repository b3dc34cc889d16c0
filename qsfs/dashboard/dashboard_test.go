package dashboard_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/dashboard"
)

// told is a Source that tells what the test says.
type told struct {
	mu      sync.Mutex
	status  *client.Status
	events  []client.Event
	err     error
	changed chan struct{}
}

func tell() *told {
	return &told{changed: make(chan struct{}), status: &client.Status{Schema: 1, State: client.StateOK, Notes: []string{},
		Backends: []client.Backend{}, Replacements: []client.Replacement{}, Namespaces: []client.Namespace{}, Redundancy: []client.Redundancy{}}}
}

func (s *told) set(f func(*told)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := *s.status
	s.status = &next
	f(s)
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *told) Status(context.Context) (*client.Status, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status, s.err
}

func (s *told) Events(context.Context, int) ([]client.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.events, s.err
}

func (s *told) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// quick shows changes at once, and looks for others never.
var quick = dashboard.Options{Every: time.Hour, Least: time.Millisecond}

func get(t *testing.T, h http.Handler, method, target, host string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, target, nil)
	r.Host = host
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// The page is small, whole, and allows nothing that is not its own.
func TestPage(t *testing.T) {
	t.Parallel()
	w := get(t, dashboard.New(tell(), quick), http.MethodGet, "/", "127.0.0.1:9092")
	require.Equal(t, http.StatusOK, w.Code)
	page := w.Body.String()
	assert.Less(t, len(page), 100<<10)
	policy := w.Header().Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "script-src 'sha256-", "style-src 'sha256-", "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"} {
		assert.Contains(t, policy, want)
	}
	assert.NotContains(t, policy, "unsafe")
	assert.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
	assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	for _, bad := range []string{"http://", "https://", "//cdn", "innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", " style=", " onclick=", "/*css*/", "/*js*/"} {
		assert.NotContains(t, page, bad)
	}
	assert.Contains(t, page, "<main")
	assert.Contains(t, page, "<noscript>")
}

// A page of somebody else's, whose name was bent to this address, reads nothing.
func TestHostHeader(t *testing.T) {
	t.Parallel()
	h := dashboard.New(tell(), dashboard.Options{Hosts: []string{"Files.example"}})
	for host, want := range map[string]int{
		"127.0.0.1:9092": 200, "localhost:9092": 200, "LOCALHOST": 200, "[::1]:9092": 200, "::1": 200, "192.0.2.7": 200, "files.example:9092": 200, "files.example.": 200,
		"evil.example:9092": 421, "": 421, "localhost.evil.example": 421, "127.0.0.1.evil.example:9092": 421, "xn--localhost": 421,
	} {
		assert.Equal(t, want, get(t, h, http.MethodGet, "/", host).Code, "%q", host)
		if want != 200 {
			w := get(t, h, http.MethodGet, "/events", host)
			assert.Equal(t, want, w.Code, "%q", host)
			assert.NotContains(t, w.Body.String(), "data:")
		}
	}
}

// It is read-only, and there is nothing else.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	h := dashboard.New(tell(), quick)
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch} {
		for _, path := range []string{"/", "/events"} {
			assert.Equal(t, http.StatusMethodNotAllowed, get(t, h, method, path, "localhost").Code)
		}
	}
	assert.Equal(t, http.StatusNotFound, get(t, h, http.MethodGet, "/v1/status", "localhost").Code)
	r := httptest.NewRequest(http.MethodGet, "/events", nil)
	r.Host = "localhost"
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	assert.Equal(t, http.StatusForbidden, w.Code)
}

type reader struct {
	*bufio.Reader
	body io.Closer
}

func open(t *testing.T, url string) *reader {
	t.Helper()
	resp, err := http.Get(url + "/events") //nolint:noctx // its body ends it
	require.NoError(t, err)
	t.Cleanup(func() { _ = resp.Body.Close() })
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, "text/event-stream; charset=utf-8", resp.Header.Get("Content-Type"))
	return &reader{bufio.NewReader(resp.Body), resp.Body}
}

// next gives the data of the next message of a kind.
func (r *reader) next(t *testing.T, kind string) string {
	t.Helper()
	event := ""
	for {
		line, err := r.ReadString('\n')
		require.NoError(t, err)
		line = strings.TrimSuffix(line, "\n")
		if e, ok := strings.CutPrefix(line, "event: "); ok {
			event = e
		}
		if d, ok := strings.CutPrefix(line, "data: "); ok && event == kind {
			return d
		}
	}
}

// What changes is told at once, what does not only once; a failed look is told
// too.
func TestStream(t *testing.T) {
	t.Parallel()
	s := tell()
	srv := httptest.NewServer(dashboard.New(s, quick))
	t.Cleanup(srv.Close)
	r := open(t, srv.URL)
	assert.Contains(t, r.next(t, "status"), `"state":"ok"`)
	s.set(func(s *told) {
		s.status.State = client.StateDegraded
		s.events = []client.Event{{ID: 1, Kind: "backend", Message: "two\nlines </script><b>"}}
	})
	assert.Contains(t, r.next(t, "status"), `"state":"degraded"`)
	events := r.next(t, "events")
	assert.Contains(t, events, `two\nlines \u003c/script\u003e`)
	s.set(func(s *told) { s.err = errors.New("no database") })
	assert.Contains(t, r.next(t, "trouble"), "no database")
	s.set(func(s *told) { s.err = nil })
	assert.Contains(t, r.next(t, "status"), `"state":"degraded"`, "also the same as before")
}

// There are so many streams and no more, and one that ends makes room.
func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(dashboard.New(tell(), dashboard.Options{Streams: 2, Every: 10 * time.Millisecond, Least: time.Millisecond}))
	t.Cleanup(srv.Close)
	first := open(t, srv.URL)
	first.next(t, "status")
	open(t, srv.URL).next(t, "status")
	resp, err := http.Get(srv.URL + "/events") //nolint:noctx // refused at once
	require.NoError(t, err)
	_ = resp.Body.Close()
	assert.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	assert.NotEmpty(t, resp.Header.Get("Retry-After"))
	require.NoError(t, first.body.Close())
	require.Eventually(t, func() bool {
		resp, err := http.Get(srv.URL + "/events") //nolint:noctx // its body ends it
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}, 10*time.Second, 20*time.Millisecond)
}

// A client that reads nothing holds nobody up.
func TestSlowClient(t *testing.T) {
	t.Parallel()
	s := tell()
	srv := httptest.NewServer(dashboard.New(s, quick))
	t.Cleanup(srv.Close)
	slow, err := net.Dial("tcp", srv.Listener.Addr().String())
	require.NoError(t, err)
	defer slow.Close()
	_, err = io.WriteString(slow, "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
	require.NoError(t, err)
	r := open(t, srv.URL)
	r.next(t, "status")
	for i := range 50 {
		s.set(func(s *told) { s.status.Notes = []string{strings.Repeat("x", 200_000), string(rune('a' + i%26))} })
		r.next(t, "status")
	}
}
