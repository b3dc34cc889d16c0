package qsfs

import (
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What a zdb reserves behind the end of a file is given back when it is closed.
func TestExternalTrims(t *testing.T) {
	t.Parallel()
	z, k := newBesideZdb(t), newKept(t)
	z.set("x")
	f, err := os.OpenFile(z.x.DataPath(0), os.O_WRONLY, 0)
	require.NoError(t, err)
	const keepSize = 1
	if err := syscall.Fallocate(int(f.Fd()), keepSize, 0, 8<<20); err != nil {
		t.Skipf("the file system reserves nothing: %v", err)
	}
	require.NoError(t, f.Close())
	st, err := os.Stat(z.x.DataPath(0))
	require.NoError(t, err)
	require.GreaterOrEqual(t, allocated(st), int64(8<<20))
	k.cut(z)
	after, err := os.Stat(z.x.DataPath(0))
	require.NoError(t, err)
	assert.Equal(t, st.Size(), after.Size())
	assert.Less(t, allocated(after), int64(1<<20))
}
