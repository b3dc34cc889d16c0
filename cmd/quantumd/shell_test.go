//go:build linux

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
)

// Each shell offers commands, commands of commands, and flags.
func TestCompletion(t *testing.T) {
	t.Parallel()
	asks := map[string]string{ // FILE, and the words of a line
		"bash": `source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _quantumd; echo "${COMPREPLY[@]}"`,
		"zsh": `compdef() { :; }; compadd() { print -r -- ${(M)candidates:#${words[CURRENT]}*} }; _files() { print files }
			file=$1; shift; words=("$@"); CURRENT=$#; source $file; _quantumd`,
		"fish": `source $argv[1]; complete -C "$argv[2..]"`,
	}
	for shell, ask := range asks {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			path, err := exec.LookPath(shell)
			if err != nil {
				t.Skipf("%s is not installed", shell)
			}
			dir := t.TempDir()
			file := filepath.Join(dir, "completion")
			script, err := exec.Command(program(t), "completion", shell).Output()
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(file, script, 0o600))
			complete := func(words ...string) []string {
				args := append([]string{"-c", ask, shell, file}, words...)
				if shell == "fish" {
					args = append([]string{"-c", ask, file}, words...)
				}
				cmd := exec.Command(path, args...)
				cmd.Env, cmd.Dir = append(os.Environ(), "HOME="+dir), dir // no files of ours
				out, err := cmd.CombinedOutput()
				require.NoError(t, err, string(out))
				return strings.Fields(string(out))
			}
			require.Equal(t, []string{"start", "status"}, complete("quantumd", "sta"))
			require.Contains(t, complete("quantumd", "config", "ch"), "check")
			if shell != "fish" {
				require.Contains(t, complete("quantumd", "logs", "--fo"), "--follow")
				require.Contains(t, complete("quantumd", "--dir", "status", "--wa"), "--watch")
			}
		})
	}
}

// The manual page has every command and flag, and no line that formatters
// complain about.
func TestManual(t *testing.T) {
	t.Parallel()
	var c cli
	p, err := kong.New(&c, kong.Name("quantumd"))
	require.NoError(t, err)
	var page bytes.Buffer
	require.NoError(t, writeManual(&page, p.Model.Node, "2026-01-02"))
	plain := strings.ReplaceAll(page.String(), `\-`, "-")
	var walk func(n *kong.Node)
	walk = func(n *kong.Node) {
		for _, f := range n.Flags {
			if !f.Hidden {
				require.Contains(t, plain, "--"+f.Name)
			}
		}
		for _, child := range n.Children {
			if !child.Hidden && child.Type == kong.CommandNode {
				require.Contains(t, plain, ".SS \\fB"+child.FullPath())
				walk(child)
			}
		}
	}
	walk(p.Model.Node)
	file := filepath.Join(t.TempDir(), "quantumd.1")
	require.NoError(t, os.WriteFile(file, page.Bytes(), 0o600))
	checked := false
	if groff, err := exec.LookPath("groff"); err == nil {
		checked = true
		var complaints bytes.Buffer
		cmd := exec.Command(groff, "-ww", "-man", "-Tutf8", "-Z", file)
		cmd.Stderr = &complaints
		require.NoError(t, cmd.Run(), complaints.String())
		require.Empty(t, complaints.String())
	}
	if mandoc, err := exec.LookPath("mandoc"); err == nil {
		checked = true
		out, err := exec.Command(mandoc, "-T", "lint", "-W", "warning", file).CombinedOutput()
		require.NoError(t, err, string(out))
		require.Empty(t, string(out))
	}
	if !checked {
		t.Skip("neither groff nor mandoc is installed")
	}
}
