//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// notRun are the programs of command lines in documents that TestGuides does not
// run, and what does. Command lines of quantumd in them are parsed by
// TestCommandsOfDocuments.
var notRun = map[string]string{
	"make":       "CI runs the targets",
	"systemctl":  "a real systemd: TestInstalledOnSystemd",
	"journalctl": "a real systemd",
	"docker":     "TestImage",
	"openssl":    "makes a key",
}

var systemPath = regexp.MustCompile(`(^|[\s=:>"'])/(etc|mnt|srv|tmp|var|opt)/`)

// pages are the documents whose command lines are run, each on a machine of its
// own: what stands before the first one, as the page supposes it.
var pages = map[string]string{
	"README.md":               "",
	"docs/operators-guide.md": "",
	"docs/go-guide.md":        "",
	"docs/hints.md":           "quantumd deploy --local; quantumd setup; echo x >$ROOT/mnt/qsfs/PATH",
}

// TestGuides runs every command line of the documents' sh blocks in order, for
// real: system paths lie below another root, and where a page says `up` the
// system runs beside the next lines. `<!-- new machine -->` begins on another
// machine; config.yaml lists backends that outlive machines. `<!-- run by TestX -->`
// says that another test does what the next block says.
func TestGuides(t *testing.T) {
	t.Parallel()
	needsFUSE(t)
	for page, before := range pages {
		t.Run(filepath.Base(page), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile("../../" + page)
			require.NoError(t, err)
			dir := folder(t)
			u := newUser(t, dir)
			for _, m := range regexp.MustCompile(`<!-- run by (\w+) -->`).FindAllStringSubmatch(string(text), -1) {
				require.NoError(t, exec.Command("grep", "-q", "^func "+m[1]+"(t ", "-r", ".").Run(), "%s is no test here", m[1])
			}
			script := guide(page, string(text), before)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "bash", "-c", script)
			cmd.Dir = dir
			cmd.Env = append(u.env, "DIR="+dir, "PROGRAM="+u.program, "QUANTUMD_UPLOAD_WORKERS=2")
			var said bytes.Buffer
			cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &said, &said, 5*time.Second
			err = cmd.Run()
			require.NoError(t, err, "%s", last(said.String(), 6000))
			require.Contains(t, said.String(), "== "+page, "something was run")
		})
	}
}

func last(s string, n int) string { return s[max(0, len(s)-n):] }

// guide makes a script of a page's command lines.
func guide(page, text, before string) string {
	var b strings.Builder
	b.WriteString(`set -eu
trap 'jobs -p | xargs -r kill 2>/dev/null || true; wait || true' EXIT # what ended by itself is no failure
quantumd() { # with the root of this machine, where no folder is named
  case " $* " in *" --dir "*) "$PROGRAM" "$@" ;; *) "$PROGRAM" "$@" --root "$ROOT" ;; esac
}
fresh() { mkdir -p "$ROOT"/{etc,mnt/q,srv,tmp,var,opt}; }
endless() { code=0; timeout -s INT 2 "$PROGRAM" "$@" --root "$ROOT" >/dev/null || code=$?; [ $code = 0 ] || [ $code = 124 ]; }
ROOT=$DIR/root0; fresh
"$PROGRAM" deploy --local --dir "$DIR/backends"
cp backends/config.yaml config.yaml
`)
	b.WriteString(before + "\n")
	machine, block, skip := 0, "", false
	for n, line := range strings.Split(text, "\n") {
		if fence, ok := strings.CutPrefix(strings.TrimSpace(line), "```"); ok {
			if block != "" {
				skip = false
			}
			block = map[bool]string{true: fence, false: ""}[block == ""]
			continue
		}
		if strings.HasPrefix(line, "<!-- run by ") {
			skip = true
			continue
		}
		if line == "<!-- new machine -->" {
			machine++
			fmt.Fprintf(&b, "quantumd stop 2>/dev/null || true\nROOT=$DIR/root%d; fresh\n", machine)
			continue
		}
		words := strings.Fields(line)
		if block != "sh" || skip || len(words) == 0 || strings.HasPrefix(words[0], "#") || notRun[words[0]] != "" {
			continue
		}
		fmt.Fprintf(&b, "echo '== %s:%d' >&2\n%s\n", page, n+1, ofTheGuide(line))
	}
	return b.String()
}

// ofTheGuide fits a line to the test's machine.
func ofTheGuide(line string) string {
	line, _, _ = strings.Cut(line, " #")
	line = strings.TrimRight(systemPath.ReplaceAllString(line, `$1$$ROOT/$2/`), " ")
	switch {
	case strings.HasPrefix(line, "quantumd up "):
		wait := regexp.MustCompile(`.*(--dir \S+).*`).ReplaceAllString(line, "quantumd wait $1 --timeout 60s")
		line = `"$PROGRAM"` + strings.TrimPrefix(line, "quantumd") + " &\n" + wait // the program itself, for it is ended by its id
	case strings.HasPrefix(line, "quantumd doctor"): // what it finds is this machine's
		line += " || case $? in 1|3) ;; *) exit 1 ;; esac"
	case strings.Contains(line, " --watch"), strings.HasSuffix(line, " -f"):
		line = "endless" + strings.TrimPrefix(line, "quantumd")
	case strings.HasSuffix(line, " PATH"):
		line = strings.Replace(line, "PATH", "$ROOT/mnt/qsfs/PATH", 1)
	}
	return line
}

