package hooks

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// testdata/argv.json holds what a real zdb 2.0.7 gave its hook, with its port
// replaced.
func goldenArgs(t testing.TB) [][]string {
	t.Helper()
	b, err := os.ReadFile("testdata/argv.json")
	require.NoError(t, err)
	var all [][]string
	require.NoError(t, json.Unmarshal(b, &all))
	return all
}

func TestParseWhatZdbGives(t *testing.T) {
	t.Parallel()
	seen := map[Kind]bool{}
	for _, args := range goldenArgs(t) {
		e, err := Parse(args)
		require.NoError(t, err, "%q", args)
		require.Equal(t, args, e.Args())
		seen[e.Kind] = true
	}
	for k := range arity {
		require.True(t, seen[k], "%s was not captured", k)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		nil, {"ready"}, {"unknown", "tcp://x"}, {"ready", "tcp://x", "more"}, {"jump-data", "tcp://x", "d0"},
		{"jump-index", "tcp://x", "i0", "i1", "1 x"}, {"jump-index", "tcp://x", "i0", "i1", "4294967296"}, {"jump-index", "tcp://x", "i0", "i1", "-1"},
	} {
		_, err := Parse(args)
		require.ErrorIs(t, err, ErrEvent, "%q", args)
	}
}

var allKinds = []Kind{
	NamespacesInit, Ready, NamespaceCreated, NamespaceUpdated, NamespaceDeleted, NamespaceReloaded,
	JumpIndex, JumpData, MissingData, Close, NamespaceClosing, Crash,
}

// randomEvent has the fields of its kind only, with any bytes.
func randomEvent(rnd *rand.Rand) Event {
	text := func() string {
		b := make([]byte, rnd.IntN(20))
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		return string(b)
	}
	dirty := func() (ids []uint32) {
		for range rnd.IntN(5) {
			ids = append(ids, rnd.Uint32())
		}
		return ids
	}
	e := Event{Kind: allKinds[rnd.IntN(len(allKinds))], Instance: text()}
	switch e.Kind {
	case NamespacesInit:
		e.IndexRoot, e.DataRoot = text(), text()
	case NamespaceCreated, NamespaceUpdated, NamespaceDeleted, NamespaceReloaded:
		e.Namespace = text()
	case JumpIndex:
		e.Index, e.NextIndex, e.Dirty = text(), text(), dirty()
	case JumpData:
		e.Data, e.NextData = text(), text()
	case MissingData:
		e.Data = text()
	case NamespaceClosing:
		e.Namespace, e.Index, e.Data, e.Dirty = text(), text(), text(), dirty()
	}
	return e
}

func TestParseOfArgsIsTheEvent(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		e := randomEvent(rnd)
		got, err := Parse(e.Args())
		require.NoError(t, err)
		require.Equal(t, e, got)
	}
}

func FuzzParse(f *testing.F) {
	for _, args := range goldenArgs(f) {
		f.Add(strings.Join(args, "\x00"))
	}
	f.Fuzz(func(t *testing.T, joined string) {
		e, err := Parse(strings.Split(joined, "\x00"))
		if err != nil {
			if !errors.Is(err, ErrEvent) {
				t.Fatal(err)
			}
			return
		}
		again, err := Parse(e.Args())
		if err != nil || !slices.Equal(again.Args(), e.Args()) {
			t.Fatalf("%q became %q: %v", e.Args(), again.Args(), err)
		}
	})
}

func TestChainCallsAll(t *testing.T) {
	t.Parallel()
	a, b := errors.New("a"), errors.New("b")
	var calls []string
	h := Chain(
		HandlerFunc(func(_ ctxT, e Event) error { calls = append(calls, "1"); return a }), nil,
		HandlerFunc(func(_ ctxT, e Event) error { calls = append(calls, "2"); return b }),
		HandlerFunc(func(_ ctxT, e Event) error { calls = append(calls, "3"); return nil }),
	)
	err := h.HandleHook(t.Context(), Event{Kind: Ready})
	require.ErrorIs(t, err, a)
	require.ErrorIs(t, err, b)
	require.Equal(t, []string{"1", "2", "3"}, calls)
}
