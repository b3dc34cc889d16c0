package zinit

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/services"
)

func FuzzLineAnswer(f *testing.F) {
	f.Add([]byte(`{"state":"ok","body":{"after":{},"name":"a","pid":1,"state":"Running","target":"Up"}}`))
	f.Add([]byte(`{"state":"error","body":"service name \"a\" unknown"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		body, err := parseLineAnswer(b)
		if err != nil {
			return
		}
		if st, err := parseStatus(body, "a"); err == nil {
			require.Equal(t, "a", st.Name)
			parseState(st.State)
		}
		_, _ = parseList(body) // it may be no list
	})
}

func FuzzRPC(f *testing.F) {
	f.Add([]byte("{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":[\"[-] a: x\"]}\n"))
	f.Add([]byte("{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":null}\n{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32000,\"message\":\"x\"}}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		body, err := awaitAnswer(bufio.NewReader(&perLine{r: bytes.NewReader(b)}), 1, nil)
		if err != nil {
			return
		}
		lines, err := parseLogs(body, "a")
		for _, l := range lines {
			require.NoError(t, err)
			require.True(t, of(l, "a"))
		}
		starts(lines, "a")
	})
}

func FuzzState(f *testing.F) {
	for _, s := range []string{"Running", "Error(Exited(Pid(4711), 3))", "Error(Signaled(Pid(4711), SIGTERM, false))", "Error(", "Error(Exited(Pid(-1), 999))"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		st := parseState(text)
		require.GreaterOrEqual(t, st.pid, 0)
		require.LessOrEqual(t, st.code, 255)
		require.LessOrEqual(t, len(st.text), 3*maxState)
		var out services.Status
		describe(&out, status{State: text, Target: "Up"}, st)
		require.NotEmpty(t, out.State)
	})
}

func FuzzSplit(f *testing.F) {
	f.Add(`a "b \" c" 'd' \e # f`, "x'y", "")
	f.Fuzz(func(t *testing.T, line, one, two string) {
		if words, err := Split(line); err == nil {
			again, err := Split(quoteAll(words))
			require.NoError(t, err)
			require.Equal(t, words, again)
		}
		words, err := Split(quoteAll([]string{one, two}))
		require.NoError(t, err)
		require.Equal(t, []string{one, two}, words)
	})
}

func FuzzFile(f *testing.F) {
	d, err := New(Options{}).describe(services.Service{Name: "a", Exec: []string{"/bin/x", "y z"}, Env: []string{"A=~"}, After: []string{"b"}, Mountpoint: "/mnt"},
		others{known: func(string) bool { return true }, first: func(string) bool { return true }})
	require.NoError(f, err)
	text, err := d.encode()
	require.NoError(f, err)
	f.Add(text)
	f.Add("exec: x\nafter: [*a]\n")
	f.Fuzz(func(t *testing.T, text string) {
		parseForeign(text)
		d, err := parse(text)
		if err != nil {
			return
		}
		again, err := d.encode()
		if err != nil {
			return
		}
		back, err := parse(again)
		require.NoError(t, err)
		require.Equal(t, d, back)
	})
}

func FuzzProbe(f *testing.F) {
	f.Add(`{"state":"ok","body":{}}`)
	f.Add(`{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}`)
	f.Fuzz(func(t *testing.T, text string) {
		g, err := parseProbe(strings.NewReader(text))
		require.Equal(t, err == nil, g != "")
	})
}

// The states that zinit tells, and what they are here.
func TestStates(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]state{
		"Running":                     {kind: kindRunning},
		"Blocked":                     {kind: kindBlocked},
		"Failure":                     {kind: kindFailure},
		"Unknown":                     {kind: kindUnknown},
		"Error(Exited(Pid(4711), 3))": {kind: kindError, pid: 4711, code: 3},
		"Error(Signaled(Pid(4711), SIGTERM, false))":  {kind: kindError, pid: 4711, code: 143, signal: "SIGTERM"},
		"Error(Signaled(Pid(4711), SIGNOPE, false))":  {kind: kindError, pid: 4711, code: -1},
		"Error(Stopped(Pid(1), SIGSTOP))":             {kind: kindError, code: -1},
		"Error(Exited(Pid(99999999999999999999), 3))": {kind: kindError, code: 3},
		"Something new": {kind: kindUnknown},
	} {
		want.text = text
		require.Equal(t, want, parseState(text))
	}
}

// A stream without an end of line is given up, however long one waits.
func TestEndlessLine(t *testing.T) {
	t.Parallel()
	_, err := io.Copy(io.Discard, &perLine{r: endless{}})
	require.ErrorIs(t, err, errLongLine)
	count := 0
	require.NoError(t, eachLine(io.LimitReader(endless{}, 4*maxLogLine), func(line string) error { count = len(line); return nil }))
	require.LessOrEqual(t, count, maxLogLine)
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for n := range b {
		b[n] = 'x'
	}
	return len(b), nil
}
