// Package glob has what path/filepath.Glob lacks.
package glob

import "strings"

var escaper = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)

// Escape gives the pattern that fits only this path.
func Escape(path string) string { return escaper.Replace(path) }
