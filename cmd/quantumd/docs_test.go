package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// parseCommandLine says whether the grammar takes a command line as it stands in
// a text: `quantumd replace BACKEND`, `sudo quantumd setup && quantumd status`.
// Words in capitals, … and %s stand for values; nothing is run.
func parseCommandLine(line string) error {
	for _, command := range commandsIn(line) {
		args := command[1:]
		if len(args) > 0 && components[args[0]] != nil {
			continue // it has the real one's arguments
		}
		var c cli
		var out bytes.Buffer
		p, err := kong.New(&c, kong.Name("quantumd"), kong.Writers(&out, &out), kong.Exit(func(int) {}))
		if err != nil {
			return err
		}
		if slices.Contains(args, "--help") {
			continue
		}
		if _, err := p.Parse(args); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(command, " "), err)
		}
	}
	return nil
}

// commandsIn splits a line of a shell into the commands of quantumd in it.
func commandsIn(line string) [][]string {
	var out [][]string
	var words []string
	flush := func() {
		for i, w := range words {
			if w == "quantumd" || strings.HasSuffix(w, "/quantumd") {
				out = append(out, words[i:])
				break
			}
			if w != "sudo" && !strings.Contains(w, "=") { // neither before a command nor its environment
				break
			}
		}
		words = nil
	}
	for _, w := range shellWords(line) {
		switch w {
		case "&&", "||", "|", ";", "&":
			flush()
		default:
			words = append(words, w)
		}
	}
	flush()
	return out
}

var placeholder = regexp.MustCompile(`^(%[a-z]|…|[A-Z][A-Z0-9_-]*(\|[A-Z]+)*)$`)

// shellWords is what a shell makes of a line, as far as documents need it.
func shellWords(line string) []string {
	var out []string
	var b strings.Builder
	in, open := false, rune(0)
	end := func() {
		if in {
			w := b.String()
			if placeholder.MatchString(w) {
				w = "1" // a name, a number, a file
			}
			out = append(out, w)
		}
		b.Reset()
		in = false
	}
	for _, r := range line {
		switch {
		case open != 0 && r == open:
			open = 0
		case open != 0:
			b.WriteRune(r)
		case r == '\'' || r == '"':
			open, in = r, true
		case r == ' ' || r == '\t':
			end()
		case r == '#' && !in:
			return out
		case r == ';':
			end()
			out = append(out, ";")
		default:
			in = true
			b.WriteRune(r)
		}
	}
	end()
	return out
}

var inlineCode = regexp.MustCompile("`([^`\n]+)`")

// documentCommands lists the command lines of a page of Markdown by line number:
// those of blocks, with or without a prompt, and those within the text.
func documentCommands(text string) map[int]string {
	out := map[int]string{}
	block := false
	for i, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			block = !block
			continue
		}
		if block {
			line = strings.TrimLeft(strings.TrimSpace(line), "$# ")
			if len(commandsIn(line)) > 0 {
				out[i+1] = line
			}
			continue
		}
		for _, m := range inlineCode.FindAllStringSubmatch(line, -1) {
			if strings.HasPrefix(m[1], "quantumd ") {
				out[i+1] = either(out[i+1], "")
				if out[i+1] != "" {
					out[i+1] += " ; "
				}
				out[i+1] += m[1]
			}
		}
	}
	return out
}

func TestParseCommandLine(t *testing.T) {
	for _, good := range []string{
		"quantumd status --watch", "sudo ./quantumd setup && quantumd status", "MNEMONIC=x quantumd deploy --config FILE # comment",
		"quantumd replace %s", "quantumd up --local --dir /tmp/q --mount '/tmp/m x'", "quantumd zdb --port 1", "quantumd", "quantumd logs -f qsfs-meta0",
		"make build",
	} {
		assert.NoError(t, parseCommandLine(good), good)
	}
	for _, bad := range []string{"quantumd statsu", "quantumd status --wacth", "quantumd status; quantumd nosuch", "sudo quantumd sync --timeout soon"} {
		assert.Error(t, parseCommandLine(bad), bad)
	}
}

// Every command line of every page is one that this program takes.
func TestCommandsOfDocuments(t *testing.T) {
	pages, err := filepath.Glob("../../*.md")
	require.NoError(t, err)
	more, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	n := 0
	for _, page := range append(pages, more...) {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for line, command := range documentCommands(string(text)) {
			n++
			assert.NoError(t, parseCommandLine(command), "%s:%d", page, line)
		}
	}
	assert.Greater(t, n, 50, "commands were found")
}

// sources walks the Go files of the project that are no tests.
func sources(t *testing.T, visit func(path string, file *ast.File)) {
	t.Helper()
	root := "../.."
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		visit(path, file)
		return nil
	}))
}

// Every command that a message or remedy names is one that this program takes.
func TestCommandsOfMessages(t *testing.T) {
	n := 0
	sources(t, func(path string, file *ast.File) {
		ast.Inspect(file, func(node ast.Node) bool {
			lit, ok := node.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err != nil {
				return true
			}
			for _, m := range inlineCode.FindAllStringSubmatch(text, -1) {
				if strings.HasPrefix(m[1], "quantumd ") {
					n++
					assert.NoError(t, parseCommandLine(m[1]), path)
				}
			}
			return true
		})
	})
	assert.Greater(t, n, 50, "commands were found")
}

// hintTypes lists the types that have a Hint, as package.Type; those of the
// command line by the type alone.
func hintTypes(t *testing.T) []string {
	var out []string
	sources(t, func(path string, file *ast.File) {
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Name.Name != "Hint" || f.Recv == nil || len(f.Recv.List) != 1 {
				continue
			}
			typ := f.Recv.List[0].Type
			if star, ok := typ.(*ast.StarExpr); ok {
				typ = star.X
			}
			out = append(out, file.Name.Name+"."+typ.(*ast.Ident).Name)
		}
	})
	slices.Sort(out)
	return out
}

// docs/hints.md has each error that carries a remedy, and no others.
func TestHintsPage(t *testing.T) {
	text, err := os.ReadFile("../../docs/hints.md")
	require.NoError(t, err)
	heading := regexp.MustCompile("(?m)^### `([^`]+)`")
	var there []string
	sections := heading.Split(string(text), -1)
	for i, m := range heading.FindAllStringSubmatch(string(text), -1) {
		there = append(there, m[1])
		for _, part := range []string{"**Says**", "**Why**", "**Do**"} {
			assert.Contains(t, sections[i+1], part, m[1])
		}
	}
	want := hintTypes(t)
	assert.Greater(t, len(want), 40)
	slices.Sort(there)
	assert.Equal(t, want, there)
	for _, r := range remedies {
		assert.Contains(t, string(text), r.hint, "what is said for errors without a type")
	}
}
