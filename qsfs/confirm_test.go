package qsfs_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/store"
)

// Who stored an object may not know on how many metadata backends its record is
// (a daemon beside us tells only that it did). What counts is what they say.
func TestConfirmAsksTheMetadataBackends(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	f := env.Frontend(t)
	writeSome(t, f, "a")
	f.MustSync(t)
	obj := objectOf(t, f, rowsOf(t, f, store.KindData)[0].ObjectPath)
	obj.Degraded = true // what a look-up says of it does not matter
	got, err := qsfs.Confirm(t.Context(), f.System, obj)
	require.NoError(t, err)
	require.False(t, got.Degraded)
	require.NoError(t, raw(t, backendOf(t, env, "meta0")).Delete(t.Context(), []byte(obj.Key)))
	obj.Degraded = false
	got, err = qsfs.Confirm(t.Context(), f.System, obj)
	require.NoError(t, err)
	require.True(t, got.Degraded, "its record is on three of four: nothing local may be dropped for it")
}
