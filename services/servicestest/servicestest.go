// Package servicestest holds the tests that each service manager passes.
//
//	servicestest.Run(t, servicestest.Harness{New: …, Service: …})
package servicestest

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/services"
)

// Harness makes what the tests work with.
type Harness struct {
	// New gives a manager with nothing installed, for one test.
	New func(t *testing.T) services.ServiceManager
	// Service gives a service that is ready soon and runs until SIGTERM.
	Service func(t *testing.T, name string) services.Service
	// Double says that the manager drives a double that runs nothing: tests of what
	// programs see and do are left out. They are run with the real one.
	Double bool
}

// patience bounds each test.
const patience = 30 * time.Second

// Run runs the tests.
func Run(t *testing.T, h Harness) {
	tests := map[string]func(*testing.T, context.Context, Harness, services.ServiceManager){
		"Life":        testLife,
		"Plan":        testPlan,
		"Order":       testOrder,
		"Unknown":     testUnknown,
		"Removal":     testRemoval,
		"Idempotence": testIdempotence,
		"Invalid":     testInvalid,
		"Installed":   testInstalled,
		"Reload":      testReload,
	}
	if !h.Double {
		tests["StopExec"] = testStopExec
		tests["Killed"] = testKilled
		tests["CrashLoop"] = testCrashLoop
		tests["ReloadSignal"] = testReloadSignal
		tests["Credentials"] = testCredentials
		tests["StopUnready"] = testStopUnready
		tests["Stubborn"] = testStubborn
		tests["MissingProgram"] = testMissingProgram
		tests["Printed"] = testPrinted
		tests["Verbatim"] = testVerbatim
		tests["Followed"] = testFollowed
		tests["Changed"] = testChanged
		tests["Concurrent"] = testConcurrent
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := h.New(t) // it may wait for its turn
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			test(t, ctx, h, m)
		})
	}
}

func status(t *testing.T, ctx context.Context, m services.ServiceManager, name string) services.Status {
	t.Helper()
	list, err := m.Status(ctx, name)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, name, list[0].Name)
	return list[0]
}

func testLife(t *testing.T, ctx context.Context, h Harness, m services.ServiceManager) {
	require.Equal(t, services.Missing, status(t, ctx, m, "a").State)
	changes, err := m.Apply(ctx, []services.Service{h.Service(t, "a")})
	require.NoError(t, err)
	require.NotEmpty(t, changes)
	require.Equal(t, services.Inactive, status(t, ctx, m, "a").State, "Apply starts nothing")
	require.NoError(t, m.Start(ctx, "a"))
	require.NoError(t, m.WaitReady(ctx, "a"))
	first := status(t, ctx, m, "a")
	require.Equal(t, services.Active, first.State)
	require.NotZero(t, first.PID)
	require.False(t, first.Since.IsZero())
	require.NoError(t, m.Restart(ctx, "a"))
	require.NoError(t, m.WaitReady(ctx, "a"))
	second := status(t, ctx, m, "a")
	require.NotEqual(t, first.PID, second.PID, "another process")
	require.NoError(t, m.Logs(ctx, "a", services.LogOptions{Lines: 10}, &bytes.Buffer{}))
	require.NoError(t, m.Stop(ctx, "a"))
	last := status(t, ctx, m, "a")
	require.Equal(t, services.Inactive, last.State)
	require.Zero(t, last.PID)
	require.NoError(t, m.Remove(ctx, "a"))
	require.Equal(t, services.Missing, status(t, ctx, m, "a").State)
}

func action(list []services.Change, name string) services.Action {
	for _, c := range list {
		if c.Name == name {
			return c.Action
		}
	}
	return ""
}

