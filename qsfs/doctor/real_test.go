package doctor_test

import (
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/doctor"
)

func results(r *doctor.Report, check string) []doctor.Result {
	var out []doctor.Result
	for _, one := range r.Results {
		if one.Check == check {
			out = append(out, one)
		}
	}
	return out
}

func tree(t *testing.T, dir string) []string {
	var out []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil // a file of the running system
		}
		out = append(out, path)
		return err
	}))
	return out
}

// This machine, with real zdbs and a running system: what is good is found good,
// in time, and nothing is left behind; a backend that goes away is found.
func TestRunningSystem(t *testing.T) {
	env := testenv.New(t, testenv.Options{})
	f := env.Frontend(t)
	f.Write(t, "a", []byte("a"))
	f.MustSync(t)
	before := tree(t, f.Layout().Root)

	var mu sync.Mutex
	var seen []int
	o := doctor.Options{Config: env.Config, Layout: f.Layout(), Below: true,
		Observe: func(done, total int, _ doctor.Result) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, done)
			assert.Equal(t, len(doctor.Names()), total)
		}}
	r, err := doctor.Run(t.Context(), o)
	require.NoError(t, err)
	assert.Less(t, r.Seconds, 10.0)
	assert.Len(t, seen, len(doctor.Names()))
	assert.Equal(t, before, tree(t, f.Layout().Root), "nothing is left behind")
	for _, check := range []string{"backend-answers", "backend-password", "backend-mode", "backend-space", "backend-number", "daemon", "database", "identity", "lock",
		"folder-modes", "sockets", "encryption-key", "disk-writable", "disk-rename", "checkpoint", "queue", "config"} {
		for _, one := range results(r, check) {
			assert.Equal(t, doctor.OK, one.Severity, "%+v", one)
		}
	}
	text, err := json.Marshal(r)
	require.NoError(t, err)
	assert.NotContains(t, string(text), env.Config.EncryptionKey.Reveal())
	for _, b := range env.Config.Backends {
		if b.Password != "" {
			assert.NotContains(t, string(text), b.Password.Reveal())
		}
	}

	dead := *env.Config
	dead.Backends = append(dead.Backends[:0:0], dead.Backends...)
	dead.Backends[4].Address = "127.0.0.1:1" // nobody listens there
	require.NoError(t, f.Stop())
	o.Config, o.Observe = &dead, nil
	r, err = doctor.Run(t.Context(), o)
	require.NoError(t, err)
	assert.Equal(t, doctor.Problem, r.Severity)
	list := results(r, "backend-answers")
	require.Len(t, list, 2)
	assert.Contains(t, list[0].Subject, "127.0.0.1:1")
	assert.Contains(t, list[0].Remedy, "quantumd replace data0")
	assert.Equal(t, doctor.Problem, results(r, "backend-number")[0].Severity)

	wrong := *env.Config
	wrong.Backends = append(wrong.Backends[:0:0], wrong.Backends...)
	wrong.Backends[0].Password = "another"
	wrong.Backends[5].Role, wrong.Backends[1].Role = wrong.Backends[1].Role, wrong.Backends[5].Role
	o.Config = &wrong
	r, err = doctor.Run(t.Context(), o)
	require.NoError(t, err)
	assert.Equal(t, doctor.Problem, results(r, "backend-password")[0].Severity)
	assert.Contains(t, results(r, "backend-password")[0].Cause, "does not accept the password")
	modes := 0
	for _, one := range results(r, "backend-mode") {
		if one.Severity == doctor.Problem {
			modes++
		}
	}
	assert.Equal(t, 2, modes)
}

// Before anything was made here: nothing is made, and each check says something.
func TestBareMachine(t *testing.T) {
	dir := t.TempDir()
	r, err := doctor.Run(t.Context(), doctor.Options{Layout: qsfs.LayoutBelow(filepath.Join(dir, "q")), ConfigPath: filepath.Join(dir, "q/config.yaml"), Below: true})
	require.NoError(t, err)
	assert.Less(t, r.Seconds, 10.0)
	for _, n := range doctor.Names() {
		assert.NotEmpty(t, results(r, n), n)
	}
	assert.Equal(t, []string{dir}, tree(t, dir), "nothing was made")
	n := 0
	for _, c := range r.Counts {
		n += c
	}
	assert.Len(t, r.Results, n)

	quick, err := doctor.Run(t.Context(), doctor.Options{Stage: doctor.Setup, Layout: qsfs.LayoutBelow(filepath.Join(dir, "q"))})
	require.NoError(t, err)
	assert.Empty(t, results(quick, "disk-speed"))
	assert.NotEmpty(t, results(quick, "fuse-mount"))
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	_, err := doctor.Run(ctx, doctor.Options{Layout: qsfs.LayoutBelow(t.TempDir())})
	require.ErrorIs(t, err, context.Canceled)
	assert.Less(t, time.Since(began), 3*time.Second)
}
