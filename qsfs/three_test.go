package qsfs_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs"
)

// Three systems live in one process, at the same time, on one registry of
// metrics. Each writes, syncs, is lost and restored, under the same names as the
// others, and none sees anything of another.
func TestThreeInOneProcess(t *testing.T) {
	names := []string{"one", "two", "three"}
	reg := prometheus.NewPedanticRegistry()
	var begun, looked sync.WaitGroup
	begun.Add(len(names))
	looked.Add(len(names))
	var together sync.WaitGroup
	for i, name := range names {
		// Not t.Parallel, which may run fewer than three at a time.
		together.Go(func() {
			t.Run(name, func(t *testing.T) {
				reachedA, reachedB := sync.OnceFunc(begun.Done), sync.OnceFunc(looked.Done)
				t.Cleanup(reachedA) // a system that failed must not keep the others waiting
				t.Cleanup(reachedB)
				env := testenv.New(t, testenv.Options{})
				env.Config.DeploymentName = name
				files := map[string][]byte{"shared/name": random(uint64(i), 1<<20+i), "only-" + name: []byte(name)}
				first := env.Frontend(t, qsfs.WithRegisterer(reg))
				for file, data := range files {
					first.Write(t, file, data)
				}
				first.MustSync(t)
				alone(t, first, name, names, files)
				reachedA()
				begun.Wait()
				shown(t, reg, names, 1)
				reachedB()
				looked.Wait() // nobody is gone before all have looked
				require.NoError(t, first.Stop())

				dir := t.TempDir()
				report, err := env.Open(t, dir).Restore(t.Context(), qsfs.RestoreOptions{})
				require.NoError(t, err)
				assert.EqualValues(t, 2, report.Epoch)
				second := env.FrontendIn(t, dir, qsfs.WithRegisterer(reg))
				alone(t, second, name, names, files)
				second.Write(t, "after", []byte(name))
				second.MustSync(t)
				require.NoError(t, second.Stop())
				clean(t, filepath.Join(dir, "frontend"), names, name)
			})
		})
	}
	together.Wait()
	left, err := reg.Gather()
	require.NoError(t, err)
	assert.Empty(t, left, "a stopped system leaves no metrics")
}

// alone demands that a system has its files, and none of the others'.
func alone(t *testing.T, f *testenv.Frontend, name string, names []string, files map[string][]byte) {
	t.Helper()
	for file, data := range files {
		assert.True(t, bytes.Equal(data, f.Read(t, file)), file)
	}
	for _, other := range names {
		if other != name {
			_, err := testenv.ReadFile(t.Context(), f.Tree(), "only-"+other)
			assert.ErrorIs(t, err, syscall.ENOENT)
		}
	}
	st, err := f.Status(t.Context())
	require.NoError(t, err)
	assert.Zero(t, st.LossWindow.Bytes)
	require.Eventually(t, func() bool { // after its first look at them
		st, err := f.Status(t.Context())
		return err == nil && len(st.Backends) == 7
	}, 10*time.Second, 10*time.Millisecond)
}

// shown demands that each deployment has its own metrics.
func shown(t *testing.T, reg prometheus.Gatherer, names []string, epoch float64) {
	t.Helper()
	families, err := reg.Gather()
	require.NoError(t, err)
	epochs, up, sent := map[string]float64{}, map[string]int{}, map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			deployment := ""
			for _, l := range m.GetLabel() {
				if l.GetName() == "deployment" {
					deployment = l.GetValue()
				}
			}
			require.Contains(t, names, deployment, family.GetName())
			switch family.GetName() {
			case "qsfs_epoch":
				epochs[deployment] = m.GetGauge().GetValue()
			case "qsfs_backend_up":
				up[deployment]++
			case "qsfs_backend_sent_bytes_total":
				sent[deployment] = m.GetCounter().GetValue()
			}
		}
	}
	for _, name := range names {
		assert.Equal(t, epoch, epochs[name], name)
		assert.Equal(t, 7, up[name], name)
		assert.Greater(t, sent[name], float64(1<<20), name)
		assert.Less(t, sent[name], float64(3<<20), "%s sent another one's bytes", name)
	}
}

// clean demands that no other system's content is in a folder.
func clean(t *testing.T, dir string, names []string, name string) {
	t.Helper()
	files := 0
	require.NoError(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		files++
		text, err := os.ReadFile(path)
		for _, other := range names {
			if other != name {
				assert.NotContains(t, string(text), "only-"+other, path)
			}
		}
		return err
	}))
	assert.Positive(t, files)
}