// Each page is run, and has no command lines where they are not looked for.
func TestPagesAreRun(t *testing.T) {
	t.Parallel()
	found, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	for _, path := range append(found, "../../README.md") {
		page := strings.TrimPrefix(filepath.ToSlash(path), "../../")
		require.Contains(t, pages, page)
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
			if m[1] == "sh" {
				continue
			}
			for _, line := range strings.Split(m[2], "\n") {
				require.Empty(t, commandsIn(strings.TrimLeft(line, "$# ")), "%s: a block of %q has a command line: %s", page, m[1], line)
			}
		}
	}
}

// goBlock is a go block of a page: a program, with what it prints, or lines of one.
var goBlock = regexp.MustCompile("(?ms)(?:^<!-- prints (.*?) ?-->\\n\\n)?^```go\\n(.*?)^```$")

// Programs in the documents compile and are vetted in a module of their own,
// and print what their page says of them; lines of programs compile.
func TestProgramsOfDocuments(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	dir := t.TempDir()
	prints := map[string]string{}
	found, err := filepath.Glob(filepath.Join(root, "docs/*.md"))
	require.NoError(t, err)
	fragments := 0
	for _, page := range append(found, filepath.Join(root, "README.md")) {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		blocks := goBlock.FindAllStringSubmatch(string(text), -1)
		require.Len(t, blocks, strings.Count(string(text), "\n```go"), page)
		for n, m := range blocks {
			name := fmt.Sprintf("%s%d", strings.ReplaceAll(strings.TrimSuffix(filepath.Base(page), ".md"), "-", ""), n)
			if strings.HasPrefix(m[2], "package main\n") {
				require.NotEmpty(t, m[1], "%s: say what program %d prints", page, n+1)
				prints[name] = m[1]
			} else {
				fragments++
				m[2] = fragment(m[2])
			}
			require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(dir, name, "main.go"), []byte(m[2]), 0o600))
		}
	}
	require.Greater(t, len(prints), 5)
	require.Positive(t, fragments)
	outsideModule(t, root, dir)
	goTool(t, dir, "vet", "./...")
	require.NoError(t, os.Mkdir(filepath.Join(dir, "bin"), 0o700))
	goTool(t, dir, "build", "-ldflags", "-s -w", "-o", "bin/", "./...")
	for name, want := range prints {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := exec.CommandContext(ctx, filepath.Join(dir, "bin", name))
		cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
		out, err := cmd.CombinedOutput()
		cancel()
		require.NoError(t, err, "%s: %s", name, out)
		require.Regexp(t, want, strings.TrimSuffix(string(out), "\n"), name)
	}
}

// outsideModule makes dir a module that uses the project, and the modules that it names.
func outsideModule(t *testing.T, root, dir string) {
	t.Helper()
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	require.NoError(t, err)
	_, requirements, _ := strings.Cut(string(mod), "\n")
	requirements, _, _ = strings.Cut(requirements, "\ntool ")
	text := "module example.org/guides\n" + requirements + "\nrequire github.com/threefoldtech/quantumd v0.0.0\n\nreplace github.com/threefoldtech/quantumd => " + root + "\n"
	sum, err := os.ReadFile(filepath.Join(root, "go.sum"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte(text), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.sum"), sum, 0o600))
}

func goTool(t *testing.T, dir string, args ...string) {
	t.Helper()
	tool := either(os.Getenv("GO"), "go")
	cmd := exec.CommandContext(t.Context(), tool, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off", "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "go %q: %s", args, out)
}

// fragment makes a program of lines of one that use ctx, logger and err.
func fragment(lines string) string {
	var b strings.Builder
	b.WriteString("package main\n\nimport (\n\t\"context\"\n\t\"log/slog\"\n")
	const project = "github.com/threefoldtech/quantumd/"
	for use, path := range map[string]string{"errors": "errors", "fmt": "fmt", "config": project + "qsfs/config", "qsfs": project + "qsfs"} {
		if regexp.MustCompile(`\b` + use + `\.`).MatchString(lines) {
			fmt.Fprintf(&b, "\t%q\n", path)
		}
	}
	b.WriteString(")\n\nfunc main() {}\n\nfunc _(ctx context.Context, logger *slog.Logger, err error) {\n" + lines)
	for _, m := range regexp.MustCompile(`(?m)^([\w, ]+) := `).FindAllStringSubmatch(lines, -1) {
		for _, name := range strings.Split(m[1], ", ") {
			b.WriteString("_ = " + name + "\n")
		}
	}
	b.WriteString("}\n")
	return b.String()
}
