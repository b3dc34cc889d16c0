//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
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
trap 'jobs -p | xargs -r kill; wait' EXIT
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

// Whole programs in the documents' go blocks compile.
func TestProgramsOfDocuments(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	dir := t.TempDir()
	overlay := map[string]string{}
	var packages []string
	found, err := filepath.Glob(filepath.Join(root, "docs/*.md"))
	require.NoError(t, err)
	for _, page := range append(found, filepath.Join(root, "README.md")) {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for n, m := range regexp.MustCompile("(?ms)^```go\n(package main\n.*?)^```$").FindAllSubmatch(text, -1) {
			name := fmt.Sprintf("%s%d", strings.ReplaceAll(strings.TrimSuffix(filepath.Base(page), ".md"), "-", ""), n)
			file := filepath.Join(dir, name+".go")
			require.NoError(t, os.WriteFile(file, m[1], 0o600))
			overlay[filepath.Join(root, "examples", name, "main.go")] = file
			packages = append(packages, "./examples/"+name)
		}
	}
	require.Greater(t, len(packages), 4)
	list, err := json.Marshal(map[string]any{"Replace": overlay})
	require.NoError(t, err)
	file := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(file, list, 0o600))
	cmd := exec.Command("go", append([]string{"build", "-overlay", file, "-o", os.DevNull}, packages...)...)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}
