package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTree checks the module as it is, by what `go list` says that each package is
// compiled with.
func TestTree(t *testing.T) {
	pkgs, err := list()
	require.NoError(t, err)
	require.Empty(t, check(pkgs))

	// It would be seen: the SDK is there, and a package that got it is named.
	i := slices.IndexFunc(pkgs, func(p pkg) bool { return rel(p.ImportPath) == "backend/grid/tfgrid" })
	require.GreaterOrEqual(t, i, 0)
	for _, name := range []string{"hooks", "backend", "store", "backend/grid", "backend/grid/sdkprocess", "qsfs", "examples/provisioner", "cmd/quantumd-hook"} {
		at := slices.IndexFunc(pkgs, func(p pkg) bool { return rel(p.ImportPath) == name })
		require.GreaterOrEqual(t, at, 0, name)
		p := pkgs[at]
		p.Imports, p.Deps = nil, pkgs[i].Deps
		for _, module := range sdk {
			require.Contains(t, check([]pkg{p}), name+" depends on "+firstBelow(p.Deps, module)+", which must stay out of it")
		}
	}
}

// TestNogrid: with the build tag, the program has nothing of the SDK in it.
func TestNogrid(t *testing.T) {
	pkgs, err := list("nogrid")
	require.NoError(t, err)
	i := slices.IndexFunc(pkgs, func(p pkg) bool { return rel(p.ImportPath) == "cmd/quantumd" })
	require.GreaterOrEqual(t, i, 0)
	require.Contains(t, pkgs[i].Deps, module+"/backend/grid/tfgrid")
	for _, m := range sdk {
		require.Equal(t, "nothing", firstBelow(pkgs[i].Deps, m), m)
	}
}

func firstBelow(deps []string, module string) string {
	i := slices.IndexFunc(deps, func(d string) bool { return oneOf(d, []string{module}) })
	if i < 0 {
		return "nothing"
	}
	return deps[i]
}

// TestOneDoor: one file imports the fork of the SDK's client.
func TestOneDoor(t *testing.T) {
	var files []string
	root := filepath.Join("..", "..", "..")
	require.NoError(t, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(f.Imports, func(i *ast.ImportSpec) bool { return strings.HasPrefix(i.Path.Value, `"`+sdk[0]) }) {
			name, err := filepath.Rel(root, path)
			files = append(files, filepath.ToSlash(name))
			return err
		}
		return nil
	}))
	require.Equal(t, []string{"backend/grid/internal/sdk/fork.go"}, files)
}
