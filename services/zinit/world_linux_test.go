package zinit_test

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
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
	pause    time.Duration // of the double: how quick it is to start things again
	starts   func(w world, t *testing.T)
}

// begin starts the zinit, with what is in its folder.
func (w world) begin(t *testing.T) { t.Helper(); w.starts(w, t) }

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

// each runs a test on the double, of both generations; below TestReal on the
// real one.
func each(t *testing.T, test func(t *testing.T, start func(t *testing.T) world)) {
	eachIdle(t, func(t *testing.T, idle func(t *testing.T) world) {
		test(t, func(t *testing.T) world {
			w := idle(t)
			w.begin(t)
			return w
		})
	})
}

// eachIdle is each with a zinit that has not begun yet.
func eachIdle(t *testing.T, test func(t *testing.T, idle func(t *testing.T) world)) {
	for name, g := range generations {
		if strings.HasPrefix(t.Name(), "TestReal/"+name+"/") {
			test(t, func(t *testing.T) world {
				w := newWorld(t, g)
				w.starts = func(w world, t *testing.T) { w.beginReal(t, os.Getenv(variable(name))) }
				return w
			})
		}
		if !strings.HasPrefix(t.Name(), "TestReal/") {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, func(t *testing.T) world { return newWorld(t, g) })
			})
		}
	}
}

var generations = map[string]zinit.Generation{"Old": zinit.LineProtocol, "New": zinit.JSONRPC}

func variable(name string) string { return "ZINIT_" + strings.ToUpper(name) + "_BIN" }

// TestReal runs all that the double is tested with on real ones.
func TestReal(t *testing.T) {
	t.Parallel()
	for name := range generations {
		t.Run(name, func(t *testing.T) {
			if os.Getenv(variable(name)) == "" {
				t.Skipf("%s names no real zinit", variable(name))
			}
			for what, test := range map[string]func(t *testing.T){
				"StopDrains":       TestStopDrains,
				"StopKills":        TestStopKills,
				"StopLeavesHooks":  TestStopLeavesHooks,
				"ChangedFile":      TestChangedFile,
				"MissingProgram":   TestMissingProgram,
				"MissingTest":      TestMissingTest,
				"Blocked":          TestBlocked,
				"AfterUnknown":     TestAfterUnknown,
				"BeforeFails":      TestBeforeFails,
				"FailureIsStarted": TestFailureIsStarted,
				"WordsArrive":      TestWordsArrive,
				"Logs":             TestLogs,
				"Detect":           TestDetect,
				"DamagedFile":      TestDamagedFile,
				"Records":          TestRecords,
				"Conformance":      TestConformance,
			} {
				t.Run(what, test)
			}
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

// TestMain has many tests wait at a time: they hardly compute.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		_ = flag.Set("test.parallel", "16")
	}
	os.Exit(m.Run())
}
