package sdkprocess

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend/grid"
)

func FuzzReadFrame(f *testing.F) {
	var good bytes.Buffer
	require.NoError(f, writeFrame(&good, message{ID: 1, Call: "Deploy", Args: []byte(`[]`), Error: toWire(errors.Join(io.EOF, grid.ErrFunds))}))
	f.Add(good.Bytes())
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, '{'})
	f.Add(append([]byte{0, 0, 0, 2}, "{}"...))
	f.Add(append([]byte{0, 0, 0, 30}, `{"error":{"joined":[null,{}]}}`...))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := readFrame(bytes.NewReader(text))
		if err != nil {
			return
		}
		m.Error.scrub([]string{"secret"}, maxJoined)
		if e := m.Error.error(); e != nil {
			_ = e.Error()
			_ = errors.Is(e, grid.ErrFunds)
		}
		var again bytes.Buffer
		require.NoError(t, writeFrame(&again, m))
		_, err = readFrame(&again)
		require.NoError(t, err)
	})
}

func TestFrameBounds(t *testing.T) { // alone: it looks at the memory of the process
	require.ErrorContains(t, writeFrame(io.Discard, message{Result: []byte(`"` + strings.Repeat("x", maxFrame) + `"`)}), "longer")
	_, err := readFrame(bytes.NewReader(binary.BigEndian.AppendUint32(nil, maxFrame+1)))
	require.ErrorContains(t, err, "says that it has")
	_, err = readFrame(bytes.NewReader(nil))
	require.Equal(t, io.EOF, err)
	_, err = readFrame(bytes.NewReader([]byte{0, 0, 0, 9, '{'}))
	require.Equal(t, io.ErrUnexpectedEOF, err)
	_, err = readFrame(bytes.NewReader(append([]byte{0, 0, 0, 6}, "secret"...)))
	require.NotContains(t, err.Error(), "secret")
	// A length alone takes no memory.
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = readFrame(bytes.NewReader(binary.BigEndian.AppendUint32(nil, maxFrame)))
	runtime.ReadMemStats(&after)
	require.Error(t, err)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
}

// TestKinds: every kind of error of the seam has a name on the wire and comes back.
func TestKinds(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "../errors.go", nil, 0)
	require.NoError(t, err)
	declared := 0
	ast.Inspect(file, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok {
			for _, name := range v.Names {
				if strings.HasPrefix(name.Name, "Err") {
					declared++
				}
			}
		}
		return true
	})
	require.Len(t, kinds, declared)
	for _, kind := range kinds {
		back := toWire(&grid.Error{Kind: kind, Msg: "m", Remedy: "r"}).error()
		require.ErrorIs(t, back, kind)
		require.Equal(t, &grid.Error{Kind: kind, Msg: "m", Remedy: "r"}, back)
	}
	for _, end := range []error{context.Canceled, context.DeadlineExceeded} {
		require.Equal(t, end, toWire(end).error())
	}
	require.NoError(t, toWire(nil).error())
}
