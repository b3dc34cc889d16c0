package monitor

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/engine/zstor/record"
)

type recorded struct {
	Note     string   `json:"note"`
	Args     []string `json:"args"`
	Request  string   `json:"request"`
	Response string   `json:"response"`
}

func recordings(t testing.TB) []recorded {
	t.Helper()
	raw, err := os.ReadFile("testdata/socket.json")
	require.NoError(t, err)
	var all []recorded
	require.NoError(t, json.Unmarshal(raw, &all))
	require.NotEmpty(t, all)
	return all
}

func body(t testing.TB, text string) []byte {
	t.Helper()
	raw, err := hex.DecodeString(text)
	require.NoError(t, err)
	b, err := ReadFrame(bytes.NewReader(raw))
	require.NoError(t, err)
	return b
}

// requestOf is what the recorded command line means.
func requestOf(t *testing.T, args []string) Request {
	t.Helper()
	flag := func(names ...string) bool {
		for _, a := range args {
			for _, n := range names {
				if a == n {
					return true
				}
			}
		}
		return false
	}
	value := func(names ...string) string {
		for i, a := range args[:len(args)-1] {
			for _, n := range names {
				if a == n {
					return args[i+1]
				}
			}
		}
		return ""
	}
	switch args[0] {
	case "store":
		return Store{File: value("-f", "--file"), KeyPath: value("-k", "--key-path"), SaveFailure: flag("-s", "--save-failure"),
			Delete: flag("-d", "--delete"), NonBlocking: flag("-n", "--notblocking")}
	case "retrieve":
		return Retrieve{File: value("-f", "--file")}
	case "rebuild":
		return Rebuild{File: value("-f", "--file"), Key: value("-k", "--key")}
	case "check":
		return Check{Path: value("-f", "--file")}
	}
	t.Fatalf("unknown command %q", args)
	return nil
}

func TestRecordedFrames(t *testing.T) {
	t.Parallel()
	for _, r := range recordings(t) {
		if r.Request != "" {
			want := requestOf(t, r.Args)
			got, err := ParseRequest(body(t, r.Request))
			require.NoError(t, err, r.Note)
			require.Equal(t, want, got, r.Note)
			frame, err := EncodeRequest(want)
			require.NoError(t, err)
			require.Equal(t, r.Request, hex.EncodeToString(frame), r.Note)
		}
		if r.Response != "" {
			resp, err := ParseResponse(body(t, r.Response))
			require.NoError(t, err, r.Note)
			require.Equal(t, r.Response, hex.EncodeToString(EncodeResponse(resp)), r.Note)
		}
	}
}

type handler struct {
	requests chan Request
	err      error
	block    bool
}

func (h *handler) answer(ctx context.Context, r Request) error {
	h.requests <- r
	if h.block {
		<-ctx.Done()
		return ctx.Err()
	}
	return h.err
}

func (h *handler) Store(ctx context.Context, r Store) error       { return h.answer(ctx, r) }
func (h *handler) Retrieve(ctx context.Context, r Retrieve) error { return h.answer(ctx, r) }
func (h *handler) Rebuild(ctx context.Context, r Rebuild) error   { return h.answer(ctx, r) }
func (h *handler) Check(ctx context.Context, path string) (record.Checksum, bool, error) {
	err := h.answer(ctx, Check{path})
	return record.Checksum{1, 2, 3}, !strings.HasPrefix(path, "/unknown"), err
}

func serve(t *testing.T, h *handler) (socket string, stop func() error) {
	t.Helper()
	dir, err := os.MkdirTemp("", "mon") // a socket's path is short
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	h.requests = make(chan Request, 100)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- NewServer(h, Options{ReadTimeout: 200 * time.Millisecond}).Serve(ctx, l) }()
	stop = func() error { cancel(); err := <-done; done <- err; return err }
	t.Cleanup(func() { require.NoError(t, stop()) })
	return socket, stop
}

