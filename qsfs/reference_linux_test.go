package qsfs_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/testenv"
)

// Thousands of pending files are uploaded by a few workers: no deadlock, no
// process, connection or thread for each.
func TestReferenceThousandsPending(t *testing.T) {
	env := testenv.New(t, testenv.Options{})
	const pending = 2000
	dir := manyFrontend(t, env, testenv.Many{Pairs: pending, Local: pending, Pending: pending})
	daemon := startProcess(t, saveConfig(t, env), dir, "-")
	defer daemon.kill(t)
	pid := daemon.cmd.Process.Pid
	var fds, threads, most int
	began := time.Now()
	require.Eventually(t, func() bool {
		if entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)); err == nil {
			fds = max(fds, len(entries))
		}
		if entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid)); err == nil {
			threads = max(threads, len(entries))
		}
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid)); err == nil {
			most = max(most, len(strings.Fields(string(b))))
		}
		st, err := daemon.client.Status(t.Context())
		return err == nil && st.Queue.Pending+st.Queue.Uploading+st.Queue.Failed == 0
	}, 2*time.Minute, 20*time.Millisecond)
	t.Log(strconv.Itoa(pending)+" files in", time.Since(began), "with at most", fds, "descriptors,", threads, "threads,", most, "child processes")
	require.Less(t, fds, 150)
	require.Less(t, threads, 64)
	require.Zero(t, most)
}
