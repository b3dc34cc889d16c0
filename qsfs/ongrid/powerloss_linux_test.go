package ongrid

import (
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/internal/testenv"
)

// The power goes out after the note: whatever the disk had not been told to keep may
// be missing, and the note is there. Another process writes: SQLite maps a file, and
// one that this process serves would stop it.
func TestPowerLossAfterTheNote(t *testing.T) {
	disk := testenv.NewDisk(t)
	o := newOther(t, filepath.Join(disk.Path, "state", "grid.db"))
	rng := rand.New(rand.NewPCG(3, 5))
	for i := range uint64(10) {
		saved := o.save(i)
		after := t.TempDir()
		disk.Cut(t, disk.Now(), rng, after)
		require.Equal(t, []grid.Row{saved}, rows(t, filepath.Join(after, "state", "grid.db")), "note %d", i)
	}
}
