package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/local"
)

// Wiring is one way in which backends run: a Provisioner for [Options] that can
// also take single ones away and bring them back, with what they hold. All of
// its backends end with the test.
type Wiring interface {
	backend.Provisioner
	// Kill ends a backend without warning, and returns when it is gone.
	Kill(t testing.TB, id string)
	// Start brings a killed one back at its address, and returns when it answers.
	Start(t testing.TB, id string)
}

// InProcess runs backends inside this process. Kill is as hard as a process can
// end a part of itself: connections break, nothing more is written.
func InProcess(t testing.TB) Wiring {
	t.Helper()
	p := local.New(filepath.Join(t.TempDir(), "backends"), local.InProcess(nil))
	t.Cleanup(func() { assert.NoError(t, p.Close()) })
	return &localWiring{Provisioner: p, kill: func(t testing.TB, id string) { require.NoError(t, p.Stop(t.Context(), id)) }}
}

// Processes runs each backend as a process of the project's own program.
func Processes(t testing.TB) Wiring {
	t.Helper()
	p := local.New(filepath.Join(t.TempDir(), "backends"), local.Command(Program(t), "zdb"))
	t.Cleanup(func() { assert.NoError(t, p.Stop(context.Background())) })
	w := &localWiring{Provisioner: p}
	w.kill = func(t testing.TB, id string) {
		b := find(t, p, id)
		pid := p.Health(t.Context(), b).PID
		require.Positive(t, pid, "%s does not run", id)
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		require.Eventually(t, func() bool { return p.Health(t.Context(), b).PID == 0 }, 10*time.Second, 5*time.Millisecond)
	}
	return w
}

type localWiring struct {
	*local.Provisioner
	kill func(testing.TB, string)

	mu   sync.Mutex
	gone map[string]bool // killed: only Start brings them back
}

func (w *localWiring) Kill(t testing.TB, id string) {
	t.Helper()
	w.setGone(id, true)
	w.kill(t, id)
}

func (w *localWiring) Start(t testing.TB, id string) {
	t.Helper()
	w.setGone(id, false)
	require.NoError(t, w.Provisioner.Start(t.Context(), id))
}

func (w *localWiring) setGone(id string, gone bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone == nil {
		w.gone = map[string]bool{}
	}
	w.gone[id] = gone
}

// Provision does not start what was killed: its machine is gone.
func (w *localWiring) Provision(ctx context.Context, specs []backend.Spec) ([]backend.Result, error) {
	results := make([]backend.Result, len(specs))
	for i, s := range specs {
		w.mu.Lock()
		gone := w.gone[s.ID]
		w.mu.Unlock()
		if gone {
			results[i] = backend.Result{Spec: s, Err: fmt.Errorf("testenv: %s was taken away", s.ID)}
			continue
		}
		one, err := w.Provisioner.Provision(ctx, specs[i:i+1])
		if err != nil {
			return results, err
		}
		results[i] = one[0]
	}
	return results, nil
}

func find(t testing.TB, p backend.Provisioner, id string) backend.Backend {
	t.Helper()
	list, err := p.List(t.Context())
	require.NoError(t, err)
	for _, b := range list {
		if b.ID == id {
			return b
		}
	}
	t.Fatalf("no backend %s", id)
	return backend.Backend{}
}

var program struct {
	sync.Mutex
	path string
}

// Program builds the project's own program, static and once per test binary.
func Program(t testing.TB) string {
	t.Helper()
	program.Lock()
	defer program.Unlock()
	if program.path != "" {
		return program.path
	}
	dir, keep := buildDir(t)
	path := filepath.Join(dir, "quantumd")
	require.NoError(t, goBuild(path))
	if keep {
		program.path = path
	}
	return path
}

func goBuild(path string) error {
	tool := os.Getenv("GO")
	if tool == "" {
		tool = "go"
	}
	cmd := exec.Command(tool, "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "github.com/threefoldtech/quantumd/cmd/quantumd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(err, errors.New(string(out)))
	}
	return nil
}

// buildDir is beside the test binary, where `go test` removes it at the end;
// for a test binary that lies elsewhere, it is for this test only.
func buildDir(t testing.TB) (dir string, keep bool) {
	if self, err := os.Executable(); err == nil && strings.Contains(self, "go-build") {
		return filepath.Dir(self), true
	}
	return t.TempDir(), false
}