func testPlan(t *testing.T, ctx context.Context, h Harness, m services.ServiceManager) {
	a, b := h.Service(t, "a"), h.Service(t, "b")
	plan, err := m.Plan(ctx, []services.Service{a})
	require.NoError(t, err)
	require.Equal(t, services.Create, action(plan, "a"))
	require.Equal(t, services.Missing, status(t, ctx, m, "a").State, "Plan changes nothing")
	done, err := m.Apply(ctx, []services.Service{a})
	require.NoError(t, err)
	require.Equal(t, plan, done)
	a.Description = "Another text"
	plan, err = m.Plan(ctx, []services.Service{a, b})
	require.NoError(t, err)
	require.Equal(t, services.Update, action(plan, "a"))
	require.Equal(t, services.Create, action(plan, "b"))
	_, err = m.Apply(ctx, []services.Service{a, b})
	require.NoError(t, err)
	plan, err = m.Plan(ctx, []services.Service{a, b})
	require.NoError(t, err)
	for _, c := range plan {
		require.Equal(t, services.Keep, c.Action, c.Name)
	}
}

func testOrder(t *testing.T, ctx context.Context, h Harness, m services.ServiceManager) {
	a, b, c := h.Service(t, "a"), h.Service(t, "b"), h.Service(t, "c")
	b.After, c.After = []string{"a"}, []string{"b"}
	_, err := m.Apply(ctx, []services.Service{c, a, b})
	require.NoError(t, err)
	require.NoError(t, m.Start(ctx, "c", "b", "a"))
	require.NoError(t, m.WaitReady(ctx, "a", "b", "c"))
	sa, sb, sc := status(t, ctx, m, "a"), status(t, ctx, m, "b"), status(t, ctx, m, "c")
	require.False(t, sb.Since.Before(sa.Since), "a is ready before b is")
	require.False(t, sc.Since.Before(sb.Since), "b is ready before c is")
	require.NoError(t, m.Stop(ctx, "a", "b", "c"))
	sa, sb, sc = status(t, ctx, m, "a"), status(t, ctx, m, "b"), status(t, ctx, m, "c")
	require.False(t, sb.Since.Before(sc.Since), "c ends before b does")
	require.False(t, sa.Since.Before(sb.Since), "b ends before a does")

	circle := h.Service(t, "a")
	circle.After = []string{"c"}
	_, err = m.Apply(ctx, []services.Service{circle, b, c})
	require.Error(t, err)
	require.NoError(t, m.Remove(ctx, "a", "b", "c"))

	// One that is added says itself where it belongs.
	first := h.Service(t, "a")
	_, err = m.Apply(ctx, []services.Service{first})
	require.NoError(t, err)
	added := h.Service(t, "b")
	added.Before = []string{"a"}
	_, err = m.Apply(ctx, []services.Service{added})
	require.NoError(t, err)
	require.NoError(t, m.Start(ctx, "a", "b"))
	require.NoError(t, m.WaitReady(ctx, "a", "b"))
	sa, sb = status(t, ctx, m, "a"), status(t, ctx, m, "b")
	require.False(t, sa.Since.Before(sb.Since), "b is ready before a is")
	require.NoError(t, m.Stop(ctx, "b", "a"))
	sa, sb = status(t, ctx, m, "a"), status(t, ctx, m, "b")
	require.False(t, sb.Since.Before(sa.Since), "a ends before b does")
	require.NoError(t, m.Remove(ctx, "a", "b"))
}

func testUnknown(t *testing.T, ctx context.Context, h Harness, m services.ServiceManager) {
	require.ErrorIs(t, m.Start(ctx, "x"), services.ErrNotFound)
	require.ErrorIs(t, m.Stop(ctx, "x"), services.ErrNotFound)
	require.ErrorIs(t, m.Restart(ctx, "x"), services.ErrNotFound)
	require.ErrorIs(t, m.WaitReady(ctx, "x"), services.ErrNotFound)
	require.ErrorIs(t, m.Logs(ctx, "x", services.LogOptions{}, &bytes.Buffer{}), services.ErrNotFound)
	require.NoError(t, m.Remove(ctx, "x"))
	for _, bad := range []string{"", "../x", "-x", "a b"} {
		require.Error(t, m.Start(ctx, bad), "%q", bad)
		require.Error(t, m.Remove(ctx, bad), "%q", bad)
		_, err := m.Status(ctx, bad)
		require.Error(t, err, "%q", bad)
	}
}

