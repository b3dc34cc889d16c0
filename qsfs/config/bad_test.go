package config_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/qsfs/config"
)

var update = flag.Bool("update", false, "write testdata/bad.golden anew")

// Each file below testdata/bad is wrong in the way that its name says.
// testdata/bad.golden holds what is said of each, with a caret below the place.
// Their secrets all begin with hunter.
func TestBadFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 100)
	want := readGolden(t)
	var golden strings.Builder
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			errs := whatIsWrong(data)
			require.NotEmpty(t, errs, "nothing is wrong with this file")
			got := describe(t, string(data), errs)
			fmt.Fprintf(&golden, "## %s\n%s", name, got)
			if !*update {
				assert.Equal(t, want[name], got)
			}
		})
	}
	if *update {
		require.NoError(t, os.WriteFile("testdata/bad.golden", []byte(golden.String()), 0o644))
		return
	}
	assert.Len(t, want, len(files), "every file has its messages, and no others are there")
}

func readGolden(t *testing.T) map[string]string {
	text, err := os.ReadFile("testdata/bad.golden")
	if *update && errors.Is(err, os.ErrNotExist) {
		return nil
	}
	require.NoError(t, err)
	out := map[string]string{}
	for section := range strings.SplitSeq(strings.TrimPrefix(string(text), "## "), "\n## ") {
		name, messages, _ := strings.Cut(section, "\n")
		out[name] = strings.TrimSuffix(messages, "\n") + "\n"
	}
	return out
}

func whatIsWrong(data []byte) []*config.Error {
	c, err := config.Parse("f.yaml", data)
	if err == nil {
		err = c.Validate()
	}
	return config.Errors(err)
}

// describe shows each message below the line that it is about.
func describe(t *testing.T, text string, errs []*config.Error) string {
	lines := strings.Split(strings.TrimPrefix(text, "\ufeff"), "\n")
	var b strings.Builder
	for i, e := range errs {
		for _, said := range []string{e.Error(), e.Hint()} {
			assert.NotContains(t, said, "hunter", "a secret is quoted")
			assert.Less(t, len(said), 400)
			assert.False(t, strings.ContainsFunc(said, unicode.IsControl), "%q", said)
		}
		assert.NotEmpty(t, e.Hint(), "no remedy: %v", e)
		assert.Equal(t, "f.yaml", e.File)
		require.Positive(t, e.Line, "no line: %v", e)
		require.Positive(t, e.Col, "no column: %v", e)
		require.LessOrEqual(t, e.Line, len(lines), "%v", e)
		line := []rune(strings.TrimSuffix(lines[e.Line-1], "\r"))
		require.LessOrEqual(t, e.Col, len(line)+1, "%v", e)
		assert.NotContains(t, e.Msg, "no valid", e)
		if i >= 5 && i < len(errs)-2 {
			continue // of hundreds, some
		}
		const most = 100
		shown := string(line[:min(len(line), most)])
		fmt.Fprintf(&b, "    %s\n    %*s %s\n    remedy: %s\n", visible(shown), e.Col, "^", e.Error(), e.Hint())
	}
	return b.String()
}

// visible replaces what a terminal would not show, a rune for a rune.
func visible(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return '·'
		}
		return r
	}, text)
}

// Text of any kind as a file: errors have their places.
func FuzzBadFiles(f *testing.F) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	require.NoError(f, err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, e := range whatIsWrong(data) {
			require.Positive(t, e.Line)
			require.Positive(t, e.Col)
			require.NotEmpty(t, e.Hint())
			require.False(t, strings.ContainsFunc(e.Error(), unicode.IsControl), "%q", e.Error())
		}
	})
}
