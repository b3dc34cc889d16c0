package zinit_test

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/services"
	"github.com/threefoldtech/quantumd/services/servicestest"
	"github.com/threefoldtech/quantumd/services/zinit"
)

// world is a zinit with nothing to do yet.
type world struct {
	g        zinit.Generation
	dir      string // of the test
	services string // the service files
	socket   string
}

func (w world) manager() *zinit.Manager {
	return zinit.New(zinit.Options{Root: w.dir, Dir: w.services, Socket: w.socket})
}

// killServices ends what a test left running.
func (w world) killServices(t *testing.T) {
	m := w.manager()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	names, err := m.Installed(ctx)
	if assert.NoError(t, err) && len(names) > 0 {
		assert.NoError(t, m.Remove(ctx, names...))
	}
}

// shortDir is a folder whose sockets have paths that are not too long.
func shortDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "zinit")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// each runs a test on the double and on the real zinit, of both generations.
func each(t *testing.T, test func(t *testing.T, w func(t *testing.T) world)) {
	for name, start := range map[string]func(t *testing.T) world{
		"Old":     func(t *testing.T) world { return double(t, zinit.LineProtocol) },
		"New":     func(t *testing.T) world { return double(t, zinit.JSONRPC) },
		"RealOld": func(t *testing.T) world { return real(t, zinit.LineProtocol) },
		"RealNew": func(t *testing.T) world { return real(t, zinit.JSONRPC) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name[0] == 'R' {
				start(t) // skips as a whole
			}
			test(t, start)
		})
	}
}

func program(t *testing.T, name string) string {
	path, err := exec.LookPath(name)
	require.NoError(t, err)
	return path
}

// sleeper runs until it gets a signal.
func sleeper(t *testing.T, name string) services.Service {
	return services.Service{Name: name, Exec: []string{program(t, "sleep"), "1000"}, StopTimeout: 5 * time.Second}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, start func(t *testing.T) world) {
		servicestest.Run(t, servicestest.Harness{
			New:     func(t *testing.T) services.ServiceManager { return start(t).manager() },
			Service: sleeper,
		})
	})
}
