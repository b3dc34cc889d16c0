package examples_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	_ "github.com/threefoldtech/quantumd/qsfs" // a change there has the test run again
)

// outsider is a program of another module that keeps files in a System.
const outsider = `package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"github.com/threefoldtech/quantumd/backend/local"
	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
	"github.com/threefoldtech/quantumd/engine/zstor/seal"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

func main() {
	if err := run(context.Background(), os.Args[1]); err != nil {
		fmt.Println("outsider:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string) error {
	backends := local.New(filepath.Join(dir, "backends"), local.InProcess(nil))
	defer backends.Close()
	cfg := config.Default()
	cfg.MinShards, cfg.ExpectedShards = 2, 3
	key := seal.NewKey()
	cfg.EncryptionKey = config.Secret(hex.EncodeToString(key[:]))
	sys, err := qsfs.Open(ctx, cfg, qsfs.Below(dir), qsfs.WithProvisioner(backends), qsfs.WithoutMount())
	if err != nil {
		return err
	}
	plan, err := sys.PlanDeploy(ctx)
	if err != nil {
		return err
	}
	if _, err := sys.Deploy(ctx, plan); err != nil {
		return err
	}
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- sys.Run(running) }()
	select {
	case err := <-ended:
		return err
	case <-sys.Ready():
	}
	if err := keep(ctx, sys, bytes.Repeat([]byte("a file of another module\n"), 20_000)); err != nil {
		return err
	}
	cancel()
	return <-ended
}

func keep(ctx context.Context, sys *qsfs.System, want []byte) error {
	file, err := sys.Tree().Create(ctx, tree.Root, "file", tree.NewNode{Mode: 0o644})
	if err != nil {
		return err
	}
	defer sys.Tree().Release(file.Ino)
	if _, err := sys.Tree().WriteAt(ctx, file.Ino, want, 0); err != nil {
		return err
	}
	if _, err := sys.Sync(ctx); err != nil {
		return err
	}
	dropped, err := sys.Evict(ctx, 0)
	if err != nil {
		return err
	}
	got := make([]byte, len(want))
	if _, err := sys.Tree().ReadAt(ctx, file.Ino, got, 0); err != nil {
		return err
	}
	fmt.Println("same:", bytes.Equal(want, got), "dropped:", dropped.Bytes > 0)
	return nil
}
`

// Another module can import the project, build with nothing but the modules
// that the project names, and keep a file.
func TestAnotherModule(t *testing.T) {
	t.Parallel()
	repo, err := filepath.Abs("..")
	require.NoError(t, err)
	dir := t.TempDir()
	mod, err := os.ReadFile(filepath.Join(repo, "go.mod"))
	require.NoError(t, err)
	// The project's requirements with another name: with GOPROXY=off nothing
	// can be resolved that is not written down.
	_, requirements, ok := bytes.Cut(mod, []byte("\n"))
	require.True(t, ok)
	requirements, _, _ = bytes.Cut(requirements, []byte("\ntool "))
	text := "module example.org/outsider\n" + string(requirements) +
		"\nrequire github.com/threefoldtech/quantumd v0.0.0\n\nreplace github.com/threefoldtech/quantumd => " + repo + "\n"
	sum, err := os.ReadFile(filepath.Join(repo, "go.sum"))
	require.NoError(t, err)
	for name, content := range map[string][]byte{"go.mod": []byte(text), "go.sum": sum, "main.go": []byte(outsider)} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	tool := os.Getenv("GO")
	if tool == "" {
		tool = "go"
	}
	build := exec.Command(tool, "build", "-o", "outsider", ".")
	build.Dir = dir
	build.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off", "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	program := exec.Command(filepath.Join(dir, "outsider"), filepath.Join(t.TempDir(), "q"))
	out, err = program.CombinedOutput()
	require.NoError(t, err, string(out))
	assert.Equal(t, "same: true dropped: true\n", string(out))
}
