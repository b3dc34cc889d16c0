package local

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/services"
)

// What ran detached is taken over by services with what it holds; a new backend
// gets a service before the daemon's, and a retired one leaves none behind.
func TestBecomeServices(t *testing.T) {
	t.Parallel()
	ctx, dir := t.Context(), filepath.Join(t.TempDir(), "backends")
	before := open(t, dir, Command(os.Args[0], "zdb"))
	all := provision(t, before, specs()...)
	m := manager(t, filepath.Join(t.TempDir(), "services"))
	p := open(t, dir, AsServices(m, "quantumd", os.Args[0], "zdb"))
	plan, err := p.Plan(ctx, specs())
	require.NoError(t, err)
	for _, step := range plan {
		require.Equal(t, backend.Keep, step.Action, "the detached ones are seen")
	}
	state := func(id string) services.State {
		list, err := m.Status(ctx, ServiceName(id))
		require.NoError(t, err)
		return list[0].State
	}
	require.Equal(t, services.Missing, state("data0"))
	require.NoError(t, p.Stop(ctx))
	require.Equal(t, backend.Down, p.Health(ctx, all[0]).State, "and can be stopped")
	require.Equal(t, all, provision(t, p, specs()...))
	require.NotEmpty(t, provision(t, p, backend.Spec{ID: "data2", Role: backend.Data}))
	installed, err := m.Installed(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"qsfs-data0", "qsfs-data1", "qsfs-data2", "qsfs-meta0"}, installed)
	for _, id := range []string{"meta0", "data0", "data2"} {
		require.Equal(t, services.Active, state(id))
	}
	list, err := p.Services("quantumd", os.Args[0], "zdb")
	require.NoError(t, err)
	changes, err := m.Plan(ctx, list)
	require.NoError(t, err)
	for _, c := range changes {
		require.Equal(t, services.Keep, c.Action, "setup would make the same")
	}
	require.NoError(t, p.Retire(ctx, "data0"))
	require.Equal(t, services.Missing, state("data0"))
	require.NoError(t, os.Rename(filepath.Join(dir, "data2"), filepath.Join(dir, "..", "lost")))
	require.NoError(t, p.Retire(ctx, "data2"), "one that is lost with its files")
	require.Equal(t, services.Missing, state("data2"))
	require.Equal(t, services.Active, state("data1"))
}

// A zdb that ends at once is told, and not waited for.
func TestServiceThatDoesNotCome(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "backends")
	p := open(t, dir, AsServices(manager(t, filepath.Join(t.TempDir(), "services")), "quantumd", "/bin/false"))
	results, err := p.Provision(t.Context(), specs()[:1])
	require.NoError(t, err)
	var failed *services.FailedError
	require.ErrorAs(t, results[0].Err, &failed)
	require.Equal(t, ServiceName("meta0"), failed.Status.Name)
}