func TestClientAndServer(t *testing.T) {
	t.Parallel()
	h := &handler{}
	socket, _ := serve(t, h)
	c := NewClient(socket)
	ctx := t.Context()
	store := Store{File: "/a", KeyPath: "/k", Delete: true, NonBlocking: true}
	require.NoError(t, c.Store(ctx, store))
	require.Equal(t, store, <-h.requests)
	require.NoError(t, c.Retrieve(ctx, Retrieve{"/a"}))
	require.Equal(t, Retrieve{"/a"}, <-h.requests)
	require.NoError(t, c.Rebuild(ctx, Rebuild{Key: "/p/meta/00"}))
	require.Equal(t, Rebuild{Key: "/p/meta/00"}, <-h.requests)
	sum, found, err := c.Check(ctx, "/a")
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, record.Checksum{1, 2, 3}, sum)
	_, found, err = c.Check(ctx, "/unknown")
	require.NoError(t, err)
	require.False(t, found)

	h.err = errors.New("it broke: " + strings.Repeat("é", 70000))
	err = c.Retrieve(ctx, Retrieve{"/a"})
	var remote *RemoteError
	require.ErrorAs(t, err, &remote)
	require.True(t, strings.HasPrefix(remote.Message, "it broke: ééé"))
	err = c.Rebuild(ctx, Rebuild{})
	require.ErrorContains(t, err, "Either `file` or `key` argument must be set")
	require.ErrorIs(t, c.Store(ctx, Store{File: strings.Repeat("x", MaxFrame)}), ErrFrame, "never sent with a wrong length")
}

func TestServerSurvivesBadClients(t *testing.T) {
	t.Parallel()
	h := &handler{}
	socket, _ := serve(t, h)
	for _, raw := range []string{"", "\x00", "\x00\x00", "\x00\x05\x00", "\x00\x04\x09\x00\x00\x00", "\xff\xff\x00",
		"\x00\x0c\x01\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff"} {
		conn, err := net.Dial("unix", socket)
		require.NoError(t, err)
		_, err = conn.Write([]byte(raw))
		require.NoError(t, err)
		_ = conn.(*net.UnixConn).CloseWrite()
		out, _ := io.ReadAll(conn)
		require.Empty(t, out, "%q gets no response", raw)
		require.NoError(t, conn.Close())
	}
	// One that sends nothing is left after the read timeout.
	conn, err := net.Dial("unix", socket)
	require.NoError(t, err)
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err)
	require.NoError(t, NewClient(socket).Retrieve(t.Context(), Retrieve{"/a"}))
}

func TestStopEndsWhatRuns(t *testing.T) {
	t.Parallel()
	h := &handler{block: true}
	socket, stop := serve(t, h)
	result := make(chan error, 1)
	go func() { result <- NewClient(socket).Retrieve(context.Background(), Retrieve{"/a"}) }()
	<-h.requests
	require.NoError(t, stop())
	require.Error(t, <-result)
	require.Error(t, NewClient(socket).Retrieve(t.Context(), Retrieve{"/a"}))
}

func TestClientGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	h := &handler{block: true}
	socket, _ := serve(t, h)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- NewClient(socket).Retrieve(ctx, Retrieve{"/a"}) }()
	<-h.requests
	cancel()
	require.ErrorIs(t, <-result, context.Canceled)
}

func FuzzFrames(f *testing.F) {
	for _, r := range recordings(f) {
		for _, text := range []string{r.Request, r.Response} {
			if raw, err := hex.DecodeString(text); err == nil && len(raw) > 2 {
				f.Add(raw[2:])
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if req, err := ParseRequest(b); err == nil {
			frame, err := EncodeRequest(req)
			if err != nil {
				return // a record whose numbers cannot be written
			}
			again, err := ParseRequest(frame[2:])
			require.NoError(t, err)
			require.Equal(t, req, again)
		}
		if resp, err := ParseResponse(b); err == nil {
			again, err := ParseResponse(EncodeResponse(resp)[2:])
			require.NoError(t, err)
			require.Equal(t, resp.Failed, again.Failed)
			require.Equal(t, resp.Checksum, again.Checksum)
		}
	})
}
