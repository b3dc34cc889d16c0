package zinit_test

import (
	"bufio"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/services/zinit"
)

// record is one exchange with a real zinit.
type record struct {
	Case   string `json:"case"`
	Send   string `json:"send"`
	Recv   string `json:"recv"`
	Closed bool   `json:"server_closed"`
}

// recordedServices are those that were there when it was recorded.
var recordedServices = map[string]string{
	"delay":      "exec: sleep 1\noneshot: true",
	"echo":       `exec: sh -c "echo out-line; echo err-line >&2; exec sleep 1000"`,
	"waits":      "exec: sleep 1000\nafter: [delay]",
	"blocked":    "exec: sleep 1000\nafter: [nosuch]",
	"fails":      "exec: sh -c 'exit 3'",
	"failonce":   "exec: sh -c 'exit 7'\noneshot: true",
	"nobin":      "exec: /nonexistent/program",
	"badtest":    "exec: sleep 1000\ntest: 'false'",
	"testnobin":  "exec: sleep 1000\ntest: /nonexistent/test",
	"stubborn":   `exec: sh -c "trap '' TERM; exec sleep 1000"` + "\nshutdown_timeout: 1",
	"drain":      `exec: sh -c "trap 'echo Terminated >&2; sleep 5; exit 0' TERM; sleep 1000 & wait"` + "\nshutdown_timeout: 30",
	"quit":       "exec: sleep 1000\nsignal: {stop: sigquit}",
	"envdir":     `exec: sh -c "echo FOO=$FOO; pwd; exec sleep 1000"` + "\nenv: {FOO: bar}\ndir: /tmp",
	"argv":       "exec: |\n  sh -c 'printf \"[\"; sep=; for a; do printf \"%s\\047%s\\047\" \"$sep\" \"$a\"; sep=\", \"; done; echo \"]\"; exec sleep 1000' sh\n  --a /x \\\n   --b 900",
	"unknownkey": "exec: sleep 1000\nbogus: 1",
	"lognone":    "exec: sleep 1000\nlog: none",
	"badyaml":    "exec: [",
	"noexec":     "test: 'true'",
	"badsig":     "exec: sleep 1000\nsignal: {stop: sigfoo}",
	"lognull":    "exec: sleep 1000\nlog: null",
	"afterstr":   "exec: sleep 1000\nafter: delay",
}

var recordedFor = map[zinit.Generation][]string{
	zinit.LineProtocol: {"delay", "echo", "waits", "blocked", "fails", "failonce", "nobin", "badtest", "testnobin", "stubborn",
		"quit", "envdir", "argv", "unknownkey", "lognone", "badyaml", "noexec", "badsig", "lognull", "afterstr"},
	zinit.JSONRPC: {"delay", "echo", "waits", "blocked", "fails", "nobin", "stubborn", "drain", "badyaml"},
}

// TestRecords sends each recorded request, and wants the recorded answer: of
// the double, and of the real zinit, which shows that this test asks rightly.
func TestRecords(t *testing.T) {
	t.Parallel()
	eachIdle(t, func(t *testing.T, idle func(t *testing.T) world) {
		w := idle(t)
		for _, n := range recordedFor[w.g] {
			require.NoError(t, os.WriteFile(filepath.Join(w.services, n+".yaml"), []byte(recordedServices[n]+"\n"), 0o644))
		}
		if w.g == zinit.JSONRPC {
			w.pause = 700 * time.Millisecond // what was killed was asked about before it was there again
		}
		w.begin(t)
		file := map[zinit.Generation]string{zinit.LineProtocol: "line-protocol-v0.2.14.jsonl", zinit.JSONRPC: "jsonrpc-v0.2.28.jsonl"}[w.g]
		for _, r := range readRecords(t, file) {
			if r.Case == "stop" && w.g == zinit.JSONRPC { // it was there again by then
				w.replay(t, record{Case: "again", Send: `{"jsonrpc":"2.0","id":1,"method":"service_status","params":["echo"]}`,
					Recv: `{"jsonrpc":"2.0","id":1,"result":{"name":"echo","pid":7,"state":"Running","target":"Up","after":{}}}` + "\n"})
			}
			if r.Send != "" {
				w.replay(t, r)
			}
		}
	})
}

func readRecords(t *testing.T, file string) []record {
	f, err := os.Open(filepath.Join("testdata", file))
	require.NoError(t, err)
	defer f.Close() //nolint:errcheck // read only
	var out []record
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r record
		require.NoError(t, json.Unmarshal(lines.Bytes(), &r))
		out = append(out, r)
	}
	require.NoError(t, lines.Err())
	require.NotEmpty(t, out)
	return out
}

// asking are requests that change nothing: their answer may come true a little
// later.
var asking = regexp.MustCompile(`^list|^status|^log|service_list|service_status|stream_|service_stats`)

func (w world) replay(t *testing.T, r record) {
	t.Helper()
	want := normal(r.Recv)
	var got string
	var closed bool
	if asking.MatchString(r.Send) {
		last := func() bool {
			got, closed = w.exchange(t, r)
			return slices.Equal(want, normal(got)) && closed == r.Closed
		}
		if assert.Eventually(t, last, 8*time.Second, 50*time.Millisecond, r.Case) {
			return
		}
	} else {
		got, closed = w.exchange(t, r)
	}
	require.Equal(t, want, normal(got), r.Case)
	require.Equal(t, r.Closed, closed, r.Case)
}

// exchange sends, and reads until the end or a silence.
func (w world) exchange(t *testing.T, r record) (got string, closed bool) {
	conn, err := net.Dial("unix", w.socket)
	require.NoError(t, err)
	defer conn.Close() //nolint:errcheck // it was read to its end
	_, err = conn.Write([]byte(r.Send))
	require.NoError(t, err)
	if r.Case == "no-newline-then-half-close" {
		require.NoError(t, conn.(*net.UnixConn).CloseWrite())
	}
	silence := 5 * time.Second // a stop takes its time
	buf := make([]byte, 64<<10)
	if r.Recv == "" && !r.Closed {
		silence = 200 * time.Millisecond
	}
	for {
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(silence)))
		n, err := conn.Read(buf)
		got += string(buf[:n])
		if os.IsTimeout(err) {
			return got, false
		}
		if err != nil {
			return got, true
		}
		if !r.Closed {
			silence = 50 * time.Millisecond
		}
	}
}

var (
	pidText = regexp.MustCompile(`Pid\(\d+\)`)
	pidJSON = regexp.MustCompile(`"pid":[1-9]\d*`)
	numbers = regexp.MustCompile(`\b\d{8,}\b`)
)

// normal makes answers comparable: process ids and subscriptions differ, maps
// and what several services print have no order, and how often a service was
// started again is chance.
func normal(answer string) []string {
	answer = pidText.ReplaceAllString(answer, "Pid(1)")
	answer = pidJSON.ReplaceAllString(answer, `"pid":1`)
	answer = numbers.ReplaceAllString(answer, "12345678")
	if strings.Contains(answer, "openrpc") {
		answer = answer[:100]
	}
	var out []string
	for line := range strings.Lines(answer) {
		var v any
		if json.Unmarshal([]byte(line), &v) == nil {
			if m, ok := v.(map[string]any); ok {
				if list, ok := m["result"].([]any); ok {
					slices.SortFunc(list, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
					m["result"] = slices.Compact(list)
				}
			}
			b, err := json.Marshal(v)
			if err == nil {
				line = string(b) + line[len(strings.TrimRight(line, "\n")):]
			}
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
