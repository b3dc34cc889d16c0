package mount_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/engine/zdbfs/treetest"
)

// A program that lives longer than we do must not keep the mount: whoever
// touches it would wait for ever.
func TestChildrenDoNotHoldTheMount(t *testing.T) {
	start(t, treetest.New(), treetest.New())
	cmd := exec.CommandContext(t.Context(), "ls", "-l", "/proc/self/fd/")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	require.NotContains(t, string(out), "/dev/fuse")
}
