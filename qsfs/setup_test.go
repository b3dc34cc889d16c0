package qsfs

import (
	"database/sql"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/services/child"
	"github.com/threefoldtech/quantumd/store"
)

// A program that is older than the one that wrote the database is not installed:
// it would not start, and what runs would have been stopped for it.
func TestSetupRefusesNewerDatabase(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	cfg := config.Default()
	cfg.ZdbRootPath = filepath.Join(root, "opt/zdb")
	s := &System{cfg: cfg, layout: SystemLayout(root, cfg), log: slog.New(slog.DiscardHandler)}
	require.NoError(t, os.MkdirAll(filepath.Dir(s.layout.Database), 0o700))
	db, err := store.Open(t.Context(), s.layout.Database, store.Options{})
	require.NoError(t, err)
	require.NoError(t, db.Close())
	raw, err := sql.Open("sqlite", s.layout.Database)
	require.NoError(t, err)
	_, err = raw.ExecContext(t.Context(), `UPDATE qsfs_schema SET version = 99`)
	require.NoError(t, err)
	require.NoError(t, raw.Close())

	m, err := child.New(child.Options{Dir: t.TempDir()})
	require.NoError(t, err)
	_, err = s.Setup(t.Context(), SetupOptions{Manager: m, Root: root, Program: "/bin/true"})
	var newer *store.NewerSchemaError
	require.ErrorAs(t, err, &newer)
	require.ErrorContains(t, err, "nothing was changed")
	require.NoDirExists(t, filepath.Join(root, "usr"))
	names, err := m.Installed(t.Context())
	require.NoError(t, err)
	require.Empty(t, names)
}
