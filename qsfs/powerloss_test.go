//go:build linux

package qsfs_test

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs"
)

// TestPowerLoss records every write and fsync of a running system on its
// frontend's disk, cuts the record at random moments, and starts a system on
// what a power cut could have left: everything that was fsynced before is
// there, byte for byte. 400 cuts in the long run (QUANTUMD_LONG=1), else 40.
func TestPowerLoss(t *testing.T) {
	cuts := 40
	if os.Getenv("QUANTUMD_LONG") != "" {
		cuts = 400
	}
	disk := testenv.NewDisk(t)
	env := testenv.New(t, testenv.Options{})
	type promise struct {
		name   string
		sum    [32]byte
		moment int // from here on it is durable
	}
	var promises []promise
	f := env.FrontendIn(t, t.TempDir(), qsfs.WithLayout(onDisk(disk.Path, t.TempDir())), qsfs.WithDrainTime(-1))
	start := disk.Now()
	rng := rand.New(rand.NewPCG(42, 7))
	for i := range 60 {
		name := fmt.Sprintf("d%d/f%d", rng.IntN(4), i)
		data := random(rng.Uint64(), rng.IntN(150_000))
		f.Write(t, name, data)
		promises = append(promises, promise{name, sha256.Sum256(data), disk.Now()})
		if i == 20 || i == 40 {
			f.MustSync(t)
		}
	}
	require.NoError(t, f.Stop())
	end := disk.Now()
	t.Logf("%d changes of the disk recorded", end)

	for n := range cuts {
		moment := start + rng.IntN(end-start+1)
		if n == 0 {
			moment = end
		}
		root := t.TempDir()
		disk.Cut(t, moment, rng, root)
		again := env.FrontendIn(t, t.TempDir(), qsfs.WithLayout(onDisk(root, t.TempDir())), qsfs.WithDrainTime(-1))
		for _, p := range promises {
			if p.moment > moment {
				break
			}
			data, err := testenv.ReadFile(t.Context(), again.Tree(), p.name)
			require.NoError(t, err, "cut %d at %d of %d", n, moment, end)
			require.Equal(t, p.sum, sha256.Sum256(data), "cut %d at %d of %d: %s", n, moment, end, p.name)
		}
		findings, err := again.Tree().Check(t.Context())
		require.NoError(t, err)
		for _, x := range findings {
			require.False(t, x.Damage, "cut %d at %d of %d: %+v", n, moment, end, x)
		}
		require.NoError(t, again.Stop())
	}
}

// onDisk puts the frontend on the recorded disk, and what can be rebuilt
// elsewhere.
func onDisk(root, rest string) qsfs.Layout {
	l := qsfs.LayoutBelow(rest)
	l.Root = filepath.Join(root, "frontend")
	return l
}
