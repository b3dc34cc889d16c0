package qsfs

import (
	"os"
	"path/filepath"
)

// packageDir is where a package of the distribution puts programs.
const packageDir = "/usr/bin"

// ProgramPath is where the program of an installed system is: /usr/bin, where a
// package put it and self is that one or there is no other; else /usr/local/bin,
// where setup puts it. Self is the program that asks.
func ProgramPath(root, self string) string {
	packaged := filepath.Join("/", root, packageDir, "quantumd")
	own := filepath.Join("/", root, ProgramDir, "quantumd")
	if !exists(packaged) || self != packaged && exists(own) {
		return own
	}
	return packaged
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// program is where this setup has the program, and its hook beside it.
func (o SetupOptions) program() string { return ProgramPath(o.Root, o.Program) }

func (o SetupOptions) hook() string { return filepath.Join(filepath.Dir(o.program()), "quantumd-hook") }

// packaged says that a package brings the program: nothing is put over it.
func (o SetupOptions) packaged() bool {
	return filepath.Dir(o.program()) == filepath.Join("/", o.Root, packageDir) && o.Program == o.program()
}