func testRemoval(t *testing.T, ctx context.Context, h Harness, m services.ServiceManager) {
	_, err := m.Apply(ctx, []services.Service{h.Service(t, "a"), h.Service(t, "b")})
	require.NoError(t, err)
	require.NoError(t, m.Start(ctx, "a", "b"))
	require.NoError(t, m.WaitReady(ctx, "a", "b"))
	require.NoError(t, m.Remove(ctx, "a"), "a running one is stopped")
	require.Equal(t, services.Missing, status(t, ctx, m, "a").State)
	require.Equal(t, services.Active, status(t, ctx, m, "b").State, "the other one runs on")
	plan, err := m.Plan(ctx, []services.Service{h.Service(t, "b")})
	require.NoError(t, err)
	require.Equal(t, services.Keep, action(plan, "b"))
	require.NoError(t, m.Remove(ctx, "b", "a"))
}

func testIdempotence(t *testing.T, ctx context.Context, h Harness, m services.ServiceManager) {
	list := []services.Service{h.Service(t, "a")}
	for range 2 {
		_, err := m.Apply(ctx, list)
		require.NoError(t, err)
	}
	require.NoError(t, m.Stop(ctx, "a"), "it does not run")
	require.NoError(t, m.Start(ctx, "a"))
	require.NoError(t, m.WaitReady(ctx, "a"))
	pid := status(t, ctx, m, "a").PID
	require.NoError(t, m.Start(ctx, "a"))
	_, err := m.Apply(ctx, list)
	require.NoError(t, err)
	require.Equal(t, pid, status(t, ctx, m, "a").PID, "the same process")
	require.NoError(t, m.Stop(ctx, "a"))
	require.NoError(t, m.Stop(ctx, "a"))
	require.NoError(t, m.Remove(ctx, "a"))
	require.NoError(t, m.Remove(ctx, "a"))
}

func testInvalid(t *testing.T, ctx context.Context, h Harness, m services.ServiceManager) {
	bad := h.Service(t, "b")
	bad.Exec = []string{"relative"}
	_, err := m.Apply(ctx, []services.Service{h.Service(t, "a"), bad})
	require.Error(t, err)
	require.Equal(t, services.Missing, status(t, ctx, m, "a").State, "all or nothing")
}

func testInstalled(t *testing.T, ctx context.Context, h Harness, m services.ServiceManager) {
	names, err := m.Installed(ctx)
	require.NoError(t, err)
	require.Empty(t, names)
	a, b := h.Service(t, "a"), h.Service(t, "b")
	a.After = []string{"b"}
	_, err = m.Apply(ctx, []services.Service{a, b})
	require.NoError(t, err)
	names, err = m.Installed(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"b", "a"}, names)
	require.NoError(t, m.Remove(ctx, "b"))
	names, err = m.Installed(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, names)
	require.NoError(t, m.Remove(ctx, "a"))
}

func testReload(t *testing.T, ctx context.Context, h Harness, m services.ServiceManager) {
	require.ErrorIs(t, m.Reload(ctx, "x"), services.ErrNotFound)
	_, err := m.Apply(ctx, []services.Service{h.Service(t, "a")})
	require.NoError(t, err)
	require.NoError(t, m.Reload(ctx, "a"), "one that does not run is left alone")
	require.NoError(t, m.Start(ctx, "a"))
	require.NoError(t, m.WaitReady(ctx, "a"))
	pid := status(t, ctx, m, "a").PID
	require.NoError(t, m.Reload(ctx, "a"), "and so is one without a signal for it")
	require.Equal(t, pid, status(t, ctx, m, "a").PID)
	require.NoError(t, m.Remove(ctx, "a"))
}
