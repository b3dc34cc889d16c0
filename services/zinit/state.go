package zinit

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// kind is the state of a service as zinit names it.
type kind string

// The states. Of those in brackets more is told.
const (
	kindUnknown     kind = "Unknown" // just monitored; or its end could not be read
	kindBlocked     kind = "Blocked" // another one is not ready
	kindSpawned     kind = "Spawned" // runs, its test has not passed
	kindRunning     kind = "Running"
	kindSuccess     kind = "Success" // ended with 0
	kindError       kind = "Error"   // [Exited, Signaled]
	kindTestFailure kind = "TestFailure"
	kindFailure     kind = "Failure" // could not be started; never tried again
)

// state is a state's text, taken apart.
type state struct {
	kind   kind
	text   string
	pid    int // of the process that ended; zero when not told
	code   int // exit code; 128 and the signal's number for one that a signal ended
	signal string
}

const maxState = 200 // bytes of a state's text that are kept

// parseState reads a state's text, as `Running` or
// `Error(Signaled(Pid(4711), SIGTERM, false))`. What is not understood keeps
// its text.
func parseState(text string) state {
	st := state{text: strings.ToValidUTF8(text[:min(len(text), maxState)], "?")}
	switch k := kind(text); k {
	case kindBlocked, kindSpawned, kindRunning, kindSuccess, kindTestFailure, kindFailure:
		st.kind = k
		return st
	}
	inner, ok := between(text, "Error(", ")")
	if !ok {
		st.kind = kindUnknown
		return st
	}
	st.kind, st.code = kindError, -1
	if args, ok := between(inner, "Exited(", ")"); ok {
		if words := strings.Split(args, ", "); len(words) == 2 {
			st.pid = parsePid(words[0])
			if code, err := strconv.ParseUint(words[1], 10, 8); err == nil {
				st.code = int(code)
			}
		}
	} else if args, ok := between(inner, "Signaled(", ")"); ok {
		if words := strings.Split(args, ", "); len(words) == 3 {
			st.pid = parsePid(words[0])
			if n := unix.SignalNum(words[1]); n != 0 {
				st.signal, st.code = words[1], 128+int(n)
			}
		}
	}
	return st
}

func between(text, before, after string) (string, bool) {
	text, ok := strings.CutPrefix(text, before)
	if !ok {
		return "", false
	}
	return strings.CutSuffix(text, after)
}

func parsePid(text string) int {
	digits, ok := between(text, "Pid(", ")")
	n, err := strconv.ParseInt(digits, 10, 32)
	if !ok || err != nil || n < 0 {
		return 0
	}
	return int(n)
}
