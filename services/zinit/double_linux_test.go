package zinit_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/services/zinit"
	"github.com/threefoldtech/quantumd/services/zinit/zinittest"
)

// newWorld gives the zinit of package zinittest, which has not begun.
func newWorld(t *testing.T, g zinit.Generation) world {
	t.Helper()
	w := world{g: g, dir: shortDir(t), pause: 200 * time.Millisecond}
	w.socket, w.services = filepath.Join(w.dir, "z.sock"), filepath.Join(w.dir, "etc")
	require.NoError(t, os.Mkdir(w.services, 0o755))
	w.starts = func(w world, t *testing.T) {
		zinittest.Start(t, zinittest.Options{Generation: w.g, Dir: w.services, Socket: w.socket, Pause: w.pause})
	}
	return w
}
