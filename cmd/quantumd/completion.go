package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help says how it is used.
func (completionCmd) Help() string {
	return `  source <(quantumd completion bash)
  source <(quantumd completion zsh)
  quantumd completion fish | source`
}

// Run prints the script.
func (c *completionCmd) Run(a *app, k *kong.Context) error {
	words := completions(k.Model.Node, "")
	if c.Shell == "fish" {
		for _, path := range sortedPaths(words) {
			condition := "__fish_use_subcommand"
			if path != "" {
				condition = "__fish_seen_subcommand_from " + strings.Fields(path)[0]
			}
			fmt.Fprintf(a.stdout, "complete -c quantumd -n '%s' -a '%s'\n", condition, strings.Join(words[path], " "))
		}
		return nil
	}
	if c.Shell == "zsh" {
		// As a file of a folder in fpath, and as a script that is sourced; `path` has
		// a meaning of its own in zsh.
		fmt.Fprintln(a.stdout, `#compdef quantumd
_quantumd() {
  local line="" word
  local -a candidates
  for word in "${(@)words[2,CURRENT-1]}"; do [[ $word == -* ]] || line="${line:+$line }$word"; done
  case "$line" in`)
		for _, path := range sortedPaths(words) {
			fmt.Fprintf(a.stdout, "    %q) candidates=(%s) ;;\n", path, strings.Join(words[path], " "))
		}
		fmt.Fprintln(a.stdout, `    *) _files; return ;;
  esac
  [[ "${words[CURRENT]}" == -* ]] || candidates=(${candidates:#-*})
  if (( $#candidates )); then compadd -a candidates; else _files; fi
}
if [[ "${funcstack[1]}" == _quantumd ]]; then _quantumd "$@"; else compdef _quantumd quantumd; fi`)
		return nil
	}
	fmt.Fprintln(a.stdout, `_quantumd() {
  local path="" word words=""
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do [[ $word == -* ]] || path="${path:+$path }$word"; done
  case "$path" in`)
	for _, path := range sortedPaths(words) {
		fmt.Fprintf(a.stdout, "    %q) words=%q ;;\n", path, strings.Join(words[path], " "))
	}
	fmt.Fprintln(a.stdout, `  esac
  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _quantumd quantumd`)
	return nil
}

// completions maps the commands on a line to what may follow them.
func completions(n *kong.Node, path string) map[string][]string {
	out := map[string][]string{}
	var words []string
	for _, group := range n.AllFlags(true) {
		for _, f := range group {
			words = append(words, "--"+f.Name)
		}
	}
	for _, child := range n.Children {
		if child.Hidden || child.Type != kong.CommandNode {
			continue
		}
		words = append(words, child.Name)
		for p, w := range completions(child, strings.TrimSpace(path+" "+child.Name)) {
			out[p] = w
		}
	}
	slices.Sort(words)
	out[path] = slices.Compact(words)
	return out
}

func sortedPaths(words map[string][]string) []string {
	var out []string
	for p := range words {
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}
